"""Runs wall/scan.py, which examines a workspace that an agent may be changing: in a child, with a deadline."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import clincus

SCAN_TIMEOUT = 60.0  # seconds; the program itself stops after 20
LOADER = (
    "import marshal, posix, sys; posix.nice(5); read = sys.stdin.buffer;"
    " load = lambda name: exec(marshal.load(read), sys.modules.setdefault(name, type(sys)(name)).__dict__);"
    " load('wall.places'); load('wall.objects'); exec(marshal.load(read), {'__name__': '__main__'})"
)


class Scan(NamedTuple):
    """The answer of wall/scan.py."""

    items: list[dict[str, Any]]
    cut: str  # what was not examined, in words
    commits: Sequence[dict[str, Any]] = ()  # the files that git may write from commits


def scan(
    workspace: str,
    settings: Sequence[str],
    environ: Mapping[str, str],
    sealed: Sequence[str] = (),
    since: float = 0,
) -> Scan:
    """Look at a workspace of this host; `settings` are paths as in `clincus.protect.Runs`. Raises ClincusError.

    `sealed` are the sealed paths of its working tree. The session began at `since`: later commits are
    examined even if no reference names them.
    """
    git = clincus.protect.find_git(workspace, environ)
    answer = ask_scan(workspace, git=git, settings=settings, places=sealed, since=since)
    return Scan(answer["items"], answer["cut"], answer["commits"])


def look_at_indexes(workspace: str, folders: Sequence[str] = (), sealed: Sequence[str] = ()) -> dict[str, Any]:
    """The faults of git's indexes in a folder of this host, by wall/scan.py. Raises ClincusError.

    `folders` are further Git folders, relative to it, besides those that git finds from it. `sealed` are the sealed
    paths of its working tree.
    """
    return ask_scan(workspace, only="index", folders=folders, sealed=sealed)


def ask_scan(workspace: str, **question: object) -> dict[str, Any]:
    """The answer of wall/scan.py. Raises ClincusError."""
    asked = json.dumps({"workspace": workspace, **question}).encode()
    with clincus.Child([sys.executable, "-I", "-S", "-c", LOADER], cwd="/") as child:
        child.allow(SCAN_TIMEOUT)
        done = child.complete(clincus.protect.program("places", "objects", "scan") + asked)
    if done.code:
        raise clincus.ClincusError(f"Clincus cannot check the workspace '{workspace}': {done.reason}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "refused" in answer:
        raise clincus.ClincusError(answer["refused"])
    return answer
