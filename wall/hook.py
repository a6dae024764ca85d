"""The wall's program: LXC runs it as root on the host around every start of a session.

LXC calls it as the hooks `lxc.hook.pre-start` and `lxc.hook.post-stop` (lxc.container.conf(5)), `clincus clean` with
the word `sweep`. Its whole text travels in the instance's raw.lxc: there is no file that somebody could swap, and a
session outlives every upgrade or removal of Clincus. So it uses the standard library only.

It trusts its plan, which only an Incus admin can write. It trusts no path: a container of the same workspace may be
changing paths at any moment. The plan is a JSON object, packed by zlib and base64:

    stage    the name of a folder under /run/clincus, of this instance alone
    session  the session's id, for messages
    level    "locked", or "basic" or "off" for less protection
    holds    whether its seccomp filter has the rules of deny-unmount.rules, so that it keeps the seals that it gets
    code     the uid and gid of the tool's user in the container
    setuid   "denied" if the container's seccomp filter has to deny setuid or setgid bits
    devices  folders that the container gets as devices of Incus, each with
        source     its path on the host, or the pool and name of a volume
        readonly   whether the container cannot write there
    trees    the folders and files to bring in, the workspace first, each with
        source     its path on the host, without symlinks
        owner      the uid that it had when the session was described, shown as `code` in the container; null if
                   Clincus runs on another host and cannot see the folder: then the uid that it has now
        group      its gid, likewise
        readonly   whether nothing in it can be changed
        pins       folders in it that keep their place, as another tree is mounted there
        protect    pattern of protected paths: the text of the file that stands in for an absent one, null for a folder,
                   false if nothing does: it is left alone unless it is a file or a folder that no link leads to
"""

from __future__ import annotations

import base64
import ctypes
import errno
import fcntl
import json
import os
import re
import stat
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import accumulate, islice

TYPE_CHECKING = False  # type checkers take it for true; a start waits for typing to load
if TYPE_CHECKING:
    from typing import Any, Literal, Union

    Range = tuple[int, int, int]  # of ids: first here, first there, count
    Place = tuple[str, str]  # the number of a file system, and a path in it
    StandIn = Union[str, Literal[False], None]  # for an absent path: see `protect` above

STAGES = "/run/clincus"
LOCK_SECONDS = 30.0
OLDEST_PYTHON = (3, 9)
NO_ID_MAPS = "cannot map ids"
MOST_MOUNTS = 4000  # a stage with more is refused: the kernel allows 100000 in a whole namespace
MOST_FOLDERS = 20000  # the most folders searched for the Git folders of submodules
OTHERS = "others"  # the folder of a stage that holds the trees of other sessions, which the container cannot enter
FILLED_BY_GIT = ("objects", "refs", "logs")  # in a Git folder: many folders in them, and files called HEAD
PLACEHOLDER_MARK = "trusted.clincus.placeholder"  # needs CAP_SYS_ADMIN on the host: no container can forge it
# This file in a placeholder folder makes Git ignore the folder: otherwise `git stash -u` would fail to remove it.
HIDING_FILE, HIDING_TEXT = ".gitignore", "*\n"

# Numbers of system calls that Python's os module does not have. They are the same on every architecture that got the
# calls after Linux 5.1, x86_64 and aarch64 among them.
OPEN_TREE = 428
MOVE_MOUNT = 429
OPENAT2 = 437
MOUNT_SETATTR = 442
OPEN_TREE_CLONE = 0x1
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
MOUNT_RDONLY = 0x1
MOUNT_NOSUID = 0x2
MOUNT_NODEV = 0x4
MOUNT_IDMAP = 0x100000
RESOLVE_NO_MAGICLINKS = 0x2
RESOLVE_NO_SYMLINKS = 0x4
RESOLVE_BENEATH = 0x8
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000
MNT_DETACH = 0x2
CLONE_NEWUSER = 0x10000000


class WallError(Exception):
    """The reason why a stage cannot be built.

    `kind` is "refused" for a workspace that must not be mounted, "unsupported" for a host that cannot do it, and
    "exposed" if a session that is not locked has one of the folders.
    """

    def __init__(self, message: str, kind: str = "refused") -> None:
        super().__init__(message)
        self.kind = kind


# -- System calls

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def check(result: int, what: str) -> int:
    """The result of a system call; OSError if it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)
    return result


def system_call(what: str, number: int, *arguments: int | bytes) -> int:
    """Make a system call by its number."""
    words = [ctypes.c_char_p(word) if isinstance(word, bytes) else ctypes.c_long(word) for word in arguments]
    return check(int(libc.syscall(ctypes.c_long(number), *words)), what)


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_beneath(folder: int, path: str, flags: int) -> int:
    """Open `path` below the descriptor `folder`; OSError ELOOP for a symlink on the way, EXDEV for a way out."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    for attempt in range(50):
        try:
            return system_call(path, OPENAT2, folder, os.fsencode(path or ".") + b"\0", how, len(how))
        except OSError as error:
            # EAGAIN: somebody renamed a folder on the way while the kernel looked (openat2(2)).
            if error.errno not in (errno.EAGAIN, errno.EINTR) or attempt == 49:
                raise
    raise AssertionError


def clone_mount(at: int, more: int = 0) -> int:
    """A detached copy of the path at a descriptor, without the mounts below it unless `more` is AT_RECURSIVE."""
    return system_call("open_tree", OPEN_TREE, at, b"\0", OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH | more)


def set_attributes(mount: int, attributes: int, namespace: int = 0) -> None:
    """Add mount attributes to a detached mount, with the id map of a user namespace if MOUNT_IDMAP is given."""
    record = struct.pack("QQQQ", attributes, 0, MS_PRIVATE, namespace)
    system_call("mount_setattr", MOUNT_SETATTR, mount, b"\0", AT_EMPTY_PATH, record, len(record))


