"""What an event changed in the market, for those who subscribed to it."""

from __future__ import annotations

import msgspec

from api.core.derivatives import NumberedDerivative
from api.core.symbol_state import (
    NumberedAnomaly,
    NumberedCandle,
    NumberedMetrics,
    NumberedStatus,
    NumberedTrade,
    SymbolState,
)
from marketdata.book import Level


class BookChanged(msgspec.Struct, frozen=True, gc=False):
    """A book changed. `views` maps each watched depth to its new levels; None when the whole book is new."""

    state: SymbolState
    views: dict[int, tuple[list[Level], list[Level]]] | None
    trust_changed: bool


class TickerChanged(msgspec.Struct, frozen=True, gc=False):
    """The ticker in `state` is new."""

    state: SymbolState


class Traded(msgspec.Struct, frozen=True, gc=False):
    """New trades, oldest first."""

    state: SymbolState
    trades: list[NumberedTrade]


class CandleChanged(msgspec.Struct, frozen=True, gc=False):
    """A candle is new, or corrected."""

    state: SymbolState
    candle: NumberedCandle


class MetricsChanged(msgspec.Struct, frozen=True, gc=False):
    """The metrics of a book are new."""

    state: SymbolState
    metrics: NumberedMetrics


class AnomalyFound(msgspec.Struct, frozen=True, gc=False):
    """An anomaly is new, has become worse or has ended."""

    state: SymbolState
    anomaly: NumberedAnomaly


class StatusChanged(msgspec.Struct, frozen=True, gc=False):
    """Something happened to a feed."""

    state: SymbolState
    status: NumberedStatus


class DerivativeChanged(msgspec.Struct, frozen=True, gc=False):
    """What a venue sends about a derivative is new."""

    state: SymbolState
    derivative: NumberedDerivative


Change = (
    BookChanged
    | TickerChanged
    | Traded
    | CandleChanged
    | MetricsChanged
    | DerivativeChanged
    | AnomalyFound
    | StatusChanged
)
