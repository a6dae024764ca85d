#!/bin/sh
# Follows guest/look.sh: types into the same tmux session at the order of the server, which by then has seen the look.
#
# Prints the mark, then obeys lines on stdin:
#   keys NAME...                 press keys, by tmux's names for them
#   same NAME...                 press them if the screen, except its clocks, is the one that the last `look` printed
#                                and the tool has reported nothing since; prints 1 if so, else 0, and the mark
#   paste LENGTH                 paste so many bytes, which follow, as one text
#   look OFFSET                  print the inode of the events, the row of the cursor (nothing if it is hidden), the
#                                terminal's title, its screen with colours, and the mark; then the tool's reports
#                                after that byte of the events, and the mark
# shellcheck disable=SC2154 # look.sh sets pane, mark, now_inode and still
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

# The row of the cursor, the terminal's title and its screen with colours. The dot protects line breaks at the end.
take_screen() {
    screen=$(
        tmux display-message -p -t "$pane" '#{?cursor_flag,#{cursor_y},}' ';' \
            display-message -p -t "$pane" '#{pane_title}' ';' capture-pane -p -e -J -t "$pane" | head -c 524288
        echo .
    )
    screen=${screen%.}
}

escape=$(printf '\033')
line_end='
'
state_of_screen() { # without the row of the cursor, which a tool may hide while it draws
    printf %s "${screen#*"$line_end"}" | sed -E "s/$escape\[[0-9;:]*m//g" | sed -E "$still" | cksum
    stat -c '%i %s' events 2>/dev/null
}

press() {
    leave_scrolling
    tmux send-keys -t "$pane" "$@" || exit
    sleep 0.05 # a tool takes an Esc with something right behind it for Alt
}

while read -r verb number rest; do
    case $verb in
    keys)
        # shellcheck disable=SC2086 # words
        press $number $rest
        ;;
    same)
        take_screen
        if [ "$(state_of_screen)" = "$seen" ]; then
            # shellcheck disable=SC2086 # words
            press $number $rest
            echo 1
        else
            echo 0
        fi
        echo "$mark"
        ;;
    paste)
        leave_scrolling
        head -c "$number" | tmux load-buffer -b clincus-prompt - || exit
        tmux paste-buffer -p -d -r -b clincus-prompt -t "$pane" || exit
        ;;
    look)
        stat -c %i events 2>/dev/null || echo 0
        take_screen
        seen=$(state_of_screen)
        printf %s "$screen"
        echo "$mark"
        events_since "$number"
        echo "$mark"
        ;;
    esac
done
