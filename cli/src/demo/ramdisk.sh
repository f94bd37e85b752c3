#!/bin/busybox sh
# Process 1 of the RAM disk: drivers first, then the root file system.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
words=$(cat /proc/cmdline)
for module in /modules/*; do
    # A word such as libata.dma=0 is an option of that module, as modprobe has it.
    name=${module#/modules/*-}
    name=${name%%.*}
    options=
    for word in $words; do
        case $word in "$name".*) options="$options ${word#*.}" ;; esac
    done
    insmod "$module" $options || echo "cannot load $module"
done

root=/dev/xvda
for word in $words; do
    case $word in root=*) root=${word#root=} ;; esac
done
tries=0
while [ ! -b "$root" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
if ! mount -t ext4 "$root" /root; then
    echo "no root file system on $root; this is a shell of the RAM disk"
    setsid cttyhack sh
    poweroff -f
fi
for folder in proc sys dev; do mount --move /$folder /root/$folder; done
exec switch_root /root /sbin/init
