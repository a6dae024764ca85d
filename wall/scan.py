"""Finds things in a workspace that run by themselves on the person's machine: repositories, gitlinks, settings.

Clincus runs it as its own user, in a child with a time limit, while an agent may be changing the folder. Each folder is
therefore opened by its descriptor, no link is followed, and everything that is read or reported is bounded. Git never
works on the folder: it only parses the text of configurations. stdin has wall/places.py, this program, and a JSON
object; the answer is a JSON object on stdout:

    {"workspace": PATH, "only": "index", "folders": [PATH]}
        gets {"indexes": {PATH: {"bad": [WORDS], "files": [PATH], "unlike": [PATH], "gitlinks": [PATH]}}, "cut": WORDS},
        see `look_at_indexes`
    {"git": PATH, "workspace": PATH, "only": "modules", "folders": [PATH], "written_by": [PATH], "sealed": [PATH],
     "seals": [PATH]}
        gets {"folders": {PATH: {NAME: [COMMAND]}}, "trees": [PATH]}, see `look_at_modules`
    {"git": PATH, "workspace": PATH, "settings": [PATTERN], "places": [PATH], "since": SECONDS}
        gets {"items": [ITEM], "commits": [COMMIT], "cut": WORDS, "folders": NUMBER, "entries": NUMBER}; `cut` names the
        parts that were left out. `places` are sealed paths of the working tree. Commits that are no longer the last
        of a branch count only if they came after `since`; 0 for none of them

An ITEM has

    path      relative to the workspace
    kind      "gitlink", "repository", "broken", "rebase", "link" (in a Git folder, and leads out of it) or "settings"
    there     true if a repository is checked out at a gitlink, and for all other kinds
    changed   the time of the last write (seconds since 1970) by the file system, which a program cannot set back
    commands  [{"key", "value"}] of its configuration; a hook has the key "hook", the target of a link "link"; a link in
              the place of settings has a mark of the content at its end, too. A command that is cut has "cut", a mark
              of its whole text

A COMMIT is a file that git on the host would write from commits, at a sealed path or at a path of settings:

    path      relative to the workspace
    sealed    true if it is at or below one of the `places`
    contents  {"MODE OBJECT": [REFERENCE]}
    unlike    the contents that differ from the present file
    changed   as above, for the references
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from wall.objects import ForgedError, MissingError, Objects, TooLargeError, tree_entries
from wall.places import Refusal, ask_git, names_a_program, not_harmless, path_inside, plain_folders, plain_git_folders

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from typing import Any

SECONDS = 20.0  # for a whole look
TOO_LONG = f"it took more than {SECONDS:.0f} seconds"
MOST_FOLDERS = 200_000
MOST_ENTRIES = 3_000_000
MOST_ITEMS = 2_000
MOST_GITLINKS = 1_000
MOST_TOLD = 16 << 20  # bytes of the answer
MOST_COMMANDS = 21  # of one repository: one more than Clincus reports, so that it sees that there are more
MOST_ASKED = 500  # texts that git parses
MOST_DEPTH = 200  # depth of a folder that is examined
VALUE_LENGTH = 200  # characters of a reported value
SMALL_FILE = 1 << 20  # bytes of a configuration
INDEX_FILE = 512 << 20  # bytes of an index
INDEX_ENTRIES = 5_000_000
COMMIT_SECONDS = 5.0  # for the look at commits
MOST_REFERENCES = 5_000
MOST_COMMITS = 10_000
MOST_NAMES = 20  # references that are reported for one content
MOST_LINES = 1_000  # of a list of references
PACKED_REFERENCES = 64 << 20  # bytes
PSEUDO_REFERENCES = (
    *("ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REBASE_HEAD", "AUTO_MERGE"),
    # Stashes that the next `git commit` applies, and the end of a rebase (apply_autostash in git's sequencer.c).
    *("MERGE_AUTOSTASH", "rebase-merge/autostash", "rebase-apply/autostash"),
)
REPLACEMENTS = "refs/replace/"  # and the name of the object in whose place git reads the one of the reference
MOST_REPLACED = 5  # looks for a replacement, after which git gives up (do_lookup_replace_object)

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe does not block
FILLED_BY_GIT = ("objects", "refs", "logs", "hooks")  # folders in a Git folder that hold nobody's work
# Folders where git writes and deletes by names of its own, relative to a Git folder.
LINKED = (
    *("", "info", "logs", "logs/refs", "logs/refs/heads", "logs/refs/remotes", "modules", "objects", "objects/info"),
    *("rebase-apply", "rebase-merge", "refs", "refs/heads", "refs/remotes", "refs/tags", "sequencer", "worktrees"),
)
TOLD_AS_COMMANDS = frozenset(("commondir", "config", "config.worktree", "hooks", "index"))  # if they are links
MOST_IN_GIT = 2_000  # entries of one of these folders
MOST_LINKED_FILES = 2_000  # in a folder at the end of a link in the place of settings
MOST_LINKED = 8 << 20  # bytes of such files whose content is compared; of others, the size and the time
GIT_NAMES = frozenset(("HEAD", "objects", "refs", "config", "commondir", "hooks"))
READ_IN_TREES = frozenset((".gitattributes", ".gitignore", ".mailmap"))  # git follows no link there
# Packages in these folders have settings of their own, but nobody opens the folders as a project.
OTHERS_FOLDERS = frozenset(("node_modules", "site-packages", "bower_components", "vendor"))
PLACEHOLDER = {".gitignore"}  # the whole content of a placeholder of the wall
EXEC_LINE = re.compile(r"^\s*(?:x|exec)\s+(.*)", re.MULTILINE)
URL_KEYS = r"^(remote|submodule)\..*\.(url|pushurl)$"
ALTERNATES = "objects/info/alternates"
TODO_FILES = ("rebase-merge/git-rebase-todo", "rebase-apply/git-rebase-todo", "sequencer/todo")
ASIDE = re.compile(r"\.git/clincus-replaced-[0-9a-f]{8}(?:/|$)")
# A reference or a commit, in the form that git reads (`validate_headref` in its refs or path.c).
HEAD_TEXT = re.compile(rb"ref:\s*refs/|[0-9a-fA-F]{40}")
# The last commit of a line of a log, or the first one of any other line.
OBJECT_NAME = re.compile(rb"^(?:[0-9a-f]{40,64} )?([0-9a-f]{64}|[0-9a-f]{40})\b", re.IGNORECASE)

Command = dict[str, str]
Item = dict[str, object]


class Stop(Exception):
    """A limit is reached; the text says which."""


class OddFileError(Exception):
    """A file that git would read and this program does not; the text has the reason."""

    def __init__(self, words: str, *, is_closed: bool = False) -> None:
        super().__init__(words)
        self.is_closed = is_closed  # the user may not read it, so their git cannot either


# -- Files and folders, by descriptors


def open_below(top: int, path: str) -> int:
    """Open a folder below another one, step by step. Raises OSError, also for a link or `..` on the way."""
    if "\0" in path:
        raise NotADirectoryError(path)
    here = os.open(".", OPEN_FOLDER, dir_fd=top)
    for step in filter(None, path.split("/")):
        above = here
        try:
            if step in (".", ".."):
                raise NotADirectoryError(step)
            here = open_step(above, step)
        finally:
            os.close(above)
    return here


def open_step(above: int, name: str) -> int:
    """Open a folder in another one. If it may be entered but not listed, the descriptor is an O_PATH one."""
    try:
        return os.open(name, OPEN_FOLDER, dir_fd=above)
    except PermissionError:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(folder: int, name: str, limit: int = SMALL_FILE, *, begin: bool = False) -> bytes:
    """The content of a plain file; empty for a missing one. Raises OddFileError for any other file.

    With `begin` it may be larger, and the rest is left out.
    """
    try:
        with closing(os.open(name, OPEN_FILE, dir_fd=folder)) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OddFileError("it is no plain file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit if begin else limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        target = ""
        with suppress(OSError):
            target = os.readlink(name, dir_fd=folder)
        words = f"it is a link to {target}" if target else str(error.strerror)
        raise OddFileError(words, is_closed=isinstance(error, PermissionError)) from None
    if len(data) > limit:
        raise OddFileError(f"it is larger than {limit >> 10} KiB")
    return data


def names_in(folder: int) -> set[str]:
    """The names in a folder."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def changed_at(folder: int, *names: str) -> int:
    """The time of the last write to any of these files, 0 without any."""
    found = [0]
    for name in names:
        with suppress(OSError):
            found.append(int(os.stat(name, dir_fd=folder, follow_symlinks=False).st_ctime))
    return max(found)


