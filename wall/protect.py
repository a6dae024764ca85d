"""Which paths of a workspace are protected, and the part of an instance description that protects them.

It keeps even root in the container from turning these paths against their owner. The core loads this module, as
`protect`, when a session is described. Knows nothing of HTTP.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import marshal
import os
import posixpath
import pwd
import re
import shutil
import stat
import sys
import time
import urllib.parse as urls
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Literal, NamedTuple, Union, cast

from clincus import (
    ChildError,
    ClincusError,
    Config,
    FailureKind,
    Incus,
    IncusError,
    as_object,
    packaged_text,
    path_inside,
    printable,
    read_plain_file,
    run_child,
)

from . import hook

# hook.py travels as a text, so it can import nothing of ours.
NO_ID_MAPS = hook.NO_ID_MAPS
STAGES = hook.STAGES

FOLDER = os.path.dirname(__file__)

BROKEN = "broken"  # the level of a session whose seal came off; it is frozen until a person decides
NOTHING_MOUNTED = "A clone: no folder of this host is mounted"
SWITCHED_OFF = "Protection is switched off in the configuration (security.disable_protection)"
NESTING = "Nested containers are allowed here (security.nesting), and what they need lets root take the seals off"
# The folder in a container, closed to all its users, that has a stage's `others`.
SEALS_OF_OTHERS = "dev/.clincus"
# A file of this name in a Git folder leads git to another one. An agent could turn the workspace itself into a bare
# repository by HEAD, objects, refs and config. With an empty folder of this name in it, git does not accept it as one.
NO_BARE_REPOSITORY = "commondir"

# These are protected besides the configured list: our project file, and each path of a Git folder that makes the host's
# git run a command or read its configuration from another place (gitrepository-layout(5): commondir).
ALWAYS_PROTECTED = (
    ".clincus.toml",
    *(f".git/{name}" for name in ("branches", "commondir", "config.worktree", "info/attributes", "remotes")),
    *(f".git/modules/**/{name}" for name in ("commondir", "config", "config.worktree", "hooks", "info/attributes")),
    *(f".git/worktrees/*/{name}" for name in ("commondir", "config.worktree", "gitdir")),
)

# The stand-ins for absent paths of a Git folder. Paths that are not listed here get an empty file.
STAND_INS: Mapping[str, str | None] = {
    "branches": None,
    "commondir": ".\n",
    "hooks": None,
    "info": None,
    "remotes": None,
}


# The rules by which a container keeps its mounts and holds up no program of the host.
HOLDING_RULES = ("unmount", "lease", "fault")
# A page of a FUSE file system comes when its program likes. A kernel that waits for it can hold a lock: see
# wall/deny-fault.rules. Incus gives each container the device.
NO_FUSE = "lxc.mount.entry = /dev/null dev/fuse none bind,create=file,optional 0 0"


def holding_rules() -> list[str]:
    """The rules of HOLDING_RULES for security.syscalls.deny."""
    return [rule for name in HOLDING_RULES for rule in denying_rules(name)]


def denying_rules(name: str, **values: int) -> list[str]:
    """The rules of wall/deny-NAME.rules for security.syscalls.deny, with `values` filled in."""
    lines = packaged_text(f"wall/deny-{name}.rules").splitlines()
    return [line.format(**values) for line in lines if not line.startswith("#")]


# The value of a path is what stands in for it while it is absent: the text of a file, None for an empty folder, or
# False for nothing. A path with False is protected only if it exists and neither it nor a folder above it is a link. In
# a path, `*` is any folder, and `**` any Git folder at any depth.
StandIn = Union[str, Literal[False], None]
ProtectedPaths = dict[str, StandIn]


class HostFolder(NamedTuple):
    """A folder or file of the host that a session gets: the workspace, or an extra mount."""

    source: str  # absolute, symlinks resolved
    target: str  # absolute path in the container
    uid: int | None  # the owner on the host; None for a folder of another host, where the hook looks at it
    gid: int | None
    is_own_group: bool = True  # the owner is a member of the group, and may make setgid files that belong to it
    readonly: bool = False
    is_folder: bool = True
    is_repository: bool = True  # it has a .git
    git_folders: tuple[str, ...] = ()  # absolute paths of the Git folders that git on the host finds from here
    git_places: Mapping[str, StandIn] = {}  # paths that git on the host runs here, or reads as configuration
    git_unread: tuple[str, ...] = ()  # keys of git's configuration with commands that may run further files
    nested: tuple[str, ...] = ()  # Git folders, and `.git` files, of other repositories here and in extra mounts
    nested_places: Mapping[str, StandIn] = {}  # further paths of these, and of local remotes, as in places.py
    unsealed: Mapping[str, str] = {}  # the top of such a repository that is not sealed completely -> the reason
    unsearched: Mapping[str, str] = {}  # a folder that was not searched for them to its end -> the reason


# The folders that a container gets, the workspace first, each with its protected paths; None if all of it is protected.
Trees = Sequence[tuple[HostFolder, Union[ProtectedPaths, None]]]


# Keys of an instance with lines of several parts. Our value repeats the profile's lines, which it would hide otherwise.
SHARED_KEYS = ("security.syscalls.deny", "raw.apparmor")


class ProtectionSupport(NamedTuple):
    """The abilities of this host. `reason` says why it cannot lock a workspace; it is empty if it can."""

    reason: str = ""
    python: str = "/usr/bin/python3"  # the path of an interpreter that only root can change
    shift: bool = True  # the kernel maps ids on mounts
    subordinate_uids: tuple[range, ...] = ()  # uids that may be mapped into a container
    subordinate_gids: tuple[range, ...] = ()
    profile_config: Mapping[str, str] = {}  # keys of the default profile to keep
    profile_folders: tuple[tuple[str, bool], ...] = ()  # its disks except the root disk: source, and if it is read-only
    takes_hooks: bool = False  # hooks run although a workspace cannot be locked


class Protection(NamedTuple):
    """The part of an instance description for workspace and extra mounts, and how well it protects the host."""

    level: str  # "locked", "basic" or "off"
    config: dict[str, str]
    devices: dict[str, dict[str, str]]
    reason: str = ""  # for a person: why it is not locked; empty if it is
    note: str = ""  # for a person: what is special about a locked session


def host_folder(path: str, target: str, readonly: bool = False) -> HostFolder:
    """Look at a folder or file of the host. Raises ClincusError (400) if it is absent or neither of the two."""
    source = os.path.realpath(path)
    try:
        found = os.stat(source)
    except OSError as error:
        raise ClincusError(f"'{path}' cannot be mounted: {error.strerror}", 400) from error
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        raise ClincusError(f"'{path}' cannot be mounted: it is neither a folder nor a file; choose one of these", 400)
    return HostFolder(
        source,
        target,
        uid=found.st_uid,
        gid=found.st_gid,
        is_own_group=found.st_gid in groups_of(found.st_uid),
        readonly=readonly,
        is_folder=stat.S_ISDIR(found.st_mode),
        is_repository=os.path.lexists(f"{source}/.git"),
    )


def workspace_folder(
    path: str,
    target: str,
    settings: Config,
    engine: str = "",
    extra: Sequence[HostFolder] = (),
    *,
    is_clone: bool = False,
) -> HostFolder:
    """As `host_folder`, with the paths that git on the host runs there and in `extra` mounts.

    A folder on the host of an engine is not looked at. With `is_clone` the workspace itself is not mounted, so it is
    not searched for other repositories. Raises ClincusError: 400 as `host_folder`, 409 as `git_on_host`.
    """
    if engine:
        return HostFolder(path, target, uid=None, gid=None, is_own_group=False)
    folder = host_folder(path, target)
    if settings.get("security.disable_protection") or not folder.is_folder:
        return folder
    homes = [os.path.expanduser("~")]
    if os.geteuid() == 0:
        with suppress(KeyError):  # a uid without an entry in passwd has no configuration of its own
            owner = pwd.getpwuid(cast(int, folder.uid))
            if owner.pw_dir not in homes:
                homes.append(owner.pw_dir)
    mounted = extra if is_clone else (folder, *extra)
    searched = [mount.source for mount in mounted if not mount.readonly]
    found = git_on_host(folder.source, homes, os.environ, configured_paths(settings), searched)
    git_folders = found.folders
    may_be_bare = os.path.isfile(f"{folder.source}/{NO_BARE_REPOSITORY}")  # then the folder itself may be a Git folder
    if may_be_bare and folder.source not in git_folders:
        git_folders = (*git_folders, folder.source)
    return folder._replace(
        git_folders=git_folders,
        git_places=found.places,
        git_unread=found.unread,
        nested=found.nested,
        nested_places=found.nested_places,
        unsealed=found.unsealed,
        unsearched=found.cut,
    )


# -- Commands and configuration of git on the host

MOST_LINKS = 40  # MAXSYMLINKS of the kernel
MOST_UNREAD = 3  # how many keys a note names
PLACES_TIMEOUT = 60.0  # seconds for an answer of wall/places.py
PLACES_LOADER = "import marshal, sys; exec(marshal.load(sys.stdin.buffer))"
GIT_VARIABLES = ("XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM")  # name configuration files


@functools.cache
def program(*names: str) -> bytes:
    """Programs of this folder, each compiled and marshalled, one behind the other.

    Python's own bytecode is used where there is any: compiling takes as long as the program then runs.
    """
    code = b""
    for name in names:
        loader: Any = cast(ModuleSpec, PathFinder.find_spec(name, [FOLDER])).loader
        code += marshal.dumps(loader.get_code(name))
    return code


def ask_places(**question: object) -> dict[str, Any]:
    """The answer of wall/places.py to a question. Raises ClincusError: its refusal, or 409 if it fails.

    It runs in a child with a time limit, since an agent may have written what it reads.
    """
    command = [sys.executable, "-I", "-S", "-c", PLACES_LOADER]
    text = program("places") + json.dumps(question).encode()
    try:
        done = run_child(command, stdin=text, timeout=PLACES_TIMEOUT, cwd="/")
    except ChildError as error:
        raise ClincusError(f"Clincus cannot check the workspace: {error.message}", 409) from error
    if done.code:
        raise ClincusError(f"Clincus cannot check the workspace: {done.reason}", 409)
    answer = as_object(json.loads(done.stdout))
    if "refused" in answer:
        raise ClincusError(answer["refused"], answer["status"])
    return answer


class OnHost(NamedTuple):
    """The paths that git on the host runs in a workspace and in extra mounts, or reads there as its configuration."""

    folders: tuple[str, ...]  # the Git folders that git finds from the workspace
    places: ProtectedPaths
    unread: tuple[str, ...]  # keys of commands that may run further files, which their words do not show
    nested: tuple[str, ...]  # this and the next three as in HostFolder
    nested_places: ProtectedPaths
    unsealed: dict[str, str]
    cut: dict[str, str]


def git_on_host(
    workspace: str,
    homes: Sequence[str],
    environ: Mapping[str, str],
    sealed: ProtectedPaths,
    searched: Sequence[str] = (),
) -> OnHost:
    """Find what git on this host runs from a workspace. The `searched` folders may have other repositories in them.

    `homes` are the home folders of the people whose configuration counts. Links in the folders that are `sealed` (paths
    relative to the workspace) lead to places that have to be protected as well. Raises ClincusError (409) if git is
    missing or does not understand a file.
    """
    git = find_git(workspace, environ)
    named = {name: environ[name] for name in GIT_VARIABLES if name in environ}
    question = {"git": git, "workspace": workspace, "homes": homes, "environ": named, "sealed": sealed}
    answer = ask_places(**question, searched=searched)
    folders = [path_trail(path) for path in answer["folders"]]
    places = [(path_trail(path), stand_in) for path, stand_in in answer["places"]]
    found: ProtectedPaths = {}
    for trail, stand_in in places:
        found.setdefault(trail[-1], stand_in)
    trails = [*folders, *(trail for trail, _ in places)]
    for link in itertools.chain.from_iterable(trail[:-1] for trail in trails):
        if not path_inside(workspace, link):  # no container of the workspace could replace a folder above it
            found.setdefault(link, None)
    for path, stand_in in answer["links"]:
        for place, text in linked_places(workspace, path, stand_in).items():
            found.setdefault(place, text)
    return OnHost(
        folders=tuple(dict.fromkeys(trail[-1] for trail in folders)),
        places=found,
        unread=tuple(answer["unread"]),
        nested=tuple(answer["nested"]),
        nested_places=dict(answer["nested_places"]),
        unsealed=dict(answer["unsealed"]),
        cut=dict(answer["cut"]),
    )


def linked_places(workspace: str, first: str, stand_in: StandIn) -> ProtectedPaths:
    """The paths to protect because a sealed link, `first`, leads to them: links on the way, and the file at the end."""
    *chain, end = path_trail(first)
    # The targets of an agent's own settings must not keep git from its daily work.
    is_gits = stand_in is False and path_inside(end, f"{workspace}/.git")
    if first not in chain or os.path.isdir(end) or is_gits:
        return {}
    found: ProtectedPaths = {}
    for link in chain:
        # `first` is sealed with its folder, and the folders above keep their place.
        if not path_inside(first, link) and not path_inside(workspace, link):
            found[link] = None if stand_in == "" else stand_in
    found.setdefault(end, stand_in)
    return found


def find_git(workspace: str, environ: Mapping[str, str]) -> str:
    """The path of git, empty if there is none. Never a git in the workspace, where an agent may have put it."""
    folders = []
    for folder in [*environ.get("PATH", "").split(":"), "/usr/local/bin", "/usr/bin", "/bin"]:
        if folder.startswith("/") and not path_inside(os.path.realpath(folder), workspace):
            folders.append(folder)
    found = shutil.which("git", path=":".join(folders)) or ""
    return "" if path_inside(os.path.realpath(found), workspace) else found


def path_trail(path: str) -> list[str]:
    """The links that the kernel follows on the way to a path, and as the last item the place where the path ends.

    A folder that is left by `..` counts as a link too: a link put in its place would decide where `..` leads.
    """
    links: list[str] = []
    here = "/"
    parts = path.split("/")[::-1]
    while parts and len(links) < MOST_LINKS:
        part = parts.pop()
        if part == "..":
            links.append(here)
            here = os.path.dirname(here)
        elif part not in ("", "."):
            here = os.path.join(here, part)
            with suppress(OSError):
                target = os.readlink(here)
                links.append(here)
                here = "/" if target.startswith("/") else os.path.dirname(here)
                parts += target.split("/")[::-1]
    return [*links, here]


# -- Files that programs on the host run without being asked


class Runs(NamedTuple):
    """A path in a workspace that a program on the host runs without being asked, or that grants rights to one."""

    path: str  # relative to the workspace: one name or two; or `*` and the end of a name
    when: str  # for a person, after the words "runs on your machine when you"
    is_sealed: bool = True  # if not, it is only marked, because tools are often asked to write it


@functools.lru_cache(maxsize=1)
def presets() -> dict[str, list[Runs]]:
    """The lists that security.presets names."""
    table = json.loads(packaged_text("wall/presets.json"))
    return {name: [Runs(**row) for row in rows] for name, rows in table.items()}


# Packages in these folders have settings of their own, but nobody opens the folders as a project. As in wall/scan.py.
OTHERS_FOLDERS = frozenset(("node_modules", "site-packages", "bower_components", "vendor"))


def preset_rows(settings: Config) -> list[Runs]:
    """The rows of the presets that are on."""
    known = presets()
    return list(itertools.chain.from_iterable(known[name] for name in settings.get("security.presets")))


def runs_on_host(path: str, rows: Iterable[Runs]) -> str:
    """The occasion on which the host runs a file of a workspace without being asked, in words for a person; else empty.

    `path` is relative to the workspace. The paths of `rows` match at any depth.
    """
    parts = path.split("/")
    if not OTHERS_FOLDERS.isdisjoint(parts):
        return ""
    for row in rows:
        if row.path.startswith("*"):
            is_match = parts[-1].endswith(row.path[1:])
        else:
            wanted = row.path.split("/")
            is_match = any(parts[at : at + len(wanted)] == wanted for at in range(len(parts)))
        if is_match:
            return f"runs on your machine when you {row.when}"
    return ""


# -- Which paths are protected


def groups_of(uid: int) -> set[int]:
    """The groups that a user is a member of."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return {uid}  # the usual scheme of user private groups
    return set(os.getgrouplist(user.pw_name, user.pw_gid))


