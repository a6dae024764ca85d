"""The wall through the life of its containers: what it leaves usable, what it survives, and what is left of it."""

import contextlib
import os
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from wall_box import CODE, OWNER, kept_container, new_box, planted

import clincus
from clincus_cli.sessions import clean_stages
from tests.programs import wait_until
from wall import hook

PLACEHOLDERS = (".clincus.toml", ".husky", ".git/commondir", ".git/config.worktree", ".git/info/attributes")


@pytest.fixture
def box(bed):
    with new_box(bed) as made:
        yield made


@pytest.fixture(scope="module")
def shared(bed):
    """A box and its container, for tests that each have files of their own in the workspace."""
    with new_box(bed) as box, kept_container(bed, box) as name:
        yield box, name


@pytest.fixture(scope="module")
def stopped(bed):
    """A box and its container, which does not run: tests try to start it, and leave the workspace as it was."""
    with new_box(bed) as box:
        (box.root.parent / "inner").mkdir()
        box.root = box.root.rename(box.root.parent / "inner" / "work")
        with kept_container(bed, box) as name:
            box.stop(name)
            assert_nothing_is_left(box)
            yield box, name


def give(path, uid, gid):
    """Give all of a folder to an owner and a group."""
    for entry in [path, *path.rglob("*")]:
        os.chown(entry, uid, gid, follow_symlinks=False)


def new_folder(box, name):
    """A folder of the workspace for one test, with a file in it; both belong to the workspace's owner and group."""
    folder = box.root / name
    folder.mkdir()
    (folder / "README").write_text("hello\n")
    about = box.root.stat()
    give(folder, about.st_uid, about.st_gid)
    return folder


def placeholders(box):
    return {path for path in PLACEHOLDERS if os.path.lexists(box.root / path)}


def assert_nothing_is_left(box):
    """Every mount, folder and placeholder is gone, soon: LXC runs the last hook after Incus says "stopped"."""
    box.await_stages()
    wait_until(lambda: not placeholders(box), lambda: f"the placeholders to be gone: {placeholders(box)}")


def reason_of(box, name):
    """What a person reads about a container that did not start."""
    failure = clincus.protect.start_failure(box.incus, name, clincus.IncusError("what Incus says", 500))
    assert (failure.status, isinstance(failure, clincus.protect.WallUnsupportedError)) == (409, False)
    return failure.message


def refused_start(box, protection):
    """What a person reads when a new container must not start."""
    with pytest.raises(clincus.IncusError):
        box.launch(protection)
    return reason_of(box, box.last)


def refused_restart(stopped):
    """What a person reads when the container must not start any more; nothing is left of the attempt."""
    box, name = stopped
    with pytest.raises(clincus.IncusError):
        box.start(name)
    box.await_stages()
    return reason_of(box, name)


@contextlib.contextmanager
def replaced_by_link(path, target):
    """Put a symlink in the place of a path, and put the path back at the end."""
    aside = path.with_name("aside")
    was_there = os.path.lexists(path)
    if was_there:
        path.rename(aside)
    path.symlink_to(target)
    try:
        yield aside
    finally:
        path.unlink()
        if was_there:
            aside.rename(path)