def git_folder_changed_at(git: int) -> int:
    """The time of the last write to a file by which a Git folder names commands.

    The wall's placeholder for `commondir` is a folder, which git does not read. A start makes it beside the first look.
    """
    if is_folder_at(git, "commondir"):
        return changed_at(git, "config")
    return changed_at(git, "config", "commondir")


def is_folder_at(folder: int, name: str) -> bool:
    """True if there is a folder of that name, or a link to one, which git follows."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode)
    except OSError:
        return False


def is_git_folder(folder: int) -> bool:
    """True if git accepts a folder as a repository: it has a HEAD that git reads, and objects and refs somewhere."""
    try:
        head = read_file(folder, "HEAD", 256, begin=True)  # git reads no more of it
        is_head = bool(HEAD_TEXT.match(head))
    except OddFileError:
        try:
            is_head = os.readlink("HEAD", dir_fd=folder).startswith("refs/")
        except OSError:
            is_head = False
    if is_head and is_folder_at(folder, "objects") and is_folder_at(folder, "refs"):
        return True
    try:
        return is_head and bool(read_file(folder, "commondir"))
    except OddFileError:
        return is_head and not is_folder_at(folder, "commondir")


def joined(base: str, path: str) -> str:
    """A path that starts from a folder below the workspace, in normal form; it begins with `..` if it leads out."""
    return os.path.normpath(os.path.join(base, path)).lstrip("/") if path else base


# -- The index


# Git never adds such a name to an index (verify_path in read-cache.c), but does not check the names that it reads.
REFUSED_NAME = re.compile(rb"^/|(?:^|/)(?:(?:\.git|git~1)[. ]*|\.\.?)(?:/|$)", re.IGNORECASE)


class NoIndexError(ValueError):
    """A file that git does not accept as an index; the text has the reason."""


class Index:
    """The content of an index file (gitformat-index(5))."""

    def __init__(self) -> None:
        self.count = 0  # entries
        self.gitlinks: dict[bytes, None] = {}  # their paths
        self.refused: list[bytes] = []  # names that git would have refused
        self.names: list[bytes] = []  # all names, if the caller wants them
        self.sealed: dict[bytes, bytes] = {}  # those at or below a sealed path -> four bytes of mode, and the object
        self.unnamed: list[bool] = []  # of entries without a name: True for a gitlink; a shared index has the names
        self.shared = b""  # the name of the index that it shares
        self.replaced: list[int] = []  # the numbers of the entries of the shared one that `unnamed` stands for


def read_index(data: bytes, hash_size: int = 20, *, keeps_names: bool = False, sealed: tuple[bytes, ...] = ()) -> Index:
    """Read an index as git does, and refuse one that two versions of git could read differently.

    Git trusts an index: the lengths of names, and the places of its blocks, which threads read (`do_read_index` in
    git's read-cache.c). A folder in a sparse index stands for files that git ignores. Raises NoIndexError for a file
    that git does not read, ValueError or IndexError for content that git never writes.
    """
    if len(data) < 12 + hash_size:
        raise NoIndexError("it is too short")
    signature, version, count = struct.unpack_from(">4sII", data)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise NoIndexError("it is of no version that is known")
    if count > INDEX_ENTRIES:
        raise ValueError(f"it has more than {INDEX_ENTRIES} entries")
    found = Index()
    found.count = count
    end = len(data) - hash_size
    at = 12
    name = b""
    blocks: dict[int, tuple[int, int]] | None = {} if b"IEOT" in data else None
    for number in range(count):
        begin = at + 42 + hash_size
        if begin > end:
            raise ValueError("it is cut off")
        name, kept, following = read_name(data, at, begin, version, name)
        if blocks is not None:
            blocks[at] = number, kept
        if REFUSED_NAME.search(name):
            found.refused.append(name)
        # Git looks at no other bits than these.
        is_gitlink = int.from_bytes(data[at + 24 : at + 28], "big") & 0o170000 == 0o160000
        note_name(found, name, is_gitlink=is_gitlink, keeps_names=keeps_names)
        if name.startswith(sealed) and is_below(name, sealed):
            found.sealed[name] = data[at + 24 : at + 28] + data[at + 40 : at + 40 + hash_size]
        at = following
    if at > end:
        raise ValueError("it is cut off")
    read_extensions(found, data, (at, end), hash_size, blocks)
    if len(found.unnamed) != len(found.replaced):
        raise ValueError("an entry has no name")
    return found


def note_name(found: Index, name: bytes, *, is_gitlink: bool, keeps_names: bool) -> None:
    """Note an entry by its name."""
    if not name:
        found.unnamed.append(is_gitlink)
    elif is_gitlink:
        found.gitlinks[name] = None
    if keeps_names:
        found.names.append(name)


def is_below(path: bytes, places: tuple[bytes, ...]) -> bool:
    """True if a path is one of `places`, or below one."""
    return any(path[len(place) : len(place) + 1] in (b"", b"/") for place in places if path.startswith(place))


def read_name(data: bytes, at: int, begin: int, version: int, before: bytes) -> tuple[bytes, int, int]:
    """The name of an entry, the length of its common beginning with the last one, and the place of the next entry.

    `begin` is where its flags end. Raises ValueError, IndexError.
    """
    flags = data[begin - 2] << 8 | data[begin - 1]
    if flags & 0x4000:
        begin += 2
    kept = 0
    if version == 4:
        left, begin = read_number(data, begin)
        kept = len(before) - left
        if kept < 0:
            raise ValueError("a name is shorter than nothing")
    after = data.index(b"\0", begin)
    name = before[:kept] + data[begin:after] if kept else data[begin:after]
    if min(len(name), 0xFFF) != flags & 0xFFF:
        raise ValueError("the length of a name is wrong")
    return name, kept, after + 1 if version == 4 else at + ((after - at + 8) & ~7)


def read_extensions(
    found: Index, data: bytes, span: tuple[int, int], hash_size: int, blocks: Mapping[int, tuple[int, int]] | None
) -> None:
    """Read the extensions after the entries. Raises ValueError if they mislead a git that reads with threads."""
    at, end = span
    for size in (20, hash_size):  # git looks for it as if all names were those of SHA-1 (read_eoie_extension)
        mark = end - 12 - size
        if data[mark : mark + 4] == b"EOIE" and int.from_bytes(data[mark + 8 : mark + 12], "big") != at:
            raise ValueError("its end is not where it says")
    while at + 8 <= end:
        signature, size = struct.unpack_from(">4sI", data, at)
        content = data[at + 8 : min(at + 8 + size, end)]
        if signature == b"link":
            if found.shared or len(content) < hash_size:
                raise ValueError("it shares more than one other index")
            found.shared = content[:hash_size]
            if len(content) > hash_size:
                _, after = set_bits(content, hash_size)
                found.replaced, _ = set_bits(content, after)
        elif signature == b"IEOT" and blocks is not None:
            numbers = struct.unpack_from(f">{(len(content) - 4) // 8 * 2}I", content, 4)
            expected = 0
            for place, count in zip(numbers[::2], numbers[1::2]):
                if blocks.get(place) != (expected, 0):
                    raise ValueError("its blocks are not where it says")
                expected += count
            if expected != found.count:
                raise ValueError("its blocks are not all of it")
        at += 8 + size
    if not any(found.shared):
        found.shared = b""


def set_bits(data: bytes, at: int) -> tuple[list[int], int]:
    """The numbers of the set bits in a bitmap as git packs it (ewah_io.c), and the place where the rest begins."""
    _, size = struct.unpack_from(">II", data, at)
    words = struct.unpack_from(f">{size}Q", data, at + 8)
    found: list[int] = []
    place = number = 0
    while number < size:
        marker = words[number]
        run = marker >> 1 & 0xFFFFFFFF
        literals = marker >> 33
        if 64 * run > INDEX_ENTRIES or len(found) > INDEX_ENTRIES:
            raise ValueError(f"it has more than {INDEX_ENTRIES} entries")
        if marker & 1:
            found += range(place, place + 64 * run)
        place += 64 * run
        for word in words[number + 1 : number + 1 + literals]:
            found += [place + bit for bit in range(64) if word >> bit & 1]
            place += 64
        number += 1 + literals
    return found, at + 8 + 8 * size + 4


def read_number(data: bytes, at: int) -> tuple[int, int]:
    """A number as git writes it in an index of version 4, and the place where the rest begins."""
    number = data[at] & 127
    while data[at] & 128:
        at += 1
        number = ((number + 1) << 7) + (data[at] & 127)
        if number > 1 << 32:
            raise ValueError("a number is too large")
    return number, at + 1


class Indexes:
    """The content of a Git folder's index, and of the index that it shares."""

    def __init__(self) -> None:
        self.gitlinks: list[str] = []
        self.bad: list[str] = []  # names that git would have refused, and other faults
        self.unread = ""  # the reason why git does not read it either
        self.files: list[str] = []  # the names of the files that were read
        self.sealed: dict[str, bytes] = {}  # the paths in it at or below a sealed one -> mode and object, as in `Index`


def indexes_in(git: int, sealed: tuple[bytes, ...] = (), *, hash_size: int = 0) -> Indexes:
    """Look at the index of a Git folder by its descriptor. Git follows a link in its place, and this does not.

    `hash_size` is that of the repository if the folder has no configuration, as that of a linked worktree.
    """
    found = Indexes()
    try:
        hash_size = hash_size or hash_size_of(git)
        data = index_data(git, "index", found)
        if not data:
            return found
        index = read_index(data, hash_size, sealed=sealed)
        objects = dict(index.sealed)
        gitlinks = [*index.gitlinks]
        refused = [*index.refused]
        if index.shared:
            data = index_data(git, f"sharedindex.{index.shared.hex()}", found)
            shared = read_index(data, hash_size, keeps_names=bool(index.replaced), sealed=sealed)
            objects = {**shared.sealed, **objects}
            gitlinks += shared.gitlinks
            refused += shared.refused
            gitlinks += [shared.names[number] for number, is_one in zip(index.replaced, index.unnamed) if is_one]
        found.gitlinks = [os.fsdecode(name) for name in dict.fromkeys(gitlinks)]
        found.bad = [os.fsdecode(name) for name in refused]
        found.sealed = {os.fsdecode(name): one for name, one in objects.items()}
    except NoIndexError as error:
        found.unread = f"git would not read it: {error}"
    except OddFileError as odd:
        if odd.is_closed:
            found.unread = str(odd)
        else:
            found.bad = [str(odd)]
    except (ValueError, IndexError, struct.error) as error:
        found.bad = [f"git never writes such a one: {error}"]
    return found


def index_data(git: int, name: str, found: Indexes) -> bytes:
    """The content of an index file; empty for a missing one. Raises OddFileError."""
    found.files.append(name)
    return read_file(git, name, INDEX_FILE)


def hash_size_of(git: int) -> int:
    """The bytes in the name of an object of a repository: 32 if it has SHA-256 names."""
    try:
        text = read_file(git, "config")
    except OddFileError:
        return 20
    return 32 if re.search(rb"objectformat\s*=\s*\"?sha256", text, re.IGNORECASE) else 20


# -- The look


class Look:
    """One look at a workspace.

    `written_by` are folders of the host that a container can write. If given, each setting of a configuration counts as
    a command unless it is known to be harmless: git on the host would obey it.
    """

    def __init__(self, git: str, workspace: str, settings: Sequence[str], written_by: Sequence[str] = ()) -> None:
        self.git = git
        self.workspace = workspace
        self.written_by = written_by
        self.trees: dict[str, None] = {}  # working trees that configurations name, relative to the workspace
        self.top = -1  # a descriptor of it
        self.until = time.monotonic() + SECONDS
        self.items: list[Item] = []
        self.told = 0  # bytes of the items
        self.cuts: dict[str, None] = {}  # limits that were reached, in words
        self.closed = ""  # a folder that this user may not list
        self.gitlinks = 0  # gitlinks that were examined
        self.own = ".git"  # the Git folder of the repository at the top
        self.indexes: dict[str, Indexes] = {}  # by the Git folder
        self.folders = 0
        self.entries = 0
        self.asked: dict[str, list[Command]] = {}  # git's answers, by the text of a configuration
        self.places: Sequence[str] = ()  # sealed paths of the working tree, relative to the workspace
        self.since = 0.0  # when the session began
        self.commits: list[Item] = []
        self.sealed: Sequence[str] = ()  # the person's own configuration files, relative to the workspace
        self.seals: Sequence[str] = ()  # all sealed paths of the workspace
        self.urls: set[str] | None = None  # the URLs in them, once they are read
        self.single = {pattern for pattern in settings if "/" not in pattern and not pattern.startswith("*")}
        self.wanted = {".git", *GIT_NAMES, *self.single}
        self.endings = tuple(pattern[1:] for pattern in settings if pattern.startswith("*"))
        self.pairs = {tuple(pattern.split("/", 1)) for pattern in settings if "/" in pattern}
        self.heads = {first for first, _ in self.pairs}

    def take(self) -> dict[str, object]:
        """Examine the whole workspace. Raises OSError if it does not exist."""
        with closing(os.open(self.workspace, OPEN_FOLDER)) as self.top:
            try:
                self.look_at_top()
                self.walk()
            except Stop as stop:
                self.cuts[str(stop)] = None
        checked_out = {f"{item['path']}/.git" for item in self.items if item["kind"] == "gitlink"}
        items = [item for item in self.items if item["kind"] != "repository" or item["path"] not in checked_out]
        return {
            "items": items,
            "commits": self.commits,
            "cut": "; ".join(self.cuts),
            "folders": self.folders,
            "entries": self.entries,
        }

    def walk(self) -> None:
        """Go through all folders, those near the top first, so that no large tree hides a folder beside it.

        The Git folder at the top comes last: an agent may hide a repository in it.
        """
        waiting = deque([("", 0)])
        is_last = False
        parent = ""
        parent_at = os.dup(self.top)
        try:
            while waiting or not is_last:
                if not waiting:
                    is_last = True
                    waiting.append((".git", 0))
                path, depth = waiting.popleft()
                above, _, name = path.rpartition("/")
                try:
                    if above != parent:
                        fresh = open_below(self.top, above)
                        os.close(parent_at)
                        parent = above
                        parent_at = fresh
                    folder = os.open(name or ".", OPEN_FOLDER, dir_fd=parent_at)
                except PermissionError:
                    self.closed = self.closed or path
                    continue
                except OSError:
                    continue  # it is gone, or is a link now
                with closing(folder):
                    below = self.look_into(folder, path, name)
                room = MOST_FOLDERS - len(waiting)
                if len(below) > room:
                    self.cuts[f"it has more than {MOST_FOLDERS} folders"] = None
                if depth < MOST_DEPTH:
                    waiting += [(f"{path}/{one}" if path else one, depth + 1) for one in below[:room]]
                elif below:
                    self.cuts[f"folders more than {MOST_DEPTH} deep were not looked into"] = None
        finally:
            os.close(parent_at)
            if self.closed:
                self.cuts[f"folders that you may not list, such as '{self.closed}'"] = None

    def look_into(self, folder: int, path: str, name: str) -> list[str]:
        """Examine the entries of a folder; returns the names of the folders in it to go into."""
        self.folders += 1
        if self.folders > MOST_FOLDERS:
            raise Stop(f"it has more than {MOST_FOLDERS} folders")
        if time.monotonic() > self.until:
            raise Stop(TOO_LONG)
        below = []
        special = []
        wanted = self.wanted
        endings = self.endings
        heads = self.heads
        is_head = name in self.heads
        is_hidden = path == ".git" or path.startswith(".git/")
        with os.scandir(folder) as entries:
            for entry in entries:
                one = entry.name
                self.entries += 1
                if self.entries > MOST_ENTRIES:
                    raise Stop(f"it has more than {MOST_ENTRIES} entries")
                is_named = one in wanted or (is_head and (name, one) in self.pairs)
                if is_named or one.endswith(endings) or (one in heads and entry.is_symlink()):
                    special.append(one)
                if entry.is_dir(follow_symlinks=False) and one != ".git":
                    below.append(one)
                elif is_hidden and entry.is_symlink():
                    self.look_at_link(folder, path, one)
                elif one in READ_IN_TREES and is_pipe(folder, one):
                    words = "git waits until a program writes to it"
                    where = f"{path}/{one}" if path else one
                    self.add(where, "broken", [command("pipe", words)], changed_at(folder, one))
        if special and is_hidden:
            self.look_at_hidden(folder, path, special)
        elif special:
            self.look_at_special(folder, path, special, is_head=is_head, name=name)
            if "HEAD" in special and "config" in special:
                below = [one for one in below if one not in FILLED_BY_GIT]
        below.sort()
        return below

    def look_at_link(self, folder: int, path: str, name: str) -> None:
        """Examine a link in the Git folder at the top, and report one that leads out of it.

        Git follows it: it writes packs and messages there, and empties folders that it regards as its own. Git ignores
        links that Clincus has put aside.
        """
        if ASIDE.match(path):
            return
        target = link_text(folder, name)
        place = os.path.normpath(os.path.join(path, target))
        if not place.startswith(".git/"):
            self.add(f"{path}/{name}", "link", [command("link", target)], changed_at(folder, name))

    def look_at_links(self, git: int, place: str) -> None:
        """Look for links in the Git folder of a repository within the workspace, where git keeps its own files."""
        if place == ".git":
            return  # `walk` goes through all of it
        for inside in LINKED:
            with suppress(OSError), closing(open_below(git, inside)) as folder, os.scandir(folder) as entries:
                for number, entry in enumerate(entries):
                    if number == MOST_IN_GIT:
                        self.cuts[f"there are more than {MOST_IN_GIT} entries in {place}/{inside}".rstrip("/")] = None
                        break
                    target = link_text(folder, entry.name) if entry.is_symlink() else ""
                    where = os.path.normpath(os.path.join("/git", inside, target))
                    if target and not where.startswith("/git/") and entry.name not in TOLD_AS_COMMANDS:
                        own = f"{place}/{inside}/{entry.name}" if inside else f"{place}/{entry.name}"
                        self.add(own, "link", [command("link", target)], changed_at(folder, entry.name))

    def look_at_special(self, folder: int, path: str, found: Sequence[str], *, is_head: bool, name: str) -> None:
        """Examine the special entries of a folder."""
        inside = f"{path}/" if path else ""
        if ".git" in found:
            self.look_at_repository(folder, path)
        if "HEAD" in found and {"config", "commondir", "hooks"} & {*found} and is_git_folder(folder):
            self.add(path or ".", "repository", self.commands(folder, path), git_folder_changed_at(folder))
        if OTHERS_FOLDERS & {*path.split("/")}:
            return
        for one in found:
            is_named = one in self.single or one.endswith(self.endings)
            is_link = one in self.heads and bool(link_text(folder, one))
            if (is_named or is_link or (is_head and (name, one) in self.pairs)) and is_filled(folder, one):
                self.add(inside + one, "settings", self.led_to(folder, one), changed_at(folder, one))

    def led_to(self, folder: int, name: str) -> list[Command]:
        """The target of a link in the place of settings, with a mark of its content; nothing for other files.

        A link is not sealed, and programs read what it leads to. So another content there counts as another command.
        """
        target = link_text(folder, name)
        if not target:
            return []
        mark = "outside of the workspace"
        try:
            with closing(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=folder)) as end:
                if path_inside(os.readlink(f"/proc/self/fd/{end}"), os.path.realpath(self.workspace)):
                    mark = f"content {mark_of_content(end)}"
        except OSError:
            mark = "absent, or not readable"
        shown = target if len(target) <= VALUE_LENGTH // 2 else f"{target[: VALUE_LENGTH // 2]}…"
        return [command("link", f"{shown} ({mark})")]

    def look_at_hidden(self, folder: int, path: str, found: Sequence[str]) -> None:
        """Examine a folder within the Git folder at the top, which has the Git folders of submodules."""
        if path != ".git" and ".git" in found:
            self.look_at_repository(folder, path)
        if path == ".git" or "HEAD" not in found or not is_git_folder(folder):
            return
        if path in self.indexes:  # reported with the `.git` file that leads to it
            return
        with suppress(OddFileError):
            if path.startswith(".git/worktrees/") and read_file(folder, "commondir").strip() == b"../..":
                return
        commands = self.commands(folder, path)
        if commands or not path.startswith(".git/modules/"):
            self.add(path, "repository", commands, git_folder_changed_at(folder))

    def look_at_repository(self, folder: int, path: str) -> None:
        """Examine a `.git`: a folder, a file that names one, or a link to one."""
        place = f"{path}/.git" if path else ".git"
        try:
            git = os.open(".git", OPEN_FOLDER, dir_fd=folder)
        except OSError:
            found = self.linked_folder(self.linked_place(folder, path))
            if found is not None:
                self.add(place, "repository", found, changed_at(folder, ".git"))
            return
        with closing(git):
            self.look_at_links(git, place)
            when = git_folder_changed_at(git)
            if is_git_folder(git):
                self.add(place, "repository", self.commands(git, place), when)
            elif not path and (names_in(git) & {"HEAD", "objects", "refs"} or is_filled(git, "config")):
                self.add(place, "broken", [], when)
            elif path and is_filled(git, "config"):
                self.add(place, "repository", self.commands(git, place), when)

    def linked_place(self, folder: int, path: str) -> str:
        """The target of a `.git` file or link, relative to the workspace; empty if it is neither."""
        target = link_text(folder, ".git")
        if not target:
            with suppress(OddFileError):
                target = os.fsdecode(read_file(folder, ".git")).partition("gitdir:")[2].strip()
        return self.place_of(path, target) if target else ""

    def linked_folder(self, place: str) -> list[Command] | None:
        """The commands of the Git folder at a `linked_place`; None without one."""
        if not place:
            return None
        try:
            with closing(open_below(self.top, place)) as git:
                return self.commands(git, place)
        except OSError:
            return [command("gitdir", os.path.normpath(os.path.join(self.workspace, place)))]

    def place_of(self, base: str, target: str) -> str:
        """The target of a path in a file of a folder, relative to the workspace; it may lead out."""
        if target.startswith("/"):
            return os.path.relpath(target, self.workspace)
        return joined(base, target)

    def commands(self, git: int, place: str) -> list[Command]:
        """The commands in the configuration of a Git folder, and its hooks."""
        found: list[Command] = []
        for name in ("config", "config.worktree"):
            found += self.configured(git, name)
        found += [command("hook", name) for name in hooks_in(git)]
        if place != self.own:
            found += told_index(self.indexes_of(git, place))
        try:
            common = os.fsdecode(read_file(git, "commondir")).strip()
        except OddFileError as odd:
            if is_folder_at(git, "commondir"):  # the wall's placeholder, which git does not read
                return found[:MOST_COMMANDS]
            return [*found, command("commondir", str(odd))][:MOST_COMMANDS]
        if common not in ("", "."):
            try:
                with closing(open_below(self.top, self.place_of(place, common))) as other:
                    found += self.configured(other, "config")
                    found += [command("hook", name) for name in hooks_in(other)]
            except OSError:
                found.append(command("commondir", common))
        return found[:MOST_COMMANDS]

    def parts_of(self, git: int, place: str) -> dict[str, list[Command]]:
        """The commands that git runs from a Git folder of a submodule or a worktree, by the file that has them.

        A hook that is also among the sealed hooks of the repository at the top does not count: a template puts it
        everywhere.
        """
        found = {
            "config.worktree": self.settings_of(git, place, "config.worktree"),
            "gitdir": self.tree_elsewhere(git, place),
        }
        try:
            common = os.fsdecode(read_file(git, "commondir")).strip()
        except OddFileError as odd:
            common = "" if is_folder_at(git, "commondir") else str(odd)
        if common != "../..":
            found[ALTERNATES] = alternates_of(git)
            found["config"] = self.settings_of(git, place, "config")
            found["hooks"] = [command("hook", name) for name in hooks_in(git) if not self.is_own_hook(git, name)]
            found["commondir"] = [command("commondir", common)] if common not in ("", ".") else []
            if is_git_folder(git):  # else a submodule may have that name
                for name in ("remotes", "branches"):
                    found[name] = [command(name, one) for one in named_remotes(git, name)]
        return found

    def settings_of(self, git: int, place: str, name: str) -> list[Command]:
        """The reported settings of a configuration; also notes its working trees into which git must not write."""
        found = self.configured(git, name)
        try:
            text = os.fsdecode(read_file(git, name)).removeprefix("\ufeff")
            trees = ask_git(self.git, ["--file", "-", "--get-all", "-z", "core.worktree"], text) if self.git else []
        except (OddFileError, Refusal):  # it is reported elsewhere, or names no working tree
            return found
        places = {tree: self.place_of(place, tree) for tree in trees}
        self.trees.update(dict.fromkeys(places.values()))
        return [*found, *(command("core.worktree", tree) for tree, at in places.items() if not self.is_tree(at, place))]

    def tree_elsewhere(self, git: int, place: str) -> list[Command]:
        """The place that a linked worktree claims, if `git worktree repair` would write a foreign `.git` file there.

        In the workspace an agent can write it anyway. Elsewhere, the existing file must lead back, as in a worktree of
        the person's. Git does nothing where there is no folder.
        """
        try:
            target = os.fsdecode(read_file(git, "gitdir")).strip()
        except OddFileError as odd:
            return [command("gitdir", str(odd))]
        tree = os.path.join(self.workspace, place, target.removesuffix("/.git"))
        where = os.path.realpath(tree)
        if not target or not os.path.isdir(where):
            return []
        workspace = os.path.realpath(self.workspace)
        if path_inside(where, workspace) and not path_inside(where, f"{workspace}/.git"):
            self.trees[os.path.relpath(where, workspace)] = None
            return []
        with suppress(OSError, OddFileError), closing(os.open(where, OPEN_FOLDER)) as folder:
            _, _, back = os.fsdecode(read_file(folder, ".git")).partition("gitdir:")
            if back and os.path.realpath(os.path.join(where, back.strip())) == f"{workspace}/{place}":
                return []
        return [command("gitdir", target)]

    def is_tree(self, place: str, git_folder: str) -> bool:
        """True if a path can be the working tree of a submodule with this Git folder.

        It can be a folder in the workspace whose `.git` leads back, an empty folder, or absent. In any other folder a
        checkout would write over the person's own files. Nothing in it or above it may be sealed: the seal holds only
        in the container, and git on the host makes the checkout.
        """
        if place in ("", ".") or place.partition("/")[0] in ("..", ".git"):
            return False
        for seal in self.seals:
            if path_inside(place, seal) or (path_inside(seal, place) and seal != f"{place}/.git"):
                return False
        try:
            with closing(open_below(self.top, place)) as folder:
                if not names_in(folder):
                    return True
                _, _, target = os.fsdecode(read_file(folder, ".git")).partition("gitdir:")
        except FileNotFoundError:
            return True
        except (OSError, OddFileError):
            return False
        return self.place_of(place, target.strip()) == git_folder

    def is_own_hook(self, git: int, name: str) -> bool:
        """True if a hook is the same as in the repository at the top."""
        try:
            with closing(open_below(git, "hooks")) as theirs, closing(open_below(self.top, ".git/hooks")) as ours:
                return read_file(theirs, name) == read_file(ours, name) != b""
        except (OSError, OddFileError):
            return False

    def indexes_of(self, git: int, place: str) -> Indexes:
        """The content of a Git folder's index; each is read once."""
        if place not in self.indexes:
            if time.monotonic() > self.until:
                raise Stop(TOO_LONG)
            self.indexes[place] = indexes_in(git)
        return self.indexes[place]

    def configured(self, git: int, name: str) -> list[Command]:
        """The commands in a configuration file; for a file that git cannot read, a command that says so."""
        try:
            text = os.fsdecode(read_file(git, name)).removeprefix("\ufeff")
        except OddFileError as odd:
            return [command(name, str(odd))]
        if not text.strip():
            return []
        if text not in self.asked:
            self.asked[text] = self.ask(text)
        return self.asked[text]

    def ask(self, text: str) -> list[Command]:
        """Let git parse a configuration; returns its commands."""
        if not self.git:
            return [command("config", "not read, as there is no git")]
        if len(self.asked) >= MOST_ASKED or time.monotonic() > self.until:
            return [command("config", "not read, as there are too many")]
        try:
            fields = ask_git(self.git, ["--file", "-", "--list", "--no-includes", "-z"], text)
        except Refusal:
            return [command("config", "git does not understand it")]
        pairs = [(key, value) for key, _, value in (field.partition("\n") for field in fields)]
        if self.written_by:
            found = not_harmless(pairs, self.written_by, self.known_urls)
        else:
            found = [one for one in pairs if names_a_program(*one)]
        return [command(*one) for one in found[:MOST_COMMANDS]]

    def known_urls(self) -> set[str]:
        """The URLs of remotes and submodules that the person's own configuration names, without a `/` at the end."""
        if self.urls is None:
            self.urls = set()
            for path in self.sealed[:MOST_ASKED]:
                above, _, name = path.rpartition("/")
                with suppress(OSError, OddFileError, Refusal), closing(open_below(self.top, above)) as folder:
                    text = os.fsdecode(read_file(folder, name)).removeprefix("\ufeff")
                    fields = ask_git(self.git, ["--file", "-", "--get-regexp", "--no-includes", "-z", URL_KEYS], text)
                    self.urls.update(field.partition("\n")[2].rstrip("/") for field in fields)
        return self.urls

    def add(self, path: str, kind: str, commands: list[Command], changed: int, *, there: bool = True) -> None:
        """Note an item."""
        item: Item = {"path": path, "kind": kind, "there": there, "changed": changed, "commands": commands}
        self.told += len(json.dumps(item))
        if len(self.items) >= MOST_ITEMS or self.told > MOST_TOLD:
            raise Stop(f"there are more than {len(self.items)} repositories and settings")
        self.items.append(item)

    # -- The repository at the top

    def look_at_top(self) -> None:
        """Note the gitlinks of the repository at the top, and the commands of an interrupted rebase."""
        try:
            target = link_text(self.top, ".git") or os.fsdecode(read_file(self.top, ".git")).partition("gitdir:")[2]
        except OddFileError:  # it is a folder
            target = ""
        self.own = place = self.place_of("", target.strip()) if target.strip() else ".git"
        try:
            git = open_below(self.top, place)
        except OSError:
            return
        with closing(git):
            for name in TODO_FILES:
                self.look_at_todo(git, place, name)
            indexes = self.indexes_of(git, place)
            if indexes.unread:
                self.cuts[f"the index of .git was not read: {indexes.unread}"] = None
            if indexes.bad:
                self.add(f"{place}/index", "broken", told_index(indexes), changed_at(git, "index"))
            self.look_at_gitlinks(indexes.gitlinks)
            self.look_at_commits(git, place)

    def look_at_commits(self, git: int, place: str) -> None:
        """Note the files that git on the host would write from commits at sealed paths, and at paths of settings."""
        try:
            commits = Commits(self.top, git, self.since)
        except OSError:
            return
        try:
            singles = self.single | {"/".join(pair) for pair in self.pairs}
            self.commits = commits.take(self.places, sorted(singles), self.endings)
        finally:
            commits.objects.close()
        self.cuts.update(commits.cuts)
        for name in commits.forged:
            words = "its content is not that of its name, and git takes it all the same"
            path = f"{place}/objects/{name[:2]}/{name[2:]}"
            self.add(path, "broken", [command("object", words)], int(commits.forged[name]))

    def look_at_todo(self, git: int, place: str, name: str) -> None:
        """Note the commands of an interrupted rebase."""
        folder, _, file = name.partition("/")
        when = 0
        try:
            with closing(os.open(folder, OPEN_FOLDER, dir_fd=git)) as at:
                text = os.fsdecode(read_file(at, file))
                when = changed_at(at, file)
            commands = [command("exec", line.strip()) for line in EXEC_LINE.findall(text)]
            commands += self.strategies(git, folder)
        except OddFileError as odd:
            commands = [command("exec", str(odd))]
        except OSError:
            target = link_text(git, folder)
            commands = [command("exec", f"the folder is a link to {target}")] if target else []
        if commands:
            self.add(f"{place}/{name}", "rebase", commands[:MOST_COMMANDS], when)

    def strategies(self, git: int, folder: str) -> list[Command]:
        """The merge strategy of an interrupted rebase or cherry-pick: git runs the program that it names."""
        found = []
        for name in ("strategy", "opts"):
            try:
                with closing(os.open(folder, OPEN_FOLDER, dir_fd=git)) as at:
                    text = os.fsdecode(read_file(at, name))
            except OddFileError as odd:
                text = str(odd)
            except OSError:
                continue
            if text.strip() and (name == "strategy" or "strategy" in text):
                found.append(command("strategy", text.strip()))
        return found

    def look_at_gitlinks(self, paths: Sequence[str]) -> None:
        """Note gitlinks, and those in the indexes of the repositories there: `git status` goes on to them."""
        waiting = deque(("", path) for path in paths)
        seen = set()
        while waiting:
            base, path = waiting.popleft()
            if self.gitlinks == MOST_GITLINKS:
                self.cuts[f"there are more than {MOST_GITLINKS} gitlinks"] = None
                return
            self.gitlinks += 1
            path = f"{base}/{path}" if base else path
            place = joined("", path)  # a name that git would refuse may have `..` in it
            git = self.look_at_gitlink(path, place)
            if git and git not in seen:
                seen.add(git)
                waiting += [(path, one) for one in self.indexes[git].gitlinks]

    def look_at_gitlink(self, path: str, place: str) -> str:
        """Note a gitlink, with the commands of the repository there; returns the place of its Git folder."""
        found: list[Command] | None = None
        when = 0
        own = ""
        with suppress(OSError), closing(open_below(self.top, place)) as folder:
            try:
                with closing(os.open(".git", OPEN_FOLDER, dir_fd=folder)) as git:
                    if is_git_folder(git):
                        own = f"{place}/.git"
                        found = self.commands(git, own)
                        when = git_folder_changed_at(git)
            except OSError:
                own = self.linked_place(folder, place)
                found = self.linked_folder(own)
                when = changed_at(folder, ".git")
        if place.startswith(".."):
            found = [command("gitlink", "it leads out of the folder")]
        self.add(path, "gitlink", found or [], when, there=found is not None)
        return own if own in self.indexes else ""


