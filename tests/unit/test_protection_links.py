"""Links of an agent's making in a Git folder: found wherever git would follow them, put aside and told."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest

import clincus
from clincus_features.protection import links, modules
from clincus_features.protection.guard import ChangedError, Guard
from tests.programs import wait_until
from tests.table import table
from tests.unit import wall_bench
from tests.unit.wall_bench import start_alone, stop_alone

alone = wall_bench.alone
bench = wall_bench.bench
nothing_left = wall_bench.nothing_left


def plant(root, at, target="/home/person/precious"):
    """Make a link in the Git folder of a workspace."""
    link = root / ".git" / at
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return link


def find(root):
    return links.find([f"{root}/.git"])


# ---- what is found ---------------------------------------------------------------------------------------------------


@table("at", ["COMMIT_EDITMSG", "logs/refs/heads/main", "modules/lib", "objects/pack", "refs/heads/hooks/x", "a/b/c"])
def test_a_link_is_put_aside_wherever_git_would_follow_it_and_what_it_leads_to_stays(tmp_path, at):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    link = plant(tmp_path, at, str(tmp_path / "precious"))
    found = find(tmp_path).links
    assert found == {str(link): str(tmp_path / "precious")}
    [words] = links.put_aside(found, [f"{tmp_path}/.git"])[0].values()
    [aside] = tmp_path.glob(".git/clincus-replaced-*/*")
    assert aside.is_symlink()
    assert str(aside.parent) in words
    assert (tmp_path / "precious/file").exists()
    assert find(tmp_path).links == {}


@table(
    ("at", "target", "is_bad"),
    [
        ("HEAD", "refs/heads/main", False),  # core.preferSymlinkRefs
        ("HEAD", "config", True),
        ("HEAD", "refs/heads/../../config", True),
        ("refs/remotes/origin/HEAD", "refs/remotes/origin/main", False),
        (".#COMMIT_EDITMSG", "person@host.123:456", False),  # Emacs
        ("hooks/pre-commit", "../../scripts/hook.sh", False),
    ],
)
def test_what_git_and_editors_make_themselves_is_no_danger(tmp_path, at, target, is_bad):
    plant(tmp_path, at, target)
    assert bool(find(tmp_path).links) == is_bad


@table("name", ["lib/hooks", "lib/objects/ab"])
def test_a_submodule_with_the_name_of_a_folder_that_is_passed_over_is_looked_into(tmp_path, name):
    """The agent's `.gitmodules` chooses the name."""
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "modules" / name], check=True)
    (tmp_path / "modules" / name / "FETCH_HEAD").symlink_to("/etc/motd")
    found = links.find([str(tmp_path)])
    assert list(found.links) == [f"{tmp_path}/modules/{name}/FETCH_HEAD"]
    assert f"{tmp_path}/modules/{name}" in found.repositories


def test_a_git_folder_that_is_no_longer_whole_is_looked_into(bench):
    subprocess.run(["git", "init", "-q", "--bare", bench.root / ".git/modules/lib"], check=True)
    bench.start()
    plant_module(bench.root, "[core]\n\tfsmonitor = evil\n", at="modules/lib/hooks/x")
    bench.comes_to_rest()
    (bench.root / ".git/modules/lib/HEAD").unlink()
    bench.await_broken()
    bench.await_change(".git/modules/lib/hooks/x/config")


@table("name", ["HEAD", "index", "objects/info/alternates", "refs/heads/main", "modules/m/config"])
def test_a_pipe_in_the_place_of_any_file_of_gits_is_found(tmp_path, name):
    made = tmp_path / ".git" / name
    made.parent.mkdir(parents=True)
    os.mkfifo(made)
    assert find(tmp_path).links == {str(made): links.PIPE}


def make_strange(root, kind):
    """Make something in a workspace that git never makes in a Git folder; its path."""
    made = root / {"pipe": ".git/refs/heads/x", "folder": f".git/{'a' * 40}", "bare": "HEAD"}[kind]
    made.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(made)
    elif kind == "folder":
        made.mkdir()
    else:
        (root / ".git").mkdir(exist_ok=True)
        made.write_text("ref: refs/heads/main\n")
        (root / "objects").mkdir()
        (root / "refs").mkdir()
    return made


