"""What a client asks first: GET /api has the version, GET /api/openapi.json the operations that this server has."""

from __future__ import annotations

from typing import Any

import clincus

API = 1  # changes only if a client that follows the contract would break


def install(extensions: clincus.Extensions) -> None:
    """Add the two routes."""
    app = extensions.app
    extensions.routes += [
        ("GET", "/api", lambda request: overview(app.router)),
        ("GET", "/api/openapi.json", lambda request: served_contract(app.router)),
    ]


def overview(router: clincus.Router) -> dict[str, object]:
    """The answer of GET /api: the versions, and the parts beyond the API reference."""
    paths = served_contract(router)["paths"]
    operations = [operation for item in paths.values() for key, operation in item.items() if key != "parameters"]
    extensions = {tag for one in operations if not one.get("x-reference") for tag in one["tags"]}
    return {"version": clincus.__version__, "api": API, "extensions": sorted(extensions)}


def served_contract(router: clincus.Router) -> dict[str, Any]:
    """The contract without the operations that no route answers."""
    contract, answered = router.contract, {(route.path, route.methods[0].lower()) for route in router.routes}
    paths = {
        path: {key: value for key, value in item.items() if key == "parameters" or (path, key) in answered}
        for path, item in contract["paths"].items()
        if any(path == known for known, _ in answered)
    }
    return {**contract, "info": {**contract["info"], "version": clincus.__version__}, "paths": paths}
