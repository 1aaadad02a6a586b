"""Candles of history: md.ingest.candles to md.candles, validated, each revision of each candle once.

1. Candles that the operator `candles` keeps are its own. History speaks of the others only: those before its first
   event and those that it has forgotten. Who writes md.ingest.candles sees to that, and gives each candle the revision
   that follows the last one stored.
2. A candle that came before with the same revision is a duplicate: a job that was killed tells its last page again.
3. A candle that cannot be right is refused alone, and those around it go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.errors import BadEvent
from marketdata.events import POSITIVE_KINDS, AnyEvent, Candle, CandleHistory, DeadLetter, Instrument
from stream_apps.operators import checkpoint
from stream_apps.operators.candles import INTERVALS
from stream_apps.operators.dedup import SeenIds
from stream_apps.operators.validate import number

REVISION_MAX = 1_000_000
_COLUMNS = ("opens", "highs", "lows", "closes", "volumes", "quote_volumes", "buy_volumes", "trades")
_ORIGINS = frozenset({"backfill", "repair"})


class HistoryState(msgspec.Struct):
    """Which candles of one symbol have passed, by `interval|revision`, as ranges of their places since 1970."""

    seen: dict[str, SeenIds] = {}
    ts_recv: int = 0


class IngestCandles:
    """The operator."""

    name = "ingest_candles"
    inputs: tuple[str, ...] = ("md.ingest.candles",)
    outputs: tuple[str, ...] = ("md.candles", "md.dead_letters")
    checkpoints = checkpoint.TOPIC

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self.counts: Counter[str] = Counter()
        self._instruments = instruments

    def start(self, key: str) -> HistoryState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return HistoryState()

    def step(self, state: HistoryState, event: AnyEvent) -> tuple[HistoryState, list[AnyEvent]]:
        """Return the candles that are right and new, and dead letters."""
        assert isinstance(event, CandleHistory)  # noqa: S101 - the topic's schema
        state.ts_recv = event.ts_recv
        try:
            length = _frame(event)
        except BadEvent as error:
            return state, [self._letter(event, error)]
        known = self._instruments.get(event.key)
        positive = known is None or known.kind in POSITIVE_KINDS
        seen = state.seen.setdefault(f"{event.interval}|{event.revision}", SeenIds())
        out: list[AnyEvent] = []
        for place in range(len(event.opens)):
            try:
                candle = _candle(event, place, length, positive=positive)
            except BadEvent as error:
                out.append(self._letter(event, error, place, length))
                continue
            if seen.add(str(candle.start // length)) == "new":
                out.append(candle)
            else:
                self.counts["duplicates"] += 1
        return state, out

    def _letter(self, event: CandleHistory, error: BadEvent, place: int | None = None, length: int = 0) -> DeadLetter:
        self.counts[error.reason] += 1
        payload = b""
        if place is not None:
            alone = {name: getattr(event, name)[place : place + 1] for name in _COLUMNS}
            payload = msgspec.json.encode(msgspec.structs.replace(event, start=event.start + place * length, **alone))
        return DeadLetter(
            venue=event.venue,
            symbol=event.symbol,
            ts_recv=event.ts_recv,
            stage="validate",
            reason=error.reason,
            detail=str(error),
            field=error.field,
            value=error.value,
            line=event.line,
            payload=payload,
        )

    def checkpoint(self, state: HistoryState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> HistoryState:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, HistoryState)


def _frame(event: CandleHistory) -> int:
    """Return the length of the interval when all but the candles themselves is right. Raises BadEvent."""
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


def _candle(event: CandleHistory, place: int, length: int, *, positive: bool) -> Candle:
    """Return one of the candles. Raises BadEvent."""
    start = event.start + place * length
    prices: dict[str, Any] = {
        name: getattr(event, f"{name}s")[place] or None for name in ("open", "high", "low", "close")
    }
    _check_prices(prices, positive=positive)
    for name in ("volumes", "quote_volumes", "buy_volumes"):
        text = getattr(event, name)[place]
        # A sum over prices below zero may be negative itself.
        if text is not None and number(text, name) < 0 and (positive or name != "quote_volumes"):
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


def _check_prices(prices: dict[str, str | None], *, positive: bool) -> None:
    given: dict[str, Decimal] = {name: number(text, name) for name, text in prices.items() if text is not None}
    if not given:
        return  # an interval without trades
    if len(given) != len(prices):
        raise BadEvent("incomplete", "open", prices["open"])
    if positive and given["low"] <= 0:
        raise BadEvent("not_positive", "low", prices["low"])
    if not given["low"] <= min(given["open"], given["close"]) <= max(given["open"], given["close"]) <= given["high"]:
        raise BadEvent("not_a_candle", "high", prices["high"])
