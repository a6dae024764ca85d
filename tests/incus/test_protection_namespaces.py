"""Attacks on the seals by way of mount namespaces: tests/incus/namespace_attacks.py is the table.

What is judged is the host: whether git there ran what was planted, and whether what is sealed is the same to the byte.
The same attacks are made where no system call is denied, to see that they are some.
"""

import platform

import pytest
from namespace_attacks import at_once, selection
from namespace_box import Judge, bring_tools, make_many, run_attacks
from wall_box import CODE, new_box

BOTH = pytest.mark.parametrize("user", [CODE, 0], ids=["code", "root"])


@pytest.fixture
def box(bed):
    with new_box(bed) as made:
        yield made


def assert_held(box, attacks, user):
    """Make attacks on one container with the wall, all of them in the one workspace."""
    name = box.launch()
    bring_tools(box, name)
    judge = Judge(box.root)
    lines = [(number, "/workspace", judge.command(number), attack.code) for number, attack in enumerate(attacks)]
    run_attacks(box, name, lines, user)
    assert [attacks[number].name for number in judge.ran()] == []
    assert judge.changed() == set()


def those_that_fall(box, attacks, user, protection=None):
    """The names of the attacks that succeed in a container where nothing is denied, each on a repository of its own."""
    make_many(box.root, len(attacks))
    paths = [f"{number}/.git/{name}" for number in range(len(attacks)) for name in ("config", "hooks")]
    made = protection or box.protection(paths=paths)
    allowed = {key: value for key, value in made.config.items() if key != "security.syscalls.deny"}
    name = box.launch(made._replace(config=allowed))
    bring_tools(box, name)
    judge = Judge(box.root)
    lines = [(number, f"/workspace/{number}", judge.command(number), one.code) for number, one in enumerate(attacks)]
    # Each in a copy of the mount namespace, for the first one's mounts could go once only.
    run_attacks(box, name, lines, 0, ALONE=str(user))
    ran = judge.ran(*(box.root / str(number) for number in range(len(attacks))))
    return {attacks[number].name for number in ran}


def expected(attacks, user):
    """The names of those that succeed where nothing is denied, on this machine."""
    is_x86 = platform.machine() == "x86_64"
    return {attack.name for attack in attacks if user in attack.falls and (is_x86 or "32-bit" not in attack.name)}


@BOTH
def test_no_namespace_is_a_way_around_the_seals(box, user):
    assert_held(box, [*selection(), *at_once()], user)


@BOTH
def test_each_of_these_is_a_way_where_no_call_is_denied(box, user):
    attacks = selection()
    assert those_that_fall(box, attacks, user) == expected(attacks, user)


@BOTH
def test_the_attacks_without_a_namespace_succeed_where_nothing_is_sealed(box, user):
    attacks = list(at_once())
    assert those_that_fall(box, attacks, user, box.protection("off")) == expected(attacks, user)


# -- A repository of the agent's own at the top

BARE = """cd "$1" && rm -f .git/HEAD; mkdir -p objects refs; echo 'ref: refs/heads/x' >HEAD
printf '[core]\\n\\trepositoryformatversion = 0\\n\\tbare = false\\n\\tworktree = .\\n\\tfsmonitor = %s\\n' "$2" >config
rm -rf commondir; rmdir commondir; mv commondir c"""


def make_bare(box, name, user):
    judge = Judge(box.root)
    script = f"set -- /workspace '{judge.command(1)}'\n{BARE}\n"
    box.incus.exec(name, ["sh"], stdin=script.encode(), user=user)
    return judge


@BOTH
@pytest.mark.parametrize("kind", ["a broken .git", "no .git"])
def test_the_top_of_the_workspace_cannot_become_a_repository(box, kind, user):
    if kind == "no .git":
        (box.root / ".git").rename(box.root.parent / "git")
    judge = make_bare(box, box.launch(), user)
    assert judge.ran() == set()


def test_the_top_can_become_one_where_nothing_is_sealed(box):
    judge = make_bare(box, box.launch(box.protection("off")), CODE)
    assert judge.ran() == {1}
