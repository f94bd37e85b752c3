#!/bin/busybox sh
# Process 1 of the Linux domain: shows what works, then offers a shell; with trunnion.demo=1 on the command line it powers off instead.
export PATH=/usr/bin:/sbin:/bin HOME=/root TERM=${TERM:-vt100} LD_LIBRARY_PATH=/lib
mount -t tmpfs run /run
hostname -F /etc/hostname

echo
echo "The root is up, seconds since the kernel began: $(cat /proc/uptime)"
echo "Debian $(uname -r) on Trunnion, $(grep -c ^processor /proc/cpuinfo) processor(s), $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB"
boots=$(($(cat /root/boots 2>/dev/null || echo 0) + 1))
echo $boots >/root/boots && sync
echo "disk:    $(df -m / | awk 'END { print $1 ": " $2 " MiB, " $4 " MiB free" }'); boot number $boots of this file system"
echo "console: $(cat /sys/class/tty/console/active)"
echo "time:    $(date -u '+%Y-%m-%d %H:%M:%S') UTC, clock source $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "store:   domain $(xenstore-read domid), name $(xenstore-read name), disk state $(xenstore-read device/vbd/51712/state)"
if [ -e /sys/class/net/eth0 ]; then
    ip link set lo up
    udhcpc -q -n -t 5 -T 1 -i eth0 -s /sbin/lease >/run/udhcpc.log 2>&1
    echo "network: eth0 $(cat /sys/class/net/eth0/address) has $(ip -4 -o address show dev eth0 | awk '{ print $4 }')"
fi
echo

# trunnion.script=DISK: a shell script that fills a raw disk from its first byte, padded with zeroes; then power-off.
script=
for word in $(cat /proc/cmdline); do
    case $word in trunnion.script=*) script=${word#*=} ;; esac
done
if [ -n "$script" ]; then
    tr -d '\000' <"$script" >/run/script
    sh /run/script
    exec /sbin/poweroff
fi

case " $(cat /proc/cmdline) " in
*" trunnion.demo=1 "*) ;;
*)
    echo "This is a shell. Try: xenstore-ls; dd if=/dev/xvda of=/dev/null bs=1M; dmesg | grep -i xen; poweroff"
    # busybox's own process 1 gives the shell a terminal of its own, with Ctrl-C, and takes `poweroff` and `reboot`, which are
    # signals to it. When the shell ends, so does the domain.
    shell="trap : INT; sh -l; exec /sbin/poweroff"
    echo "$(cat /sys/class/tty/console/active)::once:/bin/sh -c '$shell'" >/etc/inittab
    echo "::shutdown:/bin/mount -o remount,ro /" >>/etc/inittab
    exec busybox init
    ;;
esac
# With its path: the shell's own `poweroff` would only send a signal to this very process.
exec /sbin/poweroff
