"""The health report: what is found, what is said of it, and what to do."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import pytest

import clincus
from clincus_features import health
from tests.programs import DEADLINE


class Answers(clincus.Incus):
    """An Incus that knows the answers it is given."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def query(self, path, *_, **__):
        if path not in self.answers:
            raise clincus.IncusError("not found", 404)
        return self.answers[path]


class Failing(clincus.Incus):
    """An Incus that answers nothing but an error."""

    def __init__(self, words):
        super().__init__()
        self.words = words

    def query(self, *_, **__):
        raise clincus.incus_failure(f"Error: {self.words}")


IMAGE = f"/1.0/images/{'f' * 64}"
WELL = {
    "/1.0": {
        "auth": "trusted",
        "environment": {"server_version": "6.0.4", "kernel_features": {"idmapped_mounts": "true"}},
    },
    "/1.0/images/aliases/clincus": {"target": "f" * 64},
    IMAGE: {"fingerprint": "f" * 64, "size": 1, "created_at": "2999-01-01T00:00:00Z"},
    "/1.0/profiles/default": {
        "devices": {
            "root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {"type": "nic", "network": "clincusbr0"},
        }
    },
    "/1.0/networks/clincusbr0": {
        "managed": True,
        "type": "bridge",
        "status": "Created",
        "config": {"ipv4.address": "10.64.77.1/24"},
    },
    "/1.0/storage-pools/default/resources": {"space": {"used": 1 << 30, "total": 30 << 30}},
}


@pytest.fixture
def host(tmp_path):
    host = health.Machine(str(tmp_path))
    for path, text in {
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
        "/etc/subuid": "root:1000000:65536\n",
        "/etc/subgid": "root:1000000:65536\n",
        "/proc/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
        "/proc/sys/net/ipv4/ip_forward": "1\n",
    }.items():
        host.path(path).parent.mkdir(parents=True, exist_ok=True)
        host.path(path).write_text(text)
    return host


@pytest.fixture
def report(host, tmp_path):
    """A function that gives the report for an Incus with some answers changed."""

    def make(changes=(), incus=None, config=True, settings=None, **options):
        environ = {"HOME": str(tmp_path / "home")}
        loaded = clincus.with_flags(clincus.load_config(environ), settings or {}) if config else None
        known = incus or Answers({**WELL, **dict(changes)})
        return health.health_report(loaded, known, environ, machine=host, **options)

    return make


def test_the_report_has_what_scripts_know_whatever_is_not_well(report):
    names = (
        "os incus permissions image image_age web_push network_bridge ip_forwarding cgroup_availability id_mapping "
        "protection sealed_files git clincus_directory sessions_directory disk_space incus_storage_pool config tool "
        "active_containers saved_sessions orphaned_resources"
    )
    broken = report(config=False, config_error="/x/config.toml, line 3: no value")
    assert broken["checks"]["config"]["message"] == "/x/config.toml, line 3: no value"
    gone = report(incus=Failing("Incus is not running"))
    assert gone["status"] == "unhealthy"
    assert gone["checks"]["os"]["status"] == "ok"
    for document in (report(), gone, broken):
        assert list(document) == ["status", "timestamp", "version", "commit", "built", "checks", "summary"]
        assert document["timestamp"].endswith("Z")
        assert set(document["checks"]) == set(names.split())
        assert document["summary"]["total"] == len(names.split())
        for name, check in document["checks"].items():
            assert check["name"] == name
            assert check["message"]
            assert check["status"] == "ok" or (check["status"] in ("warning", "failed") and check["fix"])


def test_a_check_that_is_not_answered_says_so_and_keeps_no_other(report, monkeypatch):
    monkeypatch.setattr(health, "PATIENCE", 1.0)
    over, waiting = threading.Event(), []

    def never(*_, **__):
        waiting.append(threading.current_thread())
        over.wait(DEADLINE)
        raise clincus.IncusError("too late", 500)

    class Hung(Answers):
        def query(self, path, *_, **__):
            return never() if path.startswith("/1.0/networks/") else super().query(path)

    monkeypatch.setattr("clincus_wall.protect.protection_support", never)
    checks = report(incus=Hung(WELL))["checks"]
    over.set()
    for thread in waiting:
        thread.join()
    late = [name for name, check in checks.items() if check["message"] == "No answer within 1 s"]
    assert {"network_bridge", "protection"} <= {*late}
    assert (checks["incus"]["status"], checks["incus_storage_pool"]["status"]) == ("ok", "ok")


