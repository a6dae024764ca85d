"""The health report: what is found, what is said of it, and what to do."""

from __future__ import annotations

import re
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import clincus
from clincus_cli import setup_commands as cli_setup_commands
from clincus_features import health
from tests.table import table

NOW = datetime(2027, 3, 1, 9, 15, 0, 250000, tzinfo=timezone.utc)
NAMES = [
    "os",
    "incus",
    "permissions",
    "image",
    "image_age",
    "web_push",
    "network_bridge",
    "ip_forwarding",
    "cgroup_availability",
    "id_mapping",
    "protection",
    "sealed_files",
    "git",
    "clincus_directory",
    "sessions_directory",
    "disk_space",
    "incus_storage_pool",
    "config",
    "tool",
    "active_containers",
    "saved_sessions",
    "orphaned_resources",
]


class Answers(clincus.Incus):
    """An Incus that knows the answers it is given."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def query(self, path, *_, **__):
        if path not in self.answers:
            raise clincus.IncusError("not found", 404)
        return self.answers[path]


class Gone(clincus.Incus):
    """An Incus that is not running."""

    def query(self, *_, **__):
        raise clincus.IncusError("Incus is not running. Run `clincus setup`, or start the incus service.", 503)


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


def test_document_has_the_fields_and_names_that_scripts_know(report):
    document = report()
    assert list(document) == ["status", "timestamp", "version", "commit", "built", "checks", "summary"]
    assert set(document["checks"]) == set(NAMES)
    assert document["summary"]["total"] == len(NAMES)
    for name, check in document["checks"].items():
        assert check["name"] == name
        assert check["status"] in ("ok", "warning", "failed")
        assert check["message"]


def test_whatever_is_not_well_says_what_to_do(report):
    for document in (report(), report(incus=Gone()), report(config=False, config_error="/x: broken")):
        for check in document["checks"].values():
            assert (check["status"] == "ok") or check["fix"], check


def test_without_incus_the_report_is_made_all_the_same(report):
    document = report(incus=Gone())
    assert document["status"] == "unhealthy"
    assert document["checks"]["incus"]["message"].startswith("Incus is not running")
    assert document["checks"]["os"]["status"] == "ok"


@pytest.fixture
def never(monkeypatch):
    """A function that does not return before the test is over. The report is less patient than the test."""
    monkeypatch.setattr(health, "PATIENCE", 1.0)
    over = threading.Event()

    def wait(*_, **__):
        assert over.wait(60)
        raise clincus.IncusError("too late", 500)

    yield wait
    over.set()


def test_a_check_that_incus_does_not_answer_says_so_and_keeps_no_other(report, never):
    class Hung(Answers):
        def query(self, path, *_, **__):
            return never() if path.startswith("/1.0/networks/") else super().query(path)

    checks = report(incus=Hung(WELL))["checks"]
    assert (checks["network_bridge"]["status"], checks["network_bridge"]["message"]) == (
        "failed",
        "No answer within 1 s",
    )
    assert (checks["incus"]["status"], checks["incus_storage_pool"]["status"]) == ("ok", "ok")


def test_the_check_of_the_protection_is_not_waited_for_either(report, never, monkeypatch):
    monkeypatch.setattr("clincus_wall.protect.protection_support", never)
    assert report()["checks"]["protection"]["message"] == "No answer within 1 s"


def test_a_broken_config_is_a_failed_check(report):
    document = report(config=False, config_error="/x/config.toml, line 3: no value")
    assert document["checks"]["config"]["status"] == "failed"
    assert document["checks"]["config"]["message"] == "/x/config.toml, line 3: no value"


def test_a_machine_without_git_is_told_what_will_not_start(report, monkeypatch):
    monkeypatch.setattr("clincus_wall.protect.protection_support", lambda _: clincus.protect.ProtectionSupport())
    assert report()["checks"]["protection"]["status"] == "ok"
    monkeypatch.setattr("clincus_wall.protect.find_git", lambda *_: "")
    check = report()["checks"]["protection"]
    assert (check["status"], check["fix"]) == ("warning", "install git")


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, "ok", "Docker, Podman and bubblewrap run in clones, or with --nesting"),
        ({"security.nesting": True}, "warning", "Basic for mounted folders"),
        (
            {"security.nesting": True, "security.require_locked": True},
            "warning",
            "No session on a mounted folder starts",
        ),
    ],
)
def test_it_says_what_nested_containers_cost(report, monkeypatch, settings, status, words):
    monkeypatch.setattr("clincus_wall.protect.protection_support", lambda _: clincus.protect.ProtectionSupport())
    check = report(settings=settings)["checks"]["protection"]
    assert (check["status"], words in check["message"]) == (status, True)


@pytest.mark.parametrize(
    ("check", "changes", "status", "words"),
    [
        ("incus", {"/1.0": {"environment": {"server_version": "5.21"}}}, "warning", "older than 6.0"),
        ("permissions", {"/1.0": {"auth": "untrusted", "environment": {}}}, "failed", "cannot use Incus now"),
        ("image", {"/1.0/images/aliases/clincus": {"target": "gone"}}, "failed", "'clincus' is missing"),
        (
            "image",
            {IMAGE: {**WELL[IMAGE], "properties": {"clincus.missing": "copilot"}}},
            "warning",
            "without copilot",
        ),
        ("network_bridge", {"/1.0/profiles/default": {"devices": {}}}, "failed", "no network"),
        (
            "network_bridge",
            {"/1.0/networks/clincusbr0": {"status": "Unavailable", "config": {}}},
            "failed",
            "may be in use by something else",
        ),
        ("incus_storage_pool", {"/1.0/profiles/default": {"devices": {}}}, "failed", "no storage"),
        (
            "orphaned_resources",
            {"/1.0/instances?recursion=1": [{"name": "clincus-build-1", "config": {"user.clincus.build": "true"}}]},
            "warning",
            "containers clincus-build-1",
        ),
        (
            "orphaned_resources",
            {"/1.0/instances?recursion=1": [{"name": "clincus-1", "config": {"user.clincus.workspace": "/no/where"}}]},
            "warning",
            "containers clincus-1",
        ),
        (
            "active_containers",
            {
                "/1.0/instances?recursion=1": [
                    {"name": "a", "status": "Running", "config": {"user.clincus.workspace": "/tmp"}},
                    {"name": "b", "status": "Stopped", "config": {"user.clincus.workspace": "/tmp"}},
                    {"name": "c", "status": "Running", "config": {}},
                ]
            },
            "ok",
            "1 running, 2 in all",
        ),
    ],
)  # fmt: skip
def test_what_incus_says_decides(report, check, changes, status, words):
    found = report(changes)["checks"][check]
    assert found["status"] == status
    assert words in found["message"]


@pytest.mark.parametrize(
    ("file", "check", "status"),
    [
        (("/proc/mounts", "cgroup /sys/fs/cgroup/memory cgroup rw 0 0\n"), "cgroup_availability", "warning"),
        (("/proc/mounts", ""), "cgroup_availability", "failed"),
        (("/etc/subuid", "ann:1:65536\n"), "id_mapping", "failed"),
        (("/proc/sys/net/ipv4/ip_forward", "0\n"), "ip_forwarding", "warning"),
    ],
)
def test_what_the_machine_shows_decides(report, host, file, check, status):
    path, text = file
    host.path(path).write_text(text)
    assert report()["checks"][check]["status"] == status


@pytest.mark.parametrize(
    ("used", "total", "status"),
    [
        (1, 30, "ok"),
        (25, 30, "warning"),
        (16, 20, "warning"),
        (28.5, 30, "failed"),
        (19, 20.5, "failed"),
        (0, 0, "warning"),
    ],
)
def test_room_in_the_pool(report, used, total, status):
    space = {"used": int(used * health.GIB), "total": int(total * health.GIB)}
    found = report({"/1.0/storage-pools/default/resources": {"space": space}})["checks"]["incus_storage_pool"]
    assert found["status"] == status


@pytest.mark.parametrize(
    ("created", "status"),
    [
        (datetime.now(timezone.utc) - timedelta(days=28), "ok"),
        (datetime.now(timezone.utc) - timedelta(days=40), "warning"),
        (datetime(1, 1, 1, tzinfo=timezone.utc), "warning"),
        (None, "warning"),
    ],
    ids=["young", "old", "Incus's never", "none"],
)
def test_age_of_the_image(report, created, status):
    made = created.isoformat() if created else ""
    assert report({IMAGE: {**WELL[IMAGE], "created_at": made}})["checks"]["image_age"]["status"] == status


@table(
    ("statuses", "status"),
    [("ok ok", "healthy"), ("ok warning", "degraded"), ("ok warning failed", "unhealthy")],
)
def test_the_worst_check_decides(statuses, status):
    findings = {
        health.Check(str(n), "", "", health.Examination.check_system): health.Finding(word, "", "", {})
        for n, word in enumerate(statuses.split())
    }
    document = health.health_document(findings, NOW)
    assert document["status"] == status
    assert document["timestamp"] == "2027-03-01T09:15:00.250000Z"


def test_the_report_names_the_version_that_made_it(monkeypatch):
    monkeypatch.setattr(clincus, "__commit__", "abc")
    document = health.health_document({}, NOW)
    assert (document["version"], document["commit"], document["built"]) == (clincus.__version__, "abc", "unknown")


def test_a_setup_that_was_killed_left_packages_without_their_services(report, host):
    path = host.path(health.HOLD_FILE)
    path.parent.mkdir(parents=True)
    path.write_text(health.HOLD_TEXT)
    found = report()["checks"]["orphaned_resources"]
    assert found["status"] == "warning"
    assert "keeps packages from starting their services" in found["message"]
    assert found["fix"] == "sudo rm /usr/sbin/policy-rc.d"
    path.write_text("#!/bin/sh\nexit 101\n")  # of an image of a container
    assert report()["checks"]["orphaned_resources"]["status"] == "ok"


def test_the_makefile_writes_the_text_that_health_knows():
    makefile = Path(clincus.__file__).with_name("Makefile").read_text()
    assert f"printf {health.HOLD_TEXT!r} >" in makefile


def end_of_cable(place, name, index, link, address="00:11:22:33:44:55", *, in_bridge=False):
    """An interface below a folder such as /sys/class/net."""
    folder = place / name
    folder.mkdir(parents=True)
    for fact, value in (("ifindex", index), ("iflink", link), ("address", address)):
        (folder / fact).write_text(f"{value}\n")
    if in_bridge:
        (folder / "master").mkdir()


OF_INCUS = "10:66:6a:60:35:c3"  # the container's end, as Incus 6.0.4 makes it
CABLES = {
    "its container is gone": (("vethaaaaaaa1", "vethaaaaaaa2"), OF_INCUS, ["vethaaaaaaa1"]),
    "made by an older version": (("vethaaaaaaa1", "vethaaaaaaa2"), "00:16:3e:01:02:03", ["vethaaaaaaa1"]),
    "one end belongs to an instance": (("vethbbbbbbb1", "vethbbbbbbb2"), OF_INCUS, []),
    "of Docker": (("veth1a2b3c4", "veth5d6e7f8"), "02:42:ac:11:00:02", []),
    "of a person": (("veth0", "veth1"), OF_INCUS, []),
    "of a program with the same names": (("vethaaaaaaa1", "vethaaaaaaa2"), "7e:01:02:03:04:05", []),
}


@table(("names", "address", "dead"), CABLES.values(), ids=CABLES.keys())
def test_a_dead_cable_is_one_of_incus_with_both_ends_here(tmp_path, names, address, dead):
    one, other = names
    end_of_cable(tmp_path, one, 11, 12)
    end_of_cable(tmp_path, other, 12, 11, address)
    assert health.dead_veths(tmp_path, {"vethbbbbbbb2"}) == dead


def test_a_cable_with_an_end_in_a_bridge_is_not_dead(tmp_path):
    end_of_cable(tmp_path, "vethaaaaaaa1", 11, 12, in_bridge=True)
    end_of_cable(tmp_path, "vethaaaaaaa2", 12, 11, OF_INCUS)
    assert health.dead_veths(tmp_path) == []


def test_a_cable_into_a_container_is_not_dead(tmp_path):
    end_of_cable(tmp_path, "vethaaaaaaa1", 11, 2, OF_INCUS)
    end_of_cable(tmp_path, "vethaaaaaaa2", 2, 7, OF_INCUS)
    assert health.dead_veths(tmp_path) == []


def test_every_dead_cable_is_removed_by_the_command(report, host):
    place = host.path("/sys/class/net")
    for number in (1, 3, 5):
        end_of_cable(place, f"vethaaaaaaa{number}", number, number + 1)
        end_of_cable(place, f"vethaaaaaaa{number + 1}", number + 1, number, OF_INCUS)
    config = {"volatile.eth0.host_name": "vethaaaaaaa5", "volatile.eth0.hwaddr": OF_INCUS}
    found = report({"/1.0/instances?recursion=1": [{"name": "theirs", "config": config}]})
    finding = found["checks"]["orphaned_resources"]
    assert finding["message"] == "Left over: 2 pairs of network interfaces"
    assert finding["fix"] == "echo vethaaaaaaa1 vethaaaaaaa3 | xargs -n 1 sudo ip link delete"


class Closed(clincus.Incus):
    """An Incus that does not let this user in."""

    def query(self, *_, **__):
        raise clincus.incus_failure("Error: You don't have the needed permissions to talk to the incus daemon")


@pytest.mark.parametrize(
    ("incus", "fix"),
    [(Gone(), "clincus setup"), (Closed(), "sudo usermod -aG incus-admin ann, then log in again")],
    ids=["it does not run", "it lets others in"],
)
def test_who_cannot_use_incus_is_told_of_the_group_only_where_that_is_the_reason(report, host, monkeypatch, incus, fix):
    monkeypatch.setattr(type(host), "is_root", lambda self: False)
    monkeypatch.setattr(type(host), "user_name", lambda self: "ann")
    assert report(incus=incus)["checks"]["permissions"]["fix"] == fix


def test_a_user_without_a_line_in_passwd_gets_a_report(report, host, monkeypatch):
    monkeypatch.setattr(health.os, "geteuid", lambda: 987654)
    assert report()["checks"]["permissions"]["message"] == "'987654' may use Incus"
    found = report({"/1.0": {"auth": "untrusted", "environment": {}}})["checks"]["permissions"]
    assert (found["status"], found["fix"]) == (
        "failed",
        "give the uid 987654 a line in /etc/passwd, and that user the group incus-admin",
    )


def test_engines_that_cannot_be_used_are_told_and_keep_nobody_from_sessions_here(report, tmp_path, monkeypatch):
    path = tmp_path / "home" / ".config" / "clincus" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[engines.bare]\n[engines.gone]\n[engines.well]\n")
    doors = {"bare": Answers({}), "gone": Gone(), "well": Answers(WELL)}
    monkeypatch.setattr(clincus, "engine_door", lambda config, engine: doors[engine])
    found = report()["checks"]["engines"]
    assert (found["status"], found["fix"]) == ("warning", "clincus engine check bare")
    assert found["message"] == '2 of 3 cannot be used: engine bare: the image "clincus" is not there'
    assert list(found["details"]["faults"]) == ["bare", "gone"]


def test_no_question_is_asked_twice(report):
    asked = []

    class Counting(Answers):
        def query(self, path, *_, **__):
            asked.append(path)
            return super().query(path)

    report(incus=Counting(WELL))
    ours = [path for path in asked if path != "/1.0"]  # which the core asks too, for the wall
    assert len(ours) == len(set(ours))


def test_text_has_the_words_that_scripts_match(report):
    text = "\n".join(cli_setup_commands.health_lines(report(incus=Gone())))
    for words in (
        "Clincus Health Check",
        "SYSTEM:",
        "CRITICAL:",
        "STORAGE:",
        "CONFIGURATION:",
        "STATUS:",
        "[OK]",
        "[FAIL]",
    ):
        assert words in text
    assert re.search(r"STATUS: UNHEALTHY\n\d+ of \d+ checks failed$", text)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "warning"),
        ("[safe]\n\tbareRepository = all\n", "warning"),
        ("[safe]\n\tbareRepository = explicit\n", "ok"),
        ("[unfinished", "warning"),
    ],
)
def test_git_that_uses_any_bare_repository_is_told_of_with_what_closes_it(report, tmp_path, text, status):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(text)
    check = report()["checks"]["git"]
    assert check["status"] == status
    assert check["fix"] == ("" if status == "ok" else health.BARE_FIX)
