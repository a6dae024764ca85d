"""`clincus setup` and image building on a real Incus: what is made, that it is made once, and images out of images."""

from __future__ import annotations

import dataclasses
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
from tests.incus_bed import stub_recipe
from tests.programs import ROOT, git


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
class TestSetup:
    def test_a_second_run_has_nothing_to_do(self, bed):
        assert setup(bed) == {}

    def test_a_missing_image_is_all_that_is_made(self, bed):
        assert list(setup(bed, image="another")) == ["image"]

    def test_a_profile_that_lost_its_network_gets_the_bridge_that_is_there(self, bed):
        device = bed.incus.query("/1.0/profiles/default")["devices"]["eth0"]
        bed.incus.run("profile", "device", "remove", "default", "eth0")
        try:
            assert setup(bed) == {"network": f"connect sessions to the bridge '{bed.bridge}' (default profile)"}
        finally:
            words = [f"{key}={value}" for key, value in device.items() if key != "type"]
            bed.incus.run("profile", "device", "add", "default", "eth0", "nic", *words)

    def test_a_profile_that_somebodys_instances_use_stays_without_network(self, bed):
        device = bed.incus.query("/1.0/profiles/default")["devices"]["eth0"]
        bed.incus.run("profile", "device", "remove", "default", "eth0")
        try:
            bed.incus.run("create", "--quiet", "clincus", "theirs")
            assert setup(bed) == {}
        finally:
            words = [f"{key}={value}" for key, value in device.items() if key != "type"]
            bed.incus.run("profile", "device", "add", "default", "eth0", "nic", *words)

    def test_the_command_says_that_all_is_ready(self, bed, home):
        done = run_clincus(bed, home, "setup")
        assert done.returncode == 0
        assert "Clincus is ready" in done.stderr
        assert "left undone, as nobody could be asked: have git use a bare repository only" in done.stderr

    def test_the_command_sets_what_git_looks_for_once_a_person_agrees(self, bed, home):
        home.mkdir(exist_ok=True)
        assert run_clincus(bed, home, "setup", "--yes").returncode == 0
        assert "bareRepository = explicit" in (home / ".gitconfig").read_text()
        assert run_clincus(bed, home, "setup", "--dry-run").stdout == ""


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


class TestCustomImage:
    """Each build packs an image, which takes seconds: the tests share one."""

    SCRIPT = b"#!/bin/bash\necho made by $(id -un) >/made; echo first\necho ${BASH_VERSINFO:+in bash}\n"

    @pytest.fixture(scope="class")
    @classmethod
    def built(cls, bed):
        """The image `custom`, and what its build said."""
        said: list[str] = []
        built = cli_build.build_custom(build_context(bed, said), "custom", cls.SCRIPT, base="clincus", force=False)
        yield built, said
        bed.incus.query(f"/1.0/images/{built.fingerprint}", "DELETE", wait=True)

    def test_holds_what_the_script_made_and_remembers_its_base(self, bed, built):
        bed.incus.launch("clincus-x", "custom", {})
        assert bed.shell("clincus-x", "cat /made; ls /tmp") == "made by root\n"
        assert bed.incus.query(f"/1.0/images/{built[0].fingerprint}")["properties"]["clincus.user"] == "code"

    def test_a_script_with_an_interpreter_of_its_own(self, built):
        assert built[1][-5:-3] == ["first", "in bash"]

    def test_a_script_that_fails_leaves_neither_image_nor_container(self, bed, context):
        before = set(bed.incus.query("/1.0/images"))
        with pytest.raises(clincus.ClincusError, match="no such luck"):
            cli_build.build_custom(context, "other", b"echo no such luck >&2; exit 3", base="clincus", force=False)
        assert set(bed.incus.query("/1.0/images")) == before
        assert bed.names() == []

    def test_is_left_alone_unless_forced(self, bed, home, tmp_path, built, new_images):
        script = tmp_path / "script"
        script.write_text("touch /second")
        command = ("build", "custom", "custom", "--script", str(script))
        done = run_clincus(bed, home, *command)
        assert json.loads(done.stdout) == {"alias": "custom", "skipped": True}
        done = run_clincus(bed, home, *command, "--force")
        assert done.returncode == 0, done.stderr
        second = json.loads(done.stdout)
        assert set(second) == {"alias", "skipped", "fingerprint", "version"}
        assert second["fingerprint"] != built[0].fingerprint
        cli_build.point_alias(bed.incus, "custom", built[0].fingerprint)

    def test_unknown_base_is_refused_with_what_to_do(self, context):
        with pytest.raises(clincus.ClincusError, match="clincus build") as caught:
            cli_build.build_custom(context, "other", b"true", base="nothing", force=False)
        assert caught.value.status == 404

    def test_missing_script_is_named(self, bed, home):
        done = run_clincus(bed, home, "build", "custom", "custom", "--script", "/no/script")
        assert done.returncode == 1
        assert "build script not found: '/no/script'" in done.stderr


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


