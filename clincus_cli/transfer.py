"""Files in and out of a container, like cp.

What comes out is hostile: the container names every file, and may change what it names while we read. `incus file` is
no way to do it: its pull follows what it has just written, and a named pipe where it expects a file blocks every later
start and stop of that container (seen with 6.0.4).
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import secrets
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, NamedTuple, cast

import clincus

TRANSFER_TIMEOUT = 6 * 3600.0  # seconds that one copy may take
TRANSFER_COUNT = 2_000_000  # files in one copy


class TarEntry(NamedTuple):
    """One member of a tar that came out of a container; only the name has been checked (`safe_relative`)."""

    name: str
    kind: str  # file, directory, hardlink, symlink; other: devices, named pipes and what no reader needs
    mode: int
    mtime: float
    link: str  # where a link leads; not checked
    content: Iterator[bytes]


TAR_KINDS = {b"0": "file", b"\0": "file", b"1": "hardlink", b"2": "symlink", b"5": "directory"}


class TarReader:
    """A reader of the tar that comes out of a container, which is hostile input.

    Only what GNU and busybox tar write without options is understood: files, directories, links and long names. What
    is else (devices, sparse files, PAX headers) is passed over. tarfile is not used here: it follows whatever
    form the archive takes, and the Pythons that Clincus meets have known holes in it. Each size and count is bounded.
    """

    BLOCK = 512
    NAME_LIMIT = 4096

    def __init__(
        self,
        stream: IO[bytes],
        limit: int,
        count: int,
        *,
        what: str = "what the container sent",
    ) -> None:
        self.stream = stream
        self.left = limit  # bytes of content that may still come
        self.members = count  # members that may still come
        self.what = what  # the subject of an error's sentence
        self._position = 0  # bytes read so far

    def entries(self) -> Iterator[TarEntry]:
        """Every member in order, with the name as it came. ClincusError on a broken or too large archive."""
        long = {b"L": "", b"K": ""}  # a long name and a long link's target come before their member
        while True:
            header = self._read(self.BLOCK)
            if header.strip(b"\0") == b"":
                return
            self.members -= 1
            if self.members < 0:
                raise clincus.ClincusError(f"{self.what} holds too many files", 500)
            size, mtime, kind = self._header(header)
            if kind in long:
                if size > self.NAME_LIMIT:
                    raise clincus.ClincusError(f"{self.what} holds a name that is too long", 500)
                long[kind] = self._text(b"".join(self._content(size)))
                continue
            content = self._content(size)
            yield TarEntry(
                long[b"L"] or self._text(header[:100]),
                TAR_KINDS.get(kind, "other"),
                self._number(header[100:108]) & 0o777,
                mtime,
                long[b"K"] or self._text(header[157:257]),
                content,
            )
            for _ in content:  # what the caller did not read
                pass
            long = dict.fromkeys(long, "")

    def _header(self, header: bytes) -> tuple[int, float, bytes]:
        """Size, time and type of a member (GNU tar manual, "Basic Tar Format")."""
        if header[257:262] != b"ustar" or self._number(header[148:156]) != sum(header) - sum(header[148:156]) + 256:
            raise clincus.ClincusError(f"{self.what} is not a tar archive", 500)
        mtime = min(self._number(header[136:148]), 1 << 40)
        return self._number(header[124:136]), float(mtime), header[156:157]

    @staticmethod
    def _text(field_: bytes) -> str:
        return field_.split(b"\0")[0].decode("utf-8", "surrogateescape")

    def _number(self, field_: bytes) -> int:
        """A number: in octal, or in base 256 (a file of 8 GiB and more; a time before 1970 counts as 0)."""
        if field_[0] in (0x80, 0xFF):
            return int.from_bytes(field_[1:], "big") if field_[0] == 0x80 else 0
        text = field_.strip(b" \0")
        if not re.fullmatch(rb"[0-7]{1,12}", text):
            raise clincus.ClincusError(f"{self.what} is not a tar archive", 500)
        return int(text, 8)

    def _content(self, size: int) -> Iterator[bytes]:
        """The content of a member in pieces; its padding is read as well."""
        self.left -= size
        if self.left < 0:
            raise clincus.ClincusError(f"{self.what} is too large", 500)
        while size:
            piece = self._read(min(size, 1 << 16))
            size -= len(piece)
            yield piece
            if not size:
                self._read(-self._position % self.BLOCK)

    def _read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self._position += len(data)
        if len(data) < size:  # an archive of nothing has bytes too
            raise clincus.ClincusError(f"{self.what} ends too early", 500)
        return data


@dataclass
class Transfer:
    """What a copy did: where it ended, whether that is a tree, and what it left out, each with the reason."""

    target: str
    is_tree: bool
    left_out: list[str] = field(default_factory=list)


def push_files(
    incus: clincus.Incus, name: str, local: str, path: str, *, owner: Callable[[str], int | None], recursive: bool
) -> Transfer:
    """Copy a file or, with `recursive`, a directory of the host into a running container, like cp.

    A directory that exists at `path` takes the copy in under its own name, else `path` is the copy; missing parents
    are made. `owner` gives the uid (and gid) for a path; None keeps the host's numbers. Raises ClincusError.
    """
    source = os.path.realpath(local)
    try:
        found = os.stat(source)
    except OSError as error:
        raise clincus.ClincusError(f'"{local}" cannot be read: {error.strerror}', 400) from error
    is_tree = stat.S_ISDIR(found.st_mode)
    if is_tree and not recursive:
        raise clincus.ClincusError(f'"{local}" is a directory: use --recursive', 400)
    if not is_tree and not stat.S_ISREG(found.st_mode):
        raise clincus.ClincusError(f'"{local}" is neither a file nor a directory', 400)
    inside = container_directory(incus, name, path) or (path.endswith("/") and not is_tree)
    target = posixpath.normpath(posixpath.join(path, own_name(local)) if inside else path)
    transfer = Transfer(target, is_tree)
    uid = owner(target)
    ids = (found.st_uid, found.st_gid) if uid is None else (uid, uid)
    try:
        if is_tree:
            send_tree(incus, name, source, transfer, ids, keep_owner=uid is None)
        else:
            send_file(incus, name, source, target, ids)
    except OSError as error:
        words = f'"{error.filename or local}" cannot be read: {error.strerror or error}'
        raise clincus.ClincusError(words, 500) from error
    return transfer


def own_name(path: str) -> str:
    """The name that a copy of a path takes in a directory; empty where its content goes in without it, as for `.`."""
    name = posixpath.basename(path.rstrip("/"))
    return "" if name in (".", "..") else name


def container_directory(incus: clincus.Incus, name: str, path: str) -> bool:
    """Whether a path in a running container is a directory. Raises IncusError when the container cannot be asked."""
    done = incus.exec(name, ["sh", "-c", '[ -d "$1" ]', "sh", path])
    if done.code > 1 or done.stderr:
        raise incus.guest_failure(name, done)
    return done.code == 0


def send_file(incus: clincus.Incus, name: str, source: str, target: str, ids: tuple[int, int]) -> None:
    """Copy one file of the host into a container, whole or not at all."""
    with open(source, "rb") as file:
        found = os.fstat(file.fileno())
        words = [target, f"{ids[0]}:{ids[1]}", f"{found.st_mode & 0o777:o}", str(found.st_size)]
        command = ["sh", "-c", clincus.guest_program("push"), "push", *words]
        with incus.open(name, command, timeout=TRANSFER_TIMEOUT) as (stdin, _):
            shutil.copyfileobj(file, stdin, 1 << 16)


def send_tree(
    incus: clincus.Incus, name: str, source: str, transfer: Transfer, ids: tuple[int, int], *, keep_owner: bool
) -> None:
    """Copy a directory of the host into a container; its links stay links, what is no file is left out."""

    def member(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
            transfer.left_out.append(f'"{entry.name}" is neither a file, a directory nor a link')
            return None
        entry.uname = entry.gname = ""  # the container's names are not the host's
        entry.mode &= 0o777
        if not keep_owner:
            entry.uid, entry.gid = ids
        return entry

    words = [transfer.target, f"{ids[0]}:{ids[1]}", f"{os.stat(source).st_mode & 0o777:o}", "tree"]
    command = ["sh", "-c", clincus.guest_program("push"), "push", *words]
    with (
        incus.open(name, command, timeout=TRANSFER_TIMEOUT) as (stdin, _),
        tar_writer(cast("IO[bytes]", stdin)) as archive,
    ):
        for entry in sorted(os.listdir(source)):
            archive.add(os.path.join(source, entry), f"./{entry}", filter=member)


def tar_writer(stream: IO[bytes]) -> tarfile.TarFile:
    """A tar that is written to a pipe."""
    return tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT)


def pull_files(incus: clincus.Incus, name: str, path: str, local: str) -> Transfer:
    """Copy a file or a directory out of a running container, like `cp -r`.

    A directory that exists at `local` takes the copy in under its own name, and files in it that the copy does not
    have stay. Raises ClincusError; a file or directory that is new on the host appears when it is whole.
    """
    inside = os.path.isdir(local) or local.endswith("/")
    base = own_name(path) if path.strip("/") else name
    target = os.path.realpath(local) if inside and not base else os.path.abspath(os.path.join(local, base))
    target = target if inside else os.path.abspath(local)
    command = ["sh", "-c", clincus.guest_program("pull"), "pull", path]
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with Arrival(target) as arrival:
            with incus.open(name, command, timeout=TRANSFER_TIMEOUT) as (_, stream):
                arrival.receive(path, stream)
            arrival.settle()
    except OSError as error:
        raise clincus.ClincusError(f'"{target}" cannot be written: {error.strerror or error}') from error
    return Transfer(target, arrival.is_tree, arrival.left_out)


class Arrival:
    """A copy that arrives from a container at one path of the host: it never writes anywhere else.

    Every folder on the way below `target` is opened without following links and held open while something is written
    in it, so neither the names that arrive nor a container that changes a shared workspace meanwhile lead elsewhere.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.left_out: list[str] = []
        self.is_tree = False
        self._name = os.path.basename(target)
        self._fresh = ""  # name beside the target of what takes its place when it is whole
        self._links: list[tuple[list[str], str]] = []  # made at the end: nothing is ever written through one
        self._files: set[str] = set()  # what arrived, for hard links
        self._written = 0
        self._umask = os.umask(0o77)
        os.umask(self._umask)

    def __enter__(self) -> Arrival:
        self._parent = os.open(os.path.dirname(self.target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._fresh:
            self._discard()
        os.close(self._parent)

    def receive(self, path: str, stream: IO[bytes]) -> None:
        """Take in what guest/pull.sh sends of `path`; a stream that ends at once is its failure, told by others."""
        words = re.fullmatch(rb"(file|directory|other|missing)(?: ([0-7]{1,4}) ([0-9]{1,11}))?\n", stream.readline(64))
        kind = words[1].decode() if words else ""
        if kind == "directory":
            self.is_tree = True
            self._receive_tree(stream)
        elif words and kind == "file":
            self._refuse_directory(self._parent, self._name)
            pieces = iter(lambda: stream.read(1 << 16), b"")
            self._fresh = self._write(self._parent, int(words[2] or b"644", 8), int(words[3] or 0), pieces)
        elif kind == "other":
            raise clincus.ClincusError(f'"{path}" is neither a file nor a directory', 400)
        elif kind == "missing":
            raise clincus.ClincusError(f'"{path}" does not exist in the container', 404)

    def settle(self) -> None:
        """Give what has arrived whole its name."""
        if not self.is_tree and not self._fresh:
            raise clincus.ClincusError("the container sent nothing that can be a copy", 500)
        if self._fresh:
            os.rename(self._fresh, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            self._fresh = ""

    def _discard(self) -> None:
        if self.is_tree:
            shutil.rmtree(os.path.join(os.path.dirname(self.target), self._fresh), ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(self._fresh, dir_fd=self._parent)

    def _receive_tree(self, stream: IO[bytes]) -> None:
        root = self._open_root()
        try:
            for entry in TarReader(stream, 1 << 62, TRANSFER_COUNT).entries():
                self._take(root, entry)
            for parts, link in self._links:
                self._place(root, parts, functools.partial(self._make_link, link))
        finally:
            os.close(root)
        rest = stream.read(1 << 16)  # tar fills its last block
        if rest.strip(b"\0") or len(rest) == 1 << 16:
            raise clincus.ClincusError("what the container sent goes on after its end", 500)

    def _open_root(self) -> int:
        """The directory that takes the tree in: the one that is there, or a fresh one beside the target."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._name, flags, dir_fd=self._parent)
        except NotADirectoryError:
            raise clincus.ClincusError(f'"{self.target}" is no directory: a tree cannot take its place', 409) from None
        except FileNotFoundError:
            self._fresh = fresh_name()
            os.mkdir(self._fresh, 0o777, dir_fd=self._parent)
            return os.open(self._fresh, flags, dir_fd=self._parent)

    def _take(self, root: int, entry: TarEntry) -> None:
        """Take in one member of a tree."""
        parts = [part for part in entry.name.split("/") if part not in ("", ".")]
        name = "/".join(parts)
        if not parts:
            return
        if not clincus.safe_relative(name):
            self._leave_out(entry.name, "has a name that is not safe, or lies too deep")
        elif entry.kind == "directory":
            os.close(self._folder(root, parts, entry.mode | 0o700))
        elif entry.kind == "file":
            self._place(root, parts, lambda folder: self._write(folder, entry.mode, entry.mtime, entry.content))
            self._files.add(name)
        elif entry.kind == "hardlink":
            self._take_hard_link(root, parts, entry)
        elif entry.kind == "symlink" and stays_inside(entry.link, len(parts) - 1):
            self._links.append((parts, entry.link))
        else:
            reason = f'is a link to "{entry.link}", out of the tree' if entry.kind == "symlink" else "is not a file"
            self._leave_out(entry.name, reason)

    def _take_hard_link(self, root: int, parts: list[str], entry: TarEntry) -> None:
        first = entry.link.removeprefix("./")
        if first not in self._files:
            self._leave_out(entry.name, f'is a link to "{entry.link}", which did not arrive')
            return
        *folders, last = first.split("/")
        source = self._folder(root, folders)
        try:
            self._place(root, parts, lambda folder: self._link_again(source, last, folder))
        finally:
            os.close(source)

    def _leave_out(self, name: str, reason: str) -> None:
        if len(self.left_out) < 1000:
            self.left_out.append(f"{clincus.shorten(name)} {reason}")

    def _folder(self, root: int, parts: Sequence[str], mode: int = 0o777) -> int:
        """Open a folder below the root, made where it is missing; no link on the way is followed."""
        folder = os.dup(root)
        for depth, part in enumerate(parts):
            above = folder
            try:
                with suppress(FileExistsError):
                    os.mkdir(part, mode if depth == len(parts) - 1 else 0o777, dir_fd=above)
                folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            except OSError as error:
                where = os.path.join(self.target, *parts[: depth + 1])
                raise clincus.ClincusError(f'"{where}" is no directory to write to: {error.strerror}', 409) from error
            finally:
                os.close(above)
        return folder

    def _place(self, root: int, parts: Sequence[str], make: Callable[[int], str]) -> None:
        """Make something under a fresh name in its folder, then give it its own; what had the name before goes."""
        folder = self._folder(root, parts[:-1])
        try:
            self._refuse_directory(folder, parts[-1])
            fresh = make(folder)
            try:
                os.rename(fresh, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(fresh, dir_fd=folder)
                raise
        finally:
            os.close(folder)

    def _refuse_directory(self, folder: int, name: str) -> None:
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise clincus.ClincusError(f'"{name}" is a directory here and a file there: move one of them away', 409)

    def _write(self, folder: int, mode: int, mtime: float, pieces: Iterable[bytes]) -> str:
        """Write a new file of ours in a folder under a fresh name, which is returned."""
        fresh = fresh_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600, dir_fd=folder)
        try:
            with open(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    self._count(folder, len(piece))
                file.flush()
                os.fchmod(descriptor, mode & 0o777 & ~self._umask)
                os.utime(descriptor, (mtime, mtime))
        except BaseException:
            os.unlink(fresh, dir_fd=folder)
            raise
        return fresh

    def _count(self, folder: int, size: int) -> None:
        """Stop before the disk is full: a container could send for ever."""
        before, self._written = self._written, self._written + size
        if before >> 24 != self._written >> 24:
            disk = os.fstatvfs(folder)
            if disk.f_bavail * disk.f_frsize < clincus.DISK_RESERVE:
                raise clincus.ClincusError(f'the disk of "{self.target}" is nearly full: the copy was stopped', 500)

    @staticmethod
    def _make_link(link: str, folder: int) -> str:
        fresh = fresh_name()
        os.symlink(link, fresh, dir_fd=folder)
        return fresh

    @staticmethod
    def _link_again(source: int, name: str, folder: int) -> str:
        fresh = fresh_name()
        os.link(name, fresh, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        return fresh


def fresh_name() -> str:
    """A name for something that is not whole yet."""
    return f".clincus-{secrets.token_hex(8)}"


def stays_inside(link: str, depth: int) -> bool:
    """Whether a link `depth` folders below a root leads to something below it, whatever other links it passes.

    `..` may stand only in front: behind a name that is itself a link it would lead up from somewhere else.
    """
    parts = [part for part in link.split("/") if part not in ("", ".")]
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return bool(parts) and not link.startswith("/") and up <= depth and ".." not in parts[up:]
