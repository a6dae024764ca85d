"""[logins.NAME]: what is taken, what is refused with which words, and how a value is read."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re

import pytest

import clincus
from clincus_cli import all_commands, commands
from clincus_cli.context import Context
from clincus_features import trust
from clincus_features.logins import sources
from clincus_features.logins.services import SERVICES
from clincus_features.logins.settings import Host, Limit, check_form, check_header, read_logins
from tests.table import table

clincus.install_features(None)  # they add settings
VALUE = "sk-real-0123456789abcdef"
OWN = """[logins.internal]
hosts = ["API.example.com", "*.cdn.example.com:8443"]
header = "X-Api-Key"
form = "{secret}"
from = { env = "INTERNAL_KEY" }
"""


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setattr(clincus, "SYSTEM_CONFIG", str(tmp_path / "none"))
    (tmp_path / ".config" / "clincus").mkdir(parents=True)
    return {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}


@pytest.fixture
def load(environ, tmp_path):
    """A function that loads a config file of the user's with a text."""

    def loaded(text: str) -> clincus.Config:
        (tmp_path / ".config" / "clincus" / "config.toml").write_text(text)
        return clincus.load_config(environ)

    return loaded


def login(load, source: str, name: str = "anthropic"):
    return read_logins(load(f"[logins.{name}]\nfrom = {source}\n"))[name]


def test_a_login_of_a_known_service_needs_no_more_than_its_source(load):
    (found,) = read_logins(load('[logins.github]\nfrom = { command = "gh auth token" }\n')).values()
    assert found.service is SERVICES["github"]
    assert (found.source, found.place, found.keep) == ("command", ["gh", "auth", "token"], 60.0)


def test_a_service_can_have_several_logins(load):
    text = '[logins.work]\nservice = "github"\nvariable = "WORK_TOKEN"\nkeep = "5m"\nfrom = { env = "WORK" }\n'
    (found,) = read_logins(load(text)).values()
    assert found.service == SERVICES["github"]._replace(variables=("WORK_TOKEN",))
    assert found.keep == 300.0


def test_a_login_of_ones_own_says_where_and_how(load):
    (found,) = read_logins(load(OWN)).values()
    assert found.hosts == (Host("api.example.com"), Host("cdn.example.com", is_wild=True, port=8443))
    assert (found.service.header, found.service.forms) == ("x-api-key", ("{secret}",))


@pytest.mark.parametrize(("name", "host"), [("claude", "platform.claude.com"), ("codex", "auth.openai.com")])
def test_a_login_that_is_lent_is_read_where_its_tool_keeps_it(load, name, host):
    (found,) = read_logins(load(f"[logins.{name}]\nlend = true\n")).values()
    assert (found.source, found.service.variables) == ("vendor", ())
    assert found.gives_tokens(host, 443)


