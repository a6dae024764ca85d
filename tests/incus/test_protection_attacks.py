"""Attacks on the workspace from inside a real container, as the code user and as root in it.

Each one does for real what a hostile agent would do and goes on after every refusal. What counts is the host: what
is protected there must be byte-identical afterwards, and nothing in the workspace may belong to root, carry root's
setuid bit, or be a device.
"""

import os
import platform
import subprocess

import pytest
from machine_code import X32, call_32, call_64, program
from wall_box import CODE, EVIL, PROTECTED, make_repository, new_box, planted, snapshot

from tests.programs import DEADLINE, wait_until

BOTH = {
    "write a hook": "echo EVIL > .git/hooks/pre-commit; echo EVIL > .git/hooks/post-checkout",
    "rename over the config": "echo EVIL > .git/config.lock; mv -f .git/config.lock .git/config",
    "git config": "git config core.fsmonitor EVIL",
    "remove": "rm -rf .git/hooks .git/config .vscode .husky ci/deploy .clincus.toml .git/modules/lib/hooks",
    "remove the parent": "rm -rf .git; mkdir -p .git/hooks; echo EVIL > .git/hooks/pre-commit",
    "rename the path": "mv .git/hooks .git/h; mv .git/config .git/c; mv .vscode v; mv .husky h; mv ci/deploy d",
    "rename the parent": "mv .git .git-old && mkdir -p .git/hooks && echo EVIL > .git/hooks/pre-commit",
    "rename by exchange": """mkdir -p evil/hooks; echo EVIL > evil/hooks/pre-commit
        perl -e 'for (["evil/hooks", ".git/hooks"], ["evil", ".git"]) { my ($from, $to) = @$_;
        syscall(316, -100, $from, -100, $to, 2) }'""",
    "add to an absent path": "mkdir -p .husky; echo EVIL > .husky/pre-commit; echo EVIL > .clincus.toml",
    "replace an absent path": "rmdir .husky; rm -rf .clincus.toml; echo EVIL > .clincus.toml; ln -s evil .husky",
    "another common folder": """mkdir -p evil; cp .git/config evil/config; cp -r .git/objects .git/refs evil/
        printf '../evil\\n' > .git/commondir; mv -f evil/config .git/commondir""",
    "a submodule": "echo EVIL >> .git/modules/lib/config; echo EVIL > .git/modules/lib/hooks/post-checkout",
    "symlink swap": """ln -sfn /tmp .git/hooks; ln -sf /tmp/x .git/config; ln -sfT /tmp .husky
        mkdir -p t/hooks; echo EVIL > t/hooks/pre-commit; mv -T t .git; ln -sfn t .git""",
    "hard link into": "echo EVIL > x; ln x .git/hooks/pre-commit; ln -f x .git/config; ln x .vscode/tasks.json",
    "hard link out of": "ln .git/config alias && echo EVIL >> alias; ln .vscode/settings.json a2 && echo EVIL >> a2",
    "a nested user namespace": """unshare -Urm sh -c '
        umount .git/hooks; umount -l .git/hooks; umount -l .git/config; mount --bind /workspace /mnt;
        mount -o remount,bind,rw .git/hooks; echo EVIL > .git/hooks/a; echo EVIL > /mnt/.git/hooks/b;
        mount --rbind /workspace /mnt; umount -l /mnt/.git/hooks
        echo EVIL > /mnt/.git/hooks/c; echo EVIL >> .git/config'""",
    "pivot_root in a user namespace of its own": """cd .git; unshare -Urm sh -c '
        mkdir -p /tmp/new; mount -t tmpfs none /tmp/new; mkdir /tmp/new/old; cp /usr/bin/busybox /tmp/new/
        cd /tmp/new; pivot_root . old; cd /old/workspace/.git; /busybox umount -l /old; exec /busybox sh -c "
        echo EVIL > x; /busybox mv -f x config; /busybox mv hooks h; /busybox mkdir hooks; echo EVIL > hooks/a"'""",
    "a setuid copy": """cp /bin/true setuid; chmod 6755 setuid; cp /bin/true s2; chmod 2755 s2
        install -m 4755 /bin/true s3""",
}

