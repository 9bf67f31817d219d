#!/bin/bash
# prepare.sh: the box's own files into Linux_for_Tegra, NVIDIA's BSP. Run there as root, on Ubuntu, once, after NVIDIA's
# tools/samplefs/nv_build_samplefs.sh, the unpacking of its rootfs and apply_binaries.sh. Needs qemu-user-static and a network
# (Ubuntu's packages) on this computer; the box needs neither.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "prepare.sh: $*" >&2; exit 1; }

here=triaged
board=$(cat "$here/rootfs/usr/lib/triaged/board")
# shellcheck source=/dev/null
. "$here/board.env"    # L4T, SOC, VERSION

[ "$(id -u)" = 0 ] || die "must be root"
[ -d tools/kernel_flash ] || die "$PWD is not NVIDIA's Linux_for_Tegra"
[ -s rootfs/etc/nv_tegra_release ] || die "rootfs/ is empty or without NVIDIA's files: run apply_binaries.sh first"
grep -q "^# $L4T " rootfs/etc/nv_tegra_release || die "$board needs L4T $L4T; rootfs/ has: $(head -1 rootfs/etc/nv_tegra_release)"

# What the units call, and the minimal sample rootfs lacks.
mount --bind /dev rootfs/dev
trap 'umount rootfs/dev' EXIT
cp -L /etc/resolv.conf rootfs/etc/resolv.conf.triaged
mv rootfs/etc/resolv.conf rootfs/etc/resolv.conf.own 2>/dev/null || true
mv rootfs/etc/resolv.conf.triaged rootfs/etc/resolv.conf
chroot rootfs apt-get update
DEBIAN_FRONTEND=noninteractive chroot rootfs apt-get install -y --no-install-recommends nftables dbus e2fsprogs dosfstools \
  libcurl3-gnutls libfdisk1 libglib2.0-0
# Where the overlay brings none of its own.
if [ ! -e "$here/rootfs/usr/bin/rauc" ]; then DEBIAN_FRONTEND=noninteractive chroot rootfs apt-get install -y --no-install-recommends rauc rauc-service; fi
rm rootfs/etc/resolv.conf
mv rootfs/etc/resolv.conf.own rootfs/etc/resolv.conf 2>/dev/null || true

cp -a "$here/rootfs/." rootfs/
# Ours disables all that it does not name, which is right where the rest is ours, too.
sed -i '/^disable \*/d' rootfs/usr/lib/systemd/system-preset/00-triaged.preset
chroot rootfs systemd-sysusers
# The same units as on the other boards; NVIDIA's stay as they are.
sed -n 's/^enable //p' rootfs/usr/lib/systemd/system-preset/00-triaged.preset | xargs chroot rootfs systemctl enable --quiet
[ -x rootfs/usr/bin/rauc ] || die "rootfs has no RAUC: see boards/$board.md"

# No login over the network, no desktop, no set-up wizard; who works at the box uses the serial console of NVIDIA's recovery.
for unit in ssh.service ssh.socket nv-oem-config.target gdm.service NetworkManager.service unattended-upgrades.service apt-daily.timer \
  apt-daily-upgrade.timer avahi-daemon.service bluetooth.service nvgetty.service; do
  ln -sf /dev/null "rootfs/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target rootfs/etc/systemd/system/default.target
: >rootfs/etc/machine-id
sed -i '/^IMAGE_/d' rootfs/usr/lib/os-release
printf 'IMAGE_ID=triaged\nIMAGE_VERSION=%s\n' "$VERSION" >>rootfs/usr/lib/os-release
# A kernel that panics or hangs must start again, or it is never given up.
grep -q 'panic=10' rootfs/boot/extlinux/extlinux.conf || sed -i '/^ *APPEND /s/$/ panic=10/' rootfs/boot/extlinux/extlinux.conf

# The data partition, last on the disk: what is left of it. NVIDIA keeps UDA for itself.
from=tools/kernel_flash/flash_l4t_${SOC}_nvme_rootfs_ab.xml
to=tools/kernel_flash/flash_l4t_${SOC}_nvme_rootfs_ab_triaged.xml
[ -f "$from" ] || die "$from is missing in this BSP"
bash "$here/layout.sh" <"$from" >"$to"
echo "ready: $here/flash.sh DEVKIT"
