"""Attacks on the seals by way of mount namespaces: tests/incus/namespace_attacks.py is the table.

What is judged is the host: whether git there ran what was planted, and whether what is sealed is the same to the byte.
The same attacks are made where no system call is denied, to see that they are some.
"""

import os
import platform
import random
import subprocess
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from namespace_attacks import NAMESPACES, PIVOTING, UNMOUNTING, WAYS, Attack, at_once, put_together, selection
from namespace_box import Judge, bring_tools, git_of_owner, make_many, run_attacks
from wall_box import CODE, OWNER, kept_container, new_box

import clincus

BOTH = pytest.mark.parametrize("user", [CODE, 0], ids=["code", "root"])
EACH_NAMESPACE = pytest.mark.parametrize("namespace", NAMESPACES)


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


@pytest.mark.nightly
@BOTH
@EACH_NAMESPACE
def test_no_way_from_any_foot_gets_around_the_seals(box, namespace, user):
    assert_held(box, list(put_together([namespace])), user)


@pytest.mark.nightly
@BOTH
@EACH_NAMESPACE
def test_each_way_from_any_foot_is_known_where_no_call_is_denied(box, namespace, user):
    attacks = list(put_together([namespace]))
    assert those_that_fall(box, attacks, user) == expected(attacks, user)


@pytest.mark.nightly
@BOTH
@pytest.mark.parametrize("attack", [*selection(), *at_once()], ids=lambda attack: attack.name)
def test_each_attack_is_held_in_a_fresh_container(box, attack, user):
    assert_held(box, [attack], user)


# -- Random sequences

STANDING = {
    "stand in the Git folder": 'chdir "$T/.git"; ',
    "stand at the top": "chdir $T; ",
    "open a descriptor": '$FD = folder("$T/.git"); ',
    "open one of the top": "$TOP = folder($T); ",
    "leave a process behind": "stay_behind(); ",
}
ENTERING = {
    "send it to a child": (
        "socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0); send_descriptor($a, $FD // folder('.')); "
        "return if in_child(); $FD = receive_descriptor($b); "
    ),
    "have a child": "return if in_child(); ",
    "unshare": "unshare(); ",
    "have it private": "forget(); ",
    "have it a slave": "forget('/', REC | SLAVE); ",
    "become root of its own": "new_user(); ",
    "become root of its own, and unshare": "new_user(); unshare(); ",
    "become root of its own, unshare, and have it private": "new_user(); unshare(); forget(); ",
    "become root of many": "new_user(1); ",
    "unshare all in one": "unshare(NEWUSER | NEWNS); ",
    "clone": "cloned(NEWNS, 'clone'); ",
}
LETTING_GO = {way: f"{{ {code} }} " for way, code in WAYS.items()}
PLANTING = {
    "exchange": (
        'my $g = folder("$T/.git"); rename_at($g, "config", $g, "HEAD", EXCHANGE); '
        'rename_at($g, "config", $g, "HEAD", EXCHANGE); '
    ),
    "rename the folder": "rename '.git', 'g'; plant('g'); rename 'g', '.git'; ",
    "plant here": "plant_at(folder('.')); ",
    "plant by the path": 'plant("$T/.git"); ',
    "plant by the descriptor": "plant_at($FD) if defined $FD; ",
    "plant by io_uring": "plant_by_ring($FD) if defined $FD; ",
    "replace the folder": "replace_git($TOP) if defined $TOP; ",
    "plant by another's root": "plant_at(call('openat', $PROC, path(\"$HOLDER/root$T/.git\"), 0, 0)); ",
}
STEPS = {**STANDING, **ENTERING, **LETTING_GO, **PLANTING}


def some(steps, least, most):
    return st.lists(st.sampled_from(sorted(steps)), min_size=least, max_size=most)


BECOMING_ROOT = [way for way in ENTERING if way.startswith("become root")]

# Any steps, or those of each kind in the order in which they can make an attack. The code user has to become root of a
# namespace first, and the mounts it has there are locked: only a pivot lets them go.
SEQUENCES = st.one_of(
    some(STEPS, 2, 9),
    st.builds(
        lambda *parts: [step for part in parts for step in part],
        some(STANDING, 1, 3), some(BECOMING_ROOT, 1, 2), some(PIVOTING, 1, 2), some(PLANTING, 1, 4),
    ),
    st.builds(
        lambda *parts: [step for part in parts for step in part],
        some(STANDING, 1, 3), some(ENTERING, 0, 2), some([*UNMOUNTING, *PIVOTING], 1, 3), some(PLANTING, 1, 4),
    ),
)  # fmt: skip


