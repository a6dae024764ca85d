#!/bin/sh
# Comes before other programs: waits until the way to the session's proxy works, at 127.0.0.1:3128. Incus adds it beside
# the start. Gives up after half a minute.
tries=0
# A socket of the table listens in state 0A (proc_net_tcp.rst). Nothing else can be at that port of a new container, and
# one that a program of the container holds fails the start: Incus cannot take it.
until grep -q '^ *[0-9]*: \(0100007F\|7F000001\):0C38 00000000:0000 0A ' /proc/net/tcp; do
    tries=$((tries + 1))
    [ "$tries" -lt 1500 ] || { echo "the way to the session's proxy did not come" >&2; exit 1; }
    sleep 0.02
done
