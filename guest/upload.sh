#!/bin/sh
# Keeps a file that a person gives to the tool: upload.sh FOLDER NAME SIZE ROOM
#
# The SIZE bytes of stdin become NAME in FOLDER of the home, which is made if need be. All files there may take ROOM
# bytes together: the oldest ones go. Exit code 47: NAME exists. 48: the file arrived incomplete.
folder=$1 name=$2 size=$3 room=$4
umask 077
cd && mkdir -p -- "$folder" && cd -- "$folder" || exit 1
new=$(mktemp ./.new-XXXXXXXX) || exit 1
trap 'rm -f -- "$new"' EXIT
trap 'exit 1' HUP INT TERM
head -c "$size" >"$new" || exit 1
[ "$(stat -c %s -- "$new")" = "$size" ] || exit 48
ln -- "$new" "$name" 2>/dev/null || exit 47
# Files whose name has a line break are not ours.
LC_ALL=C find . -maxdepth 1 -type f ! -name '*[[:cntrl:]]*' ! -name '.new-*' -printf '%T@ %s %P\n' | sort -rn |
    while read -r _ bytes file; do
        room=$((room - bytes))
        [ "$room" -ge 0 ] || rm -f -- "$file"
    done
