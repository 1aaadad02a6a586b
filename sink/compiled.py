"""The compiled rows of trades, where `make setup` could build them; `sink.rows` makes the same rows, slower."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

# Set to anything, this selects the Python code, as on a machine without a C compiler.
PLAIN_ROWS = "TICKSTREAM_PLAIN_ROWS"


def _load() -> Callable[[bytes, int, int], tuple[int, bytes] | None] | None:
    if os.environ.get(PLAIN_ROWS):
        return None
    try:
        found: Callable[[bytes, int, int], tuple[int, bytes] | None] = import_module("sink._binary").trade_rows
    except ImportError:
        return None
    return found


# trade_rows(payload, partition, offset): rows and their COPY data, None where only `sink.rows` knows what to do.
trade_rows = _load()
