#!/bin/sh
# Counts what the clone holds, or sends it: clone-out.sh FOLDER WHAT START [COMMIT...]
#
# START is the commit of `snapshot` when the tool started, or `-`. The host has the COMMITs. The first line is
# `TIP HEAD BRANCH`: TIP as of `snapshot`, HEAD or `-`, the checked-out branch or nothing. The output of WHAT follows:
# `count`: for each kind of work that the COMMITs and the branches of remotes lack, a line `KIND NUMBER`, then a line
#   with a tab and a name for each of the first 20. Kinds are `commits` of any reference or work tree, `uncommitted`
#   files of any work tree and of repositories at gitlinks, `stashes`, `nested` repositories with commits of their own,
#   at a gitlink or not, and files `unreadable` to the code user.
#   Nothing is written except objects.
# `tip`: a bundle of TIP without the objects of the COMMITs.
# `all`: a bundle of every branch, tag, stash and work tree, of the repositories within, and of TIP.
#   It fails if one of them cannot be taken in.
# `committed`: as much of the same as git can send without writing anything, for a full disk: no uncommitted work, and
#   only the newest stash.
# shellcheck disable=SC2154 # `snapshot` sets $tip and $head
cd -- "$1" 2>/dev/null || { echo "the clone is gone: there is no $1 in the container" >&2; exit 1; }
what=$2 start=$3
shift 3
check_repository || exit 1
known=''
[ "$start" = - ] || set -- "$@" "$start"
for commit in "$@"; do
    ! git rev-parse --quiet --verify "$commit^{commit}" >/dev/null 2>&1 || known="$known ^$commit"
done
# Notes, and what a program of the agent has named as it likes: everything that git puts in no group of its own.
set -- '--exclude=refs/heads/*' '--exclude=refs/tags/*' '--exclude=refs/remotes/*' --exclude=refs/stash
set -- "$@" '--exclude=refs/clincus/*' '--exclude=refs/prefetch/*' --all
# A clone that an older Clincus made has no record of its first tags: they would count as the agent's.
tags=''
[ "$(git config --local clincus.given)" != tags ] || tags=--tags
notes=$(mktemp -d -p /dev/shm 2>/dev/null) || notes=$(mktemp -d) || exit 1 # memory, even if the disk is full
trap 'rm -rf -- "$notes"' EXIT
for name in commits uncommitted stashes nested repositories "all trees"; do : >"$notes/$name"; done
# What `committed` cannot note is left out.
fail() { [ "$what" = committed ] || exit 1; }
keeps=''
case $what in
all | committed)
    keeps=yes
    git for-each-ref --format='delete %(refname)' refs/clincus/stash refs/clincus/worktree refs/clincus/nested |
        git update-ref --stdin || fail
    ;;
esac