def host_git(box, *arguments):
    """Git as the workspace's owner would run it on the host."""
    return subprocess.run(
        ["git", "-C", str(box.root), *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, user=OWNER, group=OWNER, extra_groups=[],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere"},
    )  # fmt: skip


# What goes on working


def test_git_works_in_the_container(box):
    name = box.launch()
    script = """set -e
        export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        [ -z "$(git status --porcelain)" ]
        echo two > two; git add two; git commit -qm two
        git branch topic; git checkout -q topic; git switch -q -c other; echo three > three; git add .
        git commit -qm three
        echo changed > README; git stash -q; git stash pop -q; git stash -q -u; git stash pop -q
        git clean -q -fd; git checkout -q README
        git checkout -q main; echo four > four; git add .; git commit -qm four
        git rebase -q main other; git checkout -q main; git merge -q --no-edit other; git tag v1; git branch -q -d topic
        git reset -q --hard HEAD~1; git reflog -q > /dev/null; git gc -q; git fsck
        git worktree add -q /tmp/tree v1; git worktree remove /tmp/tree; git log --oneline | wc -l"""
    done = box.run(name, script)
    assert (done.code, done.stdout.split()[-1:]) == (0, [b"3"]), done
    assert list(planted(box.root)) == []


def test_files_belong_to_the_owner_and_those_of_root_to_nobody_on_the_host(shared):
    box, name = shared
    box.run(name, "echo a > by-code; sudo true; mkdir -p folder; echo b > folder/by-code")
    box.run(name, "echo a > by-root; cp /bin/true setuid; chmod 6755 setuid", user=0)
    owners = {path: (box.root / path).stat().st_uid for path in ("by-code", "folder/by-code", "by-root", "setuid")}
    base = owners.pop("setuid")
    assert owners == {"by-code": OWNER, "folder/by-code": OWNER, "by-root": base}
    assert base >= 65536


def test_what_root_in_the_container_made_can_be_handed_to_the_owner(shared):
    box, name = shared
    (box.root / "of-another").touch()
    box.run(name, "mkdir d; cp /bin/true d/setuid; chmod 6755 d/setuid; ln -s /etc/shadow d/link; touch d/x", user=0)
    box.hand_over(name)
    owners = {path.name: path.lstat().st_uid for path in [box.root / "d", *(box.root / "d").iterdir()]}
    assert owners == dict.fromkeys(("d", "setuid", "link", "x"), OWNER)
    assert stat.S_IMODE((box.root / "d/setuid").stat().st_mode) == 0o755
    assert (box.root / "of-another").stat().st_uid == 0


def test_the_stage_is_no_way_around_the_folders_above_the_workspace(shared):
    box, _ = shared
    stage = f"{clincus.protect.STAGES}/{box.stages()[0]}"
    assert stat.S_IMODE(os.stat(stage).st_mode) == 0o710
    done = subprocess.run(
        ["cat", f"{stage}/0/README"], stdin=subprocess.DEVNULL, capture_output=True, check=False, user=OWNER,
        group=OWNER, extra_groups=[],
    )  # fmt: skip
    assert done.returncode != 0


# Placeholders


def test_absent_paths_exist_for_the_session_and_git_on_the_host_does_not_see_them(shared):
    box, _ = shared
    assert placeholders(box) == set(PLACEHOLDERS)
    assert {(box.root / path).stat().st_uid for path in PLACEHOLDERS} == {OWNER}
    status = host_git(box, "status", "--porcelain", "--", *PLACEHOLDERS)
    assert (status.returncode, status.stdout) == (0, "")
    assert host_git(box, "log", "--oneline").returncode == 0


def test_a_placeholder_that_the_owner_fills_stays(box):
    name = box.launch()
    (box.root / ".husky/pre-commit").write_text("true\n")
    box.stop(name)
    wait_until(lambda: placeholders(box) == {".husky"}, "the others to be gone")
    box.start(name)
    os.chown(box.root / ".husky/pre-commit", OWNER, OWNER)
    assert b"Read-only" in box.run(name, "echo x >> .husky/pre-commit").stderr
    box.delete(name)
    box.await_stages()
    assert os.listdir(box.root / ".husky") == ["pre-commit"]


def test_two_sessions_share_a_workspace_and_the_last_one_tidies_up(box):
    first, second = box.launch(), box.launch()
    box.delete(first)
    box.await_stages(1)
    assert placeholders(box) == set(PLACEHOLDERS)
    done = box.run(
        second, "echo x > .husky/a; rmdir .husky; echo x > .git/commondir; echo x > .git/hooks/a; ls -A .husky", 0
    )
    assert done.stdout == b".gitignore\n"
    assert (box.root / ".git/commondir").read_text() == ".\n"
    box.delete(second)
    assert_nothing_is_left(box)


def test_a_folder_that_is_no_repository_cannot_become_one_behind_the_owners_back(box):
    subprocess.run(["rm", "-rf", str(box.root / ".git")], check=True)
    name = box.launch()
    assert box.run(name, "git init -q .; mkdir -p .git/hooks; echo x > .git/hooks/a").code != 0
    assert os.listdir(box.root / ".git") == []
    assert host_git(box, "init", "-q").returncode == 0
    assert b"Read-only" in box.run(name, "echo x > .git/hooks/a").stderr
    box.delete(name)
    box.await_stages()
    assert (box.root / ".git/HEAD").exists()


def test_a_git_file_is_protected_as_a_file(box):
    subprocess.run(["rm", "-rf", str(box.root / ".git")], check=True)
    (box.root / ".git").write_text("gitdir: /elsewhere\n")
    name = box.launch()
    box.run(
        name, "echo 'gitdir: evil' > .git; rm -f .git; mv .git x; umount -l .git; echo 'gitdir: evil' > .git", user=0
    )
    assert (box.root / ".git").read_text() == "gitdir: /elsewhere\n"


def test_sessions_of_one_workspace_come_and_go_at_once(box):
    def live(_):
        name = box.launch()
        answer = box.run(
            name, "echo x > .husky/a; echo x > .git/hooks/a; umount -l .git/hooks; mv .git g; echo x > .git/hooks/a", 0
        )
        box.delete(name)
        return answer.stderr.count(b"Read-only")

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(live, range(4))) == [3] * 4
    assert_nothing_is_left(box)