class TestVersions:
    def test_the_alias_moves_on_and_two_older_builds_stay(self, bed, context, monkeypatch, new_images):
        times = iter(range(1_800_000_000, 1_800_000_100))
        monkeypatch.setattr(clincus.time, "time", lambda: float(next(times)))
        built = [
            cli_build.build_custom(context, "v", f"echo {number} >/n".encode(), base="clincus", force=True)
            for number in range(4)
        ]
        images = {built_one.fingerprint: built_one.version for built_one in built}
        left = {image["fingerprint"] for image in bed.incus.query("/1.0/images?recursion=1")} & set(images)
        assert left == {one.fingerprint for one in built[1:]}
        assert cli_build.image_fingerprint(bed.incus, "v") == built[-1].fingerprint

    def test_an_image_with_another_name_is_not_pruned(self, bed, tmp_path, new_images):
        metadata, files = tmp_path / "metadata.tar", tmp_path / "rootfs.tar"
        metadata.write_bytes(cli_build.image_metadata(stub_recipe(), {}, 1))
        files.write_bytes(cli_recipe.pack_image_files([cli_recipe.ImageFile("/it", b"1")]))
        bed.incus.run("image", "import", str(metadata), str(files), "--alias=w-20270301-080000")
        cli_build.point_alias(bed.incus, "mine", cli_build.image_fingerprint(bed.incus, "w-20270301-080000"))
        assert cli_build.prune_versions(bed.incus, "w", 1) == []
        bed.incus.query("/1.0/images/aliases/mine", "DELETE")
        assert cli_build.prune_versions(bed.incus, "w", 1) == ["w-20270301-080000"]


def test_standard_image_from_another_image_has_user_packages_and_tools(bed, context, new_images):
    """The other image is our own here: it has apt, and no network is needed when all packages are there."""
    recipe = dataclasses.replace(stub_recipe(), base="clincus", packages=("tmux", "git"), user="code")
    built = cli_build.build_from_image(context, recipe, "derived")
    bed.incus.launch("clincus-x", "derived", {})
    assert bed.shell("clincus-x", "id -un; sudo -n id -un; claude --version").split()[:2] == ["code", "root"]
    properties = bed.incus.query(f"/1.0/images/{built.fingerprint}")["properties"]
    assert properties["clincus.recipe"] == recipe.key()


@pytest.mark.day
def test_image_that_is_there_is_kept_and_an_older_recipe_is_named(bed, context):
    options = cli_build.SetupOptions(recipe=stub_recipe())
    assert cli_build.build_standard(context, options, os.environ).notes == ()
    other = dataclasses.replace(options, recipe=cli_recipe.Recipe())
    built = cli_build.build_standard(context, other, os.environ)
    assert built.skipped
    assert "of another recipe" in built.notes[0]


@pytest.mark.day
def test_health_of_the_bed_fails_nothing_that_setup_made(bed, home):
    report = cli_health.health_report(clincus.load_config({"HOME": str(home)}), bed.incus, {"HOME": str(home)})
    made = ("incus", "permissions", "image", "network_bridge", "id_mapping", "incus_storage_pool")
    assert {name: report["checks"][name]["status"] for name in made} == dict.fromkeys(made, "ok")


def test_workspace_of_the_tests_is_a_repository(workspace):
    assert git(workspace, "status", "--porcelain") == ""


def test_what_setup_made_is_what_an_uninstall_lists(bed, home):
    done = run_clincus(bed, home, "uninstall", "--dry-run")
    assert done.returncode == 0, done.stderr
    for words in ("image delete clincus", f"network delete {bed.bridge}", "storage delete default"):
        assert f"  $ incus {words}\n" in done.stdout
    assert f"rm -r {home}/.config/clincus" in done.stdout
