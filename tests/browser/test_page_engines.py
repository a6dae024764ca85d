"""The page in Firefox and in WebKit, behind a token and a proxy with TLS: sign-in to changes."""

from __future__ import annotations

from contextlib import closing

import pytest
from engines import CONTROL, ENGINES, ENTER, RELEASE
from road import Road, context_for

from tests.incus_bed import CLAUDE_RESTS
from tests.programs import wait_until

TOKEN = "a-token-of-at-least-22-characters"
# Under an allowed name this machine's own user needs the token, too.
HOST = "dashboard.test"


@pytest.mark.parametrize("name", ENGINES)
def test_the_page_works_from_sign_in_to_changes(name, bed, start_server, make_workspace, tmp_path):
    workspace = make_workspace("my-app")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "profile").mkdir()
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {HOST}\n")
    engine = ENGINES[name](tmp_path / "profile", tmp_path / "hosts")
    with closing(Road(context_for(tmp_path, HOST))) as road, engine as window:
        place = f"https://{HOST}:{road.port}"
        server = start_server(
            config=f'[dashboard]\nworkspace_roots = ["{workspace.parent}"]\n',
            arguments=("--allowed-host", f"{HOST}:{road.port}", "--token-file", str(tmp_path / "token")),
        )
        road.server_port = server.port
        server.host = "127.0.0.1"  # a program of the owner's comes without the token
        session = server.create(workspace)
        window.go(place)
        window.type("input", TOKEN + ENTER)
        window.expect_text("my-app")
        assert "token" not in window.run("return location.href")
        assert window.run("return isSecureContext")

        window.go(f"{place}/sessions/{session['id']}")
        window.click(".xterm-screen")
        wait_until(lambda: bed.shell(session["id"], "tmux list-clients"), "the page at the tool")
        window.type(".xterm-helper-textarea", f"typed in {name}{ENTER}")
        bed.await_screen(session["id"], f"echo: typed in {name}")

        bed.draw(session["id"], CLAUDE_RESTS)
        window.type('textarea[aria-label^="Prompt for"]', f"A prompt{CONTROL}{ENTER}{RELEASE}")
        told = f"/api/sessions/{session['id']}/prompts"
        wait_until(lambda: [one["text"] for one in server.get(told).json] == ["A prompt"], "the prompt")

        (workspace / "README.md").write_text("changed\n")
        window.go(f"{place}/sessions/{session['id']}/changes")
        window.expect_text("README.md")
