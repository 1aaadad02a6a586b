"""A compact set of 16-byte keys; compiled if `make setup` could build it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata import compiled
from marketdata.plain_keys import KEY_BYTES

if TYPE_CHECKING or compiled.trades is None:
    from marketdata.plain_keys import KeySet
else:
    KeySet = compiled.trades.KeySet

__all__ = ["KEY_BYTES", "KeySet"]
