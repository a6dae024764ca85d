#!/usr/bin/env python3
"""Clincus runs AI coding tools at full permissions, each locked in its own Incus container.

`clincus serve` is a REST API, terminals over WebSocket, an event stream and a dashboard, all on one port. The
other subcommands do the same work at a terminal. Incus is the only store of what runs; the `incus` command is
the only way there.

The file reads from top to bottom: each section uses only what stands above it and could be lifted out into a
file of its own.
"""

from __future__ import annotations

__version__ = "0.1.0"


# ----------------------------------------------------------------------------------------------------------------
# errors
# What went wrong, in words for the person who must act. Knows nothing of the rest.
# ----------------------------------------------------------------------------------------------------------------


class ClincusError(Exception):
    """A failure with a sentence that says what to do, and the HTTP status that fits it."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


# ----------------------------------------------------------------------------------------------------------------
# config
# Defaults, TOML layers, validation and the JSON view. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# tools
# What each AI tool is started with and which files it carries in and out. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# incus
# The one door to the `incus` command. Knows nothing of sessions or HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# history
# history.jsonl: append a line, fold the lines into entries. Knows nothing of Incus or HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# protection
# The wall between a workspace and the host: what an instance description needs so that even root in the
# container cannot turn the workspace against its owner. Knows nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# sessions
# Names, slots and the instance description; create, stop, delete, resume; the live registry. Knows nothing of
# HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# workspaces
# Workspace roots, the projects in them, new folders. Knows nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# setup
# From a bare machine to a working Incus with the standard image; the health report. Knows nothing of HTTP.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# http
# Request, response, the routing table, static files and the gate. Knows nothing of what the handlers do.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# websocket
# The hand-off from http.server to the websockets library, the terminal bridge, the event hub.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# server
# Wires the sections above together: handlers, config polling, the listener, shutdown.
# ----------------------------------------------------------------------------------------------------------------


# ----------------------------------------------------------------------------------------------------------------
# command line
# argparse; each subcommand is a few lines over the sections above.
# ----------------------------------------------------------------------------------------------------------------