@table(("kind", "words"), [("pipe", "wait"), ("folder", "commondir"), ("bare", "bare repository")])
def test_what_else_git_never_makes_is_found_and_put_aside(tmp_path, kind, words):
    made = make_strange(tmp_path, kind)
    found = find(tmp_path).links
    assert [*found] == [str(made)]
    [told] = links.put_aside(found, [f"{tmp_path}/.git"])[0].values()
    assert words in told
    assert not os.path.lexists(made)
    assert find(tmp_path).links == {}


def test_a_branch_that_names_commondir_is_put_aside_before_a_commit_writes_it(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    forged = tmp_path / ".git/refs/heads/main"
    forged.write_text("ref: commondir\n")
    (tmp_path / ".git/refs/heads/other").write_text("ref: refs/heads/x\n")
    found = links.find([f"{tmp_path}/.git"], references=True).links
    assert found == {str(forged): links.REFERENCE}
    links.put_aside(found, [f"{tmp_path}/.git"])
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True, capture_output=True)
    assert not (tmp_path / ".git/commondir").exists()


def test_no_command_of_git_makes_a_link(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", "-C", str(tmp_path)]
    script = """init -q; commit -q --allow-empty -m one; branch side; worktree add -q ../wt side; tag x; gc -q; stash;
        submodule add -q ./.git lib; commit -qm two; notes add -m n; fetch -q .; bisect start; worktree remove ../wt"""
    for words in script.split(";"):
        subprocess.run([*git, *words.split()], check=True, capture_output=True)
    assert find(tmp_path).links == {}


@table(
    ("limit", "make", "words"),
    [
        ("MOST_FOLDERS", lambda folder, name: (folder / name).mkdir(), "more than 20 folders"),
        ("MOST_ENTRIES", lambda folder, name: (folder / name).touch(), "more than 20 files"),
        ("MOST_LINKS", lambda folder, name: (folder / name).symlink_to("x"), "more than 20 links"),
    ],
)
def test_a_heap_is_bounded_and_said(tmp_path, monkeypatch, limit, make, words):
    monkeypatch.setattr(links, limit, 20)
    folder = tmp_path / ".git/refs"
    folder.mkdir(parents=True)
    for number in range(30):
        make(folder, str(number))
    assert words in "".join(find(tmp_path).cut.values())


# ---- what is put aside -----------------------------------------------------------------------------------------------


def test_what_has_taken_the_place_of_a_link_stays_and_a_link_on_the_way_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "HEAD").symlink_to("kept")
    plant(tmp_path, "logs/HEAD")
    link = plant(tmp_path, "index")
    found = find(tmp_path)
    (tmp_path / ".git/logs").rename(tmp_path / "old")
    plant(tmp_path, "logs", outside)
    link.unlink()
    link.write_text("git's own\n")
    links.put_aside(found.links, [f"{tmp_path}/.git"])
    assert (outside / "HEAD").is_symlink()
    assert link.read_text() == "git's own\n"


def refuse(*_, **__):
    raise PermissionError(errno.EPERM, "not permitted")


def test_a_link_that_cannot_be_moved_is_told_and_leaves_no_empty_folder(tmp_path, monkeypatch):
    """As in a folder of the container's root, with the sticky bit, for a server of another user."""
    link = plant(tmp_path, "refs/x")
    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os, "unlink", refuse)
    told, kept = links.put_aside(find(tmp_path).links, [f"{tmp_path}/.git"])
    assert "remove it before you run git there" in told[str(link)]
    assert kept == {str(link): "/home/person/precious"}
    assert os.listdir(tmp_path / ".git") == ["refs"]


# ---- while a server watches ------------------------------------------------------------------------------------------


def await_aside(bench, at):
    """Wait until a link is out of the way and told; the words for the person."""
    path = f".git/{at}"
    bench.await_change(path)
    assert not (bench.root / path).is_symlink()
    [change] = [one for one in bench.record.changes if one.path == f"{bench.root}/{path}"]
    assert change.kind == "link"
    return change.words


def test_a_link_freezes_the_session_which_goes_on_with_all_its_seals(bench):
    """What was there at the start stays; another one that comes while it is being frozen is put aside too."""
    plant(bench.root, "rr-cache", "/home/person/rr-cache")
    bench.session = bench.session._replace(protection="locked")
    bench.start()
    plant(bench.root, "worktrees")
    bench.await_broken()
    words = await_aside(bench, "worktrees")
    assert "/home/person/precious" in words
    assert any(words in one for one in bench.app.reports)
    assert (bench.root / ".git/rr-cache").is_symlink()
    plant(bench.root, "rebase-apply")
    await_aside(bench, "rebase-apply")
    bench.comes_to_rest()
    bench.guard._go_on(bench.session)
    level = [words for words in bench.app.incus.told if words[0] == "config"][-1][3]
    assert level == "user.clincus.protection=locked"
    assert bench.record.changes == []