def protected_paths(settings: Config, workspace: HostFolder) -> ProtectedPaths:
    """All protected paths of the host, absolute. Those of the config are in normal form and lie in the workspace.

    The placeholder of an absent path must not disturb git. In a Git folder it is a file, except for `hooks`; a
    `commondir` with "." has the same effect as none (gitrepository-layout(5)). Elsewhere the placeholder is a folder
    where possible, since the next `git add -A` would commit an empty file.
    """
    if settings.get("security.disable_protection"):
        return {}
    found: ProtectedPaths = {}
    git_folders = dict.fromkeys([f"{workspace.source}/.git", *workspace.git_folders, *workspace.nested])
    configured = configured_paths(settings)
    with_stand_in = [path for path, stand_in in configured.items() if stand_in is not False]
    for path in (*with_stand_in, *ALWAYS_PROTECTED):
        if path.startswith(".git/"):
            text = STAND_INS.get(posixpath.basename(path), "")
            for folder in git_folders:
                found[f"{folder}/{path[5:]}"] = text
        else:
            found[f"{workspace.source}/{path}"] = None
    if workspace.source not in git_folders:
        found[f"{workspace.source}/{NO_BARE_REPOSITORY}"] = None
    for path, stand_in in workspace.nested_places.items():
        found.setdefault(path, stand_in)
    # The settings decide whether a Git folder's own hooks and configuration are protected.
    for path, stand_in in workspace.git_places.items():
        folder, _, name = path.rpartition("/")
        is_settled = folder in git_folders and name in ("config", "hooks")
        if not is_settled:
            found.setdefault(path, stand_in)
    for path, stand_in in configured.items():
        if stand_in is False:
            found.setdefault(f"{workspace.source}/{path}", False)
    return found


