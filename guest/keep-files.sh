#!/bin/sh
# Sends files as a tar: keep-files.sh FOLDER LENGTH. Runs as root.
#
# The first LENGTH bytes of stdin are the paths, relative to FOLDER, with a NUL after each. A missing file is left out,
# and one that changes meanwhile is sent as it is.
cd -- "$1" || exit 1
list=$(mktemp) || exit 1
trap 'rm -f -- "$list"' EXIT
# shellcheck disable=SC2016 # the inner shell has the paths
head -c "$2" | xargs -0 -r sh -c 'for path; do
    if [ -e "$path" ] || [ -L "$path" ]; then printf "%s\0" "$path"; fi
done' files >"$list"
tar --null --files-from="$list" --create --file=- || [ "$?" = 1 ]
