"""Moves work between a clone in a container and this host: makes the clone, takes bundles of it, gives it branches."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import clincus

from .overlay import Overlay, find_overlay, read_files
from .private import is_commit, known, private_git
from .repository import Repository, check_layout, find_repository, refusal, starting_at

LABEL = clincus.LABEL + "clone"
TRANSFER_TIMEOUT = 3600  # seconds for a bundle or a tar on its way
SMALL_TIMEOUT = 120  # seconds for git in the container to look at the work tree, or to send the next STEP
FETCHED = 50  # branches that a session remembers
FIRST_COMMIT = "The folder as it was"
TOLD = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{40}|[0-9a-f]{64}|-) ([^\n]*)\n")
LINE = 4096  # bytes of a clone's statement about itself
KINDS = ("commits", "uncommitted", "stashes", "nested", "unreadable")  # keys of clincus.LOSSES that a clone counts
COUNT = re.compile(rf"({'|'.join(KINDS)}) (\d{{1,9}})")
UNREADABLE_LIMIT = 1 << 20  # bytes of the paths of files that only root can read
COUNT_LIMIT = 1 << 18  # bytes of all counts, with their names

clincus.register_settings(
    clincus.Setting("clone.size_limit", "4GiB", clincus.matching(clincus.SIZE, f"write {clincus.WRITE_SIZE}"))
)


@dataclass(frozen=True)
class State:
    """The knowledge of this host about a clone, in a label of its instance, which no container can change."""

    base: str = ""  # the host's commit that the clone was made from
    start: str = ""  # the clone's commit of `snapshot` when the tool started
    fetched: Mapping[str, str] = field(default_factory=dict)  # branch of the host -> the last commit fetched into it
    given: Sequence[str] = ()  # commits of the host that were pushed to the clone

    @property
    def known(self) -> list[str]:
        """The commits of the clone that this host has, with all before them."""
        commits = (self.base, *self.fetched.values(), *self.given)
        return [commit for commit in dict.fromkeys(commits) if commit]


class MovedBranch(NamedTuple):
    """A branch that was fetched or pushed, in the form of the API."""

    branch: str
    head: str
    commits: int  # number of commits that no branch there had before
    gitlinks: tuple[str, ...] = ()  # new submodule folders in a fetch
    gitlinks_truncated: bool = False  # there are more


class Told(NamedTuple):
    """A clone's statement about itself, which may be a lie."""

    tip: str  # the checked-out commit, or a commit of the uncommitted work on top of it
    head: str  # the checked-out commit; empty before the first one
    branch: str  # the short name of the checked-out branch; empty for a commit


def read_state(sessions: clincus.Sessions, id: str) -> State:
    """The state of a session's clone. Raises ClincusError."""
    return find_state(sessions, id) or State()


def find_state(sessions: clincus.Sessions, id: str) -> State | None:
    """The state of a session's clone, None for a clone that was never finished. Raises ClincusError.

    The tool starts only in a finished clone.
    """
    instance = sessions.door(id).instance(id) or {"config": {}}
    label = instance["config"].get(LABEL)
    if label is None:
        return None
    return State(**clincus.parse_json(label or "{}"))


def write_state(sessions: clincus.Sessions, id: str, state: State, **labels: str) -> None:
    """Write the state of a session's clone, and more of its labels. Raises ClincusError."""
    changed = {LABEL: json.dumps(vars(state))}
    for name, value in labels.items():
        changed[clincus.LABEL + name] = value
    incus = sessions.door(id)
    incus.query(incus.path(id), "PATCH", {"config": changed}, wait=True)


# -- Making a clone


@dataclass(frozen=True)
class Source:
    """The source of a clone, found before there is a container."""

    repository: Repository
    overlay: Overlay
    notes: tuple[str, ...]

    @classmethod
    def find(cls, workspace: str, branch: str, environ: Mapping[str, str], limit: int) -> Source:
        """Look at a folder of this host. Raises ClincusError: 400 for the branch, 409 for the folder."""
        repository = find_repository(workspace, environ)
        if branch:
            repository = starting_at(repository, branch)
        overlay = Overlay()
        with private_git(repository) as git:
            if repository.head and not is_commit(git, repository.head):
                problem = f"its HEAD, {repository.head[:12]}, is no commit that is there"
                raise refusal(workspace, f"{problem}. `git fsck` shows the missing objects")
            if git.work_tree:
                overlay = find_overlay(git, repository, limit)
        notes = []
        if repository.holder:
            holder = repository.holder
            notes.append(f"the clone has this folder alone, without the repository of '{holder}'")
        if repository.is_sparse:
            notes.append("the clone has all files, not those of the sparse checkout alone")
        return cls(repository, overlay, (*notes, *overlay.notes))


