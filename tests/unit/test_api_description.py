"""openapi.json as people and generators read it: names, tags, headers, words and examples of every call and field."""

from __future__ import annotations

import re

import jsonschema

import clincus
from clincus_features.contract import API, overview
from clincus_features.network.records import MOST_ROWS, Records
from tests.programs import ROOT
from tests.table import table

CONTRACT = clincus.load_contract()
METHODS = ("get", "put", "post", "delete", "patch")
CALLS = [
    (f"{method} {path}", method, path, operation)
    for path, item in CONTRACT["paths"].items()
    for method, operation in item.items()
    if method in METHODS
]
# A GET only shows something, and opens a terminal or the stream of events.
SHOWS = {"get", "list", "read", "open"}
CHANGES = """
    add allow cancel check close create delete fetch interrupt mark open push remove resolve restore resume revoke send
    set stop take update upload write
"""


def fields(schema, place):
    """Every field below a schema, with its place."""
    for name, field in schema.get("properties", {}).items():
        yield f"{place}.{name}", field
        yield from fields(field, f"{place}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from fields(schema[part], place)
    for one in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
        yield from fields(one, place)


def all_fields():
    for name, schema in CONTRACT["components"]["schemas"].items():
        yield from fields(schema, name)
    for name, _, _, call in CALLS:
        bodies = [call.get("requestBody", {}), *call["responses"].values()]
        for kind in (kind for body in bodies for kind in body.get("content", {}).values()):
            yield from fields(kind["schema"], name)


def parameters():
    yield from CONTRACT["components"]["parameters"].items()
    for path, item in CONTRACT["paths"].items():
        calls = [item[method] for method in METHODS if method in item]
        for one in [*item.get("parameters", ()), *(known for call in calls for known in call.get("parameters", ()))]:
            if "$ref" not in one:
                yield f"{path} {one['name']}", one


@table(("name", "method", "path", "call"), CALLS)
def test_a_call_is_described_with_its_answers(name, method, path, call):
    verb, _, resource = call["operationId"].partition("_")
    assert verb in (SHOWS if method == "get" else CHANGES.split())
    assert resource
    (tag,) = call["tags"]
    assert tag in [known["name"] for known in CONTRACT["tags"]]
    assert call["summary"][0].isupper()
    assert not call["summary"].endswith(".")
    assert call["description"].endswith(".")
    for kind in call.get("requestBody", {}).get("content", {}).values():
        jsonschema.validate(kind["example"], clincus.inlined(kind["schema"], CONTRACT))
    answers = call["responses"]
    assert answers["401"] == {"$ref": "#/components/responses/SignIn"}
    assert answers["503"] == {"$ref": "#/components/responses/Unavailable"}
    assert "default" in answers
    assert "{" not in path or "404" in answers
    if method == "get" and not path.startswith("/ws/") and path != "/metrics":
        assert answers["304"] == {"$ref": "#/components/responses/NotModified"}
        assert answers["200"]["headers"]["ETag"] == {"$ref": "#/components/headers/ETag"}
        assert {"$ref": "#/components/parameters/IfNoneMatch"} in call["parameters"]


@table(("place", "field"), [*all_fields()])
def test_a_field_is_described_with_an_example(place, field):
    assert field["description"]
    if "$ref" in field or "anyOf" in field:
        return
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    items = field.get("items", {})
    says_itself = {"boolean", "object"} & set(kinds) or "enum" in field or "properties" in field
    of_objects = "array" in kinds and ("$ref" in str(items) or "properties" in items or "enum" in items)
    if not says_itself and not of_objects and kinds != ["string", "null"]:
        assert field["examples"]
    for example in field.get("examples", ()):
        jsonschema.validate(example, clincus.inlined(field, CONTRACT))


@table(("place", "parameter"), [*parameters()])
def test_a_parameter_is_described_with_an_example(place, parameter):
    assert parameter["description"]
    if parameter["schema"]["type"] != "boolean" and "enum" not in parameter["schema"]:
        jsonschema.validate(parameter["example"], parameter["schema"])


def test_the_messages_of_a_socket_are_described_with_an_example():
    for path in ("/ws/events", "/ws/terminal/{id}"):
        for message in CONTRACT["paths"][path]["get"]["x-messages"]:
            assert message["description"]
            assert message["example"]["type"] == message["type"]
    known = {message["type"] for message in CONTRACT["paths"]["/ws/events"]["get"]["x-messages"]}
    text = "".join(path.read_text() for path in [ROOT / "clincus.py", *(ROOT / "clincus_features").rglob("*.py")])
    published = set(re.findall(r'"type": "((?:session|push|config|incus|engine)[.][a-z]+)"', text))
    assert len(published) > 8
    assert published <= known


def test_a_client_learns_the_version_and_the_extensions():
    router = clincus.Router(CONTRACT)
    router.add("GET", "/api/sessions", print)
    router.add("GET", "/api/sessions/{id}/agent", print)
    assert overview(router) == {"version": clincus.__version__, "api": API, "extensions": ["agent"]}


def test_a_list_of_connections_says_whether_older_ones_have_gone():
    records = Records()
    for number in range(MOST_ROWS + 1):
        assert not records.documents()["truncated"]
        records.refuse(f"{number}.example", 443, "not listed")
    shown = records.documents()
    assert (shown["truncated"], len(shown["refused"])) == (True, MOST_ROWS)
