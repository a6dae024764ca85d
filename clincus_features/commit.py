"""A commit of a session's changes, by git in its container, under the name of a person.

git on this host never works in a folder that a container can change. Git in the container therefore makes the commit
(guest/commit-make.sh); the agent could do the same, so this gives it nothing. Hooks of the repository run there too,
with the container's programs, and never here. Commits are not signed, as no container has a person's key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import clincus

LISTED = 10_000  # files of a draft
DRAFT_LIMIT = 8 << 20  # bytes of the container's report about it
LOOK_TIMEOUT = 120.0  # seconds
MAKE_TIMEOUT = 280.0  # seconds; the hooks may take 240 of them
MESSAGE_LIMIT = 1 << 16  # characters
NAME_LIMIT = 200  # characters
GIT_TIMEOUT = 10.0  # seconds
NO_REPOSITORY = 3  # exit codes of guest/commit-look.sh
HEADS = 6  # fields in front of the files
COMMIT = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
OPERATIONS = {
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
}
HOOKS = ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit")


class DraftFile(NamedTuple):
    """A file that differs from the checked-out commit."""

    path: str
    status: str  # A, M, D, T; U for one that is in conflict


@dataclass(frozen=True)
class Draft:
    """The draft of a commit, in the words of the container, which may be lies."""

    branch: str  # "" at a commit
    head: str  # "" before the first commit
    operation: str  # merge, cherry-pick, revert or rebase while one is in progress, else ""
    name: str
    email: str
    hooks: tuple[str, ...]
    files: list[DraftFile]
    truncated: bool = False

    def document(self, identity: tuple[str, str]) -> dict[str, object]:
        """The draft for the API. The repository's own name and e-mail win over those of `identity`."""
        return {
            "branch": self.branch,
            "head": self.head,
            "operation": self.operation,
            "name": self.name or identity[0],
            "email": self.email or identity[1],
            "hooks": list(self.hooks),
            "files": [one._asdict() for one in self.files],
            "truncated": self.truncated,
        }


def install(extensions: clincus.Extensions) -> None:
    """Add the routes."""
    app = extensions.app

    def get_commit(request: clincus.Request) -> object:
        session = app.running_session(request.values["id"])
        identity = persons_identity(session.workspace, app.sessions.environ)
        return look(app.sessions, session).document(identity)

    def post_commit(request: clincus.Request) -> object:
        session = app.running_session(request.values["id"])
        values = request.values
        check_request(values["message"], values["name"], values["email"])
        return make(app.sessions, session, values)

    one = "/api/sessions/{id}/commit"
    extensions.routes += [("GET", one, get_commit), ("POST", one, post_commit)]


def look(sessions: clincus.Sessions, session: clincus.Session) -> Draft:
    """Ask git in a session's container for the draft of a commit. Raises ClincusError: 409 without a repository."""
    words = (
        "git in the container finds no repository at the top of the workspace: commit on your side, in a terminal, "
        "or run `git init` there before the session starts"
    )
    refusals = {NO_REPOSITORY: clincus.ClincusError(words, 409)}
    mount = sessions.guest(session).mount
    told = sessions.output(session, "commit-look", mount, refusals=refusals, timeout=LOOK_TIMEOUT, limit=DRAFT_LIMIT)
    return parse_draft(told)


def make(sessions: clincus.Sessions, session: clincus.Session, values: Mapping[str, object]) -> dict[str, object]:
    """Commit files of a workspace; `values` are those of the request. Raises ClincusError(409) with the words of git.

    An end of the session cancels it.
    """
    with sessions.held(session.id), sessions.in_progress.until_end(session.id):
        draft = look(sessions, session)
        paths = chosen_paths(draft, values["paths"])
        message = str(values["message"]).encode("utf-8", "surrogateescape")
        hooks = "hooks" if values["hooks"] else "no-hooks"
        words = sessions.guest(session).mount, hooks, str(values["name"]), str(values["email"]), str(len(message))
        stdin = message + b"".join(os.fsencode(path) + b"\0" for path in paths)
        try:
            told = sessions.output(session, "commit-make", *words, stdin=stdin, timeout=MAKE_TIMEOUT)
        except clincus.IncusError as error:
            raise clincus.ClincusError(f"nothing was committed: {error}", 409) from error
    commit = told.strip()
    if not COMMIT.fullmatch(commit):
        raise no_git()
    return {"commit": commit.decode(), "branch": draft.branch, "files": len(paths)}


