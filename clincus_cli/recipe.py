"""Part of the command line."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import tarfile
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import clincus
from clincus_cli.host import Host

# ---- the image: what is in it --------------------------------------------------------------------------------

IMAGE_PACKAGES = (
    # What a session itself needs.
    "bash", "busybox-static", "ca-certificates", "curl", "git", "iproute2", "less", "procps", "sudo", "tmux",
    # What people and agents expect of a place to work in.
    "build-essential", "file", "gh", "jq", "nano", "nodejs", "npm", "openssh-client", "patch", "pkg-config",
    "python3", "python3-venv", "ripgrep", "rsync", "unzip", "wget", "xz-utils", "zip",
)  # fmt: skip


@dataclass(frozen=True)
class ToolPackage:
    """Where an AI tool's native binary is found on npm: one package per platform, which runs without node."""

    package: str  # name on npm, with {cpu} for the machine: x64 or arm64
    binary: str  # path of the program inside the package


TOOL_PACKAGES = {
    "claude": ToolPackage("@anthropic-ai/claude-code-linux-{cpu}", "claude"),
    "copilot": ToolPackage("@github/copilot-linux-{cpu}", "copilot"),
    "opencode": ToolPackage("opencode-linux-{cpu}", "bin/opencode"),
}

# PID 1 of the image. Not systemd: this starts in 20 ms instead of half a second and takes 1 MB instead of 75 per
# session, boots on every host (systemd 258 and newer refuses cgroup v1), and a session needs no service manager. It
# reaps orphans, brings the network up and halts on what Incus sends: SIGPWR, or SIGRTMIN+3 for a systemd of old.
# A custom image that wants systemd installs systemd-sysv, which puts its own /sbin/init in the place of this one.
INIT = """\
#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
halt() {
  trap '' PWR TERM INT HUP
  kill -TERM -1 2>/dev/null
  tries=0
  while [ $tries -lt 20 ]; do
    set -- /proc/[0-9]*
    [ $# -le 1 ] && break
    sleep 0.05
    tries=$((tries + 1))
  done
  exit 0
}
trap halt PWR TERM INT
(trap : RTMIN+3) 2>/dev/null && trap halt RTMIN+3
if ! grep -q ' /dev/shm ' /proc/mounts; then
  mkdir -p /dev/shm
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm 2>/dev/null || chmod 1777 /dev/shm
fi
mkdir -p /run/lock
chmod 1777 /run/lock
# sudo looks its own host name up, and would wait for DNS.
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n::1 localhost\\n' "$(hostname)" >/etc/hosts
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  ip link set eth0 up
  busybox udhcpc -i eth0 -b -S -t 5 -T 1 -A 2 -s /usr/local/sbin/clincus-dhcp >/dev/null 2>&1 &
fi
while :; do
  sleep 2147483647 &
  wait $!
done
"""

DHCP = """\
#!/bin/sh
# What busybox udhcpc calls when an address comes or goes.
case "$1" in
bound | renew)
  ip addr replace "$ip/${mask:-24}" dev "$interface"
  [ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface"
  {
    for server in $dns; do echo "nameserver $server"; done
    [ -z "$domain" ] || echo "search $domain"
  } >/etc/resolv.conf
  ;;
deconfig) ip addr flush dev "$interface" ;;
esac
exit 0
"""

TMUX_CONF = """\
set -g default-terminal "tmux-256color"
set -ga terminal-features "xterm-256color:RGB:clipboard:focus:title"
set -g history-limit 50000
set -g focus-events on
set -s escape-time 0
set -g mouse on
"""

# Run once as root in the new system, on the host by chroot or in a container by exec; every line may run twice.
PROVISION = """\
#!/bin/sh
set -eu
user=@USER@ uid=@UID@
holder=$(getent passwd "$uid" | cut -d: -f1)
if [ -n "$holder" ] && [ "$holder" != "$user" ]; then
  # Ubuntu's images have a user of their own with uid 1000.
  usermod --login "$user" --home "/home/$user" --move-home "$holder"
  groupmod --new-name "$user" "$(id -gn "$user")"
elif [ -z "$holder" ]; then
  groupadd --gid "$uid" "$user"
  useradd --create-home --uid "$uid" --gid "$uid" --shell /bin/bash "$user"
fi
printf '%s ALL=(ALL) NOPASSWD:ALL\\n' "$user" >/etc/sudoers.d/clincus
chmod 0440 /etc/sudoers.d/clincus
mkdir -p /workspace
chown "$uid:$uid" /workspace
# The workspace and its mounts may belong to another id than the one who asks.
git config --system --replace-all safe.directory '*'
if ls /usr/local/share/ca-certificates/*.crt >/dev/null 2>&1; then update-ca-certificates >/dev/null 2>&1; fi
@INIT_LINK@
"""

