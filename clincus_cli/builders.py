"""Where a recipe is carried out: on this host by mmdebstrap, or in a container of another image."""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import clincus
from clincus_cli.host import Host, Say
from clincus_cli.recipe import Builder, ImageFile, Recipe, pack_image_files, proxy_settings

# What a build prints when a stage begins, and what the user is told. The first ones are mmdebstrap's.
BUILD_STAGES = (
    ("I: running apt-get update", "reading the package lists"),
    ("I: downloading packages", "downloading the base system"),
    ("I: extracting archives", "unpacking the base system"),
    ("I: installing essential", "installing the base system"),
    ("I: installing remaining", "installing packages"),
    ("I: cleaning package lists", "cleaning up"),
    ("I: creating tarball", "packing the image"),
    ("clincus: fetching ", "fetching {rest}"),
)
BUILD_TIME = 3600.0  # seconds that one program of a build may take
BUILD_EPOCH = "1577836800"  # files get this time at the latest (2020-01-01): the same packages give the same bytes


@dataclass
class BuildOutput:
    """Reads the output of a build line by line: tells the user the stages, and notes what fetch-tools.sh reports."""

    say: Say
    versions: dict[str, str] = field(default_factory=dict)  # tool -> version that was fetched
    missing: dict[str, str] = field(default_factory=dict)  # tool -> why it could not be

    def on_line(self, line: str) -> None:
        """Take in one line."""
        word, _, rest = line.removeprefix("clincus: ").partition(" ")
        name, _, text = rest.partition(" ")
        if line.startswith("clincus: ") and word == "tool":
            self.versions[name] = text or "unknown"
        elif line.startswith("clincus: ") and word == "missing":
            self.missing[name] = text or "no reason was given"
        for mark, words in BUILD_STAGES:
            if line.startswith(mark):
                self.say(words.format(rest=line[len(mark) :]))

    def properties(self) -> dict[str, str]:
        """The image properties that record the tools."""
        return {
            "clincus.tools": " ".join(f"{name}={version}" for name, version in sorted(self.versions.items())),
            "clincus.missing": " ".join(sorted(self.missing)),
        }

    def notes(self) -> tuple[str, ...]:
        """A sentence for each tool that could not be fetched."""
        return tuple(
            f"the image is without {name}: {reason}. `clincus build --force` tries again"
            for name, reason in sorted(self.missing.items())
        )


class HostBuilder(Builder):
    """Builds on this host by mmdebstrap(1), as root or, without root, in a user namespace (its mode "unshare").

    The steps are collected as its hooks, and `pack` runs it. It installs the packages before all other steps.
    """

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder  # for files that the steps need; nobody else may read it
        self.packages: list[str] = []
        self.hooks: list[str] = []

    def install(self, packages: Sequence[str]) -> None:
        self.packages += packages

    def add_files(self, files: Iterable[ImageFile]) -> None:
        archive = self.folder / f"files-{len(self.hooks)}.tar"
        archive.write_bytes(pack_image_files(files))
        self.hooks.append(f"tar-in {shlex.quote(str(archive))} /")

    def run(self, command: Sequence[str]) -> None:
        self.hooks.append(f'chroot "$1" {shlex.join(command)}')

    def argv(self, recipe: Recipe, target: Path) -> list[str]:
        """The command line that builds all of it into `target`."""
        argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(self.packages)}"]
        argv += ["--dpkgopt=force-unsafe-io", "--skip=output/dev", "--format=tar"]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "info", "locale")]
        if recipe.distribution == "ubuntu":
            argv.append("--components=main,universe")
        # mmdebstrap copies these from the host; each container gets its own.
        network = 'rm -f "$1"/etc/hostname; : > "$1"/etc/resolv.conf'
        argv += [f"--customize-hook={hook}" for hook in (*self.hooks, network)]
        return [*argv, recipe.suite, str(target), *recipe.mirrors]

    def pack(self, recipe: Recipe, target: Path, output: BuildOutput) -> None:
        """Build into `target`, a tar archive packed with zstd, or leave nothing behind. Raises ClincusError."""
        part = self.folder / target.name
        # mmdebstrap starts zstd(1), which reads its level and threads here: the image is unpacked only once.
        environ = {"SOURCE_DATE_EPOCH": BUILD_EPOCH, "ZSTD_CLEVEL": "1", "ZSTD_NBTHREADS": "0"}
        self.host.follow(self.argv(recipe, part), output.on_line, timeout=BUILD_TIME, env=environ)
        os.replace(part, target)


def build_rootfs(host: Host, recipe: Recipe, target: Path, output: BuildOutput, *, npmrc: bytes = b"") -> None:
    """Build the recipe's file system into `target`, a tar archive packed with zstd. Raises ClincusError."""
    with tempfile.TemporaryDirectory(prefix="clincus-build-", dir=str(target.parent)) as folder:
        builder = HostBuilder(host, Path(folder))
        recipe.build(builder, npmrc=npmrc)
        builder.pack(recipe, target, output)


INSTALL_SCRIPT = 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" && apt-get clean'

# It waits for a while only: a script that needs no network must not fail without one.
WAIT_FOR_NETWORK = "for i in $(seq 100); do grep -q '^[^ \t]*\t00000000\t' /proc/net/route && exit; sleep 0.1; done"


@dataclass(frozen=True)
class ContainerBuilder(Builder):
    """Builds in a running container, step by step."""

    incus: clincus.Incus
    host: Host
    container: str
    on_line: Say  # gets each line that a step prints

    def install(self, packages: Sequence[str]) -> None:
        self._follow(["sh", "-c", INSTALL_SCRIPT, "apt-get", *packages], "apt-get")

    def add_files(self, files: Iterable[ImageFile]) -> None:
        # By stdin, since files may be secret.
        done = self.incus.exec(self.container, ["tar", "-x", "-C", "/"], stdin=pack_image_files(files))
        if done.code != 0:
            raise clincus.ClincusError(f"could not unpack files in the build container: {done.reason}")

    def run(self, command: Sequence[str]) -> None:
        self._follow(command, next(word for word in command if word != "sh"))

    def _follow(self, command: Sequence[str], name: str) -> None:
        variables = {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **proxy_settings(os.environ)}
        argv = self.incus.exec_argv(self.container, command, environment=variables)
        self.host.follow(argv, self.on_line, timeout=BUILD_TIME, name=f"{name} in the build container")


@contextmanager
def build_container(incus: clincus.Incus, prefix: str, base: str) -> Iterator[str]:
    """The name of a running container of an image, with its network up; it is gone afterwards whatever happens."""
    name = f"{prefix}build-{secrets.token_hex(4)}"
    config = {"user.clincus.build": "true", "boot.autostart": "false"}
    try:
        incus.launch(name, base, {"config": config}, timeout=900)
        incus.exec(name, ["sh", "-c", WAIT_FOR_NETWORK], timeout=60)
        yield name
    finally:
        try:
            incus.run("delete", "--force", incus.instance(name), timeout=120)
        except clincus.IncusError as error:
            if error.status != 404:
                raise
