#!/bin/sh
# Goes in front of guest/start.sh: records the workspace as it is before the tool starts, beside the start.
#
# The variables `record`, `limit` and `most` have guest/checkpoint.sh and two of its arguments. It holds a lock until it
# has read everything. The tool waits for that, but for 0.3 s at most: then it starts, and guest/checkpoint.sh finds by
# shadow.late that it has to look for what the tool has changed meanwhile.
(
    cd && mkdir -p .clincus && rm -rf .clincus/shadow.late .clincus/shadow.reading || exit
    exec 8>.clincus/shadow.reading && flock -n 8 || exit
    # shellcheck disable=SC2154 # `record`, `limit` and `most` come from outside
    setsid sh -c "$record" checkpoint "$2" - "$limit" "$most" begin - &
) </dev/null >/dev/null 2>&1
before_tool() {
    flock -w 0.3 "$HOME/.clincus/shadow.reading" true || : >"$HOME/.clincus/shadow.late"
}
