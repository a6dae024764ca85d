#!/bin/sh
# Commits files of the workspace, and prints the new commit.
#
# Arguments: the workspace; `hooks` or `no-hooks`; the name and the e-mail of the author; the size of the message. Stdin
# has the message, and after it the paths, with a NUL after each.
#
# The commit consists of HEAD and only these files, in an index of its own: other staged files stay staged. If it fails,
# the repository is as it was. A hook runs here, in the container, like any other program of the agent.
umask 022
cd -- "$1" || exit 1
hooks=$2 size=$5
export GIT_LITERAL_PATHSPECS=1 GIT_TERMINAL_PROMPT=0 GIT_EDITOR=false
export GIT_AUTHOR_NAME="$3" GIT_AUTHOR_EMAIL="$4" GIT_COMMITTER_NAME="$3" GIT_COMMITTER_EMAIL="$4"
ask() { timeout 60 git -c core.fsmonitor=false "$@"; }
folder=$(ask rev-parse --absolute-git-dir) || exit 1
work=$(mktemp -d) || exit 1
index=$folder/clincus-commit.$$
trap 'rm -rf -- "$work"; rm -f -- "$index" "$index.lock"' EXIT
trap 'exit 1' HUP INT TERM
head -c "$size" >"$work/message"
cat >"$work/paths"
[ ! -f "$folder/index" ] || cp -- "$folder/index" "$index" || exit 1
if ask rev-parse --quiet --verify 'HEAD^{commit}' >/dev/null; then
    # The files' times stay in the copy where it agrees with HEAD, so git does not read all of them again.
    GIT_INDEX_FILE=$index ask read-tree --reset HEAD || exit 1
else
    rm -f -- "$index"
fi
GIT_INDEX_FILE=$index ask add --all --pathspec-from-file="$work/paths" --pathspec-file-nul || exit 1
[ "$hooks" = hooks ] || set -- -c core.hooksPath=/dev/null
[ "$hooks" != hooks ] || set --
GIT_INDEX_FILE=$index timeout 240 git -c core.fsmonitor=false -c commit.gpgSign=false "$@" \
    commit --quiet --file="$work/message" </dev/null >&2 || {
    code=$?
    [ "$code" != 124 ] || echo 'the commit, or one of its hooks, did not end within 4 minutes' >&2
    exit "$code"
}
# The repository's index still has these files in their old state.
tries=5
until ask reset --quiet --pathspec-from-file="$work/paths" --pathspec-file-nul >/dev/null 2>&1 || [ "$tries" = 0 ]; do
    tries=$((tries - 1))
    sleep 0.2
done
ask rev-parse --verify 'HEAD^{commit}'
