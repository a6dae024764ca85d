"""Runs git on this host with a Git folder of our own in place of a repository's.

A repository can name programs: hooks, filters, diff drivers, file monitors (githooks(5), git-config(1)). All of them
are in its Git folder, or need a setting there or in a person's configuration. A Git folder of ours has no hooks and
only our own settings, and git reads no other configuration, so it runs nothing that the repository names.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import clincus

from .repository import STORED, Repository

GIT_TIMEOUT = 600  # seconds for git to look at a work tree, or at a bundle
PREFIX = "clincus-git-"
SWEPT = 50  # old folders that are examined before a new one is made
LEFT_FOR = 60.0  # seconds after which a folder that no process holds counts as left behind
BIG_FILE = "16m"  # larger files go through git in pieces
# Address space of git in KiB: a few bytes of a pack can unfold to any number, and git would hold them all at once.
MACHINE_KIB = os.sysconf("SC_PHYS_PAGES") * (os.sysconf("SC_PAGE_SIZE") >> 10)
MEMORY_KIB = max(4 << 20, MACHINE_KIB // 2)

CONFIG = """
[core]
    repositoryformatversion = {version}
    bare = false
    fsmonitor = false
    untrackedCache = false
    hooksPath = /dev/null
    commitGraph = false
    bigFileThreshold = {big}
    logAllRefUpdates = always
    packedGitWindowSize = 32m
    packedGitLimit = 512m
{core}
[extensions]
    objectFormat = {format}
[gc]
    auto = 0
[maintenance]
    auto = false
[submodule]
    recurse = false
[pack]
    threads = 2
[transfer]
    fsckObjects = true
[protocol]
    allow = never
[protocol "file"]
    allow = always
"""


@dataclass(frozen=True)
class PrivateGit:
    """git with a Git folder of our own. As root it runs as the repository's owner, so that no file becomes root's."""

    program: str
    folder: str
    owner: tuple[int, int]
    work_tree: str = ""

    def argv(self, *words: str) -> list[str]:
        """The whole command line of a git command."""
        limited = ["/bin/sh", "-c", f'ulimit -v {MEMORY_KIB} && exec "$@"', "git"]
        as_owner: list[str] = []
        user, group = self.owner
        if os.geteuid() == 0 and user != 0:
            # root's right to read stays, for access(2) too: the folders above may be closed to the owner.
            as_owner = [
                "setpriv",
                f"--reuid={user}",
                f"--regid={group}",
                "--clear-groups",
                "--securebits=+no_setuid_fixup",
                "--inh-caps=+dac_read_search",
                "--ambient-caps=+dac_read_search",
                "--",
            ]
        return [*limited, *as_owner, self.program, *words]

    def environ(self) -> dict[str, str]:
        """The whole environment of a git command."""
        variables = {
            "PATH": os.defpath,
            "LC_ALL": "C",
            "HOME": "/nonexistent",
            "XDG_CONFIG_HOME": self.folder,  # with the person's attributes
            "GIT_DIR": self.folder,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_AUTHOR_NAME": "Clincus",
            "GIT_AUTHOR_EMAIL": "clincus@localhost",
            "GIT_COMMITTER_NAME": "Clincus",
            "GIT_COMMITTER_EMAIL": "clincus@localhost",
        }
        if self.work_tree:
            variables["GIT_WORK_TREE"] = self.work_tree
        return variables

    def run(self, *words: str, stdin: bytes = b"") -> clincus.Completed:
        """Run a git command to its end."""
        return clincus.run_child(
            self.argv(*words), stdin=stdin, timeout=GIT_TIMEOUT, environ=self.environ(), cwd=self.work_tree or "/"
        )

    def output(self, *words: str, stdin: bytes = b"") -> bytes:
        """The output of a git command. Raises ClincusError(409) with git's words if it fails."""
        done = self.run(*words, stdin=stdin)
        if done.code != 0:
            raise clincus.ClincusError(f"git: {done.reason.removeprefix('fatal: ')}", 409)
        return done.stdout

    def text(self, *words: str) -> str:
        """The one line that a git command prints. Raises ClincusError(409)."""
        return self.output(*words).decode("utf-8", "replace").strip()

    @contextmanager
    def stream(self, *words: str, timeout: float) -> Iterator[Iterator[bytes]]:
        """The output of a git command, piece by piece as it comes. Raises ClincusError(409) at the end if it failed."""
        argv = self.argv(*words)
        child = clincus.Child(argv, timeout=timeout, environ=self.environ(), cwd=self.work_tree or "/")
        with child, clincus.ended_with_work(child):
            child.stdin.close()
            errors = clincus.Collector(child, child.stderr)
            yield iter(lambda: child.stdout.read(1 << 16), b"")
            child.stdout.close()
            code = child.wait([errors])
        if code != 0:
            raise clincus.ClincusError(f"git: {clincus.Completed(code, b'', bytes(errors.data)).reason}", 409)


