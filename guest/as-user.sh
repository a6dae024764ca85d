# shellcheck shell=sh
# Comes after a program that root runs: goes on as a user with none of root's rights, as `incus exec --user` would.
# Arguments: the user's number, and the command that goes on.
command -v setpriv >/dev/null || {
    echo "the image has no program \`setpriv\` (package util-linux): build one with \`clincus build\`" >&2
    exit 1
}
user=$1
shift
exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"
