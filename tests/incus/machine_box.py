"""A machine of its own for a test: a container in which systemd is PID 1, with an Incus of its own inside.

The test machine itself may have no systemd. The image is made once, in about 20 seconds, and kept as that of all the
tests is.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import build_zipapp
import clincus
from clincus_cli import build as cli_build
from clincus_cli import host as cli_host
from clincus_cli import recipe as cli_recipe
from clincus_cli.relay import children_of
from tests.incus_bed import Bed, image_cache, one_at_a_time, stub_recipe
from tests.programs import DEADLINE, wait_until

PACKAGES = (
    "btrfs-progs", "curl", "dbus-user-session", "dnsmasq-base", "incus-base", "incus-client", "libpam-systemd",
    "mmdebstrap", "python3", "systemd-sysv", "udev", "zstd",
)  # fmt: skip
PROGRAM = "/home/code/clincus.pyz"

# An Incus in a container needs control groups as one tree: those of a machine with the old kind cannot be handed on.
INIT = "lxc.init.cmd = /usr/lib/systemd/systemd systemd.unified_cgroup_hierarchy=1"

# Prints the status of an answer and its body. $1 is the URL, $2 a body to POST, $3 a token.
ASK = """
import sys, urllib.error, urllib.request
url, body, token = sys.argv[1:4]
headers = {"Content-Type": "application/json", **({"Authorization": "Bearer " + token} if token else {})}
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, body.encode() or None, headers), timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""


@functools.lru_cache
def archive() -> bytes:
    """The program as people get it."""
    return build_zipapp.build()


@contextlib.contextmanager
def systemd_image(bed: Bed) -> Iterator[str]:
    """The image of the machine."""
    stub = stub_recipe()
    recipe = cli_recipe.Recipe(
        stub.distribution, stub.suite, packages=(*stub.packages, *PACKAGES), tools=(), files=stub.files,
        mirrors=stub.mirrors,
    )  # fmt: skip
    with one_at_a_time("systemd"):
        context = cli_build.BuildContext(bed.incus, cli_host.Host(), lambda text: print(f"image: {text}"), "clincus-")
        built = cli_build.build_from_host(context, recipe, "systemd", cache=image_cache())
    yield built.alias
    bed.incus.query(f"/1.0/images/{built.fingerprint}", "DELETE", wait=True)


class Machine:
    """A machine with systemd, and the person `code` on it, who may use sudo."""

    def __init__(self, bed, image, *, name="machine", privileged=False):
        self.incus, self.name = bed.incus, name
        config = {
            "raw.lxc": INIT, "security.nesting": "true", "security.privileged": str(privileged).lower(),
            "boot.autostart": "false",
        }  # fmt: skip
        self.incus.launch(self.name, image, {"config": config})
        self.wait_for_boot()
        self.root("hostname localhost; loginctl enable-linger code")
        self.wait_for_user_manager()
        self.push(PROGRAM, archive(), 0o755)

    def wait_for_boot(self):
        """systemd has started what it starts."""
        wait_until(
            lambda: self.incus.exec(self.name, ["test", "-S", "/run/systemd/private"]).code == 0, "systemd as PID 1"
        )
        state = self.run(["systemctl", "is-system-running", "--wait"], user=0).stdout.strip()
        assert state == "running", self.root("systemctl list-units --failed --no-pager")

    def wait_for_user_manager(self):
        """The person's systemd has started."""
        wait_until(lambda: self.incus.exec(self.name, ["test", "-S", "/run/user/1000/bus"]).code == 0, "a user manager")

    def run(self, command, *, user=1000, environ=None, timeout=DEADLINE):
        """Run a command, as `code` in a login of theirs unless told otherwise; how it ended, with texts."""
        home = {"HOME": "/home/code", "USER": "code", "LANG": "C.UTF-8", "XDG_RUNTIME_DIR": "/run/user/1000"}
        try:
            done = self.incus.exec(
                self.name, command, user=user, environment={**(home if user == 1000 else {}), **(environ or {})},
                cwd="/home/code", timeout=timeout,
            )  # fmt: skip
        except clincus.IncusError as error:
            raise AssertionError("\n".join([f"{command}: {error}", *self.processes()])) from error
        return subprocess.CompletedProcess(
            command, done.code, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    def processes(self):
        """Lines of what runs in it and waits for what, seen from outside: it may answer nothing."""
        init = self.incus.query(self.incus.path(self.name, "/state"))["pid"]
        for folder in (Path(f"/proc/{pid}") for pid in (init, *children_of(init))):
            with contextlib.suppress(OSError):
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                words = (folder / "cmdline").read_text().replace("\0", " ")
                yield f"{folder.name} {state} {(folder / 'wchan').read_text()} {words[:200]}"

    def root(self, script):
        """Run a shell script as root; its output."""
        done = self.run(["sh", "-euc", script], user=0)
        assert done.returncode == 0, f"{script!r} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def clincus(self, *words, program=PROGRAM, **options):
        """Run Clincus as `code`."""
        return self.run([program, *words], **options)

    def service(self, action, *words, **options):
        """Run `clincus service ACTION`, which has to succeed; what it said."""
        done = self.clincus("service", action, *words, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def status(self):
        """The document of `clincus service status`."""
        return json.loads(self.clincus("service", "status", "--format", "json").stdout)

    def ask(self, path, *, port=3000, body=None, token="", user=1000):
        """The dashboard's answer: its status and what it says."""
        text = "" if body is None else json.dumps(body)
        done = self.run(["python3", "-c", ASK, f"http://127.0.0.1:{port}{path}", text, token], user=user)
        status, _, words = done.stdout.partition(" ")
        assert status.isdigit(), done.stderr
        return int(status), words

    def push(self, path, data, mode):
        """Write a file that belongs to `code`."""
        script = 'umask 077; mkdir -p "$(dirname "$1")"; cat >"$1"; chmod "$2" "$1"'
        done = self.incus.exec(self.name, ["sh", "-c", script, "sh", path, f"{mode:o}"], user=1000, stdin=data)
        assert done.code == 0, done.reason

    def import_image(self):
        """Give its Incus the image of the sessions: to build one takes a network, and the bed has seen it."""
        self.push("/home/code/rootfs", (image_cache() / f"image-{stub_recipe().key()}.tar.zst").read_bytes(), 0o644)
        self.push("/home/code/metadata", cli_build.image_metadata(stub_recipe(), {}, int(time.time())), 0o644)
        self.root("incus image import --quiet /home/code/metadata /home/code/rootfs --alias=clincus </dev/null")
