#!/bin/busybox sh
# What udhcpc runs when a lease changes.
PATH=/usr/bin:/sbin:/bin
case $1 in
deconfig)
    ip address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip address flush dev "$interface"
    ip address add "$ip/${mask:-24}" dev "$interface"
    for address in $router; do ip route replace default via "$address" dev "$interface"; done
    for address in $dns; do echo "nameserver $address"; done >/run/resolv.conf
    ;;
esac
