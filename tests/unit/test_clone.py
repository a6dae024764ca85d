"""Clones without Incus: real git on this host, and the guest's programs in a folder that stands in for a container."""

from __future__ import annotations

import io
import os
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
        self.front: list[str] = []  # the command that runs the guest's programs
        self.before_exec = lambda: None
        self.lie = lambda stdout: stdout  # changes the answer of the program that sends commits
        self.incus = self
        self.door = self.containers = lambda id: self
        self.extensions = clincus.Extensions()
        self.extensions.keepers.append(clone.KEEPER)
        self.session = SESSION._replace(workspace=str(workspace))
        self.saved = folder.parent / "sessions-claude"
        self.saved_directory = lambda session: str(self.saved / "id")

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
        self.before_exec()
        argv = [*self.front, *command]
        done = subprocess.run(argv, check=False, input=data, capture_output=True, env=environ, timeout=60)
        return clincus.Completed(done.returncode, done.stdout, done.stderr)

    def output(self, _: clincus.Session, programs: str, *words: str, stdin: Any = b"", **__: float) -> bytes:
        done = self.exec("", ["sh", "-c", clincus.guest_program(*programs.split()), "clincus", *words], stdin)
        if done.code != 0:
            raise clincus.IncusError(done.reason, 500)
        return done.stdout

    @contextmanager
    def open(self, session: clincus.Session, programs: str, *words: str, timeout: float) -> Iterator[Any]:
        done = self.exec(session.id, clincus.guest_command(programs, *words))
        yield SimpleNamespace(allow=lambda seconds: None, earn=lambda _: None), io.BytesIO(self.lie(done.stdout))
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
    """The repository of which each test has a copy: two commits on `main`."""
    folder = tmp_path_factory.mktemp("example")
    git(folder, "init", "--quiet", "--initial-branch=main")
    for name in ("one", "two"):
        (folder / name).write_text(f"{name}\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", f"Add {name}")
    return folder


def make_box(folder: Path, example: Path) -> Box:
    (folder / "home").mkdir()
    project = shutil.copytree(example, folder / "project", symlinks=True)
    return Box(folder / "box", Path(project), folder / "home")


@pytest.fixture
def box(tmp_path: Path, example: Path) -> Box:
    return make_box(tmp_path, example)


@pytest.fixture
def project(box: Box) -> Path:
    return box.workspace


def look(folder: Path) -> dict[str, object]:
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


# ---- making a clone


def test_a_clone_has_the_whole_history_and_the_same_branch(box, project):
    (project / ".git/commondir").write_text(".\n")  # the wall keeps the place of the file in a mounted folder
    git(project, "branch", "other")
    git(project, "tag", "v1")
    box.make()
    assert git(box.folder, "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    assert git(box.folder, "symbolic-ref", "HEAD").strip() == "refs/heads/main"
    refs = git(box.folder, "for-each-ref", "--format=%(refname)").split()
    given = ["refs/clincus/given/v1"]  # tells the project's tags from the agent's
    assert refs == [*given, "refs/heads/main", "refs/remotes/host/main", "refs/remotes/host/other", "refs/tags/v1"]
    assert git(box.folder, "status", "--porcelain") == ""
    git(box.folder, "fsck", "--full")


ANN = "[user]\nname = Ann Ö\nemail = ann@example.org\nsigningkey = secret\n"


def test_commits_in_a_clone_have_the_author_that_git_takes_on_the_host(box, project, tmp_path):
    (tmp_path / "home/.gitconfig").write_text(ANN)
    git(project, "config", "user.email", "ann@work.example")
    box.make()
    settings = git(box.folder, "config", "--local", "--list").splitlines()
    found = [line for line in settings if line.startswith("user.")]
    assert sorted(found) == ["user.email=ann@work.example", "user.name=Ann Ö"], "no key of the person's"


ODD = ["with space", "line\nbreak", "-dash", "back\\slash", "\udcff", "sub/deep/er", ":(glob)x"]


def test_uncommitted_changes_lie_on_top(box, project):
    for name in ODD:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"new")
    (project / "one").write_text("changed\n")
    (project / "two").unlink()
    (project / "two").mkdir()  # a path may have become another kind of thing
    (project / "two/program").write_text("x")
    (project / "two/program").chmod(0o755)
    (project / "link").symlink_to("one")
    (project / ".gitignore").write_text("ignored/\n")
    (project / "ignored").mkdir()
    (project / "ignored" / "secret").write_text("x")
    os.mkfifo(project / "pipe")
    box.make()
    expected = look(project)
    del expected["ignored/secret"]
    assert look(box.folder) == expected
    assert git(box.folder, "rev-list", "--count", "HEAD").strip() == "2"


