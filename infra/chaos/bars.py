"""Compares bars of trades and of volume with those that the topic's trades make, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from infra.chaos.candles import Tape, same, sums_of
from infra.chaos.findings import Findings
from infra.chaos.published import Published
from infra.chaos.record import Deal
from infra.chaos.trades import TopicTrades
from marketdata.events import Candle, Trade
from marketdata.recipes import Recipe

Closed = dict[tuple[str, str, int], list[Candle]]


def compare(
    published: Iterable[Published], topic: TopicTrades, recipes: Iterable[Recipe], findings: Findings
) -> None:  # fmt: skip
    """Compare each closed bar: none is missing, none is there twice, and each is the sum of its trades."""
    closed: Closed = {}
    for record in published:
        bar = record.event
        if isinstance(bar, Candle) and bar.number is not None and bar.state != "open":
            closed.setdefault((bar.symbol, bar.interval, bar.number), []).append(bar)
    count, wanted = len(closed), 0
    for recipe in recipes:
        for symbol, trades in topic.live.items() if recipe.kind != "time" else ():
            for number, inside in enumerate(groups(trades, recipe)):
                wanted += 1
                at = (symbol, recipe.interval, number)
                _compare_bar(at, closed.pop(at, []), inside, findings)
    for at in closed:
        findings.add("bar_invented", f"{at}")
    findings.set("bars", closed=count, wanted=wanted)


def _compare_bar(at: tuple[str, str, int], bars: list[Candle], inside: list[Trade], findings: Findings) -> None:
    if not bars:
        findings.add("bar_missing", f"{at}")
        return
    if len(bars) > 1:
        findings.add("bar_published_twice", f"{at}: {len(bars)} times")
    wanted = Tape(_deals(inside)).sums(0, 2**63)
    times = inside[0].ts_event, max(trade.ts_event for trade in inside) + 1
    if (bars[0].start, bars[0].end) != times or not same(sums_of(bars[0]), wanted):
        findings.add("bar_differs_from_topic", f"{at}: {bars[0]} instead of {wanted} from {times}")


def groups(trades: list[Trade], recipe: Recipe) -> Iterator[list[Trade]]:
    """Yield the trades of each complete bar; a trade counts whole in the bar that it completes."""
    inside: list[Trade] = []
    filled = Decimal(0)
    for trade in trades:
        size = Decimal(trade.size)
        inside.append(trade)
        filled += {"trades": Decimal(1), "volume": size, "value": Decimal(trade.price) * size}[recipe.kind]
        if filled >= recipe.size:
            yield inside
            inside, filled = [], Decimal(0)


def _deals(trades: list[Trade]) -> Iterator[Deal]:
    for trade in trades:
        yield Deal(int(trade.trade_id), trade.ts_event, trade.price, trade.size, trade.side)
