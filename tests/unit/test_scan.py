"""What in a workspace runs by itself on the host: wall/scan.py, with what the real git makes there."""

import hashlib
import json
import marshal
import os
import struct
import subprocess
import sys
import tempfile
import time

import pytest

import clincus
from clincus_features.protection import scans
from tests.programs import wait_until
from tests.table import table

ROWS = [row for name in ("agents", "editors") for row in clincus.protect.presets()[name]]
EVIL = "evil-command"


class Workspace:
    """A folder, git as its owner uses it, and what a look finds there."""

    def __init__(self, root):
        self.root = root
        root.mkdir()
        (root.parent / "home").mkdir()
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(root.parent / "home"),
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    def git(self, *words, at=""):
        base = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
        base += ["-c", "init.defaultBranch=main", "-c", "advice.addEmbeddedRepo=false"]
        done = subprocess.run(
            [*base, *words], cwd=self.root / at, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def repository(self, at="", *words):
        (self.root / at).mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", *words, at=at)
        return self

    def commit(self, at=""):
        self.git("commit", "-q", "--allow-empty", "-m", "x", at=at)

    def write(self, path, text="x"):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def configure(self, path, key="core.fsmonitor", value=EVIL):
        self.git("config", "--file", str(self.root / path), key, value)

    def look(self):
        return scans.scan(str(self.root), [row.path for row in ROWS], self.environ)

    def found(self):
        """What is found: each kind and path, with the values of its commands."""
        look = self.look()
        assert look.cut == ""
        return {(one["kind"], one["path"]): [each["value"] for each in one["commands"]] for one in look.items}

    def runs_for_its_owner(self, *words, at=""):
        """Whether git on the host runs the evil command."""
        bin = self.root.parent / "bin"
        bin.mkdir(exist_ok=True)
        (bin / EVIL).write_text(f"#!/bin/sh\ntouch {self.root.parent}/ran\n")
        (bin / EVIL).chmod(0o755)
        environ = {**self.environ, "PATH": f"{bin}:{self.environ['PATH']}"}
        subprocess.run(["git", *words], cwd=self.root / at, env=environ, capture_output=True, check=False)
        return (self.root.parent / "ran").exists()


@pytest.fixture
def work(tmp_path):
    return Workspace(tmp_path / "work")


# -- Repositories


def test_a_repository_at_the_top_is_found_with_what_its_configuration_runs(work):
    work.repository().configure(".git/config")
    assert work.found() == {("repository", ".git"): [EVIL]}


@table(
    ("key", "value", "is_told"),
    [
        ("core.fsmonitor", EVIL, True),
        ("core.fsmonitor", "true", False),
        ("core.hooksPath", "ci", True),
        ("filter.x.clean", "x", True),
        ("include.path", "../evil", True),
        ("submodule.x.update", "!x", True),
        ("submodule.x.update", "rebase", False),
        ("remote.x.url", "https://x", False),
        ("remote.x.url", "x/evil::foo", True),
        ("url.x::.insteadOf", "https://x", True),
        ("pull.twohead", "x/evil", True),
        ("branch.main.remote", "origin", False),
    ],
)
def test_the_commands_of_a_configuration_are_told_and_nothing_else(tmp_path, key, value, is_told):
    work = Workspace(tmp_path / "work")
    work.repository("sub").configure("sub/.git/config", key, value)
    assert work.found() == {("repository", "sub/.git"): [value] if is_told else []}


def test_repositories_are_found_at_any_depth(work):
    places = (".hidden", "a/b/c/d/e", "node_modules/x", "with space")
    for at in places:
        work.repository(at)
    assert sorted(work.found()) == [("repository", f"{at}/.git") for at in places]


@table("at", [".", "sub.git"])
def test_a_bare_repository_is_found_and_runs_its_command(tmp_path, at):
    work = Workspace(tmp_path / "work")
    work.repository(at, "--bare")
    work.configure(f"{at}/config", "core.bare", "false")
    work.configure(f"{at}/config", "core.worktree", ".")
    work.configure(f"{at}/config")
    assert work.found() == {("repository", at): [EVIL]}
    assert work.runs_for_its_owner("status", at=at)


def test_folders_of_a_project_are_no_bare_repository(work):
    for name in ("HEAD", "config"):
        work.write(name, "what a project calls so")
    for name in ("objects", "refs", "hooks"):
        (work.root / name).mkdir()
    assert work.found() == {}


def test_the_placeholder_that_keeps_git_from_a_bare_top_does_not_hide_it(work):
    work.repository("", "--bare")
    work.configure("config")
    (work.root / "commondir").mkdir()
    assert work.found() == {("repository", "."): [EVIL]}


@table("head", ["ref: elsewhere", None])
def test_a_git_folder_with_a_broken_head_is_told(tmp_path, head):
    work = Workspace(tmp_path / "work")
    work.repository().commit()
    (work.root / ".git" / "HEAD").unlink()
    if head is not None:
        work.write(".git/HEAD", head)
    with pytest.raises(subprocess.CalledProcessError):
        work.git("status")
    assert work.found() == {("broken", ".git"): []}


def test_a_placeholder_that_a_start_makes_is_no_change_of_a_repository(work):
    work.repository()
    before = int(os.stat(work.root / ".git/config").st_ctime)
    wait_until(lambda: int(time.time()) > before, "another second, which is what looks tell")
    (work.root / ".git/commondir").mkdir()
    assert [one["changed"] for one in work.look().items] == [before]


def test_hooks_are_told_but_not_samples_or_what_git_does_not_run(work):
    work.repository("sub")
    for name, mode in (("pre-commit", 0o755), ("notes", 0o644), ("x.sample", 0o755)):
        work.write(f"sub/.git/hooks/{name}")
        (work.root / f"sub/.git/hooks/{name}").chmod(mode)
    assert work.found() == {("repository", "sub/.git"): ["pre-commit"]}


@table(
    ("path", "text"),
    [
        ("sub/.git", "gitdir: ../.store/.git\n"),
        ("sub/.git", ""),
        ("sub/.git/commondir", "../../.store/.git\n"),
    ],
)
def test_a_git_folder_that_is_elsewhere_in_the_workspace_is_told_with_its_commands(tmp_path, path, text):
    work = Workspace(tmp_path / "work")
    work.repository(".store").configure(".store/.git/config")
    if path.endswith("commondir"):
        work.write("sub/.git/HEAD", "ref: refs/heads/x\n")
    work.write(path, text)
    if not text:
        (work.root / path).unlink()
        os.symlink("../.store/.git", work.root / path)
    assert work.found() == {("repository", ".store/.git"): [EVIL], ("repository", "sub/.git"): [EVIL]}
    assert work.runs_for_its_owner("status", at="sub")


@table(
    ("make", "words"),
    [
        (lambda path: os.symlink("../../other", path), "it is a link to ../../other"),
        (os.mkfifo, "it is no plain file"),
        (lambda path: path.write_bytes(b"x" * (1 << 20) + b"x"), "it is larger than 1024 KiB"),
        (lambda path: path.write_text("[unfinished"), "git does not understand it"),
    ],
)
def test_a_configuration_that_is_not_read_is_told_with_the_reason(tmp_path, make, words):
    work = Workspace(tmp_path / "work")
    work.repository("sub")
    path = work.root / "sub/.git/config"
    path.unlink()
    make(path)
    assert work.found() == {("repository", "sub/.git"): [words]}


@table(
    ("at", "options", "told"),
    [
        ("objects/aa/x", (), "objects/aa/x/.git"),
        ("logs/up", ("--bare",), "logs/up"),
        ("modules/lib", ("--bare",), "modules/lib"),
    ],
)
def test_a_repository_that_is_hidden_in_the_git_folder_is_found(tmp_path, at, options, told):
    work = Workspace(tmp_path / "work")
    work.repository()
    work.repository(f".git/{at}", *options)
    work.configure(f".git/{told}/config")
    assert work.found() == {("repository", ".git"): [], ("repository", f".git/{told}"): [EVIL]}


@table("at", ["worktrees", "objects/pack", "refs/heads/deep/down"])
def test_a_link_in_the_git_folder_is_found_with_where_it_leads(tmp_path, at):
    """Git writes and deletes through it: `git commit` empties what it takes for its worktrees."""
    work = Workspace(tmp_path / "work")
    work.repository()
    link = work.root / ".git" / at
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir():
        link.rmdir()
    link.symlink_to("/home/person/precious")
    assert work.found() == {("repository", ".git"): [], ("link", f".git/{at}"): ["/home/person/precious"]}


def test_a_nested_repository_with_a_bad_index_says_what_that_names(work):
    work.repository("sub")
    (work.root / "sub/.git/index").write_bytes(index_with(b"../../x"))
    assert work.found() == {("repository", "sub/.git"): ["../../x"]}


# -- Gitlinks


def planted_submodule(work):
    work.repository()
    work.commit()
    work.repository("sub").commit("sub")
    work.git("add", "sub")
    work.configure("sub/.git/config")


@table("version", [2, 3, 4])
def test_a_gitlink_is_found_in_an_index_of_each_version(tmp_path, version):
    work = Workspace(tmp_path / "work")
    planted_submodule(work)
    for number in range(30):
        work.write(f"src/file-{number}")
        work.write(f"tail/{'long' * 60}-{number}")
    work.git("add", "src", "tail")
    if version == 3:  # git writes it for an entry that is only meant to be added
        work.write("later")
        work.git("add", "--intent-to-add", "later")
    work.git("update-index", "--index-version", str(version))
    assert (work.root / ".git/index").read_bytes()[7] == version
    assert work.found() == {("gitlink", "sub"): [EVIL], ("repository", ".git"): []}
    assert work.runs_for_its_owner("status")


def test_a_gitlink_with_a_name_that_git_refuses_is_told_with_what_it_leads_to(work):
    work.repository()
    work.write("sub/x")
    work.repository(".git/ev").configure(".git/ev/.git/config")
    gitlink = struct.pack(">10I", 0, 0, 0, 0, 0, 0, 0o160000, 0, 0, 0)
    (work.root / ".git/index").write_bytes(
        index_with(b"sub/../.git/ev", b"../out").replace(entry_of(b"")[:40], gitlink)
    )
    found = work.found()
    assert found["gitlink", "sub/../.git/ev"] == [EVIL]
    assert found["gitlink", "../out"] == ["it leads out of the folder"]
    assert found["broken", ".git/index"] == ["sub/../.git/ev", "../out"]


def split(work):
    work.git("update-index", "--split-index")
    work.write("more")
    work.git("add", "more")
    assert list((work.root / ".git").glob("sharedindex.*"))


def make_sparse(work):
    work.git("config", "--unset", "core.fsmonitor", at="sub")
    for path in ("deep/a/b", "wide/a"):
        work.write(path)
    work.git("add", "deep", "wide")
    work.commit()
    work.git("sparse-checkout", "set", "--sparse-index", "wide")
    assert b"sdir" in (work.root / ".git/index").read_bytes()


def rename_git_folder(work):
    (work.root / ".git").rename(work.root / ".bare")
    work.write(".git", "gitdir: ./.bare\n")


@table("how", [split, make_sparse, rename_git_folder])
def test_a_gitlink_is_found_in_an_index_of_another_form_or_place(tmp_path, how):
    work = Workspace(tmp_path / "work")
    planted_submodule(work)
    how(work)
    assert ("gitlink", "sub") in work.found()


def test_an_index_that_git_does_not_read_is_said_and_hides_nothing_else(work):
    work.repository()
    work.repository("sub")
    (work.root / ".git/index").write_bytes(struct.pack(">4sII", b"DIRC", 9, 0) + b"\0" * 40)
    look = work.look()
    assert {one["path"] for one in look.items} == {".git", "sub/.git"}
    assert "the index of .git was not read" in look.cut


@table(
    ("data", "words"),
    [
        (struct.pack(">4sII", b"DIRC", 2, 1 << 31) + b"\0" * 40, "git never writes such a one"),
        (struct.pack(">4sII", b"DIRC", 4, 1) + b"\0" * 62 + b"\x05name\0" + b"\0" * 20, "git never writes such a one"),
        (struct.pack(">4sII", b"DIRC", 2, 2) + b"\xff" * 200, "git never writes such a one"),
        ("a pipe", "it is no plain file"),
        ("a link", "it is a link to"),
    ],
)
def test_an_index_that_git_never_writes_is_told_and_hides_nothing_else(tmp_path, data, words):
    """Git looks at little of it, and may read on where this stops."""
    work = Workspace(tmp_path / "work")
    work.repository()
    work.repository("sub")
    path = work.root / ".git/index"
    if data == "a pipe":
        os.mkfifo(path)
    elif data == "a link":
        os.symlink("/elsewhere", path)
    else:
        path.write_bytes(data)
    found = work.found()
    expected = {("repository", ".git"), ("repository", "sub/.git"), ("broken", ".git/index")}
    assert found.keys() - {("link", ".git/index")} == expected
    assert words in found["broken", ".git/index"][0]


# -- An interrupted rebase


def test_a_planted_list_and_strategy_of_a_rebase_are_found(work):
    work.repository().commit()
    work.write(".git/rebase-merge/git-rebase-todo", "pick 1234567 one\n  exec   evil\n")
    work.write(".git/rebase-merge/strategy", "x/e\n")
    assert sorted(work.found()["rebase", ".git/rebase-merge/git-rebase-todo"]) == ["evil", "x/e"]


# -- Settings


@table(
    "path",
    [
        *(".mcp.json", ".claude/settings.json", ".claude/skills/x.md", ".github/hooks/x.json", "deep/below/.envrc"),
        *("deep/.claude/settings.local.json", "deep/x.code-workspace"),
    ],
)
def test_settings_are_found_at_any_depth(tmp_path, path):
    work = Workspace(tmp_path / "work")
    work.write(path)
    found = [key for kind, key in work.found() if kind == "settings"]
    assert len(found) == 1
    assert path.startswith(found[0])
    assert clincus.protect.runs_on_host(path, ROWS).startswith("runs on your machine when you ")
    assert clincus.protect.runs_on_host(found[0], ROWS) == clincus.protect.runs_on_host(path, ROWS)


@table(
    "path", ["src/main.c", ".claude/CLAUDE.md", "settings.json", "node_modules/x/.vscode/a.json", ".github/workflows/x"]
)
def test_other_files_are_no_settings(tmp_path, path):
    work = Workspace(tmp_path / "work")
    work.write(path)
    assert work.found() == {}
    assert clincus.protect.runs_on_host(path, ROWS) == ""


def test_a_placeholder_is_no_setting(work):
    work.write(".vscode/.gitignore", "*\n")
    work.write(".mcp.json", "")
    work.write(".git/.gitignore", "*\n")  # as in the place of a Git folder
    work.write(".git/config", "")
    assert work.found() == {}


def test_a_link_in_the_place_of_a_folder_of_settings_is_told(work):
    work.write("other/settings.json")
    os.symlink("other", work.root / ".claude")
    [(key, [link])] = work.found().items()
    assert key == ("settings", ".claude")
    assert link.startswith("other (content ")


@table(
    ("link", "target", "change"),
    [
        (".mcp.json", "cfg/c.json", "echo x >>cfg/c.json"),
        (".claude", "cfg", "mkdir -p cfg/skills/a; echo x >cfg/skills/a/SKILL.md"),
        (".claude", "cfg", "mv cfg cfg-2; mkdir cfg"),
        (".claude", "cfg", "rm cfg/c.json; ln -s /etc/passwd cfg/c.json"),
    ],
)
def test_another_content_at_the_end_of_a_link_to_settings_is_another_command(tmp_path, link, target, change):
    work = Workspace(tmp_path / "work")
    work.write("cfg/c.json", "{")
    (work.root / link).parent.mkdir(exist_ok=True)
    os.symlink(target, work.root / link)
    before = work.found()
    assert work.found() == before
    subprocess.run(["sh", "-ec", change], cwd=work.root, check=True)
    assert work.found().keys() == before.keys()
    assert work.found() != before


def test_the_end_of_a_link_to_settings_outside_of_the_workspace_is_not_read(work):
    outside = work.root.parent / "outside.json"
    outside.write_text("{}")
    os.symlink(outside, work.root / ".mcp.json")
    before = work.found()
    outside.write_text("other")
    assert work.found() == before == {("settings", ".mcp.json"): [f"{outside} (outside of the workspace)"[-200:]]}


# -- What an attacker makes of it


def test_no_link_is_followed_and_no_loop_is_walked(work, tmp_path):
    (tmp_path / "outside").mkdir()
    work.repository("../outside/sub")
    os.symlink(tmp_path / "outside", work.root / "out")
    os.symlink(".", work.root / "self")
    (work.root / "a").mkdir()
    os.symlink("../a", work.root / "a" / "up")
    assert work.found() == {}


def test_a_heap_of_folders_hides_nothing_beside_it(work, monkeypatch):
    work.repository("zz")
    for number in range(50):
        (work.root / f"aa/{number}/x").mkdir(parents=True)
    text = clincus.packaged_text("wall/scan.py")
    small = text.replace("MOST_FOLDERS = 200_000", "MOST_FOLDERS = 20")
    assert small != text
    others = clincus.protect.program("places", "objects")
    program = others + marshal.dumps(compile(small, "wall/scan.py", "exec"))
    monkeypatch.setattr("clincus_wall.protect.program", lambda *_: program)
    look = work.look()
    assert [one["path"] for one in look.items] == ["zz/.git"]
    assert look.cut == "it has more than 20 folders"


def test_a_heap_of_repositories_hides_neither_the_top_nor_what_lies_near_it(work):
    planted_submodule(work)
    work.write(".envrc")
    for number in range(2001):
        (work.root / f"aa/{number:04}").mkdir(parents=True)
        work.write(f"aa/{number:04}/.git", "gitdir: /elsewhere\n")
    look = work.look()
    assert {"sub", ".envrc", ".git"} <= {one["path"] for one in look.items}
    assert look.cut == "there are more than 2000 repositories and settings"


@table("text", ["\0", "../..", "", "x" * 5000, "a/" * 3000, "\udcff"])
@table("place", [".git/HEAD", ".git/commondir", ".git/config", ".git/index"])
def test_odd_texts_where_git_keeps_paths_hide_nothing_else(tmp_path, place, text):
    work = Workspace(tmp_path / "work")
    work.repository("zz").configure("zz/.git/config")
    data = os.fsencode(text)
    for at in ("", "aa"):
        work.repository(at)
        (work.root / at / place).write_bytes(data)
    work.write("bb/.git", "")
    (work.root / "bb/.git").write_bytes(b"gitdir: " + data)
    look = work.look()
    (found,) = (one for one in look.items if one["path"] == "zz/.git")
    assert [one["value"] for one in found["commands"]] == [EVIL]
    assert look.cut == "" or look.cut.startswith("the index of .git was not read")


# -- What git would not have taken into an index


def entry_of(name, blob=bytes(20), *, length=None, version=2, dropped=0):
    """An entry of an index; in version 4 it drops bytes of the name before."""
    size = len(name) if length is None else length
    entry = struct.pack(">10I", 0, 0, 0, 0, 0, 0, 0o100755, 0, 0, 0) + blob + struct.pack(">H", size)
    if version == 4:
        return entry + bytes([dropped]) + name + b"\0"
    entry += name
    return entry + bytes(8 - len(entry) % 8)


def signed(data):
    """An index with its hash."""
    return data + hashlib.sha1(data).digest()


def index_of(*entries, version=2, extensions=b""):
    return signed(struct.pack(">4sII", b"DIRC", version, len(entries)) + b"".join(entries) + extensions)


def index_with(*names):
    """An index with entries of these names, as an agent may write it."""
    return index_of(*(entry_of(name) for name in names))


def wrong_in(folder):
    """What is wrong with the indexes in a folder, by their paths."""
    found = scans.look_at_indexes(str(folder))["indexes"]
    return {path: one["bad"] for path, one in found.items() if one["bad"]}


@table(
    "name",
    [b".git/hooks/post-checkout", b".GIT/config", b"a/.git/config", b".git. /x", b"GIT~1/x", b"../x", b"/x"],
)
def test_a_name_in_the_index_that_git_would_refuse_is_told(tmp_path, name):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/index").write_bytes(index_with(b"README.md", name))
    assert wrong_in(tmp_path) == {".git/index": [os.fsdecode(name)]}


@table("folder", [".git/modules/vendor/lib", ".git/worktrees/wt"])
def test_the_index_of_a_submodule_and_of_a_worktree_is_looked_at_as_well(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "HEAD").touch()
    (tmp_path / folder / "index").write_bytes(index_with(b"../.git/ev"))
    assert wrong_in(tmp_path) == {f"{folder}/index": ["../.git/ev"]}


def hidden_behind_a_length(blob):
    """The first name ends before its length: where the next entry begins depends on who reads it."""
    inner = b"a\0" + entry_of(b"b", version=4)
    return index_of(
        entry_of(inner, blob, version=4),
        entry_of(b"../out", blob, version=4, dropped=len(inner)),
        version=4,
    )


def hidden_from_one_thread(blob):
    """The table of blocks leads threads to entries elsewhere."""
    shown, hidden = entry_of(b"a"), entry_of(b"../out", blob)
    start = 12 + len(shown)
    place = start + 8 + 12 + 8
    table = b"IEOT" + struct.pack(">IIII", 12, 1, place, 1)
    store = b"ABCD" + struct.pack(">I", len(hidden)) + hidden
    heads = hashlib.sha1(table[:8] + store[:8]).digest()
    last = b"EOIE" + struct.pack(">II", 24, start) + heads
    return index_of(shown, extensions=table + store + last)


@table("hide", [hidden_behind_a_length, hidden_from_one_thread])
def test_a_name_that_only_git_would_see_is_told(tmp_path, hide):
    work = Workspace(tmp_path / "work")
    work.repository()
    work.write("file", "evil")
    blob = bytes.fromhex(work.git("hash-object", "-w", "file").strip())
    (work.root / ".git/index").write_bytes(hide(blob))
    assert wrong_in(work.root).keys() == {".git/index"}
    subprocess.run(
        ["git", "-c", "index.threads=4", "checkout", "."], cwd=work.root, env=work.environ, capture_output=True,
        check=False,
    )  # fmt: skip
    assert (work.root.parent / "out").read_text() == "evil"


@table("options", [("-c", "index.version=4"), ("-c", "index.skipHash=true")])
def test_what_git_writes_is_never_bad(tmp_path, options):
    work = Workspace(tmp_path / "work")
    work.repository()
    for number in range(300):
        work.write(f"{'long' * 30}/{'name' * 20}/{number}")
    work.write("/".join(["deep" * 50] * 18) + "/x")  # a name of more than 4095 bytes has no place on a disk
    work.git(*options, "-c", "index.threads=4", "-c", "index.recordOffsetTable=true", "add", ".")
    assert wrong_in(work.root) == {}
    work.git(*options, "commit", "-qm", "x")
    work.write("more")
    work.git(*options, "update-index", "--split-index")
    work.git(*options, "add", "more")
    work.write(f"{'long' * 30}/{'name' * 20}/7", "changed")
    work.git(*options, "add", ".")
    assert wrong_in(work.root) == {}
    assert list((work.root / ".git").glob("sharedindex.*"))


def test_a_folder_that_may_be_entered_only_is_said_to_be_closed():
    """As another user where root runs the tests, who may list every folder."""
    question = {"git": "", "settings": []}
    with tempfile.TemporaryDirectory(prefix="clincus-scan-") as top:
        os.chmod(top, 0o755)
        os.mkdir(f"{top}/h")
        os.chmod(f"{top}/h", 0o111)
        program = (
            clincus.protect.program("places", "objects", "scan") + json.dumps({**question, "workspace": top}).encode()
        )
        command = [os.path.realpath(sys.executable), "-I", "-S", "-c", scans.LOADER]
        user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run(command, input=program, capture_output=True, check=True, cwd="/", **user)
    assert "'h'" in json.loads(done.stdout)["cut"]


@table("at", ["COMMIT_EDITMSG", "logs/refs/heads/main", "worktrees"])
def test_a_link_in_a_nested_repository_is_told(tmp_path, at):
    work = Workspace(tmp_path / "work")
    link = work.root / "sub/.git" / at
    link.parent.mkdir(parents=True)
    (work.root / "sub/.git/hooks").symlink_to("../../hooks")
    link.symlink_to("/home/person/precious")
    assert work.found()["link", f"sub/.git/{at}"] == ["/home/person/precious"]
    assert ("link", "sub/.git/hooks") not in work.found()


# ---- what git would write into sealed paths ------------------------------------------------------------------------


def unlike(work, sealed=(".husky", ".mcp.json")):
    found = scans.look_at_indexes(str(work.root), (), sealed)["indexes"]
    return found[".git/index"]["unlike"]


# What the agent does in the repository, and the sealed paths that git on the host may write then.
PLANTED = {
    "nothing": ("", []),
    "another content": ("git update-index --cacheinfo 100755,$evil,.husky/pre-commit", [".husky/pre-commit"]),
    "a split index": (
        "git update-index --split-index; git update-index --add --cacheinfo 100755,$evil,.husky/new", [".husky/new"],
    ),
}  # fmt: skip


@table("how", PLANTED)
@table("version", [2, 4])
def test_what_git_would_write_into_sealed_paths_is_told(tmp_path, how, version):
    work = Workspace(tmp_path / "work")
    script, found = PLANTED[how]
    begin = f"""
        git init -q .; mkdir .husky; printf 'true\\r\\n' >.husky/pre-commit; git -c core.autocrlf=input add .
        git update-index --index-version {version}; evil=$(echo evil | git hash-object -w --stdin)
    """
    subprocess.run(["sh", "-ec", f"{begin}{script}"], cwd=work.root, check=True, capture_output=True)
    assert unlike(work) == found
