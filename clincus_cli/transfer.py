"""Files in and out of a container, like cp.

The copied data is hostile: the container names every file, and may change it while we read. `incus file`
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
from clincus_cli import descent

TRANSFER_TIMEOUT = 6 * 3600.0  # seconds that one copy may take
TRANSFER_COUNT = 2_000_000  # files in one copy
DEEPEST = 200  # folders above a file in one copy
EXISTS = "exists already: move it away, or name a place where nothing is"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@dataclass
class Transfer:
    """The result of a copy: its place, True if it is a tree, and the files that were left out, each with the reason."""

    target: str
    is_tree: bool
    left_out: list[str] = field(default_factory=list)


def own_name(path: str) -> str:
    """The name that a copy of a path takes in a directory; empty where its content goes in without it, as for `.`."""
    name = posixpath.basename(path.rstrip("/"))
    return "" if name in (".", "..") else name


# -- In


def push_files(
    incus: clincus.Incus, name: str, local: str, path: str, *,
    owner: Callable[[str], int | None], shared: descent.Identities = set,
) -> Transfer:  # fmt: skip
    """Copy a file or a directory of the host into a running container, like cp.

    A directory that exists at `path` takes the copy in under its own name, else `path` is the copy; missing parents
    are made. `owner` gives the uid (and gid) for a path; None keeps the host's numbers. `shared` as in
    `descent.opened`. Raises ClincusError.
    """
    try:
        with contextlib.ExitStack() as held:
            place = held.enter_context(descent.opened(local, shared))
            found = os.fstat(place)
            is_tree = stat.S_ISDIR(found.st_mode)
            if not is_tree and not stat.S_ISREG(found.st_mode):
                raise clincus.ClincusError(f'"{local}" is neither a file nor a directory: choose one of these', 400)
            source = descent.readable(place)
            held.callback(os.close, source)
            inside = container_directory(incus, name, path) or (path.endswith("/") and not is_tree)
            transfer = Transfer(posixpath.normpath(posixpath.join(path, own_name(local)) if inside else path), is_tree)
            uid = owner(transfer.target)
            ids = (found.st_uid, found.st_gid) if uid is None else (uid, uid)
            size = "tree" if is_tree else str(os.fstat(source).st_size)
            words = [transfer.target, f"{ids[0]}:{ids[1]}", f"{found.st_mode & 0o777:o}", size]
            command = ["sh", "-c", clincus.guest_program("push"), "push", *words]
            stdin, _ = held.enter_context(incus.open(name, command, timeout=TRANSFER_TIMEOUT))
            if is_tree:
                send_tree(source, cast("IO[bytes]", stdin), None if uid is None else ids, transfer.left_out)
            else:
                with open(source, "rb", closefd=False) as file:
                    shutil.copyfileobj(file, stdin, 1 << 16)
    except OSError as error:
        reason = error.strerror or error
        raise clincus.ClincusError(f'"{error.filename or local}" cannot be read: {reason}', 500) from error
    return transfer


def container_directory(incus: clincus.Incus, name: str, path: str) -> bool:
    """True if a path in a running container is a directory. Raises IncusError if the container cannot be asked."""
    done = incus.exec(name, ["sh", "-c", '[ -d "$1" ]', "sh", path])
    if done.code > 1 or done.stderr:
        raise incus.guest_failure(name, done)
    return done.code == 0


def send_tree(source: int, stream: IO[bytes], ids: tuple[int, int] | None, left_out: list[str]) -> None:
    """Write a directory as a tar, with an owner if one is given. Links stay links; special files are left out.

    A container may be changing it, so everything is opened by the descriptor of its directory.
    """
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        send_entries(archive, source, ".", ids, left_out)


def send_entries(
    archive: tarfile.TarFile, folder: int, above: str, ids: tuple[int, int] | None, left_out: list[str]
) -> None:
    """Write all entries of a directory, which has the name `above` in a tar."""
    for name in sorted(os.listdir(folder)):
        inside = f"{above}/{name}"
        with contextlib.ExitStack() as held:
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            held.callback(os.close, place)
            about = os.fstat(place)
            entry = tarfile.TarInfo(inside)
            entry.mode = about.st_mode & 0o777
            entry.mtime = int(about.st_mtime)
            entry.uid, entry.gid = ids or (about.st_uid, about.st_gid)
            if stat.S_ISLNK(about.st_mode):
                entry.type = tarfile.SYMTYPE
                entry.linkname = os.readlink(name, dir_fd=folder)
                archive.addfile(entry)
            elif stat.S_ISREG(about.st_mode):
                content = held.enter_context(open(descent.readable(place), "rb"))
                send_file(archive, entry, content)
            elif stat.S_ISDIR(about.st_mode) and inside.count("/") <= DEEPEST:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
                below = descent.readable(place)
                held.callback(os.close, below)
                send_entries(archive, below, inside, ids, left_out)
            elif stat.S_ISDIR(about.st_mode):
                left_out.append(f'"{inside}" lies too deep')
            else:
                left_out.append(f'"{inside}" is neither a file, a directory nor a link')


def send_file(archive: tarfile.TarFile, entry: tarfile.TarInfo, content: IO[bytes]) -> None:
    """Write a file; a further name of a file that was written before becomes a link to it."""
    known = archive.gettarinfo(arcname=entry.name, fileobj=content)
    entry.type = known.type
    entry.size = known.size
    entry.linkname = known.linkname
    archive.addfile(entry, content if known.isreg() else None)


# -- Out


def pull_files(incus: clincus.Incus, name: str, path: str, local: str, *, shared: descent.Identities = set) -> Transfer:
    """Copy a file or a directory out of a running container.

    As with cp, a directory that exists at `local` takes the copy in under its own name, and a file takes the place of
    a file. A directory only goes where nothing is. The copy is made in a fresh folder beside its place and moves there
    when it is whole. `shared` as in `descent.opened`. Raises ClincusError.
    """
    own = own_name(path) if path.strip("/") else name
    target = os.path.abspath(os.path.join(local, own) if os.path.isdir(local) or local.endswith("/") else local)
    command = ["sh", "-c", clincus.guest_program("pull"), "pull", path]
    try:
        with place_for(local, own, shared) as (above, base), fresh_folder(above) as (parent, fresh, root):
            arrival = Arrival(target, root, (parent, base))
            with incus.open(name, command, timeout=TRANSFER_TIMEOUT) as (_, stream):
                arrival.receive(path, stream)
            if arrival.is_tree is None:
                raise clincus.ClincusError(
                    "the container sent nothing that can be a copy: look whether it still runs", 500
                )
            held, arrived = (parent, fresh) if arrival.is_tree else (root, arrival.CONTENT)
            os.rename(arrived, base, src_dir_fd=held, dst_dir_fd=parent)
    except OSError as error:
        raise clincus.ClincusError(f'"{target}" cannot be written: {error.strerror or error}') from error
    return Transfer(target, arrival.is_tree, arrival.left_out)


@contextlib.contextmanager
def place_for(local: str, own: str, shared: descent.Identities) -> Iterator[tuple[int, str]]:
    """The place for a copy that is named `own`, at `local` or in it: a folder's descriptor, and a name in it."""
    if not own:  # the content goes in without a name
        local = local.rstrip("/") or "/"
    folder, slash, base = local.rpartition("/")
    folder = folder or slash or "."
    with contextlib.ExitStack() as held:
        place = -1
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place = held.enter_context(descent.opened(local, shared, make=not base))
        is_folder = place >= 0 and stat.S_ISDIR(os.fstat(place).st_mode)
        if is_folder and own:
            yield place, own
            return
        if is_folder:
            raise clincus.ClincusError(f'"{local}" {EXISTS}', 409)
        yield held.enter_context(descent.opened(folder, shared, make=True)), base


