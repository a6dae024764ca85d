"""openapi.json: that it is sound, that it says what the code does, and that requests are checked by it."""

from __future__ import annotations

import json

import jsonschema
import openapi_spec_validator
import pytest

import clincus
from clincus_features.contract import served_contract
from tests.builders import a_session
from tests.table import table

CONTRACT = clincus.load_contract()
CHECKED = {"type", "enum", "minimum", "maximum", "pattern", "items", "properties", "required", "additionalProperties",
           "description", "default", "examples"}  # fmt: skip
METHODS = {"get", "put", "post", "delete", "patch"}
SCHEMAS = clincus.inlined(CONTRACT["components"]["schemas"], CONTRACT)


def operations():
    for path, item in clincus.inlined(CONTRACT["paths"], CONTRACT).items():
        for method in sorted(METHODS & set(item)):
            yield method, path, item


def request_schemas():
    for method, path, item in operations():
        route = clincus.Route(method, path, item, print)
        yield from ((f"{method} {path} {known['name']}", known["schema"]) for known in route.parameters)
        if route.body:
            yield f"{method} {path}", route.body


def nested(schema):
    yield schema
    for inner in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from nested(inner)


# ---- the document


def test_the_document_is_valid_openapi():
    openapi_spec_validator.validate(CONTRACT)


@table(("name", "schema"), list(request_schemas()))
def test_requests_use_only_what_the_server_checks(name, schema):
    for one in nested(schema):
        assert set(one) <= CHECKED
        assert {one["type"]} if isinstance(one["type"], str) else set(one["type"]) <= set(clincus.KINDS)
        assert "pattern" not in one or (one["pattern"][0] == "^" and one["pattern"][-1] == "$")
        assert one["type"] != "array" or "items" in one
        assert one["type"] != "integer" or {"minimum", "maximum"} <= set(one)
        assert one["type"] != "object" or "additionalProperties" in one, "the server refuses what is not named"
        # A missing field and an unfitting pattern are explained by the description.
        assert all("description" in one["properties"][field] for field in one.get("required", ()))
        assert "pattern" not in one or "description" in one


def test_every_schema_and_parameter_is_referred_to():
    text = json.dumps(CONTRACT)
    named = [f"#/components/{kind}/{name}" for kind, named in CONTRACT["components"].items() for name in named]
    assert [name for name in named if f'"{name}"' not in text and "securitySchemes" not in name] == []


def test_every_operation_has_a_handler():
    routes = [*clincus.api_routes(None), *clincus.install_features(None).routes]
    assert sorted((method.lower(), path) for method, path, _ in routes) == sorted(
        (method, path) for method, path, _ in operations()
    )


# ---- what the code says


def test_the_config_is_described_whole(tmp_path):
    clincus.install_features(None)  # some keys are theirs
    config = clincus.load_config({"HOME": str(tmp_path)})
    jsonschema.validate(clincus.config_document(config), SCHEMAS["Config"])

    def compare(values, schema, place):
        assert set(values) == set(schema["required"]) == set(schema["properties"]), place
        for name, value in values.items():
            if isinstance(value, dict) and value:
                compare(value, schema["properties"][name], f"{place}.{name}")

    compare(clincus.nest(clincus.fold_layers([])[0]), SCHEMAS["Config"], "config")


def test_a_session_is_described_whole():
    session = a_session(error="broken")
    features = clincus.install_features(None)
    document = json.loads(json.dumps({**session.document(), **features.fields(session)}))
    jsonschema.validate(document, SCHEMAS["Session"])
    assert set(document) == set(SCHEMAS["Session"]["properties"])


# ---- the part that is served


def test_what_nobody_answers_is_not_served():
    router = clincus.Router(CONTRACT)
    router.add("GET", "/api/sessions/{id}", print)
    document = served_contract(router)
    assert list(document["paths"]) == ["/api/sessions/{id}"]
    assert set(document["paths"]["/api/sessions/{id}"]) == {"parameters", "get"}
    assert document["info"]["version"] == clincus.__version__
    openapi_spec_validator.validate(document)


