"""Links of an agent's making in a Git folder: found wherever git would follow them, put aside and told."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading

import pytest

import clincus
from clincus_features.protection import examiner, links, modules
from clincus_features.protection.guard import ChangedError, Guard
from clincus_features.protection.seals import Stage
from tests.programs import DEADLINE, wait_until
from tests.table import table
from tests.unit import wall_bench
from tests.unit.test_protection_operations import Mapped
from tests.unit.wall_bench import RUN, leased, start_alone, stop_alone

alone = wall_bench.alone
bench = wall_bench.bench
alone = wall_bench.alone
nothing_left = wall_bench.nothing_left

AT = (
    "COMMIT_EDITMSG",
    "FETCH_HEAD",
    "MERGE_MSG",
    "logs",
    "logs/HEAD",
    "logs/refs/heads/main",
    "modules/lib",
    "modules/lib/objects/pack",
    "objects/12",
    "objects/info/packs",
    "objects/pack",
    "rebase-apply",
    "rebase-merge",
    "refs/heads/hooks/x",
    "refs/heads/x",
    "rr-cache/ab/postimage",
    "unknown/deep/down",
    "worktrees",
    "worktrees/x",
)


def plant(root, at, target="/home/person/precious"):
    """Make a link in the Git folder of a workspace."""
    link = root / ".git" / at
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return link


def find(root):
    return links.find([f"{root}/.git"])


# ---- what is found ---------------------------------------------------------------------------------------------------


@table("at", AT)
def test_a_link_is_found_wherever_git_would_follow_it(tmp_path, at):
    link = plant(tmp_path, at)
    assert find(tmp_path).links == {str(link): "/home/person/precious"}


@table(
    ("at", "target"),
    [
        ("HEAD", "refs/heads/main"),  # core.preferSymlinkRefs
        ("refs/remotes/origin/HEAD", "refs/remotes/origin/main"),
        ("modules/lib/tAb12Cd", "testing"),  # git init
        (".#COMMIT_EDITMSG", "person@host.123:456"),  # Emacs
        ("hooks/pre-commit", "../../scripts/hook.sh"),
    ],
)
def test_what_git_and_editors_make_themselves_is_no_danger(tmp_path, at, target):
    plant(tmp_path, at, target)
    assert find(tmp_path).links == {}


@table("target", ["config", "hooks/pre-commit", "refs/heads/../../config"])
def test_a_link_within_the_git_folder_is_one_as_well(tmp_path, target):
    assert [*find(plant(tmp_path, "HEAD", target).parents[1]).links.values()] == [target]


@table("name", ["lib/hooks", "lib/objects/ab", "lib/lfs/objects"])
def test_a_submodule_with_the_name_of_a_folder_that_is_passed_over_is_looked_into(tmp_path, name):
    """The agent's `.gitmodules` chooses the name."""
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "modules" / name], check=True)
    (tmp_path / "modules" / name / "FETCH_HEAD").symlink_to("/etc/motd")
    found = links.find([str(tmp_path)])
    assert list(found.links) == [f"{tmp_path}/modules/{name}/FETCH_HEAD"]
    assert f"{tmp_path}/modules/{name}" in found.repositories


@table("spoiled", ["HEAD", "objects", "refs"])
@table("name", ["hooks/x", "objects/ab/x", "lfs/objects/x", "hooks/hooks/x"])
def test_a_submodule_below_such_a_folder_is_looked_into_unless_git_would_refuse_it(tmp_path, name, spoiled):
    plant_module(tmp_path, "[core]\n\tfsmonitor = evil\n", at=f"modules/lib/{name}")
    lib = tmp_path / ".git/modules/lib"
    assert f"{lib}/{name}" in find(tmp_path).repositories
    (lib / "HEAD").write_text("ref: refs/heads/main\n")
    for folder in ("objects", "refs"):
        (lib / folder).mkdir(exist_ok=True)
    assert find(tmp_path).repositories.keys() <= {str(lib)}
    os.rename(lib / spoiled, lib / "away")
    if spoiled == "objects" and name.startswith("objects"):
        name = name.replace("objects", "away", 1)
    assert f"{lib}/{name}" in find(tmp_path).repositories


def test_a_git_folder_that_is_no_longer_whole_is_looked_into(bench):
    subprocess.run(["git", "init", "-q", "--bare", bench.root / ".git/modules/lib"], check=True)
    bench.start()
    plant_module(bench.root, "[core]\n\tfsmonitor = evil\n", at="modules/lib/hooks/x")
    bench.comes_to_rest()
    (bench.root / ".git/modules/lib/HEAD").unlink()
    bench.await_broken()
    wait_until(lambda: (".git/modules/lib/hooks/x/config", "replaced") in bench.changes, "the config to be told")


def make_strange(root, kind):
    """Make something in a workspace that git never makes in a Git folder; its path."""
    made = root / {"pipe": ".git/refs/heads/x", "folder": f".git/{'a' * 40}", "bare": "HEAD"}[kind]
    made.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(made)
    elif kind == "folder":
        made.mkdir()
    else:
        made.write_text("ref: refs/heads/main\n")
        (root / "objects").mkdir()
        (root / "refs").mkdir()
    return made