def configured_paths(settings: Config) -> ProtectedPaths:
    """The protected paths of the config, then those of its presets, relative to the workspace.

    The stand-in is for the targets of links in them: an empty file, or nothing for a path of a preset.
    """
    named = settings.get("security.protected_paths") + settings.get("security.additional_protected_paths")
    found: ProtectedPaths = dict.fromkeys(named, "")
    if settings.get("git.writable_hooks"):
        found.pop(".git/hooks", None)
    for row in preset_rows(settings):
        if row.is_sealed:
            found.setdefault(row.path, False)
    return found


def paths_within(folder: str, paths: ProtectedPaths) -> ProtectedPaths | None:
    """The protected paths below a folder, relative to it; None if all of it is protected.

    It keeps an extra mount that contains the workspace, or is a part of it, from being a way around the protection.
    """
    own = folder.strip("/").split("/") if folder != "/" else []
    within: ProtectedPaths = {}
    for path, text in paths.items():
        parts = path.strip("/").split("/")
        if path_matches(parts, own):
            if len(parts) <= len(own) or "**" in parts[: len(own)]:
                return None
            within["/".join(parts[len(own) :])] = text
    return within


def path_matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """True if a path is the pattern's target, lies below it, or is a folder above it."""
    pairs = itertools.takewhile(lambda pair: pair[0] != "**", zip(pattern, parts))
    return all(wanted in (part, "*") for wanted, part in pairs)