def test_another_branch_is_cloned_without_the_uncommitted_changes(box, project):
    git(project, "branch", "older", "HEAD~1")
    (project / "new").write_text("x")
    box.make("older")
    assert set(look(box.folder)) == {"one"}
    assert git(box.folder, "symbolic-ref", "HEAD").strip() == "refs/heads/older"
    assert "no-such" in refusal(box.make, "no-such")


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
    assert git(box.folder, "rev-list", "--count", "HEAD").strip() == "1"
    assert not (folder / ".git").exists()
    assert "git init" in refusal(box.fetch)
    git(folder, "init", "--quiet")
    assert box.fetch("theirs").commits == 1
    assert git(folder, "show", "theirs:sub/file") == "x"


def test_a_linked_work_tree_and_a_submodule_are_cloned_as_repositories(project, tmp_path):
    git(project, "worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    side = Box(tmp_path / "box-side", tmp_path / "side", tmp_path / "home").make()
    assert git(side.folder, "symbolic-ref", "HEAD").strip() == "refs/heads/side"
    side.commit()
    assert side.fetch("from-side").commits == 1
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "side"), "module")
    inner = Box(tmp_path / "box-inner", project / "module", tmp_path / "home").make()
    assert set(look(inner.folder)) == {"one", "two"}


def test_what_does_not_come_along_is_said(box, project):
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "module")
    git(project, "commit", "--quiet", "--message=Module")
    git(project, "init", "--quiet", "nested")
    (project / "nested" / "file").write_text("x")
    box.make()
    warnings = box.labels["user.clincus.warnings"]
    assert "submodules" in warnings
    assert "repositories of their own" in warnings


SPOILED = [
    (lambda p: (p / ".git/shallow").write_text(""), "unshallow"),
    (lambda p: (p / ".git/objects/info/alternates").write_text("/elsewhere\n"), "borrows objects"),
    (lambda p: (p / ".git/objects/pack/pack-1.promisor").write_text(""), "partial clone"),
    (lambda p: (p / ".git/HEAD").write_text("1" * 40 + "\n"), "no commit that is there"),
    (lambda p: ((p / ".git").rename(p / "moved"), (p / ".git").symlink_to("moved")), "symbolic link"),
    (lambda p: (p / ".git/objects/pack/pack-1.pack").symlink_to("/elsewhere"), "symbolic"),
    (lambda p: ((p / ".git").rename(p / "g"), (p / ".git").write_text("gitdir: g\n")), "does not name this folder"),
    (lambda p: (p / "huge").write_bytes(bytes(2 << 20)), "clone.size_limit"),
]


@table(("spoil", "words"), SPOILED)
def test_a_folder_that_cannot_be_cloned_whole_is_refused_with_what_to_do(tmp_path, example, spoil, words):
    box = make_box(tmp_path, example)
    spoil(box.workspace)
    assert words in refusal(box.make)
    assert not box.folder.exists()


@table("is_linked", [False, True])
def test_a_made_up_git_folder_does_not_get_the_commits_of_another_repository(tmp_path, example, is_linked):
    """Whoever may write a folder, as an agent in its workspace, names a private repository as that of its commits."""
    box = make_box(tmp_path, example)
    project = box.workspace
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


# ---- nothing that lies in the folder runs


