# Sourced by script/kernels: Debian's kernels, each with an initramfs that mounts the image.
# shellcheck shell=bash

every_kernel=(5.10 6.1 6.12 newest)

# The Debian that has a kernel; nothing for what is no kernel's name.
suite_of() {
  case $1 in
    5.10) say bullseye ;;
    6.1) say bookworm ;;
    6.12) say trixie ;;
    newest) say sid ;;
  esac
}

# Other ways of making it make another one.
kernel_dir() {
  say "$chroot_cache/kernels/$1-$(cat "$kernels_dir/kernel.sh" "$kernels_dir/guest/init" | cksum | cut -d ' ' -f 1)"
}

# The version of the package and of the kernel in it.
kernel_version() { cat "$(kernel_dir "$1")/version"; }

# `kernel_apt SUITE TOOL ARGUMENTS`: of another Debian than this machine's, with lists of its own.
kernel_apt() {
  local suite=$1 tool=$2 lists
  lists=$chroot_cache/kernels/apt/$1
  shift 2
  mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$lists/empty"
  say "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(chroot_mirror) $suite main" >"$lists/sources"
  "$tool" -qq -o Dir::State::Lists="$lists/lists" -o Dir::Cache="$lists/cache" -o Dir::Etc::SourceList="$lists/sources" \
    -o Dir::Etc::SourceParts="$lists/empty" -o Dir::Etc::PreferencesParts="$lists/empty" -o APT::Sandbox::User=root \
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# Makes a kernel the first time. Fails where it cannot be had, and kernel_log says why.
make_kernel() {
  local kernel=$1 dir suite
  dir=$(kernel_dir "$kernel")
  kernel_log=$dir.log
  [ ! -f "$dir/version" ] || return 0
  suite=$(suite_of "$kernel")
  rm -rf "$dir.new"
  mkdir -p "$dir.new"
  if (set -e && fetch_kernel "$suite" "$dir.new" && make_initramfs "$dir.new") >"$kernel_log" 2>&1; then
    rm -rf "$dir"
    mv "$dir.new" "$dir"
  else
    return 1
  fi
}

# The metapackage of a Debian depends on the newest kernel. Since 7.x its files are in three packages.
fetch_kernel() {
  local suite=$1 dir=$2 package version part deb
  kernel_apt "$suite" apt-get update
  package=$(kernel_apt "$suite" apt-cache depends linux-image-cloud-amd64 |
    sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1)
  if [ -z "$package" ]; then
    say "no linux-image-cloud-amd64"
    return 1
  fi
  version=${package#linux-image-}
  (cd "$dir" && kernel_apt "$suite" apt-get download "$package")
  for part in binary modules; do
    if kernel_apt "$suite" apt-cache depends "$package" | grep -q "linux-$part-"; then
      (cd "$dir" && kernel_apt "$suite" apt-get download "linux-$part-$version")
    fi
  done
  for deb in "$dir"/*.deb; do
    dpkg-deb -x "$deb" "$dir/root"
  done
  say "$version ($(dpkg-deb -f "$(echo "$dir"/linux-image-*.deb)" Version))" >"$dir/version"
  rm -f "$dir"/*.deb
  cp "$(find "$dir/root" -name 'vmlinuz*' | head -n 1)" "$dir/vmlinuz"
}

# Busybox and the modules that mount the image. Those of network file systems come on the second disk.
make_initramfs() {
  local dir=$1 tree=$1/initramfs
  mkdir -p "$tree"/{bin,proc,root,dev}
  cp "$(command -v busybox)" "$tree/bin/busybox"
  install -m 755 "$kernels_dir/guest/init" "$tree/init"
  unpack_modules "$dir" "$tree/modules" virtio_pci virtio_blk crc32c_generic ext4 virtio_rng autofs4
  unpack_modules "$dir" "$dir/modules" nfsd nfsv3 nfsv4
  (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initramfs.gz"
  rm -rf "$tree" "$dir/root"
}

# `unpack_modules DIR TO MODULE…`: these and what they need, and `order`, the order in which they load.
unpack_modules() {
  local base=$1/root to=$2 version module file name
  shift 2
  [ -d "$base/lib/modules" ] || base=$base/usr
  version=$(ls "$base/lib/modules")
  kmod_as depmod -b "$base" "$version"
  mkdir -p "$to"
  for module in "$@"; do
    # Fails for what is built in, which needs no file.
    kmod_as modprobe -d "$base" -S "$version" --show-depends "$module" 2>/dev/null || true
  done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$to/paths"
  while read -r file; do
    name=$(basename "$file")
    name=${name%.xz}
    case $file in
      *.xz) xz -dc "$file" ;;
      *) cat "$file" ;;
    esac >"$to/$name"
    say "$name"
  done <"$to/paths" >"$to/order"
  rm "$to/paths"
}

# kmod of the root file system, under one of its names: a machine without modules of its own has none.
kmod_as() {
  local name=$1 root=$chroot_root libraries
  shift
  libraries=$(dirname "$(find "$root/usr/lib" "$root/lib" -name 'libkmod.so.2' | head -n 1)")
  "$(find "$root/lib64/" -name 'ld-linux*' | head -n 1)" --library-path "$libraries" --argv0 "$name" "$root/usr/bin/kmod" "$@"
}