def set_propagation(mount: int, kind: int) -> None:
    """Make a mount and all below it MS_SHARED (later mounts there propagate to its copies) or MS_PRIVATE."""
    record = struct.pack("QQQQ", 0, 0, kind, 0)
    system_call("mount_setattr", MOUNT_SETATTR, mount, b"\0", AT_EMPTY_PATH | AT_RECURSIVE, record, len(record))


def cover(descriptor: int, readonly: bool) -> tuple[int, int]:
    """Mount a path over itself: a mount point cannot be renamed or removed, a read-only one not changed.

    The result is the number of the mount, and the inode.
    """
    with closing_descriptor(clone_mount(descriptor)) as mount:
        set_attributes(mount, MOUNT_NOSUID | MOUNT_NODEV | (MOUNT_RDONLY if readonly else 0))
        attach_mount(mount, descriptor)
        return mount_id(mount), os.fstat(mount).st_ino


def cut_off(path: str) -> None:
    """Stop propagation at a path and below: an unmount there then leaves the copy in a running container alone."""
    with suppress(OSError), closing_descriptor(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as here:
        set_propagation(here, MS_PRIVATE)


def attach_mount(mount: int, at: int) -> None:
    """Put a detached mount over the place that a descriptor names (and not over a path that may have moved)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    system_call("move_mount", MOVE_MOUNT, mount, b"\0", at, b"\0", flags)


def mount_tmpfs(path: str, options: str, propagation: int = MS_PRIVATE) -> None:
    """Mount a small tmpfs, which takes its content with it when it goes. Only a shared one propagates its mounts."""
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    check(libc.mount(b"clincus", path.encode(), b"tmpfs", flags, options.encode()), path)
    check(libc.mount(None, path.encode(), None, ctypes.c_ulong(propagation), None), path)


def unmount(path: str) -> None:
    """Unmount everything at `path` and below; do nothing if nothing is mounted there."""
    while libc.umount2(path.encode(), MNT_DETACH) == 0:
        pass
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        check(-1, path)


def mount_id(descriptor: int) -> int:
    """The kernel's id of the mount at a descriptor (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        return int(next(line for line in file if line.startswith("mnt_id:")).split()[1])


def process_key(stat: str) -> list[Any]:
    """The pid and the start time in a /proc/PID/stat, or in a copy of one; empty if there is none (proc(5)).

    No two processes have both in common. The process itself chooses the name that stands between them.
    """
    try:
        with open(stat, errors="replace") as file:
            text = file.read()
        return [int(text.partition(" ")[0]), text.rpartition(")")[2].split()[19]]
    except (OSError, ValueError, IndexError):
        return []


def is_running(key: list[Any]) -> bool:
    """True if the process with a `process_key` has not ended."""
    return key != [] and process_key(f"/proc/{key[0]}/stat") == key


# -- Id maps


def user_namespace(uids: list[Range], gids: list[Range]) -> int:
    """A descriptor of a new user namespace with these id maps: the kernel's form of an id map for a mount."""
    child = os.fork()
    if child == 0:
        os._exit(libc.unshare(CLONE_NEWUSER) != 0)
    try:
        # A child that has ended keeps its user namespace until its parent waits for it.
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        if ended is None or ended.si_status:
            raise WallError("the kernel refuses a user namespace to root", kind="unsupported")
        for kind, lines in (("uid_map", uids), ("gid_map", gids)):
            with open(f"/proc/{child}/{kind}", "wb", buffering=0) as file:
                file.write("".join(f"{first} {seen} {count}\n" for first, seen, count in lines).encode())
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.waitpid(child, 0)


def container_ranges(configuration: str, kind: str) -> list[Range]:
    """The id ranges (in the container, on the host, count) of `kind` "u" or "g" in a container's lxc.conf."""
    pattern = rf"^\s*lxc\.idmap\s*=\s*{kind}\s+(\d+)\s+(\d+)\s+(\d+)\s*$"
    return [(int(a), int(b), int(n)) for a, b, n in re.findall(pattern, configuration, re.MULTILINE)]


def mount_map(ranges: list[Range], owner: int, code: int, spans: list[tuple[int, int]]) -> list[Range]:
    """The id map (on disk, seen by the container as host id, count) of a folder.

    The owner on disk and the container's user `code` are the same; where both ids lie in `spans` (first,
    count), they change places. All other ids of `spans` map to themselves. An id outside of all spans belongs to
    nobody, and its files can only be read.
    """
    seen = next((host + code - inside for inside, host, count in ranges if inside <= code < inside + count), None)
    if seen is None:
        raise WallError(f"the container has no id {code}")
    swapped = {owner: seen}
    if all(any(first <= id < first + count for first, count in spans) for id in (owner, seen)):
        swapped[seen] = owner
    lines = [(there, here, 1) for there, here in swapped.items()]
    for first, count in spans:
        edges = [first - 1, *sorted(id for id in {owner, seen} if first <= id < first + count), first + count]
        lines += [(low + 1, low + 1, high - low - 1) for low, high in zip(edges, edges[1:]) if high > low + 1]
    return sorted(lines)


# -- Paths in a tree


def matching_paths(root: int, pattern: str) -> list[str]:
    """The paths below a descriptor that match a pattern: `*` is any folder, `**` any Git folder at any depth.

    A part without a star matches itself, whether it exists or not.
    """
    paths = [""]
    for part in pattern.split("/"):
        if part == "*":
            paths = [found for path in paths for found in list_folder(root, path)[0]]
        elif part == "**":
            paths = [found for path in paths for found in git_folders(root, path)]
        else:
            paths = [f"{path}/{part}" if path else part for path in paths]
        if len(paths) > MOST_MOUNTS:
            words = f"there are more than {MOST_MOUNTS} places for the protected path '{pattern}'"
            raise WallError(f"{words}: remove those that an agent made, with rm -r, or git worktree prune")
    return paths


def list_folder(root: int, path: str) -> tuple[list[str], set[str]]:
    """The paths of the folders directly in `path`, and the names of all entries; both empty if it is no folder."""
    try:
        descriptor = open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return [], set()
        if error.errno == errno.ELOOP:
            words = f"'{path}' in the workspace is reached through a symlink"
            raise WallError(f"{words}: put what it leads to in its place, or remove the link") from error
        raise
    with closing_descriptor(descriptor), os.scandir(descriptor) as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in islice(entries, MOST_FOLDERS)}
    if len(found) == MOST_FOLDERS:
        words = f"there are too many files in '{path}' to find what is protected"
        raise WallError(f"{words}: remove those that an agent made, with rm -r")
    return [f"{path}/{name}" if path else name for name in sorted(found) if found[name]], set(found)