# Files of git's own at which it would wait for a program to write; in the place of an object nobody looks.
WAITS = (
    "HEAD", "index", "packed-refs", "shallow", "info/exclude", "info/attributes", "objects/info/alternates",
    "objects/pack/pack-1.idx", "logs/HEAD", "refs/heads/main", "MERGE_HEAD", "rebase-merge/git-rebase-todo",
    "worktrees/w/gitdir", "modules/m/config",
)  # fmt: skip


@table("name", WAITS)
def test_a_pipe_in_the_place_of_any_file_of_gits_is_found(tmp_path, name):
    made = tmp_path / ".git" / name
    made.parent.mkdir(parents=True)
    os.mkfifo(made)
    assert find(tmp_path).links == {str(made): links.PIPE}


def test_what_a_program_keeps_from_being_read_is_taken_for_the_worst(tmp_path):
    (tmp_path / ".git/refs/heads").mkdir(parents=True)
    branch = tmp_path / ".git/refs/heads/x"
    branch.write_text("ref: commondir\n")
    head = make_strange(tmp_path, "bare")
    with leased(branch), leased(head):
        assert links.find([f"{tmp_path}/.git"], references=True).links.keys() == {str(head), str(branch)}


KINDS = {"pipe": "wait", "folder": "commondir", "bare": "bare repository"}


@table("kind", KINDS)
def test_what_else_git_never_makes_is_found_and_put_aside(tmp_path, kind):
    (tmp_path / ".git").mkdir()
    made = make_strange(tmp_path, kind)
    found = find(tmp_path).links
    assert [*found] == [str(made)]
    [words] = links.put_aside(found, [f"{tmp_path}/.git"])[0].values()
    assert KINDS[kind] in words
    assert "put aside" in words
    assert not os.path.lexists(made)
    assert find(tmp_path).links == {}


@table("kind", KINDS)
def test_what_has_taken_the_place_of_such_a_thing_stays(tmp_path, kind):
    (tmp_path / ".git").mkdir()
    made = make_strange(tmp_path, kind)
    found = find(tmp_path).links
    os.rename(made, tmp_path / "away")
    if kind == "bare":
        links.put_aside(found, [f"{tmp_path}/.git"])
        return
    made.write_text("mine")
    links.put_aside(found, [f"{tmp_path}/.git"])
    assert made.read_text() == "mine"


