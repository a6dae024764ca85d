"""`clincus network`: what flags ask for, and what is shown."""

from __future__ import annotations

import types

import pytest

import clincus
from clincus_cli import commands as cli_commands
from clincus_cli import context as cli_context
from clincus_cli import network, ports
from tests.table import table

FOUND = {
    "mode": "allow-list",
    "allow": ["a.example"],
    "presets": ["npm"],
    "preset_hosts": [{"name": "npm", "hosts": ["registry.npmjs.org"]}],
    "refused": [{"host": "evil\x1b.example", "port": 443, "count": 2, "last": "2026-11-25T22:00:00Z", "reason": "no"}],
    "passed": [],
}


@table(
    ("mode", "allowed", "removed", "wanted"),
    [
        (None, ["b.example", "pypi"], [], (["a.example", "b.example"], ["npm", "pypi"], "allow-list")),
        ("none", [], [], (["a.example"], ["npm"], "none")),
        (None, [], ["npm", "a.example"], ([], [], None)),
        ("open", ["a.example"], [], (["a.example"], ["npm"], "open")),
    ],
)
def test_flags_change_the_list(mode, allowed, removed, wanted):
    fields = network.changed_network(FOUND, mode, allowed, removed)
    assert (fields["allow"], fields["presets"], fields.get("network")) == wanted
    with pytest.raises(clincus.ClincusError, match=r"there is a\.example, npm"):
        network.changed_network(FOUND, None, [], ["pypi"])


def test_what_was_refused_is_shown_without_control_characters():
    text = "\n".join(network.network_lines(FOUND))
    assert "evil\\x1b.example:443  2" in text
    assert "\x1b" not in text


def test_names_for_a_start_come_beside_those_of_the_config():
    config = {"network.allow": ["a.example"], "network.presets": ["tool"]}
    options = types.SimpleNamespace(network=None, allow=("pypi", "b.example"))
    settings = network.network_settings(types.SimpleNamespace(options=options, config=config))
    assert settings == {
        "network.mode": "allow-list",
        "network.allow": ["a.example", "b.example"],
        "network.presets": ["tool", "pypi"],
    }


@table("confined", [True, False])
def test_a_link_into_a_closed_session_says_what_remains_open(confined, monkeypatch, capsys):
    answer = {"url": "http://x.localhost:3000/.clincus/open?ticket=1", "confined": confined}
    monkeypatch.setattr(ports, "ask_session", lambda *_: answer)
    command, rest = cli_commands.find_command(["ports", "--open", "3000"])
    ports.run_ports(cli_context.Context(command, cli_commands.parse_words(command, rest), {}))
    out, err = capsys.readouterr()
    assert out == f"{answer['url']}\n", "a script takes it"
    assert ("WebRTC" in err) == confined