def link_text(folder: int, name: str) -> str:
    """The target of a link, empty if the name is no link."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return ""


def mark_of_content(end: int) -> str:
    """A short mark of a file, or of all that a folder holds, by an O_PATH descriptor. It follows no link in there."""
    from hashlib import sha256

    found = sha256()
    left = MOST_LINKED
    for number, (path, at) in enumerate(files_at(end)):
        about = os.fstat(at)
        found.update(os.fsencode(f"{path}\n{stat.S_IFMT(about.st_mode)} {about.st_size}\n"))
        if number >= MOST_LINKED_FILES:
            break
        if not stat.S_ISREG(about.st_mode):
            continue
        left -= about.st_size
        if left < 0:
            found.update(b"%d\n" % about.st_ctime_ns)
            continue
        with open(os.open(f"/proc/self/fd/{at}", OPEN_FILE & ~os.O_NOFOLLOW), "rb") as file:
            found.update(sha256(file.read(about.st_size)).digest())
    return found.hexdigest()[:12]


def files_at(end: int) -> Iterator[tuple[str, int]]:
    """A file, or the files in a folder at any depth: relative paths, with O_PATH descriptors for one step."""
    if not stat.S_ISDIR(os.fstat(end).st_mode):
        yield "", end
        return
    with closing(os.open(f"/proc/self/fd/{end}", OPEN_FOLDER & ~os.O_NOFOLLOW)) as top:
        for path, folders, names, folder in os.fwalk(".", dir_fd=top):
            folders.sort()
            for name in sorted(names):
                with closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)) as at:
                    yield f"{path}/{name}", at


def is_pipe(folder: int, name: str) -> bool:
    """True if a name is that of a named pipe."""
    try:
        return stat.S_ISFIFO(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def is_filled(folder: int, name: str) -> bool:
    """True if a file has content, or a folder has more than a placeholder of the wall; also for other types."""
    try:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(about.st_mode):
            return about.st_size > 0
        if stat.S_ISDIR(about.st_mode):
            with closing(os.open(name, OPEN_FOLDER, dir_fd=folder)) as at:
                return not names_in(at) <= PLACEHOLDER
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return stat.S_ISLNK(about.st_mode)


def told_index(indexes: Indexes) -> list[Command]:
    """The faults of an index, in the form of commands."""
    return [command("index", words) for words in indexes.bad[:MOST_COMMANDS]]


def named_remotes(git: int, name: str) -> list[str]:
    """The remotes in an old folder of a Git folder, `remotes` or `branches`, to which git falls back."""
    try:
        with closing(os.open(name, OPEN_FOLDER, dir_fd=git)) as folder:
            return sorted(names_in(folder))[:MOST_COMMANDS]
    except OSError:
        target = link_text(git, name)
        return [f"the folder is a link to {target}"] if target else []


def hooks_in(git: int) -> list[str]:
    """The hooks of a Git folder that git would run: those that may be executed (githooks(5))."""
    found = []
    try:
        with closing(os.open("hooks", OPEN_FOLDER, dir_fd=git)) as folder:
            for name in sorted(names_in(folder))[:1000]:
                if not name.endswith(".sample"):
                    about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISLNK(about.st_mode) or (stat.S_ISREG(about.st_mode) and about.st_mode & 0o111):
                        found.append(name)
    except OSError:
        target = link_text(git, "hooks")
        return [f"the folder is a link to {target}"] if target else found
    return found


def command(key: str, value: str) -> Command:
    """A command of a configuration, cut to a readable length. One that is cut has a mark of its whole text in `cut`."""
    found = {"key": key[:VALUE_LENGTH], "value": value[:VALUE_LENGTH]}
    if max(len(key), len(value)) > VALUE_LENGTH:
        from hashlib import sha256  # its import takes as long as a look, and few commands need it

        found["cut"] = sha256(f"{key}\n{value}".encode("utf-8", "surrogateescape")).hexdigest()
    return found


# -- Commits


class Commits:
    """The files that git on the host would write from the commits of a repository at some places of its working tree.

    The seal holds only in the container: git on the host writes the files of a commit, and runs a hook that it wrote.
    This class looks at the commits that references name, and at their ancestors that came after a time, since a rebase
    or `git checkout HEAD~1` passes through these. An agent can choose the date of a commit, so what counts is the time
    at which the kernel last changed the file that holds it.
    """

    def __init__(self, top: int, git: int, since: float) -> None:
        """Raises OSError if the repository has no objects."""
        self.top = top
        self.git = git
        self.since = since
        self.hash_size = hash_size_of(git)
        self.objects = Objects(git, self.hash_size)
        self.until = time.monotonic() + COMMIT_SECONDS
        self.cuts: dict[str, None] = {}
        if not self.objects.is_whole:
            self.cuts["commits in packs that were not read, as there are many or their list is odd"] = None
        self.forged: dict[str, float] = {}  # objects with another content than their names say
        self.trees: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}
        self.replaced: dict[bytes, bytes] = {}  # object -> the one that git reads in its place
        self.looked: dict[bytes, None] = {}  # commits
        self.found: dict[str, dict[str, list[str]]] = {}  # path -> content -> references
        self.changed: dict[str, int] = {}  # path -> time of the last write to a reference to it

    def take(self, places: Sequence[str], settings: Sequence[str], endings: tuple[str, ...]) -> list[Item]:
        """The files, as COMMITs."""
        try:
            tips = list(references(self.git, self.cuts))
            self.replaced = replacements(tips)
            for name, tip, when in tips:
                self.look_at(name, tip, when, [*places, *settings], endings)
        except Stop as stop:
            self.cuts[str(stop)] = None
        sealed = tuple(map(os.fsencode, places))
        return [
            {
                "path": path,
                "sealed": is_below(os.fsencode(path), sealed),
                "contents": {content: names[:MOST_NAMES] for content, names in contents.items()},
                "unlike": [content for content in contents if self.is_unlike(path, content)],
                "changed": self.changed[path],
            }
            for path, contents in self.found.items()
        ]

    def look_at(self, name: str, tip: bytes, when: int, places: Sequence[str], endings: tuple[str, ...]) -> None:
        """Look at a reference, and at the commits before it that are new."""
        waiting = deque([(tip, name)])
        while waiting:
            one, label = waiting.popleft()
            if one in self.looked:
                continue
            if time.monotonic() > self.until or len(self.looked) >= MOST_COMMITS:
                raise Stop("commits, as there are many")
            self.looked[one] = None
            kind, data, written = self.read(one)
            if kind == "tag":
                waiting.append((named_in(data, b"object "), label))
            elif kind == "commit":
                for path, mode, content in self.files_of(named_in(data, b"tree "), places, endings):
                    names = self.found.setdefault(path, {}).setdefault(f"{mode:o} {content.hex()}", [])
                    names += [label] if label not in names else []
                    self.changed[path] = max(when, self.changed.get(path, 0))
                if self.since and written >= self.since:
                    waiting += [(parent, f"{name} ({parent.hex()[:12]})") for parent in parents_in(data)]

    def replacement(self, name: bytes) -> bytes:
        """The object that git reads in the place of one."""
        one = name
        for _ in range(MOST_REPLACED):
            if one not in self.replaced:
                return one
            one = self.replaced[one]
        return name  # git gives up, and writes nothing

    def read(self, name: bytes) -> tuple[str, bytes, float]:
        """An object; an empty one if git could not read it. A forged one is noted."""
        try:
            found = self.objects.read(self.replacement(name))
        except ForgedError:
            self.forged[name.hex()] = time.time()
        except TooLargeError:
            self.cuts["commits or files that are very large"] = None
        except MissingError:
            if self.objects.borrows:
                self.cuts["commits whose objects are in another repository (objects/info/alternates)"] = None
        else:
            return found.kind, found.data, found.written
        return "", b"", 0.0

    def files_of(
        self, root: bytes, places: Sequence[str], endings: tuple[str, ...]
    ) -> Iterator[tuple[str, int, bytes]]:
        """The files of a tree at or below some places, or at its top with one of some endings: path, mode, object."""
        top = self.tree(root)
        named = [os.fsdecode(name) for name in top if endings and os.fsdecode(name).endswith(endings)]
        for place in dict.fromkeys((*places, *named)):
            here = top
            entry = (0, b"")
            for step in place.split("/"):
                entry = here.get(os.fsencode(step), (0, b""))
                here = self.tree(entry[1]) if stat.S_ISDIR(entry[0]) else {}
            if entry[1]:
                yield from self.files_below(place, *entry, 0)

    def files_below(self, path: str, mode: int, name: bytes, depth: int) -> Iterator[tuple[str, int, bytes]]:
        """The files at or below an entry of a tree."""
        if not stat.S_ISDIR(mode):
            yield path, mode, self.replacement(name)
        elif depth > MOST_DEPTH or len(self.found) > MOST_ITEMS:
            raise Stop("sealed files of commits, as there are many")
        else:
            for inside, (its_mode, its_name) in self.tree(name).items():
                yield from self.files_below(f"{path}/{os.fsdecode(inside)}", its_mode, its_name, depth + 1)

    def tree(self, name: bytes) -> dict[bytes, tuple[int, bytes]]:
        """The entries of a tree."""
        if name not in self.trees:
            kind, data, _ = self.read(name) if name else ("", b"", 0.0)
            self.trees[name] = {}
            if kind == "tree":
                with suppress(ValueError):
                    entries = tree_entries(data, self.hash_size)
                    self.trees[name] = {inside: (mode, one) for inside, mode, one in entries}
        return self.trees[name]

    def is_unlike(self, path: str, content: str) -> bool:
        """True if git would write another content than the present one. The object is examined, too."""
        mode, _, name = content.partition(" ")
        is_link = stat.S_ISLNK(int(mode, 8))
        if not is_link and not stat.S_ISREG(int(mode, 8)):
            return True
        self.read(bytes.fromhex(name))
        is_one, held = what_is_at(self.top, path, self.hash_size)
        return bytes.fromhex(name) not in held or (int(mode, 8) & 0o111 != 0 and not is_one)


def named_in(data: bytes, word: bytes) -> bytes:
    """The object that the first line of a commit or a tag names."""
    first, _, _ = data.partition(b"\n")
    with suppress(ValueError):
        if first.startswith(word):
            return bytes.fromhex(first[len(word) :].decode("ascii"))
    return b""


def parents_in(data: bytes) -> Iterator[bytes]:
    """The commits before one."""
    for line in data.partition(b"\n\n")[0].split(b"\n")[1:]:
        if not line.startswith(b"parent "):
            return
        with suppress(ValueError):
            yield bytes.fromhex(line[len(b"parent ") :].decode("ascii"))


def references(git: int, cuts: dict[str, None]) -> Iterator[tuple[str, bytes, int]]:
    """The names that git on the host may check out: each name, its object, and the time of the last write to its file.

    Symbolic references are left out, since their targets are reported themselves.
    """
    seen: dict[bytes, None] = {}
    for name, text, when in reference_files(git, cuts):
        for line in text.splitlines()[:MOST_LINES] if name in ("FETCH_HEAD", "stash") else (text,):
            found = OBJECT_NAME.search(line)
            if not found:
                continue
            one = bytes.fromhex(found[1].decode("ascii"))
            if one not in seen or name.startswith(REPLACEMENTS):
                seen[one] = None
                if len(seen) > MOST_REFERENCES:
                    cuts[f"commits, as there are more than {MOST_REFERENCES} references"] = None
                    return
                yield name, one, when


def replacements(references: Sequence[tuple[str, bytes, int]]) -> dict[bytes, bytes]:
    """The objects in whose places git reads others, and these (git-replace(1))."""
    found: dict[bytes, bytes] = {}
    for name, one, _ in references:
        if name.startswith(REPLACEMENTS):
            with suppress(ValueError):
                found.setdefault(bytes.fromhex(name[len(REPLACEMENTS) :]), one)
    return found


def reference_files(git: int, cuts: dict[str, None]) -> Iterator[tuple[str, bytes, int]]:
    """The text of each reference."""
    for name in ("HEAD", *PSEUDO_REFERENCES):
        with suppress(OddFileError):
            yield name, read_file(git, name, begin=True), changed_at(git, name)
    if is_folder_at(git, "reftable"):
        cuts["commits, as branches are kept as a reftable"] = None
    places = deque(["refs"])
    while places:
        place = places.popleft()
        with suppress(OSError), closing(open_below(git, place)) as folder:
            for name in sorted(names_in(folder)):
                if is_folder(folder, name):
                    places.append(f"{place}/{name}")
                    continue
                with suppress(OddFileError):
                    yield f"{place}/{name}", read_file(folder, name, 256, begin=True), changed_at(folder, name)
    with suppress(OSError, OddFileError), closing(open_below(git, "logs/refs")) as folder:
        yield "stash", read_file(folder, "stash"), changed_at(folder, "stash")
    try:
        lines = read_file(git, "packed-refs", PACKED_REFERENCES).splitlines()
    except OddFileError as odd:
        cuts[f"commits, as packed-refs was not read: {odd}"] = None
        return
    when = changed_at(git, "packed-refs")
    for line in lines:
        one, _, own = line.partition(b" ")
        yield os.fsdecode(own), one, when


def is_folder(above: int, name: str) -> bool:
    """True if a name is that of a folder, and not of a link to one."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except OSError:
        return False


