"""Loops over the trades of one message; compiled where `make setup` could build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata import compiled
from marketdata.plain_prices import Survey

if TYPE_CHECKING or compiled.trades is None:
    from marketdata.plain_prices import add_consecutive, survey
else:
    add_consecutive = compiled.trades.add_consecutive
    survey = compiled.trades.survey

__all__ = ["Survey", "add_consecutive", "survey"]
