"""Holds answers of a server against openapi.json."""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).resolve().parent.parent / "openapi.json").read_text())
ERROR = {"$ref": "#/components/responses/Error"}


@functools.cache
def templates() -> list[tuple[re.Pattern[str], str]]:
    """The paths of the document as patterns, those without a variable first."""
    paths = sorted(DOCUMENT["paths"], key=lambda path: (path.count("{"), path))
    return [(re.compile(re.sub(r"\\\{.*?\\\}", "[^/]+", re.escape(path))), path) for path in paths]


def operation(method: str, target: str) -> dict[str, Any] | None:
    """What the document says of a request; None if nothing."""
    path = urlsplit(target).path
    known = next((known for pattern, known in templates() if pattern.fullmatch(path)), None)
    found = DOCUMENT["paths"][known].get(method.lower()) if known else None
    return dict(found) if found else None


def resolved(item: dict[str, Any]) -> dict[str, Any]:
    """An object, or the one that its `$ref` points to."""
    while "$ref" in item:
        place: Any = DOCUMENT
        for name in item["$ref"].removeprefix("#/").split("/"):
            place = place[name]
        item = place
    return item


@functools.cache
def validator(schema: str) -> Any:
    """A validator of a schema of the document, given as JSON."""
    import jsonschema_rs  # only those who check answers need it

    return jsonschema_rs.Draft202012Validator(
        {**json.loads(schema), "components": DOCUMENT["components"]}, validate_formats=True
    )


def check_answer(method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Fail if a JSON answer of the API is not one that the document promises.

    What the document does not know, such as a wrong path or method, is answered by an error as the others.
    """
    kind = headers.get("content-type", "").partition(";")[0]
    if kind != "application/json" or not body or not urlsplit(target).path.startswith("/api/"):
        return
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    known = operation(method, target)
    responses = known["responses"] if known else {"default": ERROR}
    promised = responses.get(str(status)) or responses.get("default")
    assert promised, f"openapi.json promises no {status} for {method} {target}"
    content = resolved(promised).get("content", {}).get(kind)
    assert content, f"openapi.json promises no JSON with {status} for {method} {target}, which answered {body[:200]!r}"
    errors = list(validator(json.dumps(content.get("schema", {}))).iter_errors(json.loads(body)))
    told = "; ".join(f"{'/'.join(map(str, error.instance_path))}: {error.message[:300]}" for error in errors[:5])
    assert not errors, f"the answer {status} of {method} {target} is not what openapi.json promises: {told}"
