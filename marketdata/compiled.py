"""The compiled code of books, where `make setup` could build it; without it they run in plain Python, slower."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Set to anything, this makes books run in plain Python, as on a machine without a C compiler.
PLAIN = "TICKSTREAM_PLAIN_BOOKS"


def _load() -> Any:
    if os.environ.get(PLAIN):
        return None
    try:
        return import_module("marketdata._compiled")
    except ImportError:
        return None


code = _load()

# For the logs: which of the two this process runs.
BOOKS = "plain Python" if code is None else "compiled"
