"""Clones without Incus: real git on this host, and the guest's programs in a folder that stands in for a container."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clincus
from clincus_features import clone
from clincus_features.clone import landing, overlay, private, repository, store, transfer
from clincus_features.clone.folder import Folder
from tests.builders import a_session
from tests.programs import git
from tests.table import table

SESSION = a_session(workspace="", mode="clone")


class Box:
    """A stand-in for a container and for `Sessions`: a folder, in which the guest's programs run for real."""

    def __init__(self, folder: Path, workspace: Path, home: Path) -> None:
        self.folder, self.workspace = folder, workspace
        self.environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
        self.labels: dict[str, str] = {}
        self.reports: list[str] = []
        self.report = self.reports.append
        self.settings = {"clone.size_limit": "1MiB"}
        self.incus = self
        self.door = self.containers = lambda id: self
        self.extensions = clincus.Extensions()
        self.extensions.keepers.append(clone.KEEPER)
        self.session = SESSION._replace(workspace=str(workspace))

    def load(self) -> SimpleNamespace:
        return SimpleNamespace(get=self.settings.__getitem__)

    def guest(self, session: clincus.Session) -> SimpleNamespace:
        return SimpleNamespace(mount=str(self.folder), uid=os.getuid(), environment=lambda: None)

    def instance(self, id: str) -> dict[str, Any]:
        return {"config": self.labels}

    def path(self, id: str) -> str:
        return f"/1.0/instances/{id}"

    def query(self, path: str, method: str, data: Any, *, wait: bool) -> None:
        self.labels.update(data["config"])

    def exec(self, id: str, command: list[str], stdin: Any = b"") -> clincus.Completed:
        data = stdin if isinstance(stdin, bytes) else b"".join(stdin)
        environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        done = subprocess.run(command, check=False, input=data, capture_output=True, env=environ, timeout=60)
        return clincus.Completed(done.returncode, done.stdout, done.stderr)

    def output(
        self, session: clincus.Session, programs: str, *words: str, stdin: Any = b"", timeout: float = 0, limit: int = 0
    ) -> bytes:
        done = self.exec("", ["sh", "-c", clincus.guest_program(*programs.split()), "clincus", *words], stdin)
        if done.code != 0:
            raise clincus.IncusError(done.reason, 500)
        return done.stdout

    @contextmanager
    def open(
        self, session: clincus.Session, programs: str, *words: str, timeout: float
    ) -> Iterator[tuple[SimpleNamespace, Any]]:
        import io

        done = self.exec(session.id, clincus.guest_command(programs, *words))
        yield SimpleNamespace(allow=lambda seconds: None, earn=lambda _: None), io.BytesIO(done.stdout)
        if done.code != 0:
            raise clincus.IncusError(done.reason, 500)

    def make(self, branch: str = "", resume: str = "") -> Box:
        request = clincus.LaunchRequest(str(self.workspace), mode="clone", branch=branch, resume=resume)
        bring_in = clone.prepare(self, self.session, request)
        bring_in(self.session)
        return self

    def fetch(self, branch: str = "") -> transfer.MovedBranch:
        return landing.fetch(self, self.session, branch)

    keep, _look, _copies = clincus.Sessions.keep, clincus.Sessions._look, clincus.Sessions._copies

    def _readable(self, session: clincus.Session, *_: Any, saves: bool) -> clincus.Session:
        return session._replace(status="running")

    def _with_conversation(self, session: clincus.Session, unsaved: clincus.Unsaved) -> clincus.Unsaved:
        return unsaved

    def keep_files(self, session: clincus.Session, folder: str, paths: list[str]) -> str:
        listed = b"".join(os.fsencode(path) + b"\0" for path in paths)
        command = clincus.guest_command("keep-files", folder, str(len(listed)))

        def write(path: str) -> int:
            done = subprocess.run(command, check=True, input=listed, capture_output=True, timeout=60)
            return Path(path).write_bytes(done.stdout)

        return clincus.keep_beside(self.saved_directory(session), "tar", write)[0]

    def commit(self, name: str = "made", text: str = "by the agent\n") -> str:
        (self.folder / name).write_text(text)
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--message", f"Make {name}")
        return git(self.folder, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of which each test has a copy."""
    folder = tmp_path_factory.mktemp("example")
    git(folder, "init", "--quiet", "--initial-branch=main")
    for name in ("one", "two"):
        (folder / name).write_text(f"{name}\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", f"Add {name}")
    return folder


@pytest.fixture
def project(tmp_path: Path, example: Path) -> Path:
    """A repository with two commits on `main`."""
    return Path(shutil.copytree(example, tmp_path / "project", symlinks=True))


@pytest.fixture
def box(tmp_path: Path, project: Path) -> Box:
    (tmp_path / "home").mkdir()
    return Box(tmp_path / "box", project, tmp_path / "home")


def look(folder: Path) -> dict[str, object]:
    """All files of a folder but those of .git, each with its mode and content."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] != ".git" and (path.is_symlink() or path.is_file()):
            mode = stat.S_IMODE(path.lstat().st_mode) & 0o100
            found[name] = os.readlink(path) if path.is_symlink() else (mode, path.read_bytes())
    return found


def refusal(work: Any, *arguments: Any) -> str:
    with pytest.raises(clincus.ClincusError) as caught:
        work(*arguments)
    assert caught.value.status in (400, 409)
    return caught.value.message


# ---- making a clone ------------------------------------------------------------------------------------------------


def test_a_clone_has_the_whole_history_and_the_same_branch(box, project):
    git(project, "branch", "other")
    git(project, "tag", "v1")
    box.make()
    assert git(box.folder, "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    assert git(box.folder, "symbolic-ref", "HEAD").strip() == "refs/heads/main"
    refs = git(box.folder, "for-each-ref", "--format=%(refname)").split()
    given = ["refs/clincus/given/v1"]  # tells the project's tags from the agent's
    assert refs == [*given, "refs/heads/main", "refs/remotes/host/main", "refs/remotes/host/other", "refs/tags/v1"]
    assert git(box.folder, "status", "--porcelain") == ""
    assert git(box.folder, "rev-list", "--count", "HEAD").strip() == "2"
    git(box.folder, "fsck", "--full")


ANN = "[user]\nname = Ann Ö\nemail = ann@example.org\nsigningkey = secret\n"


@pytest.mark.parametrize(
    ("persons", "own", "author"),
    [
        (ANN, "", ["Ann Ö", "ann@example.org"]),
        (ANN, "[user]\nemail = ann@work.example\n", ["Ann Ö", "ann@work.example"]),
        ("", "", ["", ""]),
        (ANN, "[user]\nname = --global\n", ["", ""]),
        (ANN, '[user]\nname = "a\\nb"\n', ["", ""]),
        (ANN, f"[user]\nname = {'a' * 1000}\n", ["", ""]),
    ],
    ids=["of the person", "of the repository", "none", "an option", "two lines", "a long one"],
)
def test_commits_in_a_clone_have_the_author_that_git_takes_on_the_host(box, project, persons, own, author):
    (Path(box.environ["HOME"]) / ".gitconfig").write_text(persons)
    with (project / ".git/config").open("a") as config:
        config.write(own)
    box.make()
    asked = ["git", "-C", str(box.folder), "config", "--local", "--list"]
    settings = dict(
        line.split("=", 1)
        for line in subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    )
    assert [settings.get("user.name", ""), settings.get("user.email", "")] == author
    assert "user.signingkey" not in settings


ODD = [
    "with space",
    "quote'\"",
    "line\nbreak",
    "-dash",
    "back\\slash",
    "\udcff",
    "sub/deep/er",
    ":(glob)x",
    "$(touch x)",
]


def test_uncommitted_changes_lie_on_top(box, project):
    for name in ODD:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"new")
    (project / "one").write_text("changed\n")
    (project / "two").unlink()
    (project / "script").write_text("#!/bin/sh\n")
    (project / "script").chmod(0o755)
    (project / "link").symlink_to("/etc/passwd")
    (project / ".gitignore").write_text("ignored/\n")
    (project / "ignored").mkdir()
    (project / "ignored" / "secret").write_text("x")
    os.mkfifo(project / "pipe")
    box.make()
    expected = look(project)
    del expected["ignored/secret"]
    assert look(box.folder) == expected
    assert "two" not in look(box.folder)
    assert git(box.folder, "rev-list", "--count", "HEAD").strip() == "2"


def make_file(path: Path) -> None:
    path.write_text("x")


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "in").write_text("y")


