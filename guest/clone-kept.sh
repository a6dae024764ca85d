#!/bin/sh
# Takes the content of the session's earlier clone into this one: clone-kept.sh FOLDER
#
# A bundle is on stdin. Its branches become those of a remote `kept`, and the last state of the work tree becomes
# kept/uncommitted. Everything else in it (tags, stashes, other work trees, repositories within) is below refs/kept/.
# Nothing is merged.
set -eu
cd -- "$1"
bundle=$(mktemp)
trap 'rm -f "$bundle"' EXIT
cat >"$bundle"
git fetch --quiet --no-tags "$bundle" '+refs/heads/*:refs/remotes/kept/*' '+refs/clincus/tip:refs/remotes/kept/uncommitted' \
    '+refs/tags/*:refs/kept/tags/*' '+refs/clincus/*:refs/kept/*'