# Refusals


@pytest.mark.day
def test_a_start_refuses_a_symlink_and_a_stop_leaves_nothing(box, tmp_path):
    name = box.launch()
    box.stop(name)
    assert_nothing_is_left(box)
    for path in (".git", ".git/hooks", "ci"):
        with replaced_by_link(box.root / path, tmp_path):
            words = refused_restart((box, name))
        assert f"'{path}" in words
        assert "symlink" in words
        assert_nothing_is_left(box)
    box.start(name)
    assert b"Read-only" in box.run(name, "umount -l .git/hooks; echo x > .git/hooks/a", user=0).stderr
    box.restart(name)
    assert b"Read-only" in box.run(name, "umount -l .git/hooks; echo x > .git/hooks/a", user=0).stderr
    box.delete(name)
    assert_nothing_is_left(box)


def test_a_symlink_on_the_way_to_the_workspace_is_refused(stopped):
    root = stopped[0].root
    with replaced_by_link(root, root.with_name("aside")):
        os.chown(root, OWNER, OWNER, follow_symlinks=False)
        assert "there is a symlink in" in refused_restart(stopped)


def test_a_workspace_that_changed_hands_is_refused(stopped):
    root = stopped[0].root
    os.chown(root, 0, 0)
    assert f"made for uid {OWNER}" in refused_restart(stopped)
    os.chown(root, OWNER, OWNER)


def test_a_workspace_that_root_in_the_container_took_is_given_back(box):
    name = box.launch()
    box.run(name, "chown 0:0 .", user=0)
    assert box.root.stat().st_uid != OWNER
    box.stop(name)
    box.start(name)
    assert box.root.stat().st_uid == OWNER


def test_a_copy_of_a_running_session_is_refused_until_that_one_stops(box):
    name = box.launch()
    box.incus.run("copy", name, f"{name}-copy", timeout=120)
    with pytest.raises(clincus.IncusError):
        box.start(f"{name}-copy")
    assert "copy" in reason_of(box, f"{name}-copy")
    assert b"Read-only" in box.run(name, "echo x > .git/hooks/a").stderr
    box.stop(name)
    box.start(f"{name}-copy")
    assert b"Read-only" in box.run(f"{name}-copy", "echo x > .git/hooks/a").stderr


def test_a_file_system_that_cannot_be_locked_is_told_from_a_workspace_that_must_not(box):
    pid = os.getpid()
    protection = box.protection(workspace=clincus.protect.HostFolder(f"/proc/{pid}/task", "/workspace", uid=0, gid=0))
    with pytest.raises(clincus.IncusError) as caught:
        box.launch(protection)
    assert isinstance(
        clincus.protect.start_failure(box.incus, box.last, caught.value), clincus.protect.WallUnsupportedError
    )


def test_a_privileged_container_is_refused(box):
    protection = box.protection()
    protection.config["security.privileged"] = "true"
    assert "privileged" in refused_start(box, protection)


# What it survives


def kill_container(box, name):
    """End a container as a crash of the machine would: no hook runs."""
    monitor = box.monitor_of(name)
    init = box.incus.query(f"/1.0/instances/{name}/state")["pid"]
    os.kill(monitor, signal.SIGKILL)
    end_init(init)