def what_is_at(top: int, path: str, hash_size: int) -> tuple[bool, list[bytes]]:
    """The state of a file of the working tree: True if it is executable, and the objects that have its content for git.

    Windows line ends do not count as a difference. For anything but a plain file or a link, False and no object.
    """
    import hashlib  # its import takes as long as a look, and few repositories need it

    above, _, name = path.rpartition("/")
    make = hashlib.sha256 if hash_size == 32 else hashlib.sha1
    with suppress(OSError, OddFileError), closing(open_below(top, above)) as folder:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(about.st_mode):
            data = os.fsencode(os.readlink(name, dir_fd=folder))
        else:
            data = read_file(folder, name)
        texts = (data, data.replace(b"\r\n", b"\n"))
        return bool(about.st_mode & 0o100), [make(b"blob %d\0" % len(one) + one).digest() for one in texts]
    return False, []


def unlike_sealed(top: int, git: int, entries: Mapping[str, bytes]) -> list[str]:
    """The sealed paths of an index that are missing in the folder, or have different content there.

    A path that would become executable counts too, and so does one whose object is forged: git writes it.
    """
    found = []
    objects: Objects | None = None
    with suppress(OSError):
        objects = Objects(git, len(next(iter(entries.values()))) - 4)
    try:
        for path, entry in entries.items():
            mode, wanted = int.from_bytes(entry[:4], "big"), entry[4:]
            is_one, held = what_is_at(top, path, len(wanted))
            is_forged = False
            try:
                if objects is not None and wanted in held:
                    objects.read(wanted)
            except ForgedError:
                is_forged = True
            except (MissingError, TooLargeError):
                pass  # git could not write it, or it is reported as another content
            if wanted not in held or is_forged or (mode & 0o111 and not is_one):
                found.append(path)
    finally:
        if objects is not None:
            objects.close()
    return found


