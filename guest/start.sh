#!/bin/sh
# Unpacks the files of a start into the code user's home, from a tar on stdin, and starts the tool in tmux.
#
# Arguments: tmux session, workspace, columns, rows, `tmux` or anything else to unpack only, and paths in the home. If
# there are any, it begins with a list of the files there, in the form of guest/save.sh: the tar depends on it.
set -eu
session=$1 workspace=$2 columns=$3 rows=$4 mode=$5
shift 5
[ "$#" = 0 ] || {
    (cd && find "$@" -type f -size +0 -printf '%s %T@ %p\0' 2>/dev/null | head -c 4194304) || :
    printf '/\0'
}
fail() { echo "$1" >&2; exit 1; }
build="build one with \`clincus build\`"
[ -d "$HOME" ] && [ -w "$HOME" ] || fail "the image has no home $HOME for uid $(id -u): $build"
[ -d "$workspace" ] || fail "the workspace is not mounted at $workspace in the container"
command -v tmux >/dev/null || fail "the image has no tmux: $build"
tar -xf - -C "$HOME"
cd "$HOME/.clincus"
[ ! -e started ] && [ ! -e unpacking ] || rm -f started unpacking
# A program before this one may have work before the tool starts, and beside it. Descriptor 8 is its own.
! command -v before_tool >/dev/null || before_tool 2>/dev/null || :
if [ "$mode" = tmux ]; then
    if [ -d ended ] && rmdir ended 2>/dev/null && tmux has-session -t "=$session" 2>/dev/null; then
        # A stop ended the tool and was then cut off: a shell has its place, and keeps it.
        tmux new-window -t "=$session:" -c "$workspace" "$HOME/.clincus/start"
    else
        # The common case first: each process costs time when many sessions start at once.
        tmux -u -f "$HOME/.clincus/tmux.conf" new-session -d -s "$session" -x "$columns" -y "$rows" -c "$workspace" \
            "$HOME/.clincus/start" || tmux has-session -t "=$session"
    fi
fi 8>&-
! command -v beside_tool >/dev/null || beside_tool