def end_init(init):
    """End a container by its first process, and wait until all of it is gone."""
    with contextlib.suppress(ProcessLookupError):  # it may go with its monitor
        os.kill(init, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{init}"), "the container to be gone")


def test_a_container_whose_monitor_was_killed_starts_again(box):
    name = box.launch()
    kill_container(box, name)
    wait_until(lambda: box.incus.query(f"/1.0/instances/{name}")["status"] == "Stopped", "Incus to see it")
    box.start(name)
    assert b"Read-only" in box.run(name, "echo x > .git/hooks/a").stderr
    box.delete(name)
    assert_nothing_is_left(box)


def test_what_a_killed_monitor_left_is_swept_by_cleaning(box):
    name = box.launch()
    other = box.launch()
    kill_container(box, name)
    box.delete(name)
    clean_stages()
    assert box.stages() == [box.made[1]]
    assert b"Read-only" in box.run(other, "echo x > .husky/a").stderr


def test_a_container_that_outlives_its_monitor_keeps_its_wall(box):
    name = box.launch()
    init = box.incus.query(f"/1.0/instances/{name}/state")["pid"]
    os.kill(box.monitor_of(name), signal.SIGKILL)
    clean_stages()
    assert box.stages() == [name for name in box.made if hook.Stage(name).is_in_use()]
    end_init(init)  # Incus takes it for stopped, and would delete a root file system that is in use
    box.delete(name)
    clean_stages()  # nobody is left to run the hook
    assert_nothing_is_left(box)


# Extra mounts


def extra(path, target, owner=OWNER, readonly=False):
    os.chown(path, owner, owner)
    return clincus.protect.host_folder(str(path), target, readonly)


def test_an_extra_mount_gets_no_setuid_and_device_files_and_the_same_owner(box, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "note").write_text("hello\n")
    folders = [extra(tmp_path / "data", "/data"), extra(tmp_path / "note", "/etc/note", readonly=True)]
    name = box.launch(box.protection(extra=folders))
    assert box.run(name, "echo x > /data/by-code; cat /etc/note; echo x > /etc/note").stdout == b"hello\n"
    box.run(name, "cp /bin/sh /data/s; chmod 6755 /data/s; mknod /data/d c 1 3; mount -o remount,bind,rw /etc/note", 0)
    assert b"Read-only" in box.run(name, "echo x > /etc/note", 0).stderr
    assert (tmp_path / "data/by-code").stat().st_uid == OWNER
    assert list(planted(tmp_path / "data")) == []
    assert b"nosuid,nodev" in box.run(name, "grep ' /data ' /proc/self/mountinfo").stdout


# A workspace of root


@pytest.fixture(scope="module")
def of_root(bed):
    """A box with a workspace of root, and its container; each test has a folder of its own in it."""
    with new_box(bed) as box:
        give(box.root, 0, 0)
        with kept_container(bed, box) as name:
            yield box, name


# chmod, fchmod, fchmodat, fchmodat2, creat, open, openat, mknod, mknodat with a mode of 04755 (x86_64).
SETUID = """chmod 4755 README; install -m 4755 /bin/true s1; cp /bin/true s2; chmod u+s s2; umask 0
perl -e '
    my ($readme, $here, @new) = ("README", ".", map { "s$_" } 3 .. 8);
    syscall(90, $readme, 04755); open(my $f, "<", $readme); syscall(91, fileno($f), 04755);
    syscall(268, -100, $readme, 04755); syscall(452, -100, $readme, 04755, 0); syscall(85, $new[0], 04755);
    syscall(2, $new[1], 65, 04755); syscall(257, -100, $new[2], 65, 04755); syscall(133, $new[3], 0104755, 0);
    syscall(259, -100, $new[4], 0104755, 0); syscall(257, -100, $here, 020200002, 04755);
    my ($how, $ring) = (pack("QQQ", 65, 04755, 0), "\\0" x 120);
    syscall(437, -100, $new[5], $how, 24); syscall(425, 8, $ring)'
"""


def modes_after(shared, folder, user, script):
    """Run a script in a folder of the workspace; the modes that its files have on the host then."""
    done = shared[0].run(shared[1], f"cd {folder.name} || exit 99; {script} echo the end", user)
    assert done.stdout.endswith(b"the end\n")
    return {path.name: path.stat().st_mode for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("user", [0, CODE])
def test_nobody_can_leave_a_setuid_file_in_a_workspace_of_root(of_root, user):
    folder = new_folder(of_root[0], f"setuid-by-{user}")
    modes = modes_after(of_root, folder, user, f"echo changed > README; echo x > new; {SETUID}")
    assert modes.keys() >= {"README", "new", "s2"}
    assert not [path for path, mode in modes.items() if mode & (stat.S_ISUID | stat.S_ISGID)]


# setxattr, lsetxattr, fsetxattr and setxattrat (x86_64) with capabilities that hold for one root user: the root of the
# container, the code user, or that of a namespace of the code user's own.
CAPABILITIES = """cat >/tmp/give.pl <<'END'
for my $root (0, 1000) {
    my ($name, $value) = ("security.capability", pack("L6", 0x03000001, 0xc2, 0, 0, 0, $root));
    for my $file (@ARGV) {
        syscall(188, $file, $name, $value, 24, 0); syscall(189, $file, $name, $value, 24, 0);
        open(my $f, "<", $file); syscall(190, fileno($f), $name, $value, 24, 0);
        syscall(463, -100, $file, 0, $name, pack("PLL", $value, 24, 0), 16);
    }
}
END
cp /bin/true own; cp /bin/true in-namespace
perl /tmp/give.pl own README; setcap cap_setuid+ep own; setcap -n 1000 cap_setuid+ep own
unshare -Ur perl /tmp/give.pl in-namespace README; rm /tmp/give.pl
"""


@pytest.mark.parametrize("user", [0, CODE])
def test_nobody_can_leave_a_file_with_capabilities_in_a_workspace_of_root(of_root, user):
    """The kernel shows root's files as those of the code user, and takes that one's capabilities for root's."""
    folder = new_folder(of_root[0], f"capable-by-{user}")
    modes_after(of_root, folder, user, f"echo changed > README; {CAPABILITIES}")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"README", "own", "in-namespace"}
    assert [path.name for path in files if "security.capability" in os.listxattr(path)] == []


# A group that the owner is not in


def test_files_get_the_group_of_the_workspace_and_nobody_can_leave_a_setgid_one(box):
    group = 2077
    give(box.root, OWNER, group)
    name = box.launch()
    assert box.run(name, "echo x > new; mkdir d; stat -c %g .").stdout == b"%d\n" % CODE
    box.run(name, "echo x > by-root", user=0)
    box.hand_over(name)
    made = [(box.root / path).stat() for path in ("new", "d", "by-root")]
    assert {(about.st_uid, about.st_gid) for about in made} == {(OWNER, group)}
    folder = new_folder(box, "setgid")
    modes = modes_after((box, name), folder, CODE, SETUID.replace("4755", "2755").replace("u+s", "g+s"))
    assert modes.keys() >= {"README", "s2"}
    assert not [path for path, mode in modes.items() if mode & stat.S_ISGID]


# The plain form


def test_plain_devices_hold_against_renames_and_unmounting(box):
    name = box.launch(box.protection("basic"))
    before = (box.root / ".git/config").read_bytes()
    done = box.run(
        name,
        """mv .git g; mv .git/hooks h; echo x > .git/hooks/a; umount .git/hooks; umount -l .git/hooks
        mkdir -p /mnt/w; mount --bind /workspace /mnt/w; echo x > /mnt/w/.git/hooks/b
        mount --move /workspace/.git/hooks /mnt/w; unshare -m umount -l .git/hooks
        mount -o remount,bind,rw .git/config; echo x >> .git/config; echo x > .git/hooks/c; echo the end""",
        0,
    )
    assert done.stdout.endswith(b"the end\n")
    assert (box.root / ".git/config").read_bytes() == before
    assert not {"a", "b", "c"} & set(os.listdir(box.root / ".git/hooks"))
    assert not [path for path in box.root.rglob("*") if path.stat().st_mode & stat.S_ISUID and path.stat().st_uid == 0]
