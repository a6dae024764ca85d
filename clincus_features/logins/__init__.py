"""Logins that stay on this host: a session gets placeholders, and its proxy lends the real values.

settings.py reads the configuration, services.py says how each service takes a credential, sources.py reads the values.
"""

from __future__ import annotations

import clincus

from .settings import check_logins


def install(_extensions: clincus.Extensions) -> None:
    """Add no more than the settings."""


__all__ = ["check_logins", "install"]