def test_a_heap_that_could_hide_a_link_freezes_the_session_once(bench, monkeypatch):
    monkeypatch.setattr(links, "MOST_FOLDERS", 20)
    bench.start()
    for number in range(30):
        (bench.root / f".git/refs/{number}").mkdir(parents=True)
    bench.await_broken()
    assert "more than 20 folders" in bench.record.changes[0].words
    bench.comes_to_rest()
    bench.guard._go_on(bench.session)
    (bench.root / ".git/refs/more").mkdir()
    bench.settle()
    bench.comes_to_rest()
    assert bench.record.changes == []
    assert any("let the session go on" in words for words in bench.app.reports)


def test_a_link_in_a_nested_repository_freezes_the_session_too(bench):
    bench.start()
    path = bench.root / "sub/.git/worktrees"
    path.parent.mkdir(parents=True)
    path.symlink_to("/home/person/precious")
    bench.guard.examiner.put_links_aside(bench.session, {str(path): "/home/person/precious"})
    bench.await_broken()
    assert not path.is_symlink()
    assert bench.changes == [("sub/.git/worktrees", "replaced")]


# ---- at the end and at the start -------------------------------------------------------------------------------------


def test_a_link_that_nobody_saw_is_put_aside_when_the_session_ends(bench):
    bench.start()
    bench.guard.examiner.link_looks.ask = lambda id: None
    plant(bench.root, "worktrees")
    (bench.root / ".git/refs/heads").mkdir(parents=True)
    (bench.root / ".git/refs/heads/main").write_text("ref: commondir\n")
    bench.stop()
    await_aside(bench, "worktrees")
    bench.await_change(".git/refs/heads/main")
    with pytest.raises(ChangedError, match=r"\.git/worktrees was a link to"):
        bench.check()


def test_what_waits_for_a_person_after_a_stop_without_a_server_is_said_with_what_to_do(alone):
    start_alone(alone)
    plant(alone.root, "logs")
    plant_module(alone.root, "[core]\n\tfsmonitor = evil\n")
    stop_alone(alone)
    with pytest.raises(ChangedError, match=r"core\.fsmonitor"):
        alone.check()
    server = Guard(alone.app, alone.app.environ)
    found = server.document(alone.session)
    assert found["level"] == "locked"
    assert f"`clincus resume {alone.session.id} --accept-changes`" in found["note"]
    assert f"{alone.root}/.git/logs" in [one["path"] for one in found["changes"]]
    with pytest.raises(clincus.ClincusError, match="is not frozen: No session starts in this folder until"):
        server.resolve(alone.session, "continue")
    alone.check(accepts=True)
    alone.guard.hear("sealed", alone.session)
    alone.guard.hear("after_start", alone.session)
    assert server.document(alone.session)["note"] == alone.session.protection_note


# ---- Git folders of submodules and worktrees that came after the start -----------------------------------------------


HOOK = "#!/bin/sh\ntouch /tmp/ran\n"


def plant_module(root, config="", hook="", at="modules/sub", **files):
    """Make a Git folder of a submodule."""
    folder = root / ".git" / at
    for path, text in {"HEAD": "ref: refs/heads/main\n", "config": config, **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "hooks").mkdir()
    if hook:
        (folder / "hooks" / hook).write_text(HOOK)
        (folder / "hooks" / hook).chmod(0o755)
    return folder


def put_aside(root):
    """What is put aside of the Git folders that came after the start, by its path in .git, and the words."""
    folders = modules.unsealed(find(root).repositories, ())
    names = (".git/config", ".git/modules/old/config", ".husky", "nest/bare.git/hooks", "old/.git")
    sealed = [f"{root}/{name}" for name in names]
    told, _ = modules.put_aside(folders, f"{root}/.git", shutil.which("git"), (), sealed)
    return {path[len(f"{root}/.git/") :]: words for path, words in told.items()}


