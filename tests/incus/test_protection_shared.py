"""Sessions that have a folder in common: each carries the seals of the others, or says that it is not locked."""

import os
import secrets

import pytest
from wall_box import CODE, git_as_owner, make_repository, new_box

import clincus
from clincus_cli.sessions import clean_stages

PLANT = """mount -o remount,bind,rw config; mount -o remount,rw hooks; umount -l config hooks
    echo EVIL >>config; printf '[core]\\n\\tfsmonitor = touch EVIL\\n' >evil; mv -f evil config
    mv hooks h; rmdir hooks; mkdir hooks; echo 'touch EVIL' >hooks/pre-commit; chmod 755 hooks/pre-commit"""


@pytest.fixture
def box(bed):
    with new_box(bed) as made:
        yield made


@pytest.fixture
def inner(box):
    """A project in a folder of the box's own project."""
    root = box.root / "inner"
    make_repository(root)
    return root


def session_in(box, folder, *, nesting=False, extra=()):
    """The wall of a session in a folder; its name is in `made` of the box."""
    settings = clincus.with_flags(clincus.make_config(()), {"security.nesting": nesting})
    workspace = clincus.protect.workspace_folder(str(folder), "/workspace", settings)
    box.made.append(secrets.token_hex(8))
    name = f"clincus-{len(box.made)}"
    return clincus.protect.protect_workspace(workspace, settings, box.support, extra, box.made[-1], session=name)


def assert_unharmed(folder):
    """Git on the host runs nothing of the agent's."""
    assert git_as_owner(folder, "status", "--short").returncode == 0
    assert "fsmonitor" not in (folder / ".git/config").read_text()
    assert not (folder / ".git/hooks/pre-commit").exists()


@pytest.mark.day
def test_a_session_around_another_one_is_sealed_against_that_ones_paths(box, inner):
    names = [box.launch(session_in(box, inner)), box.launch(session_in(box, box.root))]
    for user in (CODE, 0):
        box.run(names[0], f"cd .git && ({PLANT})", user)
        box.run(names[1], f"cd inner/.git && ({PLANT})", user)
    assert_unharmed(inner)


def test_a_session_in_a_folder_of_one_that_runs_cannot_be_locked(box, inner):
    """That one may have a file open, or stand in a folder, that is sealed only now."""
    box.launch(session_in(box, box.root))
    failure = why_refused(box, session_in(box, inner))
    assert isinstance(failure, clincus.protect.WallExposedError)
    assert f"clincus-1 runs since before '{inner}/.clincus.toml' was sealed" in failure.message
    settings = clincus.make_config(())
    workspace = clincus.protect.workspace_folder(str(inner), "/workspace", settings)
    again = clincus.protect.protect_workspace(
        workspace, settings, box.support, (), box.made[-1], exposed=failure.message
    )
    assert again.level == "basic"
    box.launch(again)


def test_seals_stay_in_a_container_after_their_session_has_ended(box, inner):
    """The container may have kept a descriptor of a folder that it got from the one that has ended."""
    first = box.launch(session_in(box, inner))
    outer = box.launch(session_in(box, box.root))
    box.delete(first)
    box.run(outer, f"cd inner/.git && ({PLANT})", 0)
    assert_unharmed(inner)


def test_what_is_sealed_only_now_costs_the_lock_while_another_container_may_have_it_open(box, tmp_path):
    new = ".git/modules/new/config"
    (tmp_path / "data").mkdir(mode=0o777)
    shared = [clincus.protect.host_folder(str(tmp_path / "data"), "/data")]
    other = tmp_path / "other"
    make_repository(other)
    victim = box.launch(session_in(box, box.root, extra=shared))
    holder = box.launch(session_in(box, other, extra=shared))
    box.run(victim, f"mkdir -p $(dirname {new}); echo >{new}; echo >$(dirname {new})/HEAD")
    box.stop(victim)
    with pytest.raises(clincus.IncusError) as caught:
        box.start(victim)
    failure = clincus.protect.start_failure(box.incus, victim, caught.value)
    assert isinstance(failure, clincus.protect.WallExposedError)
    assert f"clincus-2 runs since before '{box.root}/.git/" in failure.message
    box.stop(holder)
    box.start(victim)


def test_placeholders_go_with_the_last_container_that_has_their_seals(box, inner):
    first = box.launch(session_in(box, inner))
    outer = box.launch(session_in(box, box.root))
    box.delete(first)
    assert (inner / ".husky").exists()
    box.delete(outer)
    clean_stages()
    assert not (inner / ".husky").exists()
    assert not (inner / "commondir").exists()
    assert not box.stages()


def why_refused(box, protection):
    """The reason why a container does not start."""
    with pytest.raises(clincus.IncusError) as caught:
        box.launch(protection)
    failure = clincus.protect.start_failure(box.incus, box.last, caught.value)
    box.delete(box.last)
    return failure


def test_a_session_with_nested_containers_does_not_start_beside_a_locked_one(box, inner):
    box.launch(session_in(box, box.root))
    failure = why_refused(box, session_in(box, inner, nesting=True))
    assert failure.status == 409
    assert f"clincus-1 is locked and has '{inner}' as well" in failure.message
    assert "--clone" in failure.message


def test_a_session_beside_one_with_nested_containers_cannot_be_locked(box, inner):
    box.launch(session_in(box, inner, nesting=True))
    failure = why_refused(box, session_in(box, box.root))
    assert isinstance(failure, clincus.protect.WallExposedError)
    assert f"clincus-1 has '{inner}' as well and is not locked" in failure.message


def test_a_folder_that_nobody_of_them_can_write_in_is_not_in_common(box, tmp_path):
    (tmp_path / "data").mkdir()
    shared = clincus.protect.host_folder(str(tmp_path / "data"), "/data", readonly=True)
    other = tmp_path / "other"
    make_repository(other)
    box.launch(session_in(box, box.root, extra=[shared]))
    box.launch(session_in(box, other, nesting=True, extra=[shared]))


def test_a_session_with_plain_devices_is_seen_by_a_locked_one_beside_it(box, inner):
    support = box.support._replace(reason="its file system cannot map ids", takes_hooks=True, shift=False)
    settings = clincus.make_config(())
    workspace = clincus.protect.workspace_folder(str(inner), "/workspace", settings)
    box.made.append(secrets.token_hex(8))
    plain = clincus.protect.protect_workspace(workspace, settings, support, (), box.made[-1], session="clincus-plain")
    assert plain.level == "basic"
    name = box.launch(plain)
    assert isinstance(why_refused(box, session_in(box, box.root)), clincus.protect.WallExposedError)
    box.delete(name)
    box.launch(session_in(box, box.root))
    assert why_refused(box, plain).status == 409


def test_a_file_with_a_second_name_costs_the_lock(box):
    """What an earlier session made before the path was sealed, it could write by the other name."""
    path = ".git/hooks/pre-push.sample"
    os.link(box.root / path, box.root / "alias")
    failure = why_refused(box, session_in(box, box.root))
    assert isinstance(failure, clincus.protect.WallExposedError)
    assert f"'{path}' in '{box.root}' has another name" in failure.message
    (box.root / "alias").unlink()
    box.launch(session_in(box, box.root))
