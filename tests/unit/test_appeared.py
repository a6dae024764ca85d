"""What has appeared in a workspace since its session began: what counts as news, and what is kept."""

import json
import os
import shutil
import subprocess
import threading
import time
import types
from unittest import mock

import pytest

import clincus
from clincus_cli.appeared import appeared_lines
from clincus_features.protection import appeared
from tests.builders import a_session
from tests.programs import DEADLINE
from tests.table import table

ROWS = clincus.protect.preset_rows(clincus.make_config(()))


def item(path, kind="repository", changed=0, there=True, **commands):
    """An item of wall/scan.py."""
    pairs = [{"key": key, "value": value} for key, value in commands.items()]
    return {"path": path, "kind": kind, "there": there, "changed": changed, "commands": pairs}


def names(items):
    return [(one["path"], [command["key"] for command in one["commands"]]) for one in items]


# -- What counts as news


@table(
    ("before", "now", "told"),
    [
        ([item("a/.git")], [item("a/.git")], []),
        ([item("a/.git")], [], []),
        ([], [item("a/.git")], [("a/.git", [])]),
        ([item("a/.git", pager="x")], [item("a/.git", pager="x", editor="y")], [("a/.git", ["editor"])]),
        ([item("a/.git", pager="x")], [item("a/.git", pager="other")], [("a/.git", ["pager"])]),
        # What `git add` makes a gitlink of is run by `git status` at the top from then on.
        ([item("a/.git", pager="x")], [item("a", "gitlink", pager="x")], [("a", ["pager"])]),
        ([item("a", "gitlink", pager="x")], [item("a/.git", pager="x")], []),
        ([item("a", "gitlink", there=False)], [item("a", "gitlink", pager="x")], [("a", ["pager"])]),
        ([item(".git")], [item(".git", "broken")], [(".git", [])]),
    ],
)
def test_what_was_not_there_is_news(before, now, told):
    known = appeared.known_of(before, before=1)
    assert names(appeared.news(now, known)) == told


def test_what_was_written_after_the_look_began_was_not_there():
    found = [item("old/.git", changed=99), item("new/.git", changed=101)]
    assert list(appeared.known_of(found, before=100)) == ["repository old/.git"]


def test_what_runs_stands_first_and_keeps_the_time_of_its_first_sight():
    found = [item(".envrc", "settings"), item("b/.git"), item("a/.git", pager="x")]
    earlier = [{"kind": "repository", "path": "b/.git", "at": "then"}]
    told = appeared.told(found, earlier, ROWS, "now")
    assert [(one["path"], one["at"]) for one in told] == [("a/.git", "now"), ("b/.git", "then"), (".envrc", "now")]


@table(
    ("found", "words"),
    [
        (item("a/.git", hook="post-receive"), "runs on your machine when you run git in it"),
        (item("a/.git"), "git reads its settings when you run git in it"),
        (item("a", "gitlink", pager="x"), "`git status` in the workspace"),
        (item("a/.git", index="../x"), "write what its index names"),
        (item("a", "gitlink", there=False), "nothing is checked out there"),
        (item(".git", "broken"), "no repository any more"),
        (item("x", "rebase", exec="x"), "`git rebase --continue`"),
        (item("x/.envrc", "settings"), "in a shell with direnv"),
        (item(".claude", "settings"), "reads what it leads to"),
    ],
)
def test_a_person_reads_when_it_runs(found, words):
    assert words in appeared.when_it_runs(found, ROWS)


def test_what_an_agent_chose_moves_no_cursor_on_a_terminal():
    found = {"path": "a\x1b[2J/.git", "when": "runs", "commands": [{"key": "hook", "value": "x\r\n"}] * 5}
    whole, cut = appeared_lines([{**found, "truncated": False}, {**found, "truncated": True}])
    assert whole.isprintable()
    assert whole.endswith("; 2 more)")
    assert cut.endswith("; at least 2 more)")


# -- What is kept


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def looker(tmp_path):
    return looker_of(tmp_path)


def looker_of(tmp_path, *presets):
    environ = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    flags = {"security.presets": list(presets or ("agents", "editors"))}
    return appeared.Looker(lambda: environ, lambda: clincus.with_flags(clincus.make_config(()), flags), mock.Mock())


def session_of(work, **more):
    about = {"session_id": "abc", "protection": "locked", **more}
    return a_session(workspace=str(work), **about)


def init(folder, **settings):
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    for key, value in settings.items():
        subprocess.run(["git", "-C", str(folder), "config", f"core.{key}", value], check=True)


