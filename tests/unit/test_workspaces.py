"""Workspace roots: what is found in them."""

from __future__ import annotations

import os

import pytest

import clincus
from clincus_features import repositories


@pytest.fixture
def workspaces(tmp_path):
    """Workspaces with one root, which is this test's own."""
    config = clincus.load_config({"HOME": str(tmp_path)}, flags={"dashboard.workspace_roots": [str(tmp_path)]})
    return clincus.Workspaces(lambda: config, {}, list)


def test_folders_and_links_to_folders_are_projects_up_to_a_bound(workspaces, tmp_path, monkeypatch):
    def projects() -> list[str]:
        return [project["name"] for project in workspaces.document()["workspaces"]]

    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    for link, target in (("link", "a"), ("dangling", "none"), ("loop", "loop")):
        (tmp_path / link).symlink_to(target)
    assert projects() == ["a", "b", "link"]
    assert workspaces.document()["truncated"] is False
    monkeypatch.setattr(clincus, "PROJECTS_PER_ROOT", 2)
    assert projects() == ["a", "b"]
    assert workspaces.document()["truncated"] is True


def test_a_root_of_a_user_who_does_not_exist_can_be_seen_and_removed(tmp_path):
    config = clincus.load_config({"HOME": str(tmp_path)})
    config.values["dashboard"]["workspace_roots"] = ["~nobody-of-that-name", str(tmp_path)]
    workspaces = clincus.Workspaces(lambda: config, {"HOME": str(tmp_path)}, list)
    assert workspaces.document()["roots"] == ["~nobody-of-that-name", str(tmp_path)]
    assert workspaces.without_root("~nobody-of-that-name") == [str(tmp_path)]
    assert workspaces.with_root("~") == ["~nobody-of-that-name", str(tmp_path)]


def test_a_folder_that_cannot_become_a_repository_is_not_made(tmp_path, monkeypatch):
    folder = tmp_path / "my-app"
    folder.mkdir()
    monkeypatch.setattr("clincus_wall.protect.find_git", lambda *_: "")
    with pytest.raises(clincus.ClincusError, match="a Git repository: git is not in") as raised:
        repositories.make_repository(str(folder), {})
    assert raised.value.status == 500
    assert list(tmp_path.iterdir()) == []


def test_a_new_repository_goes_by_nothing_but_the_persons_configuration(tmp_path, monkeypatch):
    """The server may have been started in a hook of git's, or in a folder that holds a `git` of somebody else's."""
    template, folder, other, planted = (tmp_path / name for name in ("template", "my-app", "other", "bin"))
    for one in (template / "hooks", folder, planted):
        one.mkdir(parents=True)
    (template / "hooks" / "pre-commit").write_text("#!/bin/sh\n")
    (planted / "git").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (planted / "git").chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[init]\n\tdefaultBranch = trunk\n\ttemplateDir = {template}\n")
    environ = {"HOME": str(tmp_path), "PATH": f"bin:{os.environ['PATH']}", "GIT_DIR": str(other),
               "GIT_TEMPLATE_DIR": str(template)}  # fmt: skip
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    repositories.make_repository(str(folder), environ)
    assert (folder / ".git" / "HEAD").read_text() == "ref: refs/heads/trunk\n"
    assert not (folder / ".git" / "hooks").exists()
    assert not other.exists()
    assert not (tmp_path / "ran").exists()