@pytest.mark.parametrize(
    ("host", "port", "is_one"),
    [
        ("api.example.com", 443, True),
        ("api.example.com", 80, False),
        ("x.api.example.com", 443, False),
        ("api.example.com.evil.test", 443, False),
        ("a.cdn.example.com", 8443, True),
        ("a.cdn.example.com", 443, False),
        ("a.b.cdn.example.com", 8443, False),
        ("cdn.example.com", 8443, False),
        ("xcdn.example.com", 8443, False),
    ],
)
def test_a_login_is_for_its_hosts_alone(load, host, port, is_one):
    (found,) = read_logins(load(OWN)).values()
    assert found.is_for(host, port) is is_one


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[logins.x]\nfrom = { env = 'A' }", "[logins.x]: add hosts, header, form, or a `service`"),
        ("[logins.x]\nhosts = ['a.example']\nfrom = { env = 'A' }", "add header, form, or"),
        (
            "[logins.github]\nhosts = ['a.example']\nfrom = { env = 'A' }",
            "leave hosts out: those of the service github are known",
        ),
        ("[logins.github]\nlend = true", "lend = true is for the logins that their vendors renew"),
        ("[logins.x]\nservice = 'claude'\nlend = true\nfrom = { env = 'A' }", "leave from.env out: with lend = true"),
        ("[logins.claude]\nlend = true\nvariable = 'A'", "leave variable out"),
        ("[logins.codex]\nfrom = { env = 'A' }", "add lend = true"),
        ("[logins.claude]\nlend = 1", "true or false"),
        ("[logins.github]\nfrom = { env = 'A' }\nlimit = { requests_per_day = -1 }", "limit.requests_per_day"),
        ("[logins.github]\nfrom = { env = 'A' }\nlimit = { usd_per_day = 'x' }", "write dollars"),
        ("[logins.github]", 'write where it is read: from = { file = "PATH" }'),
        ("[logins.github]\nfrom = { env = 'A', file = '/a' }", "and one of them only"),
        ("[logins.x]\nservice = 'nope'", "there are anthropic"),
        ("[logins.Bad]\nfrom = { env = 'A' }", "a name has small letters, digits and -"),
        ("[logins.github]\nkeep = '2h'\nfrom = { env = 'A' }", "a value is kept for an hour at most"),
        ("[logins.github]\nfrom = { env = 'A B' }", "write the name of a variable"),
        ("[logins.github]\nfrom = { file = 'relative' }", "write an absolute path"),
        ("[logins.github]\nfrom = { command = '' }", "a command may not be empty"),
        ("[logins.github]\nfrom = 'gh auth token'", "a table is wanted"),
        (OWN.replace("API.example.com", "127.0.0.1"), "is an address"),
        (OWN.replace("API.example.com", "*"), "is no host"),
        (OWN.replace("API.example.com", "*.com"), "is no host"),
        (OWN.replace("API.example.com", "https://a.example/"), "is no host"),
        (OWN.replace("API.example.com", "a.example:99999"), "a port is from 1 to 65535"),
        (OWN.replace("X-Api-Key", "Host"), "it cannot carry a secret"),
        (OWN.replace("X-Api-Key", "x key"), "write the name of a header"),
        (OWN.replace("{secret}", "Bearer"), "with {secret} once"),
        (OWN.replace("{secret}", "Basic {secret}"), "with * for any user"),
        ("[defaults]\nlogins = ['x']", "defaults.logins names x, but there is no [logins.x]"),
    ],
)
def test_what_is_wrong_with_a_login_is_told(load, text, words):
    with pytest.raises(clincus.ConfigError) as caught:
        load(text)
    assert words in str(caught.value)


def test_no_wild_host_stands_for_all_names_of_a_top_level():
    with pytest.raises(ValueError, match="is no host"):
        Host.read("*.com")


@table("service", SERVICES.values(), ids=lambda service: service.title)
def test_each_known_service_would_be_taken_as_a_login_of_ones_own(service):
    for host in service.hosts:
        Host.read(host)
    assert check_header(service.header) == service.header
    assert [check_form(form) for form in service.forms] == [*service.forms]
    assert service.shape.count("{random}") == 1


def test_the_command_of_a_login_is_never_shown(load):
    config = load(f'[logins.github]\nfrom = {{ command = "echo {VALUE}" }}\n')
    assert VALUE not in json.dumps(clincus.config_document(config))
    assert VALUE not in repr(read_logins(config))


def test_a_command_that_cannot_be_taken_is_not_told(load):
    with pytest.raises(clincus.ConfigError) as caught:
        load(f'[logins.github]\nfrom = {{ command = "echo {VALUE} \'" }}\n')
    assert VALUE not in str(caught.value)


# A project's own file

MINE = '[defaults]\nlogins = ["github", "npm"]\n' + "".join(
    f'[logins.{name}]\nfrom = {{ env = "A" }}\n' for name in ("github", "npm", "pypi")
)


def project(load, tmp_path, text: str) -> clincus.Config:
    path = tmp_path / "work" / ".clincus.toml"
    path.parent.mkdir()
    path.write_text(text)
    found = trust.read_project(str(path.parent))
    assert found
    return trust.apply_project(load(MINE), found, trusted=True)


@pytest.mark.parametrize("names", [[], ["npm"], ["github", "npm"]])
def test_a_trusted_project_may_borrow_fewer_logins(load, tmp_path, names):
    config = project(load, tmp_path, f"[defaults]\nlogins = {json.dumps(names)}\n")
    assert config.get("defaults.logins") == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[logins]\ncopy = true\n", "can be in your own config only"),
        ('[defaults]\nlogins = ["npm", "pypi"]\n', "add it there, or leave it out here"),
        ('[logins.github]\nservice = "npm"\n', "[logins] can be in your own config only"),
        (OWN, "[logins] can be in your own config only"),
    ],
)
def test_a_trusted_project_may_borrow_no_more_and_define_none(load, tmp_path, text, words):
    with pytest.raises(clincus.ConfigError) as caught:
        project(load, tmp_path, text)
    assert words in str(caught.value)