def git_folders(root: int, path: str) -> list[str]:
    """The Git folders below `path`, at any depth: submodules, those of submodules, those with a `/` in their name.

    A folder with a `config` counts without a HEAD too: an agent can remove the HEAD, and put it back after the next
    start. The search goes on below a Git folder, except where git fills it: an agent can put a HEAD above another one.
    WallError if there are more than MOST_FOLDERS.
    """
    found: list[str] = []
    folders = [path]
    for folder in folders:  # the list grows by the folders below
        below, names = list_folder(root, folder)
        above, _, name = folder.rpartition("/")
        if name in FILLED_BY_GIT and above in found and "config" not in names:
            continue
        if folder != path and names & {"HEAD", "config"}:
            found.append(folder)
        folders += below
        if len(folders) > MOST_FOLDERS:
            words = f"'{path}' holds more than {MOST_FOLDERS} folders: remove those that an agent made, with rm -r"
            raise WallError(f"{words}; `git submodule update --init` makes those of your submodules again")
    return found


# -- Placeholders


def make_placeholder(parent: int, name: str, text: str | None, owner: tuple[int, int]) -> bool:
    """Make a marked file with this text, or a marked folder if it is None; False if the name is taken already."""
    try:
        if text is None:
            os.mkdir(name, 0o755, dir_fd=parent)
            flags = os.O_RDONLY | os.O_DIRECTORY
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent)
    except FileExistsError:
        return False
    with closing_descriptor(descriptor):
        try:
            os.setxattr(descriptor, PLACEHOLDER_MARK, b"1")
            os.fchown(descriptor, *owner)
            if text:
                os.write(descriptor, text.encode())
        except OSError:
            with suppress(OSError):
                (os.rmdir if text is None else os.unlink)(name, dir_fd=parent)
            raise
    return True


