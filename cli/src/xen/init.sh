#!/bin/busybox sh
# Process 1 of dom0 on real Xen: the store, the console daemon and the toolstack of Xen's own packages; then the domains that the host
# has laid down in the shared folder. What happens is told there, one event a line, in `events`.
/bin/busybox --install -s /bin
export PATH=/usr/lib/xen-4.17/bin:/bin LD_LIBRARY_PATH=/lib HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
ln -s /run /var/run
mkdir -p /run/xen /run/xenstored /run/lock /run/xen-lock
ln -s /run/lock /var/lock
for module in /modules/*; do insmod "$module" || echo "cannot load $module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072,cache=none share /share
cd /share
tell() { echo "$*" >>/share/events; }
give_up() { tell "failed $*"; sync; poweroff -f; }
exec >>/share/dom0.log 2>&1
set -x
mount -t xenfs xenfs /proc/xen || give_up "dom0's kernel does not run on Xen"
for disk in /sys/block/vd*; do
    [ -e "$disk/serial" ] && ln -s "/dev/${disk##*/}" "/dev/disk-$(cat "$disk/serial")"
done
ip link set lo up
for bridge in $(cat bridges 2>/dev/null); do
    brctl addbr "$bridge"
    brctl setfd "$bridge" 0
    ip link set "$bridge" up
done
for card in /sys/class/net/eth*; do
    [ -e "$card" ] || continue
    ip link set "${card##*/}" up
    ip link set "${card##*/}" master "$(head -n 1 bridges)"
done

xenstored --pid-file=/run/xen/xenstored.pid || give_up "xenstored does not start"
tries=0
until xenstore-read / >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || give_up "xenstored does not answer"
    sleep 0.1
done
xen-init-dom0 || give_up "xen-init-dom0 fails"
xenconsoled --log=guest --log-dir=/share --pid-file=/run/xen/xenconsoled.pid || give_up "xenconsoled does not start"
tell "ready $(cut -d' ' -f1 /proc/uptime)"

# Runs one domain to its end; in the foreground, xl stays with it and says how it ended.
run() {
    name=$1
    tell "create $name"
    xl create -F "/share/$name.cfg" >"/share/$name.xl.log" 2>&1
    domid=$(sed -n 's/.*(domid \([0-9]*\)).*/\1/p' "/share/$name.xl.log" | tail -n 1)
    reason=$(sed -n 's/.*has shut down, reason code \([0-9]*\).*/\1/p' "/share/$name.xl.log" | tail -n 1)
    if [ -n "$reason" ]; then
        tell "ended $name $reason $domid"
    elif grep -q 'has been destroyed' "/share/$name.xl.log"; then
        tell "ended $name destroyed $domid"
    else
        tell "refused $name $(grep -v '^Parsing' "/share/$name.xl.log" | head -n 1)"
    fi
}
if [ -e sequence ]; then
    for name in $(cat domains); do run "$name"; done
else
    for name in $(cat domains); do run "$name" & done
    wait
fi
# What is left when all have ended, for whoever wants to compare.
xenstore-ls -f >/share/store.end 2>&1
xl dmesg >/share/xen.dmesg 2>&1
tell "done"
sync
poweroff -f