@contextmanager
def private_git(repository: Repository) -> Iterator[PrivateGit]:
    """A Git folder of our own, for as long as the block lasts, with the objects and references of a repository.

    It reads the repository's objects and writes its own.
    """
    base = "/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir()  # /tmp is often memory
    sweep(base)
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=base)
    held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_SH)
    try:
        fill_folder(folder, repository)
        if os.geteuid() == 0:
            for path, folders, files in os.walk(folder):
                for name in (path, *(f"{path}/{one}" for one in (*folders, *files))):
                    os.chown(name, *repository.owner, follow_symlinks=False)
        work_tree = "" if repository.is_bare else repository.workspace
        git = PrivateGit(repository.git, folder, repository.owner, work_tree)
        if repository.common:
            keep_whole_refs(git, repository)
        yield git
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def sweep(base: str) -> None:
    """Delete the folders that a killed process has left: no process holds them, and they are old.

    Other users may make such folders, too: `rmtree` follows no link, so they can lose only their own.
    """
    names = [name for name in os.listdir(base) if name.startswith(PREFIX)]
    for name in names[:SWEPT]:
        path = os.path.join(base, name)
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(folder)
            is_ours = os.geteuid() in (0, status.st_uid)
            if is_ours and time.time() - status.st_mtime > LEFT_FOR:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # in use
        finally:
            os.close(folder)


def fill_folder(folder: str, repository: Repository) -> None:
    """Write a Git folder (gitrepository-layout(5))."""
    core = "".join(f"    {key} = {value}\n" for key, value in repository.core.items())
    version = 1 if repository.object_format == "sha256" else 0
    text = CONFIG.format(version=version, big=BIG_FILE, core=core, format=repository.object_format)
    if not version:
        text = text.replace("[extensions]\n    objectFormat = sha1\n", "")
    is_at_commit = repository.head and not repository.branch
    head = repository.head if is_at_commit else f"ref: {repository.branch or 'refs/heads/main'}"
    write(folder, "config", text.encode())
    write(folder, "HEAD", f"{head}\n".encode())
    os.makedirs(f"{folder}/refs")
    os.makedirs(f"{folder}/objects/info")
    write(folder, "info/exclude", repository.ignored)
    write(folder, "info/attributes", repository.attributes)
    write(folder, "git/attributes", repository.persons_attributes)
    if repository.common:
        borrow_objects(folder, f"{repository.common}/objects")


def borrow_objects(folder: str, store: str) -> None:
    """Give a Git folder the objects of a store, but nothing else: another process may be writing to the store just now.

    Files in `info` could name a third store (`alternates`), and another history than the objects have (`commit-graph`).
    """
    os.mkdir(f"{folder}/borrowed")
    for name in os.listdir(store):
        if STORED.fullmatch(name):
            os.symlink(f"{store}/{name}", f"{folder}/borrowed/{name}")
    write(folder, "objects/info/alternates", os.fsencode(f"{folder}/borrowed\n"))


def write(folder: str, name: str, data: bytes) -> None:
    """Write a file of a Git folder."""
    os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
    with open(f"{folder}/{name}", "wb") as file:
        file.write(data)


def keep_whole_refs(git: PrivateGit, repository: Repository) -> None:
    """Give the private folder all references whose objects are there; git refuses to work with any other."""
    names = list(repository.refs)
    asked = "".join(f"{repository.refs[name]}\n" for name in names)
    answers = git.output("cat-file", "--batch-check=%(objecttype)", stdin=asked.encode())
    lines = []
    for name, kind in zip(names, answers.decode().splitlines()):
        is_tagged = kind in ("tag", "tree", "blob") and name.startswith("refs/tags/")
        if kind == "commit" or is_tagged:
            lines.append(f"{repository.refs[name]} {name}\n")
    write(git.folder, "packed-refs", "".join(lines).encode("utf-8", "surrogateescape"))


def is_commit(git: PrivateGit, name: str) -> bool:
    """True if an object is a commit that is there."""
    return git.run("cat-file", "-e", f"{name}^{{commit}}").code == 0


def known(git: PrivateGit, names: Sequence[str]) -> list[str]:
    """The commits among `names` that are there."""
    return [name for name in dict.fromkeys(names) if name and is_commit(git, name)]
