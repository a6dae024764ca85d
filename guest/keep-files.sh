#!/bin/sh
# Sends files as a tar: keep-files.sh FOLDER LENGTH. Runs as root.
#
# The first LENGTH bytes of stdin are the paths, relative to FOLDER, with a NUL after each. A missing file is left out,
# and one that changes meanwhile is sent as it is.
cd -- "$1" || exit 1
# A full disk must not make the list shorter: /dev/shm is memory.
notes=$(mktemp -d -p /dev/shm 2>/dev/null) || notes=$(mktemp -d) || exit 1
trap 'rm -rf -- "$notes"' EXIT
head -c "$2" >"$notes/asked"
[ "$(wc -c <"$notes/asked")" = "$2" ] || { echo "the list of files broke off" >&2; exit 1; }
# shellcheck disable=SC2016 # the inner shell has the paths
xargs -0 -r sh -c 'for path; do
    if [ -e "$path" ] || [ -L "$path" ]; then printf "%s\0" "$path" || exit 255; fi
done' files <"$notes/asked" >"$notes/there" || { echo "the list of files cannot be written" >&2; exit 1; }
tar --null --files-from="$notes/there" --create --file=- || [ "$?" = 1 ]
