#!/bin/sh
# Writes a tool's conversations to stdout, file by file, as Clincus asks for them on stdin. Runs as root.
#
# Arguments: the home, the name of a process to end before (or nothing), a folder and a uid for guest/hand-over.sh,
# which follows this program (or nothing twice), the paths of the conversations in the home.
# 1. It lists the files, the newest first: `SIZE MTIME PATH` and a NUL each, and at the end `/` and a NUL.
# 2. It reads a line for each file that is wanted: `FROM SHA256 PATH`. If the first FROM bytes have this hash, only what
#    follows them is sent.
# 3. It answers with a line `FROM SIZE`, SIZE bytes, and a line `SIZE MTIME` of the file as it is after the copy.
# It fails if a program that lists or reads the files fails: half of a list, or of a file, would look whole.
home=$1 tool=$2 workspace=$3 owner=$4
shift 4
cd -- "$home" || exit 3
# Without these the list would be empty, as if there were no conversation.
for program in find sort head tail sha256sum; do
    command -v "$program" >/dev/null || { echo "the container has no $program" >&2; exit 127; }
done
# A tool's process may have another name, such as `node`: ~/.clincus/agent/run has its parent as long as it runs.
tool_processes() {
    parent='' code=''
    [ ! -f .clincus/agent/run ] || read -r parent code <.clincus/agent/run
    [ -z "$parent" ] || [ -n "$code" ] || pgrep -P "$parent"
    pgrep -x "$tool"
}
one_lives() { for process; do kill -0 "$process" 2>/dev/null && return; done; false; }
# The tool gets 3 s to write its last data and to close its database. A killed tool leaves one that can be opened again.
found=''
[ -z "$tool" ] || found=$(tool_processes)
# shellcheck disable=SC2086 # process ids
if [ -n "$found" ]; then
    mkdir .clincus/ended 2>/dev/null # if the container is not stopped then, the next start brings the tool back
    kill -TERM $found 2>/dev/null
    for pause in 0.01 0.02 0.03 0.05 $(seq -f 0.1 29); do
        one_lives $found || found=$(tool_processes) # others may have followed
        [ -n "$found" ] || break
        sleep "$pause"
    done
    [ -z "$found" ] || found=$(tool_processes)
    if [ -n "$found" ]; then kill -KILL $found 2>/dev/null; sleep 0.2; fi
fi
# While a saved conversation is being unpacked, the existing files may be half of it.
exec 5>&1
# Prints to 3 the name of a program that a signal has ended, except that of a broken pipe: name_killed CODE NAME
name_killed() { [ "$1" -le 128 ] || [ "$1" = 141 ] || echo "$2" >&3; }
if [ ! -e .clincus/unpacking ]; then
    # find fails for a path that does not exist, too, so only signals count.
    killed=$(
        {
            { find "$@" -type f -size +0 -printf '%s %T@ %p\0' 2>/dev/null; name_killed "$?" find; } |
                { sort -z -k2,2nr; name_killed "$?" sort; } | head -z -n 100000 >&5
        } 3>&1
    ) && [ -z "$killed" ] || { echo "the list of files broke off: ${killed:-head} was ended" >&2; exit 3; }
fi
printf '/\0'
while IFS= read -r line; do
    from=${line%% *} rest=${line#* }
    hash=${rest%% *} path=${rest#* }
    total=$(find "./$path" -maxdepth 0 -type f -printf '%s' 2>/dev/null)
    total=${total:-0}
    if [ "$total" -lt "$from" ]; then
        from=0
    elif [ "$from" -gt 0 ] && [ "$(head -c "$from" -- "$path" | sha256sum)" != "$hash  -" ]; then
        from=0
    fi
    size=$((total - from))
    printf '%s %s\n' "$from" "$size"
    # A file that gets shorter meanwhile is filled up with zeros: the number of bytes was announced.
    # The signal of a broken pipe (141) means that the file has grown, and nothing else.
    [ "$size" -eq 0 ] || {
        failed=$(
            {
                { tail -c "+$((from + 1))" -- "$path" || echo "$?" >&3; cat /dev/zero; } 2>/dev/null |
                    head -c "$size" >&5
            } 3>&1
        ) || failed=$?
        case $failed in
        '' | 141) ;;
        *) [ ! -e "$path" ] || { echo "$path cannot be read to its end" >&2; exit 3; } ;;
        esac
    }
    find "./$path" -maxdepth 0 -type f -printf '%s %T@' 2>/dev/null
    echo
done
set -- "$workspace" "$owner"
