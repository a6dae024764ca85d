#!/bin/sh
# In the container as ~/.clincus/left: notes the exit code of a tool that a person had started again from the shell that
# it had left, and makes the server look.
#
# Arguments: the exit code of the last command, and the process of a shell. Bash runs this before each prompt; the file
# `again` is empty while the tool runs (guest/look.sh). The exit code stays, for other commands before a prompt.
cd "$HOME/.clincus/agent" 2>/dev/null || exit "$1"
read -r shell _ <run
if [ "$2" = "$shell" ] && [ -f again ] && [ ! -L again ] && [ ! -s again ] && [ again -nt run ]; then
    echo "$1" >again
    # shellcheck source=/dev/null disable=SC2154 # `launch` sets it
    tool=$(. ../launch >/dev/null 2>&1 && printf %s "$tool")
    # As guest/tool.sh does, since the last frame of a killed tool is no frame of the next run.
    printf '\n\033[J\n%s has ended (exit code %s). This is a shell in its container.\n' "$tool" "$1"
    "$HOME/.clincus/ring" &
fi 2>/dev/null
exit "$1"
