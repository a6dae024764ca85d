"""The states of one workspace, on the host: a bare repository that contains only what containers have sent.

A container may send anything. Git therefore works here with an empty configuration, without hooks, attributes and
working tree. It takes in a pack only after its own checks (`index-pack --strict`), in a separate folder, within bounds
of time, size and memory. It names each tree by a reference of ours, compares trees with trees, and checks nothing out.
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
PACK_TIMEOUT = 120.0  # seconds to take in a pack, or to repack
PACK_LIMIT = 1 << 30  # bytes of one pack
OBJECT_LIMIT = 48 << 20  # bytes of one object: a file may grow while the container records it
IN_MEMORY = 1 << 20  # bytes of a pack that is received without a file
MEMORY_KIB = 3 << 20  # address space of git
NAMES_LIMIT = 64 << 20  # bytes of the paths of one tree: a million files
PATH_LIMIT = 4096  # bytes of one path, as of Linux
MANY_PACKS = 40  # packs from which on they become one
LASTING = "committed,reference"  # core.fsync: git's default leaves out references
TREE = re.compile("[0-9a-f]{40}")
MISSING = "a file of the checkpoint is missing: choose another checkpoint"
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
# Rules for files that git reads at a checkout. Nothing is checked out here, so any workspace may break them.
MODULE_RULES = ["Blob", "Large", "Name", "Parse", "Path", "Symlink", "Update", "Url"]
ATTRIBUTE_RULES = ["Blob", "Large", "LineLength"]  # since git 2.40


class Store:
    """The repository of one workspace. Threads and processes wait for each other where they must."""

    def __init__(self, folder: str, workspace: str, environ: Mapping[str, str]) -> None:
        digest = hashlib.sha256(os.fsencode(workspace)).hexdigest()
        self.path = os.path.join(folder, f"{digest[:16]}.git")
        self._packs = os.path.join(self.path, "objects", "pack")
        self._workspace = workspace
        self._search = environ  # variables by which git is found
        self._rules: str | None = None  # rules of `index-pack` to ignore; None: not known yet
        self._lock = threading.Lock()  # held while objects come or go

    @property
    def exists(self) -> bool:
        """True if anything was ever kept of the workspace."""
        return os.path.isdir(os.path.join(self.path, "objects"))

    def size(self) -> int:
        """Bytes of all packs."""
        with contextlib.suppress(FileNotFoundError):
            return sum(entry.stat().st_size for entry in os.scandir(self._packs))
        return 0

    def take(self, pieces: Iterable[bytes], tree: str, name: str, limit: int) -> None:
        """Take in a pack with the objects of a tree that are missing here, and keep the tree under a name.

        Raises ClincusError: 500 for a pack that is damaged or too large, 409 for a full disk. Then nothing is kept.
        """
        self._make()
        half = self._free() // 2  # the pack exists twice for a moment
        room = min(limit, PACK_LIMIT, half)
        if room <= 0:
            advice = "free some on the disk, or raise checkpoints.max_size"
            raise clincus.ClincusError(f"there is no room for more checkpoints: {advice}", 409)
        # A container may send as slowly as it likes, so no lock is held meanwhile.
        with self._received(pieces, room) as received, self._changing(), self._quarantine() as apart:
            self._index(received, apart)
            self._check_extent(tree, apart)
            for path in self._checked(apart):
                os.rename(path, os.path.join(self._packs, os.path.basename(path)))
            clincus.sync_directory(self._packs)
            self.keep(tree, name)

    def keep(self, tree: str, name: str) -> None:
        """Keep a tree that is here under a name. Raises ClincusError(500) if it is not here."""
        if self._named([name]).get(name) == tree:
            return  # most looks find no change
        if self.run("cat-file", "-t", tree) != b"tree\n":
            raise clincus.ClincusError("the container has sent no tree", "container_answer_bad")
        self.run("update-ref", f"refs/clincus/{name}", tree)

    def forget(self, names: Iterable[str]) -> None:
        """Forget trees by their names; `tidy` frees their space."""
        lines = "".join(f"delete refs/clincus/{name}\n" for name in self._named(names))
        if lines:
            self.run("update-ref", "--stdin", stdin=lines.encode())

    def _named(self, names: Iterable[str]) -> dict[str, str]:
        """The trees that are kept under names.

        Git changes no name while a torn name or an old lock exists, so this removes both.
        """
        found = {}
        for name in names:
            path = f"{self.path}/refs/clincus/{name}"
            with contextlib.suppress(OSError):
                age = time.time() - os.stat(f"{path}.lock").st_mtime
                if age > PACK_TIMEOUT:
                    os.unlink(f"{path}.lock")
            with contextlib.suppress(OSError):
                data = clincus.read_plain_file(path, 1 << 10) or b""
                text = data.decode("ascii", "replace").strip()
                if TREE.fullmatch(text):
                    found[name] = text
                else:
                    os.unlink(path)
        return found

    def _drop_torn(self) -> None:
        """Forget names of trees that a power cut has destroyed: git packs nothing while they exist."""
        base = os.path.join(self.path, "refs", "clincus")
        names = []
        for folder, _, files in os.walk(base):
            for file in files:
                if not file.endswith(".lock"):
                    names.append(os.path.relpath(os.path.join(folder, file), base))
        trees = self._named(names)
        asked = "".join(f"{tree}\n" for tree in trees.values()).encode()
        answers = self.run("cat-file", "--batch-check", stdin=asked).splitlines()
        for name, line in zip(trees, answers):
            if line.endswith(b" missing"):
                os.unlink(os.path.join(base, name))

    def tidy(self, *, even_few: bool = False) -> None:
        """Make one pack of many, without objects that no name leads to any more."""
        if not self.exists:
            return
        packs = [name for name in os.listdir(self._packs) if name.endswith(".pack")]
        if not even_few and len(packs) <= MANY_PACKS:
            return
        with self._changing():
            self._drop_torn()
            self.run("repack", "-a", "-d", "-q", timeout=PACK_TIMEOUT)
            self.run("prune-packed", "-q")

    def delete(self) -> None:
        """Delete everything."""
        with self._lock:
            shutil.rmtree(self.path, ignore_errors=True)

    def run(self, *words: str, stdin: bytes = b"", timeout: float = GIT_TIMEOUT) -> bytes:
        """The output of a git command in this repository. Raises ClincusError(500) with git's words."""
        argv = self._argv(*words)
        done = clincus.run_child(argv, stdin=stdin, timeout=timeout, environ=self._environ(), cwd="/")
        if done.code:
            problem = f"git cannot read or write the checkpoints: {done.reason}{self._room()}"
            raise clincus.ClincusError(problem, "container_answer_bad")
        return done.stdout

    def _room(self) -> str:
        """A remark that the disk is full, if it is: git does not always say why it could not write a file."""
        try:
            disk = os.statvfs(os.path.dirname(self.path))
        except OSError:
            return ""  # the folder is gone, and git has said so
        free = disk.f_bavail * disk.f_frsize
        return ": the disk is nearly full" if free < clincus.DISK_RESERVE else ""

    def read_some(self, words: Sequence[str], most: int, *, stdin: bytes = b"") -> tuple[bytes, bool]:
        """Run a git command; returns its output up to a number of bytes, and True if that is all of it.

        A command that takes too long ends with what it has written by then. Raises ClincusError(500).
        """
        output = bytearray()
        with self._child(words, GIT_TIMEOUT) as child:
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
            reason = clincus.Completed(code, b"", bytes(errors.data)).reason
            raise clincus.ClincusError(f"git cannot read the checkpoints: {reason}", "container_answer_bad")
        return bytes(output), True

    def _child(self, words: Sequence[str], timeout: float) -> clincus.Child:
        argv = self._argv(*words)
        return clincus.Child(argv, timeout=timeout, environ=self._environ(), cwd="/")

    def sizes(self, blobs: Sequence[str]) -> list[int]:
        """The sizes of files in bytes, by the ids of their blobs. Raises ClincusError(500) if one is missing."""
        asked = "".join(f"{blob}\n" for blob in blobs).encode()
        output = self.run("cat-file", "--batch-check", stdin=asked)
        sizes = []
        for line in output.splitlines():
            words = line.split()
            if words[1:2] != [b"blob"]:
                raise clincus.ClincusError(MISSING, 500)
            sizes.append(int(words[2]))
        return sizes

    @contextmanager
    def reading(self, blobs: Sequence[str]) -> Iterator[Iterator[bytes]]:
        """The contents of files, one after the other, by the ids of their blobs."""
        with self._child(["cat-file", "--batch"], PACK_TIMEOUT) as child:
            child.feed(f"{blob}\n".encode() for blob in blobs)
            yield (read_blob(child.stdout) for _ in blobs)

    def _argv(self, *words: str) -> list[str]:
        git = clincus.protect.find_git(self._workspace, self._search)
        if not git:
            raise clincus.ClincusError("checkpoints need git on this machine: install it", 409)
        shell = ["/bin/sh", "-c", f'ulimit -v {MEMORY_KIB} && exec "$@"', "git"]
        options = ["-c", f"core.fsync={LASTING}", "--literal-pathspecs"]
        return [*shell, git, *options, *words]

    def _environ(self) -> dict[str, str]:
        """The variables of git: nothing of a person, the system or a terminal counts."""
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
        """Make the repository, if it does not exist yet."""
        if self.exists:
            return
        parent = os.path.dirname(self.path)
        with host_faults(self.path):
            os.makedirs(parent, mode=0o700, exist_ok=True)
            fresh = tempfile.mkdtemp(prefix=".new-", dir=parent)
        try:
            os.makedirs(os.path.join(fresh, "objects/pack"))
            os.makedirs(os.path.join(fresh, "refs"))
            head = b"ref: refs/heads/none\n"
            clincus.replace_file(os.path.join(fresh, "HEAD"), head, 0o600)
            clincus.replace_file(os.path.join(fresh, "config"), CONFIG, 0o600)
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
        """The received bytes as a file without a name, in memory while it is small.

        Raises ClincusError(409) if it is too large. Several may be received at the same time, so the space on the disk
        is checked before each piece.
        """
        left = room
        with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=self.path) as pack:
            for piece in pieces:
                left -= len(piece)
                if left < 0 or self._free() <= 0:
                    problem = f"the checkpoint is larger than the {room >> 20} MB there is room for"
                    raise clincus.ClincusError(problem, 409)
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
        """A folder for objects that are not checked yet. Removes such folders of a killed server."""
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
        """The variables for a separate folder of objects, which may refer to those here unless it is `alone`."""
        environ = self._environ()
        environ["GIT_OBJECT_DIRECTORY"] = apart
        if not alone:
            environ["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = os.path.join(self.path, "objects")
        return environ

    def _index(self, pack: IO[bytes], apart: str) -> None:
        """Let git check a pack, and write it with its index into a separate folder."""
        if self._rules is None:
            self._rules = self._known_rules(apart)
        argv = self._argv("index-pack", "--stdin", "--fix-thin", f"--strict={self._rules}")
        with clincus.Child(argv, timeout=PACK_TIMEOUT, environ=self._apart(apart), cwd="/") as child:
            done = child.complete(iter(lambda: pack.read(1 << 16), b""))
        if done.code:
            raise clincus.ClincusError(
                f"the container has sent no sound checkpoint: {done.reason}", "container_answer_bad"
            )

    def _check_extent(self, tree: str, apart: str) -> None:
        """Raise ClincusError(500) if the host cannot list all paths of a tree whose objects lie in the folder `apart`.

        A few small trees that hold each other again and again make billions of files, and comparing these takes all the
        memory that git gets. Others are so deep that git gives up or overflows its stack. While a name leads to such a
        tree, git packs nothing of this workspace, which other sessions share.
        """
        argv = self._argv("ls-tree", "-r", "-z", "--name-only", tree)
        rest = b""
        size = 0
        is_fair = True
        with clincus.Child(argv, timeout=GIT_TIMEOUT, environ=self._apart(apart), cwd="/") as child:
            errors = clincus.Collector(child, child.stderr, 1 << 16)
            child.feed([])
            while is_fair and (piece := child.stdout.read(1 << 16)):
                size += len(piece)
                *paths, rest = (rest + piece).split(b"\0")
                longest = max(map(len, (*paths, rest)))
                is_fair = size <= NAMES_LIMIT and longest <= PATH_LIMIT
            code = child.wait([errors]) if is_fair else 0
        if not is_fair:
            problem = "the container has sent a checkpoint with too many files, or too deep"
            raise clincus.ClincusError(problem, "container_answer_bad")
        if code:
            reason = clincus.Completed(code, b"", bytes(errors.data)).reason
            raise clincus.ClincusError(f"the container has sent no sound checkpoint: {reason}", "container_answer_bad")

    def _known_rules(self, apart: str) -> str:
        """The rules to ignore, as far as this git knows them, in the form that `--strict` takes."""
        modules = [f"gitmodules{rule}=ignore" for rule in MODULE_RULES]
        attributes = [f"gitattributes{rule}=ignore" for rule in ATTRIBUTE_RULES]
        for rules in ([*modules, *attributes], modules):
            text = ",".join(rules)
            argv = self._argv("index-pack", "--stdin", f"--strict={text}")
            # Git refuses the empty input either way; only its words differ.
            done = clincus.run_child(argv, timeout=GIT_TIMEOUT, environ=self._apart(apart), cwd="/")
            if b"Unhandled message id" not in done.stderr:
                return text
        return ""

    def _checked(self, apart: str) -> list[str]:
        """The files of a separate pack, the index last, as git reads a pack by its index.

        Raises ClincusError(500) if an object is too large.
        """
        argv = self._argv("cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectsize)")
        environ = self._apart(apart, alone=True)
        done = clincus.run_child(argv, timeout=PACK_TIMEOUT, environ=environ, cwd="/")
        is_huge = any(int(size) > OBJECT_LIMIT for size in done.stdout.split())
        if done.code or is_huge:
            problem = "the container has sent a checkpoint with a file that is too large"
            raise clincus.ClincusError(problem, "container_answer_bad")
        folder = os.path.join(apart, "pack")
        names = [name for name in os.listdir(folder) if name.endswith((".pack", ".rev", ".idx"))]
        names.sort(key=lambda name: name.endswith(".idx"))
        return [os.path.join(folder, name) for name in names]


@contextmanager
def host_faults(path: str) -> Iterator[None]:
    """Turn a fault of this host, such as a full disk, into ClincusError(500) with its words."""
    try:
        yield
    except OSError as error:
        raise clincus.ClincusError(f"{path}: {error.strerror}", 500) from error


def read_blob(stream: IO[bytes]) -> bytes:
    """The next content in the output of `git cat-file --batch`. Raises ClincusError(500)."""
    words = stream.readline(200).split()
    if len(words) != 3 or words[1] != b"blob":
        raise clincus.ClincusError(MISSING, 500)
    left = int(words[2]) + 1  # with the line break after it
    data = bytearray()
    while left and (piece := stream.read(min(left, 1 << 20))):
        data += piece
        left -= len(piece)
    if left:
        raise clincus.ClincusError(MISSING, 500)
    return bytes(data[:-1])
