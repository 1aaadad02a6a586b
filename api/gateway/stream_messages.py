"""The messages of the WebSocket's streams: each change, and what brings a subscriber to the present."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

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
from api.gateway.stream import Stream
from api.gateway.stream_key import StreamKey
from marketdata.events import Anomaly, AnyEvent, Candle, FeedStatus, Liquidation, Metrics, Trades

_RECENT_TRADES = 50
_RECENT_ANOMALIES = 20
_RECENT_STATUSES = 10


class Placed(NamedTuple):
    """A message with its number in its stream, and the place of what it brings: a record's offset, and an item of it.

    The offset is -1 where it is not the content of a record of one topic.
    """

    message: messages.Json
    number: int
    ts_event: int
    offset: int = -1
    item: int = 0


def trade(state: SymbolState, kept: NumberedTrade) -> Placed:
    """Return the message of one trade."""
    data = messages.trade(kept.trade)
    message = messages.numbered("trade", state, kept.trade.ts_event, kept.trust, sequence=kept.number, data=data)
    return Placed(message, kept.number, kept.trade.ts_event, kept.offset, kept.item)


def candle(state: SymbolState, kept: NumberedCandle) -> Placed:
    """Return the message of one candle."""
    value = kept.candle
    trust, data = Trust(value.valid, value.reason), messages.candle(value)
    message = messages.numbered("candle", state, value.ts_event, trust, sequence=kept.number, data=data)
    return Placed(message, kept.number, value.ts_event, kept.offset)


def metrics(state: SymbolState, kept: NumberedMetrics) -> Placed:
    """Return the message of a book's metrics."""
    value = kept.metrics
    trust, data = Trust(value.valid, value.reason), messages.metrics(value)
    message = messages.numbered("metrics", state, value.ts_event, trust, sequence=kept.number, data=data)
    return Placed(message, kept.number, value.ts_event, kept.offset)


def anomaly(state: SymbolState, kept: NumberedAnomaly) -> Placed:
    """Return the message of one anomaly."""
    data = messages.anomaly(kept.anomaly)
    message = messages.numbered("anomaly", state, kept.anomaly.ts_event, TRUSTED, sequence=kept.number, data=data)
    return Placed(message, kept.number, kept.anomaly.ts_event, kept.offset)


def status(state: SymbolState, kept: NumberedStatus) -> Placed:
    """Return the message of what happened to a feed."""
    data = messages.status(kept.status)
    message = messages.numbered("status", state, kept.status.ts_event, TRUSTED, sequence=kept.number, data=data)
    return Placed(message, kept.number, kept.status.ts_event, kept.offset)


def of_event(key: StreamKey, state: SymbolState, event: AnyEvent, offset: int) -> list[Placed]:
    """Return what a record that is read again brings to a stream of events or candles, without numbers."""
    match event:
        case Trades() if key.channel == "trades" and event.origin == "live":
            trust = Trust(event.valid, event.reason)
            found = [
                trade(state, NumberedTrade(0, offset, item, one, trust, event.ts_recv))
                for item, one in enumerate(event.trades)
            ]
        case Candle() if key.channel == "candles" and event.interval == key.variant and event.origin != "backfill":
            found = [candle(state, NumberedCandle(0, offset, event))]
        case Metrics() if key.channel == "metrics":
            found = [metrics(state, NumberedMetrics(0, offset, event))]
        case Anomaly() if key.channel == "anomalies":
            found = [anomaly(state, NumberedAnomaly(0, offset, event))]
        case FeedStatus() if key.channel == "status":
            found = [status(state, NumberedStatus(0, offset, event))]
        case _:
            found = []
    return found


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

    def stale_at(self, stream: Stream) -> int | None:
        """Return when a stream's value becomes stale (UTC nanoseconds); None where age does not matter."""
        state = stream.state
        match stream.key.channel:
            case "book":
                return state.book.ts_recv + self._stale_ns
            case "ticker":
                return state.ticker_ts_recv + self._stale_ns
            case "derivatives":
                ts_recv = 0 if state.derivative is None else state.derivative.ts_recv
                return ts_recv + max(self._stale_ns, DERIVATIVES_STALE_NS)
            case _:
                return None

    def book(self, stream: Stream) -> Placed:
        """Return the best levels of a book, as many as the stream is deep."""
        book, depth = stream.state.book, stream.key.depth
        sides = messages.levels(book.book.bids.top(depth), book.book.asks.top(depth))
        return self._book_message(stream, "l2_snapshot", sides)

    def book_update(self, stream: Stream, bids: Iterable[Any], asks: Iterable[Any]) -> Placed:
        """Return the message of levels that changed."""
        return self._book_message(stream, "l2_update", messages.levels(bids, asks))

    def _book_message(self, stream: Stream, kind: str, sides: messages.Json) -> Placed:
        book, trust = stream.state.book, self.book_trust(stream.state)
        message = messages.numbered(kind, stream.state, book.ts_event, trust, sequence=stream.sequence, data=sides)
        message["depth"] = stream.key.depth
        return Placed(message, stream.sequence, book.ts_event, book.offset)

    def ticker(self, stream: Stream, trust: Trust) -> Placed:
        """Return the ticker."""
        ticker = stream.state.ticker
        assert ticker is not None  # noqa: S101 - for the type checker: both callers looked
        number = stream.state.ticker_number
        message = messages.numbered("ticker", stream.state, ticker.ts_event, trust, sequence=number, data=ticker.data)
        return Placed(message, number, ticker.ts_event)

    def derivatives(self, stream: Stream, liquidations: tuple[Liquidation, ...]) -> list[Placed]:
        """Return the message of a derivative's newest values; none before the first."""
        known, trust = stream.state.derivative, self.derivative_trust(stream.state)
        if known is None or trust is None:
            return []
        data = messages.derivative(known, liquidations)
        message = messages.numbered("derivative", stream.state, known.ts_event, trust, sequence=known.number, data=data)
        return [Placed(message, known.number, known.ts_event, known.recent[-1].offset)]

    def consolidated(self, stream: Stream) -> Placed:
        """Return the best bid and offer over all venues."""
        product = stream.key.variant
        assert isinstance(product, Product)  # noqa: S101 - for the type checker: its variant
        found = self._views.get(stream.key.symbol, product)
        data = found.data(self._clocks.now)
        message = messages.numbered(
            "consolidated", stream.state, found.ts_event, found.trust, sequence=stream.sequence, data=data
        )
        return Placed(message, stream.sequence, found.ts_event)

    @staticmethod
    def number(stream: Stream) -> int:
        """Return the number of the newest message of a stream that has numbers in the market's state."""
        state = stream.state
        match stream.key.channel:
            case "trades":
                number = state.trade_number
            case "candles":
                number = state.candle_numbers.get(str(stream.key.variant), 0)
            case "metrics":
                number = state.metrics.number if state.metrics is not None else 0
            case "anomalies":
                number = state.anomaly_number
            case _:
                number = state.status_number
        return number

    def present(self, stream: Stream) -> list[Placed]:
        """Return what brings a subscriber to the present."""
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
                present = [candle(state, each) for each in kept]
            case "trades":
                present = [trade(state, each) for each in list(state.trades)[-_RECENT_TRADES:]]
            case "anomalies":
                present = [anomaly(state, one) for one in list(state.anomalies.values())[-_RECENT_ANOMALIES:]]
            case _:
                present = [status(state, one) for one in list(state.statuses)[-_RECENT_STATUSES:]]
        return present
