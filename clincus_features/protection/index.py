"""Git's index, which cannot be sealed since the agent's git replaces it: it is examined, and put aside if it is bad.

Git checks names when it adds them to an index, and not when it reads one (`verify_path` in its read-cache.c, which
`create_from_disk` does not call): `git checkout .` writes whatever an index names, into .git/hooks and outside of the
repository too, and `git status` enters the repositories that it names. No setting of git changes that.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

import clincus

from . import restore
from .identity import opened
from .scans import look_at_indexes
from .seals import Stage

NAMED = 3  # reported names
CONTENT_LIMIT = 4 << 20  # bytes of files that are compared by their content, at each look; some 4 ms


class Looked(NamedTuple):
    """The result of a look."""

    bad: dict[str, str]  # path of an index that was put aside -> its fault, in words
    files: tuple[str, ...]  # the files that were read; a change of one of them makes another look worthwhile
    cut: str  # what was not examined, in words
    unlike: tuple[str, ...] = ()  # sealed paths for which an index has different content
    gitlinks: tuple[str, ...] = ()  # paths of gitlinks in the indexes, without those below which something is sealed


def git_folders(workspace: str, sealed: Iterable[str]) -> set[str]:
    """The Git folders of a workspace: the one at its top, and those that contain sealed paths.

    The working tree around a `.git` is none, although a placeholder for `commondir` is sealed there.
    """
    folders = {path.rpartition("/")[0] for path in sealed if path.endswith(("/config", "/commondir"))}
    trees = {folder.rpartition("/")[0] for folder in folders if folder.endswith("/.git")}
    return {f"{workspace}/.git", *folders} - {workspace, *trees}


def tops_of(workspace: str, stage: Stage | None, sealed: Iterable[str] = ()) -> list[str]:
    """The folders of the host that the container of a session can change.

    The stage may lack folders of another run: the sealed paths of that run name the repositories of its extra mounts.
    """
    tops = [workspace] if stage is None else [source for source, patterns in stage.trees if patterns]
    for folder in sorted(git_folders(workspace, sealed)):
        above, _, name = folder.rpartition("/")
        if name == ".git" and not any(clincus.path_inside(above, top) for top in tops):
            tops.append(above)
    return tops


def look(workspace: str, stage: Stage | None, sealed: Collection[str] = ()) -> Looked:
    """Look at the indexes in the folders of a session, and put bad ones aside. Raises ClincusError."""
    folders = git_folders(workspace, sealed)
    tops = tops_of(workspace, stage, sealed)
    bad: dict[str, str] = {}
    files: list[str] = []
    cuts = []
    unlike: list[str] = []
    links: list[str] = []
    for top in tops:
        if not os.path.isdir(top):  # one file that is mounted
            continue
        inside = sorted(folder[len(top) + 1 :] for folder in folders if clincus.path_inside(folder, top))
        paths = [path[len(top) + 1 :] for path in sealed if clincus.path_inside(path, top) and path != top]
        in_tree = [path for path in paths if ".git" not in path.split("/")]
        closed = {above for above, name, _ in (f"{path}/".partition("/.git/") for path in paths) if name}
        answer = look_at_indexes(top, [folder for folder in inside if folder], in_tree)
        cuts.append(answer["cut"])
        for path, found in answer["indexes"].items():
            files += (f"{top}/{name}" for name in found["files"])
            unlike += (f"{top}/{name}" for name in found["unlike"])
            links += (f"{top}/{name}" for name in found["gitlinks"] if name not in closed)
            if found["bad"]:
                bad[f"{top}/{path}"] = f"{what_it_does(found['bad'])}; {put_aside(f'{top}/{path}')}"
    return Looked(bad, tuple(files), "; ".join(filter(None, cuts)), tuple(unlike), tuple(links))


def what_it_does(words: list[str]) -> str:
    """The effect of a bad index on git: `words` are names that git refuses to add, or a reason. Pure."""
    shown = ", ".join(words[:NAMED]) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")
    return f"git would have obeyed it at `git checkout .`, `git restore .` or `git status`: {shown}"


def words_of_unlike(paths: Collection[str]) -> str:
    """A note for the person on texts that git may write into sealed paths. Pure."""
    shown = ", ".join(list(paths)[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
    words = "git's index has another content than your sealed one for"
    does = (
        "`git checkout .`, `git stash` or `git reset --hard` on your side may write it, and a program may then run it"
    )
    return clincus.printable(f"{words} {shown}: {does}. Look at `git diff` first; `git reset` drops it")


def put_aside(path: str) -> str:
    """Put an index aside; returns what was done, in words."""
    try:
        name = restore.set_aside(path)
    except OSError as error:
        return restore.why_not_aside(error)
    return f"it is put aside as {name}, and `git reset` makes a new one"


def signature(files: Iterable[str]) -> list[tuple[object, ...]]:
    """A signature of the state of some files: their content up to a limit, and their times.

    A write through a memory mapping changes no time until the kernel writes the page back, but a read shows it.
    """
    found: list[tuple[object, ...]] = []
    left = CONTENT_LIMIT
    for path in files:
        with suppress(OSError), opened(path) as descriptor:
            about = os.fstat(descriptor)
            digest = b""
            if stat.S_ISREG(about.st_mode) and about.st_size <= left:
                left -= about.st_size
                digest = digest_of(descriptor, about.st_size)
            found.append((about.st_ino, about.st_size, about.st_mode, about.st_ctime_ns, digest))
            continue
        found.append(())
    return found


def digest_of(descriptor: int, size: int) -> bytes:
    """A digest of so many bytes of a file, by its O_PATH descriptor; empty if it is not ours to read."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with suppress(OSError), open(os.open(f"/proc/self/fd/{descriptor}", flags), "rb") as file:
        return hashlib.blake2b(file.read(size)).digest()
    return b""
