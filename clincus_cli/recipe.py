"""The recipe of an image: packages, tools, files, and the commands that make it. build.py carries it out."""

from __future__ import annotations

import email
import hashlib
import io
import os
import re
import shlex
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import clincus
from clincus_cli.host import Host
from clincus_features.network.outside import has_user, in_both_cases, proxy_settings, without_user

IMAGE_PACKAGES = tuple(re.sub("#.*", "", clincus.packaged_text("guest/image/packages.txt")).split())
# The package of each tool's native binary on npm, which needs no node, and the path of the program in it. Packages are
# one for each platform: {cpu} is npm's word for the processor, x64 or arm64.
TOOL_PACKAGES = {name: tool.package for name, tool in clincus.TOOLS.items()}

WORK_FOLDER = "/tmp/clincus-build"  # of a build, in the new system
INIT = "/usr/local/sbin/clincus-init"


@dataclass(frozen=True)
class ImageFile:
    """A file that goes into an image as it is."""

    path: str  # absolute, in the image
    data: bytes
    mode: int = 0o644

    @classmethod
    def packaged(cls, path: str, name: str, mode: int = 0o755) -> ImageFile:
        """A program of guest/image, under its path in the image."""
        return cls(path, clincus.packaged_text(f"guest/image/{name}").encode(), mode)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a built image holds."""

    distribution: str = "debian"  # ID of os-release: debian or ubuntu
    suite: str = "trixie"  # code name of the release
    packages: tuple[str, ...] = IMAGE_PACKAGES
    tools: tuple[str, ...] = tuple(TOOL_PACKAGES)  # names, or NAME@VERSION as npm understands it
    files: tuple[ImageFile, ...] = ()  # of this host: certificates, proxy settings
    mirrors: tuple[str, ...] = ()  # lines of sources.list(5); the release's public ones when empty
    user: str = "code"
    uid: int = 1000
    cpu: str = "x64"  # npm's word for the processor
    base: str = ""  # the image that it is made out of, which keeps its init; "" for one made of packages alone

    def contents(self, npmrc: bytes = b"") -> tuple[list[ImageFile], list[list[str]]]:
        """The files that come into a system first, and the commands that root runs there last, to make it this image.

        The packages are installed in between. `npmrc` is the user's npm configuration. It may be secret, so it is
        no part of the image: it goes with the folder of the build.
        """
        files = [
            *self.files,
            ImageFile.packaged("/etc/tmux.conf", "tmux.conf", 0o644),
            ImageFile("/etc/default/locale", b"LANG=C.UTF-8\n"),
            ImageFile.packaged(f"{WORK_FOLDER}/provision.sh", "provision.sh"),
        ]
        commands = [["sh", f"{WORK_FOLDER}/provision.sh", self.user, str(self.uid)]]
        if not self.base:
            files.append(ImageFile.packaged(INIT, "init.sh"))
            files.append(ImageFile.packaged("/usr/local/sbin/clincus-dhcp", "dhcp.sh"))
            commands[0].append(INIT)
        if self.tools:
            files.append(ImageFile.packaged(f"{WORK_FOLDER}/fetch-tools.sh", "fetch-tools.sh"))
            commands.append(["sh", f"{WORK_FOLDER}/fetch-tools.sh", *self.tool_arguments()])
        if npmrc and self.tools:
            files.append(ImageFile(f"{WORK_FOLDER}/npmrc", npmrc, 0o600))
        return files, [*commands, ["rm", "-rf", WORK_FOLDER]]

    def tool_arguments(self) -> Iterator[str]:
        """The arguments of fetch-tools.sh: name, package with its version, and program of each tool."""
        for wish in self.tools:
            name, _, version = wish.partition("@")
            package, program = TOOL_PACKAGES[name]
            yield from (name, f"{package.format(cpu=self.cpu)}@{version or 'latest'}", program)

    def key(self) -> str:
        """16 hex digits that change whenever anything that goes into the image does."""
        files, commands = self.contents()
        everything = (self.distribution, self.suite, self.mirrors, [files, self.packages, *commands])
        return hashlib.sha256(self.base.encode() + repr(everything).encode()).hexdigest()[:16]


def pack_image_files(files: Iterable[ImageFile]) -> bytes:
    """A tar archive of the files, owned by root, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size = len(file.data)
            entry.mode = file.mode
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


def parse_tools(text: str) -> tuple[str, ...]:
    """Check a list such as "claude,opencode@1.2.3"; "none" is no tool. Raises ClincusError (400)."""
    wishes = [] if text.strip() == "none" else [part.strip() for part in text.split(",") if part.strip()]
    for wish in wishes:
        name, at, version = wish.partition("@")
        if name not in TOOL_PACKAGES:
            known = ", ".join(TOOL_PACKAGES)
            raise clincus.ClincusError(f"unknown tool '{name}'; the image can hold {known}, or none", 400)
        if at and not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+-]*", version):
            raise clincus.ClincusError(f"'{wish}' names no version; write NAME@VERSION, such as {name}@1.2.3", 400)
    return tuple(dict.fromkeys(wishes))


# -- What the image takes over from this host


