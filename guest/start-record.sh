#!/bin/sh
# Comes before guest/start.sh: records the workspace as it is before the tool starts, beside the start.
#
# The variables `record`, `limit` and `most` have guest/checkpoint.sh and two of its arguments. It holds a lock until it
# has read everything. guest/tool.sh waits for that, but `wait` seconds at most: then the tool starts, and the file
# shadow.late makes guest/checkpoint.sh look for the tool's changes meanwhile.
# shellcheck disable=SC2154 # these variables come from outside
lock=$HOME/.clincus/shadow.reading late=$HOME/.clincus/shadow.late
before_tool() {
    for file in "$late" "$lock"; do
        [ ! -e "$file" ] && [ ! -L "$file" ] || rm -rf "$file" || return
    done
    # A start that cannot open it would end here.
    true >"$lock" && exec 8>"$lock" && flock -n 8 &&
        echo "flock -w $wait '$lock' true || : >'$late'" >"$HOME/.clincus/before"
}
# Not earlier: it would take CPU from tmux, while the steps between that and the tool take as long as this does.
beside_tool() {
    cd && setsid sh -c "$record" checkpoint "$workspace" - "$limit" "$most" begin - </dev/null >/dev/null 2>&1 &
}
