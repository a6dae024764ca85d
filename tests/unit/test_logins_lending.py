"""What becomes of a placeholder in a request, and of a value in an answer."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from clincus_features.logins import exchange as exchanges
from clincus_features.logins.exchange import Exchange
from clincus_features.logins.http1 import LAST_CHUNK, ChunkedBody, chunk
from clincus_features.logins.lending import Cleaner, Loan, is_in, marks, new_placeholder, readings
from clincus_features.logins.meter import Tokens
from clincus_features.logins.services import SERVICES, Service
from clincus_features.logins.settings import Host, Limit, Login
from clincus_features.logins.sources import Secret
from clincus_features.logins.vendors import REFRESH, VENDORS
from tests.table import table

HOST = "api.example.com"
VALUE = "sk-real-0123/456789abcdef"


def a_login(name: str, service: Service) -> Login:
    return Login(name, service, "", tuple(Host.read(host) for host in service.hosts), "env", "KEY", 60.0)


def a_loan(name: str, *forms: str, header: str = "authorization", host: str = HOST) -> Loan:
    login = a_login(name, Service(name, (host,), header, forms))
    random = hashlib.sha256(name.encode()).hexdigest()[:32]  # the same in each process
    return Loan(login, login.service.shape.replace("{random}", random))


KEY = a_loan("key", "{secret}", header="x-api-key")
TOKEN = a_loan("token", "Bearer {secret}", "token {secret}", "Basic *:{secret}")
ELSEWHERE = a_loan("elsewhere", "Bearer {secret}", host="other.example.com")
LOANS = [KEY, TOKEN, ELSEWHERE]
GET, POST = "GET / HTTP/1.1", "POST / HTTP/1.1"
SENT = f"X-Api-Key: {KEY.placeholder}"
STRANGER = Loan(KEY.login, "clincus-" + hashlib.sha256(b"stranger").hexdigest()[:32])


class Heard:
    def __init__(self) -> None:
        self.alarms: list[tuple[str, str]] = []
        self.uses: list[str] = []
        self.tokens: list[tuple[str, str, Tokens]] = []
        self.rejections: list[tuple[str, str, int]] = []
        self.reasons: list[tuple[str, str]] = []

    def misused(self, loan: Loan, where: str) -> None:
        self.alarms.append((loan.login.name, where))

    def lent(self, loan: Loan) -> None:
        self.uses.append(loan.login.name)

    def refused(self, loan: Loan, reason: str) -> None:
        self.reasons.append((loan.login.name, reason))

    def counted(self, loan: Loan, model: str, more: Tokens) -> None:
        self.tokens.append((loan.login.name, model, more))

    def rejected(self, loan: Loan, secret: Secret, status: int) -> None:
        self.rejections.append((loan.login.name, secret.reveal(), status))


class Talk(Heard):
    def __init__(self, host: str = HOST, loans: Sequence[Loan] = LOANS, value: str = VALUE) -> None:
        super().__init__()
        self.host, self.value = host, value
        self.exchange = Exchange((host, 443), loans, self, marks([STRANGER]))

    def ask(self, *lines: str, body: bytes = b"") -> bytes:
        """Send a request, lend what it wants, and return what the server gets."""
        head = "\r\n".join([lines[0], f"Host: {self.host}", *lines[1:], "", ""])
        self.exchange.from_client(head.encode("latin-1") + body)
        if self.exchange.wanted:
            self.exchange.lend({loan.login.name: Secret(self.value) for loan in self.exchange.wanted})
        return self.server_gets()

    def server_gets(self) -> bytes:
        return taken(self.exchange.to_server)

    def answer(self, data: bytes) -> bytes:
        self.exchange.from_server(data)
        return self.client_gets()

    def client_gets(self) -> bytes:
        return taken(self.exchange.to_client)


def taken(held: bytearray) -> bytes:
    found = bytes(held)
    held.clear()
    return found


def lent(value: str = VALUE) -> Talk:
    talk = Talk(value=value)
    talk.ask(GET, SENT)
    return talk


def with_length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def coded(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@table(
    ("sent", "goes_on"),
    [
        (SENT, f"X-Api-Key: {VALUE}"),
        (f"Authorization: Bearer {TOKEN.placeholder}", f"Authorization: Bearer {VALUE}"),
        (f"Authorization: {coded('x', TOKEN.placeholder)}", f"Authorization: {coded('x', VALUE)}"),
    ],
)
def test_a_placeholder_in_its_place_becomes_the_value(sent, goes_on):
    talk = Talk()
    gone = talk.ask("GET /v1 HTTP/1.1", sent).decode()
    assert goes_on in gone
    assert (len(talk.uses), talk.alarms) == (1, [])


def in_base64(before: str) -> str:
    return base64.urlsafe_b64encode(f"{before}{KEY.placeholder}xyz".encode()).decode()


IN_AUTHORIZATION = "in the header authorization"
OF_ANOTHER = "that of another session, "


@table(
    ("line", "field", "login", "where"),
    [
        (f"GET /?key={KEY.placeholder} HTTP/1.1", "A: b", "key", "in the address"),
        (f"GET /{KEY.placeholder.replace('c', '%63')} HTTP/1.1", "A: b", "key", "in the address"),
        (GET, f"X-Other: {KEY.placeholder}", "key", "in the header x-other"),
        *((GET, f"A: {in_base64(before)}", "key", "in the header a") for before in ("", "x", "xy")),
        (GET, f"X-Api-Key: {KEY.placeholder}, x", "key", "in the header x-api-key"),
        (GET, f"Authorization: Digest {TOKEN.placeholder}", "token", IN_AUTHORIZATION),
        (GET, f"Authorization: {coded(TOKEN.placeholder, 'x')}", "token", IN_AUTHORIZATION),
        (GET, f"Authorization: Bearer {ELSEWHERE.placeholder}", "elsewhere", IN_AUTHORIZATION),
        (GET, f"Authorization: {coded('u', STRANGER.placeholder)}", "key", OF_ANOTHER + IN_AUTHORIZATION),
    ],
)
def test_a_placeholder_in_any_other_place_of_a_head_is_refused_and_told(line, field, login, where):
    talk = Talk()
    assert talk.ask(line, field) == b""
    assert talk.alarms == [(login, where)]
    said = talk.client_gets()
    assert said.startswith(b"HTTP/1.1 403 ")
    assert f"the login {login}" in json.loads(said.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert talk.exchange.is_over


@table("in_chunks", [False, True])
@table("size", [1, 1000])
def test_a_placeholder_in_a_body_is_masked_and_told_once(in_chunks, size):
    talk, text = Talk(), f"seen: {KEY.placeholder} and on".encode()
    field = "Transfer-Encoding: chunked" if in_chunks else f"Content-Length: {len(text)}"
    gone = talk.ask(POST, field, SENT)
    for at in range(0, len(text), size):
        piece = text[at : at + size]
        talk.exchange.from_client(chunk(piece) if in_chunks else piece)
    if in_chunks:
        talk.exchange.from_client(LAST_CHUNK)
    gone += talk.server_gets()
    body = bytearray(gone.partition(b"\r\n\r\n")[2])
    masked = b"seen: " + b"*" * len(KEY.placeholder) + b" and on"
    assert (ChunkedBody(may_have_trailer=False).take(body) if in_chunks else body) == masked
    assert talk.alarms == [("key", "in the body")]
    assert talk.answer(with_length(b"ok")).endswith(b"ok")


def test_nothing_of_a_request_goes_on_before_its_value_is_there():
    talk = Talk()
    talk.exchange.from_client(f"{POST}\r\nHost: {HOST}\r\n{SENT}\r\nContent-Length: 4\r\n\r\nbo".encode())
    assert [loan.login.name for loan in talk.exchange.wanted] == ["key"]
    talk.exchange.from_client(b"dy")
    assert talk.server_gets() == b""
    talk.exchange.lend({"key": Secret(VALUE)})
    assert talk.server_gets().endswith(b"\r\n\r\nbody")


GZIPPED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"


def test_the_answer_to_a_request_that_was_lent_something_comes_whole_and_plain():
    talk = Talk()
    in_parts = ("Range: bytes=0-3", "If-Range: x", "Request-Range: bytes=0-9")  # the last one is Apache's
    changed = ("Accept-Charset: utf-16", "A-IM: vcdiff, range")
    gone = talk.ask(GET, SENT, "Accept-Encoding: gzip", *in_parts, *changed)
    assert not [field for field in (*in_parts, *changed) if field.encode() in gone]
    assert gone.count(b"Accept-Encoding: identity") == gone.count(b"Encoding") == 1
    assert talk.answer(GZIPPED).startswith(b"HTTP/1.1 502 ")


def test_a_request_without_a_placeholder_goes_on_as_it_is_and_one_with_two_of_them_is_refused():
    talk = Talk()
    gone = talk.ask(GET, "Authorization: Bearer my-own", "Accept-Encoding: gzip", "Range: bytes=0-3")
    assert gone.endswith(b"Authorization: Bearer my-own\r\nAccept-Encoding: gzip\r\nRange: bytes=0-3\r\n\r\n")
    assert talk.answer(GZIPPED) == GZIPPED
    assert talk.ask(GET, SENT, "x-api-key: mine") == b""
    assert talk.client_gets().startswith(b"HTTP/1.1 400 ")


@table("piece", [1, 1000])
@table("spelling", [VALUE, VALUE.replace("/", "%2F"), VALUE.replace("/", "\\/")])
@table("framing", ["length", "chunks", "end"])
def test_an_answer_that_echoes_the_value_is_cleaned(piece, spelling, framing):
    talk = lent()
    text = f"<{spelling}> and {VALUE}{VALUE}".encode()
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
    field, body = {
        "length": (f"Content-Length: {len(text)}\r\n", text),
        "chunks": ("Transfer-Encoding: chunked\r\n", b"".join(map(chunk, pieces)) + LAST_CHUNK),
        "end": ("", text),
    }[framing]
    data = f"HTTP/1.1 200 {VALUE}\r\nX-Echo: {VALUE}\r\n{field}\r\n".encode() + body
    got = b"".join(talk.answer(data[at : at + piece]) for at in range(0, len(data), piece))
    talk.exchange.server_ended()
    got += talk.client_gets()
    assert VALUE.encode() not in got
    assert spelling.encode() not in got
    assert b"X-Echo: " + b"*" * len(VALUE) in got
    assert talk.exchange.is_over or framing != "end"
    assert not talk.exchange.is_broken


@table(
    "spelling",
    [
        "P%2fss%2bw%26rd%3d%3c%27it%27%3e%220123",
        "P\\/ss+w&rd=<'it'>\\\"0123",
        'P/ss+w\\u0026rd\\u003d\\u003c\\u0027it\\u0027\\u003e\\"0123',
        "P/ss+w&amp;rd=&lt;&#x27;it&#x27;&gt;&quot;0123",
        "P/ss+w&amp;rd=&lt;'it'&gt;\"0123",
        "P/SS+W&RD=<'IT'>\"0123",  # as in a name that a server makes of it
    ],
)
def test_a_value_is_cleaned_as_urls_json_and_html_write_it_and_in_other_letters(spelling):
    said = lent("P/ss+w&rd=<'it'>\"0123").answer(with_length(spelling.encode()))
    assert said.endswith(b"\r\n\r\n" + b"*" * len(spelling))


def test_an_answer_to_a_request_with_a_value_leaves_no_cookie_that_stands_for_it():
    """With the session of a server a program would go on after a revoke, uncounted."""
    kept = b"HTTP/1.1 200 OK\r\nset-cookie: __cf_bm=x\r\nContent-Length: 0\r\n\r\n"
    answer = kept.replace(b"OK\r\n", b"OK\r\nSet-Cookie: JSESSIONID=abc; Path=/\r\n")
    talk = lent()
    assert talk.answer(answer) == kept
    talk.ask(GET)
    assert talk.answer(answer) == answer, "a program's own requests are its own"


@table(
    "lines",
    [
        (POST, "Expect: 100-continue", "Content-Length: 4"),
        ("DELETE / HTTP/1.1", "Transfer-Encoding: chunked"),
        ("ODD / HTTP/1.1", "Content-Length: 4"),
    ],
)
def test_a_body_that_a_server_may_leave_unread_is_the_last_of_its_connection(lines):
    """Else the server could take it for a request, and the next request with its value for the body of that."""
    talk = Talk()
    body = chunk(b"x") + LAST_CHUNK if "chunked" in lines[-1] else b"body"
    assert b"\r\nConnection: close\r\n" in talk.ask(*lines, SENT, body=body)
    assert b"\r\nConnection: close\r\n" in talk.answer(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
    assert talk.exchange.is_over


def test_requests_follow_one_another_and_no_answer_is_taken_for_another():
    talk = Talk()
    first = f"GET /1 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    talk.exchange.from_client(first + first.replace(b" /1 ", b" /2 "))
    assert talk.server_gets() == first
    assert talk.answer(with_length(b"1")).endswith(b"1")
    assert talk.server_gets() == first.replace(b" /1 ", b" /2 ")
    assert talk.answer(b"HTTP/1.1 204 No\r\n\r\n") == b"HTTP/1.1 204 No\r\n\r\n"
    assert talk.exchange.is_idle
    talk.exchange.from_server(b"HTTP/1.1 200 OK\r\n\r\n")
    assert talk.exchange.is_over


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one_and_a_program_is_not_read_meanwhile():
    talk = Talk()
    talk.ask(GET)
    talk.exchange.from_client(b"x" * exchanges.HELD)
    assert not talk.exchange.takes_more
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    talk.exchange.server_ended()
    assert (talk.exchange.is_broken, talk.exchange.is_over) == (True, False)


def test_a_value_that_the_server_does_not_take_is_told_and_forgotten_with_the_answer():
    talk = lent()
    talk.answer(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    assert talk.rejections == [("key", VALUE, 401)]
    assert VALUE not in repr(vars(talk.exchange))


UPGRADE = (GET, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Extensions: permessage-deflate")
AGREED = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_a_websocket_goes_on_both_ways_with_its_header_filled_and_its_answers_cleaned():
    talk = Talk()
    gone = talk.ask(*UPGRADE, f"Authorization: Bearer {TOKEN.placeholder}")
    assert f"Bearer {VALUE}".encode() in gone
    assert b"Extensions" not in gone
    assert talk.answer(AGREED + b"frame").endswith(b"\r\n\r\nframe")
    talk.exchange.from_client(b"GET / HTTP/1.1\r\n\r\n")
    assert talk.server_gets() == b"GET / HTTP/1.1\r\n\r\n"
    assert talk.answer(VALUE.encode()) == b"*" * len(VALUE)
    unasked = Talk()
    unasked.ask(GET, f"Authorization: Bearer {TOKEN.placeholder}")
    assert unasked.answer(AGREED).startswith(b"HTTP/1.1 502 ")


@given(st.lists(st.binary(max_size=20), max_size=12), st.binary(min_size=8, max_size=12), st.integers(0, 11))
def test_no_text_that_is_hidden_comes_out_of_a_cleaner_however_it_is_cut(pieces, hidden, at):
    data = [*pieces[:at], hidden[:3], hidden[3:], *pieces[at:]]
    cleaner = Cleaner([hidden])
    out = b"".join(map(cleaner.take, data)) + cleaner.rest()
    assert len(out) == sum(map(len, data))
    assert hidden not in out or set(hidden) == {ord("*")}


@table("name", SERVICES)
def test_placeholders_have_the_shape_of_their_service_and_are_nobody_elses(name):
    login = a_login(name, SERVICES[name])
    one, other = new_placeholder(login), new_placeholder(login)
    assert one != other
    assert one.startswith(SERVICES[name].shape.partition("{random}")[0])
    ((mark, found),) = marks([Loan(login, one)]).items()
    assert found == Loan(login, one)
    assert len(mark) == 32
    assert mark.decode() in one


@table("before", ["", "x", "xy"])
@table("code", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_text_with_the_value_in_base64_does_not_show_it(before, code):
    body = code(f"{before}{VALUE}\r\nHost: x".encode())
    shown = lent().answer(with_length(body))
    text = shown.partition(b"\r\n\r\n")[2].decode()
    assert len(text) == len(body)
    assert not is_in(VALUE[3:9], readings(text))
    assert not is_in(VALUE[-9:-3], readings(text))


# -- What answers cost


def test_the_tokens_of_an_answer_are_told_as_they_come():
    """A program may leave before the end."""
    talk = Talk()
    talk.ask("POST /v1/messages HTTP/1.1", SENT)
    begin = b'data: {"message": {"model": "claude-opus-4-6", "usage": {"input_tokens": 100, "output_tokens": 1}}}\n'
    end = b'data: {"usage": {"output_tokens": 55}}\n'
    talk.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert talk.answer(chunk(begin)) == chunk(begin), "it is passed at once"
    assert talk.tokens == [("key", "claude-opus-4-6", Tokens(100, 1))]
    talk.answer(chunk(end) + LAST_CHUNK)
    assert talk.tokens[1:] == [("key", "claude-opus-4-6", Tokens(0, 54))]
    named = lent()  # by a server that says the value is its model
    named.answer(with_length(json.dumps({"model": VALUE, "usage": {"output_tokens": 7}}).encode()))
    assert named.tokens == [("key", "", Tokens(0, 7))]
    talk.ask(GET)  # without a value
    talk.answer(with_length(b'{"output_tokens":10}'))
    assert len(talk.tokens) == 2


def test_a_login_with_a_limit_is_not_lent_to_a_websocket():
    """Nobody could count what is asked on it."""
    loan = Loan(KEY.login._replace(limit=Limit(requests_per_day=1)), KEY.placeholder)
    talk = Talk(loans=[loan])
    assert talk.ask(*UPGRADE, SENT) == b""
    assert b"is not lent to WebSockets" in talk.client_gets()
    assert [name for name, _ in talk.reasons] == ["key"]


# -- Logins that their vendor renews

LOGIN = a_login("claude", SERVICES["claude"])._replace(vendor=VENDORS["claude"])
CLAUDE = Loan(LOGIN, new_placeholder(LOGIN))
TOKENS = "platform.claude.com"


def ask_for_tokens(talk: Talk, *more: str, target: str = "/v1/oauth/token", **fields: str) -> str:
    body = json.dumps(fields).encode()
    head = (f"POST {target} HTTP/1.1", f"Content-Length: {len(body)}", "Content-Type: application/json", *more)
    assert talk.ask(*head, body=body) == b"", "no server hears of it"
    return talk.client_gets().decode()


def test_a_request_for_new_tokens_is_answered_here():
    talk = Talk(TOKENS, [CLAUDE])
    asked = {"grant_type": "refresh_token", "refresh_token": CLAUDE.placeholder + REFRESH}
    said = ask_for_tokens(talk, **asked)
    assert said.startswith("HTTP/1.1 200 OK\r\n")
    assert json.loads(said.partition("\r\n\r\n")[2])["access_token"] == CLAUDE.placeholder
    assert (talk.exchange.is_over, talk.alarms) == (True, [])
    said = ask_for_tokens(Talk(TOKENS, [CLAUDE]), target="/v1//oauth/./%74oken?x", grant_type="authorization_code")
    assert said.startswith("HTTP/1.1 403 "), "nobody signs in there"
    talk = Talk(TOKENS, [CLAUDE])
    body = f"grant_type=refresh_token&refresh_token={CLAUDE.placeholder}{REFRESH}".encode()
    talk.ask("POST /v1/oauth/token HTTP/1.1", f"Content-Length: {len(body)}", body=body[:9])
    assert talk.client_gets() == b""
    talk.exchange.from_client(body[9:])
    assert talk.client_gets().startswith(b"HTTP/1.1 200 ")
    talk = Talk(TOKENS, [CLAUDE])
    talk.ask("POST /v1/oauth/token HTTP/1.1", "Content-Length: 99999", body=b"x" * 20000)
    assert talk.client_gets().startswith(b"HTTP/1.1 400 ")


def test_a_host_that_gives_tokens_is_lent_nothing():
    talk = Talk(TOKENS, [CLAUDE])
    assert b"GET /help HTTP/1.1" in talk.ask("GET /help HTTP/1.1")
    for placeholder, uses in ((CLAUDE.placeholder, ["claude"]), (CLAUDE.placeholder + REFRESH, [])):
        talk = Talk("api.anthropic.com", [CLAUDE])
        talk.ask(GET, f"Authorization: Bearer {placeholder}")
        assert (talk.uses, bool(talk.alarms)) == (uses, not uses), "a refresh token is lent nowhere"
    talk = Talk(TOKENS, [CLAUDE])
    assert talk.ask("GET /help HTTP/1.1", f"Authorization: Bearer {CLAUDE.placeholder}") == b""
    assert talk.alarms == [("claude", IN_AUTHORIZATION)]


@table(
    ("name", "host", "path"),
    [
        ("claude", "api.anthropic.com", "/api//OAuth/x/../claude_cli/%63reate_api_key?a=b"),
        ("copilot", "api.github.com", "/copilot_internal\\v2/token/"),
        ("openai", "api.openai.com", "/v1;a/realtime;b=c/client_secrets;d"),
        ("openai", "api.openai.com", "/v1/realtime/%2563lient_secrets"),
        ("openrouter", "openrouter.ai", "/api/v1/keys"),
    ],
)
def test_a_request_whose_answer_holds_a_credential_is_refused(name, host, path):
    """Such as an API key that is made with the login of a subscription: it would outlive the session."""
    loan = Loan(a_login(name, SERVICES[name]), new_placeholder(a_login(name, SERVICES[name])))
    talk = Talk(host, [loan])
    assert talk.ask(f"POST {path} HTTP/1.1", f"Authorization: Bearer {loan.placeholder}") == b""
    assert b"those stay on the host" in talk.client_gets()
    assert [name for name, _ in talk.reasons] == [name]
