#!/bin/sh
# busybox udhcpc calls it with an event; the address and the servers are in its environment.
# shellcheck disable=SC2154 # udhcpc sets them
case "$1" in
bound | renew)
  ip addr replace "$ip/${mask:-24}" dev "$interface"
  [ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface"
  {
    for server in $dns; do echo "nameserver $server"; done
    [ -z "$domain" ] || echo "search $domain"
  } >/etc/resolv.conf
  ;;
deconfig) ip addr flush dev "$interface" ;;
esac
exit 0
