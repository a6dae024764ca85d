"""The description of the API: GET /api/openapi.json answers with the operations that this server has."""

from __future__ import annotations

import clincus


def install(extensions: clincus.Extensions) -> None:
    """Add the route."""
    app = extensions.app
    extensions.routes.append(("GET", "/api/openapi.json", lambda request: served_contract(app.router)))


def served_contract(router: clincus.Router) -> dict[str, object]:
    """The contract without the operations that no route answers."""
    contract, answered = router.contract, {(route.path, route.methods[0].lower()) for route in router.routes}
    paths = {
        path: {key: value for key, value in item.items() if key == "parameters" or (path, key) in answered}
        for path, item in contract["paths"].items()
        if any(path == known for known, _ in answered)
    }
    return {**contract, "info": {**contract["info"], "version": clincus.__version__}, "paths": paths}
