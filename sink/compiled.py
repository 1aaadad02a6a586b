"""The compiled encoder of trade rows, if `make setup` could build it; `sink.rows` makes the same rows, slower."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

# If set to any value, this selects the Python code, as on a machine without a C compiler.
PLAIN_ROWS = "TICKSTREAM_PLAIN_ROWS"


def _load() -> Callable[[bytes, int, int], tuple[int, bytes] | None] | None:
    if os.environ.get(PLAIN_ROWS):
        return None
    try:
        found: Callable[[bytes, int, int], tuple[int, bytes] | None] = import_module("sink._binary").trade_rows
    except ImportError:
        return None
    return found


# trade_rows(payload, partition, offset): number of rows and their COPY data; None if the record needs `sink.rows`.
trade_rows = _load()
