#!/bin/sh
# Takes the host's newer commits into the clone: clone-more.sh FOLDER REFERENCE COMMIT [bundle]
#
# With `bundle`, a bundle is on stdin. REFERENCE then names COMMIT; nothing is merged.
set -eu
cd -- "$1"
[ "${4:-}" != bundle ] || cat | git bundle unbundle /dev/stdin >/dev/null
git update-ref "$2" "$3"