def remove_placeholder(parent: int, name: str, text: str | None) -> None:
    """Remove a placeholder that is still empty, or the mark of one that was filled.

    OSError if it is absent, a symlink or not ours; EBUSY while a session holds it.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with closing_descriptor(os.open(name, flags, dir_fd=parent)) as descriptor:
        os.getxattr(descriptor, PLACEHOLDER_MARK)
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            if os.read(descriptor, 16) == (text or "").encode():
                os.unlink(name, dir_fd=parent)
            else:
                os.removexattr(descriptor, PLACEHOLDER_MARK)
            return
        try:
            os.rmdir(name, dir_fd=parent)  # the kernel says "busy" before "not empty"
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            with suppress(OSError):
                remove_placeholder(descriptor, HIDING_FILE, HIDING_TEXT)
                os.rmdir(name, dir_fd=parent)
                return
            os.removexattr(descriptor, PLACEHOLDER_MARK)


# -- A tree


class Tree:
    """One folder or file of the host on its way into the container."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.source: str = plan["source"]
        self.mounts: dict[str, tuple[int, bool]] = {}  # path: (mount id, read-only)
        with closing_descriptor(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            try:
                host = open_beneath(root, self.source.strip("/") or ".", os.O_PATH)
            except OSError as error:
                words = f"'{self.source}' cannot be opened: {error.strerror}"
                if error.errno == errno.ELOOP:
                    words = f"there is a symlink in '{self.source}' now; use the path that it leads to"
                raise WallError(words) from error
        with closing_descriptor(host):
            self.raw = clone_mount(host)  # has the host's ids, and nothing that the host mounted below
            self.top = clone_mount(host)  # the container will see this one

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.raw)
        os.close(self.top)

    def take_back(self, ranges: list[Range]) -> None:
        """Give the tree back to its owner if root in a container has taken it. WallError if it is somebody else's."""
        found = os.fstat(self.raw).st_uid
        owner: int = self.plan["owner"]
        if any(host <= found < host + count for _, host, count in ranges):
            os.chown(f"/proc/self/fd/{self.raw}", owner, self.plan["group"])
        elif found != owner:
            raise WallError(f"'{self.source}' belongs to uid {found} now; the session was made for uid {owner}")

    def attach(self, place: str, namespace: int) -> None:
        """Show the tree at `place` with the id map of a user namespace, without setuid and device files."""
        kind = os.fstat(self.raw).st_mode
        if stat.S_ISDIR(kind):
            os.mkdir(place, 0o700)
        elif stat.S_ISREG(kind):
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        else:
            raise WallError(f"'{self.source}' is neither a folder nor a file")
        attributes = MOUNT_IDMAP | MOUNT_NOSUID | MOUNT_NODEV | (MOUNT_RDONLY if self.plan["readonly"] else 0)
        try:
            set_attributes(self.top, attributes, namespace)
        except OSError as error:
            words = f"the file system of '{self.source}' {NO_ID_MAPS} ({error.strerror})"
            raise WallError(words, kind="unsupported") from error
        with closing_descriptor(os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as target:
            attach_mount(self.top, target)

    def protect(self) -> None:
        """Pin every folder on the way to each protected path and make the path itself read-only; check the result."""
        patterns: dict[str, StandIn] = self.plan["protect"]
        paths = {path: text for pattern, text in patterns.items() for path in matching_paths(self.top, pattern)}
        in_order = sorted(paths, key=lambda path: path.split("/"))
        for path in in_order:
            stand_in = paths[path]
            if stand_in is not False:
                self._protect_path(path, stand_in)
        for path in self.plan["pins"]:
            self._pin(path)
        for path in in_order:
            if paths[path] is False and self._is_plain(path):
                self._protect_path(path, None)
        for path, (number, readonly) in self.mounts.items():
            words = f"'{path}' in '{self.source}' changed while it was being protected"
            try:
                descriptor = open_beneath(self.top, path, os.O_PATH)
            except OSError as error:
                raise WallError(words) from error
            with closing_descriptor(descriptor):
                sealed = bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
                if mount_id(descriptor) != number or (readonly and not sealed):
                    raise WallError(words)

    def _pin(self, path: str) -> None:
        """Pin a folder and the folders above it, so that nobody can move the mounts in it away with it."""
        for part in accumulate(path.split("/"), "{}/{}".format):
            if part in self.mounts and self.mounts[part][1]:
                return
            here = self._open_or_make(part, None)
            if here is None:
                return
            with closing_descriptor(here[0]) as descriptor:
                if part not in self.mounts:
                    self._cover(part, descriptor, readonly=False)

    def file_with_another_name(self) -> str:
        """A sealed file with a second hard link, through which it could still be written; empty if there is none."""
        paths = [path for path, (_, readonly) in self.mounts.items() if readonly]
        for path in paths:  # the list grows by the content of folders
            descriptor = open_beneath(self.top, path, os.O_PATH)
            with closing_descriptor(descriptor):
                found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                return path
            if stat.S_ISDIR(found.st_mode):
                paths += [f"{path}/{name}" for name in self._names_of_plain(path)]
            if len(paths) > MOST_FOLDERS:
                raise WallError(f"there are more than {MOST_FOLDERS} protected files in '{self.source}'")
        return ""

    def _names_of_plain(self, path: str) -> list[str]:
        """The names in a folder, without links."""
        folder = open_beneath(self.top, path, os.O_RDONLY | os.O_DIRECTORY)
        with closing_descriptor(folder), os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_symlink()]

    def _is_plain(self, path: str) -> bool:
        """True if a path is a file or a folder, and no part of it is a link."""
        try:
            with closing_descriptor(open_beneath(self.top, path, os.O_PATH)) as descriptor:
                kind = os.fstat(descriptor).st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return stat.S_ISDIR(kind) or stat.S_ISREG(kind)

    def _protect_path(self, path: str, text: str | None) -> None:
        for part in accumulate(path.split("/"), "{}/{}".format):  # the folders on the way, and the path itself
            if part in self.mounts and self.mounts[part][1]:
                return
            here = self._open_or_make(part, text if part == path else None)
            if here is None:
                return
            with closing_descriptor(here[0]) as descriptor:
                kind = os.fstat(descriptor).st_mode
                if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
                    raise WallError(f"'{part}' in '{self.source}' is neither a folder nor a file: remove it")
                # A file on the way (.git of a worktree), or a placeholder of ours, covers everything below it.
                seal = part == path or here[1] or stat.S_ISREG(kind)
                if seal or part not in self.mounts:
                    self._cover(part, descriptor, seal)
            if seal:
                return

    def _open_or_make(self, part: str, text: str | None) -> tuple[int, bool] | None:
        """A descriptor of the path and whether we made it; None if it is absent where nobody could make it."""
        nobody_can = made = False
        try:
            made = self._make(part, text)
        except OSError as error:
            nobody_can = error.errno == errno.EROFS or self.plan["readonly"]
            if error.errno == errno.EOPNOTSUPP and not nobody_can:
                words = f"the file system of '{self.source}' has no trusted attributes"
                raise WallError(words, kind="unsupported") from error
            if not nobody_can:
                raise WallError(f"'{part}' in '{self.source}' cannot be made: {error.strerror}") from error
        try:
            return open_beneath(self.top, part, os.O_PATH), made
        except OSError as error:
            if nobody_can and error.errno == errno.ENOENT:
                return None
            is_link = error.errno == errno.ELOOP
            link = "is a symlink, and cannot be protected: put what it leads to in its place, or remove the link"
            words = link if is_link else f"cannot be opened: {error.strerror}"
            raise WallError(f"'{part}' in '{self.source}' {words}") from error

    def _make(self, part: str, text: str | None) -> bool:
        """Make a placeholder that belongs to the tree's owner. Outside of .git, Git ignores one that is a folder."""
        owner = (self.plan["owner"], os.fstat(self.raw).st_gid)
        with closing_descriptor(self._open_folder(os.path.dirname(part))) as parent:
            made = make_placeholder(parent, os.path.basename(part), text, owner)
        if made and text is None and ".git" not in part.split("/"):
            with closing_descriptor(self._open_folder(part)) as folder:
                make_placeholder(folder, HIDING_FILE, HIDING_TEXT, owner)
        return made

    def _open_folder(self, path: str) -> int:
        return open_beneath(self.raw, path, os.O_RDONLY | os.O_DIRECTORY)

    def _cover(self, part: str, descriptor: int, readonly: bool) -> None:
        if len(self.mounts) >= MOST_MOUNTS:
            words = f"'{self.source}' has more than {MOST_MOUNTS} protected places"
            raise WallError(f"{words}: remove submodules and worktrees that an agent made in .git, with rm -r")
        number, _ = cover(descriptor, readonly)
        self.mounts[part] = (number, readonly)

    def remove_placeholders(self) -> None:
        """Remove the placeholders that are still empty. One that another session holds is busy, and stays."""
        texts: dict[str, str | None] = {}
        for pattern, text in self.plan["protect"].items():
            if text is False:
                continue
            with suppress(OSError, WallError):
                for path in matching_paths(self.raw, pattern):
                    for part in accumulate(path.split("/"), "{}/{}".format):
                        texts.setdefault(part, None)
                    texts[path] = text
        for path in self.plan.get("pins", ()):
            for part in accumulate(path.split("/"), "{}/{}".format):
                texts.setdefault(part, None)
        for path in sorted(texts, reverse=True):
            with suppress(OSError), closing_descriptor(self._open_folder(os.path.dirname(path))) as parent:
                remove_placeholder(parent, os.path.basename(path), texts[path])