def make_link(path: Path) -> None:
    path.symlink_to("one")


def make_program(path: Path) -> None:
    make_file(path)
    path.chmod(0o755)


def make_deep_folder(path: Path) -> None:
    (path / "deep" / "er").mkdir(parents=True)
    (path / "deep" / "er" / "in").write_text("y")
    (path / "deep" / "beside").write_text("y")


KINDS = [make_file, make_folder, make_deep_folder, make_link, make_program]


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_a_path_may_have_become_another_kind_of_thing(box, project, before, after):
    path = project / "thing"
    before(path)
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=Thing")
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    after(path)
    box.make()
    assert look(box.folder) == look(project)


def test_another_branch_is_cloned_without_the_uncommitted_changes(box, project):
    git(project, "branch", "older", "HEAD~1")
    (project / "new").write_text("x")
    box.make("older")
    assert set(look(box.folder)) == {"one"}
    assert git(box.folder, "symbolic-ref", "HEAD").strip() == "refs/heads/older"
    assert "has no branch 'no-such'" in refusal(Box(box.folder, project, box.folder).make, "no-such").replace('"', "'")


def test_a_detached_head_and_a_repository_without_a_commit_are_cloned_as_they_are(box, project, tmp_path):
    git(project, "checkout", "--quiet", "--detach", "HEAD~1")
    box.make()
    assert git(box.folder, "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "--quiet", "--initial-branch=first")
    (empty / "draft").write_text("x")
    other = Box(tmp_path / "box2", empty, tmp_path / "home").make()
    assert git(other.folder, "symbolic-ref", "HEAD").strip() == "refs/heads/first"
    assert look(other.folder) == look(empty)


def test_a_folder_without_git_gets_a_repository_in_the_container_alone(tmp_path):
    folder = tmp_path / "plain"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("x")
    box = Box(tmp_path / "box", folder, tmp_path).make()
    assert look(box.folder) == look(folder)
    assert git(box.folder, "log", "--format=%s").strip() == transfer.FIRST_COMMIT
    assert not (folder / ".git").exists()
    assert "run `git init` there" in refusal(box.fetch)
    git(folder, "init", "--quiet")
    assert box.fetch("theirs").commits == 1
    assert git(folder, "show", "theirs:sub/file") == "x"


def test_a_linked_work_tree_and_a_submodule_are_cloned_as_repositories(box, project, tmp_path):
    git(project, "worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    side = Box(tmp_path / "box-side", tmp_path / "side", tmp_path / "home").make()
    assert git(side.folder, "symbolic-ref", "HEAD").strip() == "refs/heads/side"
    side.commit()
    assert side.fetch("from-side").commits == 1
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "side"), "module")
    inner = Box(tmp_path / "box-inner", project / "module", tmp_path / "home").make()
    assert set(look(inner.folder)) == {"one", "two"}


