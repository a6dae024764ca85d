#!/bin/sh
# Passes variables to the code user's tmux server, if there is one, for the programs that it starts from now on.
#
# Arguments: NAME=VALUE.
for variable; do
    tmux set-environment -g "${variable%%=*}" "${variable#*=}" 2>/dev/null || exit 0
done
