"""A stand-in for a dev server: checks the Host it is asked for, and serves what is hard to pass on. ADDRESS PORT…"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

BIG = 50 << 20
PUT = """
const loaded = one => new Promise((done, fail) => { one.onload = one.onopen = done; one.onerror = fail; });
const make = (kind, fields) => document.body.appendChild(Object.assign(document.createElement(kind), fields));
const put = (kind, fields) => loaded(make(kind, fields));
"""
# A page that tries what an app must not be able to do. `report` is what came of it.
ATTACKS = """<!doctype html><title>attacks</title><body><script>
const post = (path, type, more) =>
  fetch(API + path, {method: 'POST', body: '{"path": "/tmp"}', headers: {'Content-Type': type}, ...more});
PUT
const tries = {
  write: () => post('/api/workspaces', 'application/json'),
  form: () => post('/api/workspaces', 'text/plain', {mode: 'no-cors', credentials: 'include'}),
  look: () => fetch(API + '/api/sessions', {mode: 'no-cors', credentials: 'include'}),
  read: () => fetch(API + '/api/sessions').then(answer => answer.json()),
  socket: () => loaded(new WebSocket(API.replace('http', 'ws') + '/ws/events')),
  script: () => put('script', {src: API + '/api/sessions'}),
};
(async () => {
  const report = {cookie: document.cookie};
  for (const [name, work] of Object.entries(tries)) report[name] = await work().then(() => 'done', error => 'failed');
  for (const domain of ['localhost', '.localhost', location.hostname])
    document.cookie = COOKIE + '=tossed; path=/; domain=' + domain;
  document.cookie = COOKIE + '=tossed; path=/';
  report.tossed = document.cookie;
  const worker = await navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready);
  report.worker = worker.scope;
  window.report = report;
})().catch(error => { window.report = {error: String(error)}; });
</script>"""

# A page that tries to reach another server by each way that a policy can forbid. `report` is what came of it.
LEAKS = """<!doctype html><title>leaks</title><body><script>
PUT
const at = way => AWAY + '/' + way;
const IN_WORKER = "fetch('WHERE', {mode: 'no-cors'}).then(() => 'done', () => 'failed').then(postMessage)";
const tries = {
  own: () => fetch('/own'),
  fetch: () => fetch(at('fetch'), {mode: 'no-cors'}),
  beacon: () => navigator.sendBeacon(at('beacon'), 'x') ? Promise.resolve() : Promise.reject(),
  image: () => put('img', {src: at('image')}),
  script: () => put('script', {src: at('script')}),
  style: () => put('link', {rel: 'stylesheet', href: at('style')}),
  prefetch: () => put('link', {rel: 'prefetch', href: at('prefetch')}),
  frame: () => put('iframe', {src: at('frame')}),
  socket: () => loaded(new WebSocket(at('socket').replace('http', 'ws'))),
  worker: () => new Promise(done => {
    new Worker(URL.createObjectURL(new Blob([IN_WORKER.replace('WHERE', at('worker'))]))).onmessage = done;
  }),
  form: async () => {
    make('iframe', {name: 'inner'});
    make('form', {method: 'post', action: at('form'), target: 'inner'}).submit();
  },
  ahead: async () => {
    const rules = JSON.stringify({prefetch: [{source: 'list', urls: [at('ahead')]}]});
    make('script', {type: 'speculationrules', text: rules});
  },
  kept: async () => {
    await navigator.serviceWorker.register('/leaking.js?' + encodeURIComponent(at('kept')));
    const worker = (await navigator.serviceWorker.ready).active;
    await new Promise(done => {
      navigator.serviceWorker.onmessage = done;
      worker.postMessage('go');
    });
  },
};
const late = () => new Promise(done => { setTimeout(done, 3000, 'late'); });
const tell = work => Promise.race([work().then(() => 'done', () => 'failed'), late()]);
const end = ([name, work]) => tell(work).then(word => [name, word]);
Promise.all(Object.entries(tries).map(end)).then(ends => { window.report = Object.fromEntries(ends); });
</script>"""
LEAKING = """onmessage = ({source}) => fetch(decodeURIComponent(location.search.slice(1)), {mode: 'no-cors'})
  .then(() => 'done', () => 'failed').then(word => source.postMessage(word));"""
WORKERS = {"/worker.js": "self.onfetch = () => {};", "/leaking.js": LEAKING}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Each path is a hard case of its own."""
        port = self.server.server_address[1]
        if self.headers["Host"] != f"localhost:{port}":
            self.answer(403, b"Blocked request. This host is not allowed.")
            return
        path, _, query = self.path.partition("?")
        if path == "/ws":
            self.echo_frames()
        elif path == "/redirect":
            self.answer(302, b"", Location=f"http://localhost:{port}/after")
        elif path == "/login":
            self.send_response(200)
            self.send_header("Set-Cookie", "app=1; Domain=localhost; Path=/")
            self.send_header("Set-Cookie", "clincus-preview-1=stolen")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/big":
            self.send_response(200)
            self.send_header("Content-Length", str(BIG))
            self.end_headers()
            for _ in range(BIG >> 16):
                self.wfile.write(b"x" * (1 << 16))
        elif path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nfirst\r\n6;a=b\r\nsecond\r\n0\r\nEnd: 1\r\n\r\n")
        elif path == "/endless":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (1 << 16))
        elif path == "/attacks":
            api, cookie = query.split("&")
            page = ATTACKS.replace("PUT", PUT).replace("API", json.dumps(api)).replace("COOKIE", json.dumps(cookie))
            self.answer(200, page.encode(), **{"Content-Type": "text/html"})
        elif path == "/leaks":
            policy = f"img-src 'none'; report-uri {query}/report"
            page = LEAKS.replace("PUT", PUT).replace("AWAY", json.dumps(query))
            self.answer(
                200, page.encode(), **{"Content-Type": "text/html", "Content-Security-Policy-Report-Only": policy}
            )
        elif path in WORKERS:
            self.answer(200, WORKERS[path].encode(), **{"Content-Type": "text/javascript"})
        else:
            told = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
            self.answer(200, told, **{"Content-Type": "application/json", "X-Frame-Options": "DENY"})

    def do_POST(self) -> None:
        """Tell how much came."""
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            digest.update(piece)
            left -= len(piece)
        self.answer(200, digest.hexdigest().encode())

    def answer(self, status: int, body: bytes, **fields: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def echo_frames(self) -> None:
        """Send back each short text frame of a WebSocket (RFC 6455), until the first that is none."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        while (start := self.rfile.read(2))[:1] == b"\x81":
            mask, data = self.rfile.read(4), self.rfile.read(start[1] & 0x7F)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
            self.wfile.write(bytes((0x81, len(text))) + text)
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def app_in(bed: Any, name: str, address: str, *ports: int) -> Iterator[subprocess.Popen[bytes]]:
    """Python from this host in the network of a container, whose image has none."""
    pid = str(bed.incus.query(f"/1.0/instances/{name}/state")["pid"])
    argv = ["nsenter", "--target", pid, "--net", sys.executable, __file__, address, *map(str, ports)]
    running = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


class Server6(http.server.ThreadingHTTPServer):
    """The same at an address of IPv6."""

    address_family = socket.AF_INET6


def main() -> None:
    """Serve at the address and each of the ports, until killed."""
    address, *ports = sys.argv[1:]
    kind = Server6 if ":" in address else http.server.ThreadingHTTPServer
    servers = [kind((address, int(port)), Handler) for port in ports]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
