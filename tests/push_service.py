"""A push service of our own: it verifies who asks it (RFC 8292) as the real ones do, and answers what it is told to.

with PushService() as service:
    endpoint = service.endpoint("phone", 429, 201)   # answers 429 first, then 201 to each further push
    service.pushes                                    # the pushes that were signed well, oldest first
    service.faults                                    # what was wrong with the others, which got 403
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from clincus_features.notify.outbox import Services

LOCAL_SERVICES = Services("http", r"127\.0\.0\.1", r":\d+")
# What goes before an uncompressed point of P-256 in a SubjectPublicKeyInfo (RFC 5480, 2).
P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


class Push(NamedTuple):
    name: str  # of the device
    headers: Mapping[str, str]
    claims: Mapping[str, Any]
    status: int  # that it was answered with


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def integer(data: bytes) -> bytes:
    """A number in DER."""
    plain = data.lstrip(b"\0") or b"\0"
    plain = b"\0" + plain if plain[0] & 0x80 else plain
    return bytes([2, len(plain)]) + plain


def is_signed(token: str, public: bytes) -> bool:
    """Whether an ES256 token was signed by the owner of a public key: `openssl` says so."""
    signed, _, signature = token.rpartition(".")
    raw = decode(signature)
    numbers = integer(raw[:32]) + integer(raw[32:])
    with TemporaryDirectory() as folder:
        key, proof = Path(folder, "key.pem"), Path(folder, "signature")
        body = base64.encodebytes(P256 + public).decode()
        key.write_text(f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n")
        proof.write_bytes(bytes([0x30, len(numbers)]) + numbers)
        argv = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(proof)]
        return subprocess.run(argv, input=signed.encode(), capture_output=True, check=False).returncode == 0


class PushService(ThreadingHTTPServer):
    """The service, on a port of its own while the `with` block runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: dict[str, list[int]] = {}
        self.pushes: list[Push] = []
        self.faults: list[str] = []
        self.messages: list[tuple[str, Any]] = []  # path and body of each message to a webhook

    def __enter__(self) -> PushService:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def endpoint(self, name: str, *answers: int) -> str:
        """The endpoint of a new device; its pushes are answered so, the last answer for ever."""
        self.answers[f"/push/{name}"] = list(answers or (201,))
        return f"{self.url}/push/{name}"

    def webhook(self, name: str, *answers: int) -> str:
        self.answers[f"/hook/{name}"] = list(answers or (200,))
        return f"{self.url}/hook/{name}"


class Handler(BaseHTTPRequestHandler):
    server: PushService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answers = self.server.answers.get(self.path, [404])
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        if self.path.startswith("/hook/"):
            self.server.messages.append((self.path, json.loads(body)))
        else:
            try:
                claims = self.check(body)
                self.server.pushes.append(Push(self.path[6:], dict(self.headers), claims, status))
            except (AssertionError, ValueError, KeyError) as error:
                self.server.faults.append(repr(error))
                status = 403
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", f"{self.server.url}/hook/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def check(self, body: bytes) -> Mapping[str, Any]:
        """The claims of a push. AssertionError if a real service would refuse it."""
        scheme, _, rest = self.headers["Authorization"].partition(" ")
        fields = dict(part.strip().split("=", 1) for part in rest.split(","))
        public = decode(fields["k"])
        header, claims, _ = fields["t"].split(".")
        said = json.loads(decode(claims))
        assert scheme == "vapid"
        assert len(public) == 65
        assert json.loads(decode(header)) == {"typ": "JWT", "alg": "ES256"}
        assert is_signed(fields["t"], public), "the signature is wrong"
        assert said["aud"] == self.server.url
        assert time.time() < said["exp"] <= time.time() + 24 * 3600
        assert said["sub"].startswith(("https://", "mailto:"))
        assert int(self.headers["TTL"]) > 0
        assert body == b""
        return dict(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""