def look_at_indexes(workspace: str, inside: Sequence[str], sealed: Sequence[str] = ()) -> dict[str, object]:
    """The faults of each index in a workspace, and the files that were read. Raises OSError.

    It looks at the indexes of the repository at the top, of its submodules and linked worktrees, which `git status`
    reads too, and of the Git folders `inside`, relative to the workspace. For the one at the top, the answer also
    has its gitlinks, and the `sealed` paths (relative to the workspace) that git would write from its index.
    """
    own = f"{workspace}/.git"
    worktrees = [f"{own}/worktrees/{name}" for name in plain_folders(f"{own}/worktrees")]
    folders = [own, *(f"{workspace}/{one}" for one in inside), *worktrees]
    cut = ""
    try:
        folders += plain_git_folders(f"{own}/modules")
    except Refusal as refusal:
        cut = refusal.words
    found = {}
    sizes: dict[str, int] = {}
    with closing(os.open(workspace, OPEN_FOLDER)) as top:
        if worktrees:
            with suppress(OSError), closing(open_below(top, ".git")) as git:
                sizes = dict.fromkeys(worktrees, hash_size_of(git))
        for folder in dict.fromkeys(folders):
            place = os.path.relpath(folder, workspace)
            with suppress(OSError), closing(open_below(top, place)) as git:
                places = tuple(map(os.fsencode, sealed)) if folder == own else ()
                indexes = indexes_in(git, places, hash_size=sizes.get(folder, 0))
                files = [f"{place}/{name}" for name in indexes.files]
                unlike = unlike_sealed(top, git, indexes.sealed) if indexes.sealed else []
                links = indexes.gitlinks[:MOST_GITLINKS] if folder == own else []
                found[f"{place}/index"] = {
                    "bad": indexes.bad[:MOST_COMMANDS],
                    "files": files,
                    "unlike": unlike,
                    "gitlinks": [one for one in links if one == joined("", one)],
                }
    return {"indexes": found, "cut": cut}


