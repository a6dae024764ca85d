#!/bin/sh
# Brings up the network cards that a running container has just got, and asks for an address where guest/image/init.sh
# would have. An image with an init of its own does so by itself. Runs as root.
for card in /sys/class/net/*; do
    card=${card##*/}
    [ "$card" != lo ] && [ -x /usr/local/sbin/clincus-dhcp ] || continue
    ip link set "$card" up
    busybox udhcpc -i "$card" -b -S -t 5 -T 1 -A 2 -s /usr/local/sbin/clincus-dhcp </dev/null >/dev/null 2>&1 &
done
