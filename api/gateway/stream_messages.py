"""The messages of the WebSocket's streams: each change, and what brings a subscriber to the present."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.core import messages
from api.core.clocks import Clocks
from api.core.consolidated import Product, Views
from api.core.derivatives import STALE_NS as DERIVATIVES_STALE_NS
from api.core.symbol_state import (
    NumberedAnomaly,
    NumberedCandle,
    NumberedMetrics,
    NumberedStatus,
    NumberedTrade,
    SymbolState,
)
from api.core.trust import TRUSTED, Trust, fresh
from api.gateway.subscribers import Stream
from marketdata.events import Liquidation

_RECENT_TRADES = 50
_RECENT_ANOMALIES = 20
_RECENT_STATUSES = 10


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


class StreamMessages:
    """The messages of streams by what the market knows now; `clocks` judge what is stale."""

    def __init__(self, views: Views, clocks: Clocks, stale_ns: int) -> None:
        self._views = views
        self._clocks = clocks
        self._stale_ns = stale_ns

    def book_trust(self, state: SymbolState) -> Trust:
        """Return whether a book may be trusted now."""
        ts_recv = state.book.ts_recv
        return fresh(state.book.trust, ts_recv, self._clocks.now(state.venue, ts_recv), self._stale_ns)

    def ticker_trust(self, state: SymbolState) -> Trust | None:
        """Return whether a ticker may be trusted now; None before the first."""
        if state.ticker is None:
            return None
        ts_recv = state.ticker_ts_recv
        return fresh(state.ticker.trust, ts_recv, self._clocks.now(state.venue, ts_recv), self._stale_ns)

    def derivative_trust(self, state: SymbolState) -> Trust | None:
        """Return whether a derivative may be trusted now; None before the first event."""
        known = state.derivative
        if known is None:
            return None
        stale_ns = max(self._stale_ns, DERIVATIVES_STALE_NS)
        return fresh(
            Trust(known.valid, known.reason), known.ts_recv, self._clocks.now(state.venue, known.ts_recv), stale_ns
        )

    def book(self, stream: Stream) -> messages.Json:
        """Return the best levels of a book, as many as the stream is deep."""
        book, depth = stream.state.book, stream.key.depth
        sides = messages.levels(book.book.bids.top(depth), book.book.asks.top(depth))
        trust = self.book_trust(stream.state)
        message = messages.numbered(
            "l2_snapshot", stream.state, book.ts_event, trust, sequence=stream.sequence, data=sides
        )
        message["depth"] = depth
        return message

    def book_update(self, stream: Stream, bids: Iterable[Any], asks: Iterable[Any]) -> messages.Json:
        """Return the message of levels that changed."""
        book = stream.state.book
        message = messages.numbered(
            "l2_update",
            stream.state,
            book.ts_event,
            self.book_trust(stream.state),
            sequence=stream.sequence,
            data=messages.levels(bids, asks),
        )
        message["depth"] = stream.key.variant
        return message

    def ticker(self, stream: Stream, trust: Trust) -> messages.Json:
        """Return the ticker."""
        ticker = stream.state.ticker
        assert ticker is not None  # noqa: S101 - for the type checker: both callers looked
        number = stream.state.ticker_number
        return messages.numbered("ticker", stream.state, ticker.ts_event, trust, sequence=number, data=ticker.data)

    def derivatives(self, stream: Stream, liquidations: tuple[Liquidation, ...]) -> list[messages.Json]:
        """Return the message of a derivative's newest values; none before the first."""
        known, trust = stream.state.derivative, self.derivative_trust(stream.state)
        if known is None or trust is None:
            return []
        data = messages.derivative(known, liquidations)
        return [messages.numbered("derivative", stream.state, known.ts_event, trust, sequence=known.number, data=data)]

    def consolidated(self, stream: Stream) -> messages.Json:
        """Return the best bid and offer over all venues."""
        product = stream.key.variant
        assert isinstance(product, Product)  # noqa: S101 - for the type checker: its variant
        found = self._views.get(stream.key.symbol, product)
        data = found.data(self._clocks.now)
        return messages.numbered(
            "consolidated", stream.state, found.ts_event, found.trust, sequence=stream.sequence, data=data
        )

    def present(self, stream: Stream, last: int | None) -> list[messages.Json]:
        """Return what a subscriber is missing that knows the stream up to the number `last` (None: nothing)."""
        state = stream.state
        match stream.key.channel:
            case "book":
                present = [self.book(stream)]
            case "consolidated":
                present = [self.consolidated(stream)]
            case "ticker":
                trust = self.ticker_trust(state)
                present = [self.ticker(stream, trust)] if trust is not None else []
            case "derivatives":
                known = state.derivative
                present = self.derivatives(stream, known.liquidations()) if known is not None else []
            case "metrics":
                present = [metrics(state, state.metrics)] if state.metrics is not None else []
            case "candles":
                kept = sorted(state.candles.get(str(stream.key.variant), {}).values(), key=lambda each: each.number)
                present = [candle(state, each) for each in kept if each.number > (last or 0)]
            case "trades":
                present = [trade(state, each) for each in list(state.trades)[-_RECENT_TRADES:]]
            case "anomalies":
                present = [anomaly(state, one) for one in list(state.anomalies.values())[-_RECENT_ANOMALIES:]]
            case _:
                present = [status(state, one) for one in list(state.statuses)[-_RECENT_STATUSES:]]
        return present