def paths(found):
    return [one["path"] for one in found]


def test_what_was_there_at_the_start_is_no_news_and_what_comes_is(looker, work):
    init(work / "old", pager="x")
    session = session_of(work)
    looker.begin(session)
    assert looker.look(session) == []
    init(work / "new", pager="x")
    init(work / "long", pager="x" * 300)
    long, new = looker.look(session)
    assert (new["path"], new["kind"]) == ("new/.git", "repository")
    assert new["commands"] == [{"key": "core.pager", "value": "x", "truncated": False}]
    assert long["commands"][0]["truncated"]
    shutil.rmtree(work / "new")
    assert paths(looker.look(session)) == ["long/.git"]


def test_it_is_known_to_another_server_and_after_the_session(looker, work):
    session = session_of(work)
    looker.begin(session)
    (work / ".envrc").write_text("x")
    looker.look(session, is_over=True)
    other = appeared.Looker(looker._environ, looker._config, mock.Mock())
    for id, session_id in ((session.id, "abc"), (session.id, ""), ("abc", "")):
        assert paths(other.find(id, session_id).appeared) == [".envrc"]
    assert other.find(session.id, "another") is None
    assert other.find("clincus-ffffff-1") is None


def test_what_a_run_has_left_stays_news_and_what_a_person_made_since_is_none(looker, work):
    session = session_of(work)
    looker.begin(session)
    init(work / "agent")
    looker.look(session, is_over=True)
    init(work / "person")
    looker.begin(session)
    assert paths(looker.look(session)) == ["agent/.git"]


def test_of_a_session_that_was_found_running_what_was_written_since_its_start_is_news(looker, work):
    init(work / "old")
    long_ago, soon = (
        clincus.format_time(clincus.datetime.fromtimestamp(time.time() + seconds, clincus.timezone.utc))
        for seconds in (-3600, 3600)
    )
    assert paths(looker.look(session_of(work, run=long_ago))) == ["old/.git"]
    assert looker.look(session_of(work, run=soon, session_id="other")) == []


def test_only_folders_of_this_host_are_looked_at(looker, work):
    session = session_of(work)
    assert looker.is_wanted(session)
    for more in ({"mode": "clone"}, {"engine": "far"}, {"command": "1 2"}, {"workspace": ""}):
        assert not looker.is_wanted(session._replace(**more))


def test_a_command_looks_at_a_stopped_session_by_itself(looker, work):
    session = session_of(work)
    looker.begin(session)
    (work / ".envrc").write_text("x")
    found, cut = appeared.last_look(looker._environ(), looker._config(), session)
    assert (paths(found), cut) == ([".envrc"], "")
    assert not looker.find(session.id, "abc").is_open


# -- Moments


class Hub:
    def __init__(self):
        self.events = []

    def publish(self, event, extension=False):
        self.events.append(event)


@pytest.fixture
def watch(tmp_path, work):
    environ = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    session = session_of(work)
    registry = types.SimpleNamespace(all=lambda: [session], find=lambda id: session)
    extensions = types.SimpleNamespace(known_to_sleep=lambda *_: set())
    app = types.SimpleNamespace(
        environ=environ, config=clincus.make_config(()), hub=Hub(), registry=registry, extensions=extensions
    )
    return appeared.Appeared(app, mock.Mock(), lambda session: [], lambda session: [session.workspace])


def begun(watch, session):
    watch.begin(None, session, None, {"config": {}})
    watch._wait_for_begin(session)
    watch.tell("after_start", session)


def test_a_turn_that_is_over_brings_a_look_which_tells_the_pages(watch, work):
    session = session_of(work)
    begun(watch, session)
    assert watch.fields(session) == {"appeared": 0}
    (work / ".envrc").write_text("x")
    watch.hear(session, {"state": "working"})
    assert not watch._due
    watch.hear(session, {"state": "done"})
    watch.work()
    assert watch._app.hub.events == [{"type": "session.changed", "id": session.id}]
    fields = watch.fields(session)
    assert fields["appeared"] == 1
    words = "1 thing that runs by itself on your machine appeared in the folder"
    assert watch.warnings(session) == [f"{words}: `clincus diff {session.id} --stat` has them"]
    assert paths(watch.fields_of_changes(session.id, session.session_id)["appeared"]) == [".envrc"]