# -- Stages


class Stage:
    """The folder under /run/clincus in which one session's trees are assembled: a tmpfs with a record in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"{STAGES}/{name}"

    def record(self) -> dict[str, Any]:
        """The plan, identity and monitor that the stage was built for; empty if it was not built completely."""
        try:
            with open(f"{self.path}/record") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return {}

    def is_orphaned(self) -> bool:
        """True if the container still runs although the process that watched over it was killed."""
        return is_running(process_key(f"{self.path}/init"))

    def is_in_use(self) -> bool:
        """True if the container that the stage was built for still runs."""
        return is_running(self.record().get("monitor", [])) or self.is_orphaned()

    def build(self, plan: dict[str, Any], identity: str, monitor: list[Any]) -> None:
        """Assemble the trees of a plan. Raises WallError, and leaves the clean-up to `remove`."""
        with open(identity) as file:
            configuration = file.read()
        ranges = {kind: container_ranges(configuration, kind) for kind in "ug"}
        if not ranges["u"] or not ranges["g"]:
            raise WallError("the container is privileged: its root would be root on the host")
        # LXC ignores calls that libseccomp does not know.
        needed = {b"fchmodat2": "setuid and setgid bits"} if plan["setuid"] == "denied" else {}
        if plan["holds"]:
            needed[b"clone3"] = "new mount namespaces"
        for name, denied in needed.items():
            if ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(name) < 0:
                raise WallError(f"libseccomp is too old to deny {denied}", kind="unsupported")
        for description in plan["trees"]:
            if description["owner"] is None:
                description.update(owner_of(description, ranges["u"]))
        os.mkdir(self.path, 0o700)
        # Only the container's own root may pass through: a stage is no way around the folders above the workspace.
        group = next((host for inside, host, _ in ranges["g"] if inside == 0), 0)
        mount_tmpfs(self.path, f"mode=0710,gid={group},size=1m")
        check_namespace(self.path)
        if plan["devices"]:
            load_rest()
        places = [(*place_of(device["source"]), not device["readonly"]) for device in plan["devices"]]
        with open(f"{self.path}/record", "w") as file:
            json.dump({"plan": plan, "identity": identity, "monitor": monitor, "places": places}, file)
        for number, description in enumerate(plan["trees"]):
            # On disk, the container's users own files under the ids of its range: its root is some high uid there. All
            # groups are mapped, since not even its owner can write an inode of an unmapped group. The container is only
            # in the folder's own group, so it cannot set the setgid bit of others (setattr_prepare in fs/attr.c).
            uids = mount_map(ranges["u"], description["owner"], plan["code"], [part[1:] for part in ranges["u"]])
            gids = mount_map(ranges["g"], description["group"], plan["code"], [(0, 2**32 - 1)])
            with closing_descriptor(user_namespace(uids, gids)) as namespace, closing(Tree(description)) as tree:
                tree.take_back(ranges["u"])
                tree.attach(f"{self.path}/{number}", namespace)
                tree.protect()
                linked = tree.file_with_another_name() if plan["level"] == "locked" else ""
                if linked:
                    words = f"'{linked}' in '{tree.source}' has another name (a hard link) by which it can be written"
                    raise WallError(f"{words}; to mend it: cp -p FILE x && mv x FILE", kind="exposed")
        if plan["holds"]:
            os.mkdir(f"{self.path}/{OTHERS}", 0o700)
            # Later mounts here propagate into the container while it runs.
            mount_tmpfs(f"{self.path}/{OTHERS}", "mode=0700,size=16m", MS_SHARED)

    def entries(self) -> list[str]:
        """The names in `others`, each of the form STAGE.NUMBER."""
        try:
            return sorted(os.listdir(f"{self.path}/{OTHERS}"))
        except FileNotFoundError:
            return []

    def plan_of(self, entry: str) -> dict[str, Any]:
        """The plan of an entry of `others`; empty if the entry was not built completely."""
        try:
            with open(f"{self.path}/{OTHERS}/{entry}/plan") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return {}

    def let_go(self, entry: str) -> None:
        """Remove an entry of `others`."""
        place = f"{self.path}/{OTHERS}/{entry}"
        for name in os.listdir(place):
            if name != "plan":
                unmount(f"{place}/{name}")
                os.rmdir(f"{place}/{name}")
        with suppress(FileNotFoundError):
            os.unlink(f"{place}/plan")
        os.rmdir(place)

    def remove(self, placeholders: bool = True) -> None:
        """Remove the stage, and the placeholders in the trees that nobody has filled or uses."""
        trees = self.record().get("plan", {}).get("trees", [])
        for number in range(len(trees)):
            unmount(f"{self.path}/{number}")
        cut_off(f"{self.path}/{OTHERS}")
        trees = trees if placeholders else []
        for entry in self.entries():
            ended = not os.path.exists(f"{STAGES}/{entry.partition('.')[0]}")
            trees += self.plan_of(entry).get("trees", []) if ended else []  # its placeholders were busy when it ended
            self.let_go(entry)
        unmount(f"{self.path}/{OTHERS}")
        for description in trees:
            # If the workspace is gone by now, or has become a symlink, there is nothing of ours in it.
            with suppress(WallError, OSError), closing(Tree(description)) as tree:
                tree.remove_placeholders()
        unmount(self.path)
        with suppress(FileNotFoundError):
            os.rmdir(self.path)


def check_namespace(path: str) -> None:
    """Raise WallError unless process 1, and thus every program of the host, sees our mount at a path.

    Mount ids are those of the whole machine. /proc/1/ns/mnt would need the right to trace process 1.
    """
    with closing_descriptor(os.open(path, os.O_PATH | os.O_CLOEXEC)) as descriptor:
        ours = str(mount_id(descriptor))
    with open("/proc/1/mountinfo") as file:
        if any(line.partition(" ")[0] == ours for line in file):
            return
    words = "Incus runs in a mount namespace of its own (PrivateTmp= or the like in its unit), in which the seals would"
    raise WallError(f"{words} not hold against programs of this host", kind="unsupported")


def all_stages() -> list[Stage]:
    """All stages, in use or left behind."""
    return [Stage(name) for name in sorted(os.listdir(STAGES))]


def owner_of(description: dict[str, Any], ranges: list[Range]) -> dict[str, int]:
    """Owner and group of a folder that Clincus could not see. Raises WallError if a container has taken it."""
    with closing(Tree(description)) as tree:
        found = os.fstat(tree.raw)
    if any(host <= found.st_uid < host + count for _, host, count in ranges):
        raise WallError(f"'{tree.source}' belongs to a container's user; give it back to its owner with chown")
    return {"owner": found.st_uid, "group": found.st_gid}


@contextmanager
def locked_stages() -> Iterator[None]:
    """Hold the one lock over all stages. WallError after LOCK_SECONDS."""
    with suppress(FileExistsError):
        os.mkdir(STAGES, 0o711)
    deadline = time.monotonic() + LOCK_SECONDS
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing_descriptor(os.open(STAGES, flags)) as descriptor:
        found = os.fstat(descriptor)
        if found.st_uid != 0 or found.st_mode & 0o022:
            raise WallError(f"'{STAGES}' does not belong to root alone; remove it")
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise WallError(f"another session has held '{STAGES}' for {LOCK_SECONDS:g} s") from None
                time.sleep(0.02)
        yield


def sweep_stages(spare: str = "") -> list[str]:
    """Remove the stages that a crash left behind; return the paths of those that cannot be removed.

    A broken stage, whatever its fault, hinders only the start of its own session.
    """
    left = []
    for name in sorted(os.listdir(STAGES)):
        stage = Stage(name)
        try:
            if name != spare and not stage.is_in_use():
                stage.remove()
        except Exception:
            left.append(stage.path)
    return left


# -- The hooks

REST = str(globals().get("REST", ""))  # the text behind that word at the end of this file, if a loader cut it off


def load_rest() -> None:
    """Define the names at the end of this file, unless they are defined already."""
    if "exchange_seals" not in globals():
        exec(f"# {REST}", globals())


def before_start(plan: dict[str, Any], identity: str, monitor: list[Any]) -> None:
    """lxc.hook.pre-start: build the stage, or raise WallError and leave nothing behind."""
    if monitor[:1] == [1]:  # pid 1 took its place as our parent; it never ends, and so the stage would stay in use
        raise WallError("the process that watches over the container has ended")
    with locked_stages():
        sweep_stages(plan["stage"])
        stage = Stage(plan["stage"])
        if os.path.isdir(stage.path):
            if stage.record().get("identity", identity) != identity and stage.is_in_use():
                raise WallError("this container is a copy of a session that runs; stop that one first")
            # The stage is from our last start. Its monitor was killed, or has yet to run `after_stop`, which will see
            # that the new stage is not its own.
            stage.remove(placeholders=False)
        try:
            stage.build(plan, identity, monitor)
            running = {other.name: other for other in all_stages() if other.name != stage.name and other.is_in_use()}
            if running:
                load_rest()
                exchange_seals(stage, running)
        except BaseException:
            stage.remove(placeholders=not stage.is_orphaned())
            raise


def after_stop(plan: dict[str, Any], identity: str, monitor: list[Any]) -> None:
    """lxc.hook.post-stop: remove the stage, unless the container's next start has already built it again."""
    with locked_stages():
        stage = Stage(plan["stage"])
        record = stage.record()
        ours = record.get("identity", identity) == identity and record.get("monitor", monitor) == monitor
        if ours and os.path.isdir(stage.path):
            stage.remove()
        sweep_stages(plan["stage"])


