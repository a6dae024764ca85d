"""Clincus on a machine with systemd and a person who is not root: the service, and setup as a newcomer meets it."""

from __future__ import annotations

import json
import os
import re
import shlex

import pytest
from machine_box import PROGRAM, Machine
from machine_box import systemd_image as made_image
from terminal_box import Terminal

from tests.programs import wait_until


@pytest.fixture(scope="module")
def systemd_image(bed):
    """The image of the machine."""
    with made_image(bed) as alias:
        yield alias


def test_the_life_of_the_service(bed, systemd_image):
    machine = Machine(bed, systemd_image)
    words = machine.service("install")
    assert ("Service enabled." in words, "enable-linger" in words) == (True, False)
    assert machine.service("start") == "Service started.\nDashboard running at http://127.0.0.1:3000\n"
    assert machine.ask("/api/tools")[0] == 200
    status = machine.clincus("service", "status")
    pid = machine.status()["pid"]
    assert (status.returncode, f"PID:     {pid}\n" in status.stdout) == (0, True)
    assert "Status:  active (running)\nEnabled: yes\n" in status.stdout
    machine.service("install", "--port", "4000")
    assert machine.status()["pid"] == pid
    assert "http://127.0.0.1:4000" in machine.service("restart")
    assert machine.ask("/api/tools", port=4000)[0] == 200
    killed = machine.status()["pid"]
    machine.root(f"kill -KILL {killed}")
    wait_until(lambda: machine.status()["pid"] not in (0, killed) and machine.status()["active"], "a new server")

    machine.service("stop")
    done = machine.clincus("service", "status", "--format", "json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["active"], document["enabled"], document["pid"]) == (1, False, True, 0)
    assert document["state"] == "inactive (dead)", "a stop is no failure"
    machine.service("remove")
    done = machine.clincus("service", "status")
    assert (done.returncode, "not installed: run `clincus service install`" in done.stderr) == (1, True)
    assert machine.root("find /home/code/.config/systemd -name 'clincus*'") == ""


@pytest.mark.parametrize(("privileged", "protection"), [(False, "basic"), (True, "locked")])
def test_a_newcomer_gets_from_setup_to_a_session(bed, systemd_image, tmp_path, privileged, protection):
    """Incus's packages are there, everything else is missing; the person's login is older than all that setup does.

    In a privileged container Incus is as much at home as on a machine of its own.
    """
    machine = Machine(bed, systemd_image, privileged=privileged)
    machine.import_image()  # it is there as soon as the daemon is
    machine.root("systemctl stop incus.socket incus.service; rm /var/lib/incus/unix.socket")
    machine.root("sed -i /^root:/d /etc/subuid /etc/subgid")
    look = "cat /etc/subuid /etc/group; ls -A /var/lib/incus; systemctl is-active incus.service || true"
    before = machine.root(look)

    # The dashboard is there before Incus is.
    machine.service("install")
    machine.service("start")
    assert machine.ask("/api/sessions")[0] == 503

    done = machine.clincus("setup", "--dry-run")
    planned = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(planned) == ["id ranges", "daemon", "group", "storage", "network", "git", "image"]
    assert planned["daemon"] == "start the Incus daemon (systemctl)"
    assert machine.root(look) == before, "a dry run changes nothing"

    done = machine.clincus("setup", "--yes")
    assert done.returncode == 1
    command = re.search(r"only root can do\. Run: (.+)$", done.stderr.strip())
    assert command, done.stderr
    assert shlex.split(command.group(1)) == ["sudo", PROGRAM, "setup", "--yes"]
    assert machine.root(look) == before, "nor does one that is refused"

    done = machine.run(["sh", "-c", command.group(1)], timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Clincus itself need not wait" in done.stderr
    assert "code" in machine.root("getent group incus-admin")
    assert machine.root("systemctl is-active incus.socket incus.service") == "active\nactive\n"

    done = machine.clincus("setup")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Clincus is ready")
    checks = json.loads(machine.clincus("health", "--format", "json").stdout)["checks"]
    assert [name for name, check in checks.items() if check["status"] == "failed"] == []

    # With the login of before, in which plain `incus` has no access yet.
    assert machine.run(["incus", "list"]).returncode != 0
    machine.root("runuser -u code -- sh -c 'mkdir -p ~/project; cd ~/project; git init -q; echo hello >README.md'")
    wait_until(lambda: machine.ask("/api/sessions")[0] == 200, "the dashboard to have found Incus")
    status, words = machine.ask("/api/sessions", body={"workspace": "/home/code/project"})
    assert status == 200, words
    session = json.loads(words)
    assert session["protection"] == protection, words
    name = session["id"]
    listed = json.loads(machine.clincus("list", "--format", "json").stdout)["active_containers"]
    assert [one["name"] for one in listed] == [name]
    argv = machine.incus.exec_argv(
        machine.name, [PROGRAM, "attach", name, "--bash"], user=1000, terminal=True,
        environment={"HOME": "/home/code", "TERM": "xterm"},
    )  # fmt: skip
    terminal = Terminal(argv, os.environ, tmp_path)
    try:
        terminal.expect("$ ")
        terminal.type("cat README.md; touch mine; echo finis''hed\r")
        assert "hello" in terminal.expect("finished")
    finally:
        terminal.close()
    assert machine.root("stat --format=%U /home/code/project/mine") == "code\n"
    done = machine.clincus("stop", name)
    assert done.returncode == 0, done.stderr
    done = machine.clincus("clean", "--all", "--force")
    assert done.returncode == 0, done.stderr
    assert json.loads(machine.clincus("list", "--format", "json").stdout)["active_containers"] == []

    # With a login of afterwards, plain `incus` works too.
    assert machine.run(["su", "--login", "code", "--command", "incus list --format csv"], user=0).returncode == 0