@table(
    ("planted", "aside", "words"),
    [
        ({"config": "[core]\n\tfsmonitor = evil\n"}, "modules/sub/config", "core.fsmonitor"),
        ({"config": "[include]\n\tpath = /workspace/x\n"}, "modules/sub/config", "include.path"),
        ({"config": "[core\n"}, "modules/sub/config", "does not understand"),
        ({"commondir": "/elsewhere\n"}, "modules/sub/commondir", "/elsewhere"),
        ({"at": "modules/a/modules/b", "hook": "pre-push"}, "modules/a/modules/b/hooks", "pre-push"),
        ({"at": "modules/refs/x", "objects/x": "", "hook": "pre-push"}, "modules/refs/x/hooks", "pre-push"),
        (
            {"at": "worktrees/x", "commondir": "../..\n", "config.worktree": "[core]\n\tfsmonitor = evil\n"},
            "worktrees/x/config.worktree",
            "core.fsmonitor",
        ),
        ({"at": "worktrees/x", "commondir": "../../../evil\n"}, "worktrees/x/commondir", "../../../evil"),
        ({"remotes/origin": "URL: ../other\n", "objects/x": "", "refs/x": ""}, "modules/sub/remotes", "remotes"),
    ],
)
def test_what_a_git_folder_without_a_seal_would_run_is_put_aside(tmp_path, planted, aside, words):
    folder = plant_module(tmp_path, **planted)
    found = put_aside(tmp_path)
    assert [*found] == [aside]
    assert words in found[aside]
    assert (folder / "HEAD").exists()
    assert not (tmp_path / ".git" / aside).exists()
    assert put_aside(tmp_path) == {}


@table(
    ("tree", "file", "is_bad"),
    [
        (".husky/_", None, True),  # the next checkout there would write the person's hooks
        ("nest", None, True),
        ("old", "gitdir: ../.git/modules/old", True),
        ("lib", "README", True),
        ("lib", "gitdir: ../.git/modules/sub", False),
        ("lib", None, False),
        ("absent", None, False),
    ],
)
def test_a_working_tree_of_a_submodule_is_its_own_and_holds_nothing_that_is_sealed(tmp_path, tree, file, is_bad):
    for folder in (".husky/_", "nest/bare.git/hooks", "old", "lib"):
        (tmp_path / folder).mkdir(parents=True)
    if file is not None:
        (tmp_path / tree / ".git").write_text(f"{file}\n")
    plant_module(tmp_path, f"[core]\n\tworktree = ../../../{tree}\n")
    assert [*put_aside(tmp_path)] == (["modules/sub/config"] if is_bad else [])


@table(
    ("to", "text", "is_bad"),
    [
        ("ROOT/../tree", None, True),  # no file: git would make one
        ("../../../../tree", "gitdir: /home/person/other/.git/worktrees/tree\n", True),
        ("ROOT/../tree", "gitdir: ROOT/.git/worktrees/x\n", False),
        ("ROOT/link/precious", None, True),
        ("ROOT/inner", None, False),
        ("/tmp/in-the-container", None, False),
    ],
)
def test_a_worktree_leads_to_no_folder_of_the_persons_unless_that_leads_back(tmp_path, to, text, is_bad):
    root = tmp_path / "work"
    for folder in ("tree", "precious", "work/.git/worktrees/x"):
        (tmp_path / folder).mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    if text is not None:
        (tmp_path / "tree/.git").write_text(text.replace("ROOT", str(root)))
    made = root / ".git/worktrees/x"
    gitdir = to.replace("ROOT/..", str(tmp_path)).replace("ROOT", str(root))
    for name, line in {"HEAD": "ref: refs/heads/x", "commondir": "../..", "gitdir": f"{gitdir}/.git"}.items():
        (made / name).write_text(f"{line}\n")
    assert [*put_aside(root)] == (["worktrees/x/gitdir"] if is_bad else [])


@table(
    "planted",
    [
        {"config": '[core]\n\tbare = false\n\tworktree = ../../../sub\n[remote "origin"]\n\turl = https://x.org/y\n'},
        {"hook": "pre-push.sample"},
        {"hook": "pre-push"},  # as the one at the top
        {"commondir": ".\n"},
        {"at": "worktrees/x", "commondir": "../..\n"},
    ],
)
def test_what_git_makes_itself_stays(tmp_path, planted):
    (tmp_path / ".git/hooks").mkdir(parents=True)
    (tmp_path / ".git/hooks/pre-push").write_text(HOOK)
    (tmp_path / ".git/config").write_text('[submodule "sub"]\n\turl = https://x.org/y/\n')
    plant_module(tmp_path, **planted)
    assert put_aside(tmp_path) == {}


