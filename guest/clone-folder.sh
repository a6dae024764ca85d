#!/bin/sh
# Makes the empty folder of a clone: clone-folder.sh FOLDER UID. Runs as root.
mkdir -p -- "$1" && [ -z "$(ls -A -- "$1")" ] || { echo "the image has files in $1, where the clone goes" >&2; exit 1; }
chown "$2:$2" -- "$1"
