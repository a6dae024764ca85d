#!/bin/sh
# Prints what listens in this container: the kernel's rows of listening sockets (proc(5): state 0A), then what ss says
# of the processes that hold them, where there is an ss.
grep -hs ' 0A ' /proc/net/tcp /proc/net/tcp6 | head -n 300
echo processes
ss -Hltnp 2>/dev/null | head -n 300
exit 0
