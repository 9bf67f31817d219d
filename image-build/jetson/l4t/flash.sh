#!/bin/bash
# flash.sh DEVKIT [--print]: NVIDIA's l4t_initrd_flash.sh with A/B on. A/B can't be turned on later, and both slots are filled.
# The board is in recovery mode, on USB, and loses everything on its NVMe disk.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. triaged/board.env    # SOC, DEVKITS: NAME=QSPI-LAYOUT, the layout may be empty

devkit=${1:-} qspi='' found='' names=''
for known in $DEVKITS; do
  names="$names ${known%%=*}"
  if [ "${known%%=*}" = "$devkit" ]; then qspi=${known#*=} found=1; fi
done
if [ -z "$found" ]; then echo "flash.sh: DEVKIT is one of:$names" >&2; exit 1; fi

command=(./tools/kernel_flash/l4t_initrd_flash.sh --external-device nvme0n1p1
  -c "./tools/kernel_flash/flash_l4t_${SOC}_nvme_rootfs_ab_triaged.xml" -S 12GiB --showlogs --network usb0)
# As in NVIDIA's Quick Start: a devkit without eMMC gets the boot flash's layout and "internal".
if [ -n "$qspi" ]; then command+=(-p "-c $qspi" "$devkit" internal); else command+=("$devkit" external); fi
echo "ROOTFS_AB=1 ROOTFS_RETRY_COUNT_MAX=3 ${command[*]@Q}"
[ "${2:-}" = --print ] || ROOTFS_AB=1 ROOTFS_RETRY_COUNT_MAX=3 exec "${command[@]}"
