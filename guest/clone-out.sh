#!/bin/sh
# Tells what the clone holds, or sends it: clone-out.sh FOLDER WHAT [COMMIT...]
#
# The first line is `TIP HEAD COMMITS OPEN STASHES TREES UNREADABLE BRANCH`: TIP as of `snapshot`; HEAD or `-`; the number
# of commits of any branch, tag or work tree that neither the COMMITs nor the branches of any remote have; 1 if the COMMITs
# lack what is uncommitted, else 0; the number of stashes, of other work trees with something uncommitted, and of files
# that cannot be read; the branch that is checked out or nothing. The second line has the names of repositories within
# that have commits of their own, with a tab behind each.
# After that, with WHAT `tip`, a bundle of TIP without what the COMMITs have, and with `all` one of every branch, tag,
# stash and work tree, of the repositories within, and of TIP; with `committed` the same without what is uncommitted here,
# for a full disk. With `count` nothing.
# shellcheck disable=SC2154 # `snapshot` sets $tip, $head and $unreadable
cd -- "$1" 2>/dev/null || { echo "the clone is gone: there is no $1 in the container" >&2; exit 1; }
what=$2
shift 2
check_repository || exit 1
known=''
for commit in "$@"; do
    ! git rev-parse --quiet --verify "$commit^{commit}" >/dev/null 2>&1 || known="$known ^$commit"
done
# A clone that an older Clincus made has not noted which tags it was given: they would count as the agent's.
tags=''
[ "$(git config --local clincus.given)" != tags ] || tags=--tags
git for-each-ref --format='delete %(refname)' refs/clincus/stash refs/clincus/worktree refs/clincus/nested |
    git update-ref --stdin || exit 1

stashes=0
for commit in $(git reflog show --format=%H refs/stash -- 2>/dev/null); do
    stashes=$((stashes + 1))
    git update-ref "refs/clincus/stash/$stashes" "$commit" || exit 1
done

# The other work trees: the main one is the first that git lists.
trees=0 number=0 heads=''
list=$(mktemp) || exit 1
trap 'rm -f -- "$list"' EXIT
git worktree list --porcelain | sed -n 's/^worktree //p' | sed 1d >"$list"
while IFS= read -r place; do
    number=$((number + 1))
    if cd -- "$place" 2>/dev/null && snapshot && [ -n "$tip" ]; then
        git update-ref "refs/clincus/worktree/$number" "$tip" || exit 1
        heads="$heads $head"
        # shellcheck disable=SC2086 # commits
        [ "$tip" = "$head" ] || [ "$(git rev-list --count "$tip" $known)" = 0 ] || trees=$((trees + 1))
    fi
    cd -- "$OLDPWD" || exit 1
done <"$list"

names='' number=0
nested_repositories >"$list"
while IFS= read -r path; do
    [ -n "$path" ] || continue
    number=$((number + 1))
    [ "$(timeout 20 git -C "$path" rev-list --count --all --not --remotes 2>/dev/null || echo 0)" != 0 ] || continue
    names="$names$(printf '%s' "$path" | tr '[:cntrl:]' '?')	"
    case $what in all | committed) timeout 60 git fetch --quiet --no-tags "./$path" "+refs/heads/*:refs/clincus/nested/$number/*" >&2 ;; esac
done <<END
$(tr '\n\0' '?\n' <"$list")
END

if [ "$what" = committed ]; then
    head=$(git rev-parse --quiet --verify 'HEAD^{commit}') || head=''
    tip=$head unreadable=0
else
    snapshot || exit 1
fi
[ -n "$tip" ] || { echo "the clone has no commit and no file yet" >&2; exit 1; }
git update-ref refs/clincus/tip "$tip" || exit 1
given='--remotes --glob=refs/clincus/given/*'
# shellcheck disable=SC2086 # commits and options
count=$(git rev-list --count $head $heads --branches $tags $known --not $given) || exit 1
open=0
# shellcheck disable=SC2086
[ "$tip" = "$head" ] || [ "$(git rev-list --count "$tip" ^HEAD $known)" = 0 ] || open=1
[ -n "$head" ] || open=1
echo "$tip ${head:--} $count $open $stashes $trees $unreadable $(git symbolic-ref --quiet HEAD)"
printf '%s\n' "$names"
case $what in
tip)
    # shellcheck disable=SC2086
    [ "$(git rev-list --count "$tip" $known)" = 0 ] || git bundle create --quiet - refs/clincus/tip $known
    ;;
all | committed)
    # shellcheck disable=SC2086
    [ "$(git rev-list --count --branches $tags --glob='refs/clincus/[!g]*' $known)" = 0 ] ||
        git bundle create --quiet - --branches $tags --glob='refs/clincus/[!g]*' $known
    ;;
esac