def test_nothing_that_a_repository_names_runs_on_this_host(box, project, tmp_path):
    ran, program = tmp_path / "ran", tmp_path / "evil"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >>{ran}\ncat\n')
    program.chmod(0o755)
    evil = str(program)
    settings = ["[core]", f"hooksPath = {project}/.git/hooks", '[remote "origin"]', f"url = ext::{evil}"]
    for key in (
        "core.fsmonitor", "core.sshCommand", "core.editor", "core.pager", "core.alternateRefsCommand",
        "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv", "diff.external",
        "merge.evil.driver", "uploadpack.packObjectsHook", "hook.evil.command", "remote.origin.uploadpack",
    ):  # fmt: skip
        section, _, name = key.rpartition(".")
        group, _, part = section.partition(".")
        settings += [f'[{group} "{part}"]' if part else f"[{group}]", f"{name} = {evil}"]
    (project / ".git/hooks").mkdir(exist_ok=True)
    for event in ("reference-transaction", "post-index-change", "pre-auto-gc", "post-checkout", "update"):
        (project / ".git/hooks" / event).symlink_to(evil)
        settings += ['[hook "evil"]', f"event = {event}"]
    with (project / ".git/config").open("a") as config:
        config.write("\n".join([*settings, ""]))
    for path in (".gitattributes", ".git/info/attributes"):
        (project / path).write_text("* filter=evil diff=evil merge=evil\n")
    (project / "one").write_text("changed\n")
    (project / "new").write_text("new\n")
    box.make()
    box.commit()
    assert box.fetch().commits == 1
    assert transfer.give_branch(box, box.session, "main").commits == 0
    assert not ran.exists(), ran.read_text()


def test_files_behind_a_filter_stay_here_and_are_said(box, project, tmp_path):
    """They are in clear in the work tree, and git-crypt and its like keep them from the history."""
    attributes = tmp_path / "my attributes"
    attributes.write_text("*.key filter=crypt\n*.lfs filter=lfs\n*.txt -filter\n")
    (tmp_path / "home/.gitconfig").write_text(f'[core]\n\tattributesFile = "{attributes}"\n')
    (project / ".gitattributes").write_text("*.pem filter=crypt\n")
    for name in ("a.key", "a.pem", "a.lfs", "a.txt"):
        (project / name).write_text("in clear\n")
    box.make()
    assert {"a.lfs", "a.txt"} <= set(look(box.folder))
    assert not {"a.key", "a.pem"} & set(look(box.folder))
    assert '"a.key", "a.pem"' in box.reports[-1]


def test_objects_that_are_borrowed_meanwhile_do_not_get_into_a_clone(box, project):
    bring_in = clone.prepare(box, box.session, clincus.LaunchRequest(str(project), mode="clone"))
    (project / ".git/objects/info").mkdir(exist_ok=True)
    (project / ".git/objects/info/alternates").write_text("/elsewhere\n")
    assert "borrows objects" in refusal(bring_in, box.session)


