"""Looks for texts wherever a session leaves any: in files, memory, variables and command lines."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from clincus_features.logins.lending import spellings

PIECE = 4 << 20  # bytes that are looked at in one go
LONGEST = 256  # bytes of a text
PAGE = os.sysconf("SC_PAGE_SIZE")
BETWEEN = 0.02  # seconds between two looks at all command lines


class Search:
    """What was found so far: secrets, which must be nowhere, and marks, which show that a place was looked at."""

    def __init__(self, secret: str) -> None:
        """`secret` is the part that all secrets of a run have in common, and nothing else has."""
        self._secret = spellings(secret, "")
        self._marks: dict[str, bytes] = {}
        self.leaks: set[str] = set()  # places with a secret
        self.seen: dict[str, set[str]] = defaultdict(set)  # kind of place -> names of marks

    def mark(self, name: str, text: str) -> None:
        """Look for a text that may be found, from now on."""
        self._marks = {**self._marks, name: text.encode()}

    def look(self, kind: str, place: object, data: bytes) -> None:
        """Look at the bytes of a place."""
        if any(form in data for form in self._secret):
            self.leaks.add(f"{kind}: {place}")
        self.seen[kind] |= {name for name, mark in self._marks.items() if mark in data}

    def pieces(self, kind: str, place: object, pieces: Iterator[bytes]) -> None:
        """Look at what follows each other."""
        tail = b""
        for piece in pieces:
            self.look(kind, place, tail + piece)
            tail = piece[-LONGEST:]

    # -- Files

    def folder(self, kind: str, top: Path, without: Collection[Path] = ()) -> None:
        """Look at all files below a folder, and at their names and the aims of links."""
        for path, folders, files in os.walk(top):
            at = Path(path)
            folders[:] = [name for name in folders if at / name not in without]
            self.look(kind, f"names in {at}", "\n".join((*folders, *files)).encode("utf-8", "surrogateescape"))
            for name in files:
                if at / name not in without:
                    self.file(kind, at / name)

    def file(self, kind: str, path: Path) -> None:
        """Look at a file; others may remove it meanwhile."""
        with contextlib.suppress(OSError):
            if path.is_symlink():
                self.look(kind, path, os.readlink(path).encode("utf-8", "surrogateescape"))
            elif stat.S_ISREG(path.stat().st_mode):
                with open(path, "rb", 0) as file:
                    self.pieces(kind, path, parts_with_data(file.fileno()))

    def repository(self, kind: str, folder: Path) -> None:
        """Look at all objects of a repository, which git keeps compressed."""
        words = ["git", "-c", "safe.directory=*", "cat-file", "--batch-all-objects", "--batch", "--unordered"]
        with subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            self.pieces(kind, folder, iter(lambda: process.stdout.read(PIECE), b""))  # type: ignore[union-attr]
        assert process.returncode == 0

    # -- Processes

    def processes(self, init: int) -> None:
        """Look at variables, command lines and all memory of each process of a container, from the host."""
        space = os.readlink(f"/proc/{init}/ns/pid")
        for pid in pids():
            with contextlib.suppress(OSError):  # it ends
                if os.readlink(f"/proc/{pid}/ns/pid") == space:
                    for name in ("environ", "cmdline"):
                        self.look(name, pid, Path(f"/proc/{pid}/{name}").read_bytes())
                    self.memory("memory", pid)

    def memory(self, kind: str, pid: int) -> None:
        """Look at all pages that a process has in memory."""
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        with open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/pagemap", "rb", 0) as pages:
            for first, end in mappings(pid):
                for start, stop in present(pages.fileno(), first, end):
                    self.pieces(kind, f"{pid} ({name})", read_memory(memory.fileno(), start, stop))


def parts_with_data(descriptor: int) -> Iterator[bytes]:
    """A file's bytes without its holes."""
    at = 0
    while True:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # there are no more
            return
        data = os.pread(descriptor, PIECE, at)
        if not data:
            return
        yield data
        at += len(data)


def pids() -> list[int]:
    """The processes of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def mappings(pid: int) -> list[tuple[int, int]]:
    """The parts of a process's addresses of which some is in memory (proc(5), smaps)."""
    text = Path(f"/proc/{pid}/smaps").read_text("utf-8", "replace")
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?^Rss: +(\d+) kB.*?^Swap: +(\d+) kB", text, re.M | re.S)
    return [(int(first, 16), int(end, 16)) for first, end, rss, swap in found if int(rss) or int(swap)]


def present(pages: int, first: int, end: int) -> Iterator[tuple[int, int]]:
    """The addresses of pages that are in memory or swapped out (proc(5), pagemap)."""
    step = (1 << 16) * PAGE
    for at in range(first, end, step):
        entries = os.pread(pages, (min(end, at + step) - at) // PAGE * 8, at // PAGE * 8)
        for run in re.finditer(rb"[\x40-\xff]+", entries[7::8]):
            yield at + run.start() * PAGE, at + run.end() * PAGE


def read_memory(memory: int, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of pages; none of those that cannot be read, such as [vvar]."""
    while start < stop:
        try:
            data = os.pread(memory, min(PIECE, stop - start), start)
        except OSError:
            return
        if not data:
            return
        yield data
        start += len(data)


@contextlib.contextmanager
def watched_commands(search: Search) -> Iterator[None]:
    """Look all the time at the command lines and variables of all processes of this machine."""
    is_over = threading.Event()
    known: dict[int, bytes] = {}

    def look() -> None:
        while not is_over.wait(BETWEEN):
            now = pids()
            for pid in known.keys() - set(now):
                del known[pid]
            for pid in now:
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if known.get(pid) != line:
                        known[pid] = line
                        search.look("argv", line[:200], line)
                        search.look("variables of all", line[:200], Path(f"/proc/{pid}/environ").read_bytes())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
