#!/bin/busybox sh
# Xen's hot-plug script for disks, for whole block devices: tells the back end its numbers.
export PATH=/usr/lib/xen-4.17/bin:/bin LD_LIBRARY_PATH=/lib
[ "$1" = add ] || exit 0
device=$(readlink -f "$(xenstore-read "$XENBUS_PATH/params")")
xenstore-write "$XENBUS_PATH/physical-device" "$(stat -c '%t:%T' "$device")" \
    "$XENBUS_PATH/physical-device-path" "$device" "$XENBUS_PATH/hotplug-status" connected
