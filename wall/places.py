"""Examines a workspace for Clincus: what git on the host runs there or reads as configuration, and what to protect.

Clincus runs it as its own user before each start of a session, in a child with a time limit: an agent may have written
the configuration that is read here, and the folders that are walked. Each start waits for it, so it uses only
modules that Python loads quickly. stdin has the program, compiled and in `marshal`'s form, and after it a JSON
object; the answer is a JSON object on stdout:

    {"git": PATH, "workspace": PATH, "homes": [PATH], "environ": {NAME: VALUE}, "sealed": {PATH: TEXT},
     "searched": [PATH]}
        gets {"folders": [PATH], "nested": [PATH], "nested_places": [[PATH, TEXT]], "places": [[PATH, TEXT]],
        "links": [[PATH, TEXT]], "unread": [KEY], "unsealed": [[PATH, WORDS]], "cut": [[PATH, WORDS]]}, see
        `git_on_host`, `links_in` and `Nested`
    {"source": PATH, "patterns": [PATTERN], "optional": [PATTERN]}
        gets {"covers": [[PATH, BOOLEAN]]}, see `device_paths`
    either may get {"refused": WORDS, "status": NUMBER}: the reason why the session cannot start, and an HTTP status
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shlex
import stat
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

TYPE_CHECKING = False  # type checkers take it for true; a start waits for typing to load
if TYPE_CHECKING:
    from typing import Any, Literal, Union

    StandIn = Union[str, Literal[False], None]  # for an absent path: as in hook.py

MOST_FOLDERS = 20000  # this and the next as in hook.py
MOST_SEALED_LINKS = 500  # in one sealed folder
FILLED_BY_GIT = ("objects", "refs", "logs")
MOST_NESTED = 50  # sealed Git folders besides those of the repository at the top; as many again in extra mounts
MOST_SEARCHED = 400  # folders of the workspace that are searched for such Git folders, and as many of all extra mounts
MOST_SEARCHED_ENTRIES = 20000
MOST_REMOTES = 100  # places of local remotes that are sealed; two for each
# Packages bring repositories of their own, in which nobody works. As OTHERS_FOLDERS of scan.py.
NOT_SEARCHED = frozenset((".git", "node_modules", "site-packages", "bower_components", "vendor"))
# Names in a Git folder that a session seals or has to look into: a link there cannot be sealed.
SEALED_IN_GIT = (
    *("branches", "commondir", "config", "config.worktree", "hooks", "info", "info/attributes", "modules", "remotes"),
    "worktrees",
)
GIT_CONFIG_BYTES = 1 << 20  # of one configuration file; more is refused
GIT_CONFIG_FILES = 1000
# -- The meaning of git's settings. This is the only list: wall/scan.py and the look at new submodules use it as well.
#
# There are two rules, for two kinds of configuration. The person's own, which is sealed, may contain anything: the keys
# below find the settings that name a program or more configuration. Such a list is never complete, since each version
# of git adds keys. So a configuration that a container may have written, and that git on the host will obey, may only
# have settings of HARMLESS_SETTINGS. No value of these makes git run a program, read or write a path that it would not
# have read or written anyway, or reach any place but the remotes that the person's own configuration names. They
# were picked from git's Documentation/config (on the way to 2.55) and from what `git clone`, `submodule`, `worktree`,
# `sparse-checkout` and `maintenance` of git 2.47 write. A key that a later version adds is not among them, and neither
# are those of a partial clone: with them, `git status` fetches.
GIT_INCLUDE_KEY = re.compile(r"include(if\..*)?\.path", re.DOTALL)
# Keys of git-config(1) whose value is a command: git's own, and those of programs such as git-lfs.
GIT_COMMAND_KEY = re.compile(
    r"(alias|pager)\..*|.*(args|askpass|browser|clean|cmd|command|difffilter|driver|editor|external|fsmonitor|gitproxy"
    r"|helper|hooks?|httpd|mergeoptions|pack|pager|path|process|prog|program|smtpserver|smudge|textconv|tunnel|update"
    r"|vcs)",
    re.DOTALL,
)
# Keys whose value is the name of a helper, a merge strategy or a tool. Git puts the prefix before the name, and looks
# for a program of that name in its own folder and in $PATH, unless the name has a `/` in it.
GIT_NAME_KEYS = {
    "credential.*helper": "git-credential-",
    "pull.(twohead|octopus)": "git-merge-",
    r"remote\..*\.vcs": "git-remote-",
    r"(diff|merge)\.(gui)?tool|man\.viewer": "",
}
GIT_URL_KEY = r"(remote|submodule)\..*\.(url|pushurl)|branch\..*\.(remote|pushremote)|remote\.pushdefault"
GIT_URL_BASE = r"url\.(.*)\.(?:push)?insteadof"
HELPER_URL = r"[\w.+/-]+::"  # names a remote helper, a program (gitremote-helpers(7))
PLAIN_URL = r"(?:https?|ftps?|git|ssh|git\+ssh|ssh\+git)://[^-/\s]\S*|[\w.][\w.@-]*:(?!:|//)\S+"
LOCAL_URL = r"(?:file://)?(/.*)"
SIMPLE = r"[\w.+%-]*"  # a number, a boolean or a word: no path, URL or command
REFSPEC = r"[\^+]?[^\s:]*(?::[^\s:]*)?"
TEXT = r"[^\n]*"
REMOTE, URL = "remote", "url"  # values that depend on other settings, or on the place of the workspace
HARMLESS_SETTINGS = (  # keys, and their harmless values; patterns, since most processes need none of them
    (
        r"core\.(repositoryformatversion|bare|filemode|logallrefupdates|ignorecase|symlinks|precomposeunicode"
        r"|autocrlf|eol|safecrlf|sparsecheckout|sparsecheckoutcone|splitindex|untrackedcache|preloadindex"
        r"|multipackindex|commitgraph|compression|loosecompression|bigfilethreshold|abbrev|quotepath|checkstat"
        r"|trustctime|protecthfs|protectntfs|hidedotfiles|longpaths|fscache)",
        SIMPLE,
    ),
    (r"core\.fsmonitor", r"true|false|"),
    (r"core\.worktree", TEXT),  # the code that knows the Git folder judges the path
    (
        r"extensions\.(worktreeconfig|objectformat|compatobjectformat|refstorage|preciousobjects|noop"
        r"|relativeworktrees|submodulepathconfig)",
        SIMPLE,
    ),
    (r"branch\..*\.(remote|pushremote)|remote\.pushdefault", REMOTE),
    (r"remote\..*\.(url|pushurl)|submodule\..*\.url", URL),
    (r"remote\..*\.fetch|branch\..*\.merge", REFSPEC),
    (
        r"remote\..*\.(mirror|prune|prunetags|tagopt|skipdefaultupdate|skipfetchall|followremotehead"
        r"|gh-resolved)",
        SIMPLE,
    ),
    (r"branch\.(.*\.rebase|autosetupmerge|autosetuprebase|sort)", SIMPLE),
    (r"branch\..*\.description|user\.(name|email)", TEXT),
    (r"branch\..*\.(vscode-merge-base|gh-merge-base|github-pr-owner-number)", r"[\w./#-]*"),
    (r"submodule\..*\.(active|ignore|fetchrecursesubmodules)", SIMPLE),
    (r"submodule\..*\.branch|submodule\.active", r"[\w./*-]*"),
    (r"submodule\..*\.update", r"checkout|rebase|merge|none"),
    (r"submodule\..*\.gitdir", r"\.git/modules/(?!.*\.\.)[\w./%+-]+"),
    (r"submodule\.(recurse|fetchjobs|propagatebranches|alternatelocation|alternateerrorstrategy)", SIMPLE),
    (r"gc\.(auto|autodetach|autopacklimit|packrefs|cruftpacks|writecommitgraph|pruneexpire)", SIMPLE),
    (r"maintenance\.(auto|autodetach|strategy)", SIMPLE),
    (r"feature\.(manyfiles|experimental)|fetch\.(prune|prunetags|recursesubmodules|parallel|writecommitgraph)", SIMPLE),
    (r"pull\.(rebase|ff|autostash)|push\.(default|followtags|autosetupremote|recursesubmodules)", SIMPLE),
    (r"merge\.(ff|conflictstyle|renames|autostash)|rebase\.(autosquash|autostash|updaterefs)", SIMPLE),
    (r"index\.(version|threads|sparse|skiphash|recordendofindexentries|recordoffsettable)", SIMPLE),
    (r"status\.(branch|renames|short|showstash|showuntrackedfiles|submodulesummary)", SIMPLE),
    (r"advice\.\w+|color\.ui|user\.useconfigonly", r"true|false|auto|always|"),
    (r"lfs\.repositoryformatversion|lfs\..*\.(access|locksverify)", SIMPLE),
)
NO_COMMAND = re.compile(r"|true|false|yes|no|on|off|\d+", re.IGNORECASE)  # values that are no command
MOST_NAMED_FOLDERS = 50  # of one command
# $HOME and the like, and `$1` unless it is part of a path
KNOWN_SUBSTITUTION = (
    r"\$\{?(?:HOME|PWD|PATH|LOCAL|REMOTE|BASE|MERGED)\b\}?|(?:\$\(|`)(?:pwd|git rev-parse --show-toplevel)[)`]"
    r"|(?<![/\w.])\$(?:[@*#?]|\d|\{\d\})(?![/\w])"
)
SHELL_WORD = re.compile(r"(?<![\w$}/.~@%+-])[\w.~/@%+-]+")
SHELL_SUBSTITUTION = re.compile(r"(?:\$\([^)]*\)|\$\{[^}]*\}|\$\w+|`[^`]*`)/")
SED_COMMAND = re.compile(r"[sy](\W).*\1.*\1\w*")

GitSetting = tuple[str, str, str]  # file, key (lower case except between its first and last dot), value


class Refusal(Exception):
    """The reason why the session cannot start, with an HTTP status: 400 for a bad request, 409 for a bad workspace.

    The session could start without the folder `folder`, or with a repaired file `file`.
    """

    def __init__(self, words: str, status: int = 409, *, folder: str = "", file: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.status = status
        self.folder = folder
        self.file = file

    def advice(self, workspace: str) -> str:
        """Sentences with the remedy: an agent must not keep people out of their own folder.

        A container may have chosen the names. So a command names, quoted, only a path where git keeps the submodules
        and worktrees of this workspace: it leads nowhere else, and is one word.
        """
        mend = f". Mend {self.file!r} in an editor" if self.file else ""
        for name in ("modules", "worktrees"):
            top = f"{workspace}/.git/{name}"
            if path_inside(self.folder, top) and self.folder.isprintable() and ".." not in self.folder.split("/"):
                kept = f"git keeps {'all' if self.folder == top else 'one'} of the {name} there"
                return f"{mend}; or, if nothing in it is yours ({kept}), remove it: rm -r {shlex.quote(self.folder)}"
        return mend


def names_a_program(key: str, value: str) -> bool:
    """True if a setting makes git run something that it names, or read more configuration elsewhere. Pure."""
    if GIT_INCLUDE_KEY.fullmatch(key) or "ext::" in key + value:
        return True
    if re.fullmatch(GIT_URL_KEY, key, re.DOTALL):
        return bool(re.match(HELPER_URL, value))
    base = re.fullmatch(GIT_URL_BASE, key, re.DOTALL)
    if base:
        return bool(re.match(HELPER_URL, base[1]))
    if "/" in value and program_of_name(key, value):
        return True
    if key.startswith("submodule.") and key.endswith((".update", ".path")):
        return value.startswith("!")
    return bool(GIT_COMMAND_KEY.fullmatch(key)) and not NO_COMMAND.fullmatch(value)


def program_of_name(key: str, value: str) -> str:
    """The program that git runs for the name of a helper, strategy or tool; empty if the key names none. Pure."""
    prefix = next((prefix for keys, prefix in GIT_NAME_KEYS.items() if re.fullmatch(keys, key, re.DOTALL)), None)
    return "" if prefix is None else prefix + value


def not_harmless(
    settings: Sequence[tuple[str, str]], written_by: Sequence[str], known_urls: Callable[[], Collection[str]]
) -> list[tuple[str, str]]:
    """The settings (key, value) of one configuration that are not known to be harmless.

    `written_by` are folders of the host that the container can write: it may have put hooks into a repository there.
    `known_urls` gives the URLs that the person's own configuration names. Git fetches in submodules by itself: from any
    other URL, with the person's keys, that could reach a server of the agent's choice.
    """
    urls = [key for key, _ in settings if key.startswith("remote.") and key.endswith(".url")]
    remotes = {key[len("remote.") : -len(".url")] for key in urls}
    return [(key, value) for key, value in settings if not is_harmless(key, value, remotes, written_by, known_urls)]


def is_harmless(
    key: str,
    value: str,
    remotes: Iterable[str],
    written_by: Sequence[str],
    known_urls: Callable[[], Collection[str]],
) -> bool:
    """True if a setting is known to be harmless, given the names of the remotes that have a URL."""
    allowed = next((allowed for keys, allowed in HARMLESS_SETTINGS if re.fullmatch(keys, key, re.DOTALL)), None)
    if allowed is None:
        return False
    if allowed == REMOTE:  # git takes any other name for a path
        return value == "." or value in remotes
    if allowed == URL:
        local = re.fullmatch(LOCAL_URL, value, re.DOTALL)
        if local:
            is_plain = "%" not in value and not any(leads_into(local[1], top) for top in written_by)
        else:
            is_plain = bool(re.fullmatch(PLAIN_URL, value))
        return is_plain and value.rstrip("/") in known_urls()
    return bool(re.fullmatch(allowed, value))


def leads_into(path: str, top: str) -> bool:
    """True if a path ends in a folder, or leads through anything in it, which may become a link later."""
    steps = (os.path.normpath(step) for step in itertools.accumulate(path.split("/"), "{}/{}".format))
    ends = os.path.normpath(path), os.path.realpath(path)
    return any(path_inside(end, top) for end in ends) or any(path_inside(s, top) and s != top for s in steps)


def path_inside(path: str, parent: str) -> bool:
    """True if a path in normal form is another one or lies below it."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


