"""The overlay of a clone: the files of a work tree that were changed, added or deleted since its commit.

Git names these files. Clincus reads their content without following a link: another session may have the same folder
mounted, and swap in a link at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import clincus

from .folder import Folder
from .private import GIT_TIMEOUT, PrivateGit
from .repository import Repository, refusal

MOST_FILES = 200_000
POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_SIZE = 1024  # bytes: a pointer of Git LFS is smaller
NAMED = 3  # paths that a note names


class Overlay(NamedTuple):
    """The changes of a work tree against its commit."""

    files: Sequence[str] = ()  # changed and new
    removed: Sequence[str] = ()
    notes: Sequence[str] = ()  # sentences on files that the clone does not get


class Entry(NamedTuple):
    """A line of `git diff-files --raw`."""

    path: str
    status: str
    object_name: str  # in the commit


def find_overlay(git: PrivateGit, repository: Repository, limit: int) -> Overlay:
    """Compare a work tree with its commit. Raises ClincusError(409) if the changes are more than `limit` bytes."""
    git.output("read-tree", repository.head or "--empty")
    git.run("update-index", "-q", "--refresh")  # its exit code only says that there are changes
    diff = git.output("diff-files", "--raw", "-z", "--no-renames", "--ignore-submodules=all")
    changed = diff_entries(diff)
    others = paths_of(git.output("ls-files", "--others", "--exclude-standard", "-z"))
    modified = [entry.object_name for entry in changed if entry.status == "M"]
    pointers = lfs_pointers(git, modified)
    modules = submodules(git)
    removed = []
    candidates = []
    for entry in changed:
        if entry.path in modules:
            continue
        if entry.status != "D" and entry.object_name not in pointers:
            candidates.append(entry.path)
        if entry.status == "D" and not repository.is_sparse:
            removed.append(entry.path)
    candidates += [path for path in others if not path.endswith("/")]
    filtered = behind_filters(git, candidates)
    readable = readable_files(repository.workspace, candidates, filtered)
    check_size(repository.workspace, readable.sizes, limit)
    in_lfs = [entry.path for entry in changed if entry.object_name in pointers]
    nested = [path for path in others if path.endswith("/")]
    notes = (
        *note("submodules are not in the clone; `git submodule update --init` there gets them", modules),
        *note("files of Git LFS are pointers in the clone, and changes to them stay here", in_lfs),
        *note("files behind a filter of git's are in the clone as they are committed, or not at all", filtered),
        *note("files that you may not read stay here", readable.unread),
        *note("repositories of their own stay here", nested),
    )
    return Overlay([*readable.sizes], removed, notes)


class Readable(NamedTuple):
    """The files among some paths."""

    sizes: dict[str, int]  # bytes, of regular files that can be read, and of links
    unread: list[str]  # regular files that this user may not read


def readable_files(workspace: str, paths: Sequence[str], without: Collection[str]) -> Readable:
    """The regular files and links among some paths of a work tree."""
    found = Readable({}, [])
    with Folder(workspace) as folder:
        for path in paths:
            status = None if path in without else folder.status(path)
            if status is None:
                continue
            if stat.S_ISLNK(status.st_mode):
                found.sizes[path] = status.st_size
            elif stat.S_ISREG(status.st_mode):
                if folder.can_read(path):
                    found.sizes[path] = status.st_size
                else:
                    found.unread.append(path)
    return found


def diff_entries(data: bytes) -> list[Entry]:
    """Read `git diff-files --raw -z`: `:OLDMODE NEWMODE OLD NEW STATUS`, NUL, path, NUL."""
    fields = paths_of(data)
    entries = []
    for head, path in zip(fields[::2], fields[1::2]):
        _, _, old, _, status = head.split()
        entries.append(Entry(path, status[0], old))
    return entries


def paths_of(data: bytes) -> list[str]:
    """The paths of an output with -z."""
    return [os.fsdecode(path) for path in data.split(b"\0")[:-1]]


def lfs_pointers(git: PrivateGit, names: Sequence[str]) -> set[str]:
    """The objects that stand for a file of Git LFS. Git without LFS regards the file itself as a change."""
    asked = "".join(f"{name}\n" for name in dict.fromkeys(names))
    output = git.output("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=asked.encode())
    sizes = re.findall(r"^(\S+) (\d{1,4})$", output.decode(), re.MULTILINE)
    small = "".join(f"{name}\n" for name, size in sizes if int(size) < POINTER_SIZE)
    contents = git.output("cat-file", "--batch=%(objectname)", stdin=small.encode())
    pointer = rf"^([0-9a-f]{{40,64}})\n{re.escape(POINTER.decode())}"
    return set(re.findall(pointer, contents.decode("latin-1"), re.MULTILINE))


def behind_filters(git: PrivateGit, paths: Sequence[str]) -> list[str]:
    """The paths that git passes through a program before it stores them (gitattributes(5), `filter`).

    The work tree then often has content that is not for the history: git-crypt and git-secret keep secrets from it. Our
    git runs no such program. Files of Git LFS are harmless: `lfs_pointers` finds them.
    """
    asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
    output = git.output("check-attr", "--stdin", "-z", "filter", stdin=asked)
    fields = paths_of(output)
    harmless = ("unspecified", "unset", "set", "lfs")
    return [path for path, value in zip(fields[::3], fields[2::3]) if value not in harmless]


def submodules(git: PrivateGit) -> list[str]:
    """The paths of the submodules of the commit."""
    paths = []
    rest = b""
    with git.stream("ls-files", "--stage", "-z", timeout=GIT_TIMEOUT) as pieces:
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\0")
            for line in lines:
                if line.startswith(b"160000 "):
                    paths.append(os.fsdecode(line.partition(b"\t")[2]))
    return paths


def note(words: str, paths: Sequence[str]) -> list[str]:
    """A sentence on paths that the clone gets in another form, or not at all; nothing without paths."""
    if not paths:
        return []
    named = ", ".join(clincus.shorten(path) for path in paths[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return [f"{words}: {named}{more}"]


def check_size(workspace: str, sizes: dict[str, int], limit: int) -> None:
    """Raise ClincusError(409) if files are too many or too large for a clone."""
    total = sum(sizes.values())
    if total <= limit and len(sizes) <= MOST_FILES:
        return
    largest = clincus.shorten(max(sizes, key=lambda path: sizes[path]))
    found = f"its uncommitted files are {len(sizes)} with {total >> 20} MiB, the largest one {largest}"
    allowed = f"a clone may take {MOST_FILES} and {limit >> 20} MiB (clone.size_limit)"
    raise refusal(workspace, f"{found}; {allowed}. Commit, ignore or remove some")


@contextlib.contextmanager
def passing_over_gone(path: str) -> Iterator[None]:
    """Leave the block without an error if the file at a path is gone. Raises ClincusError(409) for any other error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise clincus.ClincusError(f"'{path}' cannot be read: {error.strerror}", 409) from error


def read_files(workspace: str, paths: Sequence[str]) -> Iterator[clincus.ToolFile]:
    """The files at some paths of a work tree, read one after the other.

    Skips a file that is gone by then, or is something else. Raises ClincusError(409) if one cannot be read.
    """
    with Folder(workspace) as folder:
        for path in paths:
            found = folder.status(path)
            if found is None:
                continue
            mtime = found.st_mtime
            with passing_over_gone(f"{workspace}/{path}"):
                if stat.S_ISLNK(found.st_mode):
                    link = folder.link(path)
                    yield clincus.ToolFile(path, mode=0o777, mtime=mtime, link=link)
                elif stat.S_ISREG(found.st_mode):
                    mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
                    with folder.open(path) as descriptor:
                        # pack_files opens the file by this name, so a link that replaces it now has no effect.
                        source = f"/proc/self/fd/{descriptor}"
                        yield clincus.ToolFile(path, mode=mode, mtime=mtime, source=source)
