#!/bin/sh
# Tells what the clone holds, or sends it: clone-out.sh FOLDER WHAT [COMMIT...]
#
# The first line is `TIP HEAD COUNT BRANCH`: TIP as of `snapshot`, HEAD or `-`, the number of commits on any branch or
# in TIP that neither the COMMITs nor the branches of any remote have, and the branch that is checked out or nothing.
# After that, with WHAT `tip`, a bundle of TIP without what the COMMITs have, and with `all` one of every branch and of
# TIP. With `count` nothing.
# shellcheck disable=SC2154 # `snapshot` sets $tip and $head
cd -- "$1" 2>/dev/null || { echo "the clone is gone: there is no $1 in the container" >&2; exit 1; }
what=$2
shift 2
git rev-parse --git-dir >/dev/null || exit 1
known=''
for commit in "$@"; do
    ! git rev-parse --quiet --verify "$commit^{commit}" >/dev/null 2>&1 || known="$known ^$commit"
done
snapshot || exit 1
[ -n "$tip" ] || { echo "the clone has no commit and no file yet" >&2; exit 1; }
git update-ref refs/clincus/tip "$tip" || exit 1
# shellcheck disable=SC2086 # commits
count=$(git rev-list --count "$tip" --branches $known --not --remotes) || exit 1
echo "$tip ${head:--} $count $(git symbolic-ref --quiet HEAD)"
case $what in
tip)
    # shellcheck disable=SC2086
    [ "$(git rev-list --count "$tip" $known)" = 0 ] || git bundle create --quiet - refs/clincus/tip $known
    ;;
all)
    # shellcheck disable=SC2086
    [ "$count" = 0 ] || git bundle create --quiet - refs/clincus/tip --branches $known
    ;;
esac