def test_a_branch_that_names_commondir_is_put_aside_before_a_commit_writes_it(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    forged = tmp_path / ".git/refs/heads/main"
    commit = [*git, "commit", "-q", "--allow-empty", "-m", "x"]
    forged.write_text("ref: commondir\n")
    subprocess.run(commit, check=False, capture_output=True)
    assert (tmp_path / ".git/commondir").exists()
    (tmp_path / ".git/commondir").unlink()
    found = links.find([f"{tmp_path}/.git"], references=True).links
    assert found == {str(forged): links.REFERENCE}
    links.put_aside(found, [f"{tmp_path}/.git"])
    subprocess.run(commit, check=True, capture_output=True)
    assert not (tmp_path / ".git/commondir").exists()


@table("text", ["ref: refs/heads/other\n", "a" * 40 + "\n", ""])
def test_a_reference_to_another_one_stays(tmp_path, text):
    (tmp_path / ".git/refs/remotes/origin").mkdir(parents=True)
    (tmp_path / ".git/refs/remotes/origin/HEAD").write_text(text)
    assert links.find([f"{tmp_path}/.git"], references=True).links == {}


def test_a_forged_reference_is_put_aside_at_the_stop(bench):
    bench.start()
    (bench.root / ".git/refs/heads").mkdir(parents=True)
    (bench.root / ".git/refs/heads/main").write_text("ref: commondir\n")
    bench.stop()
    wait_until(lambda: (".git/refs/heads/main", "replaced") in bench.changes, "it to be told")
    assert not (bench.root / ".git/refs/heads/main").exists()


@table("name", ["rr-cache", "modules/lib/rr-cache", "objects/info"])
def test_a_folder_with_the_name_of_a_commit_elsewhere_is_no_danger(tmp_path, name):
    (tmp_path / ".git" / name / ("a" * 40)).mkdir(parents=True)
    assert find(tmp_path).links == {}


@table("head", ["text\n", "ref: master\n"])
def test_a_folder_with_another_head_is_no_repository(tmp_path, head):
    (tmp_path / ".git").mkdir()
    make_strange(tmp_path, "bare").write_text(head)
    assert find(tmp_path).links == {}


def test_no_command_of_git_makes_a_link(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", "-C", str(tmp_path)]
    script = """init -q; commit -q --allow-empty -m one; branch side; worktree add -q ../wt side; tag x; gc -q; stash;
        submodule add -q ./.git lib; commit -qm two; notes add -m n; fetch -q .; bisect start; worktree remove ../wt"""
    for words in script.split(";"):
        subprocess.run([*git, *words.split()], check=True, capture_output=True)
    assert find(tmp_path).links == {}


@table("below", ["", "refs/heads/", "logs/"])
def test_a_heap_of_folders_is_bounded_and_said(tmp_path, monkeypatch, below):
    monkeypatch.setattr(links, "MOST_FOLDERS", 50)
    for number in range(100):
        (tmp_path / f".git/{below}{number:03}").mkdir(parents=True)
    found = find(tmp_path)
    [words] = found.cut.values()
    assert len(found.folders) == 50
    assert "more than 50 folders" in words


@table("below", ["", "refs/"])
@table(("count", "is_said"), [(19, False), (30, True)])
def test_many_entries_are_bounded_and_said(tmp_path, monkeypatch, below, count, is_said):
    """Also where no folder is left to be looked into: some file systems list the newest first, others the oldest."""
    monkeypatch.setattr(links, "MOST_ENTRIES", 20)
    folder = tmp_path / f".git/{below}"
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / str(number)).touch()
    assert ("more than 20 files" in "".join(find(tmp_path).cut.values())) == is_said


@table(("count", "is_said"), [(20, False), (30, True)])
def test_many_links_are_bounded_and_said(tmp_path, monkeypatch, count, is_said):
    monkeypatch.setattr(links, "MOST_LINKS", 20)
    for number in range(count):
        plant(tmp_path, f"refs/{number}")
    found = find(tmp_path)
    assert len(found.links) == (21 if is_said else 20)
    assert ("more than 20 links" in "".join(found.cut.values())) == is_said


def test_a_folder_that_may_be_entered_only_is_said(tmp_path, monkeypatch):
    plant(tmp_path, "logs/HEAD")
    open_at = links.open_at

    def refuse(git, path):
        if path == "logs":  # as for a person, where root in the container has made a folder with the mode 0711
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_at(git, path)

    monkeypatch.setattr(links, "open_at", refuse)
    assert "logs cannot be listed" in "".join(find(tmp_path).cut.values())


def test_git_folders_of_extra_mounts_and_of_another_name_are_looked_at(tmp_path):
    trees = (("work", (".git/config", ".bare/commondir", "commondir")), ("other", ("x",)), ("read", ()))
    stage = Stage("0", tuple((f"{tmp_path}/{name}", patterns) for name, patterns in trees))
    found = links.places(f"{tmp_path}/work", stage, [f"{tmp_path}/work/.git/modules/a/commondir"])
    assert found == [f"{tmp_path}/other/.git", f"{tmp_path}/work/.bare", f"{tmp_path}/work/.git"]


# ---- what is put aside -----------------------------------------------------------------------------------------------


@table("at", AT)
def test_a_link_is_put_aside_and_what_it_leads_to_stays(tmp_path, at):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    link = plant(tmp_path, at, str(tmp_path / "precious"))
    [words] = links.put_aside(find(tmp_path).links, [f"{tmp_path}/.git"])[0].values()
    assert not link.is_symlink()
    assert (tmp_path / "precious/file").exists()
    [aside] = tmp_path.glob(".git/clincus-replaced-*/*")
    assert aside.is_symlink()
    assert str(aside.parent) in words
    assert find(tmp_path).links == {}


def test_what_has_taken_the_place_of_a_link_stays(tmp_path):
    link = plant(tmp_path, "logs/HEAD")
    found = find(tmp_path)
    link.unlink()
    link.write_text("git's own\n")
    links.put_aside(found.links, [f"{tmp_path}/.git"])
    assert link.read_text() == "git's own\n"


def test_a_folder_on_the_way_that_became_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "HEAD").symlink_to("kept")
    plant(tmp_path, "logs/HEAD")
    found = find(tmp_path)
    (tmp_path / ".git/logs").rename(tmp_path / "old")
    plant(tmp_path, "logs", outside)
    links.put_aside(found.links, [f"{tmp_path}/.git"])
    assert (outside / "HEAD").is_symlink()


def test_a_link_that_cannot_be_renamed_is_removed(tmp_path, monkeypatch):
    link = plant(tmp_path, "worktrees")

    def refuse(*_):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(links, "folder_apart", refuse)
    links.put_aside(find(tmp_path).links, [f"{tmp_path}/.git"])
    assert not link.is_symlink()


def as_user(uid, call):
    """What a function gives to another user than root."""
    os.seteuid(uid)
    try:
        return call()
    finally:
        os.seteuid(0)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_link_in_a_folder_of_the_containers_root_goes_with_its_folder(tmp_path, monkeypatch):
    link = plant(tmp_path, "logs/HEAD")
    (tmp_path / ".git/logs").chmod(0o1777)
    os.lchown(link, 4000, 4000)
    os.chown(tmp_path / ".git/logs", 4000, 4000)
    os.chown(tmp_path / ".git", 4001, 4001)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o711)
    found = find(tmp_path).links
    told, _ = as_user(4001, lambda: links.put_aside(found, [f"{tmp_path}/.git"]))
    [words] = told.values()
    [aside] = os.listdir(tmp_path / ".git")
    assert aside.startswith("clincus-replaced-")
    assert words.endswith(f"put aside in {tmp_path}/.git/{aside}")