def test_a_turn_has_the_sessions_looked_at_that_share_a_folder(watch, work):
    session = session_of(work)
    for shared, is_asked in (("part", True), ("..", True), ("../other", False)):
        watch._due.clear()
        folder = os.path.normpath(work / shared)
        other = session_of(folder, session_id="other")._replace(id="clincus-111111-1", status="running")
        watch._app.registry.all = lambda other=other: [session._replace(status="running"), other]
        for state in ("working", "done"):
            watch.hear(session, {"state": state})
        assert ("other" in watch._due) == is_asked


def test_a_person_who_asks_gets_what_is_there_now_and_no_look_right_after_another(watch, work):
    session = session_of(work)
    begun(watch, session)
    (work / ".envrc").write_text("x")
    assert paths(watch.current(session)["appeared"]) == [".envrc"]
    (work / ".mcp.json").write_text("x")
    assert paths(watch.current(session)["appeared"]) == [".envrc"]
    watch._looked[session.session_id] -= appeared.PERIOD + 1
    assert paths(watch.current(session)["appeared"]) == [".envrc", ".mcp.json"]


def test_a_tool_that_tells_nothing_is_looked_at_unless_its_container_sleeps(watch, work):
    session = session_of(work)
    watch.hear(session, {"state": "unknown"})
    watch._due.clear()
    watch._app.extensions.known_to_sleep = lambda *_: {session.id}
    watch.look_at_quiet_tools()
    assert not watch._due
    watch._app.extensions.known_to_sleep = lambda *_: set()
    watch.look_at_quiet_tools()
    assert list(watch._due) == [session.session_id]


def test_a_look_waits_for_the_one_beside_the_start(watch, work):
    session = session_of(work)
    init(work / "old")
    may_go, steps = threading.Event(), []
    begin, look_at = watch.looker.begin, watch.looker.look
    watch.looker.begin = lambda *words: (may_go.wait(DEADLINE), begin(*words), steps.append("the one beside the start"))
    watch.looker.look = lambda *words, **how: (steps.append("the look"), look_at(*words, **how))[1]
    watch.begin(None, session, None, {"config": {}})
    look = threading.Thread(target=watch.look, args=(session,))
    look.start()
    look.join(0.1)
    assert look.is_alive()
    may_go.set()
    look.join()
    assert steps == ["the one beside the start", "the look"]
    assert watch.fields_of_changes(session.id)["appeared"] == []


def test_a_look_that_fails_is_taken_again_while_the_session_runs(watch, work):
    session = session_of(work)
    begun(watch, session)
    aside = work.rename(work.with_name("aside"))
    watch.hear(session, {"state": "done"})
    watch.work()
    assert watch.fields(session) == {"appeared": 0}
    assert watch.fields_of_changes(session.id, session.session_id)["appeared_truncated"]
    assert "No such file" in "".join(watch.warnings(session))
    aside.rename(work)
    (work / ".envrc").write_text("x")
    ((_, _, has_stopped),) = watch._due.values()
    assert not has_stopped
    watch._due[session.session_id] = time.monotonic(), session, False
    watch.work()
    assert watch.fields(session) == {"appeared": 1}


def test_the_record_is_plain_json_that_a_later_server_reads(watch, work):
    session = session_of(work)
    begun(watch, session)
    init(os.fsdecode(os.fsencode(work) + b"/\xff"))
    watch.look(session)
    json.dumps(watch.fields_of_changes(session.id)["appeared"]).encode("ascii")
    assert paths(watch.fields_of_changes(session.id)["appeared"]) == ["\udcff/.git"]
    after = appeared.Appeared(watch._app, mock.Mock(), *[lambda session: []] * 2)
    assert after.fields(session)["appeared"] == 1


# -- Links in repositories within the workspace


def test_a_link_in_a_nested_repository_that_is_news_is_put_aside(looker, work):
    init(work / "sub")
    (work / "sub/.git/rr-cache").symlink_to("/home/person/rr-cache")
    session = session_of(work)
    looker.begin(session)
    looker._on_links.assert_not_called()
    (work / "sub/.git/worktrees").symlink_to("/home/person/precious")
    looker.look(session)
    looker._on_links.assert_called_once_with(session, {f"{work}/sub/.git/worktrees": "/home/person/precious"})


def test_without_a_server_such_a_link_is_put_aside_after_the_stop(looker, work, capfd):
    init(work / "sub")
    session = session_of(work)
    looker.begin(session)
    (work / "sub/.git/worktrees").symlink_to("/home/person/precious")
    appeared.last_look(looker._environ(), looker._config(), session)
    assert not (work / "sub/.git/worktrees").is_symlink()
    assert "git would have deleted what is there" in capfd.readouterr().err
