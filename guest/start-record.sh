#!/bin/sh
# Goes in front of guest/start.sh: records the workspace as it is before the tool starts, beside the start.
#
# The variables `record`, `limit` and `most` have guest/checkpoint.sh and two of its arguments. It holds a lock until it
# has read everything. The tool waits for that, but for `wait` seconds at most: then it starts, and guest/checkpoint.sh
# finds by shadow.late that it has to look for what the tool has changed meanwhile.
# shellcheck disable=SC2154 # these variables come from outside
(
    cd || exit
    [ -d .clincus ] || mkdir .clincus || exit
    for file in late reading; do
        [ ! -e ".clincus/shadow.$file" ] && [ ! -L ".clincus/shadow.$file" ] || rm -rf ".clincus/shadow.$file" || exit
    done
    exec 8>.clincus/shadow.reading && flock -n 8 || exit
    setsid sh -c "$record" checkpoint "$2" - "$limit" "$most" begin - &
) </dev/null >/dev/null 2>&1
before_tool() {
    flock -w "$wait" "$HOME/.clincus/shadow.reading" true || : >"$HOME/.clincus/shadow.late"
}