def test_of_many_links_some_are_told_and_all_are_put_aside(tmp_path):
    for number in range(100):
        plant(tmp_path, f"refs/heads/{number}")
    told, kept = links.put_aside(find(tmp_path).links, [f"{tmp_path}/.git"])
    assert kept == {}
    assert len(told) <= links.MOST_TOLD + 1
    assert any("79 more links" in words for words in told.values())
    assert find(tmp_path).links == {}


@table(
    ("path", "words"),
    [
        ("worktrees", "deleted"),
        ("rebase-apply", "deleted"),
        ("modules/lib/worktrees/x", "deleted"),
        ("COMMIT_EDITMSG", "the text of the commit"),
        ("worktrees/x/COMMIT_EDITMSG", "the text of the commit"),
        ("logs/refs/heads/x", "a line"),
        ("objects/pack", "packs"),
        ("index.lock", "followed"),
    ],
)
def test_the_words_say_what_git_would_have_done(path, words):
    assert words in links.what_git_does(path)


# ---- while a server watches ------------------------------------------------------------------------------------------


def await_aside(bench, at):
    """Wait until a link is out of the way and told; the words for the person."""
    path = f".git/{at}"
    wait_until(lambda: (path, "replaced") in bench.changes, "the link to be told")
    assert not (bench.root / path).is_symlink()
    [change] = [one for one in bench.record.changes if one.path == f"{bench.root}/{path}"]
    assert change.kind == "link"
    return change.words


@pytest.mark.parametrize("at", ["worktrees", "logs/refs/heads/main", "objects/pack"])
def test_a_link_freezes_the_session_and_says_what_git_would_have_done(bench, at):
    bench.start()
    plant(bench.root, at)
    bench.await_broken()
    words = await_aside(bench, at)
    assert "/home/person/precious" in words
    assert any(words in one for one in bench.app.reports)


def test_a_bare_repository_at_the_top_freezes_the_session(bench):
    bench.start()
    bench.settle()
    wait_until(lambda: bench.session.id in bench.guard.examiner.seen.links, "the first look")
    make_strange(bench.root, "bare")
    bench.guard.compare_indexes()
    bench.await_broken()
    wait_until(lambda: ("HEAD", "replaced") in bench.changes, "it to be told")


def test_a_bare_repository_that_was_there_is_no_news(bench):
    make_strange(bench.root, "bare")
    bench.start()
    wait_until(lambda: bench.session.id in bench.guard.examiner.seen.links, "the first look")
    bench.comes_to_rest()
    bench.guard.compare_indexes()
    assert not bench.guard.examiner.link_looks.is_busy(bench.session.id)
    assert bench.changes == []


def test_a_link_in_a_folder_that_is_new_is_seen(bench):
    bench.start()
    for step in ("logs", "logs/refs", "logs/refs/heads", "logs/refs/heads/a"):
        (bench.root / ".git" / step).mkdir()
        wait_until(lambda: is_watched(bench, step), "the folder to be watched")  # noqa: B023
    plant(bench.root, "logs/refs/heads/a/b")
    bench.await_broken()
    await_aside(bench, "logs/refs/heads/a/b")


def is_watched(bench, step):
    place = f"{bench.root}/.git/{step}"
    watched = [*bench.guard.watcher.instance.watched.values()]
    return any(one.place[0] == place for one in watched)


def test_a_folder_that_was_made_anew_is_watched_again(bench):
    (bench.root / ".git/rebase-merge").mkdir()
    bench.start()
    for _ in range(3):
        (bench.root / ".git/rebase-merge").rmdir()
        (bench.root / ".git/rebase-merge").mkdir()
    wait_until(lambda: is_watched(bench, "rebase-merge"), "the folder to be watched")
    plant(bench.root, "rebase-merge/message")
    await_aside(bench, "rebase-merge/message")


def test_a_link_that_was_there_at_the_start_is_no_news(bench):
    plant(bench.root, "rr-cache", "/home/person/rr-cache")
    bench.start()
    plant(bench.root, "worktrees")
    bench.await_broken()
    await_aside(bench, "worktrees")
    assert (bench.root / ".git/rr-cache").is_symlink()


def test_a_link_that_leads_elsewhere_than_at_the_start_is_news(bench):
    link = plant(bench.root, "rr-cache", "/home/person/rr-cache")
    bench.start()
    link.unlink()
    plant(bench.root, "rr-cache")
    await_aside(bench, "rr-cache")


