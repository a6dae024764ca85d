"""GET /metrics: that Prometheus reads it, what is counted, and that no name of a session can make it grow."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import clincus
from clincus_features import metrics
from tests.builders import a_session

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = clincus.load_contract()
REQUEST: Any = SimpleNamespace()
LISTING = 'operation="list_sessions"'


@pytest.fixture(autouse=True)
def tallies(monkeypatch: pytest.MonkeyPatch) -> metrics.Tallies:
    """An empty count for each test; the core and the log tell it what happens."""
    fresh = metrics.Tallies()
    monkeypatch.setattr(metrics, "TALLIES", fresh)
    monkeypatch.setattr(clincus, "meters", [fresh.note])
    return fresh


@pytest.fixture
def app() -> Any:
    """As much of the application as the figures are read from: two sessions, an engine that is away."""
    sessions = [a_session(slot) for slot in (1, 2)]
    extensions = clincus.Extensions()
    extensions.session_fields.append(lambda session: {"agent": {"state": "waiting", "text": 'a "b"\n'}})
    reached, lost = clincus.Reach(""), clincus.Reach("", "it does not answer")
    engines = {"": SimpleNamespace(reach=reached), "far": SimpleNamespace(reach=lost)}
    registry, hub = SimpleNamespace(all=lambda: sessions), SimpleNamespace(subscribers={7: "a page", 8: "another"})
    return SimpleNamespace(registry=registry, extensions=extensions, engines=engines, hub=hub)


@pytest.fixture
def gauges(app) -> metrics.Gauges:
    return metrics.Gauges(app, CONTRACT)


def read(gauges: metrics.Gauges) -> dict[str, float]:
    """What Prometheus's own parser reads: `name{label=value}` to number."""
    text = gauges.answer().body.decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for one in family.samples:
            found[one.name + "".join(f"{{{key}={value}}}" for key, value in one.labels.items())] = one.value
    return found


def test_prometheus_reads_all_of_it_and_it_says_what_is_so_now(gauges):
    found = read(gauges)
    expected = {
        "clincus_sessions{status=running}": 2,
        "clincus_sessions{status=stopped}": 0,
        "clincus_agents{state=waiting}": 2,
        "clincus_engine_up{engine=}": 1,
        "clincus_engine_up{engine=far}": 0,
        "clincus_sockets{operation=open_terminal}": 0,
        "clincus_sockets{operation=open_events}": 2,
    }
    assert expected.items() <= found.items()
    assert found["clincus_threads"] >= 1
    assert found["process_resident_memory_bytes"] > 1 << 20
    assert found["process_open_fds"] > 2


def test_a_request_counts_for_its_operation_with_its_time_and_how_it_failed(gauges):
    def refuse(request: object) -> None:
        raise clincus.ClincusError("no", 409)

    assert metrics.follow_request(lambda request: "fine", LISTING, REQUEST) == "fine"
    for handler, error in ((refuse, clincus.ClincusError), (lambda request: 1 / 0, ZeroDivisionError)):
        with pytest.raises(error):
            metrics.follow_request(handler, LISTING, REQUEST)
    found = read(gauges)
    assert found["clincus_request_seconds_count{operation=list_sessions}"] == 3
    assert found["clincus_request_seconds_bucket{operation=list_sessions}{le=+Inf}"] == 3
    assert found["clincus_request_failures_total{operation=list_sessions}{status=409}"] == 1
    assert found["clincus_request_failures_total{operation=list_sessions}{status=500}"] == 1


def test_a_call_of_incus_counts_by_its_kind(gauges):
    calls = {
        "launch": "incus --project default launch --quiet clincus",
        "POST": "incus query --request POST /1.0/instances",
        "exec": "sg incus-admin -c 'incus --project default exec --force-noninteractive",
        "other": "incus --project default --help",
    }
    for words in calls.values():
        clincus.tally("child", words, 0.2)
        clincus.tally("failed child", words, 0.2)
    found = read(gauges)
    for call in calls:
        assert found[f"clincus_incus_call_seconds_count{{call={call}}}"] == 2
        assert found[f"clincus_incus_call_failures_total{{call={call}}}"] == 1


def test_the_core_tells_how_children_end_and_those_that_are_not_incus_do_not_count(gauges, tallies, monkeypatch):
    told = []
    monkeypatch.setattr(clincus, "meters", [tallies.note, lambda kind, which, _: told.append((kind, which))])
    for program in ("true", "false"):
        clincus.run_child([program], timeout=60)
    assert told == [("child", "true"), ("failed child", "false")]
    assert not any("call" in name for name in read(gauges))


def test_what_the_core_and_other_features_tally_is_counted(gauges):
    names = {
        ("answer", "404"): "clincus_answers_total{status=404}",
        ("save", "failed"): "clincus_saves_total{outcome=failed}",
        ("push", "failed"): "clincus_pushes_total{outcome=failed}",
        ("webhook", "failed"): "clincus_webhooks_total{outcome=failed}",
    }
    before = read(gauges)
    for name in [*names.values(), "clincus_log_messages_total{level=error}"][1:]:
        assert before[name] == 0, "the first failure increases a counter that was there before"
    for kind, which in (*names, *names, ("weather", "fine")):
        clincus.tally(kind, which)
    after = read(gauges)
    assert [after[name] for name in names.values()] == [2] * 4
    metrics.LogCounter().emit(logging.makeLogRecord({"levelname": "WARNING"}))
    assert read(gauges)["clincus_log_messages_total{level=warning}"] == 1
    assert after.keys() - before.keys() == {"clincus_answers_total{status=404}"}, "no other kind makes a metric"


def test_every_operation_of_a_server_is_measured(tmp_path):
    app = clincus.Application({"HOME": str(tmp_path)}, {})
    route, _ = app.router.find("GET", "/metrics")
    app.router.find("GET", "/api/config")[0].handler(REQUEST)
    answer: Any = route.handler(REQUEST)
    assert dict(answer.headers)["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    assert 'clincus_request_seconds_count{operation="get_config"} 1\n' in text


# ---- what people read -------------------------------------------------------------------------------------------


def test_the_document_lists_exactly_the_metrics_that_there_are():
    text = (ROOT / "docs" / "metrics.md").read_text().partition("## Dashboard")[0]
    assert set(re.findall(r"`((?:clincus|process)_\w+)", text)) == set(metrics.FAMILIES)


def test_the_dashboard_file_asks_for_metrics_that_there_are():
    board = json.loads((ROOT / "docs" / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\b(?:clincus|process)_\w+", query)}
    kinds = {name: family.kind for name, family in metrics.FAMILIES.items()}
    lines = {f"{name}_{end}" for name in kinds if kinds[name] == "histogram" for end in ("bucket", "sum", "count")}
    assert asked <= set(kinds) | lines
    assert len(queries) >= 8
