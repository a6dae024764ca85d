#!/bin/sh
# Tells the tmux server of the code user, if there is one, of variables for what it starts from now on.
#
# Arguments: NAME=VALUE.
for variable; do
    tmux set-environment -g "${variable%%=*}" "${variable#*=}" 2>/dev/null || exit 0
done
