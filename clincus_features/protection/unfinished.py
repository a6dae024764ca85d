"""Examines the files of operations in progress in a Git folder, and puts aside those that git must not obey."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

import clincus

from . import links
from .identity import opened
from .operations import CHECKS, SIZE_LIMIT, check_of, conflicts, text
from .restore import ASIDE, why_not_aside

OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe does not block
TOTAL_LIMIT = 32 << 20  # bytes of one look
TOLD = 3  # reported faults of one file
LEASED = "a program keeps it from being read, by a lease"
KNOWN = "operation\0"  # before the marks in `Run.links`; no link has such a name


class Aside(NamedTuple):
    """The place of a file that a person may want back, and the marks that later looks accept in it."""

    git_folder: str
    place: str  # FOLDER/NAME there
    marks: str  # in the form of `Run.links`


class PutAside(NamedTuple):
    """The results for bad files."""

    told: dict[str, str]  # path -> words for the person
    kept: dict[str, str]  # path of a file that could not be moved -> its marks, so that it is reported once
    asides: dict[str, Aside]  # path of a file that may be a person's


class Looked(NamedTuple):
    """The result of a look."""

    bad: dict[str, list[str]]  # path of a file -> its faults, if they are new
    files: list[str]  # the files that the answer depends on


def look(paths: Mapping[str, str], known: Mapping[str, str]) -> Looked:
    """Look at files of operations; each path has the Git folder in which it was found. `known` is `Run.links`."""
    looked = Looked({}, [])
    left = TOTAL_LIMIT
    for path, top in paths.items():
        looked.files.append(path)
        wrong = [f"there is more than {TOTAL_LIMIT >> 20} MiB in such files"]
        if left > 0:
            try:
                data = read(top, path[len(top) + 1 :])
                left -= len(data)
                wrong = faults(path, top, data, looked.files)
            except BlockingIOError:  # git waits where this look does not
                wrong = [LEASED]
        marks = set(known.get(path, "").removeprefix(KNOWN).split())
        fresh = [one for one in wrong if mark_of(one) not in marks]
        if fresh:
            looked.bad[path] = fresh
    return looked


def faults(path: str, top: str, data: bytes, files: list[str]) -> list[str]:
    """The faults of a file; files of the work tree that the answer depends on are added to `files`."""
    check = check_of(path[len(top) + 1 :])
    if check is None:
        return []
    if len(data) > SIZE_LIMIT:
        return [f"it is larger than {SIZE_LIMIT >> 20} MiB"]
    wrong = check.wrong(data)
    if check is not CHECKS[0] or wrong:
        return wrong
    steps: dict[str, bool] = {}
    through = [text(name) for name in conflicts(data)[0] if goes_through_link(work_tree(path, top), name, steps)]
    files += steps
    return [f"{name} goes through a link" for name in through]


def work_tree(path: str, top: str) -> str:
    """The work tree of the MERGE_RR at a path. For a submodule it is the place where git puts it."""
    inside = os.path.dirname(path[len(top) + 1 :])
    return os.path.join(os.path.dirname(top), inside.replace("modules/", "") if inside.startswith("modules/") else "")


def goes_through_link(top: str, name: bytes, steps: dict[str, bool]) -> bool:
    """True if a path in a work tree is a link, or leads through one. `steps` caches the answer for each folder."""
    place = top
    for step in os.fsdecode(name).split("/"):
        place = os.path.join(place, step)
        if place not in steps:
            steps[place] = os.path.islink(place)
        if steps[place]:
            return True
    return False


def read(top: str, path: str) -> bytes:
    """The content of a plain file in a Git folder, up to a byte over the limit; empty for a missing one.

    Raises BlockingIOError if a program has a write lease on it (F_SETLEASE in fcntl(2)).
    """
    above, _, name = path.rpartition("/")
    try:
        with ExitStack() as stack:
            git = stack.enter_context(opened(top))
            folder = stack.enter_context(clincus.closing_descriptor(links.open_at(git, above)))
            descriptor = os.open(name, OPEN_FILE, dir_fd=folder)
            file = stack.enter_context(open(descriptor, "rb"))
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return file.read(SIZE_LIMIT + 1)
    except BlockingIOError:
        raise
    except OSError:
        pass
    return b""


def mark_of(fault: str) -> str:
    """A short mark for a fault of a file, different for each fault. Pure."""
    return hashlib.sha256(fault.encode()).hexdigest()[:32]


def marks(faults_of: Mapping[str, list[str]]) -> dict[str, str]:
    """The known faults, as `Run.links` keeps them. Pure."""
    return {path: KNOWN + " ".join(mark_of(one) for one in dict.fromkeys(wrong)) for path, wrong in faults_of.items()}


def with_marks(known: Mapping[str, str], asides: Mapping[str, Aside]) -> dict[str, str]:
    """`Run.links` with the faults that a person has accepted. Pure."""
    agreed = {}
    for path, aside in asides.items():
        words = [*known.get(path, "").removeprefix(KNOWN).split(), *aside.marks.removeprefix(KNOWN).split()]
        agreed[path] = KNOWN + " ".join(dict.fromkeys(words))
    return {**known, **agreed}


def known_of(paths: Mapping[str, str]) -> dict[str, str]:
    """Operations that a person may have begun before a session starts, as `Run.links` keeps them."""
    bad = look(paths, {}).bad
    checks = {path: check_of(path[len(paths[path]) + 1 :]) for path in bad}
    kept = {}
    for path, wrong in bad.items():
        check = checks[path]
        if check and check.may_be_yours and wrong != [LEASED]:
            kept[path] = wrong
    return marks(kept)


def put_aside(bad: Mapping[str, list[str]], paths: Mapping[str, str]) -> PutAside:
    """Put files aside; `paths` are those of `look`."""
    told: dict[str, str] = {}
    kept: dict[str, list[str]] = {}
    asides: dict[str, Aside] = {}
    aside = f"{ASIDE}-{secrets.token_hex(4)}"
    for number, (path, wrong) in enumerate(bad.items()):
        top = paths[path]
        inside = path[len(top) + 1 :]
        check = check_of(inside)
        place = f"{aside}/{number}-{os.path.basename(path)}"
        try:
            links.move(top, inside, place, only_links=False)
            done = f"it is put aside in {top}/{aside}; {check.how_on if check else ''}"
            if check and check.may_be_yours:
                asides[path] = Aside(top, place, marks({path: wrong})[path])
        except FileNotFoundError:
            done = "it was gone a moment later"
        except OSError as error:
            kept[path] = wrong
            done = why_not_aside(error)
        if number < links.MOST_TOLD:
            told[path] = f"{path}: {check.does if check else ''}: {words_of(wrong)}; {done}"
    return PutAside(told, marks(kept), asides)


def put_back(path: str, aside: Aside) -> None:
    """Put a file back where git looks for it, unless there is another one or the operation has ended."""
    top, place, _ = aside
    above, _, name = path[len(top) + 1 :].rpartition("/")
    apart, _, kept = place.partition("/")
    with suppress(OSError), ExitStack() as stack:
        git = stack.enter_context(opened(top))
        source = stack.enter_context(clincus.closing_descriptor(links.open_at(git, apart)))
        folder = stack.enter_context(clincus.closing_descriptor(links.open_at(git, above)))
        os.link(kept, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)  # never over another one
        os.unlink(kept, dir_fd=source)


def words_of(wrong: list[str]) -> str:
    """The faults of a file, in words. Pure."""
    more = f" and {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""
    return clincus.printable(", ".join(clincus.shorten(one) for one in wrong[:TOLD]) + more)
