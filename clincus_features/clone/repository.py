"""The repository of a folder on this host: its parts, and the reasons why it cannot be cloned.

Clincus reads its references as files, and its configuration by `git config` alone, which runs nothing. Git does all
other work with a Git folder of our own: see private.py.
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
# git-check-ref-format(1). Git itself ignores a reference of another name.
NO_REF = re.compile(r"[\0- \x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|[/.]$")
# Settings that decide which files git regards as changed. Their values are words, and name nothing that git runs.
READING = ("autocrlf", "eol", "filemode", "symlinks", "ignorecase", "precomposeunicode", "sharedrepository")
WORD = re.compile(r"[A-Za-z0-9]{1,10}")
AUTHOR_LIMIT = 200  # characters of an author's name or e-mail address


@dataclass(frozen=True)
class Repository:
    """A Git repository of this host and the work tree that a session gets."""

    git: str  # the program
    workspace: str
    folder: str = ""  # the Git folder of this work tree, with HEAD; empty for a folder without git
    common: str = ""  # the Git folder with references and objects
    branch: str = ""  # the checked-out reference; empty for a commit, and for a folder without git
    head: str = ""  # the commit that is checked out; empty before the first one
    is_bare: bool = False
    is_sparse: bool = False
    refs: Mapping[str, str] = field(default_factory=dict)
    core: Mapping[str, str] = field(default_factory=dict)  # those of READING that are set
    ignored: bytes = b""  # the patterns of the person's and the repository's own lists of ignored files
    persons_attributes: bytes = b""  # of files, by the person's own list (gitattributes(5))
    attributes: bytes = b""  # by the repository's list in its Git folder
    owner: tuple[int, int] = (0, 0)  # user and group of the files that git writes into it
    holder: str = ""  # the repository that the folder lies in, if it has none of its own
    author: tuple[str, str] = ("", "")  # name and e-mail address for commits, "" if they are not set

    @property
    def object_format(self) -> str:
        """The hash of object names: `sha1` or `sha256`."""
        any_object = next(iter(self.refs.values()), self.head)
        return "sha256" if len(any_object) == 64 else "sha1"


def find_repository(workspace: str, environ: Mapping[str, str]) -> Repository:
    """Look at the folder of a session. Raises ClincusError(409) with advice if it cannot be cloned."""
    git = clincus.protect.find_git(workspace, environ)
    if not git:
        problem = "git is not in $PATH: install it on this host to work on a clone"
        raise clincus.ClincusError(problem, 409)
    persons = git_config(git, environ)
    plain = Repository(
        git,
        workspace,
        owner=owner_of(workspace),
        ignored=persons_list(persons, environ, "excludes", "ignore"),
        persons_attributes=persons_list(persons, environ, "attributes", "attributes"),
        author=author_of(persons),
    )
    folder = git_folder(workspace)
    if not folder:
        return replace(plain, holder=next(filter(git_folder, above(workspace)), ""))
    return with_git_folder(plain, folder, persons, environ)


def with_git_folder(
    plain: Repository, folder: str, persons: Mapping[str, str], environ: Mapping[str, str]
) -> Repository:
    """The repository of a workspace by its Git folder. Raises ClincusError(409) with advice if it cannot be cloned.

    `plain` is the workspace without a Git folder, `persons` are the settings of this person and of the system.
    """
    workspace = plain.workspace
    with Folder(folder) as own:
        common = os.path.normpath(os.path.join(folder, text_of(own, "commondir") or "."))
        checked_out = text_of(own, "HEAD")
        back = text_of(own, "gitdir")
        worktree_config = own.read("config.worktree", SMALL)
    with Folder(common) as shared:
        config = shared.read("config", SMALL)
        refs = read_refs(shared)
        ignored = plain.ignored + b"\n" + shared.read("info/exclude", SMALL)
        attributes = shared.read("info/attributes", SMALL)
    settings = dict(persons)
    for text in (config, worktree_config):
        settings.update(git_config(plain.git, environ, text))
    check_links(workspace, folder, common, back, settings)
    check_layout(workspace, common)
    branch, head = head_of(workspace, checked_out, refs)
    return replace(
        plain,
        folder=folder,
        common=common,
        branch=branch,
        head=head,
        is_bare=folder == workspace,
        is_sparse=settings.get("core.sparsecheckout") == "true",
        refs=refs,
        core=reading_settings(settings),
        ignored=ignored,
        attributes=attributes,
        owner=owner_of(common),
        author=author_of(settings),
    )


def author_of(settings: Mapping[str, str]) -> tuple[str, str]:
    """The name and e-mail address of the author by settings; "" for one that is not set, or is no plain line."""
    name, email = (settings.get(key, "") for key in ("user.name", "user.email"))
    is_plain = all(text.isprintable() and len(text) <= AUTHOR_LIMIT and text[:1] != "-" for text in (name, email))
    return (name, email) if is_plain else ("", "")


def check_links(workspace: str, folder: str, common: str, back: str, settings: Mapping[str, str]) -> None:
    """Raise ClincusError(409) for a Git folder that does not name the workspace, or whose commits are another's."""
    is_inside = folder in (workspace, f"{workspace}/.git")
    if not is_inside and not names_back(folder, workspace, back, settings):
        problem = f"its .git leads to '{folder}', which does not name this folder as its work tree"
        raise refusal(workspace, problem)
    has_own_commits = common == os.path.normpath(folder)
    if not has_own_commits and not is_worktree_of(folder, common):
        problem = f"its Git folder has commits of '{common}', and is no work tree that git made there"
        raise refusal(workspace, problem)