def protect_workspace(
    workspace: HostFolder,
    settings: Config,
    host: ProtectionSupport,
    extra: Sequence[HostFolder] = (),
    stage: str = "",
    *,
    is_clone: bool = False,
    session: str = "",
    exposed: str = "",
) -> Protection:
    """Describe the mounts of an instance so that its workspace cannot be turned against the host.

    Pure. With `is_clone` the workspace itself is not mounted, and only the extra mounts have to be protected. `stage`
    names the place on the host where the mounts are assembled; each instance has its own. `exposed` names a session
    that is not locked and has one of the folders, if there is one. Raises ClincusError: 400 for mounts that contradict
    each other, 409 if the configuration demands a locked workspace and this host or session cannot have one.
    """
    paths = protected_paths(settings, workspace)
    # Mounts may hide paths of nested repositories: the container does not get those.
    own_paths = protected_paths(settings, workspace._replace(nested=(), nested_places={}))
    check_targets(workspace, extra, own_paths)
    folders = extra if is_clone else (workspace, *extra)
    trees = [(folder, paths_within(folder.source, paths)) for folder in folders]
    reason = host.reason
    if not trees:
        return Protection("locked", {} if reason else base_config(host, []), {}, note=NOTHING_MOUNTED)
    level, why = protection_level(settings, reason, exposed or unsealed_words(workspace, extra))
    is_far = workspace.uid is None
    if is_far and reason:  # plain devices follow links, and from here nobody sees where those would lead
        level = "off"
        trees = [(workspace, {})]
        host = host._replace(reason=f"{reason}; so nothing in the folder is protected there")
    if level != "locked" and settings.get("security.require_locked"):
        words = "security.require_locked is set, but the workspace cannot be locked"
        raise ClincusError(f"{words}: {why}", "workspace_not_protected")
    if reason:
        if workspace.nested or workspace.nested_places:  # a device for each of their paths would make a start slow
            host = host._replace(reason=f"{reason}; other repositories in the folders are not protected there")
            trees = [(folder, paths_within(folder.source, own_paths)) for folder in folders]
        return device_protection(level, settings, host, trees, stage=stage, session=session)
    notes = [] if is_clone else workspace_notes(level, workspace)
    notes += notes_on_nested(workspace, extra) if level != "off" else []
    made = locked_protection(level, settings, host, trees, stage, session=session, notes=notes)
    return made._replace(reason=why)


def workspace_notes(level: str, workspace: HostFolder) -> list[str]:
    """Notes for a person on a mounted workspace at a level of protection."""
    notes = []
    if level != "off" and not workspace.is_repository:
        notes.append("There is no .git, and the tool cannot make one: run `git init` in the folder yourself")
    if workspace.git_unread:
        keys = ", ".join(workspace.git_unread[:MOST_UNREAD])
        others = len(workspace.git_unread) - MOST_UNREAD
        more = f" and {others} more" if others > 0 else ""
        words = "names a command that Clincus cannot read: it may run a file of the folder that is not protected"
        notes.append(printable(f"git's {keys}{more} {words}"))
    return notes


