#!/bin/sh
# Prints the given commits that the clone has: clone-known.sh FOLDER COMMIT...
cd -- "$1" && shift || exit 1
timeout 20 git rev-parse --git-dir >/dev/null || exit 1
for commit in "$@"; do
    ! git rev-parse --quiet --verify "$commit^{commit}" >/dev/null 2>&1 || echo "$commit"
done
