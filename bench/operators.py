"""What the operators alone cost: microseconds of CPU for a message, without Kafka and without the codec.

`python bench/operators.py [--json]` takes about ten seconds; TICKSTREAM_PLAIN_BOOKS=1 measures plain Python. Times are
CPU times of this process, the best of three runs, so that other work on the machine matters little.
"""

from __future__ import annotations

import json
import random
import sys
import time
import uuid
from collections.abc import Iterable
from typing import Any

from marketdata import compiled
from marketdata.events import AnyEvent, BookUpdate, Quote, Trade, Trades
from marketdata.operator import Operator
from marketdata.state import pack_state
from stream_apps.operators.anomalies_quotes import AnomaliesQuotes
from stream_apps.operators.anomalies_trades import AnomaliesTrades
from stream_apps.operators.books import Books
from stream_apps.operators.candles import Candles
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_quotes import IngestQuotes
from stream_apps.operators.ingest_trades import IngestTrades

T0 = 1_786_276_800_000_000_000
MS = 1_000_000
MESSAGES = 40_000
RUNS = 3
KEY = "bench:BTC-USD"


def trades(count: int, each: int, *, ids: str = "numbers", lines: int = 1, gap_ms: int = 2) -> list[Trades]:
    """Return messages of trades of one symbol, each from every line."""
    draw = random.Random(7)
    made: list[Trades] = []
    number, cents = 1_000_000, 2_700_000
    for place in range(count // lines):
        ts = T0 + place * gap_ms * MS
        batch = []
        for _ in range(each):
            number += 1
            cents += draw.choice((-1, 0, 0, 1))
            identity = str(number) if ids == "numbers" else str(uuid.UUID(int=draw.getrandbits(128)))
            size, side = f"{draw.randint(1, 5_000) / 1_000:.3f}", draw.choice(("buy", "sell"))
            batch.append(Trade(trade_id=identity, ts_event=ts, price=f"{cents / 100:.2f}", size=size, side=side))
        made += [
            Trades(venue="bench", symbol="BTC-USD", ts_event=ts, ts_recv=ts, line=f"bench/{line}", trades=tuple(batch))
            for line in range(lines)
        ]
    return made


def books(count: int, levels: int) -> list[BookUpdate]:
    """Return a snapshot of a thousand levels a side, and updates of so many levels."""
    draw = random.Random(7)
    common: dict[str, Any] = {"venue": "bench", "symbol": "BTC-USD", "line": "bench/0"}
    prices = [f"{(2_700_000 - n) / 100:.2f}" for n in range(1_000)]
    asks = [f"{(2_700_001 + n) / 100:.2f}" for n in range(1_000)]
    made = [
        BookUpdate(**common, ts_event=T0, ts_recv=T0, sequence=0, kind="snapshot", bid_prices=prices,
                   bid_sizes=["1"] * 1_000, ask_prices=asks, ask_sizes=["1"] * 1_000)
    ]  # fmt: skip
    for number in range(1, count):
        ts, half = T0 + number * 2 * MS, levels // 2
        made.append(
            BookUpdate(**common, ts_event=ts, ts_recv=ts, sequence=number, kind="update",
                       bid_prices=draw.sample(prices, half), bid_sizes=[f"{draw.random():.3f}" for _ in range(half)],
                       ask_prices=draw.sample(asks, half), ask_sizes=[f"{draw.random():.3f}" for _ in range(half)])
        )  # fmt: skip
    return made


def quotes(count: int) -> list[Quote]:
    """Return quotes a cent or two wide."""
    draw = random.Random(7)
    return [
        Quote(
            venue="bench",
            symbol="BTC-USD",
            ts_event=T0 + number * 2 * MS,
            ts_recv=T0 + number * 2 * MS,
            line="bench/0",
            bid=f"{27_000 + draw.randint(0, 9) / 100:.2f}",
            bid_size="1.5",
            ask=f"{27_001 + draw.randint(0, 9) / 100:.2f}",
            ask_size="2.5",
        )
        for number in range(count)
    ]


def step_all(operator: Operator[Any], events: Iterable[AnyEvent]) -> tuple[float, list[AnyEvent], int]:
    """Return the CPU seconds of an operator for events, what it published, and the bytes of its state at the end."""
    state = operator.start(KEY)
    published: list[AnyEvent] = []
    begin = time.process_time()
    for event in events:
        state, out = operator.step(state, event)
        if out:
            published += out
    return time.process_time() - begin, published, len(pack_state(state))


def measure(name: str, events: list[Any], operators: list[type[Any]]) -> dict[str, Any]:
    """Return microseconds for a message of each operator of a chain; the first one's outputs go to the others."""
    best: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for _ in range(RUNS):
        given: list[AnyEvent] = events
        for place, cls in enumerate(operators):
            operator = cls()
            taken, published, size = step_all(operator, given)
            cost = taken / len(events) * 1e6
            best[operator.name] = min(best.get(operator.name, cost), cost)
            sizes[operator.name] = size
            if place == 0 or cls is Books:
                given = [one for one in published if isinstance(one, Trades | BookUpdate | Quote)]
    return {
        "case": name,
        "us": {one: round(cost, 2) for one, cost in best.items()},
        "us_together": round(sum(best.values()), 2),
        "state_bytes": sizes,
    }


def main() -> None:
    """Measure and print a line for each case."""
    on_trades = [IngestTrades, Candles, AnomaliesTrades]
    cases = [
        measure("one trade a message", trades(MESSAGES, 1), on_trades),
        measure("eight trades a message", trades(MESSAGES // 8, 8), on_trades),
        measure("one trade a message, once a second", trades(MESSAGES // 8, 1, gap_ms=1_000), on_trades),
        measure("one trade a message, UUIDs", trades(MESSAGES, 1, ids="uuid"), on_trades),
        measure("one trade a message, two lines", trades(MESSAGES, 1, lines=2), on_trades),
        measure("book updates of ten levels", books(MESSAGES // 2, 10), [IngestBooks, Books, AnomaliesQuotes]),
        measure("quotes", quotes(MESSAGES // 2), [IngestQuotes, AnomaliesQuotes]),
    ]
    code = "plain Python" if compiled.trades is None else "compiled"
    if "--json" in sys.argv:
        print(json.dumps({"code": code, "cases": cases}))
        return
    print(f"microseconds of CPU for a message, {code}; bytes of the states at the end")
    for case in cases:
        parts = "  ".join(f"{name} {cost:.2f}" for name, cost in case["us"].items())
        print(f"{case['case']:<36} {case['us_together']:>7.2f}  ({parts})  {sum(case['state_bytes'].values())} B")


if __name__ == "__main__":
    main()
