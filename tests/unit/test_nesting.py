"""The choice of nested containers: from a request and from a command line to the setting of a start."""

from __future__ import annotations

import functools

import clincus
from clincus_cli import all_commands, shell
from clincus_cli import commands as cli
from clincus_cli import context as cli_context
from clincus_features import nesting, network
from tests.table import table

all_commands.load_commands()
NETWORK_FIELDS = dict.fromkeys(("network", "allow", "presets"))


OURS = clincus.with_settings([nesting.FIELD], nesting.taken_settings)
OF_NETWORK = clincus.with_settings(network.FIELDS, network.taken_settings)


@table("wrappers", [(OURS, OF_NETWORK), (OF_NETWORK, OURS)])
@table(
    ("given", "settings"),
    [
        ({"nesting": True}, {"security.nesting": True}),
        ({"nesting": False}, {"security.nesting": False}),
        ({"nesting": None}, None),
        ({"nesting": True, "network": "none"}, {"security.nesting": True, "network.mode": "none"}),
    ],
)
def test_a_request_hands_its_choice_on_beside_that_of_the_network(wrappers, given, settings):
    found = {}
    handler = functools.reduce(
        lambda one, wrap: wrap("POST", "/api/sessions", one), wrappers, lambda request: found.update(request.values)
    )
    values = {"workspace": "/w", **NETWORK_FIELDS, **given}
    handler(clincus.Request("POST", "/api/sessions", {}, {}, 0, None, None, values=values))  # type: ignore[arg-type]
    assert found == {"workspace": "/w", "settings": settings}


@table(
    ("words", "settings"),
    [
        (["shell", "--nesting"], {"security.nesting": True}),
        (["shell", "--nesting=false"], {"security.nesting": False}),
        (["run", "--nesting", "docker", "ps"], {"security.nesting": True}),
        (["shell", "--clone"], {}),
    ],
)
def test_a_flag_becomes_the_setting(words, settings, tmp_path):
    command, rest = cli.find_command(words)
    context = cli_context.Context(command, cli.parse_words(command, rest), {"HOME": str(tmp_path)})
    assert dict(shell.launch_request(context).settings) == settings


def test_a_later_start_keeps_the_choice(tmp_path):
    request = clincus.LaunchRequest(str(tmp_path), settings={"security.nesting": True})
    launch = clincus.plan_launch(request, clincus.load_config({}), {"HOME": "/nowhere"}, clincus.Extensions())
    sessions = clincus.Sessions(None, None, lambda: launch.config, {})  # type: ignore[arg-type]
    again = sessions._again(launch.draft, None)
    assert again.settings == {"security.nesting": True}
