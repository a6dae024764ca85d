"""Firefox and WebKit for a smoke test of the page: Debian's own, since Playwright brings builds that need its servers.

WebKitWebDriver speaks WebDriver (W3C) over HTTP, and Firefox the same commands by its own protocol, Marionette. What is
here is what the smoke test needs of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.incus_bed import unavailable
from tests.programs import DEADLINE, wait_until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id (WebDriver, 11)
ENTER, CONTROL, RELEASE = "\ue007", "\ue009", "\ue000"  # keys (WebDriver, 17.4.2)
FIREFOX = ("firefox-esr", "firefox")
FIREFOX_SETTINGS = {
    "marionette.port": 0,  # a free one, which stands in the file MarionetteActivePort
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.update.disabledForTesting": True,
    "remote.prefs.recommended": True,
}


class FailedCommandError(Exception):
    """A browser could not do what it was asked for, such as finding an element."""


class Engine:
    """A browser window. `send` carries a command, by its name and path of WebDriver and its name of Marionette."""

    def send(self, method: str, path: str, name: str, body: dict[str, Any]) -> Any:
        """Carry a command and give its value. Raises FailedCommandError."""
        raise NotImplementedError

    def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self.send("POST", "/url", "WebDriver:Navigate", {"url": url})

    def run(self, script: str) -> Any:
        """What a function body of JavaScript returns."""
        return self.send("POST", "/execute/sync", "WebDriver:ExecuteScript", {"script": script, "args": []})

    def find(self, selector: str) -> str:
        """The id of the element of a CSS selector, once it is there."""
        body = {"using": "css selector", "value": selector}

        def look() -> str:
            with contextlib.suppress(FailedCommandError):
                found = self.send("POST", "/element", "WebDriver:FindElement", body)
                return str(found.get("value", found)[ELEMENT])
            return ""

        return str(wait_until(look, f"{selector} on the page"))

    def type(self, selector: str, text: str) -> None:
        """Type into an element as a person does."""
        element = self.find(selector)
        self.send("POST", f"/element/{element}/value", "WebDriver:ElementSendKeys", {"id": element, "text": text})

    def click(self, selector: str) -> None:
        """Click on an element."""
        element = self.find(selector)
        self.send("POST", f"/element/{element}/click", "WebDriver:ElementClick", {"id": element})

    def expect_text(self, text: str) -> None:
        """Wait until the page shows a text; while another page is coming, there is no body."""

        def look() -> bool:
            with contextlib.suppress(FailedCommandError):
                return text in self.run("return document.body ? document.body.innerText : ''")
            return False

        wait_until(look, f"'{text}' on the page")


class WebKit(Engine):
    """A window of WebKitGTK."""

    def __init__(self, port: int, binary: Path) -> None:
        self._url = f"http://127.0.0.1:{port}/session"
        options = {"binary": str(binary), "args": ["--automation"]}
        wishes = {"webkitgtk:browserOptions": options, "acceptInsecureCerts": True}
        asked = {"capabilities": {"alwaysMatch": wishes}}
        self._url += "/" + self.send("POST", "", "", asked)["sessionId"]

    def send(self, method: str, path: str, name: str, body: dict[str, Any]) -> Any:
        fields = {"Content-Type": "application/json"}
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self._url + path, method=method, data=data, headers=fields)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise FailedCommandError(error.read().decode()) from None


class Firefox(Engine):
    """A window of Firefox (firefox-source-docs, Marionette protocol)."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rwb")
        self._number = 0
        self._read()  # who it is
        self.send("", "", "WebDriver:NewSession", {"acceptInsecureCerts": True})

    def _read(self) -> Any:
        size = b""
        while (digit := self._stream.read(1)) != b":":
            size += digit
        return json.loads(self._stream.read(int(size)))

    def send(self, method: str, path: str, name: str, body: dict[str, Any]) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, name, body]).encode()
        self._stream.write(b"%d:%s" % (len(message), message))
        self._stream.flush()
        _, _, error, value = self._read()
        if error:
            raise FailedCommandError(str(error))
        return value["value"] if isinstance(value, dict) and set(value) == {"value"} else value


@contextlib.contextmanager
def running(argv: list[str], **options: Any) -> Iterator[None]:
    """A program that ends with the block."""
    none = subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=none, stdout=none, stderr=none, **options) as process:
        try:
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=DEADLINE)
            process.kill()


def with_hosts(hosts: Path, argv: list[str]) -> list[str]:
    """A command line that runs a program with names of its own in place of /etc/hosts."""
    if os.geteuid() != 0:
        unavailable("a name of the dashboard's own needs root")
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts), *argv]


@contextlib.contextmanager
def firefox(folder: Path, hosts: Path) -> Iterator[Engine]:
    """A window of this machine's Firefox with a profile of its own."""
    program = next(filter(None, map(shutil.which, FIREFOX)), None)
    if not program:
        unavailable("Firefox is not installed; run `apt-get install firefox-esr`")
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in FIREFOX_SETTINGS.items()]
    (folder / "user.js").write_text("".join(lines))
    told = folder / "MarionetteActivePort"
    argv = [str(program), "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    with running(with_hosts(hosts, argv), env={**os.environ, "HOME": str(folder)}):
        port = int(wait_until(lambda: told.exists() and told.read_text(), "Firefox"))
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as connection:
            yield Firefox(connection)


@contextlib.contextmanager
def webkit(folder: Path, hosts: Path) -> Iterator[Engine]:
    """A window of this machine's WebKitGTK, on a display that nobody sees."""
    driver, display = shutil.which("WebKitWebDriver"), shutil.which("Xvfb")
    binary = next(Path("/usr/lib").glob("*/webkit2gtk-4*/MiniBrowser"), None)
    if not driver or not display or not binary:
        unavailable("WebKit is not installed; run `apt-get install webkit2gtk-driver xvfb`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reads, writes = os.pipe()
    screen = [str(display), "-displayfd", str(writes), "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    with running(screen, pass_fds=[writes]):
        os.close(writes)
        with open(reads, encoding="ascii") as told:
            number = told.readline().strip()
        environ = {
            **os.environ,
            "HOME": str(folder),
            "DISPLAY": f":{number}",
            "GDK_BACKEND": "x11",
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",  # as root it has none, as Chromium in the other tests
        }
        with running(with_hosts(hosts, [str(driver), f"--port={port}"]), env=environ):
            wait_until(lambda: is_listening(port), "WebKitWebDriver")
            window = WebKit(port, Path(str(binary)))
            yield window
            window.send("DELETE", "", "", {})


def is_listening(port: int) -> bool:
    """Whether a program listens at a port of this machine."""
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


ENGINES = {"firefox": firefox, "webkit": webkit}
