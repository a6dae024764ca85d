#!/bin/sh
# Runs a command so that Clincus gets its whole output, and knows that it ran exactly once.
#
# Arguments: the command. The first line on stdin is the mark; the rest of stdin is the command's.
#
# The gate: now and then Incus loses sight of a command at its start ("Failed to retrieve PID of executing child
# process", one of fifty on a busy 6.0.4). The command runs anyway, on closed streams. It gets no mark, so it
# ends here, and Clincus runs it again.
#
# The end: Incus's client loses the last output of a command if the daemon closes the connection before the client has
# read it. So the mark follows the output on both streams, and this program waits until Clincus has seen both. Clincus
# reports that by SIGCONT, which `incus exec` passes on and which has no effect on other programs.
IFS= read -r mark || exit 125
child='' early=''
# shellcheck disable=SC2317,SC2329  # the traps call it
send() { if [ -n "$child" ]; then kill -s "$1" "$child" 2>/dev/null; else early=$1; fi; }
trap 'send HUP' HUP; trap 'send TERM' TERM; trap 'send TERM' INT
# A shell makes what it starts with & ignore SIGINT and SIGQUIT. `env` of coreutils undoes that; without it the command
# gets SIGTERM for SIGINT.
if env --default-signal=INT >/dev/null 2>&1; then
    trap 'send INT' INT
    set -- env --default-signal=INT,QUIT "$@"
fi
printf %s "$mark"
exec 3<&0 4>&2
"$@" <&3 3<&- 4>&- & child=$!
exec 2>/dev/null
[ -z "$early" ] || kill -s "$early" "$child"
wait "$child"; code=$?
while kill -0 "$child"; do wait "$child"; code=$?; done
# A signal that comes as the command ends gives its own number in place of the command's code, which the shell still has.
wait "$child"; last=$?
[ "$last" -eq 127 ] || code=$last
trap 'kill "$pause"; exit "$code"' CONT
sleep 600 <&- >&- 2>&- 3<&- 4>&- & pause=$!
printf %s "$mark"; printf %s "$mark" >&4
wait "$pause"
exit "$code"