def is_in_a_mount(path: str, extra: Iterable[HostFolder]) -> bool:
    """True if a folder and a writable extra mount overlap. Pure."""
    mounts = [folder.source for folder in extra if not folder.readonly]
    return any(path_inside(path, mount) or path_inside(mount, path) for mount in mounts)


def unsealed_words(workspace: HostFolder, extra: Sequence[HostFolder]) -> str:
    """The unsealed repositories in extra mounts with the reasons, in words; empty if all are sealed. Pure."""
    found = {path: why for path, why in workspace.unsealed.items() if is_in_a_mount(path, extra)}
    if not found:
        return ""
    return f"{named_unsealed(found)}. Mount less, or read-only"


def notes_on_nested(workspace: HostFolder, extra: Sequence[HostFolder]) -> list[str]:
    """Notes for a person on unsealed repositories in the workspace, and on folders that were not searched. Pure."""
    inside = {path: why for path, why in workspace.unsealed.items() if not is_in_a_mount(path, extra)}
    notes = [named_unsealed(inside)] if inside else []
    for path, why in workspace.unsearched.items():
        notes.append(printable(f"'{path}' was not searched for repositories to its end, as {why}"))
    return notes


def named_unsealed(found: Mapping[str, str]) -> str:
    """Repositories that are not sealed, in words. Pure."""
    words = [f"'{path}' ({why})" for path, why in list(found.items())[:MOST_UNREAD]]
    more = f" and {len(found) - MOST_UNREAD} more" if len(found) > MOST_UNREAD else ""
    verb = "is a repository that is" if len(found) == 1 else "are repositories that are"
    return printable(f"{', '.join(words)}{more} {verb} not sealed, or not all of it")


def protection_level(settings: Config, reason: str, exposed: str) -> tuple[str, str]:
    """How well a mounted folder can be protected, and the reason if it is not better. `reason` is the host's."""
    if settings.get("security.disable_protection"):
        return "off", SWITCHED_OFF
    if reason:
        return "basic", reason
    if settings.get("security.nesting"):
        return "basic", NESTING
    if exposed:
        return "basic", exposed
    return "locked", ""


def check_targets(workspace: HostFolder, extra: Sequence[HostFolder], paths: ProtectedPaths) -> None:
    """Raise ClincusError: 400 if a mount would hide the workspace or a protected path, 409 if git runs all of it."""
    if not workspace.is_folder:
        raise ClincusError(f"workspace '{workspace.source}' is not a folder: choose one", "workspace_refused")
    for folder in (workspace, *extra):
        if any(character in folder.source + folder.target for character in "\n\r\0"):
            raise ClincusError(
                f"the path {folder.source!r} holds a line break, which Incus does not take: rename it", 400
            )
    if paths_within(workspace.source, paths) is None:
        words = "git on this host runs, or reads as its configuration, all that is in it; choose a folder above"
        raise ClincusError(f"workspace '{workspace.source}' cannot be protected: {words}", "workspace_not_protected")
    for folder in extra:
        if path_inside(workspace.target, folder.target):
            raise ClincusError(
                f"the mount at '{folder.target}' would hide the workspace '{workspace.target}': choose another", 400
            )
        if not path_inside(folder.target, workspace.target):
            continue
        place = workspace.source + folder.target[len(workspace.target.rstrip("/")) :]
        for path, stand_in in paths.items():
            if stand_in is not False and path_matches(path.split("/"), place.split("/")):
                raise ClincusError(
                    f"the mount at '{folder.target}' would replace the protected path '{path}': choose another", 400
                )


# -- The locked form: a stage on the host, mounted into the container as one tree


def locked_protection(
    level: str,
    settings: Config,
    host: ProtectionSupport,
    trees: Trees,
    stage: str,
    *,
    session: str = "",
    notes: Sequence[str],
) -> Protection:
    """Bring in the workspace (the first tree) and the other trees by LXC hooks and mount entries; see wall/hook.py.

    Mounts that come into a user namespace together are locked to each other (mount_namespaces(7)): root in the
    container cannot look beneath one of them. wall/deny-unmount.rules keeps processes from unmounting all of them, or
    getting away from them. Nested containers do not work with these rules.
    """
    folders = [folder for folder, _ in trees]
    denied = denied_mode_bits(folders)
    keeps_mounts = level != "off" and not settings.get("security.nesting")
    plan = {
        "stage": stage,
        "session": session,
        "level": level,
        "holds": keeps_mounts,
        "code": settings.get("incus.code_uid"),
        "setuid": "denied" if denied else "allowed",
        "devices": device_plan(host.profile_folders),
        "trees": [tree_plan(folder, within, folders) for folder, within in trees],
    }
    lines = [*hook_lines(host.python, plan), *mount_lines(stage, folders)]
    if keeps_mounts:
        lines.append(f"lxc.mount.entry = {STAGES}/{stage}/others {SEALS_OF_OTHERS} none rbind,create=dir 0 0")
        lines.append(NO_FUSE)
    config = base_config(host, lines)
    rules = holding_rules() if keeps_mounts else []
    if denied or rules:
        config["security.syscalls.deny"] = denied_calls(host, denied, *rules)
    if denied:
        notes = [mode_bits_note(folders, denied), *notes]
    return Protection(level, config, {}, note="; ".join(notes))


