"""Git folders of submodules and worktrees that appear while a session runs: they have no seal until its next start.

The wall seals the existing paths at a start, as root. A server is not root, and cannot add a seal to a running
container. Clincus therefore examines each such folder: `git submodule update` on the host would accept a
folder that an agent has put into .git/modules. Hooks are put aside, and so are configurations with any setting that is
not known to be harmless (HARMLESS_SETTINGS in wall/places.py).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import clincus

from . import index, links
from .identity import opened
from .restore import ASIDE, why_not_aside
from .scans import ask_scan

MOST_HOOKS = 100  # files of one folder `hooks`; with more, each look examines them
TOLD = 3  # reported commands of one folder


def unsealed(repositories: Iterable[str], sealed: Collection[str]) -> list[str]:
    """The Git folders that did not exist at the start, when each one gets a seal on its `commondir`. Pure."""
    return [folder for folder in repositories if f"{folder}/commondir" not in sealed]


def files_of(folders: Iterable[str]) -> list[str] | None:
    """The files in Git folders that decide what git runs; None if there are too many hooks to compare each one."""
    found = []
    for folder in folders:
        # Without a HEAD it is no repository.
        found += [f"{folder}/{name}" for name in ("HEAD", *sorted(links.RUNS), "objects/info/alternates")]
        with suppress(OSError), opened(f"{folder}/hooks") as hooks:
            listed = os.listdir(f"/proc/self/fd/{hooks}")
            if len(listed) > MOST_HOOKS:
                return None
            found += [f"{folder}/hooks/{name}" for name in sorted(listed)]
    return found


def state_of(folders: Iterable[str], trees: Iterable[str]) -> tuple[object, list[str]]:
    """The state of Git folders: their files, and which of their working trees have become links.

    With too many hooks to compare, no two states are equal.
    """
    files = files_of(folders)
    state = object() if files is None else index.signature(files)
    return state, [tree for tree in trees if os.path.realpath(tree) != tree]


def put_aside(
    folders: Iterable[str], top: str, git: str, written_by: Sequence[str] = (), sealed: Iterable[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Put aside dangerous files in Git folders within the one at `top`; returns each path with words for the person.

    `written_by` are other folders of the host that the container can write, `sealed` the sealed paths: a remote must
    have a URL that a sealed configuration in `top` names. Also returns the working trees that the folders name, since
    git writes through one that becomes a link later. Raises ClincusError.
    """
    inside = [folder for folder in folders if clincus.path_inside(folder, top)]
    if not inside:
        return {}, []
    workspace = os.path.dirname(top)
    names = [os.path.relpath(folder, workspace) for folder in inside]
    seals = [os.path.relpath(path, workspace) for path in sealed if clincus.path_inside(path, workspace)]
    own = os.path.basename(top)
    known = [path for path in seals if path.endswith("/config") and clincus.path_inside(path, own)]
    question = {"git": git, "folders": names, "written_by": written_by, "sealed": known, "seals": seals}
    answer = ask_scan(workspace, only="modules", **question)
    told: dict[str, str] = {}
    aside = f"{ASIDE}-{secrets.token_hex(4)}"
    for number, (place, found) in enumerate(answer["folders"].items()):
        for name, commands in found.items():
            path = f"{workspace}/{place}/{name}"
            try:
                kept = f"{aside}/{number}-{os.path.basename(name)}"
                links.move(top, os.path.relpath(path, top), kept, only_links=False)
                done = f"it is put aside in {top}/{aside}"
            except OSError as error:
                done = why_not_aside(error)
            told[path] = f"{path} has no seal, as it came after the start, and {words_of(commands)}; {done}"
    return told, [f"{os.path.realpath(workspace)}/{tree}" for tree in answer["trees"]]


def words_of(commands: list[Mapping[str, Any]]) -> str:
    """Commands in words. Pure."""
    shown = ", ".join(f"{one['key']} = {clincus.shorten(one['value'])}" for one in commands[:TOLD])
    more = f" and {len(commands) - TOLD} more" if len(commands) > TOLD else ""
    return f"git on your side would have obeyed it: {shown}{more}"