def main(argument: str, environ: Mapping[str, str]) -> int:
    """Run a hook and return its exit code. The reason of a failure goes to lxc.log, which `incus info` shows."""
    os.umask(0o022)
    if argument == "sweep":
        with locked_stages():
            print("\n".join(sweep_stages()))
        return 0
    plan = json.loads(zlib.decompress(base64.urlsafe_b64decode(argument)))
    identity = environ["LXC_CONFIG_FILE"]
    monitor = process_key(f"/proc/{os.getppid()}/stat")
    try:
        check_python()
        (before_start if environ["LXC_HOOK_TYPE"] == "pre-start" else after_stop)(plan, identity, monitor)
    except Exception as error:  # no error may let the container start, and the person must read why
        kind = getattr(error, "kind", "refused")
        words = str(error) if isinstance(error, WallError) else f"{type(error).__name__}: {error}"
        write_log(identity, f"clincus {kind}: {words}")
        return 1
    return 0


def check_python() -> None:
    """Raise WallError if Python is too old. Nobody could check this before on an engine's host."""
    found = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info < OLDEST_PYTHON:
        raise WallError(f"the Python of this host is {found}; the wall needs 3.9", kind="unsupported")


def write_log(identity: str, line: str) -> None:
    """Append a line to the container's lxc.log."""
    sys.stderr.write(line + "\n")
    with suppress(OSError):
        with open(identity) as file:
            log = re.search(r"^\s*lxc\.log\.file\s*=\s*(\S.*?)\s*$", file.read(), re.MULTILINE)
        if log:
            with open(log.group(1), "a") as file:
                file.write(line.replace("\n", " ") + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], os.environ))


# -- REST: sessions that share a folder. The loader in raw.lxc hands on what follows as text: it is compiled only where
# it is needed, and most starts do not wait for that.

MOUNTINFO_LINE = re.compile(  # proc_pid_mountinfo(5)
    rf"^\d+ \d+ (\d+:\d+) (\S+) {STAGES}/([^/\s]+)/(?:{OTHERS}/([^/\s]+)/)?(\d+)(/\S+)? (\S+) .*$", re.MULTILINE
)