def tree_plan(folder: HostFolder, within: ProtectedPaths | None, folders: Iterable[HostFolder]) -> dict[str, object]:
    """The part of the hook's plan for one of the folders, with the protected paths in it."""
    return {
        "source": folder.source,
        "owner": folder.uid,
        "group": folder.gid,
        "readonly": folder.readonly or within is None,
        "pins": [other.target[len(folder.target) + 1 :] for other in folders if is_mounted_in(other, folder)],
        "protect": (within or {}) if folder.is_folder else {},
    }


def mount_lines(stage: str, folders: Iterable[HostFolder]) -> list[str]:
    """The mount entries of lxc.container.conf(5) for the folders of a stage."""
    lines = []
    for number, folder in enumerate(folders):
        # Blanks as fstab(5) writes them.
        target = re.sub(r"[\\ \t]", lambda found: f"\\{ord(found[0]):03o}", folder.target.strip("/"))
        kind = "dir" if folder.is_folder else "file"
        lines.append(f"lxc.mount.entry = {STAGES}/{stage}/{number} {target} none rbind,create={kind} 0 0")
    return lines


def mode_bits_note(folders: Iterable[HostFolder], denied: Collection[int]) -> str:
    """The note for a person on mode bits that no program in the container can set."""
    bits = "setgid"
    whose = "a group that its owner is not in"
    if stat.S_ISUID in denied:
        bits = "setuid or setgid"
        whose = "root"
    is_far = any(folder.uid is None for folder in folders)
    known = "is on another host" if is_far else f"belongs to {whose}"
    return f"The folder {known}: no program in the container can set the {bits} bit"


def is_mounted_in(folder: HostFolder, other: HostFolder) -> bool:
    """True if a folder is mounted somewhere in another one."""
    return folder.is_folder and folder.target != other.target and path_inside(folder.target, other.target)


def raw_lxc(host: ProtectionSupport, lines: Sequence[str]) -> str:
    """The value of raw.lxc: the lines of the default profile, then ours."""
    known = host.profile_config.get("raw.lxc", "").rstrip("\n")
    return "\n".join(filter(None, [known, *lines])) + "\n"


def device_plan(folders: Iterable[tuple[str, bool]]) -> list[dict[str, object]]:
    """The part of the hook's plan for folders that Incus mounts as devices."""
    return [{"source": source, "readonly": readonly} for source, readonly in folders]


def base_config(host: ProtectionSupport, lines: Sequence[str]) -> dict[str, str]:
    """The instance keys of every locked session. `lines` are its own lines of lxc.container.conf(5)."""
    return {
        "raw.lxc": raw_lxc(host, lines),
        "security.privileged": "false",
        "security.nesting": "true",
        # If Incus intercepted these calls, it would make the device file or the mount as root on the host.
        "security.syscalls.intercept.mknod": "false",
        "security.syscalls.intercept.mount": "false",
    }


def denied_mode_bits(folders: Sequence[HostFolder]) -> list[int]:
    """The mode bits that would give a file in one of these folders rights that its owner on the host does not have."""
    writable = [folder for folder in folders if not folder.readonly]
    if any(not folder.uid for folder in writable):  # root's (0), or not known
        return [stat.S_ISUID, stat.S_ISGID]
    if any(not folder.gid or not folder.is_own_group for folder in writable):
        return [stat.S_ISGID]
    return []


def packed(text: str) -> str:
    """A text as few characters that have no special meaning in a shell or a configuration."""
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode()


@functools.lru_cache(maxsize=1)
def packed_hook() -> str:
    """wall/hook.py, packed once: packing takes some milliseconds, which each start would wait for."""
    return packed(packaged_text("wall/hook.py"))


def hook_lines(python: str, plan: Mapping[str, object]) -> list[str]:
    """The hooks as lines of lxc.container.conf(5): complete programs, so that no file can be swapped or removed."""
    # LXC passes the command to a shell as one argument, which may have 131072 bytes (execve(2)).
    argument = packed(json.dumps(plan))
    text = f'zlib.decompress(base64.urlsafe_b64decode("{packed_hook()}")).decode()'
    unpack = f'import base64,zlib;first,_,REST={text}.partition("-- REST");exec(first)'
    command = f"{python} -I -S -c '{unpack}' {argument}"
    # While the container's first process lives, the stage is in use, even if the monitor was killed.
    note_init = f"""/bin/sh -c 'cat "/proc/$LXC_PID/stat" >{STAGES}/{plan["stage"]}/init'"""
    return [
        f"lxc.hook.pre-start = {command}",
        f"lxc.hook.start-host = {note_init}",
        f"lxc.hook.post-stop = {command}",
    ]


def hook_plan(config: Mapping[str, str]) -> dict[str, Any]:
    """The plan that `hook_lines` wrote into the configuration of an instance of this host; empty if there is none."""
    found = re.search(r"^lxc\.hook\.pre-start = .*' ([\w=-]+)$", config.get("raw.lxc", ""), re.MULTILINE)
    if not found:
        return {}
    return as_object(json.loads(zlib.decompress(base64.urlsafe_b64decode(found[1]))))


def denied_calls(host: ProtectionSupport, bits: Collection[int], *rules: str) -> str:
    """Rules for security.syscalls.deny: those of the default profile, the given `rules`, and those that deny mode bits.

    A file with the setuid bit of root can do no more than one with all capabilities, so both are denied together.
    """
    known = host.profile_config.get("security.syscalls.deny", "").splitlines()
    denying: list[str] = []
    for bit in bits:
        denying += denying_rules("mode-bit", bit=bit)
    if stat.S_ISUID in bits:
        denying += denying_rules("file-capability")
    return "\n".join(dict.fromkeys([*known, *rules, *denying]))


# -- The plain form: disk devices, for a host or an Incus project that allows nothing better


