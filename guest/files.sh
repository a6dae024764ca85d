#!/bin/sh
# List, read or write a file of the workspace:
#     files.sh list|read|write WORKSPACE LENGTH LIMIT|EXPECTED [SIZE]
#
# The first LENGTH bytes of stdin are the path, relative to WORKSPACE: any legal file name passes. `list` prints at most
# LIMIT entries, `read` a file of at most LIMIT bytes. `write` replaces a file whose SHA-256 is EXPECTED by the SIZE
# bytes that follow on stdin; EXPECTED may also be `any`, or `new` for a file that does not exist yet.
#
# This runs as the user of the code, in the container: a symlink reaches nothing of the host.
# The exit codes from 40 on have their meaning in ERRORS of clincus_features/files.py.
set -f
verb=$1 length=$3 argument=$4 size=$5
cd -- "$2" || exit 41
workspace=$(pwd -P)

# The dot protects a line break at the end of a name.
path=./$(head -c "$length"; echo .)
path=${path%.}
real=$(realpath -m -- "$path"; echo .)
real=${real%??}
case $real/ in "$workspace"/*) ;; *) exit 40 ;; esac

list() {
    [ -e "$real" ] || exit 41
    [ -d "$real" ] || exit 42
    cd -- "$real" || exit 41
    # This user cannot write an entry with the mark `r` or `p`. A folder with `p` contains only the .gitignore with
    # which wall/hook.py hides it from git.
    # shellcheck disable=SC2016 # for the shell that find starts
    find . -mindepth 1 -maxdepth 1 \( -type l -o -writable -o \
        -type d -exec sh -c '[ "$(ls -A -- "$1" | head -n 2)" = .gitignore ]' sh {} \; -printf p -o -printf r \) \
        -printf '\t%y\t%s\t%T@\t%P\0' | head -z -n "$argument"
}

read_file() {
    [ -e "$real" ] || exit 41
    [ -f "$real" ] || exit 43
    [ "$(stat -c %s -- "$real")" -le "$argument" ] || exit 44
    exec head -c "$argument" -- "$real"
}

write_file() {
    folder=$(dirname -- "$real"; echo .)
    folder=${folder%??}
    [ -d "$folder" ] || exit 41
    [ ! -e "$real" ] || [ -f "$real" ] || exit 43
    new=$(mktemp -- "$folder/.clincus-XXXXXXXX" 2>/dev/null) || exit 46
    trap 'rm -f -- "$new"' EXIT
    cat >"$new" || exit 1
    [ "$(stat -c %s -- "$new")" = "$size" ] || exit 48
    # The second of two writers has to see the file of the first.
    [ ! -r "$folder" ] || { exec 9<"$folder"; flock -w 20 9; }
    if [ "$argument" = new ]; then
        chmod "$(printf '%o' $((0666 & ~0$(umask))))" "$new"
        ln -- "$new" "$real" 2>/dev/null || exit 47
        exit 0
    fi
    [ -e "$real" ] || exit 45
    [ -w "$real" ] || exit 46
    chmod --reference="$real" -- "$new"
    [ "$argument" = any ] || [ "$(sha256sum <"$real" | cut -c1-64)" = "$argument" ] || exit 45
    mv -f -- "$new" "$real" 2>/dev/null || exit 46
}

case $verb in
list) list ;;
read) read_file ;;
write) write_file ;;
esac
