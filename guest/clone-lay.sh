#!/bin/sh
# Lays the uncommitted changes of the host on the clone: clone-lay.sh FOLDER LENGTH FIRST
#
# The first LENGTH bytes of stdin are the paths to remove, each with a NUL after it. Folders that become empty are
# removed too: a file may have taken their place. A tar with the other changes follows. With FIRST, a message, all of it
# becomes the first commit. Prints the commit of `snapshot`.
set -eu
cd -- "$1"
length=$2 first=$3
# shellcheck disable=SC2016 # the inner shell has the paths
head -c "$length" | xargs -0 -r sh -c 'rm -f -- "$@"
    for path; do
        case $path in */*) rmdir -p -- "${path%/*}" 2>/dev/null || : ;; esac
    done' remove
tar -xf - --no-overwrite-dir
if [ -n "$first" ]; then
    git add --all
    git -c user.name=Clincus -c user.email=clincus@localhost commit --quiet --allow-empty --no-verify -m "$first"
fi
snapshot
# shellcheck disable=SC2154 # `snapshot` sets it
echo "$tip"
