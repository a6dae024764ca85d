#!/bin/sh
# Comes before other programs: a function for the state of the clone as one commit.
#
# `snapshot` sets $head, the commit that is checked out (empty before the first one), and $tip: that commit if nothing
# is uncommitted, else one on top of it with all uncommitted work. The same state always gives the same commit.
# Index, branches and work tree stay as they are. The files of a repository within the work tree count as plain files,
# but one that is committed as a gitlink stays one. Files that the code user cannot read are left out, since one
# database of root's must not prevent all commits; `unreadable_files` prints them.
# A pipe in place of a repository's file blocks git for ever: `check_repository` then fails with words.

# Git reads no repository of another user, such as one that `sudo git clone` made, unless it is told to.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
most=200 # repositories within the work tree: each takes git some 20 ms, and the person waits
say_stuck() {
    echo "git in the container does not end: a repository in the clone may keep it waiting, with a named pipe in" \
        "its .git (\`find . -type p\` in a shell of the session shows them)" >&2
}
check_repository() {
    timeout 20 git rev-parse --git-dir >/dev/null || { [ "$?" != 124 ] || say_stuck; return 1; }
}
repositories() {
    # Prints the paths of the repositories in the work tree that are not ignored, outer ones first, and one more than
    # $most if there are more. Thousands of ignored ones, as of a cache, must not hide the others.
    # shellcheck disable=SC2016 # the inner shells have the paths
    {
        find . -mindepth 2 -path ./.git -prune -o -name .git -prune -print0 2>/dev/null |
            sed -z 's|^\./||; s|/\.git$||' | xargs -0 -r -n 500 sh -c '
                ignored() { printf "%s\0" "$@" | git check-ignore -z --stdin 2>/dev/null; }
                ignored "$@" >/dev/null
                if [ "$?" -le 1 ]; then
                    { printf "%s\0" "$@"; ignored "$@"; } | sort -z | uniq -z -u
                else # git refuses them all if one is within a submodule
                    for path; do git check-ignore --quiet -- "$path" 2>/dev/null || printf "%s\0" "$path"; done
                fi' batch
        git ls-tree -r -z HEAD 2>/dev/null | sed -z -n 's/^160000[^\t]*\t//p' |
            xargs -0 -r sh -c 'for path; do [ ! -e "$path/.git" ] || printf "%s\0" "$path"; done' links
    } | LC_ALL=C sort -z -u | head -z -n "$((most + 1))"
}
repositories_by_kind() {
    # Prints `KIND PATH` for each of `repositories`. It is a `gitlink` if HEAD has it as one (a submodule, or after
    # `git add` of a folder with a repository), else `nested`.
    # shellcheck disable=SC2016
    repositories | xargs -0 -r sh -c 'for path; do
        kind=nested
        case $(git ls-tree HEAD -- "$path" 2>/dev/null) in 160000*) kind=gitlink ;; esac
        printf "%s %s\0" "$kind" "$path"
    done' kinds
}
add_nested() {
    # Puts the files of the nested repositories into the index. Their own .gitignore holds.
    root=$(git rev-parse --show-toplevel) folder=$(git rev-parse --absolute-git-dir)
    export root folder
    # shellcheck disable=SC2016
    sed -z -n 's/^nested //p' "$GIT_INDEX_FILE.repositories" | xargs -0 -r sh -c 'for path; do
        git update-index --force-remove -- "$path"
        (
            cd -- "$path" && {
                env -u GIT_INDEX_FILE timeout 20 git ls-files --cached --others --exclude-standard -z ||
                    find . -name .git -prune -o ! -type d -printf "%P\0"
            } | git --git-dir="$folder" --work-tree="$root" update-index --add --remove --ignore-missing -z --stdin
        )
    done' nested
}
unreadable_files() {
    # Prints the paths that are not ignored, a line for each. The first three fields of one are empty if no pattern
    # matches it, and the third one begins with `!` if a pattern takes it in again.
    find . -path ./.git -prune -o ! -readable ! -type l -print0 2>/dev/null | tr '\n' '?' |
        git check-ignore --stdin -z -v -n 2>/dev/null | tr '\0' '\n' | paste - - - - |
        sed -n 's|^\t\t\t\./||p; s|^[^\t]*\t[0-9]*\t![^\t]*\t\./||p'
}
trust_no_flags() {
    # Lets git look at the files of the index that it shall take for unchanged (`git update-index --assume-unchanged`).
    # One that is not there may be outside of a sparse checkout, and stays as it is.
    # shellcheck disable=SC2016
    git ls-files -v -z | sed -z -n 's/^[a-zS] //p' |
        xargs -0 -r sh -c 'for path; do
            [ ! -e "$path" ] && [ ! -L "$path" ] || printf "%s\0" "$path"
        done' flags >"$GIT_INDEX_FILE.flags"
    for flag in assume-unchanged skip-worktree; do
        [ ! -s "$GIT_INDEX_FILE.flags" ] || git update-index "--no-$flag" -z --stdin <"$GIT_INDEX_FILE.flags"
    done
    rm -f -- "$GIT_INDEX_FILE.flags"
}
left_out() {
    # Prints the paths that the index lacks, except unreadable files and repositories.
    {
        unreadable_files
        unreadable_files
        git ls-files --others --modified --exclude-standard -z | tr '\n\0' '?\n'
    } | sort | uniq -u | grep -v '/$'
}
# shellcheck disable=SC2034 # the programs behind it read what it sets
snapshot() {
    check_repository || return 1
    head=$(git rev-parse --quiet --verify 'HEAD^{commit}') || head=''
    index=$(git rev-parse --absolute-git-dir)/clincus-index.$$ # several may look at the same time
    [ ! -f "$(git rev-parse --git-path index)" ] || cp -- "$(git rev-parse --git-path index)" "$index"
    repositories_by_kind >"$index.repositories" || { rm -f -- "$index"; return 1; }
    [ "$(tr -dc '\0' <"$index.repositories" | wc -c)" -le "$most" ] || {
        echo "more than $most repositories are in the clone, so not all work in them can be found: delete those that" \
            "nobody needs, or name their folders in .gitignore" >&2
        rm -f -- "$index" "$index.repositories"
        return 1
    }
    tree=$(
        export GIT_INDEX_FILE="$index"
        trust_no_flags >&2
        timeout 60 git add --all --ignore-errors -- . >&2 || {
            [ "$?" != 124 ] || { say_stuck; exit 1; }
            # An unreadable file, or a repository without a commit, must not prevent all others.
            [ -z "$(left_out)" ] || exit 1
        }
        add_nested >&2
        git write-tree
    ) || tree=''
    rm -f -- "$index" "$index.repositories"
    [ -n "$tree" ] || return 1
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