class Shown:
    """A tree of a stage, as the kernel describes it."""

    def __init__(self, number: str, device: str, path: str, is_writable: bool) -> None:
        self.number = number
        self.device = device
        self.path = path  # in its file system
        self.is_writable = is_writable

    def place(self, path: str) -> Place:
        """The place of a path in the tree."""
        return self.device, f"{self.path.rstrip('/')}/{path}"

    def holds(self, place: Place) -> bool:
        """True if a place lies in the tree and is not its top."""
        return place[0] == self.device and place[1].startswith(self.path.rstrip("/") + "/")


class Shared:
    """The trees of one stage, and the sealed places in them, each with whether it is read-only."""

    def __init__(self) -> None:
        self.trees: list[Shown] = []
        self.seals: dict[Place, bool] = {}

    def is_sealed(self, place: Place) -> bool:
        """True if a place is a seal, or lies in a folder that is sealed as a whole."""
        device, path = place
        above = (step for step in accumulate(path.split("/")[:-1], "{}/{}".format))
        return place in self.seals or any(self.seals.get((device, step)) for step in above)

    def inode_at(self, place: Place, stage: str) -> int:
        """The inode of a place that the trees of a stage, at this path, show; 0 if they do not."""
        for tree in self.trees:
            is_top = place == (tree.device, tree.path)
            if tree.number and (is_top or tree.holds(place)):
                return os.lstat(os.path.join(stage, tree.number, os.path.relpath(place[1], tree.path))).st_ino
        return 0

    def place_in_common(self, other: Shared) -> Place | None:
        """A folder that both have, at least in part, if one of the two may write in it.

        A Unix socket in it could pass descriptors from one container to the other.
        """
        for mine in self.trees:
            for theirs in other.trees:
                is_same = mine.device == theirs.device and is_related(mine.path, theirs.path)
                if is_same and (mine.is_writable or theirs.is_writable):
                    return mine.device, max(mine.path, theirs.path, key=len)
        return None


def place_of(source: str) -> Place:
    """The place of a folder of this host, whichever mount its path uses; for a volume, the place is its name."""
    if not source.startswith("/"):
        return "volume", f"/{source}"
    source = os.path.realpath(source)
    found = ("", source)
    longest = 0
    with open("/proc/self/mountinfo") as file:
        for line in file:
            device, top, written = line.split()[2:5]
            point = unescape(written)
            if len(point) >= longest and is_related(point, source) and len(point) <= len(source):
                longest = len(point)
                found = (device, os.path.normpath(os.path.join(unescape(top), os.path.relpath(source, point))))
    return found


def words_of(place: Place) -> str:
    """The path by which a person knows a place."""
    with open("/proc/self/mountinfo") as file:
        return host_path(place, file.read())


def host_path(place: Place, mountinfo: str) -> str:
    """The path by which this host has a place. Pure.

    A file system may be mounted at several points, also in parts: the one that shows most of it counts. A place that no
    mount shows keeps its path in its file system.
    """
    device, path = place
    most = len(path) + 1
    found = path
    for line in mountinfo.splitlines():
        number, written, point = line.split()[2:5]
        top = unescape(written)
        shows = number == device and is_related(top, path) and len(top) < most and not point.startswith(STAGES)
        if shows:
            most = len(top)
            found = os.path.normpath(os.path.join(unescape(point), os.path.relpath(path, top)))
    return found


def unescape(written: str) -> str:
    """Decode a path of /proc/self/mountinfo, which has blanks as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), written)


def is_related(one: str, other: str) -> bool:
    """True if two paths are the same, or one lies in the other."""
    shorter, longer = sorted((one.rstrip("/") + "/", other.rstrip("/") + "/"), key=len)
    return longer.startswith(shorter)


def shared_of_stages(mountinfo: str) -> dict[tuple[str, str], Shared]:
    """The trees and seals of each stage, from the text of /proc/self/mountinfo.

    The key is (STAGE, ""), or (STAGE, ENTRY) for what its container got from another one by an entry in its `others`.
    Paths are those in their file system, so a folder is recognised whichever mount leads to it.
    """
    found: dict[tuple[str, str], Shared] = {}
    for device, written, name, entry, number, below, options in MOUNTINFO_LINE.findall(mountinfo):
        shared = found.setdefault((name, entry), Shared())
        path = unescape(written)
        is_writable = "rw" in options.split(",")
        if below:
            shared.seals[device, path] = not is_writable
        else:
            shared.trees.append(Shown(number, device, path, is_writable))
    return found


def neighbours_of(stage: str, everything: Mapping[str, Shared]) -> dict[str, Place]:
    """The stages to which descriptors could get from a stage, also through others, each with a shared folder."""
    found: dict[str, Place] = {}
    reached = [stage]
    for name in reached:  # the list grows
        for other, shared in everything.items():
            place = shared.place_in_common(everything[name]) if other not in (stage, *found) else None
            if place:
                found[other] = place
                reached.append(other)
    return found


def exchange_seals(stage: Stage, running: Mapping[str, Stage]) -> None:
    """Exchange seals between a new stage and all running ones (by name) that share a folder with it.

    WallError if one of their containers could remove seals while another one relies on its own, or if one could have
    opened a file of ours before it was sealed.
    """
    with open("/proc/self/mountinfo") as file:
        found = shared_of_stages(file.read())
    everything = {name: found.get((name, ""), Shared()) for name in (stage.name, *running)}
    records = {name: Stage(name).record() for name in everything}
    for name, shared in everything.items():
        shared.trees += [Shown("", *place) for place in records[name].get("places", [])]
    neighbours = neighbours_of(stage.name, everything)
    plans = {name: record.get("plan", {}) for name, record in records.items()}
    check_neighbours(plans[stage.name], {name: (plans[name], place) for name, place in neighbours.items()})
    ours = everything[stage.name]
    if plans[stage.name]["level"] == "locked":
        for name in neighbours:
            carried = [shared for (holder, _), shared in found.items() if holder == name]
            unsealed = unsealed_place(ours.seals, (everything[name], *carried))
            if unsealed:
                path = words_of(unsealed)
                words = f"runs since before '{path}' was sealed and may have it open: stop it, then start this one"
                raise WallError(f"{session_of(plans[name])} {words}", kind="exposed")
    for name in neighbours if plans[stage.name]["holds"] else ():
        if plans[name].get("holds"):
            exchange_with(stage, ours, running[name], everything[name], known={stage.name, *neighbours})


def exchange_with(stage: Stage, ours: Shared, other: Stage, theirs: Shared, known: set[str]) -> None:
    """Give a new stage and a running one each other's seals; `known` are stages that take part themselves."""
    if ours.seals.keys() - theirs.seals.keys():
        take_in(other, stage.name, stage.record()["plan"], stage.path)
    if theirs.seals.keys() - ours.seals.keys():
        take_in(stage, other.name, other.record()["plan"], other.path)
    seal_in_ours(stage, ours, theirs, other)
    for entry in other.entries():
        ended = entry.partition(".")[0]
        if ended not in known:  # a session that has ended; the other one may have its descriptors
            take_in(stage, ended, other.plan_of(entry), f"{other.path}/{OTHERS}/{entry}")


