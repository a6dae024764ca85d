"""Which session a command means: by a name, by $CLINCUS_CONTAINER, or by the folder."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import all_commands, names
from clincus_cli import commands as cli_commands
from clincus_cli import context as cli_context
from tests.builders import a_session
from tests.table import table

all_commands.load_commands()

LOGIN = a_session(1, id="clincus-ec0578-1", name="login", workspace="/srv/app")
TESTS = a_session(2, id="clincus-ec0578-2", name="tests", workspace="/srv/app")
OTHER = a_session(1, id="clincus-77aa01-1", workspace="/srv/other")
FAR = a_session(1, id="tower:clincus-99bb02-1", engine="tower", workspace="/srv/far")
ALL = (LOGIN, TESTS, OTHER, FAR)


def context(words, sessions=ALL, folder="/srv", **environ):
    command, rest = cli_commands.find_command(words)
    made = cli_context.Context(command, cli_commands.parse_words(command, rest), environ)
    made.__dict__["sessions"] = SimpleNamespace(registry=SimpleNamespace(all=lambda: list(sessions)))
    made.options.workspace = getattr(made.options, "workspace", "") or folder
    return made


CALLED = {
    "its id": ("clincus-ec0578-1", LOGIN.id),
    "its own name": ("login", LOGIN.id),
    "the beginning of its id": ("clincus-77", OTHER.id),
    "one on an engine": ("tower:clincus-99", FAR.id),
    "an id that is no session's, such as of a deleted one": ("clincus-000000-1", "clincus-000000-1"),
}


@table(("word", "id"), CALLED.values(), ids=CALLED.keys())
def test_a_session_is_called_by(word, id):
    made = context(["why", word])
    names.settle_names(made)
    assert made.options.name == id


def test_what_could_be_several_sessions_is_refused_after_a_list(capsys):
    for words, folder in ((["kill", "clincus-ec0578"], "/srv"), (["kill"], "/srv/app")):
        with pytest.raises(clincus.ClincusError, match="several sessions: name one"):
            names.settle_names(context(words, folder=folder))
        said = capsys.readouterr().err
        assert LOGIN.id in said
        assert TESTS.id in said
        assert OTHER.id not in said


def test_a_word_that_is_no_session_is_not_found():
    with pytest.raises(clincus.ClincusError, match='session "logni" not found; `clincus list` shows'):
        names.settle_names(context(["why", "logni"]))


@table(
    "words",
    [
        ["answer", "2"],
        ["prompt", "go on"],
    ],
    ids=" ".join,
)
def test_who_left_out_the_session_before_another_word_is_told_of_the_dot(words):
    with pytest.raises(
        clincus.ClincusError, match=rf"not found: write `clincus {words[0]} \. …` for that of this folder"
    ):
        names.settle_names(context(words))


DEFAULTS = {
    "the only session of the folder": ("/srv/other", {}, OTHER.id),
    "the only one of a folder above": ("/srv/other/src/deep", {}, OTHER.id),
    "that of the environment before it": ("/srv/other", {"CLINCUS_CONTAINER": "login"}, LOGIN.id),
}


@table(("folder", "environ", "id"), DEFAULTS.values(), ids=DEFAULTS.keys())
@table(
    "words",
    [
        ["why"],
        ["prompt", ".", "go on"],
    ],
    ids=" ".join,
)
def test_without_a_name_a_command_means(words, folder, environ, id):
    made = context(words, folder=folder, **environ)
    names.settle_names(made)
    assert made.options.name == id


def test_a_word_that_is_no_session_keeps_no_other_from_being_worked_on():
    made = context(["stop", "nothing", "login"])
    names.settle_names(made)
    assert made.options.name == ["nothing", LOGIN.id]
    made = context(["stop"], folder="/srv/other")
    names.settle_names(made)
    assert made.options.name == [OTHER.id], "without a name it takes that of the folder"


@table("folder", ["/srv/far", "/nowhere"], ids=["a folder of another machine", "no session at all"])
def test_a_folder_without_a_session_is_told(folder):
    with pytest.raises(clincus.ClincusError, match=f"no container names provided, and '{folder}' has no session"):
        names.settle_names(context(["kill"], folder=folder))


@table("words", [["attach"], ["resume"], ["cost"], ["kill", "--all"]], ids=" ".join)
def test_no_name_means_something_else_to(words):
    made = context(words, folder="/nowhere")
    names.settle_names(made)
    assert not made.options.name


def test_a_symbolic_link_to_a_folder_is_that_folder(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    session = a_session(1, workspace=os.path.realpath(real))
    assert names.sessions_of_folder([session], str(tmp_path / "link")) == [session]
