"""A workspace with containers around it, for the tests of the wall, and how to look at it from the host."""

import contextlib
import functools
import hashlib
import os
import platform
import secrets
import select
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

import clincus
from tests.incus_bed import stopping
from tests.programs import DEADLINE, wait_until

OWNER = 12345  # a host user that exists nowhere: the owner of the workspace
CODE = 1000
REBOOT = {"x86_64": 169, "aarch64": 142}[platform.machine()]  # the number of reboot(2)
EVIL = "evil-was-here"

# The host's git reads its configuration, hooks and filters from these, an editor its tasks, clincus its config.
PROTECTED = (
    ".clincus.toml",
    ".git/commondir",
    ".git/config",
    ".git/config.worktree",
    ".git/hooks",
    ".git/info/attributes",
    ".git/modules/lib/config",
    ".git/modules/lib/hooks",
    ".husky",
    ".vscode",
    "ci/deploy",
)


def snapshot(root, paths):
    """Everything about the given paths on the host that an attacker could want to change."""
    found = {}
    for path in paths:
        top = root / path
        below = [] if top.is_symlink() else sorted(top.rglob("*"))  # a link that was planted may lead anywhere
        for entry in [top, *below] if top.exists() or top.is_symlink() else []:
            about = entry.lstat()
            data = hashlib.sha256(entry.read_bytes()).hexdigest() if stat.S_ISREG(about.st_mode) else ""
            found[str(entry.relative_to(root))] = (about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns, data)
    return found


def planted(root):
    """What a container must never be able to leave on the host."""
    for entry in root.rglob("*"):
        about = entry.lstat()
        if about.st_uid == 0 or about.st_gid == 0:
            yield f"{entry} belongs to root"
        if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
            yield f"{entry} is a device"