def test_a_heap_that_could_hide_a_link_freezes_the_session_once(bench, monkeypatch):
    monkeypatch.setattr(links, "MOST_FOLDERS", 20)
    bench.start()
    for number in range(30):
        (bench.root / f".git/refs/{number}").mkdir(parents=True)
    bench.await_broken()
    assert "more than 20 folders" in bench.record.changes[0].words
    bench.comes_to_rest()
    assert not any("let the session go on" in words for words in bench.app.reports)
    bench.guard._go_on(bench.session)
    (bench.root / ".git/refs/more").mkdir()
    bench.settle()
    bench.comes_to_rest()
    assert bench.record.changes == []
    assert any("let the session go on" in words for words in bench.app.reports)


def test_a_link_that_cannot_be_moved_is_tried_again_at_the_stop_only(bench, monkeypatch):
    tries = []

    def move(*words, **_):
        tries.append(words)
        refuse()

    monkeypatch.setattr(links, "move", move)
    bench.start()
    plant(bench.root, "worktrees")
    bench.await_broken()
    bench.comes_to_rest()
    assert len(tries) == 1
    bench.stop()
    wait_until(lambda: len(tries) == 2, "the look at the stop")


def test_a_heap_that_was_there_at_the_start_is_told_and_freezes_nothing(bench, monkeypatch):
    monkeypatch.setattr(links, "MOST_FOLDERS", 20)
    for number in range(30):
        (bench.root / f".git/refs/{number}").mkdir(parents=True)
    bench.start()
    wait_until(lambda: any("not looked for in all of it" in words for words in bench.app.reports), "it to be told")
    assert bench.changes == []


def test_links_that_come_while_it_is_being_frozen_are_put_aside_too(bench):
    bench.start()
    plant(bench.root, "worktrees")
    bench.await_broken()
    plant(bench.root, "rebase-apply")
    await_aside(bench, "rebase-apply")


def test_a_session_that_goes_on_after_a_link_has_all_its_seals(bench):
    bench.session = bench.session._replace(protection="locked")
    bench.start()
    plant(bench.root, "worktrees")
    bench.await_broken()
    bench.guard._go_on(bench.session)
    level = [words for words in bench.app.incus.told if words[0] == "config"][-1][3]
    assert level == "user.clincus.protection=locked"
    assert bench.record.changes == []


def test_a_session_that_is_seen_as_broken_while_it_goes_on_has_its_level_the_next_time(bench):
    bench.session = bench.session._replace(protection="locked", run=clincus.utc_now())
    bench.start()
    for at in ("worktrees", "rebase-merge"):
        plant(bench.root, at)
        bench.await_broken()
        await_aside(bench, at)
        bench.guard._go_on(bench.session)
        seen = bench.session._replace(protection="broken", run=RUN)
        bench.guard._take_up(seen, bench.guard._live[seen.id].stage, is_fresh=False)
    assert bench.guard._live[bench.session.id].session.protection == "locked"


def test_a_change_is_told_with_its_level_as_soon_as_it_is_written_down(bench, monkeypatch):
    """The record is there a moment before the server has told the break."""
    bench.start()
    seen = []
    tell = bench.guard._tell_broken

    def look_and_tell(*args):
        seen.append(bench.guard.document(bench.session))
        tell(*args)

    monkeypatch.setattr(bench.guard, "_tell_broken", look_and_tell)
    plant(bench.root, "worktrees")
    bench.await_broken()
    assert [(one["level"], len(one["changes"])) for one in seen] == [("broken", 1)]


def test_no_document_tells_a_change_with_the_level_of_before_it(bench, monkeypatch):
    """The session breaks while the document is put together."""
    bench.start()
    tell, fields = bench.guard._tell_broken, bench.guard.fields
    held = []
    monkeypatch.setattr(bench.guard, "_tell_broken", lambda *args: held.append(args))
    empty = bench.guard.records.read(str(bench.root))
    plant(bench.root, "worktrees")
    wait_until(lambda: held, "the break")
    monkeypatch.setattr(bench.guard.records, "read", lambda workspace: empty)

    def fields_and_tell(session):
        found = fields(session)
        tell(*held.pop())
        return found

    monkeypatch.setattr(bench.guard, "fields", fields_and_tell)
    found = bench.guard.document(bench.session)
    assert found["level"] == "broken" or found["changes"] == [], found


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
    bench.stop()
    await_aside(bench, "worktrees")
    with pytest.raises(ChangedError, match=r"\.git/worktrees was a link to"):
        bench.check()


def test_a_command_puts_a_link_aside_at_the_stop_and_the_next_start_asks(alone):
    start_alone(alone)
    plant(alone.root, "worktrees")
    stop_alone(alone)
    await_aside(alone, "worktrees")
    with pytest.raises(ChangedError, match=r"\.git/worktrees was a link to"):
        alone.check()
    alone.check(accepts=True)


def test_a_start_puts_aside_what_a_run_has_left_whose_end_nobody_saw(alone):
    start_alone(alone)
    plant(alone.root, "worktrees")
    alone.mount()
    with pytest.raises(ChangedError, match=r"\.git/worktrees was a link to"):
        alone.check()
    await_aside(alone, "worktrees")


