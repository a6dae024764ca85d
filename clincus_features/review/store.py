"""The states of one workspace, on the host: a bare repository that only holds what containers have sent.

A container may send anything. So git works here with an empty configuration, no hooks, no attributes and no working
tree; it takes in a pack only after its own checks (`index-pack --strict`), in a folder apart, within bounds of time,
size and memory; it names each tree by a reference of ours, and compares trees with trees. Nothing is ever checked out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, cast

import clincus

GIT_TIMEOUT = 20.0  # seconds for a question
PACK_TIMEOUT = 120.0  # seconds to take in a pack, or to pack anew
PACK_LIMIT = 1 << 30  # bytes of one pack
OBJECT_LIMIT = 48 << 20  # bytes of one object: a file may grow while the container records it
IN_MEMORY = 1 << 20  # bytes of a pack that is received without a file
MEMORY_KIB = 3 << 20  # address space of git
NAMES_LIMIT = 64 << 20  # bytes of the paths of one tree: a million files
PATH_LIMIT = 4096  # bytes of one path, as of Linux
MANY_PACKS = 40  # packs from which on they become one
LASTING = "committed,reference"  # what git lets a power cut not undo; by itself it leaves out references
TREE = re.compile("[0-9a-f]{40}")
CONFIG = b"""[core]
    repositoryformatversion = 0
    bare = true
    hooksPath = /dev/null
    attributesFile = /dev/null
    bigFileThreshold = 16m
    packedGitWindowSize = 32m
    packedGitLimit = 512m
    deltaBaseCacheLimit = 64m
[pack]
    threads = 1
    windowMemory = 128m
[gc]
    auto = 0