def test_what_does_not_come_along_is_said(box, project, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n"
    (project / "large.bin").write_text(pointer)
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=LFS")
    (project / "large.bin").write_text("the real content")
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "module")
    git(project, "commit", "--quiet", "--message=Module")
    (project / "nested").mkdir()
    git(project / "nested", "init", "--quiet")
    (project / "nested" / "file").write_text("x")
    box.make()
    assert (box.folder / "large.bin").read_text() == pointer
    said = "\n".join(box.reports)
    assert "submodules are not in the clone" in said
    assert "files of Git LFS are pointers" in said
    assert "repositories of their own stay here: " in said
    assert json.loads(json.dumps(box.labels))["user.clincus.warnings"].count("\n") == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: (p / ".git" / "shallow").write_text(""), "git fetch --unshallow"),
        (lambda p: (p / ".git/objects/info/alternates").write_text("/elsewhere\n"), "borrows objects"),
        (lambda p: (p / ".git/objects/pack/pack-1.promisor").write_text(""), "partial clone"),
        (lambda p: (p / ".git/reftable").mkdir(), "reftable"),
        (lambda p: (p / ".git/HEAD").write_text("what\n"), "HEAD is broken"),
        (lambda p: (p / ".git/HEAD").write_text("1" * 40 + "\n"), "no commit that is there"),
        (lambda p: ((p / ".git").rename(p / "g"), (p / ".git").symlink_to("g")), "symbolic link"),
        (lambda p: ((p / ".git/refs/heads").rename(p / "h"), (p / ".git/refs/heads").symlink_to(p / "h")), "symbolic"),
        (lambda p: ((p / ".git").rename(p / "g"), (p / ".git").write_text("gitdir: g\n")), "does not name this folder"),
        (lambda p: ((p / ".git").rename(p / "g"), (p / ".git").write_text("what\n")), "leads to no Git folder"),
        (lambda p: (p / ".git/objects/no").symlink_to("/elsewhere"), "symbolic"),
        (lambda p: (p / ".git/objects/pack/pack-1.pack").symlink_to("/elsewhere"), "symbolic"),
        (lambda p: (p / "huge").write_bytes(bytes(2 << 20)), "clone.size_limit"),
    ],
    ids=[
        "shallow",
        "alternates",
        "partial",
        "reftable",
        "head",
        "no-commit",
        "link",
        "refs",
        "not-back",
        "no-git",
        "objects",
        "pack",
        "huge",
    ],
)
def test_a_folder_that_cannot_be_cloned_whole_is_refused_with_what_to_do(box, project, spoil, words):
    spoil(project)
    assert words in refusal(box.make)
    assert not box.folder.exists()


@pytest.mark.parametrize("is_linked", [False, True], ids=["a folder", "a file"])
def test_a_made_up_git_folder_does_not_get_the_commits_of_another_repository(box, project, tmp_path, is_linked):
    """Whoever may write a folder, as an agent in its workspace, names a private repository as that of its commits."""
    project.rename(tmp_path / "private")
    own = project / ("own" if is_linked else ".git")
    own.mkdir(parents=True)
    (own / "commondir").write_text(f"{tmp_path}/private/.git\n")
    (own / "HEAD").write_text("ref: refs/heads/main\n")
    if is_linked:
        (project / ".git").write_text("gitdir: own\n")
        (own / "gitdir").write_text(f"{project}/.git\n")
    assert "no work tree that git made" in refusal(box.make)
    assert not box.folder.exists()


def test_a_folder_that_a_session_has_mounted_is_cloned(box, project):
    """The wall keeps the place of the file, with what git would read where there is none."""
    (project / ".git/commondir").write_text(".\n")
    assert look(box.make().folder) == look(project)


def test_references_that_git_would_pass_over_do_no_harm(box, project):
    head = git(project, "rev-parse", "HEAD").strip()
    heads = project / ".git/refs/heads"
    for name in ("a..b", "x~1", "y.lock", "line\nbreak", '"quoted'):
        (heads / name).write_text(f"{head}\n")
    (heads / "gone").write_text("1" * 40 + "\n")
    (heads / "garbage").write_text("rubbish\n")
    (heads / "away").symlink_to("/etc/hostname")
    box.make()
    refs = git(box.folder, "for-each-ref", "--format=%(refname)", "refs/remotes").split()
    assert refs == ['refs/remotes/host/"quoted', "refs/remotes/host/main"]


# ---- nothing that lies in the folder runs --------------------------------------------------------------------------


