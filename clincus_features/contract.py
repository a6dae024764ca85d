"""The first questions of a client: GET /api has the version, GET /api/openapi.json the operations of this server."""

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
    """The answer to GET /api: the versions, and the parts beyond the API reference."""
    extensions: set[str] = set()
    for item in served_contract(router)["paths"].values():
        for key, operation in item.items():
            if key != "parameters" and not operation.get("x-reference"):
                extensions.update(operation["tags"])
    return {
        "version": clincus.__version__,
        "api": API,
        "extensions": sorted(extensions),
    }


def served_contract(router: clincus.Router) -> dict[str, Any]:
    """The contract without the operations that no route answers."""
    contract = router.contract
    answered: dict[str, set[str]] = {}
    for route in router.routes:
        methods = answered.setdefault(route.path, {"parameters"})
        methods.add(route.methods[0].lower())
    paths = {}
    for path, item in contract["paths"].items():
        if path in answered:
            paths[path] = {key: value for key, value in item.items() if key in answered[path]}
    info = {**contract["info"], "version": clincus.__version__}
    return {**contract, "info": info, "paths": paths}