@table(
    "setting",
    [
        "remote.origin.vcs=x/evil",
        "remote.origin.url=x::foo",
        "remote.origin.url=../other",  # whose hooks a push would run
        "remote.origin.url=file://WORK/other",
        "remote.origin.url=WORK/later-a-link/../../other",
        "remote.origin.url=https://x.org/y",  # that the person's configuration does not name
        "remote.origin.url=git@x.org:person/private",
        "remote.origin.promisor=true",
        "remote.origin.push=refs/heads/*:refs/heads/*",
        "submodule.x.update=!x/evil",
        "branch.main.remote=x/evil",  # no remote has that name, so it is a repository in the workspace
        "branch.main.mergeOptions=--strategy=x/evil",
        "url.x::.insteadOf=https://x.org/",
        "core.attributesFile=x",
        "core.worktree=../../../link",
        "merge.tool=x/evil",
        "some.newKey=x",
    ],
)
def test_a_setting_that_is_not_known_to_be_harmless_is_put_aside(tmp_path, setting):
    root = tmp_path / "work"
    root.mkdir()
    (root / "link").symlink_to("/")
    key, _, value = setting.partition("=")
    section, _, name = key.rpartition(".")
    kind, _, subsection = section.partition(".")
    head = f'[{kind} "{subsection}"]' if subsection else f"[{kind}]"
    plant_module(root, f"{head}\n\t{name} = {value.replace('WORK', str(root))}\n")
    [words] = put_aside(root).values()
    assert name.lower() in words


def test_what_a_person_does_with_submodules_and_worktrees_is_no_news(tmp_path):
    script = """
        git() { command git -c protocol.file.allow=always -c user.name=a -c user.email=a@b "$@"; }
        git init -qb main lib; git -C lib commit -q --allow-empty -m two
        git init -qb main work; cd work; git commit -q --allow-empty -m one
        git submodule add -q ../lib; git submodule add -q --depth 1 -b main "file://$PWD/../lib" vendor/deep/lib
        git commit -qm two; git submodule update -q --init --recursive; git submodule sync -q --recursive
        git submodule set-branch -b main lib; git submodule update -q --remote --rebase lib
        git worktree add -q ../linked; git worktree add -q inside; git -C inside submodule update -q --init --recursive
        git -C inside sparse-checkout set --no-cone /lib; git -C lib sparse-checkout set --cone x
        git -C lib checkout -qb topic --track origin/main; git -C lib branch -q hooks/x; git -C lib config user.name b
        git submodule deinit -q -f vendor/deep/lib; rm -r .git/modules/vendor
        git submodule update -q --init vendor/deep/lib
        git config remote.fork.url https://x.org/fork.git; git -C lib remote add fork https://x.org/fork.git
        git -C lib config branch.topic.pushRemote fork; git -C lib gc -q
    """
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(find(tmp_path / "work").repositories) == 6
    assert put_aside(tmp_path / "work") == {}


def test_a_submodule_that_comes_while_a_session_runs_is_told_and_watched(bench):
    bench.start()
    folder = plant_module(bench.root, "[core]\n\tbare = false\n")
    wait_until(lambda: any("has no seal" in words for words in bench.app.reports), "it to be told")
    [words] = bench.guard.warnings(bench.session)
    assert words.startswith(f"{folder} came after the start")
    assert bench.changes == []
    with open(folder / "config", "a") as file:
        file.write("\tfsmonitor = evil\n")
    bench.await_broken()
    bench.await_change(".git/modules/sub/config")
    assert not (folder / "config").exists()
    bench.stop()
    assert bench.guard.warnings(bench.session) == []


def new_hook(root, folder):
    (folder / "hooks/post-checkout").write_text(HOOK)
    (folder / "hooks/post-checkout").chmod(0o755)


def new_link(root, folder):
    (root / "deep").symlink_to("/home")


@pytest.mark.parametrize(("act", "name"), [(new_hook, "hooks"), (new_link, "config")])
def test_what_changes_in_such_a_submodule_is_seen_by_the_state_of_its_files(bench, act, name):
    bench.start()
    folder = plant_module(bench.root, "[core]\n\tworktree = ../../../deep/sub\n")
    wait_until(lambda: bench.guard.examiner.seen.unsealed, "the first look")
    bench.comes_to_rest()
    act(bench.root, folder)
    bench.guard.compare_indexes()
    bench.await_broken()
    bench.await_change(f".git/modules/sub/{name}")