# -- The commands and the configuration of git on the host


def git_on_host(
    git: str,
    workspace: str,
    homes: Sequence[str],
    environ: Mapping[str, str],
    *,
    sealed: Mapping[str, StandIn],
    searched: Sequence[str] = (),
) -> dict[str, object]:
    """The Git folders that git on this host finds from a workspace, and what it runs or reads as configuration.

    Each path in `places` has the text of the file that stands in for it while it is absent, or None for an empty
    folder. Links in the paths are not followed. `links` are the links in sealed folders: in those of `places`, and in
    the paths of `sealed`, which are relative to the workspace, or to each Git folder if they begin with .git. `unread`
    are the keys of commands that may run further files, which their words do not show.

    The configuration of the system, of the people with these home folders, of the repository, its submodules and its
    linked worktrees counts, with everything that it includes on any condition. So does that of `Nested` repositories
    in the `searched` folders: the workspace and the extra mounts that a container can write. Raises Refusal if git is
    missing (`git` is empty) or does not understand a file, unless that belongs to a nested repository.
    """
    outer, tops = repositories_of(workspace)
    shared, attributes = shared_git_files(git, homes, environ)
    settings = git_settings(git, [*configurations_of(tops), *shared], homes)
    add_working_trees(tops, settings)
    nested = Nested(git, homes, tops, searched)
    nested.search(workspace)
    for top, name in map(os.path.split, outer):
        if name == ".git":
            nested.keep_from_bare(top)
    everywhere = list(dict.fromkeys([workspace, *itertools.chain.from_iterable(tops.values())]))
    for path in dict.fromkeys(local_remotes([*settings, *nested.settings], tops, everywhere, homes)):
        nested.add_remote(path)
    settings += nested.settings
    places: list[tuple[str, StandIn]] = [(path, "") for path in (*shared, *attributes)]
    for setting in settings:
        folder = os.path.dirname(setting[0])
        is_own = folder in tops
        found = places_of(setting, tops[folder] if is_own else everywhere, [folder] if is_own else outer, homes)
        places += nested.that_can_be_sealed(folder, found)
    folders = sealed_folders(workspace, tops, places, sealed)
    return {
        "folders": outer,
        "nested": list(nested.folders),
        "nested_places": list(nested.places.items()),
        "places": places,
        "links": [(link, stand_in) for top, stand_in in folders.items() for link in nested.links_in(top)],
        "unread": unread_keys(settings, everywhere),
        "unsealed": list(nested.unsealed.items()),
        "cut": list(nested.cut.items()),
    }


