#!/bin/sh
# Follows guest/look.sh: types into the same tmux session what the server asks for, which knows by then what is there.
#
# Prints the mark, then obeys lines on stdin:
#   keys NAME...                 press keys, by tmux's names for them
#   paste LENGTH                 paste so many bytes, which follow, as one text, and wait until the screen changes
#   await TENTHS PATTERN         wait so long until one of the last lines has a pattern; print 1 if it has, and the mark
#   gone TENTHS PATTERN          the same until none has it
#   proof TENTHS OFFSET EVENT    wait so long for an event behind that byte of the events; print what came, and the mark
# shellcheck disable=SC2154 # look.sh sets session, mark and now_inode
pane="=$session:"
echo "$mark"

# While a person scrolls back, a key would be a command of tmux.
leave_scrolling() {
    [ "$(tmux display-message -p -t "$pane" '#{pane_in_mode}')" = 0 ] || tmux send-keys -t "$pane" -X cancel
}

events_since() {
    # guest/hook.sh begins a new file when one is full.
    if [ "$now_inode" = 0 ] || [ "$(stat -c %i events 2>/dev/null)" = "$now_inode" ]; then
        tail -c "+$(($1 + 1))" events
    else
        tail -c "+$(($1 + 1))" events.old
        cat events
    fi 2>/dev/null | head -c 262144
}

while read -r verb number rest; do
    case $verb in
    keys)
        leave_scrolling
        # shellcheck disable=SC2086 # words
        tmux send-keys -t "$pane" $number $rest || exit
        sleep 0.05 # a tool takes an Esc with something right behind it for Alt
        ;;
    paste)
        leave_scrolling
        before=$(tmux capture-pane -p -t "$pane")
        head -c "$number" | tmux load-buffer -b clincus-prompt - || exit
        tmux paste-buffer -p -d -r -b clincus-prompt -t "$pane" || exit
        tries=40 # some tools take an Enter that comes with a paste for a line break
        while [ "$tries" -gt 0 ]; do
            sleep 0.05
            [ "$(tmux capture-pane -p -t "$pane")" = "$before" ] || break
            tries=$((tries - 1))
        done
        ;;
    await | gone)
        while :; do
            found=gone
            tmux capture-pane -p -t "$pane" | grep -v '^ *$' | tail -6 | grep -qE -- "$rest" && found=await
            [ "$found" != "$verb" ] || { echo 1 && break; }
            [ "$number" -gt 0 ] || break
            number=$((number - 1))
            sleep 0.1
        done
        echo "$mark"
        ;;
    proof)
        offset=${rest%% *} event=${rest#* }
        while [ "$number" -gt 0 ] && ! events_since "$offset" | grep -q "\"event\":\"$event\""; do
            number=$((number - 1))
            sleep 0.1
        done
        events_since "$offset"
        echo "$mark"
        ;;
    esac
done
