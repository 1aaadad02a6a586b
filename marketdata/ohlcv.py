"""Open, high, low, close and exact volumes (OHLCV) of an interval's trades; compiled if `make setup` could build it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata import compiled
from marketdata.plain_ohlcv import Figures

if TYPE_CHECKING or compiled.trades is None:
    from marketdata.plain_ohlcv import Bar
else:
    Bar = compiled.trades.Bar

__all__ = ["Bar", "Figures"]
