"""Compares the last published state of each candle with the topic's trades, and valid ones with the exchange's.

Bars of time by recipe are candles of other lengths. For bars that have a number, see `bars`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from decimal import Decimal
from operator import attrgetter
from typing import NamedTuple

from infra.chaos.findings import Findings
from infra.chaos.published import Places, Published
from infra.chaos.record import Deal, ProductRecord
from infra.chaos.trades import TopicTrades
from marketdata.events import Candle


class Sums(NamedTuple):
    """What a candle must show; prices are None where there is no trade."""

    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    close: Decimal | None
    volume: Decimal
    quote_volume: Decimal | None
    buy_volume: Decimal | None
    trades: int | None


class Tape:
    """Trades in event order, summed over any time."""

    def __init__(self, deals: Iterable[Deal]) -> None:
        self._deals = sorted(deals, key=attrgetter("ts", "trade_id"))

    def sums(self, start: int, end: int) -> Sums:
        """Return the sums of the trades in [start, end), UTC nanoseconds."""
        inside = self._deals[self._place(start) : self._place(end)]
        if not inside:
            return Sums(None, None, None, None, Decimal(0), Decimal(0), Decimal(0), 0)
        prices = [Decimal(deal.price) for deal in inside]
        sizes = [Decimal(deal.size) for deal in inside]
        return Sums(
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum(sizes, Decimal(0)),
            sum((price * size for price, size in zip(prices, sizes, strict=True)), Decimal(0)),
            sum((size for deal, size in zip(inside, sizes, strict=True) if deal.side == "buy"), Decimal(0)),
            len(inside),
        )

    @property
    def first(self) -> int:
        """The time of the first trade, or 0."""
        return self._deals[0].ts if self._deals else 0

    def _place(self, ts: int) -> int:
        return bisect_left(self._deals, ts, key=attrgetter("ts"))


def compare(
    published: Iterable[Published], topic: TopicTrades, records: Mapping[str, ProductRecord], findings: Findings
) -> Places:
    """Compare; return what the sink keeps: closed candles."""
    last, kept = _last(published, findings)
    tapes = {
        symbol: Tape(
            Deal(number, trade.ts_event, trade.price, trade.size, trade.side)
            for number, trade in topic.by_symbol.get(symbol, {}).items()
        )
        for symbol in records
    }
    truths = {symbol: Tape(record.deals.values()) for symbol, record in records.items()}
    figures = {
        "last": len(last),
        "by_recipe": 0,
        "final": 0,
        "valid": 0,
        "invalid_but_right": 0,
        "wrong": 0,
        "valid_wrong": 0,
    }
    for record, candle in last.values():
        figures["final"] += candle.state != "open"
        figures["by_recipe"] += candle.recipe != ""
        figures["valid"] += candle.valid
        shown, tape = sums_of(candle), tapes[candle.symbol]
        # Trades before the first one in the topic are not the stream's.
        if candle.start >= tape.first and not same(shown, wanted := tape.sums(candle.start, candle.end)):
            figures["wrong"] += 1
            findings.add("candle_differs_from_topic", f"{_text(record, candle)}: {shown} instead of {wanted}")
        truth = truths[candle.symbol].sums(candle.start, candle.end)
        is_right = same(shown, truth)
        # More careful than it had to be: for example a gap whose trades came back by the venue's own snapshot.
        figures["invalid_but_right"] += is_right and not candle.valid and candle.state != "open"
        if candle.valid and not is_right:
            figures["valid_wrong"] += 1
            findings.add("candle_valid_and_wrong", f"{_text(record, candle)}: {shown} instead of {truth}")
    findings.set("candles", **figures)
    return kept


def _last(
    published: Iterable[Published], findings: Findings
) -> tuple[dict[tuple[str, str, int], tuple[Published, Candle]], Places]:
    """Return the last state of each candle, and the places of closed ones; each of those is published once."""
    last: dict[tuple[str, str, int], tuple[Published, Candle]] = {}
    closed: set[tuple[str, str, int, int, str]] = set()
    kept: Places = {}
    for record in published:
        candle = record.event
        if not isinstance(candle, Candle):
            continue
        if candle.state != "open":
            kept[record.partition, record.offset] = 1
        if candle.number is not None:
            continue
        last[candle.symbol, candle.interval, candle.start] = (record, candle)
        if candle.state != "open":
            identity = (candle.symbol, candle.interval, candle.start, candle.revision, candle.origin)
            if identity in closed:
                findings.add("candle_published_twice", _text(record, candle))
            closed.add(identity)
    return last, kept


def same(shown: Sums, wanted: Sums) -> bool:
    """Return whether a candle shows what it must; a sum that is null is unknown, and no price is where no trade is."""
    if wanted.trades and shown.close is None:
        return False
    return all(value is None or value == right for value, right in zip(shown, wanted, strict=True))


def sums_of(candle: Candle) -> Sums:
    """Return what a candle shows."""
    return Sums(
        _number(candle.open),
        _number(candle.high),
        _number(candle.low),
        _number(candle.close),
        Decimal(candle.volume),
        _number(candle.quote_volume),
        _number(candle.buy_volume),
        candle.trades,
    )


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _text(record: Published, candle: Candle) -> str:
    return (
        f"{candle.symbol} {candle.interval} {candle.start} {candle.state} {candle.revision} "
        f"at {record.partition}@{record.offset}"
    )