# Fetches the tools by npm itself, which knows the user's registry, its credentials and its proxy, and checks the
# integrity of what it downloads. Fetching a package so runs none of its scripts. A tool that cannot be had does not
# fail the image: in its place comes a program that says why.
FETCH_TOOLS = """\
#!/bin/sh
set -u
cd /tmp && mkdir -p clincus-tools /opt/clincus/bin && cd clincus-tools || exit 1
export HOME=/tmp/clincus-tools npm_config_cache=/tmp/clincus-tools/cache npm_config_update_notifier=false
[ ! -e /tmp/clincus-npmrc ] || export npm_config_userconfig=/tmp/clincus-npmrc
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || {
  NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
  export NODE_EXTRA_CA_CERTS
  unset npm_config_cafile SSL_CERT_FILE SSL_CERT_DIR
}
fetch() { # NAME PACKAGE BINARY
  echo "clincus: fetching $1"
  if archive=$(npm pack --loglevel=error "$2" 2>"$1.log") && archive=$(printf '%s\\n' "$archive" | tail -1) &&
    tar -xzf "$archive" --no-same-owner "package/$3" package/package.json 2>>"$1.log"; then
    install -m 0755 "package/$3" "/opt/clincus/bin/$1"
    version=$(sed -n 's/^ *"version": *"\\([^"]*\\)".*/\\1/p' package/package.json | head -1)
    echo "clincus: tool $1 $version"
  else
    reason=$(grep -v '^npm error A complete log' "$1.log" | grep . | tail -1 | cut -c1-300)
    {
      echo '#!/bin/sh'
      echo "echo '$1 is not in this image: it could not be fetched when the image was built.' >&2"
      echo "echo 'Run clincus build --force on the host when the npm registry can be reached.' >&2"
      echo 'exit 127'
    } >"/opt/clincus/bin/$1"
    chmod 0755 "/opt/clincus/bin/$1"
    echo "clincus: missing $1 ${reason:-npm gave no reason}"
  fi
  rm -rf package ./*.tgz
  ln -sf "/opt/clincus/bin/$1" "/usr/local/bin/$1"
}
@FETCHES@
rm -rf /tmp/clincus-tools /tmp/clincus-npmrc
"""


@dataclass(frozen=True)
class ImageFile:
    """A file that goes into an image as it is."""

    path: str  # absolute, in the image
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a built image holds; the same recipe has the same key."""

    distribution: str = "debian"  # ID of os-release: debian or ubuntu
    suite: str = "trixie"  # code name of the release
    packages: tuple[str, ...] = IMAGE_PACKAGES
    tools: tuple[str, ...] = tuple(TOOL_PACKAGES)  # names, or NAME@VERSION as npm understands it
    files: tuple[ImageFile, ...] = ()  # of this host: certificates, proxy settings
    mirrors: tuple[str, ...] = ()  # lines of sources.list(5); the release's public ones when empty
    user: str = "code"
    uid: int = 1000
    cpu: str = "x64"  # npm's word for the machine

    def overlay(self) -> tuple[ImageFile, ...]:
        """All files of the image that no package brings, in a fixed order."""
        own = (
            ImageFile("/usr/local/sbin/clincus-init", INIT.encode(), 0o755),
            ImageFile("/usr/local/sbin/clincus-dhcp", DHCP.encode(), 0o755),
            ImageFile("/etc/tmux.conf", TMUX_CONF.encode()),
            ImageFile("/etc/default/locale", b"LANG=C.UTF-8\n"),
        )
        return tuple(sorted((*own, *self.files), key=lambda file: file.path))

    def provision(self, *, own_init: bool = True) -> str:
        """The script that makes a plain system an image; without `own_init` the system keeps the init it has."""
        link = "ln -sf /usr/local/sbin/clincus-init /usr/sbin/init" if own_init else ""
        return PROVISION.replace("@USER@", self.user).replace("@UID@", str(self.uid)).replace("@INIT_LINK@", link)

    def fetch_tools(self) -> str:
        """The script that fetches the tools, or nothing when there are none to fetch."""
        if not self.tools:
            return ""
        lines = []
        for wish in self.tools:
            name, _, version = wish.partition("@")
            tool = TOOL_PACKAGES[name]
            package = f"{tool.package.format(cpu=self.cpu)}@{version or 'latest'}"
            lines.append(shlex.join(["fetch", name, package, tool.binary]))
        return FETCH_TOOLS.replace("@FETCHES@", "\n".join(lines))

    def key(self) -> str:
        """16 hex digits that change whenever anything that goes into the image does."""
        digest = hashlib.sha256()
        parts = (self.distribution, self.suite, *self.packages, *self.mirrors, self.provision(), self.fetch_tools())
        for part in parts:
            digest.update(part.encode() + b"\0")
        for file in self.overlay():
            digest.update(f"{file.path} {file.mode:o} ".encode() + file.data + b"\0")
        return digest.hexdigest()[:16]


def pack_image_files(files: Iterable[ImageFile]) -> bytes:
    """A tar archive of the files, owned by root, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(file.data), file.mode
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