def test_a_link_of_the_persons_between_two_runs_stays(alone):
    start_alone(alone)
    stop_alone(alone)
    link = plant(alone.root, "rr-cache", "/home/person/rr-cache")
    start_alone(alone)
    stop_alone(alone)
    assert link.is_symlink()
    assert alone.record.changes == []


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
        ({"config": "[core]\n\tworktree = ../../../../home\n"}, "modules/sub/config", "core.worktree"),
        ({"config": "[include]\n\tpath = /workspace/x\n"}, "modules/sub/config", "include.path"),
        ({"config": "[core\n"}, "modules/sub/config", "does not understand"),
        ({"hook": "post-checkout"}, "modules/sub/hooks", "post-checkout"),
        ({"commondir": "/elsewhere\n"}, "modules/sub/commondir", "/elsewhere"),
        ({"at": "modules/a/modules/b", "hook": "pre-push"}, "modules/a/modules/b/hooks", "pre-push"),
        ({"at": "modules/refs/x", "objects/x": "", "hook": "pre-push"}, "modules/refs/x/hooks", "pre-push"),
        (
            {"at": "worktrees/x", "commondir": "../..\n", "config.worktree": "[core]\n\tfsmonitor = evil\n"},
            "worktrees/x/config.worktree",
            "core.fsmonitor",
        ),
        ({"at": "worktrees/x", "commondir": "../../../evil\n"}, "worktrees/x/commondir", "../../../evil"),
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


def plant_worktree(root, to):
    """Make what git keeps of a linked worktree."""
    made = root / ".git/worktrees/x"
    made.mkdir(parents=True)
    for name, text in {"HEAD": "ref: refs/heads/x", "commondir": "../..", "gitdir": f"{to}/.git"}.items():
        (made / name).write_text(f"{text}\n")
    return made


@table(
    ("tree", "file", "is_bad"),
    [
        (".husky", None, True),  # the next checkout there would write the person's hooks
        (".husky/_", None, True),
        ("nest", None, True),
        ("old", "gitdir: ../.git/modules/old", True),
        ("lib", "gitdir: ../.git/modules/sub2", True),
        ("lib", "README", True),
        ("lib", "", True),
        ("lib", "gitdir: ../.git/modules/sub", False),
        ("lib", "gitdir: ROOT/lib/../.git/modules/sub", False),
        ("old", "gitdir: ../.git/modules/sub", False),
        ("lib", None, False),
        ("absent", None, False),
    ],
)
def test_a_working_tree_of_a_submodule_is_its_own_and_holds_nothing_that_is_sealed(tmp_path, tree, file, is_bad):
    for folder in (".husky/_", "nest/bare.git/hooks", "old", "lib"):
        (tmp_path / folder).mkdir(parents=True)
    if file is not None:
        (tmp_path / tree / ".git").write_text(file.replace("ROOT", str(tmp_path)) + "\n")
    plant_module(tmp_path, f"[core]\n\tworktree = ../../../{tree}\n")
    assert [*put_aside(tmp_path)] == (["modules/sub/config"] if is_bad else [])


@table(
    ("text", "is_bad"),
    [
        (None, True),  # no file: git would make one
        ("gitdir: /home/person/other/.git/worktrees/tree\n", True),  # that of another repository
        ("nonsense\n", True),
        ("gitdir: WORK/.git/worktrees/x\n", False),
    ],
)
@table("is_relative", [False, True])
def test_a_worktree_that_leads_to_a_folder_of_the_persons_is_put_aside_unless_that_leads_back(
    tmp_path, text, is_bad, is_relative
):
    root = tmp_path / "work"
    tree = tmp_path / "tree"
    tree.mkdir()
    if text is not None:
        (tree / ".git").write_text(text.replace("WORK", str(root)))
    made = plant_worktree(root, "../../../../tree" if is_relative else tree)
    assert [*put_aside(root)] == (["worktrees/x/gitdir"] if is_bad else [])
    assert (made / "gitdir").exists() != is_bad


