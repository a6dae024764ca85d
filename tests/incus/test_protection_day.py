"""A normal day's work in a locked session on a mounted folder: what runs as before, and what does not.

The container sees the host's /usr, for programs that its image lacks: the test's image is of the same distribution.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import new_workspace
from tests.incus_bed import Bed
from tests.programs import git

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shows a folder of the host in a container")

HOST = "/opt/host"
LIBRARIES = f"{HOST}/lib/{sysconfig.get_config_var('MULTIARCH')}"
PATHS = ":".join([LIBRARIES, f"{LIBRARIES}/nss", f"{LIBRARIES}/pulseaudio"])
NODE_MODULES = "/usr/share/nodejs"  # from which the node of Debian reads parts of itself, by this path
CHROMIUMS = ("/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium")  # without Debian's scripts
GIT = """
git config --global user.name a && git config --global user.email a@b
echo 1 >one && git add -A && git commit -qm one && git switch -qc side && echo 2 >one && git commit -qam two
git switch -q - && git merge -q side && git stash list && echo 3 >one && git stash -q && git stash pop -q
git commit -qam three && git tag v1 && git rebase -q HEAD~1 && git worktree add -q ../worktree && git worktree list
git gc -q && git fsck && git log --format=%s
"""
PACKAGE = '{"name": "demo", "version": "1.0.0", "bin": "say.js"}'
NPM = f"""
mkdir -p demo && echo '{PACKAGE}' >demo/package.json && echo 'console.log("said by npm")' >demo/say.js
node="{HOST}/bin/node" && $node NPM_CLI install --offline --install-links --no-audit ./demo
$node node_modules/demo/say.js
"""
CHROMIUM = """
echo '<p>said by Chromium</p>' >page.html
BROWSER --headless --disable-gpu --remote-debugging-port=0 file:///workspace/page.html >browser.log 2>&1 &
browser=$! own=$(readlink /proc/self/ns/user) theirs=
until [ -n "$theirs" ] && [ "$theirs" != "$own" ]; do
    sleep 0.1
    kill -0 $browser || { cat browser.log; exit 9; }
    theirs=$(readlink "/proc/$(pgrep --newest --full "[t]ype=renderer")/ns/user") || theirs=
done
kill $browser
wait $browser || true
BROWSER --headless --disable-gpu --dump-dom file:///workspace/page.html 2>>browser.log
"""
APT = "apt-get install -qq ./demo.deb </dev/null && said-by-apt"


@pytest.fixture(scope="module")
def session(bed: Bed, start_shared: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A locked session on a repository, with what the cases need in it."""
    folder = new_workspace(tmp_path_factory.mktemp("day") / "project")
    git(folder, "init", "-q")
    package = folder / "package"
    (package / "DEBIAN").mkdir(parents=True)
    control = "Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a demo\n"
    (package / "DEBIAN" / "control").write_text(control)
    program = package / "usr/bin/said-by-apt"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho said by apt\n")
    program.chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", package, folder / "demo.deb"], check=True, capture_output=True)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 1000, 1000)
    made = start_shared().create(folder)
    assert made["protection"] == "locked"
    shown = {"host": ("/usr", HOST)}
    if os.path.isdir(NODE_MODULES):
        shown["modules"] = (NODE_MODULES, NODE_MODULES)
    for device, (source, path) in shown.items():
        place = [f"source={source}", f"path={path}", "readonly=true"]
        bed.incus.run("config", "device", "add", made["id"], device, "disk", *place)
    with bed.keeping(made["id"]):
        yield made["id"]


def program(name: str) -> str:
    """Where the container sees a program of the host."""
    found = shutil.which(name)
    assert found, f"{name} is not installed"
    return os.path.realpath(found).replace("/usr/", f"{HOST}/", 1)


@pytest.mark.parametrize(
    ("script", "said", "user"),
    [
        pytest.param(GIT, "three\ntwo\none", 1000, id="git"),
        pytest.param(NPM, "said by npm", 1000, id="npm"),
        pytest.param(APT, "said by apt", 0, id="apt"),
        pytest.param(CHROMIUM, "<p>said by Chromium</p>", 1000, id="Chromium in a sandbox of its own"),
    ],
)
def test_a_days_work_goes_as_without_the_wall(bed, session, script, said, user):
    if sys.base_prefix != "/usr":
        pytest.skip("the Python that runs the tests is not the distribution's")
    browser = program(next(one for one in CHROMIUMS if os.path.exists(one)))
    script = script.replace("NPM_CLI", program("npm")).replace("BROWSER", browser)
    exports = f"cd /workspace && export LD_LIBRARY_PATH={PATHS} HOME=/home/code" if user else "cd /workspace"
    assert said in bed.shell(session, f"set -e; {exports}\n{script}", user)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("unshare --user --map-root-user --mount true", "Operation not permitted"),
        (f"LD_LIBRARY_PATH={PATHS} {HOST}/bin/bwrap --ro-bind / / true", "No permissions to create a new namespace"),
    ],
)
def test_nested_containers_do_not_run_and_their_words_stand_in_the_documents(bed, session, command, words):
    done = bed.incus.exec(session, ["sh", "-c", command], user=1000)
    assert done.code != 0
    assert words in done.stderr.decode()
