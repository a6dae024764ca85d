#!/bin/sh
# In the container as ~/.clincus/start, the program in tmux: the tool, then a login shell. `start direct` ends with
# the tool.
#
# ~/.clincus/launch has the variables `workspace`, `tool` and `program`, and these command lines: `first` for the first
# run of a start; `again` for all later ones, which continue the conversation (tmux may get lost, by a restart from
# inside the container; the next terminal starts this again); `afresh` if there is no conversation; and `files`, which
# finds the files of the conversation. A conversation has `message` in one of them. Claude Code writes a file as it
# starts. If it then gets no prompt, it can neither resume that nor start another one of the same id. Such a file is
# moved aside and never deleted: a version of the tool may write its messages in another form. It is saved with the
# rest. ~/.clincus/agent/run has the process that runs the tool, and the exit code of a tool that has ended.
# shellcheck source=/dev/null
. "$HOME/.clincus/launch"
# shellcheck disable=SC2154 # `launch` sets it
cd "$workspace" || exit 1
agent=$HOME/.clincus/agent
mkdir -p "$agent" && rm -f "$agent/events" "$agent/screen" "$agent/rings" && echo $$ >"$agent/run"
echo "${TMUX_PANE:-}" >"$agent/pane" # a person may open another window, and a tool other panes
(command -v perl && sudo -n true && : >"$agent/rings") >/dev/null 2>&1 & # what guest/ring.sh needs
# No report says that a person starts it again, from the shell that it has left; and it may ask before one of its hooks
# runs.
[ ! -e "$HOME/.clincus/started" ] || setsid "$HOME/.clincus/ring" >/dev/null 2>&1 &
# Files of the system, such as settings that no user's settings switch off. Without sudo the tool starts without them.
# This is here and not in guest/start.sh, so that no terminal waits for it.
if cd "$HOME/.clincus/system" 2>/dev/null; then
    find . -type f -exec sh -c '
        for file; do cmp -s "$file" "/$file" || printf "%s\n" "$file"; done' changed {} + >"$agent/changed"
    # One sudo for all of them, and none if nothing has changed. It has no terminal, since it might read keys from it.
    # shellcheck disable=SC2016,SC2024 # for the shell that sudo starts; the list is the user's own
    [ ! -s "$agent/changed" ] || setsid sudo -n sh -c '
        while IFS= read -r file; do install -D -m 644 "$file" "/$file"; done' install <"$agent/changed" 2>/dev/null
    cd "$workspace" || exit 1
fi
# shellcheck source=/dev/null
[ ! -r "$HOME/.clincus/environment" ] || { set -a; . "$HOME/.clincus/environment"; set +a; }
PATH="$HOME/.local/bin:$PATH"
export PATH
# shellcheck disable=SC2154
if [ -z "$(eval "$files -exec grep -lF \"\$message\" {} +" 2>/dev/null)" ]; then
    # shellcheck disable=SC2016,SC2034 # for the shell that find starts, by eval
    aside='for file; do mv "$file" "$file.aside-$(date +%s%N)"; done'
    eval "$files -name '*.jsonl' -exec sh -c \"\$aside\" aside {} +" 2>/dev/null
    how=$afresh
elif [ -e "$HOME/.clincus/started" ]; then
    how=$again
else
    how=$first
fi
: >"$HOME/.clincus/started"
# A program before guest/start.sh may have left something to wait for.
# shellcheck source=/dev/null
[ ! -r "$HOME/.clincus/before" ] || . "$HOME/.clincus/before"
eval "$how"
code=$?
[ ! -t 0 ] || stty sane # a tool that was killed leaves a terminal without an echo
echo "$$ $code" >"$agent/run"
"$HOME/.clincus/ring" &
[ "${1:-}" != direct ] || exit "$code"
if [ -t 0 ]; then
    # A killed tool also leaves answers of the terminal that it has not read. The shell would take them for keys, and a
    # person's first line for a search in its history. This comes before the words below, since a person types after
    # them.
    stty -icanon -echo min 0 time 1 && cat >/dev/null
    stty sane
    # Its last frame may go on below the cursor. The server takes only what stands above the words below for a frame of
    # an earlier run, and knows the words only in a line of their own.
    printf '\n\033[J'
fi
# shellcheck disable=SC2154 # `launch` sets it
if [ "$code" = 127 ] && ! command -v "$program" >/dev/null; then
    printf '\nThis image has no program %s, which starts %s. ' "$program" "$tool"
    echo 'docs/configuration.md, "Other tools", says how to get it into one.'
fi
# shellcheck disable=SC2154 # `launch` sets it
printf '\n%s has ended (exit code %s). This is a shell in its container.\n' "$tool" "$code"
[ -x "${SHELL:-}" ] || SHELL=/bin/bash
[ -x "$SHELL" ] || SHELL=/bin/sh
export SHELL
# A person may start the tool again in this shell. Bash then tells how that has ended, and no other shell does.
if [ -x "$HOME/.clincus/left" ]; then
    # shellcheck disable=SC2016,SC2088 # for Bash
    export PROMPT_COMMAND='~/.clincus/left $? $$'"${PROMPT_COMMAND:+; $PROMPT_COMMAND}"
fi
exec "$SHELL" -l