def instances(*found):
    return {"/1.0/instances?recursion=1": [{"name": name, **more} for name, more in found]}


def of(workspace, status="Running"):
    return {"status": status, "config": {"user.clincus.workspace": workspace}}


def space(used, total):
    found = {"used": int(used * health.GIB), "total": int(total * health.GIB)}
    return {"/1.0/storage-pools/default/resources": {"space": found}}


def image(**fields):
    return {IMAGE: {**WELL[IMAGE], **fields}}


TODAY = datetime.now(timezone.utc)
TAKEN = {"/1.0/networks/clincusbr0": {"status": "Unavailable", "config": {}}}


def test_what_incus_says_decides(report):
    for check, changes, status, words in (
        ("incus", {"/1.0": {"environment": {"server_version": "5.21"}}}, "warning", "older than 6.0"),
        ("permissions", {"/1.0": {"auth": "untrusted", "environment": {}}}, "failed", "cannot use Incus now"),
        ("image", {"/1.0/images/aliases/clincus": {"target": "gone"}}, "failed", "'clincus' is missing"),
        ("image", image(properties={"clincus.missing": "copilot"}), "warning", "without copilot"),
        ("image_age", image(created_at=(TODAY - timedelta(days=28)).isoformat()), "ok", ""),
        ("image_age", image(created_at=(TODAY - timedelta(days=40)).isoformat()), "warning", ""),
        ("network_bridge", TAKEN, "failed", "may be in use by something else"),
        ("incus_storage_pool", space(25, 30), "warning", ""),
        ("incus_storage_pool", space(28.5, 30), "failed", ""),
        ("orphaned_resources", instances(("b-1", {"config": {"user.clincus.build": "true"}})), "warning", "b-1"),
        ("orphaned_resources", instances(("c-1", of("/no/where"))), "warning", "containers c-1"),
        (
            "active_containers",
            instances(("a", of("/tmp")), ("b", of("/tmp", "Stopped")), ("c", {"status": "Running", "config": {}})),
            "ok",
            "1 running, 2 in all",
        ),
    ):
        found = report(changes)["checks"][check]
        assert (found["status"], words in found["message"]) == (status, True), (check, changes)


def test_what_the_machine_shows_decides(report, host, tmp_path):
    (tmp_path / "home").mkdir()
    for path, text, check, status in (
        ("/proc/mounts", "cgroup /sys/fs/cgroup/memory cgroup rw 0 0\n", "cgroup_availability", "warning"),
        ("/proc/mounts", "", "cgroup_availability", "failed"),
        ("/etc/subuid", "ann:1:65536\n", "id_mapping", "failed"),
        ("/proc/sys/net/ipv4/ip_forward", "0\n", "ip_forwarding", "warning"),
        ("/home/.gitconfig", "[safe]\n\tbareRepository = all\n", "git", "warning"),
        ("/home/.gitconfig", "[safe]\n\tbareRepository = explicit\n", "git", "ok"),
    ):
        host.path(path).write_text(text)
        assert report()["checks"][check]["status"] == status, (path, text)


def test_engines_that_cannot_be_used_are_told_and_keep_nobody_from_sessions_here(report, tmp_path, monkeypatch):
    path = tmp_path / "home" / ".config" / "clincus" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[engines.bare]\n[engines.gone]\n[engines.well]\n")
    doors = {"bare": Answers({}), "gone": Failing("it is away"), "well": Answers(WELL)}
    monkeypatch.setattr(clincus, "engine_door", lambda config, engine: doors[engine])
    found = report()["checks"]["engines"]
    assert (found["status"], found["fix"]) == ("warning", "clincus engine check bare")
    assert "2 of 3 cannot be used" in found["message"]
    assert list(found["details"]["faults"]) == ["bare", "gone"]
