"""The overlay of a clone: the files of a work tree that were changed, added or deleted since its commit.

git says which files these are. Their content is read by us, without following a link: another session may have the
same folder mounted, and swap one in at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
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
    notes: Sequence[str] = ()  # what does not come along, for the person


class Entry(NamedTuple):
    """A line of `git diff-files --raw`."""

    path: str
    status: str
    object_name: str  # in the commit


def find_overlay(git: PrivateGit, repository: Repository, limit: int) -> Overlay:
    """Compare a work tree with its commit. Raises ClincusError(409) if the changes are more than `limit` bytes."""
    git.output("read-tree", repository.head or "--empty")
    git.run("update-index", "-q", "--refresh")  # its code only says that there are changes
    changed = diff_entries(git.output("diff-files", "--raw", "-z", "--no-renames", "--ignore-submodules=all"))
    others = paths_of(git.output("ls-files", "--others", "--exclude-standard", "-z"))
    pointers = lfs_pointers(git, [entry.object_name for entry in changed if entry.status == "M"])
    modules = submodules(git)
    nested = [path for path in others if path.endswith("/")]
    removed = [e.path for e in changed if e.status == "D" and e.path not in modules and not repository.is_sparse]
    files = [e.path for e in changed if e.status != "D" and e.object_name not in pointers and e.path not in modules]
    files += [path for path in others if not path.endswith("/")]
    filtered = behind_filters(git, files)
    with Folder(repository.workspace) as folder:
        found = [(path, folder.status(path)) for path in files if path not in filtered]
        kinds = {path: status for path, status in found if status is not None}
        files = [path for path, one in kinds.items() if stat.S_ISREG(one.st_mode) or stat.S_ISLNK(one.st_mode)]
        unread = [path for path in files if stat.S_ISREG(kinds[path].st_mode) and not folder.can_read(path)]
    files = [path for path in files if path not in set(unread)]
    check_size(repository.workspace, {path: kinds[path].st_size for path in files}, limit)
    in_lfs = [entry.path for entry in changed if entry.object_name in pointers]
    notes = (
        *note("submodules are not in the clone; `git submodule update --init` there gets them", modules),
        *note("files of Git LFS are pointers in the clone, and changes to them stay here", in_lfs),
        *note("files behind a filter of git's are in the clone as they are committed, or not at all", filtered),
        *note("files that you may not read stay here", unread),
        *note("repositories of their own stay here", nested),
    )
    return Overlay(files, removed, notes)


def diff_entries(data: bytes) -> list[Entry]:
    """Read `git diff-files --raw -z`: `:OLDMODE NEWMODE OLD NEW STATUS`, NUL, path, NUL."""
    fields = paths_of(data)
    return [Entry(path, head.split()[4][0], head.split()[2]) for head, path in zip(fields[::2], fields[1::2])]


def paths_of(data: bytes) -> list[str]:
    """The paths of an output with -z."""
    return [os.fsdecode(path) for path in data.split(b"\0")[:-1]]


def lfs_pointers(git: PrivateGit, names: Sequence[str]) -> set[str]:
    """The objects that stand for a file of Git LFS. Git without LFS takes the file itself for a change."""
    asked = "".join(f"{name}\n" for name in dict.fromkeys(names)).encode()
    sizes = git.output("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=asked).decode()
    found = re.findall(r"^(\S+) (\d{1,4})$", sizes, re.MULTILINE)
    small = [name for name, size in found if int(size) < POINTER_SIZE]
    data = git.output("cat-file", "--batch=%(objectname)", stdin="".join(f"{name}\n" for name in small).encode())
    return set(
        re.findall(rf"^([0-9a-f]{{40,64}})\n{re.escape(POINTER.decode())}", data.decode("latin-1"), re.MULTILINE)
    )


def behind_filters(git: PrivateGit, paths: Sequence[str]) -> list[str]:
    """Those of some paths that git changes by a program before it takes them (gitattributes(5), `filter`).

    What lies in the work tree is then often not for the history: git-crypt and git-secret keep secrets from it. Our git
    runs no such program. A file of Git LFS has another place for its content, and no secret.
    """
    asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
    fields = paths_of(git.output("check-attr", "--stdin", "-z", "filter", stdin=asked))
    named = zip(fields[::3], fields[2::3])
    return [path for path, value in named if value not in ("unspecified", "unset", "set", "lfs")]


def submodules(git: PrivateGit) -> list[str]:
    """The paths of the submodules of the commit."""
    found, rest = list[bytes](), b""
    with git.stream("ls-files", "--stage", "-z", timeout=GIT_TIMEOUT) as pieces:
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\0")
            found += [line.partition(b"\t")[2] for line in lines if line.startswith(b"160000 ")]
    return [os.fsdecode(path) for path in found]


def note(words: str, paths: Sequence[str]) -> list[str]:
    """A sentence on paths that do not come along as they are; none if there are none."""
    named = ", ".join(clincus.shorten(path) for path in paths[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return [f"{words}: {named}{more}"] if paths else []


def check_size(workspace: str, sizes: dict[str, int], limit: int) -> None:
    """Raise ClincusError(409) if files are too many or too large to be laid on a clone."""
    total = sum(sizes.values())
    if total <= limit and len(sizes) <= MOST_FILES:
        return
    largest = max(sizes, key=lambda path: sizes[path])
    words = f"its uncommitted files are {len(sizes)} with {total >> 20} MiB, the largest one {clincus.shorten(largest)}"
    advice = f"a clone may take {MOST_FILES} and {limit >> 20} MiB (clone.size_limit). Commit, ignore or remove some"
    raise refusal(workspace, f"{words}; {advice}")


@contextlib.contextmanager
def passing_over_gone(path: str) -> Iterator[None]:
    """Leave the block without an error if the file at a path has gone. Raises ClincusError(409) for another one."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise clincus.ClincusError(f"'{path}' cannot be read: {error.strerror}", 409) from error


def read_files(workspace: str, paths: Sequence[str]) -> Iterator[clincus.ToolFile]:
    """The files at some paths of a work tree, as they are when their turn comes.

    One that is gone by then, or is something else, is passed over. Raises ClincusError(409) if one cannot be read.
    """
    with Folder(workspace) as folder:
        for path in paths:
            found = folder.status(path)
            if found is None:
                continue
            with passing_over_gone(f"{workspace}/{path}"):
                if stat.S_ISLNK(found.st_mode):
                    yield clincus.ToolFile(path, mode=0o777, mtime=found.st_mtime, link=folder.link(path))
                elif stat.S_ISREG(found.st_mode):
                    mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
                    with folder.open(path) as descriptor:
                        # pack_files opens it anew by this name, which no link can lead elsewhere.
                        source = f"/proc/self/fd/{descriptor}"
                        yield clincus.ToolFile(path, mode=mode, mtime=found.st_mtime, source=source)
