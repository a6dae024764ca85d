#!/bin/sh
# Goes in front of guest/start.sh: records the workspace as it is before the tool starts, beside the start.
#
# The variables `record`, `limit` and `most` have guest/checkpoint.sh and two of its arguments. It holds a lock until it
# has read everything. guest/tool.sh waits for that, but for `wait` seconds at most: then the tool starts, and
# guest/checkpoint.sh finds by shadow.late that it has to look for what the tool has changed meanwhile.
# shellcheck disable=SC2154 # these variables come from outside
lock=$HOME/.clincus/shadow.reading late=$HOME/.clincus/shadow.late
before_tool() {
    for file in "$late" "$lock"; do
        [ ! -e "$file" ] && [ ! -L "$file" ] || rm -rf "$file" || return
    done
    # A start that cannot open it here would end.
    true >"$lock" && exec 8>"$lock" && flock -n 8 &&
        echo "flock -w $wait '$lock' true || : >'$late'" >"$HOME/.clincus/before"
}
# Not sooner: it would take a core from tmux, while what comes between that and the tool takes as long as it does.
beside_tool() {
    cd && setsid sh -c "$record" checkpoint "$workspace" - "$limit" "$most" begin - </dev/null >/dev/null 2>&1 &
}
