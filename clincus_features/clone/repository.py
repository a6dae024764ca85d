"""The repository of a folder on this host: what it is, and what keeps it from being cloned.

Its references are read as files, and its configuration by `git config` alone, which runs nothing. All other work is
done by git with a Git folder of our own: see private.py.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import clincus

from .folder import Folder

SMALL = 1 << 20  # bytes of a file of git's that is read whole
PACKED_REFS = 64 << 20  # bytes
REFS = 200_000
REF_KINDS = ("refs/heads", "refs/tags", "refs/remotes")
STORED = re.compile("pack|[0-9a-f]{2}")  # folders with objects (gitrepository-layout(5))
OBJECT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# git-check-ref-format(1). Git itself passes over a reference of another name.
NO_REF = re.compile(r"[\0- \x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|[/.]$")
# Settings that change what git takes for a change in a file. Their values are words, and name nothing that is run.
READING = ("autocrlf", "eol", "filemode", "symlinks", "ignorecase", "precomposeunicode", "sharedrepository")
WORD = re.compile(r"[A-Za-z0-9]{1,10}")


@dataclass(frozen=True)
class Repository:
    """A Git repository of this host and the work tree that a session is to have."""

    git: str  # the program
    workspace: str
    folder: str = ""  # the Git folder of this work tree, with HEAD; empty for a folder without git
    common: str = ""  # the Git folder with references and objects
    branch: str = ""  # the reference that is checked out; empty if that is a commit, and none for a folder without git
    head: str = ""  # the commit that is checked out; empty before the first one
    is_bare: bool = False
    is_sparse: bool = False
    refs: Mapping[str, str] = field(default_factory=dict)
    core: Mapping[str, str] = field(default_factory=dict)  # those of READING that are set
    ignored: bytes = b""  # the patterns of the person's and the repository's own lists of ignored files
    persons_attributes: bytes = b""  # of files, by the person's own list (gitattributes(5))
    attributes: bytes = b""  # by the repository's list in its Git folder
    owner: tuple[int, int] = (0, 0)  # user and group of what git writes into it
    holder: str = ""  # the repository that the folder lies in, if it has none of its own

    @property
    def object_format(self) -> str:
        """How commits are named: `sha1` or `sha256`."""
        return "sha256" if len(next(iter(self.refs.values()), self.head)) == 64 else "sha1"


def find_repository(workspace: str, environ: Mapping[str, str]) -> Repository:
    """Look at the folder of a session. Raises ClincusError(409) with what to do if it cannot be cloned."""
    git = clincus.find_git(workspace, environ)
    if not git:
        raise clincus.ClincusError("git is not in $PATH: install it on this host to work on a clone", 409)
    persons = git_config(git, environ)
    plain = Repository(
        git,
        workspace,
        owner=owner_of(workspace),
        ignored=persons_list(persons, environ, "excludes", "ignore"),
        persons_attributes=persons_list(persons, environ, "attributes", "attributes"),
    )
    folder = git_folder(workspace)
    if not folder:
        return replace(plain, holder=next(filter(git_folder, above(workspace)), ""))
    with Folder(folder) as own:
        common = os.path.normpath(os.path.join(folder, text_of(own, "commondir") or "."))
        at = text_of(own, "HEAD")
        back = text_of(own, "gitdir")
        texts = [own.read("config.worktree", SMALL)]
    with Folder(common) as shared:
        texts.insert(0, shared.read("config", SMALL))
        refs = read_refs(shared)
        ignored = plain.ignored + b"\n" + shared.read("info/exclude", SMALL)
        attributes = shared.read("info/attributes", SMALL)
    settings = {**persons, **{key: value for text in texts for key, value in git_config(git, environ, text).items()}}
    if folder not in (workspace, f"{workspace}/.git") and not names_back(folder, workspace, back, settings):
        raise refusal(workspace, f"its .git leads to '{folder}', which does not name this folder as its work tree")
    if common != os.path.normpath(folder) and not is_worktree_of(folder, common):
        raise refusal(workspace, f"its Git folder has commits of '{common}', and is no work tree that git made there")
    check_layout(workspace, common)
    branch = at[4:].strip() if at.startswith("ref:") else ""
    head = refs.get(branch, "") if branch else at
    if (branch and not is_ref(branch)) or (not branch and not OBJECT.fullmatch(head)):
        raise refusal(workspace, "its HEAD is broken")
    return replace(
        plain,
        folder=folder,
        common=common,
        branch=branch,
        head=head,
        is_bare=folder == workspace,
        is_sparse=settings.get("core.sparsecheckout") == "true",
        refs=refs,
        core={key: settings[f"core.{key}"] for key in READING if WORD.fullmatch(settings.get(f"core.{key}", ""))},
        ignored=ignored,
        attributes=attributes,
        owner=owner_of(common),
    )


def git_folder(workspace: str) -> str:
    """The Git folder of a folder itself; empty if there is none. Raises ClincusError(409) if its .git leads to none."""
    with Folder(workspace) as top:
        found, text = top.status(".git"), text_of(top, ".git")
        if found is None:
            is_bare = all(top.status(name) is not None for name in ("HEAD", "objects", "refs"))
            return workspace if is_bare else ""
    if stat.S_ISLNK(found.st_mode):
        raise refusal(workspace, "its .git is a symbolic link. Open the folder that it leads to")
    folder = f"{workspace}/.git"
    if text.startswith("gitdir:"):  # a linked work tree, or a submodule
        folder = os.path.normpath(os.path.join(workspace, text[7:].strip()))
    if not os.path.isdir(folder):
        raise refusal(workspace, "its .git leads to no Git folder. Mend it, or move it away")
    return folder


def text_of(folder: Folder, name: str) -> str:
    """A small file of git's, without the line break at its end; empty if there is none. Raises ClincusError(409)."""
    return os.fsdecode(folder.read(name, SMALL)).strip()