@table(("to", "is_bad"), [("/tmp/in-the-container", False), ("tree", False), ("link/precious", True)])
def test_a_worktree_in_the_workspace_or_the_container_is_no_danger_but_by_a_link(tmp_path, to, is_bad):
    root = tmp_path / "work"
    (root / "tree").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (root / "link").symlink_to(tmp_path)
    plant_worktree(root, to if to.startswith("/") else root / to)
    assert bool(put_aside(root)) == is_bad


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
        "remote.origin.url=x/evil::foo",
        "remote.origin.url=x::foo",
        "remote.origin.url=foo://x",
        "remote.origin.url=../other",  # whose hooks a push would run
        "remote.origin.url=file://WORK/other",
        "remote.origin.url=WORK/other",
        "remote.origin.url=WORK",
        "remote.origin.url=WORK/later-a-link/../../other",
        "remote.origin.url=WORK/../way/in/other",
        "remote.origin.pushurl=WORK/other",
        "remote.origin.url=https://x.org/y",  # that the person's configuration does not name
        "remote.origin.url=git@x.org:person/private",
        "remote.origin.url=/home/person/private",
        "remote.origin.promisor=true",
        "remote.origin.partialCloneFilter=blob:none",
        "submodule.x.url=https://x.org/y",
        "remote.origin.proxy=http://x.org",
        "remote.origin.uploadpack=x/evil",
        "remote.origin.push=refs/heads/*:refs/heads/*",
        "submodule.x.url=x::foo",
        "submodule.x.update=!x/evil",
        "branch.main.remote=x::foo",
        "branch.main.remote=x/evil",  # no remote has that name, so it is a repository in the workspace
        "branch.main.pushRemote=evil",
        "branch.main.mergeOptions=--strategy=x/evil",
        "url.x::.insteadOf=https://x.org/",
        "url.https://x.org/.pushInsteadOf=https://y.org/",
        "core.attributesFile=x",
        "core.excludesFile=x",
        "core.worktree=../..",
        "core.worktree=../../..",
        "core.worktree=../../../link",
        "core.fsmonitor=x/evil",
        "init.templateDir=x",
        "commit.template=x",
        "http.cookieFile=x",
        "merge.default=x",
        "merge.tool=x/evil",
        "pull.twohead=x/evil",
        "pull.octopus=x/evil",
        "gc.repackFilterTo=x",
        "extensions.partialClone=x/evil",
        "some.newKey=x",
    ],
)
def test_a_setting_that_is_not_known_to_be_harmless_is_put_aside(tmp_path, setting):
    root = tmp_path / "work"
    root.mkdir()
    (root / "link").symlink_to("/")
    (tmp_path / "way").mkdir()
    (tmp_path / "way/in").symlink_to(root)
    key, _, value = setting.partition("=")
    section, _, name = key.rpartition(".")
    kind, _, subsection = section.partition(".")
    head = f'[{kind} "{subsection}"]' if subsection else f"[{kind}]"
    plant_module(root, f"{head}\n\t{name} = {value.replace('WORK', str(root))}\n")
    [words] = put_aside(root).values()
    assert name.lower() in words


def test_an_old_file_of_remotes_is_put_aside(tmp_path):
    folder = plant_module(tmp_path, **{"remotes/origin": "URL: ../other\n"})
    (folder / "objects").mkdir()
    (folder / "refs").mkdir()
    assert list(put_aside(tmp_path)) == ["modules/sub/remotes"]


