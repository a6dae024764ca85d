"""Files in and out of a container, like cp.

What comes out is hostile: the container names every file, and may change what it names while we read. `incus file`
is not used: its pull writes through links that it has just made, and a named pipe in place of a file blocks every later
start and stop of that container (seen with 6.0.4).
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import secrets
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, cast

import clincus

TRANSFER_TIMEOUT = 6 * 3600.0  # seconds that one copy may take
TRANSFER_COUNT = 2_000_000  # files in one copy
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@dataclass
class Transfer:
    """The result of a copy: where it ended, whether that is a tree, and what it left out, each with the reason."""

    target: str
    is_tree: bool
    left_out: list[str] = field(default_factory=list)


def own_name(path: str) -> str:
    """The name that a copy of a path takes in a directory; empty where its content goes in without it, as for `.`."""
    name = posixpath.basename(path.rstrip("/"))
    return "" if name in (".", "..") else name


# -- In


def push_files(
    incus: clincus.Incus, name: str, local: str, path: str, *, owner: Callable[[str], int | None]
) -> Transfer:
    """Copy a file or a directory of the host into a running container, like cp.

    A directory that exists at `path` takes the copy in under its own name, else `path` is the copy; missing parents
    are made. `owner` gives the uid (and gid) for a path; None keeps the host's numbers. Raises ClincusError.
    """
    source = os.path.realpath(local)
    try:
        found = os.stat(source)
        is_tree = stat.S_ISDIR(found.st_mode)
        if not is_tree and not stat.S_ISREG(found.st_mode):
            raise clincus.ClincusError(f'"{local}" is neither a file nor a directory', 400)
        inside = container_directory(incus, name, path) or (path.endswith("/") and not is_tree)
        transfer = Transfer(posixpath.normpath(posixpath.join(path, own_name(local)) if inside else path), is_tree)
        uid = owner(transfer.target)
        ids = (found.st_uid, found.st_gid) if uid is None else (uid, uid)
        with contextlib.nullcontext() if is_tree else open(source, "rb") as file:
            size = str(os.fstat(file.fileno()).st_size) if file else "tree"
            words = [transfer.target, f"{ids[0]}:{ids[1]}", f"{found.st_mode & 0o777:o}", size]
            command = ["sh", "-c", clincus.guest_program("push"), "push", *words]
            with incus.open(name, command, timeout=TRANSFER_TIMEOUT) as (stdin, _):
                if file:
                    shutil.copyfileobj(file, stdin, 1 << 16)
                else:
                    send_tree(source, cast("IO[bytes]", stdin), None if uid is None else ids, transfer.left_out)
    except OSError as error:
        reason = error.strerror or error
        raise clincus.ClincusError(f'"{error.filename or local}" cannot be read: {reason}', 500) from error
    return transfer


def container_directory(incus: clincus.Incus, name: str, path: str) -> bool:
    """Whether a path in a running container is a directory. Raises IncusError when the container cannot be asked."""
    done = incus.exec(name, ["sh", "-c", '[ -d "$1" ]', "sh", path])
    if done.code > 1 or done.stderr:
        raise incus.guest_failure(name, done)
    return done.code == 0


def send_tree(source: str, stream: IO[bytes], ids: tuple[int, int] | None, left_out: list[str]) -> None:
    """Write a directory as a tar, for an owner where one is given. Links stay links; what is no file is left out."""

    def member(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
            left_out.append(f'"{entry.name}" is neither a file, a directory nor a link')
            return None
        entry.uname = entry.gname = ""  # the container's names are not the host's
        entry.mode &= 0o777
        entry.uid, entry.gid = ids or (entry.uid, entry.gid)
        return entry

    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(os.listdir(source)):
            archive.add(os.path.join(source, name), f"./{name}", filter=member)


# -- Out


def pull_files(incus: clincus.Incus, name: str, path: str, local: str) -> Transfer:
    """Copy a file or a directory out of a running container.

    As with cp, a directory that exists at `local` takes the copy in under its own name, and a file takes the place of
    a file. A directory only goes where nothing is. The copy is made in a fresh folder beside its place and moves there
    when it is whole. Raises ClincusError.
    """
    own = own_name(path) if path.strip("/") else name
    target = os.path.abspath(os.path.join(local, own) if os.path.isdir(local) or local.endswith("/") else local)
    folder, base = os.path.split(target)
    command = ["sh", "-c", clincus.guest_program("pull"), "pull", path]
    try:
        os.makedirs(folder, exist_ok=True)
        with fresh_folder(folder) as (parent, fresh, root):
            arrival = Arrival(target, root)
            with incus.open(name, command, timeout=TRANSFER_TIMEOUT) as (_, stream):
                arrival.receive(path, stream)
            if arrival.is_tree is None:
                raise clincus.ClincusError("the container sent nothing that can be a copy", 500)
            held, arrived = (parent, fresh) if arrival.is_tree else (root, arrival.CONTENT)
            os.rename(arrived, base, src_dir_fd=held, dst_dir_fd=parent)
    except OSError as error:
        raise clincus.ClincusError(f'"{target}" cannot be written: {error.strerror or error}') from error
    return Transfer(target, arrival.is_tree, arrival.left_out)


@contextlib.contextmanager
def fresh_folder(parent: str) -> Iterator[tuple[int, str, int]]:
    """A new folder in a folder, for a while: the descriptor of `parent`, the new name, and its own descriptor.

    The folder is removed at the end, unless it has another name by then.
    """
    name = f".clincus-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as held:
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        held.callback(os.close, above)
        os.mkdir(name, dir_fd=above)
        held.callback(shutil.rmtree, f"/proc/self/fd/{above}/{name}", ignore_errors=True)
        root = os.open(name, FOLDER, dir_fd=above)
        held.callback(os.close, root)
        yield above, name, root


class Bounded:
    """A stream that a container sends, read up to a limit that its reader moves."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.limit = limit
        self._stream = stream
        self._position = 0

    def read(self, size: int) -> bytes:
        """Read as a file does. Raises ClincusError beyond the limit."""
        data = self._stream.read(size)
        self._position += len(data)
        if self._position > self.limit:
            raise clincus.ClincusError("what the container sent holds a name that is too long", 500)
        return data


