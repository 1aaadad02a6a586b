"""Loops over the trades of one message; compiled if `make setup` could build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata import compiled
from marketdata.plain_prices import Survey

if TYPE_CHECKING or compiled.trades is None:
    from marketdata.plain_prices import (
        add_consecutive,
        are_usual_prices,
        are_usual_sizes,
        are_usual_trades,
        survey,
    )
else:
    add_consecutive = compiled.trades.add_consecutive
    are_usual_prices = compiled.trades.are_usual_prices
    are_usual_sizes = compiled.trades.are_usual_sizes
    are_usual_trades = compiled.trades.are_usual_trades
    survey = compiled.trades.survey

__all__ = ["Survey", "add_consecutive", "are_usual_prices", "are_usual_sizes", "are_usual_trades", "survey"]
