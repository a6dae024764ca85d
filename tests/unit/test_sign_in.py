"""The page for a person who comes without the token."""

from __future__ import annotations

from email.message import Message
from pathlib import Path

import clincus
from clincus_features.sign_in import sign_in_page


def sign_in(query=None, path="/", accept="text/html", **fields):
    headers = Message()
    headers["Accept"] = accept
    for name, value in fields.items():
        headers[name.replace("_", "-")] = value
    request = clincus.Request("GET", path, query or {}, headers, 0, None, None)
    return sign_in_page(request, clincus.Refused("the <token> is wrong", 401, [("WWW-Authenticate", "Bearer")]))


def test_a_person_without_the_token_gets_a_form():
    answer = sign_in()
    assert answer.status == 401
    assert b"<form" in answer.body
    assert b"is wrong" not in answer.body
    assert b"The &lt;token&gt; is wrong." in sign_in({"token": "x"}).body
    assert sign_in(path="/api/sessions") is sign_in(accept="*/*") is None, "a program gets none"
    assert dict(answer.headers) == {"Content-Type": "text/html; charset=utf-8", "WWW-Authenticate": "Bearer"}


def test_the_form_shows_the_token_in_no_address():
    source = Path(__file__).resolve().parents[2] / "spa/public/sign-in.html"
    assert '<form method="post">' in source.read_text()


def test_a_link_on_another_site_is_followed_once_more_with_the_cookie():
    assert b'http-equiv="refresh"' in sign_in(Sec_Fetch_Site="cross-site").body
    assert b'http-equiv="refresh"' not in sign_in({"token": "x"}, Sec_Fetch_Site="cross-site").body
