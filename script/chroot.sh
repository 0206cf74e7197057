# Sourced by the scripts that run something in another Debian: makes a chroot and runs commands in it.
# shellcheck shell=bash

chroot_cache="${XDG_CACHE_HOME:-$HOME/.cache}/leash"
chroot_root=
chroot_binds=()

# The mirror that this machine itself uses.
chroot_mirror() {
  local mirror
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    sed -n -E -e 's#^URIs: *([^ ]*/debian/?) *$#\1#p' -e 's#^deb (\[[^]]*\] )?([^ ]*/debian/?) .*#\2#p' |
    head -n 1)
  [ -n "$mirror" ] || die "no Debian mirror in the apt sources of this machine"
  say "$mirror"
}

# `chroot_missing SUITE`: says why no chroot of it can be made here, and nothing if one can.
chroot_missing() {
  local mirror
  if [ "$(id -u)" != 0 ]; then
    say "not root"
  elif ! command -v debootstrap >/dev/null; then
    say "debootstrap is not installed"
  elif ! mirror=$(chroot_mirror 2>/dev/null); then
    say "the apt sources have no Debian mirror"
  elif ! wget -q -t 1 -T 20 -O /dev/null "$mirror/dists/$1/InRelease"; then
    say "the Debian mirror does not answer"
  fi
}

# `chroot_make SUITE PACKAGES`: sets chroot_root to a chroot with these packages, made the first time.
chroot_make() {
  local suite=$1 packages=$2
  [ "$(id -u)" = 0 ] || die "run this as root: it makes a chroot"
  chroot_root="$chroot_cache/$suite-$(cksum <<<"$packages" | cut -d ' ' -f 1)"
  [ ! -d "$chroot_root" ] || return 0
  command -v debootstrap >/dev/null || die "debootstrap is not installed: apt-get install debootstrap"
  local new="$chroot_root.new" mirror
  mirror=$(chroot_mirror)
  say "making a chroot of Debian $suite"
  mkdir -p "$chroot_cache"
  rm -rf "$new"
  debootstrap --variant=minbase --include="$packages" "$suite" "$new" "$mirror" >"$new.log" 2>&1 ||
    die "debootstrap failed: $(tail -n 3 "$new.log")"
  # debootstrap leaves no /etc/hosts, and every machine has one.
  say "127.0.0.1 localhost" >"$new/etc/hosts"
  # Renamed when it is whole: an interrupted one must not be taken for a chroot.
  mv "$new" "$chroot_root"
}

# From here on a copy that goes when the script ends: nothing installed in it is there the next time.
chroot_copy() {
  local copy="$chroot_root.$$"
  # Nothing is ever mounted below it here, outside chroot_run's namespace, where this is removed.
  trap 'rm -rf "$chroot_root"' EXIT
  local source=$chroot_root
  chroot_root=$copy
  cp -a "$source" "$copy"
}

# `chroot_bind SOURCE TARGET`: for the commands run from here on.
chroot_bind() {
  chroot_binds+=("$1" "$2")
}

# Rust as it is installed here.
chroot_bind_rust() {
  local cargo="${CARGO_HOME:-$HOME/.cargo}" rustup="${RUSTUP_HOME:-$HOME/.rustup}"
  if [ ! -d "$cargo" ] || [ ! -d "$rustup" ]; then
    die "Rust is not installed by rustup here: run script/setup"
  fi
  chroot_bind "$cargo" /root/.cargo
  chroot_bind "$rustup" /root/.rustup
  # A registry may be reached through an authority that only this machine trusts.
  if [ -d /etc/ssl/certs ]; then
    chroot_bind /etc/ssl/certs /etc/ssl/certs
  fi
}

# `chroot_run COMMAND…`, in /leash. The mounts are in a namespace of their own: whatever ends this script,
# the kernel takes them away.
chroot_run() {
  # shellcheck disable=SC2016 # the inner shell expands it
  unshare --mount --propagation private bash -euc '
    root=$1
    shift
    # A mount point of its own, or the tests cannot make mount namespaces inside (unshare(1) remounts /).
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    while [ "$1" != -- ]; do
      mkdir -p "$root$2"
      mount --bind "$1" "$root$2"
      shift 2
    done
    shift
    cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
    exec chroot "$root" env -i HOME=/root TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 \
      PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      sh -c "cd /leash && exec \"\$@\"" sh "$@"
  ' bash "$chroot_root" "${chroot_binds[@]}" -- "$@"
}