def take_in(stage: Stage, name: str, plan: dict[str, Any], trees: str) -> None:
    """Mount the sealed trees of another stage, at `trees`/NUMBER now, into the `others` of one and into its container.

    A descriptor of a folder may travel from one container to another over a Unix socket in a folder that both
    have. With the seals in its own mount namespace, a process there cannot rename over them either. They stay as
    long as the container may keep the descriptor: until it ends. An older copy goes when the new one is there.
    """
    older = [entry for entry in stage.entries() if entry.partition(".")[0] == name]
    newest = max((int(entry.partition(".")[2]) for entry in older), default=0)
    place = f"{stage.path}/{OTHERS}/{name}.{newest + 1}"
    os.mkdir(place, 0o700)
    with open(f"{place}/plan", "w") as file:
        json.dump(plan, file)
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    for number, description in enumerate(plan["trees"]):
        if description["protect"]:  # only a folder has protected paths in it
            os.mkdir(f"{place}/{number}", 0o700)
            with closing_descriptor(os.open(f"{trees}/{number}", flags)) as here:
                copy = clone_mount(here, AT_RECURSIVE)
            with closing_descriptor(copy), closing_descriptor(os.open(f"{place}/{number}", flags)) as target:
                set_propagation(copy, MS_PRIVATE)
                attach_mount(copy, target)
    for entry in older:
        stage.let_go(entry)


def seal_in_ours(stage: Stage, ours: Shared, theirs: Shared, other: Stage) -> None:
    """Before a stage's container runs, seal in its trees what another stage has sealed in the same folders.

    Every folder on the way is pinned. WallError if a container has exchanged something meanwhile.
    """
    for tree in ours.trees:
        if not tree.number:  # a device of Incus, which no stage shows
            continue
        wanted = {place: readonly for place, readonly in theirs.seals.items() if tree.holds(place)}
        for top in theirs.trees:
            steps = [(top.device, step) for step in accumulate(top.path.split("/"), "{}/{}".format)]
            wanted = {**{step: False for step in steps if tree.holds(step)}, **wanted}
        missing = wanted.keys() - ours.seals.keys()
        for place in sorted(missing, key=lambda place: place[1].split("/")):
            here = cover_place(stage, tree, place, wanted[place])
            there = theirs.inode_at(place, other.path)
            if here != (there or here):
                raise WallError(f"'{words_of(place)}' changed while it was being protected")
            ours.seals[place] = wanted[place]


def cover_place(stage: Stage, tree: Shown, place: Place, readonly: bool) -> int:
    """Cover a place in a tree; returns its inode."""
    inside = os.path.relpath(place[1], tree.path)
    with closing_descriptor(os.open(f"{stage.path}/{tree.number}", os.O_PATH | os.O_CLOEXEC)) as root:
        try:
            descriptor = open_beneath(root, inside, os.O_PATH)
        except OSError as error:
            raise WallError(f"'{words_of(place)}' changed while it was being protected") from error
    with closing_descriptor(descriptor):
        return cover(descriptor, readonly)[1]


def check_neighbours(plan: Mapping[str, Any], neighbours: Mapping[str, tuple[Mapping[str, Any], Place]]) -> None:
    """Raise WallError unless a new session with this plan may run beside all neighbours, each with a shared folder."""
    locked = [one for one in neighbours.values() if one[0].get("level") == "locked"]
    open_ones = [one for one in neighbours.values() if not one[0].get("holds")]
    if locked and not plan["holds"]:
        words = "where its seals could be taken off. Stop it first, work on a clone (--clone), or mount less"
        raise WallError(f"{session_of(locked[0][0])} is locked and has '{words_of(locked[0][1])}' as well, {words}")
    if locked and open_ones:
        words = f"{session_of(open_ones[0][0])} is not; a session that has a folder in common with both would join them"
        raise WallError(f"{session_of(locked[0][0])} is locked and {words}: stop one of the two first")
    if open_ones and plan["level"] == "locked":
        other, place = open_ones[0]
        since = "" if "holds" in other else ", as it was started by an older Clincus (stop and resume it)"
        raise WallError(f"{session_of(other)} has '{words_of(place)}' as well and is not locked{since}", kind="exposed")


def session_of(plan: Mapping[str, Any]) -> str:
    """The name of a session for messages."""
    return plan.get("session") or "another session"


def unsealed_place(places: Mapping[Place, bool], shown: Iterable[Shared]) -> Place | None:
    """A place that one of these shows without a seal. `places` are seals, or folders that only keep their place."""
    everything = list(shown)
    for place in sorted(places):
        for shared in everything:
            for tree in shared.trees:
                # The top of a tree keeps its place anyway: no container can rename its own mount.
                is_below = (tree.device, tree.path) == place or Shown("", *place, True).holds((tree.device, tree.path))
                if tree.holds(place) and not shared.is_sealed(place):
                    return place
                if is_below and tree.is_writable and places[place]:
                    return place
    return None