# Notes as uncommitted the files in which a TIP differs from the host's newest state of the same HEAD, each behind FOLDER:
# note_changes TIP HEAD FOLDER
note_changes() {
    base=$2
    for commit in $known; do
        commit=${commit#^}
        [ -z "$2" ] || [ "$(git rev-parse --quiet --verify "$commit^")" != "$2" ] || base=$commit
    done
    if [ -n "$base" ]; then
        git diff-tree -r --name-only -z "$base" "$1"
    else
        git ls-tree -r --name-only -z "$1"
    fi >"$notes/changed" || fail
    tr '\n\0' '?\n' <"$notes/changed" | while IFS= read -r file; do printf '%s\n' "$3$file"; done >>"$notes/uncommitted"
}
# True if the COMMITs lack the uncommitted work: is_open TIP HEAD
# shellcheck disable=SC2086 # commits
is_open() { [ "$1" != "$2" ] && [ "$(git rev-list --count "$1" ${2:+^"$2"} $known)" != 0 ]; }

if git rev-parse --quiet --verify refs/stash >/dev/null; then
    git reflog show --format='%H %gs' refs/stash -- >"$notes/stashes" || fail
fi
# The work that `--autostash` has put aside for a rebase or a merge that has not ended has no reference.
for file in rebase-merge/autostash rebase-apply/autostash MERGE_AUTOSTASH; do
    file=$(git rev-parse --git-path "$file")
    [ -f "$file" ] || continue
    commit=$(head -c 64 -- "$file")
    ! git rev-parse --quiet --verify "$commit^{commit}" >/dev/null || echo "$commit autostash" >>"$notes/stashes"
done
number=0
while [ -n "$keeps" ] && read -r commit _; do
    number=$((number + 1))
    git update-ref "refs/clincus/stash/$number" "$commit" || fail
done <"$notes/stashes"

# The other work trees: the main one is the first that git lists. `tip` needs none, and no repository within.
number=0 heads=''
[ "$what" = tip ] || git worktree list --porcelain >"$notes/all trees" || fail
sed '1,/^$/d' "$notes/all trees" | sed -n 's/^worktree //p; s/^HEAD //p' >"$notes/trees"
while IFS= read -r place && read -r commit; do
    number=$((number + 1))
    # The folder of one in /tmp is gone after a restart, and git still has the commit that was checked out there.
    cd -- "$place" 2>/dev/null || {
        git rev-parse --quiet --verify "$commit^{commit}" >/dev/null || continue
        [ -z "$keeps" ] || git update-ref "refs/clincus/worktree/$number" "$commit" || fail
        heads="$heads $commit"
        continue
    }
    tip='' head=''
    snapshot || fail
    if [ -n "$tip" ]; then
        [ -z "$keeps" ] || git update-ref "refs/clincus/worktree/$number" "$tip" || fail
        heads="$heads $head"
        ! is_open "$tip" "$head" || note_changes "$tip" "$head" "${place##*/}/"
    fi
    cd -- "$OLDPWD" || exit 1
done <"$notes/trees"

# Brings everything with a name in a nested repository into this one, and its uncommitted work: take_nested FOLDER NUMBER
take_nested() {
    place="refs/clincus/nested/$2"
    set -- "$1" "+refs/heads/*:$place/*" "+refs/tags/*:$place/tags/*"
    [ -z "$open" ] || set -- "$@" "+$open:$place/uncommitted"
    ! timeout 20 git -C "$1" rev-parse --quiet --verify 'HEAD^{commit}' >/dev/null 2>&1 || set -- "$@" "+HEAD:$place/HEAD"
    count=0
    for commit in $(timeout 20 git -C "$1" reflog show --format=%H refs/stash -- 2>/dev/null); do
        count=$((count + 1))
        set -- "$@" "+$commit:$place/stash/$count"
    done
    # Whole groups, since a mirror has too many references for a command line: `notes/` is refs/notes/*.
    for group in $(timeout 20 git -C "$1" for-each-ref --format='%(refname)' | sed 's|^refs/||; s|/.*|/|' | sort -u); do
        case $group in heads/ | tags/ | remotes/ | stash) continue ;; */) group="$group*" ;; esac
        set -- "$@" "+refs/$group:$place/$group"
    done
    count=0
    for commit in $(timeout 20 git -C "$1" worktree list --porcelain | sed '1,/^$/d' | sed -n 's/^HEAD //p'); do
        count=$((count + 1))
        ! git -C "$1" rev-parse --quiet --verify "$commit^{commit}" >/dev/null ||
            set -- "$@" "+$commit:$place/worktree/$count"
    done
    folder=$1
    shift
    upload="git -c safe.directory=* -c uploadpack.allowAnySHA1InWant=true upload-pack"
    timeout 60 git fetch --quiet --no-tags --upload-pack="$upload" "./$folder" "$@" >&2
}
number=0
[ "$what" = tip ] || repositories_by_kind | tr '\n\0' '?\n' >"$notes/repositories"
while IFS= read -r line; do
    kind=${line%% *} path=${line#* } open=''
    number=$((number + 1))
    # The files of the other kind are those of the clone.
    if [ "$kind" = gitlink ] && [ "$what" != committed ] && cd -- "$path" 2>/dev/null; then
        snapshot || exit 1
        [ "$tip" = "$head" ] || open=$tip
        [ -z "$open" ] || note_changes "$tip" "$head" "$path/"
        cd -- "$OLDPWD" || exit 1
    fi
    revisions=--all
    ! timeout 20 git -C "$path" rev-parse --quiet --verify 'HEAD^{commit}' >/dev/null 2>&1 || revisions='--all HEAD'
    # shellcheck disable=SC2086 # words
    commits=$(timeout 20 git -C "$path" rev-list --count $revisions --not --remotes 2>/dev/null) || commits=unknown
    [ "$commits" = 0 ] || printf '%s\n' "$path" >>"$notes/nested"
    [ -z "$keeps" ] || [ "$commits$open" = 0 ] || take_nested "$path" "$number" || fail
done <"$notes/repositories"

if [ "$what" = committed ]; then
    head=$(git rev-parse --quiet --verify 'HEAD^{commit}') || head=''
    tip=$head
else
    snapshot || exit 1
fi
[ -n "$tip" ] || { echo "the clone has no commit and no file yet" >&2; exit 1; }
[ "$what" = count ] || git update-ref refs/clincus/tip "$tip" || fail
printf '%s %s %s\n' "$tip" "${head:--}" "$(git symbolic-ref --quiet HEAD)"
case $what in
count)
    ! is_open "$tip" "$head" || note_changes "$tip" "$head" ''
    # shellcheck disable=SC2086 # commits and options
    set -- $head $heads --branches $tags "$@" $known --not --remotes '--glob=refs/clincus/given/*'
    commits=$(git rev-list --count "$@") || exit 1
    [ "$commits" = 0 ] || git log --max-count=20 --no-show-signature --no-color --format='%h %s' "$@" >"$notes/commits"
    sed -i 's/^[^ ]* //' "$notes/stashes"
    unreadable_files >"$notes/unreadable"
    for kind in commits uncommitted stashes nested unreadable; do
        [ "$kind" = commits ] || commits=$(wc -l <"$notes/$kind")
        printf '%s %s\n' "$kind" "$((commits))"
        head -n 20 "$notes/$kind" | LC_ALL=C tr '\001-\011\013-\037\177' '?' | cut -b 1-500 | sed 's/^/	/'
    done
    ;;
tip)
    # shellcheck disable=SC2086
    [ "$(git rev-list --count "$tip" $known)" = 0 ] || git bundle create --quiet - refs/clincus/tip $known
    ;;
all | committed)
    set -- --branches $tags '--glob=refs/clincus/[!g]*' "$@"
    [ "$what" = all ] || for ref in HEAD refs/stash; do
        ! git rev-parse --quiet --verify "$ref^{commit}" >/dev/null || set -- "$@" "$ref"
    done
    # shellcheck disable=SC2086
    [ "$(git rev-list --count "$@" $known)" = 0 ] || git bundle create --quiet - "$@" $known
    ;;
esac
