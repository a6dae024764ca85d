"""`clincus setup` and image building on a real Incus: what is made, that it is made once, and images out of images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import clincus
from clincus_cli import build as cli_build
from clincus_cli import host as cli_host
from clincus_cli import recipe as cli_recipe
from clincus_cli import setup as cli_setup
from clincus_features import health as cli_health
from tests.programs import ROOT


def build_context(bed, said):
    """What a build works with."""
    return cli_build.BuildContext(bed.incus, cli_host.Host(), said.append, "clincus-")


@pytest.fixture
def context(bed):
    """The same for one test."""
    return build_context(bed, [])


@pytest.fixture
def new_images(bed):
    """Removes the images that a test made."""
    before = set(bed.incus.query("/1.0/images"))
    yield
    for path in set(bed.incus.query("/1.0/images")) - before:
        bed.incus.query(path, "DELETE", wait=True)


def setup(bed, **options):
    """What setup would do on the bed."""
    chosen = cli_build.SetupOptions(project=bed.incus.project, bridge=bed.bridge, **options)
    planned = cli_setup.Setup(chosen, cli_host.Host(), bed.incus, print).plan()
    planned.pop("git", "")  # is up to whoever runs the tests
    return planned


def run_clincus(bed, home, *arguments):
    """Run the command line as a person does."""
    environ = {**os.environ, **bed.environ, "HOME": str(home)}
    return subprocess.run(
        [sys.executable, ROOT / "clincus.py", *arguments], env=environ, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.day
def test_a_second_setup_has_nothing_to_do_and_an_uninstall_lists_what_it_made(bed, home):
    assert setup(bed) == {}
    assert list(setup(bed, image="another")) == ["image"]
    done = run_clincus(bed, home, "setup")
    assert (done.returncode, "Clincus is ready" in done.stderr) == (0, True)
    assert "left undone, as nobody could be asked: have git use a bare repository only" in done.stderr
    assert run_clincus(bed, home, "setup", "--yes").returncode == 0
    assert "bareRepository = explicit" in (home / ".gitconfig").read_text()
    assert run_clincus(bed, home, "setup", "--dry-run").stdout == ""
    report = cli_health.health_report(clincus.load_config({"HOME": str(home)}), bed.incus, {"HOME": str(home)})
    made = ("incus", "permissions", "image", "network_bridge", "id_mapping", "incus_storage_pool")
    assert {name: report["checks"][name]["status"] for name in made} == dict.fromkeys(made, "ok")
    listed = run_clincus(bed, home, "uninstall", "--dry-run").stdout
    for words in ("image delete clincus", f"network delete {bed.bridge}", "storage delete default"):
        assert f"  $ incus {words}\n" in listed


@pytest.fixture
def bare(bed, home):
    """A home whose configuration names a project that is not there."""
    (home / ".config" / "clincus" / "config.toml").write_text('[incus]\nproject = "bare"\n')
    yield home
    bed.incus.query("/1.0/projects/bare", "DELETE")


def test_one_setup_waits_for_the_other(bed, bare):
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: run_clincus(bed, bare, "setup", "--yes"), range(4)))
    assert [one.returncode for one in done] == [0] * 4, [one.stderr for one in done]
    assert sum("create the Incus project" in one.stderr for one in done) == 1
    assert any("Another `clincus setup` runs" in one.stderr for one in done)


def test_a_build_has_the_password_of_a_proxy_and_its_image_has_not(bed, context, new_images, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://ann:word-of-the-proxy@192.0.2.1:3128")
    files = cli_recipe.host_files(cli_host.Host(), os.environ)
    assert b"192.0.2.1:3128" in cli_recipe.pack_image_files(files)
    with cli_build.build_container(context, "clincus") as container:
        commands = [["sh", "-c", "echo $HTTP_PROXY | wc -c >/made"], ["apt-get", "clean"]]
        cli_build.fill_container(context, container, files, commands, context.say)
        cli_build.publish(context, container, "behind-a-proxy", {})
    image = bed.incus.query("/1.0/images?recursion=1")
    (version,) = [one["name"] for each in image for one in each["aliases"] if one["name"].startswith("behind-")]
    bed.incus.launch("clincus-x", version, {})
    assert bed.shell("clincus-x", "cat /made").strip() == str(len(os.environ["http_proxy"]) + 1)
    assert "http://192.0.2.1:3128" in bed.shell("clincus-x", "sh -lc 'echo $http_proxy'")
    find = "grep -rlsF word-of-the-proxy / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev || true"
    assert bed.shell("clincus-x", find, 0) == ""


SCRIPT = b"#!/bin/bash\necho made by $(id -un) >/made; echo first\necho ${BASH_VERSINFO:+in bash}\n"


def test_a_custom_image_holds_what_its_script_made_and_older_ones_go(bed, home, tmp_path, new_images):
    said: list[str] = []
    context = build_context(bed, said)
    built = [cli_build.build_custom(context, "custom", SCRIPT, base="clincus", force=True) for _ in range(4)]
    assert said[-5:-3] == ["first", "in bash"]
    bed.incus.launch("clincus-x", "custom", {})
    assert bed.shell("clincus-x", "cat /made; ls /tmp") == "made by root\n"
    left = {image["fingerprint"] for image in bed.ask("/1.0/images?recursion=1")}
    assert left & {one.fingerprint for one in built} == {one.fingerprint for one in built[1:]}
    (tmp_path / "script").write_text("touch /second")
    done = run_clincus(bed, home, "build", "custom", "custom", "--script", str(tmp_path / "script"))
    assert json.loads(done.stdout) == {"alias": "custom", "skipped": True}
    bed.delete_all()
    with pytest.raises(clincus.ClincusError, match="no such luck"):
        cli_build.build_custom(context, "other", b"echo no such luck >&2; exit 3", base="clincus", force=False)
    assert {image["fingerprint"] for image in bed.ask("/1.0/images?recursion=1")} == left
    assert bed.names() == []
    with pytest.raises(clincus.ClincusError, match="clincus build"):
        cli_build.build_custom(context, "other", b"true", base="nothing", force=False)
