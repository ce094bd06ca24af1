#!/bin/bash
# The first process of the quick lab's kernel (boot.py). Runs the command in $quick_directory/command, and switches off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/home TMPDIR=/run/tmp LC_ALL=C.UTF-8
export DM_DISABLE_UDEV=1 LVM_SYSTEM_DIR=/run/lvm-system PYTHONDONTWRITEBYTECODE=1
export TRINITY_SNAP_QUICK_LAB=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/home /run/tmp /run/quick /run/lock/lvm /run/lvm-system /run/modules/lib/modules /dev/shm
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t hostfs -o "$quick_directory" none /run/quick
ip link set lo up 2>/dev/null

# The machine's /lib/modules stays as it is: modprobe, also the kernel's own calls of it, looks here.
ln -s "/usr/lib/uml/modules/$(uname -r)" /run/modules/lib/modules/
printf '#!/bin/sh\nexec /sbin/modprobe -d /run/modules "$@"\n' >/run/modules/modprobe
chmod 755 /run/modules/modprobe
echo /run/modules/modprobe >/proc/sys/kernel/modprobe
for module in dm-snapshot dm-thin-pool dm-flakey dm-log-writes loop fuse; do /run/modules/modprobe "$module"; done

cat >/run/lvm-system/lvm.conf <<'CONF'
devices { use_devicesfile = 0 filter = [ "a|^/dev/ubd|", "a|^/dev/loop|", "r|.*|" ] }
activation { udev_sync = 0 udev_rules = 0 verify_udev_operations = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
CONF

cd "$quick_checkout" || exit 1
mapfile -d '' command <"$quick_directory/command"
"${command[@]}" >/run/quick/output 2>&1 </dev/null
code=$?
sync
echo "$code" >/run/quick/status
echo o >/proc/sysrq-trigger
sleep 60
