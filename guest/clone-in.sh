#!/bin/sh
# Makes a clone from a bundle on stdin: clone-in.sh FOLDER FORMAT BRANCH COMMIT NAME EMAIL
#
# FORMAT is the repository's object format. BRANCH is the reference to check out, empty for none, at COMMIT. Without
# COMMIT there is nothing on stdin, and nothing is checked out. As in any clone, the branches of the repository that it
# was made from are remote branches here: those of `host`. Commits have the author NAME and EMAIL, if they are not empty.
set -eu
command -v git >/dev/null || { echo "the image has no git: build one with \`clincus build\`" >&2; exit 1; }
cd -- "$1"
format=$2 branch=$3 commit=$4
export GIT_LFS_SKIP_SMUDGE=1
git init --quiet --object-format="$format"
[ -z "$branch" ] || git symbolic-ref HEAD "$branch"
[ -z "$5" ] || git config --local user.name "$5"
[ -z "$6" ] || git config --local user.email "$6"
[ -n "$commit" ] || exit 0
# The output has the form of git's own list of references. stdin itself belongs to root: git may open `cat`'s output.
cat | git bundle unbundle /dev/stdin >.git/clincus-refs
{
    sed -n 's/ refs\/tags\// refs\/clincus\/given\//p' .git/clincus-refs
    sed -n '/ refs\/remotes\/host\//d; s/ refs\/heads\// refs\/remotes\/host\//; / refs\//p' .git/clincus-refs
} >.git/packed-refs
git config --local clincus.given tags
rm .git/clincus-refs
if [ -n "$branch" ]; then git update-ref "$branch" "$commit"; else git update-ref --no-deref HEAD "$commit"; fi
git reset --quiet --hard
