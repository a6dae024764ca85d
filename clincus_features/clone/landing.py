"""Bringing a clone's commits into the repository of this host as a branch.

The container's bundle is unpacked into a Git folder of our own first, where git checks every object and that none is
missing. Only then is a pack of what the branch needs copied into the repository: see store.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

import clincus

from .private import PrivateGit, known, private_git
from .repository import Repository, check_layout, checked_out, find_repository, is_ref
from .store import check_landed, move_branch, write_pack
from .transfer import FETCHED, MovedBranch, Told, read_state, take_bundle, write_state

QUIET = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules")
NEW = "refs/clincus/new"
TREE_LIMIT = 64 << 20  # bytes of a list of files that are looked through for gitlinks
PATH_LIMIT = 1 << 16  # bytes
FOUND_GITLINKS = 10_000
TOLD_GITLINKS = 100


class UnfitBundleError(clincus.ClincusError):
    """Git does not take what a clone sent."""


def branch_name(session: clincus.Session, asked: str) -> str:
    """The branch that a session is fetched as: `clincus/<name or id>` by default. Raises ClincusError(400)."""
    if not asked:
        own = session.id.replace(":", "-")
        name = "".join(char if char.isalnum() or char in "._-" else "-" for char in session.name).strip("-.")
        asked = f"clincus/{name or own}"
        if not is_ref(f"refs/heads/{asked}"):
            asked = f"clincus/{own}"
    if not is_ref(f"refs/heads/{asked}") or asked.startswith("-") or asked == "HEAD" or len(asked.encode()) > 250:
        raise clincus.ClincusError(f"{clincus.shorten(asked)} cannot be the name of a branch", 400)
    return asked


def fetch(sessions: clincus.Sessions, session: clincus.Session, asked: str) -> MovedBranch:
    """Bring the commits of a session's clone, and as one commit what is uncommitted, into the host's repository.

    HEAD, index, work tree and hooks of the host are not touched. Raises ClincusError: 400 for the name of the branch,
    409 if it is checked out or moved elsewhere, or if the container sends what git does not take.
    """
    branch = branch_name(session, asked)
    repository = find_repository(session.workspace, sessions.environ)
    if not repository.folder:
        words = f"'{session.workspace}' is no Git repository: run `git init` there, and fetch again"
        raise clincus.ClincusError(words, 409)
    ref = f"refs/heads/{branch}"
    if ref in checked_out(repository):
        words = f"the branch '{branch}' is checked out in '{session.workspace}': fetch into another one"
        raise clincus.ClincusError(words, 409)
    state = read_state(sessions, session.id)
    with private_git(repository) as git:
        path = f"{git.folder}/incoming.bundle"

        def take(commits: list[str]) -> str:
            told, size = take_bundle(sessions, session, "tip", commits, path)
            if os.geteuid() == 0:
                os.chown(path, *repository.owner)
            return check_bundle(git, path, told) if size else known_tip(git, told)

        commits = known(git, state.known)
        try:
            new = take(commits)
        except UnfitBundleError:
            # The clone may have lost what it could build on. Its whole history stands for itself.
            if not commits:
                raise
            new = take([])
        git.output("update-ref", NEW, new)
        old = repository.refs.get(ref, "")
        check_move(git, branch, old, new, state.fetched.get(branch, ""))
        links = gitlinks_in(git, new) - (gitlinks_in(git, repository.head) if repository.head else set())
        count = int(git.text("rev-list", "--count", new, "--not", "--branches", "--tags", "--remotes"))
        if new != old:
            land(git, repository, ref, new, f"clincus fetch {session.id}")
    fetched = {**{name: at for name, at in state.fetched.items() if name != branch}, branch: new}
    write_state(sessions, session.id, replace(state, fetched=dict([*fetched.items()][-FETCHED:])))
    return MovedBranch(branch, new, count, tuple(sorted(links)[:TOLD_GITLINKS]))


def gitlinks_in(git: PrivateGit, commit: str) -> set[str]:
    """The gitlinks of a commit. Of a tree that unfolds to more than is read, those that came first."""
    found: set[str] = set()
    rest, size = b"", 0
    with suppress(clincus.ClincusError), git.stream("ls-tree", "-r", "-z", "--full-tree", commit, timeout=60) as pieces:
        for piece in pieces:
            *entries, rest = (rest + piece).split(b"\0")
            found.update(os.fsdecode(one.partition(b"\t")[2]) for one in entries if one.startswith(b"160000 "))
            size += len(piece)
            if size > TREE_LIMIT or len(rest) > PATH_LIMIT or len(found) > FOUND_GITLINKS:
                break
    return found


def known_tip(git: PrivateGit, told: Told) -> str:
    """The tip of a clone that sent no bundle, as it has nothing new. Raises ClincusError(409) if that is not so."""
    if not known(git, [told.tip]):
        raise UnfitBundleError("the clone says that it holds nothing new, but its commit is not here", 409)
    return told.tip


def check_bundle(git: PrivateGit, path: str, told: Told) -> str:
    """Unpack a bundle into our own Git folder and let git check it; its commit. Raises ClincusError(409)."""
    try:
        git.output("fetch", *QUIET, path, f"+refs/clincus/tip:{NEW}")
        new = git.text("rev-parse", "--verify", f"{NEW}^{{commit}}")
    except clincus.ClincusError as error:
        raise UnfitBundleError(f"git does not take what the clone sent: {error.message}", 409) from error
    if new != told.tip:
        raise UnfitBundleError("the clone sent another commit than it named", 409)
    return new


def check_move(git: PrivateGit, branch: str, old: str, new: str, fetched: str) -> None:
    """Raise ClincusError(409) if a branch has commits that a fetch would take away.

    A commit that this session was fetched as before may go: the branch's log still has it.
    """
    if not old or old in (new, fetched):
        return
    if git.run("merge-base", "--is-ancestor", old, new).code != 0:
        words = f"the branch '{branch}' has moved elsewhere since it was fetched (now {old[:12]})"
        raise clincus.ClincusError(f"{words}: merge it, or fetch into another branch", 409)


def land(git: PrivateGit, repository: Repository, ref: str, new: str, message: str) -> None:
    """Copy a commit, with what it needs, into the repository, and let a branch name it. Raises ClincusError(409)."""
    pack = pack_of(git, new)
    check_layout(repository.workspace, repository.common)
    if pack:
        write_pack(repository, pack)
    move_branch(repository, ref, new, message)
    check_layout(repository.workspace, repository.common)
    check_landed(repository, ref, new, pack)


def pack_of(git: PrivateGit, new: str) -> str:
    """A pack in our own Git folder of what a commit needs and no reference has, without its ending; "" if that is none.

    Git reads each object of it once more: those of the repository could have been changed meanwhile.
    """
    with open(f"{git.folder}/packed-refs", encoding="utf-8", errors="surrogateescape") as file:
        known_ones = dict.fromkeys(line.partition(" ")[0] for line in file)
    asked = "\n".join([new, "--not", *known_ones, ""]).encode()
    names = git.output("pack-objects", "--revs", "--non-empty", "--quiet", f"{git.folder}/pack", stdin=asked)
    if not names.strip():
        return ""
    pack = f"{git.folder}/pack-{names.decode().strip()}"
    git.output("verify-pack", f"{pack}.idx")
    return pack
