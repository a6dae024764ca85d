"""[logins.NAME]: what is taken, what is refused with which words, and how a value is read."""

from __future__ import annotations

import copy
import json
import os
import pickle

import pytest

import clincus
from clincus_features import trust
from clincus_features.logins import sources
from clincus_features.logins.services import SERVICES
from clincus_features.logins.settings import Host, Limit, read_logins
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

    def loaded(text: str) -> clincus.Config:
        (tmp_path / ".config" / "clincus" / "config.toml").write_text(text)
        return clincus.load_config(environ)

    return loaded


def login(load, source: str, name: str = "anthropic"):
    return read_logins(load(f"[logins.{name}]\nfrom = {source}\n"))[name]


def test_a_login_of_a_known_service_needs_no_more_than_its_source_and_may_have_a_name_of_its_own(load):
    (found,) = read_logins(load('[logins.github]\nfrom = { command = "gh auth token" }\n')).values()
    assert found.service is SERVICES["github"]
    assert (found.source, found.place, found.keep) == ("command", ["gh", "auth", "token"], 60.0)
    text = '[logins.work]\nservice = "github"\nvariable = "WORK_TOKEN"\nkeep = "5m"\nfrom = { env = "WORK" }\n'
    (found,) = read_logins(load(text)).values()
    assert found.service == SERVICES["github"]._replace(variables=("WORK_TOKEN",))
    assert found.keep == 300.0


def test_a_login_of_ones_own_says_where_and_how(load):
    (found,) = read_logins(load(OWN)).values()
    assert found.hosts == (Host("api.example.com"), Host("cdn.example.com", is_wild=True, port=8443))
    assert (found.service.header, found.service.forms) == ("x-api-key", ("{secret}",))


@table(("name", "host"), [("claude", "platform.claude.com"), ("codex", "auth.openai.com")])
def test_a_login_that_is_lent_is_read_where_its_tool_keeps_it(load, name, host):
    limit = "limit = { requests_per_day = 20, usd_per_session = 1.5 }"
    (found,) = read_logins(load(f"[logins.{name}]\nlend = true\n{limit}\n")).values()
    assert found.limit == Limit(requests_per_day=20, usd_per_session=1.5)
    assert (found.source, found.service.variables) == ("vendor", ())
    assert found.gives_tokens(host, 443)


@table(
    ("host", "port", "is_one"),
    [
        ("api.example.com", 443, True),
        ("api.example.com", 80, False),
        ("api.example.com.evil.test", 443, False),
        ("a.cdn.example.com", 8443, True),
        ("a.b.cdn.example.com", 8443, False),
        ("xcdn.example.com", 8443, False),
    ],
)
def test_a_login_is_for_its_hosts_alone(load, host, port, is_one):
    (found,) = read_logins(load(OWN)).values()
    assert found.is_for(host, port) is is_one


@table(
    ("text", "words"),
    [
        ("[logins.github]\nhosts = ['a.example']\nfrom = { env = 'A' }", "leave hosts out"),
        ("[logins.github]\nlend = true", "lend = true is for"),
        ("[logins.x]\nservice = 'claude'\nlend = true\nfrom = { env = 'A' }", "leave from.env out"),
        ("[logins.codex]\nfrom = { env = 'A' }", "add lend = true"),
        ("[logins.github]\nfrom = { env = 'A' }\nlimit = { requests_per_day = -1 }", "limit.requests_per_day"),
        ("[logins.github]\nfrom = { env = 'A', file = '/a' }", "one of them only"),
        ("[logins.github]\nkeep = '2h'\nfrom = { env = 'A' }", "an hour"),
        ("[logins.github]\nfrom = { file = 'relative' }", "absolute path"),
        (OWN.replace("API.example.com", "127.0.0.1"), "is an address"),
        (OWN.replace("API.example.com", "*.com"), "is no host"),
        (OWN.replace("X-Api-Key", "Host"), "cannot carry a secret"),
        (OWN.replace("{secret}", "Bearer"), "{secret} once"),
        ("[defaults]\nlogins = ['x']", "no [logins.x]"),
    ],
)
def test_what_is_wrong_with_a_login_is_told(load, text, words):
    with pytest.raises(clincus.ConfigError) as caught:
        load(text)
    assert words in str(caught.value)


def test_the_command_of_a_login_is_never_shown(load):
    config = load(f'[logins.github]\nfrom = {{ command = "echo {VALUE}" }}\n')
    assert VALUE not in json.dumps(clincus.config_document(config))
    assert VALUE not in repr(read_logins(config))
    with pytest.raises(clincus.ConfigError) as caught:
        load(f'[logins.github]\nfrom = {{ command = "echo {VALUE} \'" }}\n')
    assert VALUE not in str(caught.value)


# A project's own file

MINE = '[defaults]\nlogins = ["github", "npm"]\n' + "".join(
    f'[logins.{name}]\nfrom = {{ env = "A" }}\n' for name in ("github", "npm", "pypi")
)


def project(load, tmp_path, text: str) -> clincus.Config:
    path = tmp_path / "work" / ".clincus.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    found = trust.read_project(str(path.parent))
    assert found
    return trust.apply_project(load(MINE), found, trusted=True)


def test_a_trusted_project_may_borrow_fewer_logins_but_no_more_and_define_none(load, tmp_path):
    for names in ([], ["npm"]):
        config = project(load, tmp_path, f"[defaults]\nlogins = {json.dumps(names)}\n")
        assert config.get("defaults.logins") == names
    with pytest.raises(clincus.ConfigError, match="leave it out here"):
        project(load, tmp_path, '[defaults]\nlogins = ["npm", "pypi"]\n')
    for text in ("[logins]\ncopy = true\n", '[logins.github]\nservice = "npm"\n', OWN):
        with pytest.raises(clincus.ConfigError, match="your own config only"):
            project(load, tmp_path, text)


# Reading a value


def test_a_file_of_ones_own_is_read(load, environ, tmp_path):
    path = tmp_path / "key"
    for end in ("", "\n", "\r\n"):
        path.write_bytes(f"{VALUE}{end}".encode())
        path.chmod(0o600)
        assert sources.read_secret(login(load, f'{{ file = "{path}" }}'), environ).reveal() == VALUE


def test_a_file_that_is_not_the_persons_alone_is_refused_and_never_waited_for(load, environ, tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    wrong = {"pipe": "is no file", "none": "there is no file", ".": "is no file"}
    for name, mode in (("644", 0o644), ("620", 0o620), ("602", 0o602), ("given", 0o600)):
        (tmp_path / name).write_text(VALUE)
        (tmp_path / name).chmod(mode)
        wrong[name] = "others may read or write"
    if os.geteuid() == 0:  # who can give a file away
        os.chown(tmp_path / "given", 12345, 12345)
        wrong["given"] = "belongs to somebody else"
    else:
        del wrong["given"]
    for name, words in wrong.items():
        with pytest.raises(sources.SourceError) as caught:
            sources.read_secret(login(load, f'{{ file = "{tmp_path}/{name}" }}'), environ)
        assert words in caught.value.message


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


@table(
    ("command", "words"),
    [
        (["sh", "-c", f"echo {VALUE} >&2; echo {VALUE}; exit 3"], "ended with code 3"),
        (["true"], "printed nothing"),
        (["printf", "short"], "fewer than 8 characters"),
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