def unread_keys(settings: Iterable[GitSetting], tops: Sequence[str]) -> list[str]:
    """The keys of shell commands that may run further files, which their words do not show. Pure."""
    unread: dict[str, None] = {}
    for _, key, value in settings:
        is_unread = names_a_command(key, value) and is_shell(key, value) and not is_readable(value)
        # A person who types an alias knows it, so it is reported only if it uses files of the workspace.
        if is_unread and (not key.startswith("alias.") or names_a_place(value, tops)):
            unread[key] = None
    return list(unread)


def local_remotes(
    settings: Iterable[GitSetting], tops: Mapping[str, list[str]], everywhere: Sequence[str], homes: Sequence[str]
) -> Iterator[str]:
    """The paths of this host that remotes name: `git push` runs the hooks of a repository there. Not in normal form.

    A relative path starts at the top of the working tree, and in a bare repository in its folder. `url.BASE.insteadOf`
    replaces the beginning of a URL. A branch may name a path in the place of a remote.
    """
    named = [one for one in settings if re.fullmatch(GIT_URL_KEY, one[1], re.DOTALL)]
    remotes = {key[len("remote.") :].rpartition(".")[0] for _, key, _ in named if key.startswith("remote.")}
    bases = [(value, re.fullmatch(GIT_URL_BASE, key, re.DOTALL)) for _, key, value in settings]
    for file, key, value in named:
        if value in remotes and not key.endswith("url"):
            continue
        folder = os.path.dirname(file)
        starts = (tops[folder] or [folder]) if folder in tops else everywhere
        yield from meant_paths(path_of_url(value), starts, homes)
        for begin, base in bases:
            if base and value.startswith(begin):
                yield from meant_paths(path_of_url(base[1] + value[len(begin) :]), starts, homes)


