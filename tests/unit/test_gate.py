"""The gate: who may come in, from the kernel's table of connections to the cookie."""

from __future__ import annotations

import io
import os
import socket
import stat
from email.message import Message
from types import SimpleNamespace

import pytest

import clincus
from clincus_cli import entry
from clincus_features.sign_in import TokenGate
from tests.table import table

PORT = 3000
TOKEN = "a-token-of-these-tests"
OWNER = clincus.Peer("127.0.0.1", ("127.0.0.1", PORT), "", 1000)
NEIGHBOUR = clincus.Peer("127.0.0.1", ("127.0.0.1", PORT), "this connection comes from a neighbour", 1001)
FAR = clincus.Peer("192.0.2.7", ("192.0.2.1", PORT), "this connection comes from another machine")


def ask(gate, *, peer=OWNER, method="GET", path="/api/tools", query=None, host="127.0.0.1:3000", body=b"", **fields):
    """Have the gate look at a request: None when it may pass, the status when not, else the answer."""
    headers = Message()
    for name, value in ({"Host": host} if host is not None else {}).items():
        headers[name] = value
    for name, value in fields.items():
        headers[name.replace("_", "-")] = value
    connection = SimpleNamespace(rfile=io.BytesIO(body), close_connection=False)
    request = clincus.Request(method, path, query or {}, headers, len(body), peer, connection)
    try:
        return gate.admit_request(request)
    except clincus.ClincusError as error:
        return error.status


# The Host header


@table(
    "host",
    [
        None,
        "evil.example:3000",
        "localhost:3001",
        "localhost.evil.example:3000",
        "evil.example@127.0.0.1:3000",
        "0.0.0.0:3000",
        "127.0.0.1:3000, evil.example",
    ],
)
def test_any_other_host_than_a_loopback_name_with_our_port_is_refused(host):
    assert ask(clincus.Gate(), host=host) == 403
    for ours in ("127.0.0.1:3000", "localhost:3000", "LocalHost:3000", "[::1]:3000"):
        assert ask(clincus.Gate(), host=ours) is None


def test_two_hosts_are_refused_even_if_both_are_ours():
    headers = Message()
    headers["Host"] = headers["Host"] = "localhost:3000"
    with pytest.raises(clincus.ClincusError, match="Host"):
        clincus.Gate().admit_request(clincus.Request("GET", "/", {}, headers, 0, OWNER, None))


def test_the_address_that_a_connection_came_in_on_is_ours():
    """A literal address cannot be made to mean another machine, as a name can."""
    gate = TokenGate(token=TOKEN)
    assert ask(gate, peer=FAR, host="192.0.2.1:3000", Authorization=f"Bearer {TOKEN}") is None
    assert ask(gate, peer=FAR, host="192.0.2.2:3000", Authorization=f"Bearer {TOKEN}") == 403


@table(
    ("allowed", "host", "passes"),
    [
        ("box.example", "BOX.example:443", True),
        ("box.example", "box.example:8080", False),
        ("Box.Example:8443", "box.example:8443", True),
        ("box.example:8443", "box.example", False),
        ("box.example/", "", None),
    ],
)
def test_an_allowed_host_is_a_name_or_a_name_with_a_port(allowed, host, passes):
    if passes is None:
        with pytest.raises(clincus.ClincusError, match="--allowed-host must be NAME"):
            clincus.Gate([allowed])
        return
    assert ask(clincus.Gate([allowed]), host=host) == (None if passes else 403)


# Other sites' pages

FOREIGN = ["http://evil.example", "null", "http://localhost:3001", "ftp://localhost:3000", "http://localhost:3000.evil"]


@table("origin", FOREIGN)
@table(("method", "path"), [("POST", "/api/x"), ("BREW", "/api/x"), ("GET", "/ws/events")])
def test_a_foreign_page_can_neither_write_nor_open_a_websocket(method, path, origin):
    assert ask(clincus.Gate(), method=method, path=path, Origin=origin) == 403


@table("site", ["cross-site", "same-site", "unheard-of"])
@table(("method", "path"), [("POST", "/api/x"), ("GET", "/ws/events")])
def test_the_browser_says_that_the_page_is_foreign(method, path, site):
    assert ask(clincus.Gate(), method=method, path=path, Sec_Fetch_Site=site) == 403
    assert ask(clincus.Gate(), path="/", Sec_Fetch_Site=site) is None, "a link may lead to the dashboard"