# Reading a value


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_of_ones_own_is_read(load, environ, tmp_path, end):
    path = tmp_path / "key"
    path.write_bytes(f"{VALUE}{end}".encode())
    path.chmod(0o600)
    assert sources.read_secret(login(load, f'{{ file = "{path}" }}'), environ).reveal() == VALUE


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o644, "others may read or write"),
        (0o620, "others may read or write"),
        (0o602, "chmod 600"),
    ],
)
def test_a_file_that_others_can_read_or_write_is_refused(load, environ, tmp_path, mode, words):
    path = tmp_path / "key"
    path.write_text(VALUE)
    path.chmod(mode)
    with pytest.raises(sources.SourceError) as caught:
        sources.read_secret(login(load, f'{{ file = "{path}" }}'), environ)
    assert words in caught.value.message


def test_what_is_no_file_is_refused_and_never_waited_for(load, environ, tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, words in (("pipe", "is no file"), ("none", "there is no file"), (".", "is no file")):
        with pytest.raises(sources.SourceError) as caught:
            sources.read_secret(login(load, f'{{ file = "{tmp_path}/{name}" }}'), environ)
        assert words in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(load, environ, tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text(VALUE)
    path.chmod(0o600)
    os.chown(path, 12345, 12345)
    with pytest.raises(sources.SourceError, match="belongs to somebody else"):
        sources.read_secret(login(load, f'{{ file = "{path}" }}'), environ)


def test_a_variable_of_the_server_is_read(load, environ):
    found = login(load, '{ env = "KEY" }')
    assert sources.read_secret(found, {**environ, "KEY": VALUE}).reveal() == VALUE
    with pytest.raises(sources.SourceError, match="without the variable KEY") as caught:
        sources.read_secret(found, environ)
    assert caught.value.state == "missing"


def test_a_command_is_run_without_a_shell(load, environ):
    found = login(load, '{ command = ["printf", "%s", "$HOME;`id`0123456789"] }')
    with pytest.raises(sources.SourceError, match="one line of ASCII letters"):
        sources.checked(b"two words", "the command")
    assert sources.read_secret(found, environ).reveal() == "$HOME;`id`0123456789"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sh", "-c", f"echo {VALUE} >&2; echo {VALUE}; exit 3"], "ended with code 3"),
        (["clincus-no-such-program"], "cannot be run"),
        (["true"], "printed nothing"),
        (["printf", f"{VALUE}\\n{VALUE}"], "one line"),
        (["printf", "short"], "fewer than 8 characters"),
        (["printf", "with\\000zero"], "one line"),
        (["sh", "-c", "head -c 20000 /dev/zero"], "more than 8192 characters"),
    ],
)
def test_a_command_that_gives_no_value_is_told_without_its_output(load, environ, command, words):
    with pytest.raises(sources.SourceError) as caught:
        sources.read_secret(login(load, f"{{ command = {json.dumps(command)} }}"), environ)
    assert words in caught.value.message
    assert VALUE not in caught.value.message


def test_a_command_that_takes_too_long_is_ended(load, environ, monkeypatch):
    monkeypatch.setattr(sources, "COMMAND_WITHIN", 0.2)
    with pytest.raises(sources.SourceError, match="took longer"):
        sources.read_secret(login(load, '{ command = ["sleep", "1000"] }'), environ)