def code_of(steps):
    return "our $TOP; " + "".join(STEPS[step] for step in steps)


@pytest.fixture(scope="module")
def shared(bed):
    with new_box(bed) as box, kept_container(bed, box) as name:
        bring_tools(box, name)
        yield box, name, Judge(box.root)


def by_chance(batches):
    """Have a function get lists of sequences, and print the seed.

    What once went wrong stays so in its container, so no smaller case is sought.
    """
    chosen = int(os.environ.get("CLINCUS_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"CLINCUS_TEST_SEED={chosen}")
    phases = [Phase.generate]
    how = settings(max_examples=batches, phases=phases, suppress_health_check=list(HealthCheck), database=None)
    return lambda test: seed(chosen)(how(given(st.lists(SEQUENCES, min_size=5, max_size=20))(test)))()


@pytest.mark.nightly
@BOTH
def test_no_sequence_of_steps_gets_around_the_seals(shared, user):
    box, name, judge = shared

    @by_chance(60)
    def try_them(sequences):
        lines = [
            (number, "/workspace", judge.command(number), code_of(steps)) for number, steps in enumerate(sequences)
        ]
        run_attacks(box, name, lines, user)
        assert [sequences[number] for number in judge.ran()] == []
        assert judge.changed() == set()


@pytest.mark.nightly
@BOTH
def test_such_sequences_get_around_them_where_no_call_is_denied(box, user):
    sequences = []

    @by_chance(20)
    def collect(found):
        sequences.extend(found)

    attacks = [Attack(str(number), code_of(steps), frozenset()) for number, steps in enumerate(sequences)]
    succeeded = those_that_fall(box, attacks, user)
    print(f"{len(succeeded)} of {len(attacks)} succeeded")
    assert succeeded


# -- Subvolumes

SUBVOLUME = """perl -e 'opendir(my $in, "/workspace/.git/modules"); my $name = pack("q a4088", 0, "x");
    syscall(16, fileno($in), {}, $name)'
"""
CREATE, DESTROY = 0x5000940E, 0x5000940F  # BTRFS_IOC_SUBVOL_CREATE, BTRFS_IOC_SNAP_DESTROY


@pytest.fixture
def on_btrfs(box):
    """The workspace on a file system where users may remove subvolumes."""
    image, place = box.root.parent / "image", box.root.parent / "btrfs"
    with open(image, "wb") as file:
        file.truncate(300 << 20)
    place.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop,user_subvol_rm_allowed", image, place], check=True)
    try:
        subprocess.run(["cp", "-a", box.root, place / "work"], check=True)
        box.root = place / "work"
        yield box
        box.delete(box.last)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.nightly
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of ioctl(2) is that of x86_64")
def test_a_sealed_folder_does_not_go_by_being_a_subvolume(on_btrfs):
    name = on_btrfs.launch()
    on_btrfs.run(name, SUBVOLUME.format(CREATE) + "mkdir .git/modules/x/hooks; echo good >.git/modules/x/config")
    config = on_btrfs.root / ".git/modules/x/config"
    assert config.parent.stat().st_ino == 256
    with suppress(clincus.IncusError):  # it may be refused
        on_btrfs.restart(name)
        on_btrfs.run(name, SUBVOLUME.format(DESTROY) + "mkdir -p .git/modules/x; echo EVIL >.git/modules/x/config")
    assert config.read_text() == "good\n"


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


@pytest.mark.parametrize(
    "words",
    [
        ("diff", "HEAD"),
        ("log", "HEAD"),
        ("status", "--porcelain"),
        ("stash", "-u"),
        ("clean", "-nd"),
        ("diff", "HEAD", "--"),
    ],
    ids=" ".join,
)
def test_git_of_the_host_works_as_before_beside_the_guard(shared_day, words):
    root, before = shared_day
    done = git_of_owner(root, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "commondir" not in done.stdout
    git_of_owner(root, "stash", "pop")
    assert git_of_owner(root, "status", "--porcelain").stdout == before


@pytest.fixture(scope="module")
def shared_day(bed):
    """A workspace with a running session and some work in it, and what `git status` said before the session."""
    with new_box(bed) as box:
        (box.root / "README").write_text("changed\n")
        (box.root / "new").write_text("new\n")
        os.chown(box.root / "new", OWNER, OWNER)
        before = git_of_owner(box.root, "status", "--porcelain").stdout
        with kept_container(bed, box):
            yield box.root, before