HEADER_LIMIT = 1 << 16  # bytes of one header of a tar with its names, and of what is read ahead


def tar_members(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The members of a tar, a file with its content. Raises ClincusError, TarError and ValueError.

    tarfile by itself would hold names of any length, and all members, in memory.
    """
    bounded = Bounded(stream, HEADER_LIMIT)
    with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r|") as archive:
        for count, member in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]
            if count >= TRANSFER_COUNT:
                raise clincus.ClincusError("what the container sent holds too many files", 500)
            if member.issparse() or member.size < 0:
                raise tarfile.ReadError(f"{member.name} has a size that is not its own")
            bounded.limit = member.offset_data + (member.size if member.isreg() else 0) + HEADER_LIMIT
            yield member, archive.extractfile(member) if member.isreg() else None


class Arrival:
    """A copy that arrives from a container in a fresh folder, and writes nowhere else.

    If that folder lies in a shared workspace, programs in the container see it, too. So each folder in it is
    opened without following links, and held open while something is written to it.
    """

    CONTENT = "content"  # the name of a single file

    def __init__(self, target: str, root: int) -> None:
        self.is_tree: bool | None = None  # None until something has arrived
        self.left_out: list[str] = []
        self._target = target  # what it is to become
        self._root = root
        self._files: set[str] = set()  # what arrived, for hard links
        self._written = 0  # bytes

    def receive(self, path: str, stream: IO[bytes]) -> None:
        """Take in what guest/pull.sh sends of `path`. An empty stream changes nothing: the program failed."""
        words = re.fullmatch(rb"(file|directory|other|missing)(?: ([0-7]{1,4}) ([0-9]{1,11}))?\n", stream.readline(64))
        if not words:
            return
        if words[1] == b"other":
            raise clincus.ClincusError(f'"{path}" is neither a file nor a directory', 400)
        if words[1] == b"missing":
            raise clincus.ClincusError(f'"{path}" does not exist in the container', 404)
        is_tree = words[1] == b"directory"
        if os.path.isdir(self._target) or (is_tree and os.path.lexists(self._target)):
            advice = "move it away, or name a place where nothing is"
            raise clincus.ClincusError(f'"{self._target}" exists already: {advice}', 409)
        if is_tree:
            member = None
            try:
                for member, content in tar_members(stream):
                    self._take(member, content)
            except OSError as error:
                where = os.path.join(self._target, member.name if member else "")
                raise clincus.ClincusError(f'"{where}" cannot be written: {error.strerror or error}', 500) from error
            except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
                raise clincus.ClincusError(f"what the container sent is not a tar archive: {error}", 500) from error
        else:
            self._write(self._root, self.CONTENT, int(words[2] or b"644", 8), int(words[3] or 0), stream)
        self.is_tree = is_tree

    def _take(self, member: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """Take in one member of a tree."""
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        name, link = "/".join(parts), member.linkname
        if not parts:
            return  # the tree itself
        if not clincus.safe_relative(name):
            self._leave_out(member, "has a name that is not safe, or lies too deep")
        elif member.isdir():
            with self._folder(parts[:-1]) as folder, contextlib.suppress(FileExistsError):
                os.mkdir(parts[-1], member.mode & 0o777 | 0o700, dir_fd=folder)
        elif content:
            with self._folder(parts[:-1]) as folder:
                self._write(folder, parts[-1], member.mode, member.mtime, content)
            self._files.add(name)
        elif member.islnk() and link.removeprefix("./") in self._files:
            *folders, last = link.removeprefix("./").split("/")
            with self._folder(folders) as source, self._folder(parts[:-1]) as folder:
                os.link(last, parts[-1], src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        elif member.issym() and stays_inside(link, len(parts) - 1):
            with self._folder(parts[:-1]) as folder:
                os.symlink(link, parts[-1], dir_fd=folder)
        elif member.islnk() or member.issym():
            why = "out of the tree" if member.issym() else "which did not arrive"
            self._leave_out(member, f"is a link to {clincus.shorten(link)}, {why}")
        else:
            self._leave_out(member, "is not a file")

    def _leave_out(self, member: tarfile.TarInfo, reason: str) -> None:
        if len(self.left_out) < 1000:
            self.left_out.append(f"{clincus.shorten(member.name)} {reason}")

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[str]) -> Iterator[int]:
        """A folder of the tree, made where it is missing; no link on the way is followed."""
        with contextlib.ExitStack() as held:
            folder = self._root
            for part in parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
                folder = os.open(part, FOLDER, dir_fd=folder)
                held.callback(os.close, folder)
            yield folder

    def _write(self, folder: int, name: str, mode: int, mtime: float, content: IO[bytes]) -> None:
        """Write a new file in a folder."""
        with open(os.open(name, NEW_FILE, mode & 0o777, dir_fd=folder), "wb") as file:
            for piece in iter(lambda: content.read(1 << 16), b""):
                file.write(piece)
                before, self._written = self._written, self._written + len(piece)
                if before >> 24 != self._written >> 24:  # a container could send for ever
                    self._refuse_full(folder)
            file.flush()
            seconds = min(max(0.0, mtime), 2.0**40)
            os.utime(file.fileno(), (seconds, seconds))

    def _refuse_full(self, folder: int) -> None:
        disk = os.fstatvfs(folder)
        if disk.f_bavail * disk.f_frsize < clincus.DISK_RESERVE:
            raise clincus.ClincusError(f'the disk of "{self._target}" is nearly full: the copy was stopped', 500)


def stays_inside(link: str, depth: int) -> bool:
    """Whether a link `depth` folders below a root leads to something below it, whatever other links it passes.

    `..` may stand only in front: behind a name that is itself a link it would lead up from somewhere else.
    """
    parts = [part for part in link.split("/") if part not in ("", ".")]
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    is_plain = bool(parts) and not link.startswith("/") and not any(ord(char) < 32 for char in link)
    return is_plain and up <= depth and ".." not in parts[up:]