def path_of_url(url: str) -> str:
    """The local path in a URL; empty if it leads to a server or a program (parse_connect_url in git's connect.c)."""
    if url.startswith("file://"):
        decoded = re.sub(r"%([0-9a-fA-F]{2})", lambda code: chr(int(code[1], 16)), url[len("file://") :])
        return "/" + decoded.lstrip("/")
    return url if "/" in url.partition(":")[0] or ":" not in url else ""


def sealed_folders(
    workspace: str,
    git_folders: Collection[str],
    places: Iterable[tuple[str, StandIn]],
    sealed: Mapping[str, StandIn],
) -> dict[str, StandIn]:
    """The folders in which links count, each with the stand-in for the targets of these links. Pure.

    They are the folders among `places`, and the paths of `sealed`; see `git_on_host`.
    """
    folders: dict[str, StandIn] = {path: "" for path, stand_in in places if stand_in is None}
    for path, stand_in in sealed.items():
        in_git = path.startswith(".git/")
        paths = [f"{folder}/{path[5:]}" for folder in git_folders] if in_git else [f"{workspace}/{path}"]
        folders.update(dict.fromkeys(paths, stand_in))
    return folders


def configurations_of(git_folders: Iterable[str]) -> list[str]:
    """The configuration files of Git folders."""
    files: list[str] = []
    for folder in git_folders:
        files += (f"{folder}/config", f"{folder}/config.worktree")
    return files


def add_working_trees(tops: Mapping[str, list[str]], settings: Iterable[GitSetting]) -> None:
    """Add the working trees that the configuration of Git folders names to the known ones of each folder."""
    for file, key, value in settings:
        folder = os.path.dirname(file)
        if key == "core.worktree" and folder in tops:
            top = joined_path(folder, value)
            if os.path.isdir(top):
                tops[folder].append(top)


