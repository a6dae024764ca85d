#!/bin/sh
# Prints the facts about the tool in a tmux session, in parts with a mark between them: facts, screen, events.
#
# Arguments: tmux session, the mark, the known part of the file of events (its inode, and the bytes that were read), a
# sed script that removes clocks from the screen, and 1 if the next output should ring.
# Facts: inode of the events and the byte from which they follow, 1 if the tool's process exists, its exit code,
# 1 if this container can ring, the time here, milliseconds of CPU that the container has used without those of the
# tool's own process, the state of a tool that a person started from the shell that it had left (1 runs, 2 has ended),
# the exit code of that run as guest/left.sh has noted it and the time of that, 1 if a stop has ended it, a checksum of
# the screen without its clocks, the number of lines below the cursor that are not empty (nothing if the cursor is
# hidden), the time of the last change of the screen, and the time at which the tool was started or has ended. On a line
# of its own: the terminal's title.
session=$1 mark=$2 inode=$3 offset=$4 still=$5 arm=${6:-}
cd "$HOME/.clincus/agent" 2>/dev/null || exit 4
# True if a process is the session's tool: the program, or an interpreter that runs it.
is_tool() {
    # shellcheck source=/dev/null disable=SC2154 # `launch` sets it
    name=$(. ../launch >/dev/null 2>&1 && printf %s "${program##*/}")
    for word in $(tr '\0' '\n' <"/proc/$1/cmdline" | grep -v '^-' | head -2); do
        case ${word##*/} in "$name" | "$name".*) return 0 ;; esac
    done
    return 1
}
# The tool's pane. Without guest/tool.sh's word, it is the one that a person sees.
pane=
# shellcheck disable=SC2094 # the file is only read
[ ! -f pane ] || read -r pane <pane
case $pane in
%[0-9]*) ;;
*) pane="=$session:" ;;
esac
# First, so that nothing is written unseen between this and the look.
[ "$arm" != 1 ] || tmux kill-session -C -t "=$session" ';' set-option -w -t "$pane" monitor-activity on 2>/dev/null
# Before the events: guest/tool.sh removes those of the earlier run, and then reports its own.
pid='' code='' alive=0 again=0 own=0 left=
[ ! -f run ] || read -r pid code <run
now_inode=0 size=0
# shellcheck disable=SC2046 # two numbers
[ ! -f events ] || [ -L events ] || { set -- $(stat -c '%i %s' events); now_inode=$1 size=$2; }
# The bytes that follow in the old file, if guest/hook.sh has begun a new one.
more=0
if [ "$now_inode" != "$inode" ] && [ -f events.old ] && [ ! -L events.old ]; then
    # shellcheck disable=SC2046 # two numbers
    set -- $(stat -c '%i %s' events.old)
    [ "$1" != "$inode" ] || [ "$2" -lt "$offset" ] || more=$(($2 - offset + 1))
fi
old=$((offset + 1))
[ "$now_inode" = "$inode" ] && [ "$size" -ge "$offset" ] || offset=0
shown=$(tmux display-message -p -t "$pane" '#{?cursor_flag,#{cursor_y},}' ';' \
    display-message -p -t "$pane" '#{pane_title}' ';' capture-pane -p -J -t "$pane" 2>/dev/null)
line_end='
'
row=${shown%%"$line_end"*}
shown=${shown#*"$line_end"}
title=${shown%%"$line_end"*}
shown=${shown#*"$line_end"}
screen=$(printf '%s\n' "$shown" | grep -v '^ *$' | tail -40 | cut -c1-400)
below=
case $row in
'' | *[!0-9]*) ;;
*) below=$(printf '%s\n' "$shown" | tail -n "+$((row + 2))" | grep -vc '^ *$') ;;
esac
# The time at which the screen without its clocks got its present content.
sum=$(printf %s "$screen" | sed -E "$still" | cksum)
was=
[ ! -f screen ] || read -r was <screen
[ "$sum" = "$was" ] || printf '%s\n' "$sum" >screen
if [ -n "$pid" ] && [ -r "/proc/$pid/task/$pid/children" ]; then
    read -r children <"/proc/$pid/task/$pid/children" # without a line break at its end
    [ -z "$children" ] || [ -n "$code" ] || alive=1
    for child in $children; do
        # The fields after the name, which may hold anything: 3 is the process group, 6 that in the foreground, 12 and
        # 13 the hundredths of a second of CPU.
        read -r fields <"/proc/$child/stat" || continue
        # shellcheck disable=SC2086 # words
        set -- ${fields##*) }
        own=$((own + ${12} + ${13}))
        [ -n "$code" ] && [ "$3" = "$6" ] && is_tool "$child" && again=1
        # Some tools start themselves once more, such as Gemini CLI.
        twins=
        read -r twins <"/proc/$child/task/$child/children"
        for twin in $twins; do
            [ "/proc/$twin/exe" -ef "/proc/$child/exe" ] || continue
            is_tool "$twin" || continue
            read -r fields <"/proc/$twin/stat" || continue
            # shellcheck disable=SC2086 # words
            set -- ${fields##*) }
            own=$((own + ${12} + ${13}))
        done
    done
fi 2>/dev/null
[ "$alive" = 1 ] || [ -n "$code" ] || [ ! -f run ] || read -r pid code <run # it may have ended just now
# The file `again` is newer than `run` if a person has started the tool again since. It holds the exit code of a run that
# has ended, and nothing else is written into it twice: guest/left.sh may just note the code.
if [ "$again" = 1 ]; then
    [ -e again ] && [ ! -s again ] && [ again -nt run ] || : >again
elif [ -n "$code" ] && [ again -nt run ]; then
    again=2
    [ ! -s again ] || read -r left <again
fi
cpu=
while read -r name value; do
    [ "$name" != usage_usec ] || cpu=$((value / 1000))
done 2>/dev/null </sys/fs/cgroup/cpu.stat
if [ -z "$cpu" ]; then
    # A host without cgroups v2: the time of each process, with that of its children that have ended (12 to 15).
    cpu=0
    for stat in /proc/[0-9]*/stat; do
        read -r fields <"$stat" || continue
        # shellcheck disable=SC2086 # words
        set -- ${fields##*) }
        cpu=$((cpu + (${12:-0} + ${13:-0} + ${14:-0} + ${15:-0}) * 10))
    done 2>/dev/null
fi
cpu=$((cpu - own * 10))
stopping=0
[ ! -d ../ended ] || stopping=1
rings=0
[ ! -e rings ] || rings=1
# shellcheck disable=SC2046 # words
echo "events=$now_inode:$offset" "alive=$alive" "code=$code" "rings=$rings" "now=$(date +%s.%N)" "cpu=$cpu" \
    "again=$again" "left=$left" "again_at=$(stat -c %Y again 2>/dev/null)" "stopping=$stopping" "more=$more" \
    "sum=${sum%% *}" "below=$below" $(stat -c '%n=%Y' screen run 2>/dev/null)
printf '%.200s\n%s\n%s\n%s\n' "$title" "$mark" "$screen" "$mark"
[ "$more" = 0 ] || tail -c "+$old" events.old | head -c $((more - 1))
[ "$now_inode" = 0 ] || tail -c "+$((offset + 1))" events | head -c 262144