def make_repository(root):
    """A workspace with all that Git, an editor and a submodule have there, owned by OWNER."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-C", str(root)]
    root.mkdir()
    subprocess.run([*git, "init", "-q"], check=True)
    for path, text in {
        "README": "hello\n",
        "src/main.c": "int main;\n",
        ".vscode/settings.json": "{}\n",
        "ci/deploy/run.sh": "true\n",
        ".git/modules/lib/HEAD": "ref: refs/heads/main\n",
        ".git/modules/lib/config": "[core]\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    for entry in [root, *root.rglob("*")]:
        os.chown(entry, OWNER, OWNER, follow_symlinks=False)


def git_as_owner(root, *arguments):
    """Run git on the host as the owner of a workspace, who may be no user of this machine."""
    become = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups"]
    environment = {"HOME": "/nonexistent", "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    command = [*become, "git", "-C", str(root), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE)


@functools.lru_cache(maxsize=1)
def support_of(incus):
    return clincus.protect.protection_support(incus)


PATHS = (".git/hooks", ".git/config", ".husky", ".vscode", "ci/deploy")


class Box:
    """A workspace on the host and the containers that have it."""

    def __init__(self, incus, root, image="clincus"):
        self.incus = incus
        self.root = root
        self.image = image
        self.support = support_of(incus)
        self.made = []  # the names of our stages: others' sessions may run beside the tests
        self.last = ""  # the name of the newest container

    def protection(
        self, level="locked", extra=(), workspace=None, paths=PATHS, code_uid=1000, *, is_clone=False, nesting=False
    ):
        """The wall of a new container: locked, basic (as on a host that cannot do better, or for nesting), or off."""
        support = self.support
        if level == "basic" and not nesting:
            support = support._replace(reason="asked for by the test", takes_hooks=True)
        flags = {"security.protected_paths": paths, "security.disable_protection": level == "off"}
        if nesting:
            flags["security.nesting"] = True
        settings = clincus.with_flags(clincus.make_config(()), {**flags, "incus.code_uid": code_uid})
        workspace = workspace or clincus.protect.workspace_folder(str(self.root), "/workspace", settings, extra=extra)
        self.made.append(secrets.token_hex(8))
        made = clincus.protect.protect_workspace(workspace, settings, support, extra, self.made[-1], is_clone=is_clone)
        assert made.level == level
        return made

    def launch(self, protection=None, **config):
        """A new running container; its name."""
        protection = protection or self.protection()
        self.last = name = f"wall-{secrets.token_hex(3)}"
        description = {"config": {**protection.config, **config}, "devices": protection.devices}
        self.incus.launch(name, self.image, description)
        return name

    def run(self, name, script, user=CODE):
        """Run a shell script in the workspace; a step that is refused does not end it."""
        script = f"cd /workspace || exit 99\n{script.replace('EVIL', EVIL)}\n"
        options = {"user": user, "environment": {"HOME": "/tmp"}, "timeout": DEADLINE}
        return self.incus.exec(name, ["sh"], stdin=script.encode(), **options)

    def hand_over(self, name):
        """Give what root made in the workspace to the code user, as a stop does."""
        program = clincus.packaged_text("guest/hand-over.sh")
        assert self.incus.exec(name, ["sh", "-c", program, "clincus", "/workspace", str(CODE)]).code == 0

    def stages(self):
        """Our stages that are there now: mounted, or as a folder."""
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        mounted = {os.path.basename(point) for point in points if os.path.dirname(point) == clincus.protect.STAGES}
        return [name for name in self.made if name in mounted or os.path.exists(f"{clincus.protect.STAGES}/{name}")]

    def await_stages(self, count=0):
        """Wait until so many stages are there: LXC runs the hook after a stop when Incus has said "stopped"."""
        wait_until(lambda: len(self.stages()) == count, lambda: f"{count} stages; there are {self.stages()}")

    def stop(self, name):
        with stopping():
            self.incus.run("stop", "--force", name)

    def start(self, name):
        self.incus.run("start", name)

    def restart(self, name):
        with stopping():
            self.incus.run("restart", "--force", name)
            return
        self.start(name)

    def delete(self, name):
        with stopping():
            self.incus.run("delete", "--force", name)
            return
        self.incus.run("delete", name)

    def monitor_of(self, name):
        """The pid of the process that LXC runs beside a container to watch over it."""
        init = self.incus.query(f"/1.0/instances/{name}/state")["pid"]
        with open(f"/proc/{init}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])

    def reboot_from_inside(self, name):
        """Have the guest restart itself (reboot(2), LINUX_REBOOT_CMD_RESTART), and wait until Incus says it did."""
        with self.incus.monitor() as monitor:
            # The monitor does not tell when it listens: an event of our own does.
            mark = ("config", "set", name)  # to another value each time, or it might be no change
            await_event(monitor, "instance-updated", lambda: self.incus.run(*mark, f"user.mark={secrets.token_hex(3)}"))
            script = f"syscall({REBOOT}, 0xfee1dead, 0x28121969, 0x1234567, 0)"
            await_event(monitor, "instance-restarted", lambda: self.incus.exec(name, ["perl", "-e", script]), once=True)


def await_event(monitor, action, cause, once=False):
    """Cause a lifecycle event and wait until the monitor shows it; cause it again now and then unless `once`."""
    seen = b""
    with contextlib.suppress(clincus.IncusError):
        cause()
    deadline = time.monotonic() + DEADLINE
    while action.encode() not in seen:
        assert time.monotonic() < deadline, f"waited in vain for {action}"
        if select.select([monitor.stdout], [], [], 0.5)[0]:
            seen += os.read(monitor.stdout.fileno(), 65536)
        elif not once:
            cause()


@contextlib.contextmanager
def new_box(bed):
    """A workspace that belongs to OWNER, where OWNER can reach it, and the bed's Incus around it."""
    if os.geteuid() != 0:
        pytest.skip("needs root on the host, to give the workspace to another user and to look at what is left")
    with tempfile.TemporaryDirectory(prefix="clincus-wall-") as folder:
        os.chmod(folder, 0o711)
        make_repository(Path(folder) / "work")
        box = Box(bed.incus, Path(folder) / "work")
        yield box
        for name in set(bed.names()) - bed.kept:
            box.delete(name)
        box.await_stages()


@contextlib.contextmanager
def kept_container(bed, box, protection=None):
    """A container of a box that stays until the end of the block, for several tests; its name."""
    name = box.launch(protection)
    with bed.keeping(name):
        yield name
