"""Repositories beside the one that a workspace is in: which are found and sealed, and what is said of the rest."""

import os
import shutil

import pytest

import clincus
from tests.unit.test_protection import LOCKABLE, SETTINGS, plan_of
from tests.unit.test_protection_git import Host
from wall import places


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Host(tmp_path)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    made.commit()
    return made


def repository(host, path, *words):
    made = host.home / path
    made.mkdir(parents=True)
    host.git("init", "-q", *words, cwd=made)
    return made


def protection(host, *mounts, readonly=False, is_clone=False):
    """The wall of a session with extra mounts, each of which is a folder in the home folder."""
    extra = [
        clincus.protect.host_folder(str(host.home / one), f"/mnt/{number}", readonly)
        for number, one in enumerate(mounts)
    ]
    folder = clincus.protect.workspace_folder(str(host.work), "/workspace", SETTINGS, extra=extra, is_clone=is_clone)
    return clincus.protect.protect_workspace(folder, SETTINGS, LOCKABLE, extra, "cafe", is_clone=is_clone)


def sealed(made, tree=0):
    return plan_of(made)["trees"][tree]["protect"]


@pytest.mark.parametrize(
    ("at", "words", "mount", "pattern"),
    [
        ("other", (), "other", ".git/hooks"),
        ("other", (), "other", ".git/modules/**/config"),
        ("other", (), ".", "other/.git/config"),
        ("projects/web/other", (), "projects", "web/other/.git/config"),
        ("other.git", ("--bare",), "other.git", "hooks"),
        ("all/other.git", ("--bare",), "all", "other.git/config"),
        ("other", (), "other/.git", "config"),
    ],
)
def test_a_repository_in_an_extra_mount_is_sealed_like_that_of_the_workspace(host, at, words, mount, pattern):
    repository(host, at, *words)
    for is_clone in (False, True):
        made = protection(host, mount, is_clone=is_clone)
        assert (made.level, made.reason) == ("locked", "")
        assert pattern in sealed(made, 0 if is_clone else 1)


def test_what_the_repository_around_a_mount_runs_there_is_sealed(host):
    other = repository(host, "other")
    (other / "tools").mkdir()
    host.git("config", "core.hooksPath", "tools/hooks", cwd=other)
    assert "hooks" in sealed(protection(host, "other/tools"), 1)


def test_a_mount_that_is_part_of_what_is_sealed_is_read_only_as_a_whole(host):
    repository(host, "other")
    assert plan_of(protection(host, "other/.git/hooks"))["trees"][1]["readonly"]


def test_the_git_file_of_a_linked_worktree_in_a_mount_is_sealed(host):
    host.git("worktree", "add", "-q", "../tree")
    assert ".git/config" in sealed(protection(host, "tree"), 1)  # of a file, all of it: see `_protect_path`


def test_what_is_mounted_read_only_needs_no_seals_and_no_search(host):
    repository(host, "other")
    made = protection(host, "other", readonly=True)
    assert sealed(made, 1) == {}


def test_repositories_in_the_workspace_are_sealed_with_what_they_name(host):
    nested = repository(host, "work/packages/lib")
    host.git("config", "core.hooksPath", ".githooks", cwd=nested)
    found = sealed(protection(host))
    assert {"packages/lib/.git/config", "packages/lib/.git/hooks", "packages/lib/.githooks"} <= found.keys()


def test_the_checkouts_of_submodules_and_inner_worktrees_are_sealed_however_deep(host):
    other = repository(host, "other")
    host.commit(cwd=other)
    host.git("submodule", "add", "-q", str(other), "a/b/c/d/e/f/sub")
    host.git("worktree", "add", "-q", "a/b/c/d/e/f/tree")
    found = sealed(protection(host))
    assert {"a/b/c/d/e/f/sub/.git/config", "a/b/c/d/e/f/tree/.git/config"} <= found.keys()


@pytest.mark.parametrize("folder", ["node_modules", "vendor"])
def test_packages_are_not_searched(host, folder):
    repository(host, f"work/{folder}/lib")
    assert not any("lib" in path for path in sealed(protection(host)))


def test_a_mount_over_a_nested_repository_hides_it_and_is_no_error(host):
    repository(host, "work/lib")
    repository(host, "other")
    extra = [clincus.protect.host_folder(str(host.home / "other"), "/workspace/lib")]
    folder = clincus.protect.workspace_folder(str(host.work), "/workspace", SETTINGS, extra=extra)
    assert clincus.protect.protect_workspace(folder, SETTINGS, LOCKABLE, extra, "cafe").level == "locked"


def linked_config(other):
    (other / ".git/config").rename(other / "config")
    (other / ".git/config").symlink_to("../config")


def broken_config(other):
    (other / ".git/config").write_text("[core\n")


