"""Repositories beside the one that a workspace is in: which are found and sealed, and what is said of the rest."""

import os

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
        ("other", (), ".", "other/.git/config"),
        ("other.git", ("--bare",), "other.git", "hooks"),
        ("other", (), "other/.git", "config"),
    ],
)
def test_a_repository_in_an_extra_mount_is_sealed_like_that_of_the_workspace(host, at, words, mount, pattern):
    repository(host, at, *words)
    for is_clone in (False, True):
        made = protection(host, mount, is_clone=is_clone)
        assert (made.level, made.reason) == ("locked", "")
        assert pattern in sealed(made, 0 if is_clone else 1)


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
    repository(host, "work/vendor/lib")  # packages are not searched
    found = sealed(protection(host))
    assert {"a/b/c/d/e/f/sub/.git/config", "a/b/c/d/e/f/tree/.git/config"} <= found.keys()
    assert not any("vendor" in path for path in found)


def test_a_mount_over_a_nested_repository_hides_it_and_is_no_error(host):
    repository(host, "work/lib")
    repository(host, "other")
    extra = [clincus.protect.host_folder(str(host.home / "other"), "/workspace/lib")]
    folder = clincus.protect.workspace_folder(str(host.work), "/workspace", SETTINGS, extra=extra)
    assert clincus.protect.protect_workspace(folder, SETTINGS, LOCKABLE, extra, "cafe").level == "locked"


def linked_config(other):
    (other / ".git/config").rename(other / "config")
    (other / ".git/config").symlink_to("../config")


def pipe(other):
    (other / ".git/config").unlink()
    os.mkfifo(other / ".git/config")


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
        (pipe, "it is not a regular file"),
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


def test_the_end_of_a_search_is_said(host, monkeypatch):
    for number in range(places.MOST_SEARCHED):
        (host.work / f"a/b/c/{number}").mkdir(parents=True)
    made = protection(host)
    assert made.level == "locked"
    assert f"'{host.work}' was not searched for repositories to its end" in made.note


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


ABSENT = {"out", "out.git"}


@pytest.mark.parametrize(
    ("key", "value", "places"),
    [
        ("remote.x.url", "./out", ABSENT),
        ("remote.x.url", "{home}/linked/out", ABSENT),
        ("remote.x.url", "file://{home}/work/o%75t", ABSENT),
        ("remote.x.url", "~/work/a/out", {"a/out", "a/out.git"}),
        ("branch.main.remote", "./out", ABSENT),
        ("remote.pushDefault", "out", ABSENT),
        # Git may run a repository in a folder that is none yet, and reads a file as a Git file.
        ("remote.x.url", "there", {"there/.git", "there/commondir", "there.git"}),
        ("remote.x.url", "file", {"file", "file.git"}),
        ("remote.x.url", "../outside", set()),
        ("remote.x.url", "https://example.com/out", set()),
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


@pytest.mark.parametrize("url", ["link/out", "there/../out", "file/out"])
def test_a_remote_that_can_be_led_away_is_named_and_keeps_no_session_from_starting(host, url):
    (host.work / "there").mkdir()
    (host.work / "link").symlink_to("there")
    host.write("file", "")
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
