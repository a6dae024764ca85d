"""Repositories beside the one at the top of the workspace: in extra mounts, nested ones, and checked-out submodules.

What is judged is git on the host, as the person uses it in each of them: does it run what a container has planted?
"""

import os
import subprocess

import pytest
from test_protection_watch import await_broken, await_watched
from wall_box import CODE, OWNER, git_as_owner, make_repository, new_box

import clincus
from tests.programs import NO_CHECKPOINTS, git

# What an agent plants in a folder from which git finds a repository; `$mark` is the witness.
PLANT = """
evil() { printf '[core]\\n\\tbare = false\\n\\tfsmonitor = "touch \\\\"%s\\\\"; false"\\n' "$mark"; }
hook() {
    mkdir -p "$1"
    for name in pre-commit pre-receive; do printf '#!/bin/sh\\ntouch "%s"\\n' "$mark" > "$1/$name"; done
    chmod 755 "$1"/*
}
plant() {
    git config core.fsmonitor "touch '$mark'; false"
    for git in .git .; do
        test -e $git/HEAD && { evil >> $git/config; hook $git/hooks; }
    done
    hook tools/hooks
    if test -f .git; then
        git init -q /tmp/other && cp -r /tmp/other/.git .other
        hook .other/hooks; evil > .other/config; printf 'gitdir: .other\\n' > .git
    fi
}
plant
"""
# The same once more after each way to get what git reads out of the way.
FORCE = """
again() {
    plant
    mv .git moved && cp -r moved .git && plant
    printf 'gitdir: .other\\n' > new; mv -f new .git
    mkdir -p elsewhere; evil > elsewhere/config; printf '../elsewhere\\n' > .git/commondir; evil > .git/config.worktree
    mv "$PWD" "$PWD-moved" && cp -r "$PWD-moved" "$PWD" && plant
}
for path in .git/config .git/hooks .git config hooks .; do umount -l "$path"; again; done
"""


def own(folder):
    for entry in [folder, *folder.rglob("*")]:
        os.chown(entry, OWNER, OWNER, follow_symlinks=False)


def other(box):
    """Another repository of the person's."""
    made = box.root.parent / "other"
    make_repository(made)
    return made


def mounted(box):
    return other(box), [("other", "/mnt/other", "/mnt/other")]


def bare(box):
    made = box.root.parent / "other.git"
    made.mkdir()
    git(made, "init", "-q", "--bare")
    own(made)
    return made, [("other.git", "/mnt/other.git", "/mnt/other.git")]


def nested(box):
    made = box.root / "packages/lib"
    made.parent.mkdir()
    make_repository(made)
    own(box.root / "packages")
    return made, [("", "", "/workspace/packages/lib")]


def checked_out_submodule(box):
    made = other(box)
    words = ("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(made), "sub")
    assert git_as_owner(box.root, *words).returncode == 0
    assert git_as_owner(box.root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "sub").returncode == 0
    return box.root, [("", "", "/workspace/sub")]


CASES = (mounted, bare, nested, checked_out_submodule)


@pytest.fixture
def box(bed):
    with new_box(bed) as made:
        os.chown(made.root.parent, OWNER, OWNER)
        yield made


@pytest.mark.parametrize("level", ["locked", "off"])
@pytest.mark.parametrize("case", CASES)
def test_what_an_agent_plants_in_another_repository_runs_only_where_nothing_is_sealed(box, case, level):
    repository, [(source, target, inside)] = case(box)
    mark = box.root.parent / "mark"
    extra = [clincus.protect.host_folder(str(box.root.parent / source), target)] if target else []
    made = box.protection(level, extra=extra)
    assert "not sealed" not in made.reason + made.note
    name = box.launch(made)
    for force in ("", *([FORCE] if level == "locked" else [])):
        script = f"mark={mark}; cd {inside} || exit 1\n{PLANT}{force}\necho the end\n"
        for user in (CODE, 0):
            assert box.run(name, script, user).stdout.endswith(b"the end\n")
        for words in (("status",), ("commit", "-q", "--allow-empty", "-m", "x")):
            git_as_owner(repository, "-c", "user.name=a", "-c", "user.email=a@b", *words)
        git_as_owner(box.root, "push", "-q", str(repository), "HEAD:refs/heads/pushed")
        assert mark.exists() == (level == "off")


@pytest.mark.parametrize("place", ["mounted", "nested"])
def test_a_link_in_the_git_folder_of_another_repository_is_put_aside(bed, start_server, workspace, tmp_path, place):
    other = workspace / "lib" if place == "nested" else tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    subprocess.run(["chown", "-R", "1000:1000", other], check=True)
    mounts = f'[[mounts.default]]\nhost = "{other}"\ncontainer = "/mnt/other"\n' if place == "mounted" else ""
    server = start_server(config=NO_CHECKPOINTS + mounts)
    session = server.create(workspace)
    assert session["protection"] == "locked"
    await_watched(server, session)
    inside = "/workspace/lib" if place == "nested" else "/mnt/other"
    script = f"ln -s /etc/hostname {inside}/.git/COMMIT_EDITMSG"
    bed.attack(session["id"], script)
    [change] = await_broken(server, session)["changes"]
    assert change["path"] == f"{other}/.git/COMMIT_EDITMSG"
    assert "it is put aside" in change["words"]
    assert not (other / ".git/COMMIT_EDITMSG").is_symlink()


EVIL_HOOKS = """
evil() {
    printf '#!/bin/sh\\ntouch "%s"\\n' "$mark" >"$1/hooks/post-receive"; chmod 755 "$1/hooks/post-receive"
    printf '[core]\\n\\trepositoryformatversion = 0\\n\\tbare = false\\n' >"$1/config"
    printf '\\tfsmonitor = "touch \\\\"%s\\\\"; false"\\n' "$mark" >>"$1/config"
}
"""
BARE_AROUND_GIT = """
rm -f .git/HEAD; mkdir -p objects refs hooks; cp .git/index index; echo 'ref: refs/heads/x' >HEAD
evil . && printf '\\tworktree = .\\n' >>config
"""
GIT_IN_BARE = "git init -q --bare .git && evil .git\n"


@pytest.mark.parametrize("level", ["locked", "off"])
@pytest.mark.parametrize(
    ("case", "script"), [(nested, BARE_AROUND_GIT), (mounted, BARE_AROUND_GIT), (bare, GIT_IN_BARE)]
)
def test_git_takes_no_other_repository_in_the_place_of_a_persons(box, case, script, level):
    repository, [(source, target, inside)] = case(box)
    mark = box.root.parent / "mark"
    extra = [clincus.protect.host_folder(str(box.root.parent / source), target)] if target else []
    name = box.launch(box.protection(level, extra=extra))
    for user in (CODE, 0):
        box.run(name, f"mark={mark}; cd {inside} || exit 1\n{EVIL_HOOKS}{script}", user)
    git_as_owner(repository, "status")
    git_as_owner(box.root, "push", "-q", str(repository), "HEAD:refs/heads/pushed")
    assert mark.exists() == (level == "off")
