#!/bin/sh
# Goes in front of other programs: a function for the state of the clone as one commit.
#
# `snapshot` sets $head, the commit that is checked out (empty before the first one), and $tip: that commit if nothing
# is uncommitted, else one on top of it with all that is. The same state gives the same commit, whenever it is taken.
# Index, branches and work tree stay as they are.
# shellcheck disable=SC2034 # the programs behind it read $tip
snapshot() {
    head=$(git rev-parse --quiet --verify 'HEAD^{commit}') || head=''
    index=$(git rev-parse --git-dir)/clincus-index
    rm -f -- "$index"
    [ ! -f "$(git rev-parse --git-path index)" ] || cp -- "$(git rev-parse --git-path index)" "$index"
    tree=$(GIT_INDEX_FILE=$index && export GIT_INDEX_FILE && git add --all -- . >&2 && git write-tree) || return 1
    rm -f -- "$index"
    tip=$head
    [ -n "$head" ] && [ "$tree" = "$(git rev-parse "$head^{tree}")" ] && return
    date="@$(git log -1 --format=%ct "$head" -- 2>/dev/null || echo 0) +0000"
    tip=$(
        export GIT_AUTHOR_NAME=Clincus GIT_AUTHOR_EMAIL=clincus@localhost GIT_AUTHOR_DATE="$date"
        export GIT_COMMITTER_NAME=Clincus GIT_COMMITTER_EMAIL=clincus@localhost GIT_COMMITTER_DATE="$date"
        # shellcheck disable=SC2086 # no parent, or one
        git commit-tree "$tree" ${head:+-p $head} -m 'Uncommitted changes of the session'
    )
}
