"""What is in an image, and how it is built: the recipe, the two ways to carry it out, the programs of guest/image."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import build as cli_build
from clincus_cli import host as cli_host
from clincus_cli import recipe as cli_recipe
from clincus_features.network import outside
from tests.table import table

DEB822 = """\
# Debian's own
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /k.pgp

Types: deb
URIs: file:/srv/packages
Suites: ./
Trusted: yes
"""


FOLDED = "Types:\n deb\nURIs: http://a\n# a comment\n\thttp://b\nSuites: trixie\nComponents: main\n contrib\n"
WITH_KEY = "Types: deb\nURIs: http://a\nSuites: trixie\nComponents: main\nSigned-By:\n -----BEGIN\n .\n mQ/x\n"
ONE_LINE = "# deb http://a trixie main\ndeb [arch=amd64 signed-by=/k.gpg] https://b trixie main # note\n"


@table(
    ("text", "mirrors"),
    [
        (
            DEB822,
            (
                "deb [signed-by=/k.pgp] http://mirror.example/debian trixie main contrib",
                "deb [signed-by=/k.pgp] http://mirror.example/debian trixie-updates main contrib",
            ),
        ),
        (FOLDED, ("deb http://a trixie main contrib", "deb http://b trixie main contrib")),
        (WITH_KEY, ("deb http://a trixie main",)),  # a key in the file itself is no path
        (ONE_LINE, ("deb [signed-by=/k.gpg] https://b trixie main",)),
    ],
)
def test_the_sources_of_the_hosts_release_are_taken(text, mirrors):
    assert cli_recipe.host_mirrors([text], "trixie") == mirrors


SECRET_PROXY = "http://ann:secret@proxy.example:3128"


@table(
    ("proxy", "without"),
    [
        (SECRET_PROXY, "http://proxy.example:3128"),
        ("http://ann:s@c/r:t@proxy.example", "http://proxy.example"),
        ("socks5h://ann:secret@[2001:db8::1]:1080", "socks5h://[2001:db8::1]:1080"),
    ],
)
def test_the_address_of_a_proxy_without_its_user(proxy, without):
    assert outside.without_user(proxy) == without


@table(
    ("environ", "mode", "engine", "gets"),
    [
        ({"https_proxy": SECRET_PROXY, "NO_PROXY": ".example"}, "open", "", True),
        ({"https_proxy": SECRET_PROXY}, "allow-list", "", False),
        ({"https_proxy": SECRET_PROXY}, "open", "far", False),
    ],
)
def test_an_open_session_on_this_host_gets_the_proxy_that_an_image_cannot_hold(environ, mode, engine, gets):
    config = {"network.mode": mode, "network.allow": [], "network.presets": []}
    session, launch = SimpleNamespace(tool="claude", engine=engine), SimpleNamespace(config=config)
    names = {name for key in environ for name in (key.lower(), key.upper())}
    assert outside.session_variables(environ, session, launch).keys() == (names if gets else set())


def test_every_ingredient_of_a_recipe_changes_its_key():
    changes = [
        {},
        {"suite": "bookworm"},
        {"packages": ("tmux",)},
        {"tools": ("claude",)},
        {"files": (cli_recipe.ImageFile("/etc/x", b"1"),)},
        {"mirrors": ("deb http://a trixie main",)},
        {"uid": 1001},
        {"base": "images:debian/13"},
    ]
    assert len({cli_recipe.Recipe(**change).key() for change in changes}) == len(changes)
    assert cli_recipe.Recipe().key() == cli_recipe.Recipe().key()


def test_tools_can_be_chosen_and_pinned():
    recipe = cli_recipe.Recipe(tools=("claude@2.1.0",), cpu="arm64")
    assert list(recipe.tool_arguments()) == ["claude", "@anthropic-ai/claude-code-linux-arm64@2.1.0", "claude"]
    assert [cli_recipe.parse_tools(text) for text in ("none", "claude, claude")] == [(), ("claude",)]
    for text in ("cloud", "claude@", "claude@$(id)"):
        with pytest.raises(clincus.ClincusError) as caught:
            cli_recipe.parse_tools(text)
        assert caught.value.status == 400


def test_the_output_of_a_build_tells_stages_versions_and_what_is_missing():
    said: list[str] = []
    output = cli_build.BuildOutput(said.append)
    for line in ("I: running apt-get update...", "clincus: fetching claude", "clincus: tool claude 2.1.331", "else"):
        output.on_line(line)
    assert said == ["reading the package lists", "fetching claude"]
    assert output.properties()["clincus.tools"] == "claude=2.1.331"
    output.on_line("clincus: missing copilot self-signed certificate in chain")
    assert "/ca-certificates" in output.notes()[-1]


class TestFetchTools:
    """The program guest/image/fetch-tools.sh with a stand-in for npm."""

    @pytest.fixture
    def fetch(self, tmp_path):
        """A function that fetches `claude` with an npm of some lines; the program's output."""
        work = tmp_path / "work"
        work.mkdir()
        (work / "fetch-tools.sh").write_text(clincus.packaged_text("guest/image/fetch-tools.sh"))

        def run(npm, package_json="{}"):
            (work / "package").mkdir(exist_ok=True)
            (work / "package/claude").write_text("the tool")
            (work / "package/package.json").write_text(package_json)
            program = tmp_path / "npm"
            program.write_text(f"#!/bin/sh\n{npm}\n")
            program.chmod(0o755)
            environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "ROOT": str(tmp_path / "root")}
            argv = ["sh", work / "fetch-tools.sh", "claude", "claude-linux", "claude"]
            done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=True)
            return done.stdout.splitlines()[-1]

        return run

    def test_a_tool_is_installed_and_its_version_told(self, fetch, tmp_path):
        for text in ('{"name": "x", "version": "1.2.3"}', '{\n  "version": "1.2.3"\n}\n'):
            assert fetch("tar -czf it.tgz package; echo it.tgz", text) == "clincus: tool claude 1.2.3"
        assert (tmp_path / "root/opt/clincus/bin/claude").read_text() == "the tool"
        assert (tmp_path / "root/usr/local/bin/claude").readlink() == Path("/opt/clincus/bin/claude")

    def test_a_tool_that_cannot_be_had_says_so_in_its_place(self, fetch, tmp_path):
        lines = ("code E404", "404 Not Found - GET http://r/x", "404", "A complete log of it is in:", "    /x.log")
        for word in ("ERR!", "error"):
            words = fetch("\n".join(f"echo 'npm {word} {line}' >&2" for line in lines) + "\nexit 1")
            assert words == "clincus: missing claude 404 Not Found - GET http://r/x"
        done = subprocess.run([tmp_path / "root/opt/clincus/bin/claude"], capture_output=True, text=True, check=False)
        assert done.returncode == 127
        assert "claude is not in this image" in done.stderr