def chosen_paths(draft: Draft, asked: object) -> Sequence[str]:
    """The paths to commit: those of the request, or all of the draft. Raises ClincusError(409)."""
    if draft.operation:
        problem = f"a {draft.operation} is in progress in the repository: finish it in the session's shell first"
        raise clincus.ClincusError(problem, 409)
    changed = [file.path for file in draft.files]
    paths = changed
    if asked is not None:
        paths = list(dict.fromkeys(asked)) if isinstance(asked, list) else []
    missing = sorted(set(paths).difference(changed))
    if missing:
        shown = clincus.shorten(missing[0])
        problem = "has not changed since the last commit, or is a repository of its own: look again"
        raise clincus.ClincusError(f"{shown} {problem}", 409)
    if not paths:
        problem = "no file differs from the last commit: there is nothing to commit"
        raise clincus.ClincusError(problem, "nothing_to_do")
    return paths


def parse_draft(data: bytes) -> Draft:
    """Read the output of guest/commit-look.sh. Pure. Raises ClincusError(409) for anything else."""
    fields = data.split(b"\0")
    if len(fields) <= HEADS or fields.pop() != b"":
        raise no_git()
    branch, head, operation, name, email, hooks = (one.decode("utf-8", "replace") for one in fields[:HEADS])
    if fields[1] and not COMMIT.fullmatch(fields[1]):
        raise no_git()
    files = [one for one in map(parse_entry, fields[HEADS:]) if one is not None]
    return Draft(
        branch=clincus.printable(branch)[:250],
        head=head,
        operation=OPERATIONS.get(operation, ""),
        name=clincus.printable(name)[:NAME_LIMIT],
        email=clincus.printable(email)[:NAME_LIMIT],
        hooks=tuple(one for one in HOOKS if one in hooks.split()),
        files=files[:LISTED],
        truncated=len(files) > LISTED,
    )


def parse_entry(entry: bytes) -> DraftFile | None:
    """One file of `git status --porcelain=v1 -z --no-renames`.

    None for a repository, whose path ends with a slash, and for a new file that was staged and is gone.
    Raises ClincusError(409) for a path that leads out of the workspace.
    """
    state = entry[:2]
    blank = entry[2:3]
    path = os.fsdecode(entry[3:])
    if len(state) != 2 or blank != b" " or not path:
        raise no_git()
    if path.endswith("/") or state == b"AD":
        return None
    if not {"", ".", "..", ".git"}.isdisjoint(path.lower().split("/")):
        raise no_git()
    return DraftFile(path, status_of(state.decode("ascii", "replace")))


def status_of(state: str) -> str:
    """One letter for both columns of git-status(1), "Short Format"."""
    if "U" in state or state in ("AA", "DD"):
        return "U"
    if state == "??" or "A" in state:
        return "A"
    if "D" in state:
        return "D"
    return "T" if "T" in state else "M"


def no_git() -> clincus.ClincusError:
    """The error for an answer that git does not give."""
    return clincus.ClincusError("git in the container does not answer as git: look in the session's shell", 409)


def check_request(message: str, name: str, email: str) -> None:
    """Check the parts of the request that become part of the commit. Raises ClincusError(400)."""
    if not message.strip() or "\0" in message or len(message) > MESSAGE_LIMIT:
        problem = f"the commit needs a message of 1 to {MESSAGE_LIMIT} characters, without the character NUL"
        raise clincus.ClincusError(problem, 400)
    check_author("name", name, "<>")
    check_author("e-mail address", email, "<> ")


def check_author(kind: str, text: str, refused: str) -> None:
    """Raise ClincusError(400) for a name or an address that git cannot write into a commit."""
    is_one_line = bool(text.strip()) and text.isprintable()
    if not is_one_line or len(text) > NAME_LIMIT or not set(text).isdisjoint(refused):
        problem = f"the commit needs the {kind} of its author, in one line and without < and >"
        raise clincus.ClincusError(problem, 400)


def persons_identity(workspace: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The name and e-mail in a person's global git configuration on this host, "" if they are not set.

    git reads that file and its includes, and runs nothing. It does not look at the workspace.
    """
    program = clincus.protect.find_git(workspace, environ)
    if not program:
        return "", ""
    kept = {key: value for key, value in environ.items() if key in ("HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL")}
    found = []
    for key in ("user.name", "user.email"):
        try:
            argv = [program, "config", "--global", "--includes", "--get", key]
            done = clincus.run_child(argv, timeout=GIT_TIMEOUT, environ={**kept, "PATH": os.defpath}, cwd="/")
        except clincus.ChildError:
            return "", ""
        text = done.stdout.decode("utf-8", "replace").strip() if done.code == 0 else ""
        found.append(clincus.printable(text)[:NAME_LIMIT])
    return found[0], found[1]