"""
# Rules for files that git reads when it checks out, which nobody does here: any workspace may break them.
MODULE_RULES = ["Blob", "Large", "Name", "Parse", "Path", "Symlink", "Update", "Url"]
ATTRIBUTE_RULES = ["Blob", "Large", "LineLength"]  # since git 2.40


class Store:
    """The repository of one workspace. Calls from several threads and processes wait for each other where they must."""

    def __init__(self, folder: str, workspace: str, environ: Mapping[str, str]) -> None:
        self.path = os.path.join(folder, f"{hashlib.sha256(os.fsencode(workspace)).hexdigest()[:16]}.git")
        self._workspace = workspace
        self._search = environ  # where git is looked for
        self._rules: str | None = None  # those of `index-pack` that do not count; None: not known yet
        self._lock = threading.Lock()  # held while objects come or go

    @property
    def exists(self) -> bool:
        """Whether anything was ever kept of the workspace."""
        return os.path.isdir(os.path.join(self.path, "objects"))

    def size(self) -> int:
        """Bytes of all packs."""
        with contextlib.suppress(FileNotFoundError):
            return sum(entry.stat().st_size for entry in os.scandir(os.path.join(self.path, "objects", "pack")))
        return 0

    def take(self, pieces: Iterable[bytes], tree: str, name: str, limit: int) -> None:
        """Take in a pack with what a tree has beyond what is here, and keep the tree under a name.

        Raises ClincusError: 500 for a pack that is not sound or too large, 409 for a full disk. Then nothing is kept.
        """
        self._make()
        room = min(limit, PACK_LIMIT, self._free() // 2)  # it is here twice for a moment
        if room <= 0:
            words = "free some on the disk, or raise checkpoints.max_size"
            raise clincus.ClincusError(f"there is no room for more checkpoints: {words}", 409)
        # A container may send as slowly as it likes: nobody else waits for that.
        with self._received(pieces, room) as received, self._changing(), self._quarantine() as apart:
            self._index(received, apart)
            self._check_extent(tree, apart)
            packs = os.path.join(self.path, "objects", "pack")
            for pack in self._checked(apart):
                os.rename(pack, os.path.join(packs, os.path.basename(pack)))
            clincus.sync_directory(packs)
            self.keep(tree, name)

    def keep(self, tree: str, name: str) -> None:
        """Keep a tree that is here under a name. Raises ClincusError(500) if it is not here."""
        if self._named([name]).get(name) == tree:
            return  # as most looks find it
        if self.run("cat-file", "-t", tree) != b"tree\n":
            raise clincus.ClincusError("the container has sent no tree", 500)
        self.run("update-ref", f"refs/clincus/{name}", tree)

    def forget(self, names: Iterable[str]) -> None:
        """Forget trees by their names; `tidy` gives their room back."""
        lines = "".join(f"delete refs/clincus/{name}\n" for name in self._named(names))
        if lines:
            self.run("update-ref", "--stdin", stdin=lines.encode())

    def _named(self, names: Iterable[str]) -> dict[str, str]:
        """The trees that are kept under names. What a power cut has left of others goes: git would change none then."""
        found = {}
        for name in names:
            path = f"{self.path}/refs/clincus/{name}"
            with contextlib.suppress(OSError):
                if time.time() - os.stat(f"{path}.lock").st_mtime > PACK_TIMEOUT:
                    os.unlink(f"{path}.lock")
            with contextlib.suppress(OSError):
                text = (clincus.read_plain_file(path, 1 << 10) or b"").decode("ascii", "replace").strip()
                if TREE.fullmatch(text):
                    found[name] = text
                else:
                    os.unlink(path)
        return found

    def _drop_torn(self) -> None:
        """Forget names that lead to nothing, as a power cut has torn their file or the pack: git packs nothing then."""
        base = os.path.join(self.path, "refs", "clincus")
        files = [os.path.join(folder, name) for folder, _, names in os.walk(base) for name in names]
        named = self._named(os.path.relpath(file, base) for file in files if not file.endswith(".lock"))
        asked = "".join(f"{tree}\n" for tree in named.values()).encode()
        found = self.run("cat-file", "--batch-check", stdin=asked).splitlines()
        for name, line in zip(named, found):
            if line.endswith(b" missing"):
                os.unlink(os.path.join(base, name))

    def tidy(self, *, even_few: bool = False) -> None:
        """Make one pack of many, without what no name leads to any more."""
        if not self.exists:
            return
        packs = [name for name in os.listdir(os.path.join(self.path, "objects", "pack")) if name.endswith(".pack")]
        if even_few or len(packs) > MANY_PACKS:
            with self._changing():
                self._drop_torn()
                self.run("repack", "-a", "-d", "-q", timeout=PACK_TIMEOUT)
                self.run("prune-packed", "-q")

    def delete(self) -> None:
        """Delete everything."""
        with self._lock:
            shutil.rmtree(self.path, ignore_errors=True)

    def run(self, *words: str, stdin: bytes = b"", timeout: float = GIT_TIMEOUT) -> bytes:
        """Run a command of git here; its output. Raises ClincusError(500) with its words."""
        done = clincus.run_child(self._argv(*words), stdin=stdin, timeout=timeout, environ=self._environ(), cwd="/")
        if done.code:
            raise clincus.ClincusError(f"git cannot read or write the checkpoints: {done.reason}{self._room()}", 500)
        return done.stdout

    def _room(self) -> str:
        """That the disk is full, if it is: git does not always say why it could not write a file."""
        try:
            disk = os.statvfs(os.path.dirname(self.path))
        except OSError:
            return ""  # the folder is gone, which git has said
        return ": the disk is nearly full" if disk.f_bavail * disk.f_frsize < clincus.DISK_RESERVE else ""

    def read_some(self, words: Sequence[str], most: int, *, stdin: bytes = b"") -> tuple[bytes, bool]:
        """Run a command of git and read its output up to a number of bytes; whether that was all.

        A command that takes too long ends with what it has written by then. Raises ClincusError(500).
        """
        output = bytearray()
        with clincus.Child(self._argv(*words), timeout=GIT_TIMEOUT, environ=self._environ(), cwd="/") as child:
            errors = clincus.Collector(child, child.stderr, 1 << 16)
            child.feed([stdin])
            while len(output) <= most and (piece := child.stdout.read(1 << 16)):
                output += piece
            if len(output) > most:
                return bytes(output[:most]), False
            try:
                code = child.wait([errors])
            except clincus.ChildError:
                return bytes(output), False
        if code:
            words_of_git = clincus.Completed(code, b"", bytes(errors.data)).reason
            raise clincus.ClincusError(f"git cannot read the checkpoints: {words_of_git}", 500)
        return bytes(output), True

    def sizes(self, blobs: Sequence[str]) -> list[int]:
        """The sizes of files in bytes, by the ids of their blobs. Raises ClincusError(500) if one is missing."""
        asked = "".join(f"{blob}\n" for blob in blobs).encode()
        found = [line.split() for line in self.run("cat-file", "--batch-check", stdin=asked).splitlines()]
        if any(words[1:2] != [b"blob"] for words in found):
            raise clincus.ClincusError("a file of the checkpoint is missing", 500)
        return [int(words[2]) for words in found]

    @contextmanager
    def reading(self, blobs: Sequence[str]) -> Iterator[Iterator[bytes]]:
        """The contents of files, one after the other, by the ids of their blobs."""
        with clincus.Child(
            self._argv("cat-file", "--batch"), timeout=PACK_TIMEOUT, environ=self._environ(), cwd="/"
        ) as child:
            child.feed(f"{blob}\n".encode() for blob in blobs)
            yield (read_blob(child.stdout) for _ in blobs)

    def _argv(self, *words: str) -> list[str]:
        git = clincus.find_git(self._workspace, self._search)
        if not git:
            raise clincus.ClincusError("checkpoints need git on this machine: install it", 409)
        limited = f'ulimit -v {MEMORY_KIB} && exec "$@"'
        return ["/bin/sh", "-c", limited, "git", git, "-c", f"core.fsync={LASTING}", "--literal-pathspecs", *words]

    def _environ(self) -> dict[str, str]:
        """The variables of git: nothing of a person's, of the system's or of a terminal's counts."""
        return {
            "PATH": os.defpath,
            "LC_ALL": "C",
            "HOME": "/nonexistent",
            "XDG_CONFIG_HOME": "/nonexistent",
            "GIT_DIR": self.path,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }

    def _make(self) -> None:
        """Make the repository, if need be."""
        if self.exists:
            return
        with host_faults(self.path):
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            fresh = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(self.path))
        try:
            for name in ("objects/pack", "refs"):
                os.makedirs(os.path.join(fresh, name))
            for name, data in (("HEAD", b"ref: refs/heads/none\n"), ("config", CONFIG)):
                clincus.replace_file(os.path.join(fresh, name), data, 0o600)
            os.rename(fresh, self.path)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if not self.exists:  # else another process was faster
                raise clincus.ClincusError(f"{self.path}: {error.strerror}", 500) from error

    def _free(self) -> int:
        """Bytes of the disk that checkpoints may take."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize - clincus.DISK_RESERVE

    @contextmanager
    def _received(self, pieces: Iterable[bytes], room: int) -> Iterator[IO[bytes]]:
        """What comes, as a file without a name, in memory as long as it is small. ClincusError(409) if it is too large.

        Others may receive at the same time: none of them takes the last of the disk.
        """
        most = room
        with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=self.path) as pack:
            for piece in pieces:
                most -= len(piece)
                if most < 0 or self._free() <= 0:
                    words = f"the checkpoint is larger than the {room >> 20} MB there is room for"
                    raise clincus.ClincusError(words, 409)
                with host_faults(self.path):
                    pack.write(piece)
            pack.seek(0)
            yield cast("IO[bytes]", pack)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, clincus.directory_lock(self.path, PACK_TIMEOUT):
            yield

    @contextmanager
    def _quarantine(self) -> Iterator[str]:
        """A folder for objects that are not checked yet. What a killed server left there goes."""
        for name in os.listdir(self.path):
            if name.startswith("incoming-"):
                shutil.rmtree(os.path.join(self.path, name), ignore_errors=True)
        with host_faults(self.path):
            apart = tempfile.mkdtemp(prefix="incoming-", dir=self.path)
        try:
            with host_faults(self.path):
                os.mkdir(os.path.join(apart, "pack"))
            yield apart
        finally:
            shutil.rmtree(apart, ignore_errors=True)

    def _apart(self, apart: str, *, alone: bool = False) -> dict[str, str]:
        """The variables for a folder of objects apart, which may refer to those that are here unless it is `alone`."""
        more = {} if alone else {"GIT_ALTERNATE_OBJECT_DIRECTORIES": os.path.join(self.path, "objects")}
        return {**self._environ(), "GIT_OBJECT_DIRECTORY": apart, **more}

    def _index(self, pack: IO[bytes], apart: str) -> None:
        """Let git check a pack, and write it with its index into a folder apart."""
        if self._rules is None:
            self._rules = self._known_rules(apart)
        argv = self._argv("index-pack", "--stdin", "--fix-thin", f"--strict={self._rules}")
        with clincus.Child(argv, timeout=PACK_TIMEOUT, environ=self._apart(apart), cwd="/") as child:
            done = child.complete(iter(lambda: pack.read(1 << 16), b""))
        if done.code:
            raise clincus.ClincusError(f"the container has sent no sound checkpoint: {done.reason}", 500)

    def _check_extent(self, tree: str, apart: str) -> None:
        """Raise ClincusError(500) for a tree of which the host cannot list all paths, with what has come with it.

        A few small trees that hold each other again and again make billions of files, and comparing these takes all
        the memory that git gets. Others make a depth at which git gives up, or overflows its stack: while a name leads
        to one, git packs nothing of this workspace any more, which other sessions share.
        """
        argv, rest, size = self._argv("ls-tree", "-r", "-z", "--name-only", tree), b"", 0
        with clincus.Child(argv, timeout=GIT_TIMEOUT, environ=self._apart(apart), cwd="/") as child:
            errors = clincus.Collector(child, child.stderr, 1 << 16)
            child.feed([])
            is_fair = True
            while is_fair and (piece := child.stdout.read(1 << 16)):
                size += len(piece)
                *paths, rest = (rest + piece).split(b"\0")
                is_fair = size <= NAMES_LIMIT and max(map(len, (*paths, rest))) <= PATH_LIMIT
            code = child.wait([errors]) if is_fair else 0
        if not is_fair:
            raise clincus.ClincusError("the container has sent a checkpoint with too many files, or too deep", 500)
        if code:
            words = clincus.Completed(code, b"", bytes(errors.data)).reason
            raise clincus.ClincusError(f"the container has sent no sound checkpoint: {words}", 500)

    def _known_rules(self, apart: str) -> str:
        """The rules that do not count, those that this git knows."""
        modules = [f"gitmodules{rule}=ignore" for rule in MODULE_RULES]
        attributes = [f"gitattributes{rule}=ignore" for rule in ATTRIBUTE_RULES]
        for text in (",".join([*modules, *attributes]), ",".join(modules)):
            argv = self._argv("index-pack", "--stdin", f"--strict={text}")
            refusal = clincus.run_child(argv, timeout=GIT_TIMEOUT, environ=self._apart(apart), cwd="/")  # of no pack
            if b"Unhandled message id" not in refusal.stderr:
                return text
        return ""

    def _checked(self, apart: str) -> list[str]:
        """The files of a pack apart, in the order in which they may appear; ClincusError(500) if an object is huge."""
        words = "cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectsize)"
        argv, environ = self._argv(*words), self._apart(apart, alone=True)
        done = clincus.run_child(argv, timeout=PACK_TIMEOUT, environ=environ, cwd="/")
        if done.code or any(int(size) > OBJECT_LIMIT for size in done.stdout.split()):
            raise clincus.ClincusError("the container has sent a checkpoint with a file that is too large", 500)
        folder = os.path.join(apart, "pack")
        names = [name for name in os.listdir(folder) if name.endswith((".pack", ".rev", ".idx"))]
        return [os.path.join(folder, name) for name in sorted(names, key=lambda name: name.endswith(".idx"))]


@contextmanager
def host_faults(path: str) -> Iterator[None]:
    """Turn a fault of this host, such as a full disk, into ClincusError(500) with its words."""
    try:
        yield
    except OSError as error:
        raise clincus.ClincusError(f"{path}: {error.strerror}", 500) from error


def read_blob(stream: IO[bytes]) -> bytes:
    """The next content that `git cat-file --batch` prints. Raises ClincusError(500)."""
    words = stream.readline(200).split()
    if len(words) != 3 or words[1] != b"blob":
        raise clincus.ClincusError("a file of the checkpoint is missing", 500)
    left, data = int(words[2]) + 1, bytearray()
    while left and (piece := stream.read(min(left, 1 << 20))):
        data += piece
        left -= len(piece)
    if left:
        raise clincus.ClincusError("a file of the checkpoint is missing", 500)
    return bytes(data[:-1])
