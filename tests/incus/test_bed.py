"""The test bed itself: what the other tests rely on."""

from __future__ import annotations


def launch(bed, name="clincus-bed"):
    bed.incus.launch(name, "clincus", {"config": {}})
    return name


def test_image_has_the_code_user_with_sudo(bed):
    name = launch(bed)
    assert bed.shell(name, "id -un; sudo -n id -un").split() == ["code", "root"]


def test_container_gets_an_address_by_dhcp(bed):
    name = launch(bed)
    bed.shell(name, "for i in $(seq 200); do ip -4 addr show eth0 | grep -q inet && exit 0; sleep 0.05; done; exit 1")


def test_stub_saves_a_conversation_and_goes_on_with_it(bed):
    name = launch(bed)
    bed.shell(name, "cd /workspace; printf 'hello\\nexit\\n' | claude --session-id one")
    again = bed.shell(name, "cd /workspace; printf 'exit 0\\n' | claude --resume one")
    assert "resumed one with 1 lines" in again
    assert "earlier: hello" in again


def test_stub_refuses_to_resume_what_is_not_there(bed):
    name = launch(bed)
    assert "1" in bed.shell(name, "cd /workspace; claude --resume two </dev/null; echo $?")


def test_clean_stop_is_quick_and_kills_nobody_by_force(bed):
    name = launch(bed)
    bed.incus.run("stop", name, "--timeout=10", timeout=20)
    assert bed.state(name) == "Stopped"
