"""Brings a clone's commits into the repository of this host as a branch.

The container's bundle goes into a Git folder of our own first, where git checks every object and looks for missing
ones. Only then does a pack of the objects that the branch needs go into the repository: see store.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

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
    """Git rejects the bundle that a clone sent."""


def branch_name(session: clincus.Session, asked: str) -> str:
    """The branch that a fetch of a session writes, by default `clincus/<name or id>`. Raises ClincusError(400)."""
    branch = asked or default_branch(session)
    is_valid = is_ref(f"refs/heads/{branch}") and not branch.startswith("-") and branch != "HEAD"
    if not is_valid or len(branch.encode()) > 250:
        shown = clincus.shorten(branch)
        raise clincus.ClincusError(f"{shown} cannot be the name of a branch: choose another", 400)
    return branch


def default_branch(session: clincus.Session) -> str:
    """`clincus/<name>` if git allows it, else `clincus/<id>`."""
    own = session.id.replace(":", "-")
    letters = [letter if letter.isalnum() or letter in "._-" else "-" for letter in session.name]
    branch = f"clincus/{''.join(letters).strip('-.') or own}"
    return branch if is_ref(f"refs/heads/{branch}") else f"clincus/{own}"


def fetch(sessions: clincus.Sessions, session: clincus.Session, asked: str) -> MovedBranch:
    """Bring the commits of a session's clone, and one commit of its uncommitted work, into the host's repository.

    HEAD, index, work tree and hooks of the host stay as they are. Raises ClincusError: 400 for the name of the branch,
    409 if it is checked out or has moved elsewhere, or if git rejects what the container sends.
    """
    branch = branch_name(session, asked)
    repository = find_repository(session.workspace, sessions.environ)
    check_target(session, repository, branch)
    ref = f"refs/heads/{branch}"
    state = read_state(sessions, session.id)
    with private_git(repository) as git:
        new = take_tip(sessions, session, git, known(git, state.known))
        git.output("update-ref", NEW, new)
        old = repository.refs.get(ref, "")
        check_move(git, branch, old, new, state.fetched.get(branch, ""))
        found = gitlinks_in(git, new)
        links = found.paths
        if repository.head:
            links -= gitlinks_in(git, repository.head).paths
        count = int(git.text("rev-list", "--count", new, "--not", "--branches", "--tags", "--remotes"))
        if new != old:
            land(git, repository, ref, new, f"clincus fetch {session.id}")
    fetched = dict(state.fetched)
    fetched.pop(branch, None)
    fetched[branch] = new  # as the latest one
    latest = dict([*fetched.items()][-FETCHED:])
    write_state(sessions, session.id, replace(state, fetched=latest))
    is_cut = found.is_cut or len(links) > TOLD_GITLINKS
    return MovedBranch(branch, new, count, tuple(sorted(links)[:TOLD_GITLINKS]), is_cut)


def check_target(session: clincus.Session, repository: Repository, branch: str) -> None:
    """Raise ClincusError(409) if a fetch cannot write a branch of a session's folder."""
    folder = session.workspace
    if not repository.folder:
        problem = f"'{folder}' is no Git repository: run `git init` there, and fetch again"
        raise clincus.ClincusError(problem, 409)
    if f"refs/heads/{branch}" in checked_out(repository):
        problem = f"the branch '{branch}' is checked out in '{folder}': fetch into another one"
        raise clincus.ClincusError(problem, "branch_conflict")


def take_tip(sessions: clincus.Sessions, session: clincus.Session, git: PrivateGit, commits: list[str]) -> str:
    """Fetch the tip of a clone into our own Git folder, and return its commit. Raises ClincusError(409).

    `commits` are those of the clone that are here. A clone that has lost them sends its whole history.
    """
    try:
        return take_beyond(sessions, session, git, commits)
    except UnfitBundleError:
        if not commits:
            raise
    return take_beyond(sessions, session, git, [])


def take_beyond(sessions: clincus.Sessions, session: clincus.Session, git: PrivateGit, commits: list[str]) -> str:
    """Fetch the tip of a clone, without the history of `commits`. Raises UnfitBundleError."""
    path = f"{git.folder}/incoming.bundle"
    told, size = take_bundle(sessions, session, "tip", commits, path)
    if os.geteuid() == 0:
        os.chown(path, *git.owner)
    return check_bundle(git, path, told) if size else known_tip(git, told)