def device_protection(
    level: str, settings: Config, host: ProtectionSupport, trees: Trees, *, stage: str = "", session: str = ""
) -> Protection:
    """The folders as Incus disk devices, each protected path as a read-only one, its parents mounted over themselves.

    If hooks can run, they note which folders the session has, for locked sessions that have the same folders.
    """
    workspace = trees[0][0]
    idmap = raw_idmap(workspace, settings.get("incus.code_uid"), host)
    shifts = host.shift and not settings.get("incus.disable_shift") and not idmap
    config = {"raw.idmap": idmap} if idmap else {}
    if host.takes_hooks:
        mounted = [(folder.source, folder.readonly or within is None) for folder, within in trees]
        plan = {
            "stage": stage,
            "session": session,
            "level": level,
            "holds": False,
            "code": settings.get("incus.code_uid"),
            "setuid": "allowed",
            "devices": device_plan((*mounted, *host.profile_folders)),
            "trees": [],
        }
        config["raw.lxc"] = raw_lxc(host, hook_lines(host.python, plan))
    if level == "basic":
        bits = (stat.S_ISUID, stat.S_ISGID) if shifts else ()
        config["security.syscalls.deny"] = denied_calls(host, bits, *holding_rules())
    reason = host.reason
    if not idmap and not shifts and workspace.uid is not None:
        owner = f"add root:{workspace.uid}:1 to /etc/subuid and root:{workspace.gid}:1 to /etc/subgid"
        reason += f"; to let the tool write there, {owner}"
    if settings.get("security.disable_protection"):
        reason = f"{SWITCHED_OFF}; {reason}"
    return Protection(level, config, disk_devices(trees, {"shift": "true"} if shifts else {}), reason)


def disk_devices(trees: Trees, options: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The disk devices of the folders and of their protected paths, all with some `options`."""
    devices: dict[str, dict[str, str]] = {}
    for number, (folder, within) in enumerate(trees):
        name = f"mount-{number - 1}" if number else "workspace"
        devices[name] = {"type": "disk", "source": folder.source, "path": folder.target, **options}
        if folder.readonly or within is None:
            devices[name]["readonly"] = "true"
        covers: Sequence[tuple[str, bool]] = ()
        if within:
            optional = [path for path, stand_in in within.items() if stand_in is False]
            covers = ask_places(source=folder.source, patterns=list(within), optional=optional)["covers"]
        for path, is_sealed in covers:
            device = {"type": "disk", "source": f"{folder.source}/{path}", "path": f"{folder.target}/{path}", **options}
            if is_sealed:
                device["readonly"] = "true"
            devices[device_name(name, path)] = device
    return devices


def device_name(tree: str, path: str) -> str:
    """A readable device name for a path, different for each path."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-")[:40]
    return f"protect-{readable}-{hashlib.sha256(f'{tree}/{path}'.encode()).hexdigest()[:6]}"


def raw_idmap(workspace: HostFolder, code_uid: int, host: ProtectionSupport) -> str:
    """The value of raw.idmap that maps the workspace's owner to the code user; empty if the host does not allow it."""
    uid = workspace.uid
    gid = workspace.gid
    if not uid or not any(uid in ids for ids in host.subordinate_uids):
        return ""
    has_group = gid and workspace.is_own_group and any(gid in ids for ids in host.subordinate_gids)
    return f"uid {uid} {code_uid}" + (f"\ngid {gid} {code_uid}" if has_group else "")


# -- The abilities of this host


def protection_support(incus: Incus) -> ProtectionSupport:
    """Find out how well a workspace can be protected here. This takes some calls to Incus. Raises IncusError."""
    environment = incus.query("/1.0").get("environment", {})
    quoted = urls.quote(incus.project, safe="")
    project = incus.query(f"/1.0/projects/{quoted}").get("config", {})
    profile = incus.query("/1.0/profiles/default")
    config = profile.get("config", {})
    is_restricted = project.get("restricted") == "true"
    maps_ids = environment.get("kernel_features", {}).get("idmapped_mounts") == "true"
    # About another host we only know what its Incus reports. If it has no Python for the hook, the start will fail.
    python = "/usr/bin/python3"
    no_python = ""
    is_outermost = True
    uids: tuple[range, ...] = ()
    gids: tuple[range, ...] = ()
    if not incus.engine:
        python, no_python = trusted_python()
        is_outermost = is_outermost_namespace()
        uids = mappable_ids("/etc/subuid", project.get("restricted.idmap.uid", "") if is_restricted else None)
        gids = mappable_ids("/etc/subgid", project.get("restricted.idmap.gid", "") if is_restricted else None)
    if is_restricted and project.get("restricted.containers.lowlevel") != "allow":
        reason = f"The Incus project '{incus.project}' is restricted and does not allow raw.lxc"
    elif not maps_ids:
        kernel = environment.get("kernel_version", "unknown")
        reason = f"The kernel ({kernel}) cannot map ids on mounts; 5.12 can"
    elif not is_outermost:
        reason = "Clincus runs in a container itself"
    else:
        reason = no_python or why_calls_stay(config)
    # Incus shifts no folder of a project that may mount some folders only (project/permissions.go), and the kernel maps
    # no ids on mounts of a file system that belongs to the host of our container.
    limits_disks = is_restricted and project.get("restricted.devices.disk.paths")
    return ProtectionSupport(
        reason=reason,
        python=python,
        shift=is_outermost and maps_ids and not limits_disks,
        subordinate_uids=uids,
        subordinate_gids=gids,
        profile_config={key: config[key] for key in ("raw.lxc", *SHARED_KEYS) if key in config},
        profile_folders=tuple(disk_sources(profile.get("devices", {}).values())),
    )