def host_mirrors(sources: Iterable[str], suite: str) -> tuple[str, ...]:
    """The package sources of this host that the image of the same release uses too, as lines of sources.list(5).

    `sources` are the texts of apt's source files, in either format. A line is taken if it brings binary packages of
    the release, its updates or its security fixes from a mirror: no files or discs of this machine.
    """
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    lines: list[str] = []
    for text in sources:
        for uri, name, components, key in parse_sources(text):
            if name in wanted and uri.partition("://")[0] in ("http", "https", "mirror+http", "mirror+https"):
                options = f"[signed-by={key}] " if key.startswith("/") else ""
                lines.append(f"deb {options}{uri} {name} {components}")
    return tuple(dict.fromkeys(lines))


def parse_sources(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (URI, suite, components, key) from a sources file in one-line or deb822 format (sources.list(5))."""
    if not re.search(r"^Types:", text, re.MULTILINE | re.IGNORECASE):
        for options, uri, suite, components in re.findall(
            r"^[ \t]*deb[ \t]+(?:\[([^\]\n]*)\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+([^#\n]+)", text, re.MULTILINE
        ):
            key = re.search(r"signed-by=(\S+)", options)
            yield uri, suite, components.strip(), key.group(1) if key else ""
        return
    for paragraph in re.split(r"\n\s*\n", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        # deb822(5) has the form of an e-mail's header.
        fields = email.message_from_string(paragraph.strip())
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").strip().lower() != "no":
            components = " ".join(fields.get("Components", "").split())
            for uri in fields.get("URIs", "").split():
                for suite in fields.get("Suites", "").split():
                    yield uri, suite, components, fields.get("Signed-By", "").strip()


def host_files(host: Host, environ: Mapping[str, str]) -> tuple[ImageFile, ...]:
    """The files of this host that let a company's network work in the image: certificates and proxy settings.

    No file holds the user and password of a proxy: images are copied to other hosts.
    """
    files = []
    settings = proxy_settings(environ)
    variables = in_both_cases({name: without_user(value) for name, value in settings.items()})
    store = host.path("/usr/local/share/ca-certificates")
    for certificate in sorted(store.glob("**/*.crt")):
        name = certificate.relative_to(store).as_posix().replace("/", "-")
        with suppress(OSError):
            files.append(ImageFile(f"/usr/local/share/ca-certificates/{name}", certificate.read_bytes()))
    if files:
        # Programs of node and Python bring certificates of their own unless told otherwise.
        bundle = "/etc/ssl/certs/ca-certificates.crt"
        variables.update(dict.fromkeys(("NODE_EXTRA_CA_CERTS", "PIP_CERT", "REQUESTS_CA_BUNDLE"), bundle))
    if variables:
        # The variables of a session's programs stay: the proxy of its list of names, or one with a password.
        lines = (
            f'[ -n "${{{name}:-}}" ] || export {name}={shlex.quote(variables[name])}\n' for name in sorted(variables)
        )
        files.append(ImageFile("/etc/profile.d/clincus.sh", "".join(lines).encode()))
        plain = "".join(f"{name}={value}\n" for name, value in sorted(variables.items()) if "\n" not in value)
        files.append(ImageFile("/etc/environment", plain.encode()))
    for scheme in ("http", "https"):
        proxy = settings.get(f"{scheme}_proxy", "")
        # apt goes by the variable, which has the password, only if no file of its own names a proxy.
        if proxy and '"' not in proxy and not has_user(proxy):
            line = f'Acquire::{scheme}::Proxy "{proxy}";\n'
            files.append(ImageFile(f"/etc/apt/apt.conf.d/90clincus-{scheme}-proxy", line.encode()))
    return tuple(files)


OTHER_SOURCE = "images:debian/13"  # the base of the image if no packages for it are at hand


def image_source(host: Host) -> str:
    """The source of the standard image: the host's packages where that works, else another image."""
    release = host.release()
    has_packages = release.get("ID") in ("debian", "ubuntu") and release.get("VERSION_CODENAME")
    return "host" if has_packages else OTHER_SOURCE


def host_recipe(
    host: Host, environ: Mapping[str, str], *, tools: tuple[str, ...], user: str, uid: int, source: str = "host"
) -> Recipe:
    """The standard image of this host: with its certificates and proxy, and its own release and mirrors.

    With another `source` it is made out of that image. Raises ClincusError where the host's packages would be needed,
    and it is neither Debian nor Ubuntu.
    """
    cpu = {"aarch64": "arm64"}.get(os.uname().machine, "x64")
    recipe = Recipe(tools=tools, files=host_files(host, environ), user=user, uid=uid, cpu=cpu)
    if source != "host":
        return replace(recipe, base=source)
    release = host.release()
    if image_source(host) != "host":
        raise clincus.ClincusError(
            f"an image can be built from packages on Debian and Ubuntu only, and this is "
            f"'{release.get('PRETTY_NAME', 'an unknown system')}'; use `clincus build --from IMAGE`, "
            f"such as --from {OTHER_SOURCE}"
        )
    suite = release["VERSION_CODENAME"]
    folder = host.path("/etc/apt/sources.list.d")
    names = ["/etc/apt/sources.list", *(f"/etc/apt/sources.list.d/{path.name}" for path in sorted(folder.glob("*")))]
    mirrors = host_mirrors((host.read(name) for name in names if name.endswith((".list", ".sources"))), suite)
    return replace(recipe, distribution=release["ID"], suite=suite, mirrors=mirrors)
