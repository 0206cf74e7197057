# Sourced by script/kernels: the root file system with systemd, and the disk image that all kernels boot.
# shellcheck shell=bash

# Erlang, Elixir and C library in the guest have to be those of the machine that builds.
image_suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
image_packages=systemd,systemd-sysv,dbus,libpam-systemd,udev,kmod,login,passwd,sudo,cron,at,procps,util-linux,tini
image_packages+=,elixir,erlang-base,erlang-crypto,python3,nfs-kernel-server,nfs-common,iproute2

# They would start work of their own in the middle of a trial.
image_masked=(getty@tty1.service serial-getty@ttyS0.service getty.target systemd-timesyncd.service apt-daily.timer
  apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer fstrim.timer logrotate.timer man-db.timer
  systemd-firstboot.service systemd-networkd.service nfs-server.service nfs-blkmap.service rpcbind.socket)

# Sets `image`.
make_image() {
  # In a shell of its own, because a mirror that cannot be reached ends that shell.
  (chroot_make "$image_suite" "$image_packages") || leave_out "no root file system of Debian $image_suite"
  chroot_make "$image_suite" "$image_packages"
  local guest=$kernels_dir/guest
  image=$chroot_root-$(cat "$guest/trial.service" "$guest/start" "$kernels_dir/image.sh" | cksum | cut -d ' ' -f 1).ext4
  [ ! -f "$image" ] || return 0
  local etc=$chroot_root/etc/systemd/system unit
  rm -rf "$chroot_root"/var/cache/apt/archives/*.deb "$chroot_root"/usr/share/{doc,man,locale}/* \
    "$chroot_root"/var/lib/apt/lists/*
  say trial >"$chroot_root/etc/hostname"
  say "127.0.0.1 localhost trial" >"$chroot_root/etc/hosts"
  : >"$chroot_root/etc/fstab"
  say 0123456789abcdef0123456789abcdef >"$chroot_root/etc/machine-id"
  for unit in "${image_masked[@]}"; do
    ln -sfn /dev/null "$etc/$unit"
  done
  ln -sfn /lib/systemd/system/multi-user.target "$etc/default.target"
  mkdir -p "$etc/multi-user.target.wants"
  cp "$guest/trial.service" "$etc/"
  ln -sfn ../trial.service "$etc/multi-user.target.wants/trial.service"
  install -m 755 "$guest/start" "$chroot_root/usr/local/sbin/trial"
  rm -f "$image.new"
  truncate -s 2G "$image.new"
  # Features that came after 5.10 cannot be mounted there.
  mke2fs -q -t ext4 -O ^metadata_csum,^orphan_file -d "$chroot_root" "$image.new" 2>/dev/null ||
    mke2fs -q -t ext4 -d "$chroot_root" "$image.new"
  # Renamed when it is whole: an interrupted one must not be taken for an image.
  mv "$image.new" "$image"
}
