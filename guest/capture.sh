#!/bin/sh
# Prints what a tmux session shows. Arguments: tmux session, and options of tmux's capture-pane. Exit code 3: no session.
tmux has-session -t "=$1" 2>/dev/null || exit 3
session=$1
shift
tmux capture-pane -p -t "=$session:" "$@"
