"""Open, high, low, close and exact sums of the trades of one interval; compiled where `make setup` could build it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata import compiled
from marketdata.plain_bar import Figures

if TYPE_CHECKING or compiled.trades is None:
    from marketdata.plain_bar import Bar
else:
    Bar = compiled.trades.Bar

__all__ = ["Bar", "Figures"]