@table("path", ["sub/secret", "secret", "../secret"])
def test_a_link_that_is_swapped_in_leads_nowhere(tmp_path, path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    for place in (tmp_path, outside):
        (place / "secret").write_text("x")
    (folder / "sub").symlink_to(outside)
    (folder / "secret").symlink_to(outside / "secret")
    assert [file.path for file in overlay.read_files(str(folder), [path]) if not file.link] == []
    with Folder(str(folder)) as held:
        assert held.read(path, 10) == b""
        assert list(held.files("sub")) == []


# ---- fetch


def state_of(project: Path) -> dict[str, object]:
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


def test_a_rewritten_history_takes_the_place_of_what_was_fetched_but_not_of_other_work(box, project):
    box.make()
    old = box.commit()
    box.fetch("work")
    git(box.folder, "commit", "--quiet", "--amend", "--message=Anew")
    new = git(box.folder, "rev-parse", "HEAD").strip()
    assert box.fetch("work").head == new
    assert git(project, "rev-parse", "work@{1}").strip() == old
    mine = git(project, "commit-tree", "work^{tree}", "-p", "work", "-m", "Mine")
    git(project, "update-ref", "refs/heads/work", mine.strip())
    box.commit("more")
    assert "moved elsewhere" in refusal(box.fetch, "work")
    assert git(project, "rev-parse", "work") == mine


def test_a_branch_that_cannot_be_written_is_refused(box, project):
    box.make()
    box.commit()
    git(project, "branch", "other")
    git(project, "pack-refs", "--all")
    git(project, "checkout", "--quiet", "--", ".")
    (project / ".git/refs/heads/held.lock").touch()
    before = state_of(project)
    for branch, words in [
        ("-x", "cannot be"),
        ("../x", "cannot be"),
        ("HEAD", "cannot be"),
        ("main", "checked out"),
        ("other/x", "cannot be a branch beside 'other'"),
        ("held", "held.lock' is there"),
    ]:
        assert words in refusal(box.fetch, branch)
    assert state_of(project) == before


@table(
    ("when", "path"),
    [
        ("", "logs/refs/heads/clincus/clincus-a1b2c3-1"),
        ("copy_file", "objects/pack"),
        ("check_branch", "refs/heads/clincus"),
        ("write_log", "logs/refs/heads/clincus"),
    ],
)
def test_a_link_that_lies_there_or_is_swapped_in_during_a_fetch_is_not_written_through(tmp_path, example, when, path):
    """A session that has the folder mounted does so at the worst of moments: between a look and what it allows."""
    box = make_box(tmp_path, example).make()
    box.commit()
    outside, place = tmp_path / "elsewhere", box.workspace / ".git" / path
    (outside / "heads" / "clincus").mkdir(parents=True)
    (outside / "bashrc").write_text("# mine\n")
    step = getattr(store, when or "copy_file")

    def swap(*words):
        if not place.is_symlink():
            place.rename(tmp_path / "away")
            place.symlink_to(outside)
        return step(*words)

    if when:
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True)
        place.symlink_to(outside / "bashrc")
    with pytest.MonkeyPatch.context() as patch:
        if when:
            patch.setattr(store, when, swap)
        refusal(box.fetch)
    assert look(outside) == {"bashrc": (0, b"# mine\n")}


LIES = {
    "an odd line": lambda line, rest: b"\x1b[2J --upload-pack=x 1 main\n" + rest,
    "a flipped bit": lambda line, rest: line + b"\n" + rest[:-60] + bytes([rest[-60] ^ 1]) + rest[-59:],
    "another reference": lambda line, rest: line + b"\n" + rest.replace(b"refs/clincus/tip", b"refs/heads/../../x"),
    "another tip": lambda line, rest: line.replace(line[:40], b"2" * 40) + b"\n" + rest,
    "too much": lambda line, rest: line + b"\n" + rest + bytes(2 << 20),
}


def test_a_container_that_lies_changes_nothing_here(box, project):
    box.make()
    box.commit()
    before, objects = state_of(project), sorted((project / ".git/objects").rglob("*"))
    for kind, change in LIES.items():
        box.lie = lambda stdout, change=change: change(*stdout.split(b"\n", 1))
        assert refusal(box.fetch, "work"), kind
        assert sorted((project / ".git/objects").rglob("*")) == objects, kind
    assert state_of(project) == before
    assert not (project / ".git/refs/heads/work").exists()


OPTION = '[submodule "x"]\n\tpath = x\n\turl = -u./payload\n'
COMMAND = '[submodule "x"]\n\tpath = x\n\turl = https://x.invalid\n\tupdate = !id\n'


@table("text", [OPTION, COMMAND])
def test_a_gitmodules_that_git_refuses_is_not_let_in(tmp_path, example, monkeypatch, text):
    """Git before 2.46 does not look at what comes in a bundle, so another check has to notice."""
    config = private.CONFIG.replace("fsckObjects = true", "fsckObjects = false")
    assert config != private.CONFIG
    monkeypatch.setattr(private, "CONFIG", config)
    box = make_box(tmp_path, example).make()
    if text == OPTION:  # its content comes first, under a harmless name
        (box.folder / "notes").write_text(text)
        box.commit()
        box.fetch("first")
    (box.folder / ".gitmodules").write_text(text)
    head = box.commit()
    assert "git does not take what the clone sent" in refusal(box.fetch, "second")
    assert not (box.workspace / ".git/refs/heads/second").exists()
    done = subprocess.run(["git", "-C", box.workspace, "cat-file", "-e", head], check=False, capture_output=True)
    assert done.returncode != 0