class Gitlinks(NamedTuple):
    """The gitlinks of a commit."""

    paths: set[str]
    is_cut: bool  # the tree unfolds to more than was read


def gitlinks_in(git: PrivateGit, commit: str) -> Gitlinks:
    """The gitlinks of a commit, within our limits."""
    links: set[str] = set()
    rest = b""
    size = 0
    command = ("ls-tree", "-r", "-z", "--full-tree", commit)
    with suppress(clincus.ClincusError), git.stream(*command, timeout=60) as pieces:
        for piece in pieces:
            *entries, rest = (rest + piece).split(b"\0")
            for entry in entries:
                if entry.startswith(b"160000 "):
                    links.add(os.fsdecode(entry.partition(b"\t")[2]))
            size += len(piece)
            is_too_much = size > TREE_LIMIT or len(rest) > PATH_LIMIT
            if is_too_much or len(links) > FOUND_GITLINKS:
                break
        else:
            return Gitlinks(links, is_cut=False)  # unless git ends with an error
    return Gitlinks(links, is_cut=True)


def known_tip(git: PrivateGit, told: Told) -> str:
    """The tip of a clone that sent no bundle: it has nothing new. Raises ClincusError(409) if this host lacks it."""
    if not known(git, [told.tip]):
        raise UnfitBundleError("the clone says that it holds nothing new, but its commit is not here", 409)
    return told.tip


def check_bundle(git: PrivateGit, path: str, told: Told) -> str:
    """Unpack a bundle into our own Git folder and let git check it; returns its commit. Raises UnfitBundleError."""
    try:
        git.output("fetch", *QUIET, path, f"+refs/clincus/tip:{NEW}")
        new = git.text("rev-parse", "--verify", f"{NEW}^{{commit}}")
    except clincus.ClincusError as error:
        raise UnfitBundleError(f"git does not take what the clone sent: {error.message}", 409) from error
    if new != told.tip:
        raise UnfitBundleError("the clone sent another commit than it named", 409)
    return new


def check_move(git: PrivateGit, branch: str, old: str, new: str, fetched: str) -> None:
    """Raise ClincusError(409) if a fetch would remove commits from a branch.

    The commit of this session's last fetch may go: the branch's log still has it.
    """
    if not old or old in (new, fetched):
        return
    if git.run("merge-base", "--is-ancestor", old, new).code != 0:
        problem = f"the branch '{branch}' has moved elsewhere since it was fetched (now {old[:12]})"
        raise clincus.ClincusError(f"{problem}: merge it, or fetch into another branch", "branch_conflict")


def land(git: PrivateGit, repository: Repository, ref: str, new: str, message: str) -> None:
    """Copy a commit and the objects it needs into the repository, and set a branch to it. Raises ClincusError(409)."""
    pack = pack_of(git, new)
    check_layout(repository.workspace, repository.common)
    if pack:
        write_pack(repository, pack)
    move_branch(repository, ref, new, message)
    check_layout(repository.workspace, repository.common)
    check_landed(repository, ref, new, pack)


def pack_of(git: PrivateGit, new: str) -> str:
    """Pack the objects that a commit needs and no reference has; the pack's path without its ending, "" for no objects.

    Git reads and checks each object once more: the repository's own could have changed meanwhile, and git before 2.46
    does not look at what comes in a bundle (`transfer.fsckObjects` was for other ways). Raises ClincusError(409).
    """
    with open(f"{git.folder}/packed-refs", encoding="utf-8", errors="surrogateescape") as file:
        references = dict.fromkeys(line.partition(" ")[0] for line in file)
    asked = "\n".join([new, "--not", *references, ""]).encode()
    command = ("pack-objects", "--revs", "--non-empty", "--quiet", f"{git.folder}/pack")
    name = git.output(*command, stdin=asked).decode().strip()
    if not name:
        return ""
    pack = f"{git.folder}/pack-{name}"
    try:
        git.output("index-pack", "--strict", "-o", f"{git.folder}/checked.idx", f"{pack}.pack")
    except clincus.ClincusError as error:
        raise UnfitBundleError(f"git does not take what the clone sent: {error.message}", 409) from error
    return pack