def git_config(git: str, environ: Mapping[str, str], text: bytes | None = None) -> dict[str, str]:
    """The settings in the text of a configuration file, else those of this person and of the system.

    `git config` runs nothing for this: it has no repository (GIT_DIR), and what a configuration names belongs to other
    commands. Raises ClincusError(409) with git's words.
    """
    words = ["--includes", "--list", "-z"] if text is None else ["--file", "-", "--no-includes", "--list", "-z"]
    own = {name: environ[name] for name in ("HOME", "XDG_CONFIG_HOME") if name in environ and text is None}
    known = {"PATH": os.defpath, "LC_ALL": "C", "GIT_DIR": os.devnull, **own}
    done = clincus.run_child([git, "config", *words], stdin=text or b"", timeout=20, environ=known, cwd="/")
    if done.code != 0:
        raise clincus.ClincusError(f"git does not understand its configuration: {done.reason}", 409)
    fields = os.fsdecode(done.stdout).split("\0")[:-1]
    return {key: value for key, _, value in (line.partition("\n") for line in fields)}


def starting_at(repository: Repository, branch: str) -> Repository:
    """The repository as if another branch were checked out, without uncommitted changes. Raises ClincusError(400)."""
    if not repository.folder:
        raise clincus.ClincusError(f"'{repository.workspace}' has no branch '{branch}': it is no Git repository", 400)
    for ref, local in (
        (f"refs/heads/{branch}", f"refs/heads/{branch}"),
        (f"refs/remotes/{branch}", f"refs/heads/{branch.partition('/')[2]}"),
        (f"refs/tags/{branch}", ""),
    ):
        if ref in repository.refs:
            return replace(repository, branch=local, head=repository.refs[ref], is_bare=True)
    raise clincus.ClincusError(f"'{repository.workspace}' has no branch {clincus.shorten(branch)}", 400)


def refusal(workspace: str, reason: str) -> clincus.ClincusError:
    """The error for a folder that cannot be cloned."""
    return clincus.ClincusError(f"'{workspace}' cannot be cloned: {reason}", 409)


def owner_of(path: str) -> tuple[int, int]:
    """User and group of a folder."""
    found = os.stat(path)
    return found.st_uid, found.st_gid


def above(path: str) -> list[str]:
    """The folders that a path lies in, the nearest first."""
    parents = []
    while (path := os.path.dirname(path)) not in ("/", ""):
        parents.append(path)
    return parents