def test_git_gets_so_much_memory_and_no_more(project):
    with private.private_git(repository.find_repository(str(project), os.environ)) as own:
        assert int(own.text("-c", "alias.memory=!ulimit -v", "memory")) == private.MEMORY_KIB


def test_a_fetch_names_the_gitlinks_that_come_with_it(box, monkeypatch):
    box.make()
    assert box.fetch().gitlinks == ()
    for name in ("sub", "deep"):
        git(box.folder, "init", "--quiet", name)
        git(box.folder / name, "commit", "--quiet", "--allow-empty", "--message", "x")
    box.commit()
    moved = box.fetch()
    assert (moved.gitlinks, moved.gitlinks_truncated) == (("deep", "sub"), False)
    monkeypatch.setattr(landing, "TREE_LIMIT", 1)  # a tree may unfold without end
    assert box.fetch().gitlinks_truncated


# ---- push and what a delete would lose


def test_newer_commits_of_the_host_come_as_a_remote_branch_and_merge_nothing(box, project):
    box.make()
    head = box.commit()
    git(project, "commit", "--quiet", "--allow-empty", "--message=Three")
    mine = git(project, "rev-parse", "HEAD").strip()
    assert transfer.give_branch(box, box.session, "") == ("host/main", mine, 1, (), False)
    assert git(box.folder, "rev-parse", "host/main").strip() == mine
    assert git(box.folder, "rev-parse", "HEAD").strip() == head
    assert transfer.give_branch(box, box.session, "main").commits == 0
    assert "has no branch" in refusal(transfer.give_branch, box, box.session, "nope")


def test_a_delete_is_refused_until_all_is_fetched_or_kept_as_a_bundle(box, project):
    box.make()
    box.keep(box.session)
    head = box.commit()
    words = refusal(box.keep, box.session)
    assert f"1 commit ({head[:7]} Make made)" in words
    assert f"`clincus fetch {box.session.id}`" in words
    box.keep(box.session, saves=True, insists=True)
    (bundle,) = box.saved.iterdir()
    git(project, "fetch", "--quiet", str(bundle), "refs/heads/main:refs/heads/kept/main")
    assert git(project, "rev-parse", "kept/main").strip() == head
    assert str(bundle) in box.reports[-1]
    box.fetch()
    box.keep(box.session)


@pytest.fixture
def synced(monkeypatch):
    paths, sync = [], os.fsync

    def noted(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def test_a_power_cut_after_a_fetch_or_a_delete_leaves_all_of_it(box, project, synced):
    """The content is synced before its name, and the commits before their branch."""
    box.make()
    box.commit()
    box.keep(box.session, saves=True, insists=True)
    (bundle,) = box.saved.iterdir()
    assert synced == [f"{bundle}.part", str(bundle.parent)]
    branch = project / ".git/refs/heads" / box.fetch().branch
    packs = project / ".git/objects/pack"
    files = [path for path in synced if "tmp_pack_" in path]
    assert len(files) >= 2
    assert synced.index(files[-1]) < synced.index(str(packs)) < synced.index(f"{branch}.lock")
    assert synced[-1] == str(branch.parent)


def test_what_a_delete_kept_is_there_when_the_conversation_goes_on_in_a_new_clone(box, project, tmp_path):
    box.make()
    head = box.commit()
    (box.folder / "one").write_text("put away\n")
    git(box.folder, "stash", "push", "--quiet")
    (box.folder / "open").write_text("not committed\n")
    box.keep(box.session, saves=True, insists=True)
    (box.saved / "id.20200101-000000.bundle").write_text("an older one")
    new = Box(tmp_path / "new", project, tmp_path / "home").make(resume="id")
    assert git(new.folder, "rev-parse", "kept/main").strip() == head
    assert git(new.folder, "show", "kept/uncommitted:open") == "not committed\n"
    assert git(new.folder, "show", "refs/kept/stash/1:one") == "put away\n"
    assert git(new.folder, "status", "--porcelain") == ""


def test_a_clone_that_cannot_be_read_is_kept_unless_a_person_insists(box):
    box.make()
    shutil.rmtree(box.folder / ".git")
    assert "not a git repository" in refusal(box.keep, box.session)
    box.keep(box.session, saves=True, insists=True)
    assert "is lost" in box.reports[-1]
