#!/bin/sh
# Unpacks the files of a start into the code user's home, from a tar on stdin, and starts the tool in tmux.
#
# Arguments: tmux session, workspace, columns, rows, and `tmux`, or anything else to unpack only.
# Exit codes: 71 no home, 72 no workspace, 73 no tmux: Incus may lose what a short command writes.
set -eu
session=$1 workspace=$2 columns=$3 rows=$4 mode=$5
[ -d "$HOME" ] && [ -w "$HOME" ] || exit 71
[ -d "$workspace" ] || exit 72
command -v tmux >/dev/null || exit 73
tar -xf - -C "$HOME"
cd "$HOME/.clincus"
[ ! -e started ] && [ ! -e unpacking ] || rm -f started unpacking
[ "$mode" = tmux ] || exit 0
# First the common case: each process costs when many sessions start at once.
tmux -u -f "$HOME/.clincus/tmux.conf" new-session -d -s "$session" -x "$columns" -y "$rows" -c "$workspace" \
    "$HOME/.clincus/start" || tmux has-session -t "=$session"
