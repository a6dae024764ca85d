"""The test bed itself: what the other tests rely on."""

from __future__ import annotations

import os

import pytest

from tests.incus_bed import own_project
from tests.programs import DEADLINE


@pytest.fixture(scope="module")
def box(bed):
    """A container for those tests that leave it running."""
    with bed.keeping("clincus-bed"):
        bed.incus.launch("clincus-bed", "clincus", {"config": {}})
        yield "clincus-bed"


def test_image_has_the_code_user_with_sudo(bed, box):
    assert bed.shell(box, "id -un; sudo -n id -un").split() == ["code", "root"]


def test_container_gets_an_address_by_dhcp(bed, box):
    bed.shell(box, "until ip -4 addr show eth0 | grep -q inet; do sleep 0.05; done")


def test_stub_saves_a_conversation_and_goes_on_with_it(bed, box):
    bed.shell(box, "cd /workspace; printf 'hello\\nexit\\n' | claude --session-id one")
    again = bed.shell(box, "cd /workspace; printf 'exit 0\\n' | claude --resume one")
    assert "resumed one with 1 lines" in again
    assert "earlier: hello" in again


def test_stub_refuses_to_resume_what_is_not_there(bed, box):
    assert "1" in bed.shell(box, "cd /workspace; claude --resume two </dev/null; echo $?")


def test_clean_stop_is_quick_and_kills_nobody_by_force(bed):
    bed.incus.launch("clincus-stop", "clincus", {"config": {}})
    bed.wait_for_init("clincus-stop")
    bed.incus.run("stop", "clincus-stop", "--timeout=60", timeout=DEADLINE)
    assert bed.state("clincus-stop") == "Stopped"


@pytest.mark.skipif(os.geteuid() != 0, reason="the bed is such a project already")
def test_a_person_who_is_not_root_has_a_project_and_a_bridge_and_nothing_else_is_touched(bed):
    def look():
        lists = {path: bed.incus.query(path) for path in ("/1.0/projects", "/1.0/images")}
        networks = bed.incus.query("/1.0/networks?recursion=1")  # and the interfaces of parallel runs, unmanaged
        return {**lists, "networks": [network["name"] for network in networks if network["managed"]]}

    bed.incus.launch("theirs", "clincus", {"config": {}})
    before = {**look(), "profile": bed.incus.query("/1.0/profiles/default")}
    left = "clincus-test-4194305"  # of a run that was killed: no process has such a number
    bed.incus.query("/1.0/projects", "POST", {"name": left, "config": {"features.profiles": "true"}})
    with own_project() as own:
        assert left not in " ".join(bed.incus.query("/1.0/projects"))
        assert own.names() == []
        own.incus.launch("theirs", "clincus", {})
        assert (own.state("theirs"), bed.state("theirs")) == ("Running", "Running")
        own.delete_all()
        assert own.names() == []
    assert {**look(), "profile": bed.incus.query("/1.0/profiles/default")} == before
    assert set(bed.names()) - bed.kept == {"theirs"}