def test_what_a_person_does_with_submodules_and_worktrees_is_no_news(tmp_path):
    script = """
        git() { command git -c protocol.file.allow=always -c user.name=a -c user.email=a@b "$@"; }
        git init -qb main inner; git -C inner commit -q --allow-empty -m one
        git init -qb main lib; git -C lib commit -q --allow-empty -m two
        git init -qb main work; cd work; git commit -q --allow-empty -m one
        git submodule add -q ../lib; git submodule add -q --depth 1 -b main "file://$PWD/../lib" vendor/deep/lib
        git commit -qm two; git submodule update -q --init --recursive
        git submodule sync -q --recursive
        git submodule set-branch -b main lib; git submodule update -q --remote --rebase lib
        git worktree add -q ../linked; git worktree add -q inside; git -C inside submodule update -q --init --recursive
        git -C inside sparse-checkout set --no-cone /lib; git -C lib sparse-checkout set --cone x
        git -C lib checkout -qb topic --track origin/main; git -C lib branch -q config; git -C lib branch -q hooks/x
        git -C lib config user.name b
        git submodule deinit -q -f vendor/deep/lib; rm -r .git/modules/vendor
        git submodule update -q --init vendor/deep/lib
        git config remote.fork.url https://x.org/fork.git; git -C lib remote add fork https://x.org/fork.git
        git -C lib config branch.topic.pushRemote fork; git -C lib maintenance run --quiet --auto; git -C lib gc -q
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
    wait_until(
        lambda: {"type": "session.changed", "id": bench.session.id} in bench.app.events, "the pages to hear of it"
    )
    assert bench.changes == []
    with open(folder / "config", "a") as file:
        file.write("\tfsmonitor = evil\n")
    bench.await_broken()
    wait_until(lambda: (".git/modules/sub/config", "replaced") in bench.changes, "the config to be told")
    assert not (folder / "config").exists()
    bench.stop()
    assert bench.guard.warnings(bench.session) == []


@pytest.fixture
def slow_looks(monkeypatch):
    """Have a look at new Git folders last until the end of the test; an event that tells of its begin."""
    begun, over = threading.Event(), threading.Event()

    def put_aside(*_):
        begun.set()
        assert over.wait(DEADLINE)
        return {}, []

    monkeypatch.setattr(modules, "put_aside", put_aside)
    yield begun
    over.set()


def test_many_new_submodules_keep_no_look_from_what_git_would_run_elsewhere(bench, slow_looks):
    """With 300 of them, which are harmless, nothing else was looked at for half a minute."""
    bench.start()
    plant_module(bench.root)
    assert slow_looks.wait(DEADLINE)
    (bench.root / ".git/rebase-merge").mkdir()
    (bench.root / ".git/rebase-merge/git-rebase-todo").write_text("exec evil\n")
    bench.await_broken()
    wait_until(lambda: (".git/rebase-merge/git-rebase-todo", "replaced") in bench.changes, "the list to be put aside")


def test_more_new_submodules_than_can_be_looked_at_freeze_the_session_once(bench, monkeypatch):
    monkeypatch.setattr(examiner, "MOST_UNSEALED", 2)
    bench.start()
    for number in range(3):
        plant_module(bench.root, at=f"modules/sub{number}")
    bench.await_broken()
    assert "3 Git folders have come in" in bench.record.changes[0].words
    bench.guard._go_on(bench.session)
    assert bench.record.changes == []


def test_a_hook_of_such_a_submodule_is_seen_by_the_state_of_its_files(bench):
    bench.start()
    folder = plant_module(bench.root, "[core]\n\tbare = false\n")
    wait_until(lambda: bench.guard.examiner.seen.unsealed, "the first look")
    bench.comes_to_rest()
    (folder / "hooks/post-checkout").write_text(HOOK)
    (folder / "hooks/post-checkout").chmod(0o755)
    bench.guard.compare_indexes()
    bench.await_broken()
    wait_until(lambda: (".git/modules/sub/hooks", "replaced") in bench.changes, "the hooks to be told")


def test_a_write_through_a_mapping_into_such_a_submodule_is_seen(bench):
    bench.start()
    module = bench.root / ".git/modules/sub"
    evil = "[core]\n\tfsmonitor = evil\n"
    mapped = Mapped(module / "config", "[core]\n", evil)
    (module / "HEAD").write_text("ref: refs/heads/main\n")
    wait_until(lambda: bench.guard.examiner.seen.unsealed.get(bench.session.id), "it to be seen")
    bench.comes_to_rest()
    assert mapped.write()
    bench.guard.compare_indexes()
    bench.await_broken()
    assert (".git/modules/sub/config", "replaced") in bench.changes


def test_a_hook_that_hides_behind_many_others_is_seen_when_it_may_be_executed(bench):
    bench.start()
    folder = plant_module(bench.root, "[core]\n\tbare = false\n")
    for number in range(modules.MOST_HOOKS + 1):
        (folder / f"hooks/a{number:03}").touch()
    (folder / "hooks/post-checkout").write_text(HOOK)
    wait_until(lambda: bench.guard.examiner.seen.unsealed, "the first look")
    bench.comes_to_rest()
    (folder / "hooks/post-checkout").chmod(0o755)
    bench.guard.compare_indexes()
    bench.await_broken()
    wait_until(lambda: (".git/modules/sub/hooks", "replaced") in bench.changes, "the hooks to be told")


def test_a_working_tree_of_such_a_submodule_that_becomes_a_link_is_seen(bench, tmp_path_factory):
    bench.start()
    plant_module(bench.root, "[core]\n\tworktree = ../../../deep/sub\n")
    wait_until(lambda: bench.guard.examiner.seen.unsealed, "the first look")
    bench.comes_to_rest()
    (bench.root / "deep").symlink_to(tmp_path_factory.mktemp("home"))
    bench.guard.compare_indexes()
    bench.await_broken()
    wait_until(lambda: (".git/modules/sub/config", "replaced") in bench.changes, "the config to be told")


def test_a_command_puts_aside_what_a_submodule_of_the_agents_would_run(alone):
    start_alone(alone)
    plant_module(alone.root, "[core]\n\tfsmonitor = evil\n")
    stop_alone(alone)
    assert (".git/modules/sub/config", "replaced") in alone.changes
    with pytest.raises(ChangedError, match=r"core\.fsmonitor"):
        alone.check()


def test_what_waits_for_a_person_after_a_stop_without_a_server_is_said_with_what_to_do(alone):
    start_alone(alone)
    plant(alone.root, "logs")
    stop_alone(alone)
    server = Guard(alone.app, alone.app.environ)
    found = server.document(alone.session)
    assert found["level"] == "locked"
    assert f"{alone.root}/.git/logs, then `clincus resume {alone.session.id} --accept-changes`" in found["note"]
    assert [one["path"] for one in found["changes"]] == [f"{alone.root}/.git/logs"]
    with pytest.raises(clincus.ClincusError, match="is not frozen: No session starts in this folder until"):
        server.resolve(alone.session, "continue")
    alone.check(accepts=True)
    alone.guard.hear("sealed", alone.session)
    alone.guard.hear("after_start", alone.session)
    assert server.document(alone.session)["note"] == alone.session.protection_note


def test_the_working_tree_around_a_git_folder_is_none_itself():
    """All links in a Git folder are put aside."""
    sealed = ["/w/commondir", "/w/.git/commondir", "/w/lib/commondir", "/w/lib/.git/commondir", "/w/lib/.git/config"]
    sealed += ["/other/commondir", "/other/.git/commondir", "/bare.git/commondir", "/bare.git/.git"]
    assert links.places("/w", None, sealed) == ["/bare.git", "/other/.git", "/w/.git", "/w/lib/.git"]