class Nested:
    """The repositories in folders that a container gets, except the one that contains the workspace.

    These are the person's other repositories in an extra mount, repositories of which a mount is a part, repositories
    within the workspace, and the `.git` files of checked-out submodules and linked worktrees. An agent may have made
    one in an earlier session, so nothing in them keeps a session from starting: what cannot be sealed is reported.
    """

    def __init__(self, git: str, homes: Sequence[str], tops: dict[str, list[str]], searched: Sequence[str]) -> None:
        self.git = git
        self.homes = homes
        self.tops = tops  # the known Git folders, each with its working trees; the search adds to them
        self.searched = searched
        self.workspace = ""
        self.known = frozenset(tops)
        self.left = MOST_NESTED  # Git folders that may still be added
        self.folders: dict[str, None] = {}  # Git folders, and `.git` files
        self.settings: list[GitSetting] = []
        self.unsealed: dict[str, str] = {}  # top of a repository -> why it, or what it names, is not sealed
        self.cut: dict[str, str] = {}  # folder -> why not all of it was searched
        self.of: dict[str, str] = {}  # Git folder, or a path that its configuration names -> top of the repository
        self.remotes = 0  # places of local remotes
        self.places: dict[str, StandIn] = {}  # further paths to seal, by which git would take another repository

    def search(self, workspace: str) -> None:
        """Find the repositories, those near the top first, and the settings in their configurations."""
        self.workspace = workspace
        if workspace in self.searched:
            for tree in [*itertools.chain.from_iterable(self.tops.values())]:
                if tree != workspace and os.path.isfile(f"{tree}/.git"):
                    self.add(tree)
            self.search_below(workspace, MOST_SEARCHED)
        self.left = MOST_NESTED  # an agent that fills the workspace with repositories cannot keep others unsealed
        left = MOST_SEARCHED
        for top in self.searched:
            if top != workspace:
                for above in folders_above(top):
                    self.add(above)
                left -= self.search_below(top, left)

    def search_below(self, top: str, most: int) -> int:
        """Search a folder; returns how many folders were searched."""
        waiting = deque([top])
        count = entries = 0
        device = os.lstat(top).st_dev
        while waiting:
            path = waiting.popleft()
            if count >= most or entries > MOST_SEARCHED_ENTRIES:
                self.cut[top] = f"it has more than {MOST_SEARCHED} folders or {MOST_SEARCHED_ENTRIES} files"
                break
            count += 1
            names: list[str] = []
            folders: list[str] = []
            try:
                with os.scandir(path) as found:
                    for entry in itertools.islice(found, MOST_SEARCHED_ENTRIES):
                        names.append(entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.name)
            except OSError as error:  # it is gone, or is not a folder of ours
                if error.errno == errno.ENAMETOOLONG:
                    self.cut[top] = "paths in it are too long"
            entries += len(names)
            is_bare = "objects" in folders and "refs" in folders and "HEAD" in names
            # The container does not get what this host has mounted within the folder.
            if path != top and (".git" in names or is_bare) and os.lstat(path).st_dev == device:
                self.add(path)
            if not is_bare:
                waiting.extend(f"{path}/{name}" for name in sorted(folders) if name not in NOT_SEARCHED)
        return count

    def add(self, top: str) -> None:
        """Add the repository at a folder, with its submodules and its linked worktrees, unless it is known."""
        own = f"{top}/.git"
        if own in self.known or own in self.folders or top in self.unsealed:
            return
        try:
            found = [*([own] if os.path.lexists(own) else []), *git_folders_at(top)]
            found = [folder for folder in dict.fromkeys(found) if folder not in self.known]
            if not found or not any(map(self.is_in_reach, (top, *found))):
                return
            fresh: dict[str, list[str]] = {folder: [top] for folder in found if os.path.isdir(folder)}
            add_modules_and_worktrees(fresh, list(fresh))
            settings = git_settings(self.git, configurations_of(fresh), self.homes)
        except Refusal as refusal:
            self.unsealed[top] = refusal.words
            return
        self.left -= len({*found, *fresh})
        odd = next(filter(None, map(odd_path_in, filter(self.is_in_reach, found))), "")
        if odd or self.left < 0:
            much = f"there are more than {MOST_NESTED} repositories, submodules and worktrees"
            self.unsealed[top] = f"'{odd}' is neither a file nor a folder" if odd else much
            return
        self.folders.update(dict.fromkeys(found))
        if top in found:
            self.add_place(own)  # git prefers it to the bare repository around it
        else:
            self.keep_from_bare(top)
        self.of.update(dict.fromkeys(fresh, top))
        add_working_trees(fresh, settings)
        for folder, trees in fresh.items():
            self.tops.setdefault(folder, []).extend(trees)
        self.settings += settings

    def keep_from_bare(self, top: str) -> None:
        """Keep the folder around a `.git` from becoming a bare repository: an agent can break that `.git`."""
        if top == self.workspace or top in self.folders or os.path.isfile(f"{top}/.git"):
            return
        if os.path.isfile(f"{top}/commondir"):  # then it may be a repository, and its commands are sealed
            self.folders[top] = None
        self.add_place(f"{top}/commondir")

    def add_remote(self, path: str) -> None:
        """Seal the place of a remote's repository, or that repository.

        Git tries PATH/.git, PATH, PATH.git/.git and PATH.git, in this order (enter_repo in its path.c).
        """
        for named in (path.rstrip("/"), f"{path.rstrip('/')}.git"):
            if not any(leads_into(named, one) for one in self.searched):
                continue
            top = os.path.realpath(named)
            self.remotes += 1
            if self.remotes > MOST_REMOTES:
                self.unsealed[top] = f"git has more than {MOST_REMOTES} local remotes here"
            elif self.can_be_led_away(named) or not os.path.isdir(lowest_folder(top)) or is_special(top):
                self.unsealed[top] = "a remote of git's leads there by a link, by '..' or through a file"
            elif not os.path.isdir(top):
                self.add_place(top)
            else:
                self.add(top)
                if not os.path.lexists(f"{top}/.git"):
                    self.add_place(f"{top}/.git")
                if not is_bare(top):
                    self.keep_from_bare(top)

    def can_be_led_away(self, path: str) -> bool:
        """True if a container can make a path lead to another place."""
        steps = itertools.accumulate(path.split("/"), "{}/{}".format)
        links = [step for step in steps if os.path.islink(step) or step.endswith("/..")]
        return any(path_inside(os.path.normpath(link), top) for link in links for top in self.searched)

    def add_place(self, path: str) -> None:
        """Seal a path, with an empty folder while it is absent, if a container could write there."""
        if any(path_inside(path, top) and path != top for top in self.searched):
            self.places[path] = None

    def is_in_reach(self, path: str) -> bool:
        """True if a container gets a folder, a part of it, or a folder above it."""
        return any(path_inside(path, top) or path_inside(top, path) for top in self.searched)

    def that_can_be_sealed(self, folder: str, places: Iterable[tuple[str, StandIn]]) -> Iterator[tuple[str, StandIn]]:
        """The paths that a configuration names, except those whose seal would cover all that a container gets."""
        repository = self.of.get(folder, "")
        for path, stand_in in places:
            if repository and any(path_inside(top, os.path.realpath(path)) for top in self.searched):
                self.unsealed[repository] = f"its configuration names '{path}'"
                continue
            if repository:
                self.of.setdefault(path, repository)
            yield path, stand_in

    def links_in(self, top: str) -> Iterator[str]:
        """As the function `links_in`; in a nested repository, links that cannot be sealed are reported and left out."""
        repository = self.of.get(top) or self.of.get(os.path.dirname(top))
        if not repository:
            yield from links_in(top)
            return
        try:
            for link in links_in(top):
                first = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
                if first == os.path.realpath(link):
                    yield link
                else:
                    self.unsealed[repository] = f"'{link}' leads to another link"
        except (Refusal, OSError) as error:
            self.unsealed[repository] = str(error)


def is_bare(top: str) -> bool:
    """True if git may take a folder without `.git` for a bare repository."""
    return all(os.path.exists(f"{top}/{name}") for name in ("HEAD", "objects", "refs"))