def make_clone(sessions: clincus.Sessions, source: Source, kept: str, session: clincus.Session) -> None:
    """Make the clone of a new session in its container. Raises ClincusError; then nothing stays.

    `kept` is the bundle of an earlier container of the session, "" without one.
    """
    guest = sessions.guest(session)
    door = sessions.door(session.id)
    program = clincus.guest_command("clone-folder", guest.mount, str(guest.uid))
    done = door.exec(session.id, program)
    if done.code != 0:
        raise door.guest_failure(session.id, done)
    send_commits(sessions, session, source.repository)
    start = lay_overlay(sessions, session, source)
    notes = [*source.notes]
    if kept:
        notes.append(put_back(sessions, session, kept))
    for note in notes:
        sessions.report(f"{session.id}: {note}")
    state = State(source.repository.head, start)
    warnings = "\n".join((*session.warnings, *notes))
    write_state(sessions, session.id, state, warnings=warnings)


def send_commits(sessions: clincus.Sessions, session: clincus.Session, repository: Repository) -> None:
    """Make the repository of a clone, with all commits of the host's. Raises ClincusError."""
    words = (
        sessions.guest(session).mount,
        repository.object_format,
        repository.branch,
        repository.head,
        *repository.author,
    )
    if not repository.head:
        sessions.output(session, "clone-in", *words)
        return
    with private_git(repository) as git:
        command = ("bundle", "create", "--quiet", "-", "--all")
        with git.stream(*command, timeout=TRANSFER_TIMEOUT) as bundle:
            sessions.output(session, "clone-in", *words, stdin=bundle, timeout=TRANSFER_TIMEOUT)
        # A session that has the folder mounted may have changed its layout since the look at it.
        check_layout(repository.workspace, repository.common)


def lay_overlay(sessions: clincus.Sessions, session: clincus.Session, source: Source) -> str:
    """Bring the uncommitted changes into a clone; returns the commit of its snapshot. Raises ClincusError."""
    guest = sessions.guest(session)
    repository = source.repository
    removed = b"".join(os.fsencode(path) + b"\0" for path in source.overlay.removed)
    files = read_files(repository.workspace, source.overlay.files)
    archive = clincus.pack_files(files, guest.uid, guest.uid, 0o755)
    told = sessions.output(
        session,
        "clone-snapshot clone-lay",
        guest.mount,
        str(len(removed)),
        "" if repository.folder else FIRST_COMMIT,
        stdin=itertools.chain([removed], archive),
        timeout=TRANSFER_TIMEOUT,
    )
    return told.decode("ascii", "replace").strip()[:64]


def put_back(sessions: clincus.Sessions, session: clincus.Session, kept: str) -> str:
    """Give a new clone the work of the session's last one, as branches of a remote `kept`; returns a note on it."""
    mount = sessions.guest(session).mount
    try:
        with open(kept, "rb") as file:
            pieces = iter(lambda: file.read(1 << 16), b"")
            sessions.output(session, "clone-kept", mount, stdin=pieces, timeout=TRANSFER_TIMEOUT)
    except (OSError, clincus.ClincusError) as error:
        return f"the work of its last clone was not put back, and is still in {kept}: {error}"
    return "the work of its last clone is in branches kept/…, and its last state in kept/uncommitted"


# -- Work from a clone


def unfetched(sessions: clincus.Sessions, session: clincus.Session) -> dict[str, clincus.Loss]:
    """The work in a session's clone that no fetch has brought here, by kind. Raises ClincusError.

    It is {} for a clone that was never finished.
    """
    state = find_state(sessions, session.id)
    if state is None:
        return {}
    told = sessions.output(
        session,
        "clone-snapshot clone-out",
        sessions.guest(session).mount,
        "count",
        state.start or "-",
        *state.known,
        timeout=SMALL_TIMEOUT,
        limit=COUNT_LIMIT,
    )
    line, _, counts = told.partition(b"\n")
    parse_told(line + b"\n")
    return parse_counts(counts)


def parse_told(line: bytes) -> Told:
    """Read the first line of guest/clone-out.sh. Raises ClincusError(409) for any other."""
    match = TOLD.fullmatch(line)
    if match is None:
        raise no_git()
    tip, head, branch = (field.decode("utf-8", "replace") for field in match.groups())
    return Told(
        tip=tip,
        head="" if head == "-" else head,
        branch=clincus.printable(branch.removeprefix("refs/heads/"))[:250],
    )


