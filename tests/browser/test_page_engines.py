"""The page in Firefox and in WebKit, behind a token and a proxy with TLS, on a desk and a phone: sign-in to changes.

Debian's WebKit has no touch: on its phone a finger is a mouse.
"""

from __future__ import annotations

import pytest
from engines import CONTROL, ENGINES, ENTER, RELEASE
from tls_proxy import tls_proxy

from tests.incus_bed import CLAUDE_RESTS
from tests.programs import wait_until

TOKEN = "a-token-of-at-least-22-characters"
# Under an allowed name this machine's own user needs the token, too.
HOST = "dashboard.test"
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.mark.parametrize("screen", [(name, size) for name in ENGINES for size in SIZES], ids="-".join)
def test_the_page_works_from_sign_in_to_changes(screen, bed, start_server, make_workspace, tmp_path):
    workspace = make_workspace("my-app")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "profile").mkdir()
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {HOST}\n")
    name, size = screen
    is_phone = size == "phone"
    engine = ENGINES[name](tmp_path / "profile", tmp_path / "hosts", touch=is_phone)
    with tls_proxy(tmp_path, HOST) as proxy, engine as window:
        place = f"https://{HOST}:{proxy.port}"
        server = start_server(
            config=f'[dashboard]\nworkspace_roots = ["{workspace.parent}"]\n',
            arguments=("--allowed-host", f"{HOST}:{proxy.port}", "--token-file", str(tmp_path / "token")),
        )
        proxy.server_port = server.port
        server.host = "127.0.0.1"  # a program of the owner's comes without the token
        session = server.create(workspace)
        window.resize(*SIZES[size])
        window.go(place)
        width = window.run("return innerWidth")
        assert width == SIZES["phone"][0] if is_phone else width > 1000
        assert window.run("return matchMedia('(pointer: coarse)').matches") == (is_phone and name == "firefox")
        window.type("input", TOKEN + ENTER)
        window.expect_text("my-app")
        assert "token" not in window.run("return location.href")
        assert window.run("return isSecureContext")

        window.go(f"{place}/sessions/{session['id']}")
        window.run("addEventListener('pointerdown', (event) => { window.pointer = event.pointerType; }, true)")
        (window.tap if is_phone else window.click)(".xterm-screen")
        assert window.run("return window.pointer") == ("touch" if is_phone and name == "firefox" else "mouse")
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
