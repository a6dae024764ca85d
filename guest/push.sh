#!/bin/sh
# Takes in a file or a folder. Arguments: the path, its owner as UID:GID, its mode, and the size of a file or `tree`.
# A missing folder on the way is made for that owner.
path=$1 owner=$2 mode=$3 size=$4
make() { [ -d "$1" ] || { make "$(dirname -- "$1")" && mkdir -- "$1" && chown "$owner" -- "$1"; }; }
if [ "$size" = tree ]; then
    [ -d "$path" ] || { make "$path" && chmod "$mode" "$path"; } || exit 3
    cd -- "$path" && exec tar -xpf -
fi
folder=$(dirname -- "$path")
make "$folder" && new=$(mktemp "$folder/.clincus-XXXXXX") || exit 3
# A file that arrives incomplete does not replace a complete one.
cat >"$new" && [ "$(stat -c %s -- "$new")" = "$size" ] && chown "$owner" "$new" && chmod "$mode" "$new" &&
    mv -fT "$new" "$path" && exit 0
code=$?
rm -f -- "$new"
exit "$code"