def is_outermost_namespace() -> bool:
    """True outside of containers: the first user namespace maps all ids to themselves (user_namespaces(7))."""
    id_map = read_plain_file("/proc/self/uid_map", 4096) or b""
    return id_map.split() == [b"0", b"0", b"4294967295"]


def why_calls_stay(config: Mapping[str, str]) -> str:
    """The reason why keys of a profile would void the denied calls of a session; empty if they would not."""
    keys = [key for key in ("raw.seccomp", "security.syscalls.allow") if config.get(key)]
    keys += re.findall(r"^\s*(lxc\.seccomp\.profile)", config.get("raw.lxc", ""), re.MULTILINE)
    if not keys:
        return ""
    return f"A profile of Incus has {keys[0]}, which takes the place of the calls that a session denies"


def disk_sources(devices: Iterable[Mapping[str, str]]) -> Iterator[tuple[str, bool]]:
    """The source of each disk device except the root disk, and whether it is read-only.

    The source is a folder of the host, or POOL/VOLUME.
    """
    for device in devices:
        source = device.get("source")
        if device.get("type") != "disk" or device.get("path") == "/" or not source:
            continue
        if not source.startswith("/"):
            source = f"{device.get('pool')}/{source}"
        yield source, device.get("readonly") == "true"


HOOK_PYTHON = (3, 9)  # the version that wall/hook.py needs
# Prints the version of the interpreter, if it has the modules that wall/hook.py needs.
TELL_VERSION = "import ctypes, fcntl, json, sys, zlib; print(*sys.version_info[:2])"


def trusted_python(
    candidates: Iterable[str] = ("/usr/bin/python3", "/usr/local/bin/python3"),
) -> tuple[str, str]:
    """A Python for the hook that only root can change, or "" and the reason why there is none."""
    reason = "There is no Python under /usr/bin that belongs to root and has ctypes; install python3"
    for path in candidates:
        if not only_root_changes(path) or not only_root_changes(os.path.realpath(path)):
            continue
        with suppress(ChildError, ValueError):
            told = run_child([path, "-I", "-S", "-c", TELL_VERSION], timeout=20)
            version = tuple(map(int, told.stdout.split())) if told.code == 0 else ()
            if version >= HOOK_PYTHON:
                return path, ""
            if version:
                known, wanted = (".".join(map(str, numbers)) for numbers in (version, HOOK_PYTHON))
                reason = f"{path} is Python {known}, and protecting a folder takes {wanted} or newer"
    return "", reason


def only_root_changes(path: str) -> bool:
    """True if a path and every folder above it belong to root and nobody else can write there."""
    from pathlib import Path

    for step in (Path(path), *Path(path).parents):
        try:
            found = os.lstat(step)
        except OSError:
            return False
        others_write = found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode)
        if found.st_uid != 0 or others_write:
            return False
    return True


def mappable_ids(path: str, project: str | None) -> tuple[range, ...]:
    """The ids that raw.idmap may give to a container: those that subuid(5) gives to root.

    `project` is the list of a restricted project ("1000,2000-2999"), which limits them further; None without one.
    """
    try:
        with open(path) as file:
            rows = [line.strip().split(":") for line in file]
    except OSError:
        return ()
    roots = []
    for row in rows:
        if row[0] in ("root", "0") and len(row) > 2:
            first = int(row[1])
            roots.append(range(first, first + int(row[2])))
    if project is None:
        return tuple(roots)
    allowed = []
    for text in re.split(r"[\s,]+", project):
        if text:
            low, _, high = text.partition("-")
            allowed.append(range(int(low), int(high or low) + 1))
    both = []
    for part, ids in itertools.product(allowed, roots):
        both.append(range(max(ids.start, part.start), min(ids.stop, part.stop)))
    return tuple(filter(len, both))


class WallUnsupportedError(ClincusError):
    """This host or file system cannot lock the workspace; plain devices are still possible."""


class WallExposedError(ClincusError):
    """A session that is not locked has one of the folders; a start with less protection is possible."""


def start_failure(incus: Incus, name: str, error: IncusError) -> ClincusError:
    """The reason why an instance did not start: the wall's own if it refused, else LXC's, else `error` itself.

    Call this after a failed launch or start, before the instance is deleted: the hook writes into its log. The result
    has status 409 if the workspace is the reason, and is a WallUnsupportedError if only the host is.
    """
    log = read_start_log(incus, name)
    refusals = re.findall(r"^\s*clincus (refused|unsupported|exposed): (.*)$", log, re.MULTILINE)
    if refusals:
        kind, words = refusals[-1]
        if kind == "unsupported":
            return WallUnsupportedError(words[:1].upper() + words[1:], "workspace_not_protected")
        if kind == "exposed":
            return WallExposedError(words, "workspace_not_protected")
        return ClincusError(f"the workspace cannot be protected: {words}", "workspace_not_protected")
    if error.kind is not FailureKind.LXC_FAILED:
        return error
    reason = re.search(r" ERROR +\S+ - \S+ - (.+)", log)
    if not reason:
        return error
    words = re.sub(r'"/[^"]*/lxc/rootfs/', '"/', reason[1])
    return IncusError(f"the container did not start: {words} (`clincus health` checks what a start needs)", 500)


def read_start_log(incus: Incus, name: str) -> str:
    """LXC's log of an instance; empty if Incus does not give it."""
    for _ in range(20):
        try:
            return incus.run("info", incus.place(name), "--show-log").decode("utf-8", "replace")
        except IncusError as failure:
            if failure.kind is not FailureKind.LXC_ENDS:
                return ""
            time.sleep(0.1)
    return ""