def pipe(other):
    (other / ".git/config").unlink()
    os.mkfifo(other / ".git/config")


def pipe_of_hooks(other):
    for entry in (other / ".git/hooks").iterdir():
        entry.unlink()
    (other / ".git/hooks").rmdir()
    os.mkfifo(other / ".git/hooks")


def link_to_a_link(other):
    (other / "one").symlink_to("two")
    (other / "two").write_text("#!/bin/sh\n")
    (other / ".git/hooks/pre-commit").symlink_to("../../one")


def all_of_the_workspace(other):
    (other / ".git/config").write_text("[core]\n\thooksPath = ../..\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (linked_config, ".git/config' is neither a file nor a folder"),
        (broken_config, "git does not understand"),
        (pipe, "it is not a regular file"),
        (pipe_of_hooks, ".git/hooks' is neither a file nor a folder"),
        (link_to_a_link, ".git/hooks/pre-commit' leads to another link"),
        (all_of_the_workspace, "its configuration names"),
    ],
)
def test_what_cannot_be_sealed_is_named_and_keeps_no_session_from_starting(host, spoil, words):
    """An agent may have made it in an earlier session."""
    for path in ("other/lib", "work/packages/lib"):
        spoil(repository(host, path))
    made = protection(host)
    assert made.level == "locked"
    assert f"'{host.work}/packages/lib'" in made.note
    assert words in made.note
    made = protection(host, "other")
    assert made.level == "basic"
    assert f"'{host.home}/other/lib'" in made.reason
    assert made.reason.endswith("not sealed, or not all of it. Mount less, or read-only")


def test_of_more_repositories_than_are_sealed_some_are_named_and_those_of_the_mounts_count_apart(host, monkeypatch):
    monkeypatch.setattr(places, "MOST_NESTED", 3)
    searched = [str(host.work), str(host.home / "all")]
    for top in ("work", "all"):
        for number in range(5):
            repository(host, f"{top}/{number}")
    answer = places.answer(
        {
            "git": shutil.which("git"),
            "workspace": str(host.work),
            "homes": [],
            "environ": {},
            "sealed": {},
            "searched": searched,
        }
    )
    assert len(answer["nested"]) == 6
    assert [path for path, _ in answer["unsealed"]] == [f"{top}/{number}" for top in searched for number in (3, 4)]


def test_a_repository_is_found_however_deep_it_lies(host):
    for place in ("work/a/b/c/d/e/f/g/deep", "other/a/b/c/d/e/f/g/deep"):
        repository(host, place)
    made = protection(host, "other")
    assert "a/b/c/d/e/f/g/deep/.git/config" in sealed(made)
    assert "a/b/c/d/e/f/g/deep/.git/config" in sealed(made, 1)
    assert "searched" not in made.note


@pytest.mark.parametrize("place", ["workspace", "mount"])
def test_the_end_of_a_search_is_said(host, place):
    top = host.work if place == "workspace" else host.home / "wide"
    for number in range(places.MOST_SEARCHED):
        (top / f"a/b/c/d/e/f/{number}").mkdir(parents=True)
    made = protection(host, *(["wide"] if place == "mount" else []))
    assert made.level == "locked"
    assert f"'{top}' was not searched for repositories to its end, as it has more than" in made.note


def test_a_folder_whose_path_is_too_long_to_be_searched_is_said(host):
    here = os.getcwd()
    os.chdir(host.work)
    for _ in range(20):
        os.mkdir("x" * 250)
        os.chdir("x" * 250)
    os.chdir(here)
    assert (
        f"'{host.work}' was not searched for repositories to its end, as paths in it are too long"
        in protection(host).note
    )


# -- What would take the place of a repository


def test_a_broken_repository_beside_the_workspace_is_no_bare_one_around_it(host):
    """The agent may break its `.git`: git then looks at the folder itself, and obeys a configuration there."""
    repository(host, "work/lib")
    repository(host, "other")
    repository(host, "other.git", "--bare")
    made = protection(host, "other", "other.git")
    assert "lib/commondir" in sealed(made)
    assert "commondir" in sealed(made, 1)
    assert sealed(made, 2)["commondir"] == ".\n"
    assert sealed(made, 2)[".git"] is None  # git prefers it to the bare repository


def test_the_repository_that_the_workspace_is_in_is_no_bare_one_either(host):
    (host.work / "part").mkdir()
    mount = clincus.protect.host_folder(str(host.work), "/mnt")
    folder = clincus.protect.workspace_folder(str(host.work / "part"), "/workspace", SETTINGS, extra=[mount])
    made = clincus.protect.protect_workspace(folder, SETTINGS, LOCKABLE, [mount], "cafe")
    assert "commondir" in sealed(made, 1)
    assert "part/commondir" in sealed(made, 1)


