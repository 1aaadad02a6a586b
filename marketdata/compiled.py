"""The compiled code of the hot loops, if `make setup` could build it; otherwise slower Python code runs."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# If set to any value, these select the Python code, as on a machine without a C compiler.
PLAIN_BOOKS = "TICKSTREAM_PLAIN_BOOKS"
PLAIN_CODEC = "TICKSTREAM_PLAIN_CODEC"


def _load(module: str, plain: str) -> Any:
    if os.environ.get(plain):
        return None
    try:
        return import_module(module)
    except ImportError:
        return None


code = _load("marketdata._compiled", PLAIN_BOOKS)
trades = _load("marketdata._trades", PLAIN_BOOKS)
headers = _load("marketdata._headers", PLAIN_BOOKS)
codec = _load("marketdata._codec", PLAIN_CODEC)

# For the logs: which code this process runs.
BOOKS = "plain Python" if code is None else "compiled"
CODEC = "fastavro" if codec is None else "compiled"
