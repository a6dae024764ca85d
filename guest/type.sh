#!/bin/sh
# Follows guest/look.sh: types into the same tmux session what the server asks for, which knows by then what is there.
#
# Prints the mark, then obeys lines on stdin:
#   keys NAME...                 press keys, by tmux's names for them
#   paste LENGTH                 paste so many bytes, which follow, as one text
#   look OFFSET                  print the inode of the events, the terminal's title, its screen with colours, and the mark;
#                                then what the tool has told behind that byte of the events, and the mark
# shellcheck disable=SC2154 # look.sh sets session, mark and now_inode
pane="=$session:"
echo "$mark"

# While a person scrolls back, a key would be a command of tmux.
leave_scrolling() {
    [ "$(tmux display-message -p -t "$pane" '#{pane_in_mode}')" = 0 ] || tmux send-keys -t "$pane" -X cancel
}

events_since() {
    { # guest/hook.sh begins a new file when one is full.
        [ "$now_inode" = 0 ] || [ "$(stat -c %i events)" = "$now_inode" ] || cat events.old
        cat events
    } 2>/dev/null | tail -c "+$(($1 + 1))" | head -c 262144
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
        head -c "$number" | tmux load-buffer -b clincus-prompt - || exit
        tmux paste-buffer -p -d -r -b clincus-prompt -t "$pane" || exit
        ;;
    look)
        stat -c %i events 2>/dev/null || echo 0
        tmux display-message -p -t "$pane" '#{pane_title}' ';' capture-pane -p -e -J -t "$pane" | head -c 524288
        echo "$mark"
        events_since "$number"
        echo "$mark"
        ;;
    esac
done