ROOT = {
    "umount -l": """for p in .git/hooks .git/config .git/info .git .husky; do umount -l $p; done
        echo EVIL > .git/hooks/a""",
    "umount -R from inside": """cd .git; umount -R /workspace; umount -l /workspace; echo EVIL > x; mv -f x config
        mv hooks h; mkdir hooks; echo EVIL > hooks/a""",
    "umount of all with a descriptor": """exec 3<.; cd /; umount -l /workspace; cd /proc/self/fd/3/.git; echo EVIL > x
        mv -f x config; mv hooks h; mkdir hooks; echo EVIL > hooks/a""",
    "umount by umount2 flags": """perl -e 'for my $flags (0, 1, 2, 4, 8, 10) {
        for my $p (".git/hooks", ".git/config", ".git") { syscall(166, "/workspace/$p", $flags) } }'
        echo EVIL > .git/hooks/a; echo EVIL >> .git/config""",
    "rbind": """mkdir -p /mnt/r; mount --rbind /workspace /mnt/r; mount --make-rprivate /mnt/r
        umount /mnt/r/.git/hooks; umount -l /mnt/r/.git/hooks; umount -l /mnt/r/.git; echo EVIL > /mnt/r/.git/hooks/a
        mount -o remount,bind,rw /mnt/r/.git/config; echo EVIL >> /mnt/r/.git/config""",
    "mount --move": """mkdir -p /mnt/m; mount --make-rprivate /; mount --move /workspace/.git/hooks /mnt/m
        echo EVIL > /mnt/m/a; echo EVIL > .git/hooks/a
        mount --move /workspace/.git /mnt/m; echo EVIL > .git/hooks/a""",
    "move all from inside": """cd .git; mount --make-rprivate /; mkdir -p /mnt/t; mount -t tmpfs none /mnt/t
        mkdir /mnt/t/all; mount --move /workspace /mnt/t/all; umount -l /mnt/t; echo EVIL > x; mv -f x config
        mv hooks h; mkdir hooks; echo EVIL > hooks/a""",
    "remount": """for p in .git/hooks .git/config .husky .vscode; do
        mount -o remount,rw $p; mount -o remount,bind,rw $p; mount -o remount,bind,rw,suid,dev /workspace/$p; done
        mount -o remount,rw /workspace; mount -o remount,bind,suid,dev /workspace
        echo EVIL > .git/hooks/a; echo EVIL >> .git/config""",
    "overmount": """mount -t tmpfs none .git/hooks; echo EVIL > .git/hooks/a; mount -t tmpfs none .git
        mkdir -p .git/hooks; echo EVIL > .git/hooks/a; umount .git; umount .git/hooks; umount .git/hooks
        echo EVIL > .git/hooks/b""",
    "mount beneath": """mkdir -p evil; echo EVIL > evil/pre-commit
        mount --beneath --bind /workspace/evil /workspace/.git/hooks; umount .git/hooks; echo EVIL > .git/hooks/a""",
    "pivot_root": """mkdir -p /mnt/new; mount -t tmpfs none /mnt/new; mkdir -p /mnt/new/old /mnt/new/bin
        unshare -m sh -c 'mount --make-rprivate /; mount --rbind / /mnt/new/old; cd /mnt/new/old/workspace
        umount -l .git/hooks; umount -l /mnt/new/old/workspace/.git; echo EVIL > .git/hooks/a'""",
    "open_tree": """perl -e 'my ($w, $t, $none) = ("/workspace", "/mnt/t", ""); mkdir $t;
        my $tree = syscall(428, -100, $w, 1); exit if $tree < 0; syscall(429, $tree, $none, -100, $t, 4);'
        echo EVIL > /mnt/t/.git/hooks/a
        perl -e 'my ($w, $u, $h, $none) = ("/workspace", "/mnt/u", ".git/hooks", ""); mkdir $u;
        my $tree = syscall(428, -100, $w, 1 | 0x8000); my $a = pack("QQQQ", 0, 1, 0, 0);
        syscall(442, $tree, $h, 0, $a, 32); syscall(442, $tree, $none, 0x9000, $a, 32);
        syscall(429, $tree, $none, -100, $u, 4)'; echo EVIL > /mnt/u/.git/hooks/a""",
    "mount_setattr": """perl -e 'for my $p (".git/hooks", ".git/config", ".git", "") { for my $r (0, 0x8000) {
        my $a = pack("QQQQ", 0, 1 | 2 | 4, 0, 0); syscall(442, -100, "/workspace/$p", $r, $a, 32) } }'
        echo EVIL > .git/hooks/a; echo EVIL >> .git/config""",
    "devices": """mknod null c 1 3; mknod disk b 254 0; mknod zero c 1 5; mknod pipe p; mknod .git/null c 1 3
        mknod /tmp/disk b 254 0; cat /tmp/disk > disk2; cp -a /dev/null .""",
    "file handles": """perl -e 'my $h = pack("IIx128", 128, 0); my $m = pack("i", 0); my $p = "/workspace/.git/hooks";
        syscall(303, -100, $p, $h, $m, 0);
        opendir(my $d, "/workspace"); my $fd = syscall(304, fileno($d), $h, 0200000 | 0);
        exit if $fd < 0; chdir "/proc/self/fd/$fd"; open(my $o, ">", "evil"); print $o "EVIL"; '""",
    "chown to root": """echo x > r; chown 0:0 r; cp /bin/sh sh; chown 0:0 sh; chmod 6755 sh
        mkdir d; chown 0:0 d; chmod 6777 d
        chown 0:0 README; chown -R 0:0 src; chmod u+s src/main.c; chown -h 0:0 .""",
    "forge the mark": """mkdir .mine; perl -e 'my ($f, $n, $v) = (".mine", "trusted.clincus.placeholder", "1");
        syscall(188, $f, $n, $v, 1, 0)'; rmdir .husky .clincus.toml""",
}


