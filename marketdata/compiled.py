"""The compiled code, where `make setup` could build it; without it the same runs in plain Python, slower."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Set to anything, this makes books and trades run in plain Python, as on a machine without a C compiler.
PLAIN = "TICKSTREAM_PLAIN_BOOKS"


def _load(name: str) -> Any:
    if os.environ.get(PLAIN):
        return None
    try:
        return import_module(f"marketdata.{name}")
    except ImportError:
        return None


code = _load("_compiled")
trades = _load("_trades")

# For the logs: which of the two this process runs.
BOOKS = "plain Python" if code is None else "compiled"