def check_layout(workspace: str, common: str) -> None:
    """Raise ClincusError(409) for a repository of which a clone would not be whole, or would hold another's objects."""
    for path in (f"{common}/{name}" for name in ("objects", "refs", "logs", *REF_KINDS)):
        if os.path.islink(path):
            raise refusal(workspace, f"'{path}' is a symbolic link")
    check_objects(workspace, f"{common}/objects")
    if os.path.lexists(f"{common}/objects/info/alternates"):
        words = "it borrows objects from another repository (objects/info/alternates)"
        raise refusal(workspace, f"{words}. Make it whole: `git repack -a -d && rm .git/objects/info/alternates`")
    if os.path.lexists(f"{common}/shallow"):
        raise refusal(workspace, "it is shallow, and a clone has the whole history. Run `git fetch --unshallow` first")
    if os.path.lexists(f"{common}/reftable"):
        raise refusal(workspace, "it keeps its branches as a reftable. Run `git refs migrate --ref-format=files` first")


def check_objects(workspace: str, store: str) -> None:
    """Raise ClincusError(409) for objects that lie elsewhere. A folder that git takes away just now holds none."""
    folders = [store]
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise refusal(workspace, f"'{entry.path}' is a symbolic link")
                if entry.name.endswith(".promisor"):
                    words = "it is a partial clone, which lacks objects"
                    advice = "Run `git fetch --refetch --no-filter` first, or clone it anew"
                    raise refusal(workspace, f"{words}. {advice}")
                if folder == store and STORED.fullmatch(entry.name):
                    folders.append(entry.path)


def is_worktree_of(folder: str, common: str) -> bool:
    """Whether a Git folder lies where `git worktree add` makes it, in the folder with the commits that it names.

    Otherwise a folder that somebody was given could take the commits of any repository for its own.
    """
    return os.path.realpath(os.path.dirname(folder)) == os.path.realpath(f"{common}/worktrees")


def names_back(folder: str, workspace: str, back: str, settings: Mapping[str, str]) -> bool:
    """Whether the Git folder of a linked work tree (`back`) or of a submodule names the folder that names it.

    Otherwise a folder that somebody was given could claim any repository of its owner.
    """
    named = os.path.join(folder, back or settings.get("core.worktree", ""))
    return os.path.realpath(os.path.dirname(named) if back else named) == workspace


def is_ref(name: str) -> bool:
    """Whether a reference may have this name."""
    return name.startswith("refs/") and not NO_REF.search(name)


def read_refs(common: Folder) -> dict[str, str]:
    """All branches, tags and remote branches with their objects. What git would pass over is left out."""
    refs: dict[str, str] = {}
    for line in common.read("packed-refs", PACKED_REFS).decode("utf-8", "surrogateescape").splitlines():
        object_name, _, name = line.partition(" ")
        refs[name] = object_name
    for kind in REF_KINDS:
        for name in common.files(kind):
            refs[name] = common.read(name, SMALL).decode("utf-8", "replace").strip()
            if len(refs) > REFS:
                raise clincus.ClincusError(f"'{common.path}' has more than {REFS} references", 409)
    return {
        name: object_name
        for name, object_name in refs.items()
        if name.startswith(tuple(f"{kind}/" for kind in REF_KINDS)) and is_ref(name) and OBJECT.fullmatch(object_name)
    }


def checked_out(repository: Repository) -> set[str]:
    """The branches that are checked out in any work tree of a repository."""
    with Folder(repository.common) as common:
        heads = ["HEAD", *(name for name in common.files("worktrees") if name.endswith("/HEAD"))]
        texts = [common.read(name, SMALL).decode("utf-8", "replace").strip() for name in heads]
    return {text[5:].strip() for text in texts if text.startswith("ref:")}


def persons_list(settings: Mapping[str, str], environ: Mapping[str, str], key: str, name: str) -> bytes:
    """A list of the person's own: of what is ignored (gitignore(5)), or of attributes (gitattributes(5))."""
    default = f"{environ.get('XDG_CONFIG_HOME') or '~/.config'}/git/{name}"
    path = clincus.expand(settings.get(f"core.{key}file") or default, environ)
    return clincus.read_plain_file(path, SMALL) or b""
