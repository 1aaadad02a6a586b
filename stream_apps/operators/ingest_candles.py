"""Candles from history: validated, and each revision of each candle published once.

1. The operator `candles` owns the candles that it keeps. History owns only the others: those before its first event and
   those that it has evicted. The writer of md.ingest.candles ensures that, and gives each candle the revision after the
   last one stored.
2. A candle is a duplicate when the same or a higher revision of it has passed: a killed job repeats its last page. The
   memory is bounded (see `revisions`); a candle that may have passed already becomes a dead letter.
3. An invalid candle is refused alone; its neighbours pass.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec

from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.errors import BadEvent
from marketdata.events import AnyEvent, Candle, CandleHistory, DeadLetter
from marketdata.intervals import INTERVALS
from marketdata.operator import Lost
from stream_apps.operators import losses
from stream_apps.operators.revisions import Revisions
from stream_apps.operators.validation import as_json, check_frame, letter, number

REVISION_MAX = 1_000_000
_COLUMNS = ("opens", "highs", "lows", "closes", "volumes", "quote_volumes", "buy_volumes", "trades")
_ORIGINS = frozenset({"backfill", "repair"})


class IngestCandlesState(msgspec.Struct):
    """The revisions of one symbol's candles that have passed, by interval: at most 10 KB each."""

    passed: dict[str, Revisions] = {}


class IngestCandles:
    """The operator."""

    name = "ingest_candles"
    input = "md.ingest.candles"
    outputs: tuple[str, ...] = ("md.candles", "md.status", "md.dead_letters")
    state = IngestCandlesState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> IngestCandlesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return IngestCandlesState()

    def step(self, state: IngestCandlesState, event: AnyEvent) -> tuple[IngestCandlesState, list[AnyEvent]]:
        """Return the candles that are valid and new, and dead letters."""
        assert isinstance(event, CandleHistory)  # noqa: S101 - the topic's schema
        try:
            length = _frame(event)
        except BadEvent as error:
            return state, [self._letter(event, error)]
        passed = state.passed.setdefault(event.interval, Revisions())
        out: list[AnyEvent] = []
        for place in range(len(event.opens)):
            try:
                candle = _candle(event, place, length)
            except BadEvent as error:
                out.append(self._letter(event, error, place, length))
                continue
            seen = passed.add(candle.start // length, event.revision)
            if seen == "new":
                out.append(candle)
            elif seen == "duplicate":
                self.counts["duplicates"] += 1
            else:
                out.append(self._letter(event, BadEvent(seen, "start", candle.start), place, length))
        return state, out

    def _letter(self, event: CandleHistory, error: BadEvent, place: int | None = None, length: int = 0) -> DeadLetter:
        self.counts[error.reason] += 1
        payload = b""
        if place is not None:
            alone = {name: getattr(event, name)[place : place + 1] for name in _COLUMNS}
            payload = as_json(msgspec.structs.replace(event, start=event.start + place * length, **alone))
        return letter(event, error, payload=payload)

    def lost(self, state: IngestCandlesState, key: str, loss: Lost) -> tuple[IngestCandlesState, list[AnyEvent]]:
        """Return a ledger entry, closed at once: a scan of the stored candles finds what is missing."""
        self.counts["lost"] += 1
        return state, [*losses.passed_over(losses.gap(loss, key, "candles"))]


def _frame(event: CandleHistory) -> int:
    """Check everything but the candles themselves; return the interval's length. Raises BadEvent."""
    check_frame(event)
    length = INTERVALS.get(event.interval)
    if length is None:
        raise BadEvent("unknown_interval", "interval", event.interval)
    if event.origin not in _ORIGINS:
        raise BadEvent("unknown_origin", "origin", event.origin)
    if not 0 <= event.revision <= REVISION_MAX:
        raise BadEvent("out_of_range", "revision", event.revision)
    count = len(event.opens)
    if any(len(getattr(event, name)) != count for name in _COLUMNS):
        raise BadEvent("uneven_columns", "opens", count)
    if event.start % length or event.start < TS_MIN or event.start + count * length > event.ts_recv + AHEAD_NS_MAX:
        raise BadEvent("time_out_of_bounds", "start", event.start)
    return length


def _candle(event: CandleHistory, place: int, length: int) -> Candle:
    """Return the candle at a position. Raises BadEvent."""
    start = event.start + place * length
    prices: dict[str, Any] = {
        name: getattr(event, f"{name}s")[place] or None for name in ("open", "high", "low", "close")
    }
    _check_prices(prices)
    for name in ("volumes", "quote_volumes", "buy_volumes"):
        text = getattr(event, name)[place]
        # A sum over prices below zero may be negative itself.
        if text is not None and number(text, name) < 0 and name != "quote_volumes":
            raise BadEvent("negative", name, text)
    trades = event.trades[place]
    if trades is not None and trades < 0:
        raise BadEvent("negative", "trades", trades)
    return Candle(
        venue=event.venue,
        symbol=event.symbol,
        interval=event.interval,
        start=start,
        end=start + length,
        ts_event=start + length,
        ts_recv=event.ts_recv,
        volume=event.volumes[place],
        quote_volume=event.quote_volumes[place],
        buy_volume=event.buy_volumes[place],
        trades=trades,
        state="revised" if event.revision else "final",
        revision=event.revision,
        origin=event.origin,
        **prices,
    )


def _check_prices(prices: dict[str, str | None]) -> None:
    """Check the prices of a candle; none at all, or only one of the two pairs, where no trade sets them."""
    given: dict[str, Decimal] = {name: number(text, name) for name, text in prices.items() if text is not None}
    for one, other in (("open", "close"), ("high", "low")):
        if (one in given) != (other in given):
            raise BadEvent("incomplete", one, prices[one])
    low, high = given.get("low"), given.get("high")
    if low is None or high is None:
        return
    inside = [given[name] for name in ("open", "close") if name in given]
    if not low <= min(inside, default=low) <= max(inside, default=high) <= high:
        raise BadEvent("not_a_candle", "high", prices["high"])