def host_mirrors(sources: Iterable[str], suite: str) -> tuple[str, ...]:
    """The package sources of this host that the image of the same release uses too, as lines of sources.list(5).

    `sources` are the texts of apt's source files, in either format. Taken are binary packages of the release and
    its updates and security fixes from a mirror; files and discs of this machine and other releases are left out.
    """
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    lines: list[str] = []
    for text in sources:
        for uri, name, components, key in parse_sources(text):
            if name in wanted and uri.partition("://")[0] in ("http", "https", "mirror+http", "mirror+https"):
                options = f"[signed-by={key}] " if key else ""
                lines.append(f"deb {options}{uri} {name} {components}")
    return tuple(dict.fromkeys(lines))


def parse_sources(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Each (URI, suite, components, key file) of a sources file, in one-line or deb822 format (sources.list(5))."""
    if re.search(r"^Types:", text, re.MULTILINE | re.IGNORECASE):
        yield from parse_deb822_sources(text)
        return
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if found:
            options, uri, suite, components = found.groups()
            key = re.search(r"signed-by=(/\S+)", options or "")
            yield uri, suite, components.strip(), key.group(1) if key else ""


def parse_deb822_sources(text: str) -> Iterator[tuple[str, str, str, str]]:
    """The deb822 half of parse_sources."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = {}
        for line in paragraph.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith(("#", " ", "\t")):
                fields[name.lower()] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        key = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield uri, suite, fields.get("components", ""), key if key.startswith("/") else ""


PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


def proxy_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The host's proxy variables that make sense in a container, in lower case; a proxy on loopback does not."""
    settings = {}
    for name in PROXY_VARIABLES:
        value = environ.get(name) or environ.get(name.upper()) or ""
        host = urlsplit(value if "://" in value else f"//{value}").hostname or ""
        if value and (name == "no_proxy" or not (host.startswith("127.") or host in ("localhost", "::1"))):
            settings[name] = value
    return settings if set(settings) - {"no_proxy"} else {}


def host_files(host: Host, environ: Mapping[str, str]) -> tuple[ImageFile, ...]:
    """What the image takes over from this host, so that a company's network works inside: certificates and proxy."""
    files = []
    variables = {f"{name}": value for name, value in proxy_settings(environ).items()}
    variables.update({name.upper(): value for name, value in variables.items()})
    store = host.path("/usr/local/share/ca-certificates")
    for certificate in sorted(store.glob("**/*.crt")):
        name = certificate.relative_to(store).as_posix().replace("/", "-")
        with contextlib.suppress(OSError):
            files.append(ImageFile(f"/usr/local/share/ca-certificates/{name}", certificate.read_bytes()))
    if files:
        # These bring certificates of their own unless told otherwise; the rest reads the system's.
        bundle = "/etc/ssl/certs/ca-certificates.crt"
        variables.update(dict.fromkeys(("NODE_EXTRA_CA_CERTS", "PIP_CERT", "REQUESTS_CA_BUNDLE"), bundle))
    if variables:
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
        files.append(ImageFile("/etc/profile.d/clincus.sh", exports.encode()))
        plain = "".join(f"{name}={value}\n" for name, value in sorted(variables.items()) if "\n" not in value)
        files.append(ImageFile("/etc/environment", plain.encode()))
    for scheme in ("http", "https"):
        proxy = variables.get(f"{scheme}_proxy", "")
        if proxy and '"' not in proxy:
            line = f'Acquire::{scheme}::Proxy "{proxy}";\n'
            files.append(ImageFile(f"/etc/apt/apt.conf.d/90clincus-{scheme}-proxy", line.encode()))
    return tuple(files)


def npm_cpu() -> str:
    """npm's word for this machine's processor."""
    return {"aarch64": "arm64"}.get(os.uname().machine, "x64")


OTHER_SOURCE = "images:debian/13"  # what the image is made of where no packages for it are at hand


def image_source(host: Host) -> str:
    """What the standard image is built from: the host's packages where that works, else another image."""
    release = host.release()
    has_packages = release.get("ID") in ("debian", "ubuntu") and release.get("VERSION_CODENAME")
    return "host" if has_packages else OTHER_SOURCE


def host_recipe(host: Host, environ: Mapping[str, str], *, tools: tuple[str, ...], user: str, uid: int) -> Recipe:
    """The standard image of this host: its own distribution and release, its mirrors, certificates and proxy."""
    release = host.release()
    distribution, suite = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    if image_source(host) != "host":
        raise clincus.ClincusError(
            f"an image can be built from packages on Debian and Ubuntu only, and this is "
            f"'{release.get('PRETTY_NAME', 'an unknown system')}'; use `clincus build --from IMAGE`, "
            f"such as --from {OTHER_SOURCE}"
        )
    folder = host.path("/etc/apt/sources.list.d")
    names = ["/etc/apt/sources.list", *(f"/etc/apt/sources.list.d/{path.name}" for path in sorted(folder.glob("*")))]
    texts = [host.read(name) for name in names if name.endswith((".list", ".sources"))]
    return Recipe(
        distribution,
        suite,
        tools=tools,
        files=host_files(host, environ),
        mirrors=host_mirrors(texts, suite),
        user=user,
        uid=uid,
        cpu=npm_cpu(),
    )
