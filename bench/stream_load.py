"""What `bench.stream` sends: trades, one or eight a message, and book updates of ten levels, as feeds write them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from marketdata.events import BookUpdate, Trade, Trades

SYMBOLS = 100
VENUE = "bench"


def trades(messages: int, per_message: int, start_ns: int, step_ns: int) -> Iterator[Trades]:
    """Yield messages of so many trades each, in event time, over all symbols in turn; ids rise by one for each symbol.

    `start_ns` is the first event time and `step_ns` the time between two messages, nanoseconds.
    """
    random = Random(1)
    ids = [0] * SYMBOLS
    prices = [10_000 + 100 * symbol for symbol in range(SYMBOLS)]
    for number in range(messages):
        symbol = number % SYMBOLS
        ts = start_ns + number * step_ns
        made = []
        for _ in range(per_message):
            ids[symbol] += 1
            prices[symbol] += random.randint(-2, 2)
            price = f"{prices[symbol] // 100}.{prices[symbol] % 100:02d}"
            size = f"0.{random.randint(1, 9999):04d}"
            side = "buy" if random.random() < 0.5 else "sell"
            made.append(Trade(trade_id=str(ids[symbol]), ts_event=ts, price=price, size=size, side=side))
        yield Trades(
            venue=VENUE, symbol=f"S{symbol:03d}-USD", ts_event=ts, ts_recv=ts, line="bench/0", trades=tuple(made)
        )


def books(messages: int, start_ns: int, step_ns: int) -> Iterator[BookUpdate]:
    """Yield a snapshot of 100 levels a side for each symbol, then updates of five levels a side, in turn."""
    random = Random(2)
    for number in range(messages):
        symbol = number % SYMBOLS
        ts = start_ns + number * step_ns
        first = number < SYMBOLS
        levels = range(100) if first else random.sample(range(100), 5)
        yield BookUpdate(
            venue=VENUE,
            symbol=f"S{symbol:03d}-USD",
            ts_event=ts,
            ts_recv=ts,
            line="bench/0",
            sequence=number,
            kind="snapshot" if first else "update",
            bid_prices=[f"{100 - level / 100 - 0.01:.2f}" for level in levels],
            bid_sizes=[f"{random.randint(1, 9999) / 100:.2f}" for _ in levels],
            ask_prices=[f"{100 + level / 100 + 0.01:.2f}" for level in levels],
            ask_sizes=[f"{random.randint(1, 9999) / 100:.2f}" for _ in levels],
        )