@table("origin", ["http://localhost:3000", "http://[::1]:3000", None])
@table("site", ["same-origin", "none", None])
def test_our_own_page_and_programs_can_do_both(origin, site):
    fields = {"Origin": origin, "Sec-Fetch-Site": site}
    fields = {name: value for name, value in fields.items() if value}
    assert ask(clincus.Gate(), method="POST", **fields) is None
    assert ask(clincus.Gate(), path="/ws/events", **fields) is None
    gate = clincus.Gate(["box.example"])
    assert ask(gate, method="POST", host="box.example", Origin="https://box.example") is None
    assert ask(gate, method="POST", host="box.example", Origin="https://box.example:8443") == 403


# The other end of a connection

# Of sockets that their process has closed, and of those in TIME_WAIT, the kernel says that they are root's.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   1: 0100007F:C350 0100007F:0BB8 01 00000000:00000000 00:00000000 00000000  1000        0 112 1 0 20 4 30 10 -1
   2: 0100007F:C351 0100007F:0BB8 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   3: 0100007F:C352 0100007F:0BB8 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
""".splitlines()


def test_the_kernel_says_who_holds_the_other_end():
    ports = ("C350", "C351", "C352", "C353")
    found = [clincus.find_owner(TABLE, [f"0100007F:{port}", "0100007F:0BB8"]) for port in ports]
    assert found == [1000, None, None, None]


PAIRS = [("127.0.0.1", "127.8.9.10"), ("::1", "::1"), ("::", "127.0.0.1"), ("0.0.0.0", "::ffff:127.0.0.1")]


def connected(listen, connect):
    if listen == "127.0.0.1" != connect:
        listen = connect
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::") as server:
        client = socket.create_connection((connect, server.getsockname()[1]))
        return client, server.accept()[0]


@table(("listen", "connect"), PAIRS)
def test_our_own_connection_is_known_whatever_its_family(listen, connect):
    client, here = connected(listen, connect)
    with client, here:
        peer = clincus.find_peer(here)
    assert (peer.why_token, peer.uid) == ("", os.geteuid())
    assert peer.address in {"127.0.0.1", "127.8.9.10", "::1"}


@table(("owner", "passes"), [(os.geteuid(), True), (0, True), (os.geteuid() + 1, False), (None, False)])
def test_only_this_user_and_root_are_beyond_doubt(monkeypatch, owner, passes):
    monkeypatch.setattr(clincus, "socket_owner", lambda *_: owner)
    client, here = connected("127.0.0.1", "127.0.0.1")
    with client, here:
        assert (clincus.find_peer(here).why_token == "") is passes


def test_a_client_that_closed_at_once_is_nobody():
    """Its socket is root's in the kernel's table, whoever opened it."""
    client, here = connected("127.0.0.1", "127.0.0.1")
    with here:
        client.sendall(b"DELETE /api/sessions/x HTTP/1.1\r\n\r\n")
        client.close()
        assert "does not say which user" in clincus.find_peer(here).why_token


def test_a_kernel_that_says_nothing_lets_nobody_in(monkeypatch):
    client, here = connected("127.0.0.1", "127.0.0.1")

    def unreadable(*_, **__):
        raise PermissionError

    with client, here:
        monkeypatch.setattr("builtins.open", unreadable)
        peer = clincus.find_peer(here)
        monkeypatch.undo()
    assert "/proc/net/tcp" in peer.why_token
    with pytest.raises(clincus.ClincusError):
        clincus.Gate().admit_connection(peer)


def test_without_a_token_a_neighbour_is_not_even_listened_to():
    with pytest.raises(clincus.ClincusError, match="a neighbour") as caught:
        clincus.Gate().admit_connection(NEIGHBOUR)
    assert caught.value.status == 403
    clincus.Gate().admit_connection(OWNER)
    TokenGate(token=TOKEN).admit_connection(NEIGHBOUR)


# The token


@pytest.fixture
def gate():
    return TokenGate(["box.example"], token=TOKEN)


@table("peer", [NEIGHBOUR, FAR])
@table(
    ("authorization", "status"),
    [
        (None, 401),
        (f"bearer  {TOKEN} ", None),
        (f"Bearer {TOKEN}x", 401),
        (f"Basic {TOKEN}", 401),
    ],
)
def test_a_stranger_needs_the_token(gate, peer, authorization, status):
    fields = {"Authorization": authorization} if authorization else {}
    assert ask(gate, peer=peer, **fields) == status
    assert ask(gate, peer=peer, path="/ws/events", **fields) == status
    for _ in range(20):
        ask(gate, peer=peer, Authorization="Bearer wrong")
    assert ask(gate, peer=peer, Authorization=f"Bearer {TOKEN}") is None, "no guess keeps the right one out"


def test_the_owner_needs_no_token_but_under_an_allowed_name_and_must_not_show_a_wrong_one(gate):
    """A proxy on this machine, which has such a name, runs as the owner or root, whoever it speaks for."""
    assert ask(gate) is None
    assert ask(gate, Authorization="Bearer wrong") == 401
    assert ask(gate, host="box.example") == 401
    assert ask(clincus.Gate(["box.example"]), host="box.example") is None


@table("field", ["X-Forwarded-For", "via"])
def test_what_a_proxy_of_the_owner_passes_on_is_not_the_owners(gate, field):
    assert ask(gate, **{field: "for=192.0.2.7"}) == 401
    assert ask(clincus.Gate(), **{field: "for=192.0.2.7"}) == 403
    assert ask(gate, Authorization=f"Bearer {TOKEN}", **{field: "for=192.0.2.7"}) is None


def test_a_token_in_the_address_becomes_a_cookie_and_goes_away(gate):
    answer = ask(gate, peer=FAR, host="192.0.2.1:3000", path="/sessions", query={"token": TOKEN, "q": "a b"})
    fields = dict(answer.headers)
    assert (answer.status, fields["Location"]) == (303, "/sessions?q=a+b")
    value, *attributes = fields["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert TOKEN not in value
    assert ask(gate, peer=FAR, host="192.0.2.1:3000", Cookie=f"a=b; {value}; c=d") is None
    assert ask(gate, peer=FAR, host="192.0.2.1:3000", Cookie=value[:-1]) == 401
    assert ask(TokenGate(token=TOKEN + "2"), peer=FAR, host="192.0.2.1:3000", Cookie=value) == 401
    write = {"method": "POST", "peer": FAR, "host": "192.0.2.1:3000", "Cookie": value}
    assert ask(gate, **write) is None
    assert ask(gate, **write, Origin="http://evil") == 403
    answer = ask(gate, host="box.example", query={"token": TOKEN}, X_Forwarded_Proto="https")
    assert "; Secure" in dict(answer.headers)["Set-Cookie"], "behind TLS it is for TLS only"
    answer = ask(gate, path="//evil.example/x", query={"token": TOKEN})
    assert dict(answer.headers)["Location"] == "/evil.example/x", "it leads to no other server"
    for method, path in (("POST", "/api/x"), ("GET", "/ws/events")):
        asked = {"method": method, "path": path, "query": {"token": TOKEN}}
        assert ask(gate, peer=FAR, host="192.0.2.1:3000", **asked) is None, "these need no cookie"


FORM = {"Content_Type": "application/x-www-form-urlencoded", "Accept": "text/html", "Origin": "http://box.example"}


def sign_in(gate, token, path="/sessions/a", **fields):
    body = f"token={token}".encode()
    return ask(gate, peer=FAR, host="box.example", method="POST", path=path, body=body, **{**FORM, **fields})


def test_the_sign_in_form_becomes_a_cookie_and_leads_to_where_it_stood(gate):
    """The token stands in no address, which the log of a proxy would keep."""
    answer = sign_in(gate, TOKEN)
    fields = dict(answer.headers)
    assert (answer.status, fields["Location"]) == (303, "/sessions/a")
    cookie = fields["Set-Cookie"].partition(";")[0]
    assert ask(gate, peer=FAR, host="box.example", Cookie=cookie) is None
    answer = sign_in(gate, "wrong")
    assert answer.status == 401
    assert b"is wrong" in answer.body
    assert sign_in(gate, TOKEN, Origin="http://evil.example") == 403
    assert sign_in(gate, TOKEN, path="/api/sessions") == 401


@table("path", ["/manifest.webmanifest", "/icon-192.png"])
def test_a_browser_that_installs_the_page_gets_manifest_and_icons_without_the_cookie(gate, path):
    assert ask(gate, peer=FAR, host="box.example", path=path) is None
    assert ask(gate, peer=FAR, host="evil.example", path=path) == 403
    assert ask(gate, peer=FAR, host="box.example", path=path, method="POST") == 401


def test_a_visit_renews_the_cookie(gate):
    cookie = f"clincus-{PORT}={gate.cookie}"

    def headers(accept, *cookies):
        message = Message()
        message["Accept"] = accept
        for one in cookies:
            message["Cookie"] = one
        return gate.page_headers(clincus.Request("GET", "/", {}, message, 0, FAR, None))

    ((name, value),) = headers("text/html", cookie)
    assert (name, value.partition(";")[0]) == ("Set-Cookie", cookie)
    assert "Max-Age=2592000" in value
    assert headers("*/*", cookie) == headers("text/html") == ()


def test_without_a_token_nothing_that_is_shown_lets_in():
    with pytest.raises(ValueError, match="would let everybody in"):
        TokenGate(token="")
    gate = clincus.Gate()
    for fields in ({"Authorization": "Bearer "}, {"Cookie": "clincus-3000="}, {"query": {"token": ""}}):
        assert ask(gate, peer=FAR, host="192.0.2.1:3000", **fields) == 403


# The log of refusals


def test_a_refusal_is_logged_once_a_minute_for_each_peer_and_cause_and_the_log_is_bounded(monkeypatch):
    logged, now = [], [1000.0]
    monkeypatch.setattr(clincus.log, "warning", lambda text, *values: logged.append(text % values))
    monkeypatch.setattr(clincus.time, "monotonic", lambda: now[0])
    refusals = clincus.RefusalLog()
    for peer, cause in (("a", "host"), ("a", "host"), ("a", "token"), ("b", "host")):
        refusals.note(peer, cause, f"{cause} is wrong")
    assert logged == ["gate: a: host is wrong", "gate: a: token is wrong", "gate: b: host is wrong"]
    now[0] += 60
    refusals.note("a", "host", "again")
    assert logged[3:] == ["gate: a: again"]
    for number in range(5000):
        refusals.note(f"peer {number}", "host", "refused")
    assert len(logged) < 300
    assert len(refusals._written) < 300


def test_what_a_stranger_sent_cannot_steer_the_terminal_that_shows_the_log(capsys):
    ask(clincus.Gate(), host="evil\x1b[2J\x9b1m\u202e")
    said = capsys.readouterr().err
    assert "gate: 127.0.0.1" in said
    assert said.rstrip("\n").isprintable()


# Where the token lives


def test_a_token_file_is_made_for_its_owner_alone_and_kept(tmp_path):
    path = tmp_path / "state" / "token"
    token = entry.load_token(str(path), {"CLINCUS_TOKEN": "another-one-that-is-weaker"})
    assert len(token) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert entry.load_token(str(path), {}) == token
    assert entry.load_token(None, {"CLINCUS_TOKEN": TOKEN}) == TOKEN
    assert entry.load_token(None, {"CLINCUS_TOKEN": ""}) == entry.load_token(None, {}) == ""
    for content, mode, words in ((TOKEN, 0o640, "chmod 600"), ("\n", 0o600, "delete it")):
        path.write_text(content)
        path.chmod(mode)
        with pytest.raises(clincus.ClincusError, match=words):
            entry.load_token(str(path), {})
    tmp_path.chmod(0o700)
    with pytest.raises(clincus.ClincusError, match="cannot be read"):
        entry.load_token(str(tmp_path), {})


@table("token", ["x" * 21, "with a blank inside of it", "x" * 300])
def test_a_weak_or_odd_token_is_refused(token):
    with pytest.raises(clincus.ClincusError, match="22 to 256 printable characters"):
        entry.load_token(None, {"CLINCUS_TOKEN": token})


@table("host", ["0.0.0.0", "::", "127.0.0.1.evil.example"])
def test_other_machines_are_listened_to_with_a_token_only(host):
    with pytest.raises(clincus.ClincusError, match="needs a token"):
        entry.listen_hosts(host, clincus.Gate())
    assert entry.listen_hosts(host, TokenGate(token=TOKEN))[0] == host


@table(
    ("host", "hosts", "gate"),
    [
        ("192.0.2.1", ("192.0.2.1", *clincus.LOOPBACK), TokenGate(token=TOKEN)),
        ("::", ("::",), TokenGate(token=TOKEN)),  # loopback is among these
        ("box.example", ("box.example",), TokenGate(token=TOKEN)),  # may be a name of loopback
        (None, clincus.LOOPBACK, clincus.Gate()),
        ("localhost", clincus.LOOPBACK, clincus.Gate()),
        ("127.0.0.2", ("127.0.0.2",), clincus.Gate()),
        ("[::1]", ("::1",), clincus.Gate()),
    ],
)
def test_the_commands_of_this_machine_reach_each_server(host, hosts, gate):
    assert entry.listen_hosts(host, gate) == hosts
