"""Reads git's objects from a Git folder that an agent may be changing: by descriptors, with no link followed.

Git compares an object with its name when it stores the object, and not when it reads it (only `git fsck` does). So a
program that may write in .git can store another content under a name, and `git checkout` writes it. Therefore each
object is compared here, and each copy of it, since git uses the first copy that it finds. See gitformat-pack(5) and
gitformat-loose(5).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

LARGEST = 8 << 20  # bytes of one object
MOST_PACKS = 300
MOST_DELTAS = 4095  # of one object: pack.depth has no higher value
PIECE = 64 << 10  # bytes of a pack that are read at once
INDEX_HEAD = b"\377tOc\0\0\0\2"
FANOUT = 8 + 256 * 4  # bytes before the names
OLD_FANOUT = 256 * 4  # the same in an index of version 1, where each name follows its place
MIDX = "multi-pack-index"
MOST_NAMED = 1 << 20  # bytes of the names of packs in it
KINDS = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
OFS_DELTA, REF_DELTA = 6, 7
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class MissingError(Exception):
    """An object is missing, or git could not read it."""


class ForgedError(Exception):
    """An object has another content than its name says, and git accepts it anyway."""


class TooLargeError(Exception):
    """An object is larger than LARGEST."""


class Found:
    """An object."""

    def __init__(self, kind: str, data: bytes, written: float) -> None:
        self.kind = kind
        self.data = data
        self.written = written  # the time of the last change to the newest of its files (seconds since 1970)


class Pack:
    """A pack and its index, held open."""

    def __init__(self, folder: int, name: str, hash_size: int) -> None:
        """Raises OSError, and struct.error for an index that is cut off."""
        self._size = hash_size
        self._index = os.open(f"{name}.idx", OPEN_FILE, dir_fd=folder)
        self._pack = -1
        try:
            self._pack = os.open(f"{name}.pack", OPEN_FILE, dir_fd=folder)
            about = os.fstat(self._pack)
            head = os.pread(self._index, FANOUT, 0)
            self._is_old = not head.startswith(INDEX_HEAD[:4])
            self._fanout = struct.unpack_from(">256I", head, 0 if self._is_old else 8)
        except BaseException:
            self.close()
            raise
        self.is_known = stat.S_ISREG(about.st_mode) and (self._is_old or head.startswith(INDEX_HEAD))
        self.written = about.st_ctime

    def close(self) -> None:
        """Close the files."""
        for descriptor in (self._index, self._pack):
            if descriptor >= 0:
                os.close(descriptor)

    def place_of(self, name: bytes) -> int:
        """The place where an object begins, -1 if it is not in this pack. Raises struct.error for a broken index."""
        begin, width = (OLD_FANOUT + 4, self._size + 4) if self._is_old else (FANOUT, self._size)
        number = number_of(self._index, self._fanout, name, begin, width)
        return self._offset(number) if number >= 0 else -1

    def _offset(self, number: int) -> int:
        if self._is_old:
            (place,) = struct.unpack(">I", os.pread(self._index, 4, OLD_FANOUT + number * (self._size + 4)))
            return int(place)
        count = self._fanout[255]
        (place,) = struct.unpack(">I", os.pread(self._index, 4, FANOUT + count * (self._size + 4) + number * 4))
        if place < 1 << 31:
            return int(place)
        far = FANOUT + count * (self._size + 8) + (place & 0x7FFFFFFF) * 8
        (place,) = struct.unpack(">Q", os.pread(self._index, 8, far))
        return int(place)

    def read(self, place: int) -> tuple[str, bytes]:
        """The kind and the content of the object that begins at a place.

        Raises MissingError, TooLargeError, and for a broken pack struct.error, IndexError or zlib.error.
        """
        deltas: list[bytes] = []
        while True:
            kind, base, data = self._entry(place)
            if kind in KINDS:
                break
            deltas.append(data)
            if len(deltas) > MOST_DELTAS or base < 0:
                raise MissingError
            place = base
        for delta in reversed(deltas):
            data = with_delta(data, delta)
        return KINDS[kind], data

    def _entry(self, place: int) -> tuple[int, int, bytes]:
        """An entry: its type, the place of the object that it is a delta of, and its content."""
        head = os.pread(self._pack, 64 + self._size, place)
        kind = head[0] >> 4 & 7
        size = head[0] & 15
        at = 0
        shift = 4
        while head[at] & 128:
            at += 1
            size |= (head[at] & 127) << shift
            shift += 7
        at += 1
        if size > LARGEST:
            raise TooLargeError
        base = -1
        if kind == OFS_DELTA:
            back = head[at] & 127
            while head[at] & 128:
                at += 1
                back = (back + 1 << 7) | (head[at] & 127)
            at += 1
            base = place - back if 0 < back <= place else -1
        elif kind == REF_DELTA:
            base = self.place_of(head[at : at + self._size])
            at += self._size
        elif kind not in KINDS:
            raise MissingError
        return kind, base, self._inflated(place + at, size)

    def _inflated(self, place: int, size: int) -> bytes:
        import zlib

        inflating = zlib.decompressobj()
        data = b""
        while len(data) < size or not inflating.eof:
            piece = os.pread(self._pack, PIECE, place)
            if not piece:
                raise MissingError
            place += len(piece)
            data += inflating.decompress(piece, size + 1 - len(data))
            if len(data) > size:
                raise MissingError
        return data


def number_of(file: int, fanout: Sequence[int], name: bytes, begin: int, width: int) -> int:
    """The number of a name in a sorted list of a file, -1 if it is not there."""
    low = fanout[name[0] - 1] if name[0] else 0
    high = fanout[name[0]]
    while low < high:
        middle = (low + high) // 2
        here = os.pread(file, len(name), begin + middle * width)
        if here == name:
            return middle
        if here < name:
            low = middle + 1
        else:
            high = middle
    return -1


class Midx:
    """An index of several packs, held open. Git believes it more than the indexes of the packs."""

    def __init__(self, folder: int, hash_size: int) -> None:
        """Raises OSError, and struct.error, KeyError or ValueError for a file that is none."""
        self._size = hash_size
        self._file = os.open(MIDX, OPEN_FILE, dir_fd=folder)
        try:
            self.written = os.fstat(self._file).st_ctime
            signature, chunks, count = struct.unpack(">4s2xBxI", os.pread(self._file, 12, 0))
            table = [*struct.iter_unpack(">4sQ", os.pread(self._file, 12 * (chunks + 1), 12))]
            self._places = dict(table)
            length = {name: min(MOST_NAMED + 1, after - at) for (name, at), (_, after) in zip(table, table[1:])}
            names = os.pread(self._file, length[b"PNAM"], self._places[b"PNAM"]).split(b"\0")[:count]
            self.packs = [os.fsdecode(name).rpartition(".")[0] for name in names]
            self.is_known = signature == b"MIDX" and length[b"PNAM"] <= MOST_NAMED
            self._fanout = struct.unpack(">256I", os.pread(self._file, 1024, self._places[b"OIDF"]))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def place_of(self, name: bytes) -> tuple[str, int]:
        """The pack that has an object, and the place there; no pack if it is not listed. Raises struct.error."""
        number = number_of(self._file, self._fanout, name, self._places[b"OIDL"], self._size)
        if number < 0:
            return "", -1
        pack, place = struct.unpack(">II", os.pread(self._file, 8, self._places[b"OOFF"] + 8 * number))
        if place >> 31 and b"LOFF" in self._places:
            far = self._places[b"LOFF"] + 8 * (place & 0x7FFFFFFF)
            (place,) = struct.unpack(">Q", os.pread(self._file, 8, far))
        return self.packs[pack], place


def with_delta(base: bytes, delta: bytes) -> bytes:
    """Apply a delta to an object. Raises MissingError, and IndexError for a delta that git would refuse."""
    _, at = delta_size(delta, 0)
    size, at = delta_size(delta, at)
    if size > LARGEST:
        raise TooLargeError
    found: list[bytes] = []
    left = size
    while at < len(delta):
        step = delta[at]
        at += 1
        if step & 128:
            numbers = []
            for first, count in ((0, 4), (4, 3)):
                number = 0
                for bit in range(count):
                    if step >> (first + bit) & 1:
                        number |= delta[at] << 8 * bit
                        at += 1
                numbers.append(number)
            begin, length = numbers[0], numbers[1] or 1 << 16
            piece = base[begin : begin + length]
        else:
            length = step
            piece = delta[at : at + length]
            at += length
        left -= length
        if not length or len(piece) != length or left < 0:
            raise MissingError
        found.append(piece)
    if left:
        raise MissingError
    return b"".join(found)


def delta_size(delta: bytes, at: int) -> tuple[int, int]:
    """A number at the beginning of a delta, and the place where the rest begins."""
    number = shift = 0
    while True:
        number |= (delta[at] & 127) << shift
        shift += 7
        at += 1
        if not delta[at - 1] & 128:
            return number, at


class Objects:
    """The objects of a Git folder, given by its descriptor."""

    def __init__(self, git: int, hash_size: int = 20) -> None:
        """Raises OSError if the folder has no objects."""
        self._size = hash_size
        self._packs: dict[str, Pack] = {}
        self._midx: Midx | None = None
        self.borrows = False  # True if git also looks for objects elsewhere
        self.is_whole = True  # False if git reads packs that are not read here
        self._folder = os.open("objects", OPEN_FOLDER, dir_fd=git)
        with suppress(OSError):
            inside = self._open("info")
            try:
                os.stat("alternates", dir_fd=inside, follow_symlinks=False)
                self.borrows = True
            finally:
                os.close(inside)
        with suppress(OSError):
            self._open_packs()

    def close(self) -> None:
        """Close the files."""
        for pack in self._packs.values():
            pack.close()
        if self._midx is not None:
            self._midx.close()
        os.close(self._folder)

    def _open(self, name: str) -> int:
        return os.open(name, OPEN_FOLDER, dir_fd=self._folder)

    def _open_packs(self) -> None:
        folder = self._open("pack")
        try:
            found = os.listdir(folder)
            names = sorted(name[: -len(".idx")] for name in found if name.endswith(".idx"))
            for name in names[:MOST_PACKS]:
                with suppress(OSError, struct.error):
                    pack = Pack(folder, name, self._size)
                    if pack.is_known:
                        self._packs[name] = pack
                    else:
                        pack.close()
            # Git puts further lists of packs in this folder (`core.multiPackIndex`, from 2.47 on).
            self.is_whole = len(names) <= MOST_PACKS and f"{MIDX}.d" not in found
            if MIDX in found:
                with suppress(OSError, struct.error, KeyError, ValueError):
                    self._midx = Midx(folder, self._size)
                is_known = self._midx is not None and self._midx.is_known and {*self._midx.packs} <= {*self._packs}
                self.is_whole = self.is_whole and is_known
        finally:
            os.close(folder)

    def read(self, name: bytes) -> Found:
        """An object. Raises MissingError, ForgedError, TooLargeError."""
        import hashlib

        make = hashlib.sha256 if self._size == 32 else hashlib.sha1
        found: Found | None = None
        for one in self._copies(name):
            if make(f"{one.kind} {len(one.data)}\0".encode() + one.data).digest() != name:
                raise ForgedError(name.hex())
            one.written = max(one.written, found.written if found else 0)
            found = one
        if found is None:
            raise MissingError(name.hex())
        return found

    def _copies(self, name: bytes) -> Iterator[Found]:
        """All copies of an object that git could read."""
        import zlib

        broken = (OSError, ValueError, LookupError, struct.error, zlib.error, MissingError)
        for pack in self._packs.values():
            with suppress(*broken):
                place = pack.place_of(name)
                if place >= 0:
                    yield Found(*pack.read(place), pack.written)
        if self._midx is not None:
            with suppress(*broken):
                where, place = self._midx.place_of(name)
                if where:
                    pack = self._packs[where]
                    yield Found(*pack.read(place), max(pack.written, self._midx.written))
        with suppress(*broken):
            yield self._loose(name.hex())

    def _loose(self, name: str) -> Found:
        """An object that has a file of its own."""
        import zlib

        folder = self._open(name[:2])
        try:
            file = os.open(name[2:], OPEN_FILE, dir_fd=folder)
        finally:
            os.close(folder)
        with open(file, "rb") as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise MissingError
            raw = stream.read(LARGEST + PIECE)
        head, _, data = zlib.decompressobj().decompress(raw, LARGEST + 64).partition(b"\0")
        kind, _, size = head.decode("ascii").partition(" ")
        if int(size) > LARGEST:
            raise TooLargeError
        if len(data) != int(size):
            raise MissingError
        return Found(kind, data, about.st_ctime)


def tree_entries(data: bytes, hash_size: int) -> Iterator[tuple[bytes, int, bytes]]:
    """The entries of a tree: name, mode and object of each. Raises ValueError for malformed data."""
    at = 0
    while at < len(data):
        blank = data.index(b" ", at)
        after = data.index(b"\0", blank)
        yield data[blank + 1 : after], int(data[at:blank], 8), data[after + 1 : after + 1 + hash_size]
        at = after + 1 + hash_size
