"""The test bed itself: what the other tests rely on."""

from __future__ import annotations

import os

import pytest

from tests.incus_bed import own_project
from tests.programs import DEADLINE


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
