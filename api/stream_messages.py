"""The messages of the WebSocket's streams whose items the market's state numbers."""

from __future__ import annotations

from api import messages
from api.symbol_state import (
    NumberedAnomaly,
    NumberedCandle,
    NumberedMetrics,
    NumberedStatus,
    NumberedTrade,
    SymbolState,
)
from api.trust import TRUSTED, Trust


def trade(state: SymbolState, kept: NumberedTrade) -> messages.Json:
    """Return the message of one trade."""
    data = messages.trade(kept.trade)
    return messages.numbered("trade", state, kept.trade.ts_event, kept.trust, sequence=kept.number, data=data)


def candle(state: SymbolState, kept: NumberedCandle) -> messages.Json:
    """Return the message of one candle."""
    value = kept.candle
    trust = Trust(value.valid, value.reason)
    return messages.numbered("candle", state, value.ts_event, trust, sequence=kept.number, data=messages.candle(value))


def metrics(state: SymbolState, kept: NumberedMetrics) -> messages.Json:
    """Return the message of a book's metrics."""
    value = kept.metrics
    trust = Trust(value.valid, value.reason)
    return messages.numbered(
        "metrics", state, value.ts_event, trust, sequence=kept.number, data=messages.metrics(value)
    )


def anomaly(state: SymbolState, kept: NumberedAnomaly) -> messages.Json:
    """Return the message of one anomaly."""
    value = kept.anomaly
    return messages.numbered(
        "anomaly", state, value.ts_event, TRUSTED, sequence=kept.number, data=messages.anomaly(value)
    )


def status(state: SymbolState, kept: NumberedStatus) -> messages.Json:
    """Return the message of what happened to a feed."""
    value = kept.status
    return messages.numbered(
        "status", state, value.ts_event, TRUSTED, sequence=kept.number, data=messages.status(value)
    )