@pytest.fixture
def box(bed):
    with new_box(bed) as made:
        yield made


def assert_host_unharmed(box, before):
    after = snapshot(box.root, PROTECTED)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == set()
    assert list(planted(box.root)) == []
    assert EVIL not in (box.root / ".git/config").read_text()


def attack(box, name, scripts, user):
    """Run attacks one after another, each in a shell of its own, and look at the host then."""
    before = snapshot(box.root, PROTECTED)
    # What each one prints on its own is not read: it may be anything.
    steps = (f"cd /workspace && echo begun; (\n{script}\n) </dev/null >/dev/null" for script in scripts)
    done = box.run(name, "\n".join((*steps, "echo the end")), user)
    expected = b"begun\n" * len(scripts) + b"the end\n"
    assert (done.stdout, done.code) == (expected, 0), f"the attack itself is broken: {done}"
    assert_host_unharmed(box, before)


def attack_again_and_again(box, scripts, users):
    """Attack as each of the users in turn; and as root with what is left, after a restart that puts the stage anew."""
    name = box.launch()
    assert snapshot(box.root, PROTECTED).keys() >= {".git/config", ".git/hooks", ".vscode/settings.json"}
    for user in users:
        attack(box, name, scripts, user)
    box.reboot_from_inside(name)
    attack(box, name, scripts, 0)


def in_rows(attacks):
    """The attacks ten at a time; the first ten are of each day."""
    names = list(attacks)
    rows = [names[at : at + 10] for at in range(0, len(names), 10)]
    marks = [[pytest.mark.day], *[()] * len(rows)]
    return [
        pytest.param([attacks[name] for name in row], id=f"{row[0]} … {row[-1]}", marks=mark)
        for row, mark in zip(rows, marks)
    ]


@pytest.mark.parametrize("row", in_rows(BOTH))
def test_neither_the_code_user_nor_root_can_one_after_another(box, row):
    attack_again_and_again(box, row, (CODE, 0))


@pytest.mark.parametrize("row", in_rows(ROOT))
def test_root_in_the_container_cannot_one_after_another(box, row):
    attack_again_and_again(box, row, (0,))


# -- Each attack is one: what it does where no wall is

# What has no effect on the host where no wall is, and why.
NONE_WITHOUT_A_WALL = {
    "file handles": "LXC's own list refuses open_by_handle_at",
    "devices": "the kernel refuses devices to a user namespace",
    "forge the mark": "trusted.* needs the host's root",
    "a setuid copy": "of root only where Incus shifts ids: test_protection_life has that",
    "chown to root": "of root only where Incus shifts ids: test_protection_life has that",
}


def refill(root, template):
    """Give a workspace the content of another folder again, whatever was left in it."""
    for entry in root.iterdir():
        subprocess.run(["rm", "-rf", "--", str(entry)], check=True)
    subprocess.run(["cp", "-a", f"{template}/.", f"{root}/"], check=True)


