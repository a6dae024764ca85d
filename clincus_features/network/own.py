"""The proxy of one container in this process, without a server: for `clincus run`."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import clincus

from .devices import own_folder, socket_path
from .policy import ALLOW_LIST, Policy
from .proxy import Proxy
from .records import Records


@contextmanager
def own_proxy(environ: Mapping[str, str], id: str, config: clincus.Config, tool: str) -> Iterator[Records]:
    """Run the proxy of a container with a list of names for the `with` block, which gets its records."""
    policy = Policy.configured(config, tool)
    if policy.mode != ALLOW_LIST:
        yield Records()
        return
    own_folder(os.path.dirname(socket_path(environ, id)))
    networks = [ipaddress.ip_network(text) for text in config.get("network.reachable")]
    proxy = Proxy(lambda name: socket_path(environ, name), reachable=lambda: networks)
    over = threading.Event()
    proxy.want(id, policy)

    def serve() -> None:
        while not over.is_set():
            clincus.survive("passing connections", proxy.serve_round)
        proxy.close()

    thread = threading.Thread(target=serve, name="passing connections", daemon=True)
    thread.start()
    try:
        yield proxy.records(id)
    finally:
        over.set()
        proxy.want(id, None)
        thread.join()
