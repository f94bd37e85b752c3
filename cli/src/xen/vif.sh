#!/bin/busybox sh
# Xen's hot-plug script for network ports: puts the port on its bridge.
export PATH=/usr/lib/xen-4.17/bin:/bin LD_LIBRARY_PATH=/lib
case $1 in
online | add)
    bridge=$(xenstore-read "$XENBUS_PATH/bridge")
    ip link set "$vif" master "$bridge"
    ip link set "$vif" up
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
    ;;
esac
exit 0