def test_nothing_that_a_repository_names_runs_on_this_host(box, project, tmp_path):
    """Each hook, filter, driver and monitor that git knows writes a file when it runs."""
    ran, program = tmp_path / "ran", tmp_path / "evil"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >>{ran}\ncat\n')
    program.chmod(0o755)
    evil = str(program)
    for key in (
        "core.fsmonitor", "core.sshCommand", "core.editor", "core.pager", "core.askPass", "core.gitProxy",
        "core.alternateRefsCommand", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process",
        "diff.evil.textconv", "diff.evil.command", "diff.external", "merge.evil.driver", "gpg.program",
        "uploadpack.packObjectsHook", "credential.helper", "hook.evil.command", "alias.fetch", "pager.log",
        "trailer.evil.command", "remote.origin.uploadpack", "sequence.editor",
    ):  # fmt: skip
        git(project, "config", key, evil)
    for event in (
        "reference-transaction",
        "post-index-change",
        "pre-auto-gc",
        "post-checkout",
        "pre-receive",
        "update",
    ):
        (project / ".git/hooks").mkdir(exist_ok=True)
        (project / ".git/hooks" / event).symlink_to(evil)
        git(project, "config", "--add", "hook.evil.event", event)
    ran.unlink(missing_ok=True)
    git(project, "config", "remote.origin.url", f"ext::{evil}")
    git(project, "config", "core.hooksPath", str(project / ".git/hooks"))
    (project / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    (project / ".git/info/attributes").write_text("* filter=evil diff=evil merge=evil\n")
    (project / "one").write_text("changed\n")
    (project / "new").write_text("new\n")
    ran.unlink(missing_ok=True)
    box.make()
    box.commit()
    assert box.fetch().commits == 1
    assert transfer.give_branch(box, box.session, "main").commits == 0
    assert not ran.exists(), ran.read_text()
    assert git(project, "cat-file", "-t", "clincus/clincus-a1b2c3-1").strip() == "commit"


def test_a_file_that_fails_while_it_is_read_fails_the_clone(box, project, monkeypatch):
    """One that is gone by then does not; but no file is left out without a word."""
    for name in ("first", "gone", "last"):
        (project / name).write_text("x")
    bring_in = clone.prepare(box, box.session, clincus.LaunchRequest(str(project), mode="clone"))
    (project / "gone").unlink()
    really = Folder.open

    def open_(folder: Folder, relative: str) -> Any:
        if relative == "last":
            raise OSError(24, "Too many open files")
        return really(folder, relative)

    monkeypatch.setattr(Folder, "open", open_)
    assert "last' cannot be read: Too many open files" in refusal(bring_in, box.session)
    monkeypatch.undo()
    shutil.rmtree(box.folder)
    bring_in(box.session)
    assert {"first", "last"} <= set(look(box.folder))


def test_a_file_that_you_may_not_read_stays_here_and_is_said(box, project, monkeypatch):
    (project / "theirs").write_text("x")
    monkeypatch.setattr(Folder, "can_read", lambda self, path: path != "theirs")
    box.make()
    assert "theirs" not in look(box.folder)
    assert box.reports == ['clincus-a1b2c3-1: files that you may not read stay here: "theirs"']


@pytest.mark.parametrize("place", [".gitattributes", ".git/info/attributes", "home", "configured"])
def test_files_behind_a_filter_stay_here_and_are_said(box, project, tmp_path, place):
    """They are in clear in the work tree, and git-crypt and its like keep them from the history."""
    person, named = Path(box.environ["HOME"]), tmp_path / "my attributes"
    where = {"home": person / ".config/git/attributes", "configured": named}.get(place, project / place)
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text("*.key filter=crypt\n*.lfs filter=lfs\n*.txt -filter\n*.md filter\n")
    if place == "configured":
        (person / ".gitconfig").write_text(f'[core]\n\tattributesFile = "{named}"\n')
    git(project, "config", "filter.crypt.clean", "echo sealed; cat >/dev/null")
    if place in ("home", "configured"):
        git(project, "config", "core.attributesFile", str(where))
    for name in ("a.key", "gone.key"):
        (project / name).write_text("in clear\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=Keys")
    (project / "gone.key").unlink()
    for name in ("new.key", "new.lfs", "new.txt", "new.md"):
        (project / name).write_text("in clear\n")
    box.make()
    found = look(box.folder)
    assert found["a.key"] == (0, b"sealed\n")
    assert {"new.lfs", "new.txt", "new.md"} <= set(found)
    assert not {"new.key", "gone.key"} & set(found)
    assert "files behind a filter of git's are in the clone as they are committed, or not at all: " in box.reports[-1]
    assert '"a.key", "new.key"' in box.reports[-1]
    assert git(box.folder, "status", "--porcelain", "--", "*.key") == " D gone.key\n"


def test_objects_that_are_borrowed_meanwhile_do_not_get_into_a_clone(box, project, tmp_path):
    """A session that has the folder mounted could name those of any repository whose commits it knows."""
    private_one = tmp_path / "private"
    private_one.mkdir()
    git(private_one, "init", "--quiet", "--initial-branch=main")
    (private_one / "secret").write_text("x")
    git(private_one, "add", ".")
    git(private_one, "commit", "--quiet", "--message=Secret")
    wanted = git(private_one, "rev-parse", "HEAD").strip()
    (project / ".git/refs/heads/x").write_text(f"{wanted}\n")
    bring_in = clone.prepare(box, box.session, clincus.LaunchRequest(str(project), mode="clone"))
    (project / ".git/objects/info").mkdir(exist_ok=True)
    (project / ".git/objects/info/alternates").write_text(f"{private_one}/.git/objects\n")
    assert "borrows objects" in refusal(bring_in, box.session)
    assert subprocess.run(["git", "-C", box.folder, "cat-file", "-e", wanted], check=False).returncode != 0


def test_links_that_are_laid_among_the_objects_meanwhile_are_noticed(box, project, tmp_path):
    bring_in = clone.prepare(box, box.session, clincus.LaunchRequest(str(project), mode="clone"))
    loose = next(path for path in (project / ".git/objects").rglob("*") if path.is_file())
    loose.rename(tmp_path / "elsewhere")
    loose.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in refusal(bring_in, box.session)
    assert "is a symbolic link" in refusal(Box(tmp_path / "box2", project, tmp_path / "home").make)


@table("path", ["sub/secret", "secret", "../secret", "/etc/hostname", "sub/../secret", ""])
def test_a_link_that_is_swapped_in_leads_nowhere(tmp_path, path):
    """Another session may have the folder mounted, and change it between git's look and ours."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (outside / "secret").write_text("x")
    (folder / "sub").symlink_to(outside)
    (folder / "secret").symlink_to(outside / "secret")
    found = list(overlay.read_files(str(folder), [path]))
    assert [(file.path, file.link, file.source) for file in found if not file.link] == []
    with Folder(str(folder)) as held:
        assert held.read(path or "sub", 10) == b""
        assert list(held.files("sub")) == []


# ---- fetch ---------------------------------------------------------------------------------------------------------


def state_of(project: Path) -> dict[str, object]:
    """What a fetch may not touch."""
    kept = {path: (project / ".git" / path).read_bytes() for path in ("HEAD", "index", "config")}
    branches = git(project, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/main", "refs/tags")
    return {**kept, "files": look(project), "branches": branches, "hooks": sorted(os.listdir(project / ".git/hooks"))}


def test_commits_come_back_as_a_branch_and_nothing_else_changes(box, project):
    (project / "open").write_text("mine\n")
    box.make()
    before = state_of(project)
    head = box.commit()
    landed = box.fetch()
    assert landed == ("clincus/clincus-a1b2c3-1", head, 1, (), False)
    assert state_of(project) == before
    assert git(project, "show", f"{landed.branch}:made") == "by the agent\n"
    assert "clincus fetch" in git(project, "reflog", landed.branch)
    git(project, "fsck", "--full", "--strict")
    again = box.fetch()
    assert (again.head, again.commits) == (head, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone works for others")
def test_as_root_git_writes_as_the_owner_of_the_repository(box, project, tmp_path):
    for path in (project, *project.rglob("*")):
        os.chown(path, 1000, 1000, follow_symlinks=False)
    tmp_path.chmod(0o700)  # and the owner cannot go there by himself
    box.make()
    box.commit()
    assert box.fetch().commits == 1
    assert {path.lstat().st_uid for path in (project / ".git").rglob("*")} == {1000}


def test_what_is_uncommitted_comes_as_one_commit_on_top(box, project):
    box.make()
    head = box.commit()
    (box.folder / "half").write_text("done\n")
    (box.folder / "one").unlink()
    landed = box.fetch("work")
    assert landed.commits == 2
    assert git(project, "rev-parse", "work~1").strip() == head
    assert git(project, "diff", "--name-status", "work~1", "work").split() == ["A", "half", "D", "one"]
    assert git(box.folder, "status", "--porcelain").split() == ["D", "one", "??", "half"]
    assert box.fetch("work") == ("work", landed.head, 0, (), False)


def test_a_rewritten_history_takes_the_place_of_what_was_fetched(box, project):
    box.make()
    old = box.commit()
    box.fetch("work")
    git(box.folder, "commit", "--quiet", "--amend", "--message=Anew")
    new = git(box.folder, "rev-parse", "HEAD").strip()
    assert box.fetch("work").head == new
    assert git(project, "rev-parse", "work@{1}").strip() == old
    git(box.folder, "checkout", "--quiet", "--orphan", "alone")
    git(box.folder, "commit", "--quiet", "--message=Alone")
    git(box.folder, "reflog", "expire", "--expire=now", "--all")
    git(box.folder, "for-each-ref", "--format=delete %(refname)")
    assert box.fetch("work").commits == 1


def test_a_branch_that_moved_elsewhere_is_left_alone(box, project):
    box.make()
    box.commit()
    box.fetch("work")
    git(
        project,
        "update-ref",
        "refs/heads/work",
        git(project, "commit-tree", "work^{tree}", "-p", "work", "-m", "Mine").strip(),
    )
    mine = git(project, "rev-parse", "work")
    box.commit("more")
    assert "moved elsewhere" in refusal(box.fetch, "work")
    assert git(project, "rev-parse", "work") == mine
    assert box.fetch("work-2").commits == 1


@pytest.mark.parametrize(
    ("branch", "words"),
    [("main", "checked out"), ("main/x", "main")]
    + [(name, "cannot be") for name in ("-x", "a..b", "x.lock", "a/b/", "HEAD", "with space", "../x", "@{1}")],
)
def test_a_branch_that_cannot_be_written_is_refused(box, project, branch, words):
    box.make()
    box.commit()
    before = state_of(project)
    assert words in refusal(box.fetch, branch)
    assert state_of(project) == before


def test_a_link_in_the_place_of_branches_is_not_written_through(box, project, tmp_path):
    box.make()
    box.commit()
    (tmp_path / "elsewhere").mkdir()
    (project / ".git/refs/heads/clincus").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refusal(box.fetch)
    assert os.listdir(tmp_path / "elsewhere") == []


SWAPPED = (
    "objects",
    "objects/pack",
    "refs",
    "refs/heads",
    "refs/heads/clincus",
    "logs/refs",
    "logs/refs/heads/clincus",
)


@pytest.mark.parametrize(
    "swapped", itertools.product(("copy_file", "check_branch", "write_log"), SWAPPED), ids="-".join
)
def test_a_link_that_is_swapped_in_during_a_fetch_gets_nothing(box, project, tmp_path, monkeypatch, swapped):
    """A session that has the folder mounted does so at the worst of moments: between a look and what it allows."""
    when, path = swapped
    box.make()
    box.commit()
    outside = tmp_path / "elsewhere"
    (outside / "pack").mkdir(parents=True)
    (outside / "heads" / "clincus").mkdir(parents=True)
    (project / ".git" / path).mkdir(parents=True, exist_ok=True)
    step = getattr(store, when)

    def swap(*words):
        if not (project / ".git" / path).is_symlink():
            (project / ".git" / path).rename(tmp_path / "away")
            (project / ".git" / path).symlink_to(outside)
        return step(*words)

    monkeypatch.setattr(store, when, swap)
    told = re.search("is a symbolic link|is a link|was changed while", refusal(box.fetch))
    assert told
    assert [file for file in outside.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("name", ["refs/heads/clincus/clincus-a1b2c3-1", "logs/refs/heads/clincus/clincus-a1b2c3-1"])
def test_a_link_in_the_place_of_a_branch_or_its_log_is_not_written_through(box, project, tmp_path, monkeypatch, name):
    box.make()
    box.commit()
    (tmp_path / "bashrc").write_text("# mine\n")
    (project / ".git" / name).parent.mkdir(parents=True)
    (project / ".git" / name).symlink_to(tmp_path / "bashrc")
    assert "is a link" in refusal(box.fetch)
    assert (tmp_path / "bashrc").read_text() == "# mine\n"
    assert not list((project / ".git/refs").rglob("*.lock"))


def test_a_branch_that_git_holds_the_lock_of_is_refused(box, project):
    box.make()
    box.commit()
    (project / ".git/refs/heads/work.lock").touch()
    assert "work.lock' is there" in refusal(box.fetch, "work")


def test_a_branch_below_one_that_is_packed_is_refused(box, project):
    box.make()
    box.commit()
    git(project, "branch", "other")
    git(project, "pack-refs", "--all")
    assert "cannot be a branch beside 'other'" in refusal(box.fetch, "other/x")


@table(
    ("name", "branch"),
    [("Fix login", "clincus/Fix-login"), ("a/b~c", "clincus/a-b-c"), ("..", "clincus/clincus-a1b2c3-1"),
     ("x.lock", "clincus/clincus-a1b2c3-1"), ("\N{SNOWMAN}", "clincus/clincus-a1b2c3-1")],
)  # fmt: skip
def test_the_branch_has_the_name_of_the_session(name, branch):
    assert landing.branch_name(SESSION._replace(name=name), "") == branch


def lie(box: Box, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the container answer a fetch with something else than what the program would send."""
    true = Box.exec

    def false(self: Box, id: str, command: list[str], stdin: Any = b"") -> clincus.Completed:
        done = true(self, id, command, stdin)
        line, _, rest = done.stdout.partition(b"\n")
        return done._replace(stdout=change(line, rest)) if b"clone-out" in command[2].encode() else done

    monkeypatch.setattr(Box, "exec", false)


LIES = {
    "nothing": lambda line, rest: b"",
    "no-line": lambda line, rest: rest,
    "long-line": lambda line, rest: b"a" * 100_000,
    "odd-line": lambda line, rest: b"\x1b[2J --upload-pack=x 1 main\n" + rest,
    "no-bundle": lambda line, rest: line.replace(line[:40], b"1" * 40) + b"\n",
    "garbage": lambda line, rest: line + b"\n" + b"# v2 git bundle\n" + b"x" * 5000,
    "cut-short": lambda line, rest: line + b"\n" + rest[:-30],
    "flipped": lambda line, rest: line + b"\n" + rest[:-60] + bytes([rest[-60] ^ 1]) + rest[-59:],
    "other-ref": lambda line, rest: line + b"\n" + rest.replace(b"refs/clincus/tip", b"refs/heads/../../x"),
    "other-tip": lambda line, rest: line.replace(line[:40], b"2" * 40) + b"\n" + rest,
    "missing-base": lambda line, rest: line + b"\n" + rest.replace(b"bundle\n", b"bundle\n-" + b"3" * 40 + b" x\n", 1),
    "too-large": lambda line, rest: line + b"\n" + rest + bytes(2 << 20),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_container_that_lies_changes_nothing_here(box, project, monkeypatch, kind):
    box.make()
    box.commit()
    before, objects = state_of(project), sorted((project / ".git/objects").rglob("*"))
    lie(box, monkeypatch, LIES[kind])
    refusal(box.fetch, "work")
    assert state_of(project) == before
    assert sorted((project / ".git/objects").rglob("*")) == objects
    assert not (project / ".git/refs/heads/work").exists()


def test_a_bundle_with_a_broken_object_is_not_taken(box, project):
    """Git's own check finds what no client should get, such as a path that leads into .git."""
    box.make()
    blob = git(box.folder, "hash-object", "-w", "one").strip()
    tree = subprocess.run(
        ["git", "mktree"],
        input=f"100644 blob {blob}\t.git\n",
        cwd=box.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    commit = git(box.folder, "commit-tree", tree, "-p", "HEAD", "-m", "Evil").strip()
    git(box.folder, "update-ref", "HEAD", commit)
    assert "git does not take what the clone sent" in refusal(box.fetch)


@pytest.fixture(params=[True, False], ids=["git looks at bundles", "git does not, as before 2.46"])
def bundles(request, monkeypatch):
    if not request.param:
        config = private.CONFIG.replace("fsckObjects = true", "fsckObjects = false")
        assert config != private.CONFIG
        monkeypatch.setattr(private, "CONFIG", config)


MODULES = {
    "a URL that is an option": '[submodule "x"]\n\tpath = x\n\turl = -u./payload\n',
    "a path that is an option": '[submodule "x"]\n\tpath = -x\n\turl = https://x.invalid\n',
    "a command": '[submodule "x"]\n\tpath = x\n\turl = https://x.invalid\n\tupdate = !id\n',
    "a name that leads out": '[submodule "../x"]\n\tpath = x\n\turl = https://x.invalid\n',
}


@pytest.mark.parametrize("how", ["at once", "in two steps", "after a branch that is harmless"])
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.usefixtures("bundles")
def test_a_gitmodules_that_git_refuses_is_not_let_in(box, project, kind, how):
    box.make()
    if how == "in two steps":  # its content comes first, under a harmless name
        (box.folder / "notes").write_text(MODULES[kind])
        box.commit()
        box.fetch("first")
    elif how == "after a branch that is harmless":
        box.commit()
        box.fetch()
    (box.folder / ".gitmodules").write_text(MODULES[kind])
    head = box.commit()
    assert "git does not take what the clone sent" in refusal(box.fetch, "second")
    assert not (project / ".git/refs/heads/second").exists()
    done = subprocess.run(["git", "-C", project, "cat-file", "-e", head], check=False, capture_output=True)
    assert done.returncode != 0


# ---- push and what a delete would lose -----------------------------------------------------------------------------


def test_git_gets_so_much_memory_and_no_more(project):
    """A few bytes of a pack can unfold to any number, and git holds a commit or a delta's result whole."""
    with private.private_git(repository.find_repository(str(project), os.environ)) as own:
        assert int(own.text("-c", "alias.memory=!ulimit -v", "memory")) == private.MEMORY_KIB


def test_newer_commits_of_the_host_come_as_a_remote_branch_and_merge_nothing(box, project):
    box.make()
    head = box.commit()
    (project / "three").write_text("x")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=Three")
    mine = git(project, "rev-parse", "HEAD").strip()
    assert transfer.give_branch(box, box.session, "") == ("host/main", mine, 1, (), False)
    assert git(box.folder, "rev-parse", "host/main").strip() == mine
    assert git(box.folder, "rev-parse", "HEAD").strip() == head
    assert transfer.give_branch(box, box.session, "main").commits == 0
    assert "has no branch" in refusal(transfer.give_branch, box, box.session, "nope")


def test_what_was_not_fetched_is_counted(box, project):
    (project / "open").write_text("mine\n")
    git(project, "branch", "other", git(project, "commit-tree", "HEAD^{tree}", "-m", "Else").strip())
    box.make()

    def count() -> tuple[int, tuple[str, ...]]:
        found = transfer.unfetched(box, box.session)
        return found["commits"].number, found["uncommitted"].names

    assert count() == (0, ())
    (box.folder / "more").write_text("x")
    assert count() == (0, ("more",))
    box.commit()
    assert count() == (1, ())
    git(box.folder, "checkout", "--quiet", "-b", "second")
    box.commit("second")
    git(box.folder, "checkout", "--quiet", "main")
    assert count() == (2, ())
    box.fetch()
    assert count() == (1, ())


def test_a_delete_is_refused_until_all_is_fetched_or_kept_as_a_bundle(box, project, tmp_path):
    box.make()
    box.saved_directory = lambda session: str(tmp_path / "sessions-claude" / "id")
    box.keep(box.session)
    head = box.commit()
    words = refusal(box.keep, box.session)
    assert f"this host does not have 1 commit ({head[:7]} Make made)" in words
    assert f"`clincus fetch {box.session.id}`" in words
    box.keep(box.session, saves=True, insists=True)
    (bundle,) = (tmp_path / "sessions-claude").iterdir()
    git(project, "fetch", "--quiet", str(bundle), "refs/heads/main:refs/heads/kept/main")
    assert git(project, "rev-parse", "kept/main").strip() == head
    assert str(bundle) in box.reports[-1]
    box.fetch()
    box.keep(box.session)


@pytest.fixture
def synced(monkeypatch):
    """The paths that were synced so far."""
    paths, sync = [], os.fsync

    def noted(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def test_a_power_cut_after_a_fetch_leaves_the_branch_and_its_commits(box, project, synced):
    box.make()
    box.commit()
    branch = box.fetch().branch
    heads = project / ".git" / "refs" / "heads"
    packs = project / ".git" / "objects" / "pack"
    files = [path for path in synced if "tmp_pack_" in path]
    assert len(files) >= 2
    assert synced.index(str(packs)) > synced.index(files[-1]), "first what it holds, then its name"
    assert synced.index(f"{heads / branch}.lock") > synced.index(str(packs)), "first the commits, then the branch"
    assert synced[-1] == str((heads / branch).parent)


def test_a_power_cut_after_a_delete_does_not_tear_the_bundle(box, tmp_path, synced):
    box.make()
    box.saved_directory = lambda session: str(tmp_path / "sessions-claude" / "id")
    box.commit()
    box.keep(box.session, saves=True, insists=True)
    (bundle,) = (tmp_path / "sessions-claude").iterdir()
    assert synced == [f"{bundle}.part", str(bundle.parent)], "first what it holds, then its name"


@pytest.mark.parametrize("is_damaged", [False, True])
def test_what_a_delete_kept_is_there_when_the_conversation_goes_on_in_a_new_clone(box, project, tmp_path, is_damaged):
    saved = tmp_path / "sessions-claude"
    box.make()
    box.saved_directory = lambda session: str(saved / "id")
    head = box.commit()
    (box.folder / "one").write_text("put away\n")
    git(box.folder, "stash", "push", "--quiet")
    (box.folder / "open").write_text("not committed\n")
    box.keep(box.session, saves=True, insists=True)
    (saved / "id.20200101-000000.bundle").write_text("an older one")
    if is_damaged:
        (saved / "id.20990101-000000.bundle").write_text("no bundle")
    new = Box(tmp_path / "new", project, tmp_path / "home")
    new.saved_directory = box.saved_directory
    new.make(resume="id")
    assert ("was not put back" in new.labels[clincus.LABEL + "warnings"]) == is_damaged
    if not is_damaged:
        assert git(new.folder, "rev-parse", "kept/main").strip() == head
        assert git(new.folder, "show", "kept/uncommitted:open") == "not committed\n"
        assert git(new.folder, "show", "refs/kept/stash/1:one") == "put away\n"
    assert git(new.folder, "status", "--porcelain") == ""


def test_folders_that_a_killed_process_left_are_deleted_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(private, "LEFT_FOR", 3600.0)
    for name in ("left", "held", "new"):
        (tmp_path / f"clincus-git-{name}" / "objects").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clincus-git-link").symlink_to("elsewhere")
    for name in ("left", "held", "link"):
        os.utime(tmp_path / f"clincus-git-{name}", (0, 0))
    held = os.open(tmp_path / "clincus-git-held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    private.sweep(str(tmp_path))
    os.close(held)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("clincus-git-held", "clincus-git-new", "clincus-git-link", "elsewhere")
    }


def test_a_clone_that_cannot_be_read_is_kept_unless_a_person_insists(box, tmp_path):
    box.make()
    subprocess.run(["rm", "-r", str(box.folder / ".git")], check=True)
    box.saved_directory = lambda session: str(tmp_path / "sessions-claude" / "id")
    assert "what its container holds cannot be known (fatal: not a git repository" in refusal(box.keep, box.session)
    box.keep(box.session, saves=True, insists=True)
    assert "is lost" in box.reports[-1]


def test_a_session_with_a_mounted_folder_has_nothing_to_fetch(box):
    request = clincus.LaunchRequest("/srv/app", branch="main")
    assert "a branch is for a clone" in refusal(clone.prepare, box, SESSION._replace(mode="mount"), request)
    assert repository.is_ref("refs/heads/x")


def test_a_fetch_names_the_gitlinks_that_come_with_it_and_no_others(box: Box, project: Path) -> None:
    for folder in (project / "old", project / "elsewhere"):
        git(project, "init", "--quiet", str(folder))
        git(folder, "commit", "--quiet", "--allow-empty", "--message", "x")
    git(project, "add", "old")
    git(project, "commit", "--quiet", "--message", "Add old")
    box.make()
    assert box.fetch().gitlinks == ()
    for name in ("sub", "deep/er"):
        git(box.folder, "init", "--quiet", str(box.folder / name))
        git(box.folder / name, "commit", "--quiet", "--allow-empty", "--message", "x")
    box.commit()
    moved = box.fetch()
    assert (moved.gitlinks, moved.gitlinks_truncated) == (("deep/er", "sub"), False)


@pytest.mark.parametrize("bound", ["TOLD_GITLINKS", "FOUND_GITLINKS"])
def test_a_fetch_says_that_its_list_of_gitlinks_is_cut(box: Box, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(landing, bound, 1)
    box.make()
    for name in ("a", "b", "c"):
        git(box.folder, "init", "--quiet", str(box.folder / name))
        git(box.folder / name, "commit", "--quiet", "--allow-empty", "--message", "x")
    box.commit()
    assert box.fetch().gitlinks_truncated


def test_a_tree_that_unfolds_without_end_does_not_hold_up_a_fetch(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "TREE_LIMIT", 100_000)
    box.make()
    blob = git(box.folder, "hash-object", "-w", "one").strip()
    tree = ""
    for level in range(12):
        row = f"040000 tree {tree}" if level else f"100644 blob {blob}"
        text = "".join(f"{row}\t{number}\n" for number in range(8))
        done = subprocess.run(["git", "mktree"], cwd=box.folder, input=text, capture_output=True, text=True, check=True)
        tree = done.stdout.strip()
    commit = git(box.folder, "commit-tree", tree, "-p", "HEAD", "-m", "Plant it").strip()
    git(box.folder, "update-ref", "refs/heads/main", commit)
    with landing.private_git(landing.find_repository(str(box.folder), box.environ)) as folder:
        found = landing.gitlinks_in(folder, commit)
    assert (found.paths, found.is_cut) == (set(), True)
