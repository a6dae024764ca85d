#!/bin/sh
# Attaches a terminal to a tmux session; without it, one is made, with the tool or, for clincus-shell-*, a login shell.
#
# Arguments: tmux session, workspace, how (`mouse`, `own-mouse` or `watch`), and the text of shell.sh.
session=$1 workspace=$2 how=$3 program=$4 config=$HOME/.clincus/tmux.conf what=tool
[ "$how" != watch ] || exec tmux -u attach-session -f read-only,ignore-size -t "=$session"
[ -r "$config" ] || config=/dev/null
set --
case $session in clincus-shell-*)
    what=
    set -- ';' set-option prefix None # every key is the shell's
    ;;
esac
tmux has-session -t "=$session" 2>/dev/null ||
    tmux -u -f "$config" new-session -d -s "$session" -c "$workspace" sh -c "$program" clincus "$workspace" "$what"
[ "$how" = own-mouse ] || exec tmux -u attach-session -t "=$session" "$@"
# A grouped tmux session: same windows, own setting of the mouse; tmux removes it when its client detaches.
exec tmux -u new-session -t "=$session" -s "$session-$$" \
    ';' set-option mouse off ';' set-option destroy-unattached on "$@"