@contextlib.contextmanager
def fresh_folder(parent: int) -> Iterator[tuple[int, str, int]]:
    """A new folder in a folder, for a while: a descriptor of `parent`, the new name, and its own descriptor.

    The folder is removed at the end, unless it has another name by then.
    """
    name = f".clincus-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as held:
        above = os.open(f"/proc/self/fd/{parent}", os.O_RDONLY | os.O_DIRECTORY)
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
            raise clincus.ClincusError("the container sent a name that is too long", 500)
        return data


ZEROS = bytes(1 << 16)
HEADER_LIMIT = 1 << 16  # bytes of one header of a tar with its names, and of the read-ahead


def tar_members(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The members of a tar, a file with its content. Raises ClincusError, TarError and ValueError.

    tarfile by itself would hold names of any length, and all members, in memory.
    """
    bounded = Bounded(stream, HEADER_LIMIT)
    with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r|") as archive:
        for count, member in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]
            if count >= TRANSFER_COUNT:
                raise clincus.ClincusError("the container sent too many files", 500)
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

    def __init__(self, target: str, root: int, place: tuple[int, str]) -> None:
        self.is_tree: bool | None = None  # None until something has arrived
        self.left_out: list[str] = []
        self._target = target  # the destination, in words for a person
        self._place = place  # the descriptor of the folder for it, and its name there
        self._root = root
        self._files: set[str] = set()  # the files that arrived, for hard links
        self._written = 0  # bytes

    def receive(self, path: str, stream: IO[bytes]) -> None:
        """Receive `path` from guest/pull.sh. An empty stream changes nothing: the program failed."""
        words = re.fullmatch(rb"(file|directory|other|missing)(?: ([0-7]{1,4}) ([0-9]{1,11}))?\n", stream.readline(64))
        if not words:
            return
        if words[1] == b"other":
            raise clincus.ClincusError(f'"{path}" is neither a file nor a directory: choose one of these', 400)
        if words[1] == b"missing":
            raise clincus.ClincusError(f'"{path}" does not exist in the container: look in its shell', 404)
        is_tree = words[1] == b"directory"
        if self._is_taken(is_tree=is_tree):
            raise clincus.ClincusError(f'"{self._target}" {EXISTS}', 409)
        if is_tree:
            member = None
            try:
                for member, content in tar_members(stream):
                    self._take(member, content)
            except OSError as error:
                where = os.path.join(self._target, member.name if member else "")
                raise clincus.ClincusError(f'"{where}" cannot be written: {error.strerror or error}', 500) from error
            except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
                raise clincus.ClincusError(f"the data of the container is not a tar archive: {error}", 500) from error
        else:
            self._write(self._root, self.CONTENT, int(words[2] or b"644", 8), int(words[3] or 0), stream)
        self.is_tree = is_tree

    def _is_taken(self, *, is_tree: bool) -> bool:
        """True if the copy must not replace the thing in its place: a directory, and for a tree anything."""
        folder, name = self._place
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            return is_tree or stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode)
        return False

    def _take(self, member: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """Take in one member of a tree."""
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        name = "/".join(parts)
        link = member.linkname
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
        """Write a new file in a folder. Zeros become a hole: a container pays nothing for a sparse file of any size."""
        with open(os.open(name, NEW_FILE, mode & 0o777, dir_fd=folder), "wb") as file:
            for piece in iter(lambda: content.read(len(ZEROS)), b""):
                if piece == ZEROS:
                    file.seek(len(piece), os.SEEK_CUR)
                else:
                    file.write(piece)
                before = self._written
                self._written += len(piece)
                if before >> 24 != self._written >> 24:  # a container could send for ever
                    self._refuse_full(folder)
            file.truncate()
            file.flush()
            seconds = min(max(0.0, mtime), 2.0**40)
            os.utime(file.fileno(), (seconds, seconds))

    def _refuse_full(self, folder: int) -> None:
        disk = os.fstatvfs(folder)
        if disk.f_bavail * disk.f_frsize < clincus.DISK_RESERVE:
            raise clincus.ClincusError(
                f'the disk of "{self._target}" is nearly full: free some, and copy again',
                500,
            )


def stays_inside(link: str, depth: int) -> bool:
    """True if a link `depth` folders below a root leads to something below it, whatever other links it passes.

    `..` may only come first: after a name that is itself a link it would lead up from somewhere else.
    """
    parts = [part for part in link.split("/") if part not in ("", ".")]
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    is_plain = bool(parts) and not link.startswith("/") and not any(ord(char) < 32 for char in link)
    return is_plain and up <= depth and ".." not in parts[up:]