def parse_counts(data: bytes) -> dict[str, clincus.Loss]:
    """Read the counts of guest/clone-out.sh. Raises ClincusError(409) if a kind is missing."""
    numbers: dict[str, int] = {}
    names: dict[str, list[str]] = {kind: [] for kind in KINDS}
    kind = ""
    for line in data.decode("utf-8", "replace").split("\n"):
        match = COUNT.fullmatch(line)
        if match:
            kind = match[1]
            numbers[kind] = int(match[2])
        elif kind and line.startswith("\t") and len(names[kind]) < clincus.LOSS_NAMES:
            names[kind].append(line[1:])
    if numbers.keys() != set(KINDS):
        raise no_git()
    return {kind: clincus.Loss.of(names[kind], number) for kind, number in numbers.items()}


def no_git() -> clincus.ClincusError:
    """The error for an answer that git does not give."""
    problem = "git in the container does not answer as git: the clone cannot be read. Look in the session's shell"
    return clincus.ClincusError(problem, 409)


def take_bundle(
    sessions: clincus.Sessions, session: clincus.Session, what: str, known: Sequence[str], path: str
) -> tuple[Told, int]:
    """Write a bundle of the clone's `tip`, or of `all` its branches, to a file; its statement, and the bundle's bytes.

    Raises ClincusError(409) if it is larger than the setting allows, and OSError for a fault of this host.
    """
    limit = clincus.size_bytes(sessions.load().get("clone.size_limit"))
    words = (sessions.guest(session).mount, what, "-", *known)
    with sessions.open(session, "clone-snapshot clone-out", *words, timeout=SMALL_TIMEOUT) as (stdin, stream):
        line = stream.readline(LINE)
        # Without a line the program has failed, and the end of the block says why.
        told = parse_told(line) if line else None
        size = clincus.receive_file(
            stdin,
            stream,
            path,
            limit=limit,
            patience=SMALL_TIMEOUT,
            limited_by=" (clone.size_limit)",
        )
    return told or parse_told(b""), size


def unreadable_files(sessions: clincus.Sessions, session: clincus.Session) -> list[str]:
    """The paths of a clone's files that its code user cannot read. Raises ClincusError."""
    told = sessions.output(
        session,
        "clone-snapshot clone-unreadable",
        sessions.guest(session).mount,
        timeout=SMALL_TIMEOUT,
        limit=UNREADABLE_LIMIT,
    )
    return [os.fsdecode(path) for path in told.split(b"\n")[:-1]]


# -- Commits for a clone


def give_branch(sessions: clincus.Sessions, session: clincus.Session, branch: str) -> MovedBranch:
    """Give a clone the newer commits of a branch of this host as `host/BRANCH`.

    Raises ClincusError: 400 for the branch, 409 for the folder.
    """
    state = read_state(sessions, session.id)
    folder = session.workspace
    repository = find_repository(folder, sessions.environ)
    if not repository.folder:
        raise clincus.ClincusError(f"'{folder}' is no Git repository: there is nothing to push", 409)
    branch = branch or repository.branch.removeprefix("refs/heads/")
    commit = repository.refs.get(f"refs/heads/{branch}", "")
    if not commit:
        raise clincus.ClincusError(
            f"'{folder}' has no branch {clincus.shorten(branch)}: `git branch` lists those that it has", 400
        )
    there = commits_there(sessions, session, [commit, *state.known])
    words = (sessions.guest(session).mount, f"refs/remotes/host/{branch}", commit)
    with private_git(repository) as git:
        without = [f"^{name}" for name in known(git, there)]
        count = int(git.text("rev-list", "--count", commit, *without))
        if commit in there:
            sessions.output(session, "clone-more", *words)
        else:
            command = ("bundle", "create", "--quiet", "-", f"refs/heads/{branch}", *without)
            with git.stream(*command, timeout=TRANSFER_TIMEOUT) as bundle:
                sessions.output(session, "clone-more", *words, "bundle", stdin=bundle, timeout=TRANSFER_TIMEOUT)
            check_layout(repository.workspace, repository.common)
    given = [*state.given, commit][-FETCHED:]
    write_state(sessions, session.id, replace(state, given=given))
    return MovedBranch(f"host/{branch}", commit, count)


def commits_there(sessions: clincus.Sessions, session: clincus.Session, commits: Sequence[str]) -> list[str]:
    """The commits among some that a clone says it has. A clone that lies gets a bundle that it cannot use."""
    answer = sessions.output(
        session,
        "clone-known",
        sessions.guest(session).mount,
        *commits,
        timeout=SMALL_TIMEOUT,
        limit=len(commits) * (len(commits[0]) + 1),
    )
    names = answer.split()
    return [commit for commit in commits if commit.encode() in names]