# ---- checking a request

NAME = {"type": "string", "description": "a name in small letters", "pattern": "^[a-z]+$"}
COUNT = {"type": "integer", "minimum": 1, "maximum": 3, "default": 2}
BODY = {
    "type": "object",
    "properties": {
        "name": NAME,
        "count": COUNT,
        "keep": {"type": "boolean"},
        "roots": {"type": ["array", "null"], "items": {"type": "string"}},
        "mode": {"type": "string", "enum": ["mount", "clone"]},
        "size": {"type": "object", "properties": {"cols": COUNT}, "additionalProperties": False},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
KEEP = {"name": "keep", "in": "query", "schema": {"type": "boolean"}}
QUERY = [
    {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
    {"name": "name", "in": "query", "required": True, "description": NAME["description"], "schema": NAME},
    {"name": "count", "in": "query", "schema": COUNT},
    KEEP,
]
ITEM = {
    "post": {
        "requestBody": {"content": {"application/json": {"schema": BODY}}},
        "responses": {"201": {}, "default": {}},
    },
    "get": {"parameters": QUERY, "responses": {"200": {}}},
}
WITH_BODY, WITH_QUERY = clincus.Route("POST", "/x", ITEM, print), clincus.Route("GET", "/x", ITEM, print)


def test_a_body_that_fits_is_read():
    fields = {"name": "a", "count": 3, "keep": False, "roots": ["/a"], "size": {"cols": 1}, "labels": {"any": "text"}}
    for one in (fields, {"name": "a", "roots": None}):
        assert WITH_BODY.read_body(json.dumps(one).encode()) == one
    assert (WITH_BODY.defaults["count"], WITH_BODY.defaults["keep"]) == (2, None)


@table(
    ("body", "words"),
    [
        (b"", '"name" is missing'),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "an object, not []"),
        (b'{"nme":"a"}', 'unknown field "nme"; known are: name, count, keep, roots'),
        (b'{"name":"A"}', '(a name in small letters), not "A"'),
        (b'{"name":"a\\n"}', '"name" must match'),
        (b'{"name":"a","count":true}', "a whole number, not true"),
        (b'{"name":"a","count":NaN}', "a whole number"),
        (b'{"name":"a","count":4}', "from 1 to 3, not 4"),
        (b'{"name":"a","roots":["a",1]}', '"roots[1]" must be a text'),
        (b'{"name":"a","roots":["a\\u0000"]}', "only characters that a name can have"),
        (b'{"name":"a","roots":["\\ud800"]}', "only characters that a name can have"),
        (b'{"name":"a","mode":"copy"}', "one of mount, clone"),
        (b'{"name":"a","size":{"cols":9}}', '"size.cols" must be from 1 to 3'),
        (b'{"name":"a","labels":{"x":1}}', '"labels.x" must be a text'),
    ],
)
def test_a_wrong_body_is_refused_with_the_reason(body, words):
    with pytest.raises(clincus.ClincusError) as caught:
        WITH_BODY.read_body(body)
    assert words in caught.value.message
    assert caught.value.status == 400


@table(
    ("query", "words"),
    [
        ({}, '"name" is missing in the query'),
        ({"name": "a", "count": "x"}, 'a whole number, not "x"'),
        ({"name": "a", "count": "1" * 5000}, "whole number"),
        ({"name": "a", "count": "\u0661"}, "whole number"),
        ({"name": "a", "keep": "yes"}, 'true or false, not "yes"'),
    ],
)
def test_a_wrong_query_is_refused_with_the_reason(query, words):
    with pytest.raises(clincus.ClincusError) as caught:
        WITH_QUERY.read_parameters({"id": "x"}, query)
    assert words in caught.value.message
    assert caught.value.status == 400


def test_parameters_that_are_not_known_are_left_alone():
    read = WITH_QUERY.read_parameters({"id": "x"}, {"name": "a", "utm": "x", "keep": "1", "count": "3"})
    assert read == {"id": "x", "name": "a", "count": 3, "keep": True}
