"""Two sessions whose folders meet: a descriptor that one hands to the other, or a rename by the one above the other.

A seal counts in the mount namespace of the caller, and that of another container has seals of its own. Either the
second session is refused, or it must not get anything into the Git folder of the first one.
"""

import os
from contextlib import suppress

import pytest
from namespace_box import Judge, bring_tools, run_perl
from wall_box import CODE, OWNER, make_repository, new_box

import clincus

SOCKET = "socket"


@pytest.fixture
def box(bed):
    with new_box(bed) as made:
        os.chown(made.root.parent, OWNER, OWNER)
        yield made


def folder_of(path):
    path.mkdir(exist_ok=True)
    os.chown(path, OWNER, OWNER)
    return path


def workspace_at(path):
    if not path.exists():
        make_repository(path)
    return clincus.protect.workspace_folder(str(path), "/workspace", clincus.make_config(()))


# Where the two sessions meet: the protection of the victim and of the accomplice, and the socket in each of them. The
# victim's workspace is the one of the box.


def an_extra_mount(box, **more):
    shared = clincus.protect.host_folder(str(folder_of(box.root.parent / "shared")), "/shared")
    victim = box.protection(extra=[shared])
    other = box.protection(extra=[shared], workspace=workspace_at(box.root.parent / "other"), **more)
    return victim, other, "/shared", "/shared"


def a_session_without_seals(box):
    return an_extra_mount(box, level="off")


def a_session_for_nested_containers(box):
    return an_extra_mount(box, level="basic", nesting=True)


def a_workspace_around_the_workspace(box):
    outer = workspace_at(box.root.parent)
    return box.protection(), box.protection(workspace=outer), "/workspace", "/workspace/work"


def the_same_workspace_with_fewer_seals(box):
    return box.protection(), box.protection(paths=()), "/workspace", "/workspace"


MEETINGS = (
    an_extra_mount,
    a_session_without_seals,
    a_session_for_nested_containers,
    a_workspace_around_the_workspace,
    the_same_workspace_with_fewer_seals,
)


def start_both(box, protections):
    """Start a container of each; their names, or None where the second is refused, which is as good."""
    names = [box.launch(protections[0])]
    try:
        names.append(box.launch(protections[1]))
    except clincus.IncusError as error:
        if "forkstart" not in error.message:  # it did not even come to the hook
            raise
        return None
    for name in names:
        bring_tools(box, name)
    return names


@pytest.mark.parametrize("order", ["the victim first", "the accomplice first"])
@pytest.mark.parametrize("meeting", MEETINGS)
def test_a_descriptor_handed_to_another_session_is_no_way_in(box, meeting, order):
    try:
        victim, accomplice, here, there = meeting(box)
    except clincus.ClincusError:
        return  # refused before it came to a container
    turned = order == "the accomplice first"
    names = start_both(box, [accomplice, victim] if turned else [victim, accomplice])
    if names is None:
        return
    judge = Judge(box.root)
    owner, other = reversed(names) if turned else names
    assert run_perl(box, owner, f"serve('{here}/{SOCKET}', '/workspace/.git')").code == 0
    for user in (CODE, 0):
        number = user + 1
        code = f"plant_at(receive('{there}/{SOCKET}'))"
        run_perl(box, other, code, user=user, command=judge.command(number))
    run_perl(box, owner, f"unlink '{here}/{SOCKET}'", user=0)
    assert (judge.ran(), judge.changed()) == (set(), set())


def test_a_descriptor_handed_to_another_session_is_a_way_in_where_nothing_is_sealed(box):
    shared = clincus.protect.host_folder(str(folder_of(box.root.parent / "shared")), "/shared")
    workspaces = [None, workspace_at(box.root.parent / "other")]
    owner, other = start_both(box, [box.protection("off", extra=[shared], workspace=one) for one in workspaces])
    judge = Judge(box.root)
    assert run_perl(box, owner, f"serve('/shared/{SOCKET}', '/workspace/.git')").code == 0
    for user in (CODE, 0):
        run_perl(box, other, f"plant_at(receive('/shared/{SOCKET}'))", user=user, command=judge.command(user + 1))
        assert user + 1 in judge.ran()
    run_perl(box, owner, f"unlink '/shared/{SOCKET}'", user=0)


# A process takes a descriptor out of another one (pidfd_getfd); the kernel lets it do so within its container alone.
TAKERS = {"another session": ("off", 1), "the same session": ("off", 0)}


@pytest.mark.parametrize("taker", TAKERS)
def test_a_descriptor_taken_out_of_a_process_of_another_session_is_no_way_in(box, taker):
    level, number = TAKERS[taker]
    shared = clincus.protect.host_folder(str(folder_of(box.root.parent / "shared")), "/shared")
    workspaces = [None, workspace_at(box.root.parent / "other")]
    names = start_both(box, [box.protection(level, extra=[shared], workspace=one) for one in workspaces])
    judge = Judge(box.root)
    assert run_perl(box, names[0], f"serve('/shared/{SOCKET}', '/workspace/.git', 0, 1)").code == 0
    for user in (CODE, 0):
        code = f"plant_at(take('/shared/{SOCKET}'))"
        run_perl(box, names[number], code, user=user, command=judge.command(user + 1))
    run_perl(box, names[0], f"unlink '/shared/{SOCKET}'", user=0)
    has_effect = taker == "the same session"
    assert (bool(judge.ran()), bool(judge.changed())) == (has_effect, has_effect)


ABOVE = "plant('/workspace/work/.git'); replace_git(folder('/workspace/work')); plant('/workspace/work/.git')"
MOVED = """rename '/workspace/work', '/workspace/old'; mkdir '/workspace/work'; mkdir '/workspace/work/.git', 0755;
call('mkdirat', AT, path("/workspace/work/.git/$_"), 0755) for qw(objects refs hooks);
put(folder('/workspace/work/.git'), 'HEAD', 0644, "ref: refs/heads/main\\n"); plant('/workspace/work/.git')"""


@pytest.mark.parametrize("order", ["the victim first", "the accomplice first"])
@pytest.mark.parametrize("code", [ABOVE, MOVED], ids=["replaces what is in it", "replaces it"])
def test_a_session_on_the_folder_above_is_no_way_in(box, code, order):
    outer = workspace_at(box.root.parent)
    protections = [box.protection(), box.protection(workspace=outer)]
    turned = order == "the accomplice first"
    names = start_both(box, protections[::-1] if turned else protections)
    if names is None:
        return
    judge = Judge(box.root)
    other = names[0] if turned else names[1]
    run_perl(box, other, code, command=judge.command(1))
    assert (judge.ran(), judge.changed()) == (set(), set())


# What was made before it was sealed

MADE = "mkdir -p .git/modules/x; printf '[core]\\n' >.git/modules/x/config"


def test_a_second_hard_link_from_before_is_no_way_to_change_what_is_sealed(box):
    name = box.launch()
    assert box.run(name, f"{MADE}; ln .git/modules/x/config .git/modules/alias").code == 0
    with suppress(clincus.IncusError):  # it may be refused
        box.restart(name)
        box.run(name, "echo EVIL >>.git/modules/alias; echo EVIL >>.git/modules/x/config")
    assert (box.root / ".git/modules/x/config").read_text() == "[core]\n"