def test_nothing_writes_a_secret_down():
    secret = sources.Secret(VALUE)
    assert VALUE not in f"{secret} {secret!r} {[secret]} {vars(sources)}"
    for write in (pickle.dumps, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            write(secret)


def test_a_login_may_have_limits(load):
    text = "[logins.github]\nfrom = { env = 'A' }\nlimit = { requests_per_day = 20, usd_per_session = 1.5 }\n"
    one, other = read_logins(load(text + "[logins.claude]\nlend = true\nlimit.tokens_per_day = 9\n")).values()
    assert one.limit == Limit(requests_per_day=20, usd_per_session=1.5)
    assert other.limit == Limit(tokens_per_day=9)


# -- What a session borrows

TWO = "[logins.github]\nfrom = { env = 'A' }\n[logins.npm]\nfrom = { env = 'B' }\n"


@pytest.mark.parametrize(
    ("text", "profile", "names"),
    [
        ("[defaults]\nlogins = ['github']\n", "", ["github"]),
        ("[defaults]\nlogins = ['github']\n[profiles.p]\nlogins = ['npm']\n", "p", ["npm"]),
        ("[defaults]\nlogins = ['github']\n[profiles.p]\nlogins = ['none']\n", "p", []),
        ("[defaults]\nlogins = ['github', 'github']\n", "", ["github"]),
    ],
)
def test_a_profile_chooses_the_logins_of_its_sessions(load, text, profile, names):
    assert clincus.with_flags(load(text + TWO), {}, profile).get("defaults.logins") == names


def test_a_start_chooses_them_too(load):
    config = load("[defaults]\nlogins = ['github']\n" + TWO)
    assert clincus.with_flags(config, {"defaults.logins": ["npm"]}).get("defaults.logins") == ["npm"]
    with pytest.raises(clincus.ConfigError, match=r"there is no \[logins.nope\]; there are github, npm"):
        clincus.with_flags(config, {"defaults.logins": ["nope"]})


@pytest.mark.parametrize("value", [True, False])
def test_copies_beside_lent_logins_are_a_choice(load, value):
    config = load(f"[logins]\ncopy = {str(value).lower()}\n" + TWO)
    assert config.get("logins.copy") is value
    assert list(read_logins(config)) == ["github", "npm"]
    document = clincus.config_document(config)["logins"]
    assert (document["copy"], document["npm"]["from"]["env"]) == (value, "B")


def test_no_login_is_called_none(load):
    with pytest.raises(clincus.ConfigError, match="is not none"):
        load("[logins.none]\nservice = 'npm'\nfrom = { env = 'A' }\n")


# -- The command that writes them


def add_login(environ: dict[str, str], *words: str) -> None:
    all_commands.load_commands()
    command, rest = commands.find_command(["login", "add", *words])
    command.run(Context(command, commands.parse_words(command, rest), environ))


ADDED = {
    "a file": (["anthropic", "--file", "/k"], {"from.file": "/k"}),
    "a command": (["github", "--command", "gh auth token"], {"from.command": ["gh", "auth", "token"]}),
    "one that its vendor renews": (["claude", "--lend"], {"lend": True}),
    "another name": (["work", "--service", "github", "--env", "T"], {"service": "github", "from.env": "T"}),
    "one of ones own": (
        ["in", "--env", "KEY", "--host", "a.example", "--header", "X-Key", "--form", 'a "{secret}"'],
        {"from.env": "KEY", "hosts": ["a.example"], "header": "x-key", "form": 'a "{secret}"'},
    ),
}


@pytest.mark.parametrize("kind", ADDED)
def test_a_login_is_added_behind_what_the_config_says(load, environ, kind):
    words, row = ADDED[kind]
    load('[tool]\nname = "copilot"\n')
    add_login(environ, *words)
    config = clincus.load_config(environ)
    assert config.get("tool.name") == "copilot"
    assert config.get("logins")[words[0]] == row
    assert read_logins(config)[words[0]]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["known", "--env", "K"], "there is a login"),
        (["openai"], "write where it is read"),
        (["openai", "--env", "K", "--file", "/k"], "one of them only"),
        (["mine", "--env", "K"], "add hosts, header, form"),
        (["mine", "--env", "K", "--host", "*.com", "--header", "a", "--form", "{secret}"], "*.com"),
        (["Big", "--env", "K"], "small letters"),
        (["codex", "--env", "K"], "add lend = true"),
    ],
)
def test_a_login_that_the_config_would_not_take_is_not_added(load, environ, words, reason):
    load('[logins.known]\nservice = "npm"\nfrom = { env = "N" }\n')
    with pytest.raises(clincus.ClincusError, match=re.escape(reason)):
        add_login(environ, *words)
    assert set(read_logins(clincus.load_config(environ))) == {"known"}
