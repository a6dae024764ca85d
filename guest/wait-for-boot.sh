#!/bin/sh
# Comes before other programs: waits until systemd, if that is the container's init, has made /tmp and the user's
# directories ready. Gives up after a few minutes.
read -r init </proc/1/comm
if [ "$init" = systemd ]; then
    tries=0
    until case "$(systemctl is-system-running --wait 2>/dev/null)" in running | degraded) true ;; *) false ;; esac; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || break
        sleep 0.1
    done
fi