def test_a_commondir_that_is_there_leads_git_to_nothing_else(host):
    other = repository(host, "work/lib")
    (other / "commondir").write_text("elsewhere\n")
    assert {"lib/commondir", "lib/config", "lib/hooks", "lib/.git/config"} <= sealed(protection(host)).keys()


ABSENT = {"out", "out.git"}


@pytest.mark.parametrize(
    ("key", "value", "places"),
    [
        ("remote.x.url", "./out", ABSENT),
        ("remote.x.url", "out/", ABSENT),
        ("remote.x.pushurl", "../work/out", ABSENT),
        ("remote.x.url", "{home}/work/out", ABSENT),
        ("remote.x.url", "{home}/linked/out", ABSENT),
        ("remote.x.url", "file://{home}/work/o%75t", ABSENT),
        ("remote.x.url", "~/work/a/out", {"a/out", "a/out.git"}),
        ("branch.main.remote", "./out", ABSENT),
        ("branch.main.pushRemote", "out", ABSENT),
        ("remote.pushDefault", "out", ABSENT),
        # Git may run a repository in a folder that is none yet, and reads a file as a Git file.
        ("remote.x.url", "there", {"there/.git", "there/commondir", "there.git"}),
        ("remote.x.url", "file", {"file", "file.git"}),
        ("remote.x.url", "../outside", set()),
        ("remote.x.url", "git@example.com:work/out", set()),
        ("remote.x.url", "https://example.com/out", set()),
        ("remote.x.url", ".", set()),
    ],
)
def test_nobody_can_make_a_repository_where_a_remote_leads(host, key, value, places):
    (host.work / "there").mkdir()
    host.write("file", "")
    (host.home / "linked").symlink_to("work")
    before = sealed(protection(host)).keys()
    host.git("config", key, value.format(home=host.home))
    made = protection(host)
    assert sealed(made).keys() - before == places
    assert "not sealed" not in made.note


def test_the_name_of_a_remote_is_no_path(host):
    before = sealed(protection(host)).keys()
    host.git("config", "remote.out.url", "https://example.com/out")
    host.git("config", "branch.main.remote", "out")
    assert sealed(protection(host)).keys() == before


def test_a_url_that_is_replaced_counts(host):
    host.git("config", "url../.insteadOf", "mine:")
    host.git("config", "remote.x.url", "mine:out")
    assert sealed(protection(host)).keys() >= ABSENT


def test_the_repository_of_a_remote_is_sealed_however_far_the_search_goes(host):
    repository(host, "work/vendor/out.git", "--bare")
    host.git("config", "remote.x.url", "vendor/out")
    found = sealed(protection(host))
    assert {"vendor/out", "vendor/out.git/hooks", "vendor/out.git/config", "vendor/out.git/.git"} <= found.keys()
    assert "vendor/out.git/.git/hooks" not in found


def test_a_remote_of_another_repository_counts_too(host):
    other = repository(host, "work/lib")
    host.git("config", "remote.x.url", "../out", cwd=other)
    assert sealed(protection(host)).keys() >= ABSENT


def test_a_remote_in_a_mount_counts_too(host):
    (host.home / "mirrors").mkdir()
    host.git("config", "remote.x.url", "../mirrors/out.git")
    assert "out.git" in sealed(protection(host, "mirrors"), 1)


@pytest.mark.parametrize("url", ["link/out", "there/../out", "file/out", "pipe"])
def test_a_remote_that_can_be_led_away_is_named_and_keeps_no_session_from_starting(host, url):
    (host.work / "there").mkdir()
    (host.work / "link").symlink_to("there")
    host.write("file", "")
    os.mkfifo(host.work / "pipe")
    host.git("config", "remote.x.url", url)
    made = protection(host)
    assert made.level == "locked"
    assert "a remote of git's leads there by a link" in made.note


def test_an_agent_that_writes_many_remotes_keeps_nobody_out(host):
    other = repository(host, "work/lib")
    with (other / ".git/config").open("a") as file:
        file.writelines(f'[remote "{number}"]\n\turl = ../r{number}\n' for number in range(200))
    made = protection(host)
    assert len([path for path in sealed(made) if path.startswith("r")]) == places.MOST_REMOTES
    assert "local remotes" in made.note


def test_the_folder_of_a_remote_may_be_a_mount_in_the_workspace(host):
    repository(host, "out.git", "--bare")
    host.git("config", "remote.x.url", "out.git")
    mount = clincus.protect.host_folder(str(host.home / "out.git"), "/workspace/out.git")
    folder = clincus.protect.workspace_folder(str(host.work), "/workspace", SETTINGS, extra=[mount])
    assert clincus.protect.protect_workspace(folder, SETTINGS, LOCKABLE, [mount], "cafe").level == "locked"