def has_effect(box, template, name, script, user):
    """Whether an attack changes what is protected, or leaves what a container must never leave."""
    refill(box.root, template)
    before = snapshot(box.root, PROTECTED)
    # A mount namespace of its own, so that one attack does not take the workspace from the next.
    apart = ["unshare", "--mount", "--propagation", "private"] if user == 0 else []
    whole = f"cd /workspace || exit 99\n(\n{script.replace('EVIL', EVIL)}\n) </dev/null >/dev/null 2>&1\n:"
    done = box.incus.exec(name, [*apart, "sh"], stdin=whole.encode(), user=user, timeout=DEADLINE)
    assert done.code == 0, (script, done)
    return snapshot(box.root, PROTECTED) != before or bool(list(planted(box.root)))


def test_each_attack_is_one_where_no_wall_is(box, tmp_path):
    template = tmp_path / "template"
    make_repository(template)
    name = box.launch(box.protection("off"))
    attacks = [*((what, script, (CODE, 0)) for what, script in BOTH.items()), *((*one, (0,)) for one in ROOT.items())]
    harmless = {
        what
        for what, script, users in attacks
        if not any(has_effect(box, template, name, script, user) for user in users)
    }
    assert harmless == NONE_WITHOUT_A_WALL.keys()


# -- A lease on a file, at which the person's git waits for 45 s, as often as the agent likes

# Each one makes the file $TRIED then, and goes on.
LEASES = {
    "fcntl": """perl -e 'open(my $f, "+<", ".git/HEAD"); fcntl($f, 1024, 1);
        open(my $t, ">", $ENV{TRIED}); sleep 300'""",
    "fcntl with high bits": """perl -e 'open(my $f, "+<", ".git/HEAD");
        syscall(72, fileno($f), 1024 | 1 << 32, 1); open(my $t, ">", $ENV{TRIED}); sleep 300'""",
    "fcntl64 of 32-bit programs": "exec 3<>.git/HEAD; /tmp/fcntl64-32",
    "fcntl of x32 programs": "exec 3<>.git/HEAD; /tmp/fcntl-x32",
}
F_SETLEASE, F_WRLCK = 1024, 1
GO_ON = ': >"$TRIED"; exec sleep 300'
LEASING = {
    "/tmp/fcntl64-32": program([(call_32, 221, (3, F_SETLEASE, F_WRLCK))], GO_ON),
    "/tmp/fcntl-x32": program([(call_64, X32 | 72, (3, F_SETLEASE, F_WRLCK))], GO_ON),
}


def is_leased(path):
    """Whether a program of the host would wait for a file."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return True
    return False


def take_leases(box, name, user):
    """The ways by which a container has a lease on the HEAD of its workspace."""
    for path, data in LEASING.items():
        box.incus.exec(name, ["sh", "-c", f"cat >{path}; chmod 755 {path}"], stdin=data)
    taken = set()
    for number, (how, script) in enumerate(LEASES.items()):
        # A program that the kernel ends makes no file.
        whole = f"{{ {script}; : >$TRIED; }} & until [ -e $TRIED ]; do sleep 0.05; done"
        box.run(name, f"export TRIED=/tmp/tried-{number}; ({whole}) </dev/null >/dev/null 2>&1", user)
        taken |= {how} if is_leased(box.root / ".git/HEAD") else set()
        box.run(name, "pkill -KILL -x 'perl|sleep'; pkill -KILL -f fcntl; :", 0)
        wait_until(lambda: not is_leased(box.root / ".git/HEAD"), "the lease to be gone")
    return taken


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64")
@pytest.mark.parametrize("user", [CODE, 0], ids=["code", "root"])
def test_no_lease_has_the_persons_git_wait(box, user):
    assert take_leases(box, box.launch(), user) == set()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64")
def test_leases_are_to_be_had_where_no_call_is_denied(box):
    protection = box.protection()
    allowed = {key: value for key, value in protection.config.items() if key != "security.syscalls.deny"}
    taken = take_leases(box, box.launch(protection._replace(config=allowed)), CODE)
    assert {"fcntl", "fcntl with high bits", "fcntl64 of 32-bit programs"} <= taken
