#!/bin/sh
# Prints what there is to know of the tool in a tmux session, in parts with a mark between them: facts, screen, events.
#
# Arguments: tmux session, the mark, what is known of the file of events (its inode, and how much of it was read), a
# sed script that takes what counts the time off the screen, and 1 if the next thing that is written is to ring.
# Facts: inode of the events and the byte from which they follow, whether the tool's process is there, its exit code,
# whether this container can ring, when the screen last changed, and when the tool was started or has ended. On a line
# of its own: the terminal's title.
session=$1 mark=$2 inode=$3 offset=$4 still=$5 arm=${6:-}
cd "$HOME/.clincus/agent" 2>/dev/null || exit 4
# First, so that nothing is written unseen between this and the look.
[ "$arm" != 1 ] || tmux kill-session -C -t "=$session" ';' set-option -w -t "=$session:" monitor-activity on 2>/dev/null
now_inode=0 size=0
# shellcheck disable=SC2046 # two numbers
[ ! -f events ] || [ -L events ] || { set -- $(stat -c '%i %s' events); now_inode=$1 size=$2; }
[ "$now_inode" = "$inode" ] && [ "$size" -ge "$offset" ] || offset=0
shown=$(tmux display-message -p -t "=$session:" '#{pane_title}' ';' capture-pane -p -J -t "=$session:" 2>/dev/null)
line_end='
'
title=${shown%%"$line_end"*}
screen=$(printf '%s\n' "${shown#*"$line_end"}" | grep -v '^ *$' | tail -24 | cut -c1-400)
# When it was that the screen without its clocks became what it is now.
sum=$(printf %s "$screen" | sed -E "$still" | cksum)
was=
[ ! -f screen ] || read -r was <screen
[ "$sum" = "$was" ] || printf '%s\n' "$sum" >screen
pid='' code='' alive=0
[ ! -f run ] || read -r pid code <run
if [ -n "$pid" ] && [ -z "$code" ] && [ -r "/proc/$pid/task/$pid/children" ]; then
    read -r children <"/proc/$pid/task/$pid/children" # without a line break at its end
    [ -z "$children" ] || alive=1
fi
rings=0
[ ! -e rings ] || rings=1
# shellcheck disable=SC2046 # words
echo "events=$now_inode:$offset" "alive=$alive" "code=$code" "rings=$rings" $(stat -c '%n=%Y' screen run 2>/dev/null)
printf '%.200s\n%s\n%s\n%s\n' "$title" "$mark" "$screen" "$mark"
[ "$now_inode" = 0 ] || tail -c "+$((offset + 1))" events | head -c 262144