def head_of(workspace: str, text: str, refs: Mapping[str, str]) -> tuple[str, str]:
    """Branch and commit by the text of HEAD; each may be empty. Raises ClincusError(409)."""
    branch = text[len("ref:") :].strip() if text.startswith("ref:") else ""
    if branch and is_ref(branch):
        return branch, refs.get(branch, "")
    if branch or not OBJECT.fullmatch(text):
        raise refusal(workspace, "its HEAD is broken")
    return "", text


def reading_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings of READING that are set to a plain word."""
    found = {}
    for key in READING:
        value = settings.get(f"core.{key}", "")
        if WORD.fullmatch(value):
            found[key] = value
    return found


def git_folder(workspace: str) -> str:
    """The Git folder of a folder itself, "" if there is none. Raises ClincusError(409) if its .git leads to none."""
    with Folder(workspace) as top:
        found = top.status(".git")
        text = text_of(top, ".git")
        if found is None:
            is_bare = all(top.status(name) is not None for name in ("HEAD", "objects", "refs"))
            return workspace if is_bare else ""
    if stat.S_ISLNK(found.st_mode):
        raise refusal(workspace, "its .git is a symbolic link. Open the folder that it leads to")
    folder = f"{workspace}/.git"
    if text.startswith("gitdir:"):  # a linked work tree, or a submodule
        target = text.removeprefix("gitdir:").strip()
        folder = os.path.normpath(os.path.join(workspace, target))
    if not os.path.isdir(folder):
        raise refusal(workspace, "its .git leads to no Git folder. Mend it, or move it away")
    return folder


def text_of(folder: Folder, name: str) -> str:
    """The text of a small file of git's, without the line break at its end; "" if it is absent.

    Raises ClincusError(409).
    """
    return os.fsdecode(folder.read(name, SMALL)).strip()


def git_config(git: str, environ: Mapping[str, str], text: bytes | None = None) -> dict[str, str]:
    """The settings in the text of a configuration file; without a text, those of this person and of the system.

    `git config` runs nothing for this: it has no repository (GIT_DIR), and the programs that a configuration names
    belong to other commands. Raises ClincusError(409) with git's words.
    """
    variables = {"PATH": os.defpath, "LC_ALL": "C", "GIT_DIR": os.devnull}
    if text is None:
        source = ["--includes"]
        homes = [name for name in ("HOME", "XDG_CONFIG_HOME") if name in environ]
        variables.update({name: environ[name] for name in homes})
    else:
        source = ["--file", "-", "--no-includes"]
    argv = [git, "config", *source, "--list", "-z"]
    done = clincus.run_child(argv, stdin=text or b"", timeout=20, environ=variables, cwd="/")
    if done.code != 0:
        problem = f"git cannot read its configuration: {done.reason}. `git config --list` says the same"
        raise clincus.ClincusError(problem, 409)
    settings = {}
    for line in os.fsdecode(done.stdout).split("\0")[:-1]:
        key, _, value = line.partition("\n")
        settings[key] = value
    return settings


def starting_at(repository: Repository, branch: str) -> Repository:
    """The repository as if another branch were checked out, without uncommitted changes. Raises ClincusError(400)."""
    folder = repository.workspace
    if not repository.folder:
        problem = f"'{folder}' has no branch '{branch}', as it is no Git repository: leave the branch out"
        raise clincus.ClincusError(problem, 400)
    without_remote = branch.partition("/")[2]
    local_branches = {
        f"refs/heads/{branch}": f"refs/heads/{branch}",
        f"refs/remotes/{branch}": f"refs/heads/{without_remote}",
        f"refs/tags/{branch}": "",
    }
    for ref, local in local_branches.items():
        if ref in repository.refs:
            head = repository.refs[ref]
            return replace(repository, branch=local, head=head, is_bare=True)
    advice = "`git branch --all` lists those that it has"
    raise clincus.ClincusError(f"'{folder}' has no branch {clincus.shorten(branch)}: {advice}", 400)


def refusal(workspace: str, reason: str) -> clincus.ClincusError:
    """The error for a folder that cannot be cloned."""
    return clincus.ClincusError(f"'{workspace}' cannot be cloned: {reason}", 409)


def owner_of(path: str) -> tuple[int, int]:
    """The user and group of a folder."""
    found = os.stat(path)
    return found.st_uid, found.st_gid


def above(path: str) -> list[str]:
    """The folders above a path, the nearest first."""
    parents = []
    while (path := os.path.dirname(path)) not in ("/", ""):
        parents.append(path)
    return parents


def check_layout(workspace: str, common: str) -> None:
    """Raise ClincusError(409) for a repository whose clone would lack objects, or would have those of another one."""
    for name in ("objects", "refs", "logs", *REF_KINDS):
        path = f"{common}/{name}"
        if os.path.islink(path):
            raise refusal(workspace, f"'{path}' is a symbolic link")
    check_objects(workspace, f"{common}/objects")
    if os.path.lexists(f"{common}/objects/info/alternates"):
        problem = "it borrows objects from another repository (objects/info/alternates)"
        advice = "Make it whole: `git repack -a -d && rm .git/objects/info/alternates`"
        raise refusal(workspace, f"{problem}. {advice}")
    if os.path.lexists(f"{common}/shallow"):
        problem = "it is shallow, and a clone has the whole history"
        raise refusal(workspace, f"{problem}. Run `git fetch --unshallow` first")
    if os.path.lexists(f"{common}/reftable"):
        problem = "it keeps its branches as a reftable"
        raise refusal(workspace, f"{problem}. Run `git refs migrate --ref-format=files` first")


def check_objects(workspace: str, store: str) -> None:
    """Raise ClincusError(409) for objects in other places. Git may remove a folder meanwhile: it counts as empty."""
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
    """True if a Git folder is at the place that `git worktree add` gives it in the folder with its commits.

    Otherwise a folder from somebody else could claim the commits of any repository.
    """
    return os.path.realpath(os.path.dirname(folder)) == os.path.realpath(f"{common}/worktrees")


def names_back(folder: str, workspace: str, back: str, settings: Mapping[str, str]) -> bool:
    """True if the Git folder of a linked work tree (`back`) or of a submodule names the folder that names it.

    Otherwise a folder from somebody else could claim any repository of its owner.
    """
    named = os.path.join(folder, back or settings.get("core.worktree", ""))
    return os.path.realpath(os.path.dirname(named) if back else named) == workspace


def is_ref(name: str) -> bool:
    """True if a reference may have this name."""
    return name.startswith("refs/") and not NO_REF.search(name)


def read_refs(common: Folder) -> dict[str, str]:
    """All branches, tags and remote branches with their objects, without those that git would skip."""
    refs: dict[str, str] = {}
    packed = common.read("packed-refs", PACKED_REFS).decode("utf-8", "surrogateescape")
    for line in packed.splitlines():
        object_name, _, name = line.partition(" ")
        refs[name] = object_name
    for kind in REF_KINDS:
        for name in common.files(kind):
            refs[name] = common.read(name, SMALL).decode("utf-8", "replace").strip()
            if len(refs) > REFS:
                advice = "delete branches and tags that nobody needs"
                raise clincus.ClincusError(f"'{common.path}' has more than {REFS} references: {advice}", 409)
    return {name: at for name, at in refs.items() if is_branch_or_tag(name) and OBJECT.fullmatch(at)}


def is_branch_or_tag(ref: str) -> bool:
    """True for a valid name of one of REF_KINDS."""
    return is_ref(ref) and ref.startswith(tuple(f"{kind}/" for kind in REF_KINDS))


def checked_out(repository: Repository) -> set[str]:
    """The branches that are checked out in any work tree of a repository."""
    with Folder(repository.common) as common:
        linked = [name for name in common.files("worktrees") if name.endswith("/HEAD")]
        heads = [common.read(name, SMALL) for name in ("HEAD", *linked)]
    texts = [head.decode("utf-8", "replace").strip() for head in heads]
    return {text[len("ref: ") :].strip() for text in texts if text.startswith("ref:")}


def persons_list(settings: Mapping[str, str], environ: Mapping[str, str], key: str, name: str) -> bytes:
    """The person's own list of ignored files (gitignore(5)) or of attributes (gitattributes(5))."""
    default = f"{environ.get('XDG_CONFIG_HOME') or '~/.config'}/git/{name}"
    path = clincus.expand(settings.get(f"core.{key}file") or default, environ)
    return clincus.read_plain_file(path, SMALL) or b""
