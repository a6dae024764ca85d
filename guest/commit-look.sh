#!/bin/sh
# Prints the draft of a commit of the workspace, each field with a NUL after it.
#
# Argument: the workspace. The fields: the short name of the branch (empty at a commit); the commit that is checked out
# (empty before the first one); the operation in progress (empty without one); name and e-mail of the
# repository's own configuration; the names of the hooks that a commit runs, with blanks between. Then the entries of
# `git status --porcelain -z`, a changed file each. Exits with 3 if the top of the workspace is no repository.
# A pipe in place of a repository's file blocks git for ever. So each command has a time limit.
cd -- "$1" || exit 1
GIT_OPTIONAL_LOCKS=0
export GIT_OPTIONAL_LOCKS
ask() { timeout 20 git -c core.fsmonitor=false "$@"; }
top=$(ask rev-parse --show-toplevel 2>/dev/null)
[ "$top" = "$(pwd -P)" ] || exit 3
printf '%s\0' "$(ask symbolic-ref --quiet --short HEAD)"
printf '%s\0' "$(ask rev-parse --quiet --verify 'HEAD^{commit}')"
operation=''
for name in MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD rebase-merge rebase-apply; do
    [ ! -e "$(ask rev-parse --git-path "$name")" ] || operation=$name
done
printf '%s\0' "$operation"
for key in user.name user.email; do printf '%s\0' "$(ask config --local --get "$key" | tr -d '\n')"; done
hooks=''
for hook in pre-commit prepare-commit-msg commit-msg post-commit; do
    [ ! -x "$(ask rev-parse --git-path "hooks/$hook")" ] || hooks="$hooks${hooks:+ }$hook"
done
printf '%s\0' "$hooks"
exec timeout 60 git -c core.fsmonitor=false status --porcelain=v1 -z --no-renames --untracked-files=all