def alternates_of(git: int) -> list[Command]:
    """The other places from which a Git folder takes objects: git would write these objects into the working tree."""
    above, _, name = ALTERNATES.rpartition("/")
    try:
        with closing(open_below(git, above)) as folder:
            text = os.fsdecode(read_file(folder, name))
    except OddFileError as odd:
        text = str(odd)
    except OSError:
        return []
    return [command(name, line) for line in text.splitlines() if line.strip()]


def look_at_modules(question: Mapping[str, Any]) -> dict[str, object]:
    """The settings that git may obey in Git folders of submodules and worktrees, by the file or folder that has them.

    Those of a worktree belong to the repository at the top; its own are in config.worktree. `written_by`, `sealed` and
    `seals` as in `Look`. Raises OSError.
    """
    workspace = question["workspace"]
    look = Look(question["git"], workspace, (), [workspace, *question["written_by"]])
    look.sealed = question["sealed"]
    look.seals = question["seals"]
    found: dict[str, dict[str, list[Command]]] = {}
    with closing(os.open(workspace, OPEN_FOLDER)) as look.top:
        for place in question["folders"]:
            with suppress(OSError), closing(open_below(look.top, place)) as folder:
                parts = look.parts_of(folder, place)
                found[place] = {name: commands[:MOST_COMMANDS] for name, commands in parts.items() if commands}
    return {"folders": found, "trees": list(look.trees)}


def answer(question: Mapping[str, Any]) -> dict[str, object]:
    """The answer to a question."""
    try:
        if question.get("only") == "modules":
            return look_at_modules(question)
        if question.get("only") == "index":
            return look_at_indexes(question["workspace"], question["folders"], question.get("sealed", ()))
        look = Look(question["git"], question["workspace"], question["settings"])
        look.places = question.get("places", ())
        look.since = question.get("since", 0.0)
        return look.take()
    except Refusal as refusal:
        return {"refused": refusal.words}
    except OSError as error:
        return {"refused": f"the workspace cannot be looked at: {error.strerror}"}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