def is_special(path: str) -> bool:
    """True if there is something that is neither a file nor a folder."""
    return os.path.lexists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def lowest_folder(path: str) -> str:
    """The lowest existing path above another one: a folder, unless something else is in the way."""
    path = os.path.dirname(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def odd_path_in(git_folder: str) -> str:
    """A path that cannot be sealed, such as a link, in a Git folder, or the folder itself; empty if there is none."""
    for path in (git_folder, *(f"{git_folder}/{name}" for name in SEALED_IN_GIT)):
        with suppress(OSError):
            kind = os.lstat(path).st_mode
            if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                return path
    return ""


def links_in(top: str) -> Iterator[str]:
    """The links in a sealed folder, at any depth, that lead to files or to nothing yet.

    The seal keeps a link as it is, but git still runs or reads the file at its end, such as a hook that a project keeps
    in `scripts`. A link to a folder does not count: git looks for no hook below one.
    """
    count = links = 0
    for folder, below, files in os.walk(top) if not os.path.islink(top) else ():
        count += 1 + len(files)
        for path in (f"{folder}/{name}" for name in (*below, *files)):
            if os.path.islink(path) and not os.path.isdir(path):
                links += 1
                yield path
        if count > MOST_FOLDERS or links > MOST_SEALED_LINKS:
            words = f"'{top}' is to be protected, with what links in it lead to, and holds more than"
            much = f"{MOST_SEALED_LINKS} links" if links > MOST_SEALED_LINKS else f"{MOST_FOLDERS} files and folders"
            raise Refusal(f"{words} {much}: remove those that an agent made, with rm -r")


def repositories_of(workspace: str) -> tuple[list[str], dict[str, list[str]]]:
    """The Git folders that git finds from a workspace; and these and the submodules' with the working trees of each.

    Working trees that are absent do not count: a placeholder in one would keep git from making it.
    Git starts commands and relative paths at the top of a working tree. That of a submodule is in its configuration.
    """
    tops: dict[str, list[str]] = {}
    for top in folders_above(workspace):
        for folder in git_folders_at(top):
            tops.setdefault(folder, []).append(top)
    outer = list(tops)
    add_modules_and_worktrees(tops, outer)
    return outer, tops


def add_modules_and_worktrees(tops: dict[str, list[str]], git_folders: Iterable[str]) -> None:
    """Add the Git folders of the submodules and linked worktrees of repositories, each with its working trees."""
    for folder in git_folders:
        for module in plain_git_folders(f"{folder}/modules"):
            tops.setdefault(module, [])
        for own in (f"{folder}/worktrees/{name}" for name in plain_folders(f"{folder}/worktrees")):
            top, name = os.path.split(joined_path(own, read_git_file(f"{own}/gitdir").strip()))
            for user in (folder, own) if name == ".git" and os.path.isdir(top) else ():
                tops.setdefault(user, []).append(top)


def folders_above(path: str) -> Iterator[str]:
    """A path and all folders above it, from the bottom up."""
    while path != os.path.dirname(path):
        yield path
        path = os.path.dirname(path)
    yield path


def git_folders_at(top: str) -> list[str]:
    """The Git folder that git finds in a folder itself, and the common one that a linked worktree has as well."""
    git_folder = f"{top}/.git"
    link = read_git_file(git_folder)  # a linked worktree or a submodule has a file there
    if link:
        git_folder = joined_path(top, link.partition("gitdir:")[2].strip())
    elif not os.path.isdir(git_folder):
        if not is_bare(top):
            return []
        git_folder = top  # a bare repository
    common = read_git_file(f"{git_folder}/commondir").strip()
    return [git_folder] if common in ("", ".") else [git_folder, joined_path(git_folder, common)]


def read_git_file(path: str) -> str:
    """A file that git on this host reads; empty if there is none. Raises Refusal unless it is small and plain."""
    if os.path.isdir(path):
        return ""
    reason = ""
    if os.path.realpath(path).startswith(("/dev/", "/proc/", "/sys/")):
        words = f"{path}: cannot be read: reading a special file may do anything"
        raise Refusal(words, folder=os.path.dirname(path), file=path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe does not block
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                reason = "it is not a regular file"
            data = b"" if reason else stream.read(GIT_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        reason = str(error.strerror)
    else:
        if len(data) > GIT_CONFIG_BYTES:
            reason = f"it is larger than {GIT_CONFIG_BYTES >> 10} KiB"
    if reason:
        words = f"what git on this host runs cannot be found out: {path}: cannot be read: {reason}"
        raise Refusal(words, folder=os.path.dirname(path), file=path)
    return os.fsdecode(data)


def ask_git(git: str, words: Sequence[str], text: str = "") -> list[str]:
    """Run `git config` and return the fields that it prints with -z. Raises Refusal with git's words.

    This makes git run nothing: it has no repository (GIT_DIR), no configuration of a person (HOME) and no terminal for
    a pager, and other commands use the hooks, filters and monitors that a configuration names (git-config(1)).
    """
    environ = {"PATH": os.defpath, "LC_ALL": "C", "HOME": "/nonexistent", "GIT_DIR": os.devnull}
    streams = [os.memfd_create("git") for _ in range(3)]
    try:
        os.pwrite(streams[0], os.fsencode(text), 0)
        ends = [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams)]
        child = os.posix_spawn(git, [git, "config", *words], environ, file_actions=ends)
        failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        _, said, errors = (os.fsdecode(os.pread(stream, os.fstat(stream).st_size, 0)) for stream in streams)
    except OSError as error:
        raise Refusal(f"git cannot be asked about its configuration: {error}") from None
    finally:
        for stream in streams:
            os.close(stream)
    if failed:
        raise Refusal(errors.strip() or f"exit code {failed}")
    return said.split("\0")[:-1]


def shared_git_files(git: str, homes: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The existing configuration files of the system and of people, and their files of attributes."""
    folders = [*(f"{home}/.config/git" for home in homes), f"{environ.get('XDG_CONFIG_HOME', '')}/git"]
    found = [f"{home}/.gitconfig" for home in homes] + [f"{folder}/config" for folder in folders]
    found += [environ.get("GIT_CONFIG_GLOBAL", ""), environ.get("GIT_CONFIG_SYSTEM", ""), "/etc/gitconfig"]
    if git:
        with suppress(Refusal):  # git reports an absent one as an error
            fields = ask_git(git, ["--system", "--list", "--show-origin", "--no-includes", "-z"])
            found += [origin.partition("file:")[2] for origin in fields[::2]]
    there = [path for path in dict.fromkeys(found) if path.startswith("/") and os.path.lexists(path)]
    attributes = [f"{folder}/attributes" for folder in folders]
    return there, list(filter(os.path.lexists, attributes))


def git_settings(git: str, files: Sequence[str], homes: Sequence[str]) -> list[GitSetting]:
    """All settings in configuration files and in the files that they include."""
    found: list[GitSetting] = []
    files = list(files)
    origins: dict[str, str] = {}  # file -> the configuration file that included it, directly or not
    for file in files:  # the list grows by the included files
        origin = origins.setdefault(file, file)
        folder = os.path.dirname(origin)
        if len(files) > GIT_CONFIG_FILES:
            words = f"the configuration of git has more than {GIT_CONFIG_FILES} files"
            raise Refusal(words, folder=folder, file=origin)
        try:
            text = read_git_file(file).removeprefix("\ufeff")
        except Refusal as error:
            raise Refusal(error.words, folder=folder, file=origin) from error
        if not text:
            continue
        if not git:
            words = f"git is not in $PATH, and only git can tell what '{file}' makes it run on this host. Install git"
            raise Refusal(f"the workspace cannot be protected: {words}")
        try:
            fields = ask_git(git, ["--file", "-", "--list", "--no-includes", "-z"], text)
        except Refusal as error:
            included = "" if file == origin else f", which '{origin}' includes"
            words = f"git does not understand '{file}'{included}: {error.words}"
            raise Refusal(words, folder=folder, file=origin) from error
        for key, _, value in (text.partition("\n") for text in fields):
            found.append((file, key, value))
            if GIT_INCLUDE_KEY.fullmatch(key):
                more = [path for path in meant_paths(value, [os.path.dirname(file)], homes) if path not in files]
                files += more
                origins.update(dict.fromkeys(more, origin))
    return found


def places_of(
    setting: GitSetting, tops: Sequence[str], git_folders: Sequence[str], homes: Sequence[str]
) -> Iterator[tuple[str, StandIn]]:
    """The paths that a setting makes git run or read as configuration; it holds for the working trees `tops`."""
    file, key, value = setting
    if GIT_INCLUDE_KEY.fullmatch(key):
        yield from ((path, "") for path in meant_paths(value, [os.path.dirname(file)], homes))
        return
    if key == "core.attributesfile":
        yield from ((path, "") for path in meant_paths(value, tops, homes))
        return
    if key in ("core.hookspath", "init.templatedir"):
        # A hook for pushed commits runs in the Git folder (githooks(5)).
        yield from ((path, None) for path in meant_paths(value, [*tops, *git_folders], homes))
        return
    program = program_of_name(key, value) if re.fullmatch(r"[\w.+-]+/[\w./+-]*", value) else ""
    if program:
        yield from ((path, None) for path in meant_paths(program, tops, homes))
    if names_a_command(key, value):
        words = command_words(f"{key} {value}" if "ext::" in key else value)
        for word in words:
            is_explicit = word.startswith(("/", "~/", "./", "../")) and not re.search(r"[\s$]", word)
            is_path = "/" in word and SHELL_WORD.fullmatch(word) and not SED_COMMAND.fullmatch(word)
            # Many words of an alias look like paths: `origin/main` in `git log`.
            is_certain = is_explicit or (is_path and not key.startswith("alias."))
            for path in meant_paths(word, tops, homes):
                # Git looks for a bare name in $PATH, but it may be the argument of an interpreter.
                if os.path.isfile(path) or (is_certain and not os.path.isdir(path)):
                    yield path, None
        if is_shell(key, value):
            yield from ((path, None) for path in files_in_named_folders(words, tops, homes))


def names_a_command(key: str, value: str) -> bool:
    """True if the value of a setting is a command; a URL may contain one too (git-remote-ext(1)). Pure."""
    return bool(GIT_COMMAND_KEY.fullmatch(key)) or "ext::" in key + value


def is_shell(key: str, value: str) -> bool:
    """True if git runs the command of a setting by a shell: an alias only with a `!`. Pure."""
    return not key.startswith("alias.") or value.startswith("!")


def files_in_named_folders(words: Iterable[str], tops: Sequence[str], homes: Sequence[str]) -> Iterator[str]:
    """The files that words of a command name in folders that others of its words name, as in `cd tools && ./run`."""
    parts = parts_of(words)
    folders: list[str] = []
    for base in itertools.chain(tops, folders):  # the list grows
        for path in paths_in_words(parts, [base], homes):
            if os.path.isfile(path):
                yield path
            elif os.path.isdir(path) and path not in folders and path not in tops and len(folders) < MOST_NAMED_FOLDERS:
                folders.append(path)


def parts_of(words: Iterable[str]) -> set[str]:
    """Words of a command, and the parts of them that may be paths. Pure."""
    parts: set[str] = set()
    for word in words:
        from_top = SHELL_SUBSTITUTION.sub(" ./", word)
        parts |= {word, *re.split(r"[\s=:$*?]", from_top)}
    return parts


def paths_in_words(words: Iterable[str], bases: Sequence[str], homes: Sequence[str]) -> set[str]:
    """The absolute paths that words may mean, without a `/` at the end."""
    meant = itertools.chain.from_iterable(meant_paths(word, bases, homes) for word in words)
    return {path.rstrip("/") for path in meant}


def names_a_place(command: str, tops: Sequence[str]) -> bool:
    """True if a word of a command is a path below one of these folders."""
    found = paths_in_words(parts_of(command_words(command)), tops, [])
    below = tuple(f"{top}/" for top in tops)
    return any(os.path.lexists(path) for path in found if path.startswith(below))


def is_readable(command: str) -> bool:
    """True if the words of a shell command name all files that it runs, as far as one can tell. Pure.

    The arguments of an alias, the variables of `git difftool` and the top of the working tree are known.
    """
    in_shell = re.search(r"\b(?:ba|da|z|k)?sh\s+-\w*c\b", command)
    unquoted = command if in_shell else re.sub(r"'[^']*'|\"[^\"]*\"", "", command)
    text = re.sub(KNOWN_SUBSTITUTION, "", re.sub(r"[\"']", "", command))
    return not re.search(r"[$`]|\b(?:eval|find|xargs|parallel)\s", text) and not re.search(r"[*?]", unquoted)


def command_words(command: str) -> set[str]:
    """The words of a shell command that may be paths, also those within its quotes, and the whole command.

    A path after a substitution is assumed to start at the top of the working tree, as in `$(git rev-parse …)/tool`. A
    word may have a path after `=` or an option: `-F./file`.
    """
    text = re.sub(r"\$HOME\b|\$\{HOME\}", "~", command)
    from_top = SHELL_SUBSTITUTION.sub(" ./", text)
    found = {command, *SHELL_WORD.findall(text), *SHELL_WORD.findall(from_top)}
    with suppress(ValueError):  # a quote without end
        split = [word.strip() for word in (*shlex.split(from_top), *shlex.split(text.removeprefix("!")))]
        found.update(split)
        for word in split:
            plain = SHELL_SUBSTITUTION.sub("./", word)
            if "$" not in plain:
                found.add(plain)
            if plain != command and re.search(r"\s", plain):  # a script in quotes
                found.update(SHELL_WORD.findall(plain))
    for word in list(found):
        attached = re.match(r"-{0,2}\w[\w-]*=(.+)|-\w(?!-)(.+)", word)
        if attached:
            plain = SHELL_SUBSTITUTION.sub("./", attached[1] or attached[2])
            if not re.search(r"[\s$:]", plain):
                found.add(plain)
    return found


def meant_paths(value: str, bases: Sequence[str], homes: Sequence[str]) -> list[str]:
    """The absolute paths that a value may stand for; none for an empty value or a word that is not a path."""
    value = value.removeprefix(":(optional)")
    if value in ("", ".", "..") or value.startswith(("-", "%(prefix)/")) or "\0" in value:
        return []
    if value.startswith("~/"):
        return [home + value[1:] for home in homes]
    path = os.path.expanduser(value)
    return [path] if path.startswith("/") else [joined_path(base, path) for base in bases]


def joined_path(base: str, path: str) -> str:
    """A path joined to a folder. A leading `..` goes up by name, since no link is on the way there."""
    step, _, rest = path.partition("/")
    while step in ("..", "."):
        base = os.path.dirname(base) if step == ".." else base
        path = rest
        step, _, rest = path.partition("/")
    return os.path.join(base, path) if path else base


# -- The existing protected paths, for plain devices


def device_paths(source: str, patterns: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[str, bool]]:
    """The paths below a folder to mount over themselves, parents first, and whether each is read-only.

    Raises Refusal (400) for a symlink at or above a protected path; an optional path is left out instead. An absent
    path is left out too: only the locked form can create one and reliably remove it again.
    """
    covers: dict[str, bool] = {}
    wanted = [pattern for pattern in patterns if pattern not in optional or not has_link(source, pattern)]
    found = itertools.chain.from_iterable(plain_paths(source, pattern) for pattern in wanted)
    for path in sorted(set(found)):
        # The folders on the way, and the path itself.
        for step in itertools.accumulate(path.split("/"), "{}/{}".format):
            if os.path.islink(f"{source}/{step}"):
                words = f"'{step}' in '{source}' is a symlink, so that '{path}' cannot be protected"
                raise Refusal(f"{words}. Put what it leads to in its place, or remove the link", 400)
            if not os.path.lexists(f"{source}/{step}"):
                break
            covers[step] = covers.get(step, False) or step == path or os.path.isfile(f"{source}/{step}")
            if covers[step]:
                break
    return sorted(covers.items())


def has_link(source: str, path: str) -> bool:
    """True if a path below a folder, or a folder on the way to it, is a symlink."""
    return any(os.path.islink(f"{source}/{step}") for step in itertools.accumulate(path.split("/"), "{}/{}".format))


def plain_paths(source: str, pattern: str) -> list[str]:
    """As `matching_paths` of hook.py, but by path: for a folder that nobody else is changing."""
    found = [""]
    for part in pattern.split("/"):
        if part == "*":
            found = [f"{path}/{name}" for path in found for name in plain_folders(f"{source}{path}")]
        elif part == "**":
            found = [folder[len(source) :] for path in found for folder in plain_git_folders(f"{source}{path}")]
        else:
            found = [f"{path}/{part}" for path in found]
    return [path.lstrip("/") for path in found]


def plain_git_folders(path: str) -> list[str]:
    """As `git_folders` of hook.py, but by path. Raises Refusal if there are too many folders."""
    found: list[str] = []
    seen: list[str] = []
    for number, (folder, below, files) in enumerate(os.walk(path)):
        seen.append(folder)
        if number >= MOST_FOLDERS:
            raise Refusal(f"'{path}' holds more than {MOST_FOLDERS} folders", folder=fullest(path, seen))
        above, name = os.path.split(folder)
        names = {*below, *files}
        if name in FILLED_BY_GIT and above in found and "config" not in names:
            below.clear()
        elif folder != path and names & {"HEAD", "config"}:
            found.append(folder)
    return found


def fullest(top: str, paths: Iterable[str]) -> str:
    """The folder directly below another one that contains most of these paths; that other one if none contains half."""
    names = Counter(path[len(top) + 1 :].partition("/")[0] for path in paths if path != top)
    name, count = max(names.items(), key=lambda item: item[1], default=("", 0))
    return f"{top}/{name}" if count * 2 > sum(names.values()) else top


def plain_folders(path: str) -> list[str]:
    """The names of the folders in a folder, without symlinks."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def answer(question: Mapping[str, Any]) -> dict[str, object]:
    """The answer to a question."""
    try:
        if "source" in question:
            return {"covers": device_paths(**question)}
        return git_on_host(**question)
    except Refusal as refusal:
        words = refusal.words + refusal.advice(question.get("workspace") or question["source"])
        return {"refused": words, "status": refusal.status}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
