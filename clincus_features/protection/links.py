"""Finds links that appear in a Git folder while a session runs, and puts them aside before git follows them.

Git makes no symbolic link in a Git folder, and follows each one that it finds at a name of its own: it writes the text
of a commit through COMMIT_EDITMSG, appends to logs/HEAD, makes packs in objects/pack, and empties worktrees/NAME and
rebase-apply (seen with git 2.47). A link that did not exist before the start therefore counts as an attack, wherever it
leads: within the Git folder it may lead to `config` or into `hooks`.

A pin (a mount of a folder over itself, so that no container can replace it) was considered and rejected. It works for
a folder that exists and that nothing is renamed into or out of. But a rename across mounts fails with EXDEV, and git
has no alternative where it moves packs from its quarantine into objects/pack; a pinned `worktrees` cannot be
removed by `git worktree prune`; and files that git replaces by a rename (HEAD, FETCH_HEAD, each reference), as well as
folders that come and go (rebase-apply), could not be pinned at all. It would have made some of the names safe, at the
cost of git's daily work, and all others would still need a look.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import islice
from typing import NamedTuple

import clincus

from . import operations
from .identity import opened
from .index import git_folders, tops_of
from .restore import ASIDE, moved_by_us, set_aside, why_not_aside
from .seals import Stage

MOST_FOLDERS = 5_000  # folders to examine in one Git folder, with those of its submodules
MOST_ENTRIES = 100_000  # of these folders
MOST_LINKS = 2_000  # in one look
MOST_TOLD = 20  # links of one look that are reported one by one
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# Git only reads hooks, and a person may keep links there. The other folders hold one file for each content: git and its
# helpers make these by a rename, and never write through a link. A branch may have any of these names, and a submodule
# may be named as if it were in one: see `is_entered`.
NOT_ENTERED = re.compile(
    r"(?!(?:.*/)?(?:refs|logs)/)(?:(?:modules|worktrees)/.+?/)*"
    r"(?P<name>hooks|objects/[0-9a-f]{2}|(?:lfs|annex)/objects)|clincus-replaced-[0-9a-f]{8}"
)
# Harmless links, by name and target: HEAD in the form of `core.preferSymlinkRefs`, which git reads by readlink(2); the
# link with which `git init` tests for symbolic links; and the lock of an Emacs, which may be the person's.
HARMLESS = re.compile(r"(?:.*/)?HEAD\0refs/(?!.*\.\.)[\w./-]+|(?:.*/)?t\w{6}\0testing|\.#[^/]+\0[^/]+@[^/]+", re.ASCII)
OF_OTHERS = re.compile(r"(?:modules|worktrees)/.+")  # a submodule or a worktree
# A submodule may have such a name, and a branch may be named as a file.
OF_REFS = re.compile(r"(?:.*/)?(?:refs|logs)(?:/.*)?")
NEEDED = frozenset(("objects", "refs"))  # without these it is no Git folder
# Used in place of a link's target, for other things that git never makes.
PIPE = "\0pipe"
FOLDER = "\0folder"
BARE = "\0bare"
REFERENCE = "\0reference"
STRANGE = {
    PIPE: ("was a named pipe", "git would have waited there for ever"),
    FOLDER: (
        "was a folder with the name of a commit",
        "git takes its settings from there if an earlier run, or a reference, has made `commondir` name it",
    ),
    REFERENCE: (
        "was a reference that names a file outside of refs",
        "`git commit`, `merge` or `pull` would have written that file in .git, such as `commondir`",
    ),
    BARE: (
        "made the folder a bare repository",
        "once the session has stopped, git would have run what the file `config` beside it says, had `.git` gone",
    ),
}
LOOSE = re.compile(r"/\.git/(?:.*/)?refs(?:/|$)")  # a folder of references
OBJECT_NAME = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
HEAD_TEXT = re.compile(rb"ref:\s*refs/|[0-9a-fA-F]{40}")  # `validate_headref` in git's refs.c
# These files and folders of a Git folder decide which programs git runs, and from where it fetches.
RUNS = frozenset(("branches", "config", "config.worktree", "commondir", "gitdir", "hooks", "remotes"))
HEAPED = ""  # in the place of a known link: not all folders could be examined
ACCEPTED = "heaped"  # its target, if this was true at the start, or a person let the session continue
DELETES = "git would have deleted what is there"
WHAT_GIT_DOES = (  # the first match counts, by the path in a Git folder
    (r"(worktrees|rebase-apply|rebase-merge|sequencer)(/.*)?", DELETES),
    (r"[A-Z_]+_EDITMSG|[A-Z]+_MSG", "`git commit` would have written the text of the commit there"),
    (r"FETCH_HEAD", "`git fetch` would have written there"),
    (r"logs(/.*)?", "git would have written a line there for each commit"),
    (r"objects(/.*)?", "git would have written packs and objects there, and deleted others"),
    (r"refs(/.*)?", "git would have read, written and deleted branches there"),
    (r"modules(/.*)?", "git would have taken what is there for the repository of a submodule"),
)
FOLLOWS = "git would have followed it, to read, write or delete there"


class Found(NamedTuple):
    """The links of some Git folders."""

    links: dict[str, str]  # absolute path -> its target, or one of STRANGE
    folders: dict[str, int]  # the examined folders, each with its inode
    cut: dict[str, str]  # path of a folder that was not examined -> the reason, in words
    repositories: dict[str, None]  # the Git folders of submodules and worktrees, if they can run something
    operations: dict[str, str]  # the examined files of operations in progress -> the Git folder of each


def places(workspace: str, stage: Stage | None, sealed: Iterable[str] = ()) -> list[str]:
    """The Git folders that the container of a session can change, without those within another one.

    `sealed` are paths that were sealed for a run, and so are in folders that its container could change.
    """
    tops = tops_of(workspace, stage)
    patterns = (f"{top}/{pattern}" for top, patterns in (stage.trees if stage else ()) for pattern in patterns)
    named = (path for path in (*sealed, *patterns) if path.endswith("/commondir") and "*" not in path)
    found = {f"{top}/.git" for top in tops} | git_folders(workspace, named)
    return sorted(one for one in found if not any(clincus.path_inside(os.path.dirname(one), two) for two in found))


def find(folders_of_git: Iterable[str], *, references: bool = False) -> Found:
    """The dangerous links in Git folders, and the files of operations in progress.

    No link is followed, not even on the way. A few other things that git never makes count as links; among them bad
    `references`, each of which has to be read.
    """
    found = Found({}, {}, {}, {}, {})
    for top in folders_of_git:
        look_into(top, found)
        above, _, name = top.rpartition("/")
        if name == ".git" and is_bare(above):
            found.links[f"{above}/HEAD"] = BARE
    for place in found.folders if references else ():
        if LOOSE.search(place):
            look_at_references(place, found)
    return found


def look_at_references(place: str, found: Found) -> None:
    """Look for symbolic references in a folder that name something else than a reference: git writes through them.

    While a session runs, the placeholders prevent that.
    """
    with suppress(OSError), opened(place) as at, clincus.closing_descriptor(open_at(at, "")) as folder:
        for name, target, is_folder in entries_of(folder, MOST_ENTRIES):
            if not target and not is_folder and names_another_file(folder, name):
                found.links[f"{place}/{name}"] = REFERENCE


def names_another_file(folder: int, name: str) -> bool:
    """True if a file is a symbolic reference, and not to a reference: `files_read_raw_ref` in git's files-backend.c.

    One that a program keeps unreadable by a lease counts as well: git would wait, and read it.
    """
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with clincus.closing_descriptor(file):
            data = os.read(file, 4096)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return data.startswith(b"ref:") and not operations.REFERENCE.fullmatch(data[4:].strip())


def is_bare(top: str) -> bool:
    """True if git accepts a folder as a bare repository where there is no other one."""
    with suppress(OSError), opened(top) as place, clincus.closing_descriptor(open_at(place, "")) as folder:
        return is_git_folder(folder, ".", unread=True)
    return False


def look_into(top: str, found: Found) -> None:
    """Examine a Git folder and everything in it, starting near the top."""
    waiting = deque([""])
    folders_left = MOST_FOLDERS
    entries_left = MOST_ENTRIES
    with suppress(OSError), opened(top) as git:
        while waiting:
            path = waiting.popleft()
            place = f"{top}/{path}".rstrip("/")
            folders_left -= 1
            if folders_left >= 0:
                try:
                    with clincus.closing_descriptor(open_at(git, path)) as folder:
                        seen, folders = look_at(folder, top, path, entries_left + 1, found)
                    entries_left -= seen
                    waiting.extend(folders)
                except PermissionError:
                    if os.access(f"/proc/self/fd/{git}/{path}", os.X_OK):  # git goes through it by name
                        found.cut[place] = f"{place} cannot be listed, so that a link in it would not be found"
                except OSError:
                    continue  # it is gone, or is a link by now
            much = limit_passed(folders_left, entries_left, found)
            if much:
                found.cut[place] = f"{top} has more than {much} now, so that a link in it would not be found"
                return


def look_at(folder: int, top: str, path: str, most: int, found: Found) -> tuple[int, list[str]]:
    """Examine at most `most` entries of a folder in a Git folder; returns their number, and the folders to do next."""
    place = f"{top}/{path}".rstrip("/")
    found.folders[place] = os.fstat(folder).st_ino
    names = set()
    folders = []
    objects = []
    for entry, target, is_folder in entries_of(folder, most):
        names.add(entry)
        inside = f"{path}/{entry}" if path else entry
        if target and not HARMLESS.fullmatch(f"{inside}\0{target}"):
            found.links[f"{top}/{inside}"] = target
            if len(found.links) > MOST_LINKS:
                break
        elif is_folder and is_entered(folder, inside):
            folders.append(inside)
        elif operations.check_of(inside):
            found.operations[f"{top}/{inside}"] = top
        if is_folder and OBJECT_NAME.fullmatch(entry):
            objects.append(f"{place}/{entry}")
    is_one = is_anothers(path, names)
    if names & RUNS and is_one:
        found.repositories[place] = None
    if not path or (is_one and "HEAD" in names):  # not rr-cache
        found.links.update(dict.fromkeys(objects, FOLDER))
    return len(names), folders


def is_entered(folder: int, path: str) -> bool:
    """True if a folder in a Git folder has to be searched; `folder` is its parent.

    A submodule's folder is skipped only if git itself accepts no submodule there: within a complete Git folder
    (`validate_submodule_git_dir` in git's submodule.c). Otherwise a submodule may be named `lib/hooks/x`.
    """
    found = NOT_ENTERED.fullmatch(path)
    if not found:
        return True
    if not OF_OTHERS.fullmatch(path):
        return False
    above = "../" * found["name"].count("/")
    is_named_so = has_head(folder, os.path.basename(path))
    return is_named_so or not is_git_folder(folder, above or ".")


def has_head(folder: int, name: str) -> bool:
    """True if a folder has a HEAD of any kind."""
    try:
        os.stat(f"{name}/HEAD", dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def is_git_folder(folder: int, path: str, *, unread: bool = False) -> bool:
    """True if git accepts a folder as a complete Git folder (`is_git_directory` in git's setup.c).

    `unread` is the answer for a folder whose HEAD a program keeps unreadable by a lease.
    """
    with suppress(OSError):
        here = os.open(path, OPEN_FOLDER, dir_fd=folder)
        with clincus.closing_descriptor(here):
            if all(stat.S_ISDIR(os.stat(name, dir_fd=here).st_mode) for name in ("objects", "refs")):
                if is_link(here, "HEAD"):
                    return os.readlink("HEAD", dir_fd=here).startswith("refs/")
                try:
                    head = os.open("HEAD", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
                except BlockingIOError:
                    return unread
                with clincus.closing_descriptor(head):
                    return bool(HEAD_TEXT.match(os.read(head, 256)))
    return False


def is_anothers(path: str, names: Collection[str]) -> bool:
    """True if a folder in a Git folder, with these names in it, may belong to a submodule or a worktree. Pure."""
    is_one = not OF_REFS.fullmatch(path) or ("HEAD" in names and ("objects" in names or "commondir" in names))
    return is_one and bool(OF_OTHERS.fullmatch(path))


def limit_passed(folders_left: int, entries_left: int, found: Found) -> str:
    """The limit that a look has reached, in words; empty if none. Pure."""
    if folders_left < 0:
        return f"{MOST_FOLDERS} folders"
    if entries_left < 0:
        return f"{MOST_ENTRIES} files and folders"
    if len(found.operations) > MOST_LINKS:
        return f"{MOST_LINKS} files of operations in progress"
    return f"{MOST_LINKS} links" if len(found.links) > MOST_LINKS else ""


def open_at(git: int, path: str) -> int:
    """Open a folder in a Git folder by its descriptor, step by step. Raises OSError, for a link too."""
    here = os.open(f"/proc/self/fd/{git}", OPEN_FOLDER & ~os.O_NOFOLLOW)
    for step in filter(None, path.split("/")):
        above = here
        try:
            here = os.open(step, OPEN_FOLDER, dir_fd=above)
        finally:
            os.close(above)
    return here


def entries_of(folder: int, most: int) -> Iterator[tuple[str, str, bool]]:
    """At most `most` entries of a folder: name, target if it is a link (or PIPE), and True if it is a folder."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, most):
            target = ""
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.is_symlink():
                with suppress(OSError):
                    target = os.readlink(entry.name, dir_fd=folder)
            elif not is_folder and not entry.is_file(follow_symlinks=False):
                target = PIPE if is_still(folder, entry.name, PIPE) else ""  # git's fsmonitor has a socket there
            yield entry.name, target, is_folder


def known_of(found: Found) -> dict[str, str]:
    """The links of a look as known ones. Pure."""
    return {**found.links, **({HEAPED: ACCEPTED} if found.cut else {})}


def accepted(known: Mapping[str, str]) -> dict[str, str]:
    """The known links after a person has let the session go on. Pure."""
    return {**known, **({HEAPED: ACCEPTED} if HEAPED in known else {})}


def news(found: Found, known: Mapping[str, str]) -> dict[str, str]:
    """The links that are not known, with their targets. Pure."""
    return {path: target for path, target in found.links.items() if known.get(path) != target}


def put_aside(links: Mapping[str, str], folders_of_git: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Move links out of the places where git follows them. Returns the path of each, with words for the person.

    If there are many, only some are reported by their own path, and the rest is counted. Also returns those that are
    still there because they cannot be moved.
    """
    folders = list(folders_of_git)
    told: dict[str, str] = {}
    kept: dict[str, str] = {}
    asides: dict[str, str] = {}  # Git folder -> the name of the folder in it
    for number, (path, target) in enumerate(links.items()):
        git = next((folder for folder in folders if clincus.path_inside(path, folder)), os.path.dirname(path))
        name = asides.setdefault(git, f"{ASIDE}-{secrets.token_hex(4)}")
        try:
            if target == BARE:
                done = f"it is put aside as {set_aside(path)}"
            else:
                move(git, path[len(git) + 1 :], f"{name}/{number}-{os.path.basename(path)}", target)
                done = f"it is put aside in {git}/{name}"
        except FileNotFoundError:
            done = "it was gone a moment later"
        except OSError as error:
            kept[path] = target
            done = why_not_aside(error)
        was, does = STRANGE.get(target) or (
            f"was a link to {clincus.shorten(target)}",
            what_git_does(path[len(git) + 1 :]),
        )
        words = f"{path} {was}: {does}; {done}"
        if number < MOST_TOLD:
            told[path] = words
    if len(links) > MOST_TOLD:
        told[path] = f"{words}; {len(links) - MOST_TOLD - 1} more links were made, and put aside"
    return told, kept


def move(git_folder: str, path: str, aside: str, target: str = "", *, only_links: bool = True) -> None:
    """Rename a link in a Git folder, or the thing that `target` names, unless something has replaced it.

    Raises OSError.

    `aside` is FOLDER/NAME at the top of the Git folder; git ignores both names. A link that cannot be moved there is
    removed: its target is reported in any case. If that is denied, its whole folder at the top is renamed to FOLDER.
    Without `only_links` anything of that name is renamed.
    """
    above, _, name = path.rpartition("/")
    apart, _, kept = aside.partition("/")
    with ExitStack() as stack:
        git = stack.enter_context(opened(git_folder))
        top = stack.enter_context(clincus.closing_descriptor(open_at(git, "")))
        folder = stack.enter_context(clincus.closing_descriptor(open_at(git, above)))
        try:
            into = stack.enter_context(clincus.closing_descriptor(folder_apart(top, apart)))
            moved_by_us.add(f"{git_folder}/{path}")
            os.rename(name, kept, src_dir_fd=folder, dst_dir_fd=into)  # the link itself: rename(2) follows none
        except OSError:
            moved_by_us.discard(f"{git_folder}/{path}")
            with suppress(OSError):
                os.rmdir(apart, dir_fd=top)  # if it is empty
            if not only_links:
                raise
            if not is_still(folder, name, target):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None
            try:
                os.unlink(name, dir_fd=folder)
            except PermissionError:  # in a folder of the container's root, within a folder of ours
                first = path.split("/", 1)[0]
                if first in NEEDED:
                    raise
                os.rename(first, apart, src_dir_fd=top, dst_dir_fd=top)
        else:
            if only_links and not is_still(into, kept, target):  # by now it is a file of git's own, or a folder
                os.rename(kept, name, src_dir_fd=into, dst_dir_fd=folder)
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def folder_apart(top: int, name: str) -> int:
    """A descriptor of the folder for things put aside, which the owner of the Git folder owns. Raises OSError."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=top)
    folder = os.open(name, OPEN_FOLDER, dir_fd=top)
    owner = os.fstat(top)
    with suppress(PermissionError):
        os.fchown(folder, owner.st_uid, owner.st_gid)
    return folder


def is_link(folder: int, name: str) -> bool:
    """True if a name is that of a link."""
    return is_still(folder, name, "")


def is_still(folder: int, name: str, target: str) -> bool:
    """True if a name is that of a link, or of the thing that `target` names if it is one of STRANGE."""
    is_one = {PIPE: stat.S_ISFIFO, FOLDER: stat.S_ISDIR, REFERENCE: stat.S_ISREG}.get(target, stat.S_ISLNK)
    try:
        return is_one(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def what_git_does(path: str) -> str:
    """The effect that a link at a path in a Git folder would have had on the host, for the person. Pure."""
    inside = re.sub(r"^(?:modules|worktrees)/.*?/(?=[A-Z]|logs|objects|refs|rebase|worktrees)", "", path)
    return next((words for pattern, words in WHAT_GIT_DOES if re.fullmatch(pattern, inside)), FOLLOWS)
