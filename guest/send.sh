#!/bin/sh
# Types stdin and Enter into a tmux session. Arguments: tmux session, and `text` if stdin has any. Exit code 3: no session.
tmux has-session -t "=$1" 2>/dev/null || exit 3
[ "$2" != text ] || { tmux load-buffer -b clincus - && tmux paste-buffer -d -r -b clincus -t "=$1:"; } || exit
tmux send-keys -t "=$1:" Enter
