"""Writes commits and a branch into a repository of this host that a container may be changing just now.

Git opens the files that it writes by their paths. It would follow a link that a session with the same folder mounted
swaps in at the right moment, in place of objects/pack, a folder of branches or a log. Git therefore does not write
here: Clincus opens each folder step by step without following a link, and writes through these descriptors.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import clincus

from .folder import OPEN, Folder
from .repository import Repository, read_refs

PIECE = 1 << 20  # bytes that are copied at once
PARTS = ("pack", "rev", "idx")  # git finds a pack by the last one
WHO = "Clincus <clincus@localhost>"


def write_pack(repository: Repository, source: str) -> None:
    """Copy a pack (`source` and .pack, .idx, .rev) into the objects of a repository. Raises ClincusError(409)."""
    with entered(repository, "objects/pack") as folder:
        for part in PARTS:
            with suppress(FileNotFoundError), open(f"{source}.{part}", "rb") as file:
                copy_file(repository, folder, f"{os.path.basename(source)}.{part}", file.fileno())
        os.fsync(folder)


def copy_file(repository: Repository, folder: int, name: str, source: int) -> None:
    """Copy a file of a pack. An existing file has the same content, since its name is a hash of it."""
    fresh = f"tmp_pack_{secrets.token_hex(6)}"
    with new_file(repository, folder, fresh, 0o444) as target:
        while os.sendfile(target, source, None, PIECE):
            pass
        os.fsync(target)
    os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)


def move_branch(repository: Repository, ref: str, new: str, message: str) -> None:
    """Set a branch to another commit, under git's own lock.

    Raises ClincusError(409) if the branch has moved since the look at the repository, if another branch is in its way,
    or if git holds the lock.
    """
    check_branch(repository, ref)
    above, _, name = ref.rpartition("/")
    with entered(repository, above) as folder:
        try:
            with new_file(repository, folder, f"{name}.lock", 0o666) as lock:
                os.write(lock, f"{new}\n".encode())
                os.fsync(lock)
        except FileExistsError:
            place = f"{repository.common}/{ref}.lock"
            words = f"git is changing the branch just now, or was cut off: '{place}' is there; remove it if no git runs"
            raise clincus.ClincusError(words, 409) from None
        try:
            check_branch(repository, ref)
            write_log(repository, ref, new, message)
            with suppress(OSError):
                os.rmdir(name, dir_fd=folder)  # an empty folder, which git leaves behind
            os.rename(f"{name}.lock", name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(f"{name}.lock", dir_fd=folder)
            raise
        os.fsync(folder)


def check_branch(repository: Repository, ref: str) -> None:
    """Raise ClincusError(409) if a branch has changed, or cannot exist beside the others."""
    with Folder(repository.common) as common:
        refs = read_refs(common)
        found = common.status(ref)
    if found is not None and stat.S_ISLNK(found.st_mode):
        raise refused_link(repository, ref)
    for other in refs:
        if other.startswith(f"{ref}/") or ref.startswith(f"{other}/"):
            words = f"'{ref[11:]}' cannot be a branch beside '{other[11:]}': fetch into another one"
            raise clincus.ClincusError(words, "branch_conflict")
    if refs.get(ref, "") != repository.refs.get(ref, ""):
        raise clincus.ClincusError(f"the branch '{ref[11:]}' has moved just now: fetch once more", "branch_conflict")


def write_log(repository: Repository, ref: str, new: str, message: str) -> None:
    """Add a line to the log of a branch, if the repository keeps logs (git-reflog(1))."""
    with Folder(repository.common) as common:
        if common.status("logs") is None:
            return
    above, _, name = f"logs/{ref}".rpartition("/")
    old = repository.refs.get(ref, "0" * len(new))
    with entered(repository, above) as folder:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(FileExistsError), new_file(repository, folder, name, 0o666):
            pass
        try:
            log = os.open(name, flags, dir_fd=folder)
        except OSError:
            raise refused_link(repository, f"logs/{ref}") from None
        with clincus.closing_descriptor(log):
            if not stat.S_ISREG(os.fstat(log).st_mode):
                raise refused_link(repository, f"logs/{ref}")
            os.write(log, f"{old} {new} {WHO} {int(time.time())} +0000\t{message}\n".encode())


def check_landed(repository: Repository, ref: str, new: str, pack: str) -> None:
    """Raise ClincusError(409) unless a branch and the pack with its commits are where git looks for them."""
    with Folder(repository.common) as common:
        is_there = not pack or common.status(f"objects/pack/{os.path.basename(pack)}.idx") is not None
        if not is_there or read_refs(common).get(ref) != new:
            words = f"'{repository.common}' was changed while the commits were written: look at it, and fetch once more"
            raise clincus.ClincusError(words, 409)


@contextmanager
def entered(repository: Repository, path: str) -> Iterator[int]:
    """A descriptor of a folder of a repository.

    Makes the folder if it is absent. Raises ClincusError(409) for a link.
    """
    here = os.open(repository.common, OPEN | os.O_DIRECTORY)
    done = ""
    try:
        for part in path.split("/"):
            done = f"{done}/{part}".lstrip("/")
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=here)
                os.fsync(here)
                with clincus.closing_descriptor(os.open(part, OPEN | os.O_DIRECTORY, dir_fd=here)) as made:
                    give(repository, made, stat.S_IMODE(os.fstat(here).st_mode))
            try:
                below = os.open(part, OPEN | os.O_DIRECTORY, dir_fd=here)
            except OSError:
                raise refused_link(repository, done) from None
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


@contextmanager
def new_file(repository: Repository, folder: int, name: str, mode: int) -> Iterator[int]:
    """A new file in a folder, for the block; removed if that raises. Raises FileExistsError if the name is taken."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        give(repository, descriptor, mode & stat.S_IMODE(os.fstat(folder).st_mode))
        yield descriptor
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)


def give(repository: Repository, descriptor: int, mode: int) -> None:
    """Give a new file or folder the owner of the repository, and its mode."""
    if os.geteuid() == 0:
        os.fchown(descriptor, *repository.owner)
    os.fchmod(descriptor, mode)


def refused_link(repository: Repository, path: str) -> clincus.ClincusError:
    """The error for a link, or a file, where a folder or a file of git's should be."""
    place = f"{repository.common}/{path}"
    kind = "a link" if os.path.islink(place) else "in the way"
    return clincus.ClincusError(f"'{place}' is {kind}: nothing is written through it; move it away", 409)