class HereIncus(clincus.Incus):
    """An Incus whose containers are this machine."""

    def exec(self, name, command, *, stdin=b""):
        return clincus.run_child(command, stdin=stdin, timeout=60)

    def exec_argv(self, name, command, **_):
        return list(command)


@pytest.fixture
def context():
    return cli_build.BuildContext(HereIncus(), cli_host.Host(), lambda _: None, "clincus-")


def test_both_ways_to_build_take_the_same_steps(context, tmp_path):
    recipe = cli_recipe.Recipe(packages=("tmux",), tools=("claude",))
    files, commands = recipe.contents(b"secret")
    assert f"{cli_recipe.WORK_FOLDER}/npmrc" in [file.path for file in files]
    assert commands[-1] == ["rm", "-rf", "/tmp/clincus-build"]
    argv = cli_build.mmdebstrap_argv(recipe, tmp_path / "files.tar", commands, tmp_path / "image")
    hooks = [word.partition("=")[2] for word in argv if word.startswith("--customize-hook=")]
    assert "--include=tmux" in argv
    assert hooks[:-1] == [f"tar-in {tmp_path}/files.tar /", *(f'chroot "$1" {shlex.join(words)}' for words in commands)]


def test_certificates_and_proxy_of_the_host_go_into_the_image(tmp_path):
    host, place = cli_host.Host(str(tmp_path)), "/usr/local/share/ca-certificates"
    assert cli_recipe.host_files(host, {}) == ()
    (tmp_path / place[1:] / "company").mkdir(parents=True)
    (tmp_path / place[1:] / "company/root.crt").write_text("PEM")
    found = cli_recipe.host_files(host, {"http_proxy": "http://p.example:8080"})
    files = {file.path: file.data.decode() for file in found}
    assert files[f"{place}/company-root.crt"] == "PEM"
    assert "export HTTP_PROXY=http://p.example:8080\n" in files["/etc/profile.d/clincus.sh"]
    assert 'Acquire::http::Proxy "http://p.example:8080"' in files["/etc/apt/apt.conf.d/90clincus-http-proxy"]


@table("name", ["http_proxy", "HTTPS_PROXY"])
def test_no_image_holds_the_password_of_a_proxy(tmp_path, name):
    recipe = cli_recipe.Recipe(files=cli_recipe.host_files(cli_host.Host(str(tmp_path)), {name: SECRET_PROXY}))
    files, commands = recipe.contents()
    everything = cli_recipe.pack_image_files(files) + repr(commands).encode()
    assert b"http://proxy.example:3128" in everything
    for word in (b"secret", b"ann:", b"ann@"):
        assert word not in everything
    assert b"Acquire::" not in everything  # it would beat the variable, which has the password


def test_a_build_goes_through_a_proxy_with_a_password_that_no_argument_shows(context, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", SECRET_PROXY)
    shown: list[str] = []

    def exec_argv(self, name, command, **options):
        shown.extend([*command, repr(options)])
        return list(command)

    monkeypatch.setattr(HereIncus, "exec_argv", exec_argv)
    command = ["sh", "-c", f'cat; echo "$HTTPS_PROXY" >{tmp_path}/seen; tr "\\0" " " </proc/$PPID/cmdline']
    cli_build.fill_container(context, "box", [], [command], shown.append)
    assert (tmp_path / "seen").read_text() == f"{SECRET_PROXY}\n"
    assert "secret" not in " ".join(shown)
