#!/bin/sh
# Process 1 of a container, instead of systemd: it starts in 20 ms instead of half a second, takes 1 MB instead of 75,
# and boots on every host (systemd 258 and newer refuses cgroup v1). It reaps orphans, brings the network up, and halts
# on the signal of Incus: SIGPWR, or SIGRTMIN+3 if Incus takes the image for one with systemd.
# An image that needs systemd installs systemd-sysv, whose /sbin/init takes the place of this one.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
halt() {
  trap '' PWR TERM INT HUP
  kill -TERM -1 2>/dev/null
  tries=0
  while [ $tries -lt 20 ]; do
    set -- /proc/[0-9]*
    [ $# -le 1 ] && break
    sleep 0.05
    tries=$((tries + 1))
  done
  exit 0
}
trap halt PWR TERM INT
# shellcheck disable=SC3048,SC3050,SC2173 # dash has no such signal, and the subshell finds that out
(trap : RTMIN+3) 2>/dev/null && trap halt RTMIN+3
if ! grep -q ' /dev/shm ' /proc/mounts; then
  mkdir -p /dev/shm
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm 2>/dev/null || chmod 1777 /dev/shm
fi
mkdir -p /run/lock
chmod 1777 /run/lock
# sudo looks up its own host name, and would wait for DNS.
printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n' "$(hostname)" >/etc/hosts
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  ip link set eth0 up
  busybox udhcpc -i eth0 -b -S -t 5 -T 1 -A 2 -s /usr/local/sbin/clincus-dhcp >/dev/null 2>&1 &
fi
while :; do
  sleep 2147483647 &
  wait $!
done
