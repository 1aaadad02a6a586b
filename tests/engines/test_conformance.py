"""Both engines write the same records for the same inputs, with the operators as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from marketdata import topics
from marketdata.events import (
    AnyEvent,
    BookUpdate,
    CandleHistory,
    DeadLetter,
    Derivative,
    FeedStatus,
    Liquidation,
    Quote,
    Trade,
    Trades,
)
from stream_apps.chain import INPUTS
from stream_apps.operators import make_operators

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
DAY_NS = 86_400 * SECOND_NS
START_NS = 1_780_000_000 * SECOND_NS
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USD")
STEPS = 250


def inputs(topic: str) -> list[AnyEvent]:
    """Return a stream of events for one input topic: mostly good, some doubled, wrong, late or invalid."""
    random = Random(topic)
    made: list[AnyEvent] = []
    for number in range(STEPS):
        # A pause of two days in the middle is longer than candles are marked one by one.
        ts = START_NS + number * 700_000_000 + (2 * DAY_NS if number > STEPS // 2 else 0)
        common: dict[str, Any] = {
            "venue": "sim",
            "symbol": SYMBOLS[number % len(SYMBOLS)],
            "ts_event": ts,
            "ts_recv": ts + 1_000_000,
            "line": "sim/0",
        }
        price = f"{100 + random.randint(-300, 300) / 100:.2f}"
        event: AnyEvent
        if topic.endswith("trades"):
            # A trade for a candle that was closed long ago is late.
            at = ts - 40 * DAY_NS if number % 60 == 58 else ts
            size = random.choice(["0.5", "1.25", "40", "-1"])
            trade = Trade(trade_id=str(number // 3 + 1), ts_event=at, price=price, size=size, side="buy")
            event = Trades(**common, trades=() if number % 10 == 9 else (trade,), valid=number % 50 != 49)
        elif topic.endswith("books"):
            event = _book(common, number, price)
        elif topic.endswith("derivatives"):
            forced = Liquidation(ts_event=ts, side="sell", price=price, size="1", liquidation_id=str(number // 2))
            event = Derivative(**common, sequence=number, mark_price=price, open_interest=str(number % 9),
                               liquidations=(forced,) if number % 7 == 0 else ())  # fmt: skip
        elif topic.endswith("candles"):
            event = _history(common, number, price)
        elif topic.endswith("quotes"):
            bid = f"{float(price) - random.choice([0.01, 0.02, 3.0, -0.5]):.2f}"
            event = Quote(**common, sequence=number, bid=bid, bid_size="1", ask=price, ask_size="2", last=price)
        else:
            kind = random.choice(["gap", "resynced", "connected", "halt"])
            event = FeedStatus(**common, kind=kind, reason="test", gap_id=f"g{number // 6}", channel="trades")
        made.append(event)
        if random.random() < 0.1:
            made.append(event)
    return made


def _history(common: dict[str, Any], number: int, price: str) -> CandleHistory:
    # Three minutes that overlap the three before; now and then one whose low is too high.
    start = START_NS // MINUTE_NS * MINUTE_NS - (STEPS - number) * MINUTE_NS
    lows = [price, f"{float(price) + 1:.2f}" if number % 20 == 19 else price, ""]
    prices = [price, price, ""]
    return CandleHistory(
        **common, interval="1m", start=start, revision=number % 50 // 49, opens=prices, highs=prices, lows=lows,
        closes=prices, volumes=["1", "2", "0"], quote_volumes=["0"] * 3, buy_volumes=["0"] * 3, trades=[1, 2, 0],
    )  # fmt: skip


def _book(common: dict[str, Any], number: int, price: str) -> BookUpdate:
    kind = "clear" if number % 80 == 79 else "snapshot" if number % 80 < len(SYMBOLS) else "update"
    if kind == "clear":
        return BookUpdate(**common, sequence=number, kind=kind, valid=False, reason="gap")
    bids = [f"{float(price) - step / 100:.2f}" for step in range(1, 4)]
    asks = [f"{float(price) + step / 100:.2f}" for step in range(1, 4)]
    sizes = ["1" if kind == "snapshot" else str(number % 7), "2", "3"]
    return BookUpdate(
        **common, sequence=number, kind=kind, bid_prices=bids, bid_sizes=sizes, ask_prices=asks, ask_sizes=sizes
    )


def feed(lab: Any) -> int:
    """Send the events of every topic that feeds write, each with a record that cannot be decoded; return how many."""
    sent = 0
    for name in INPUTS:
        if name == topics.VENUE_PRICES.name:
            continue
        records = [(event.key.encode(), lab.codec.encode(event), event.key.split(":")[1]) for event in inputs(name)]
        records.insert(len(records) // 2, (b"sim:BTC-USD", b"not avro", SYMBOLS[0]))
        for key, value, symbol in records:
            partition = SYMBOLS.index(symbol) % topics.PARTITIONS
            # A loss has its record's time.
            lab.producer.produce(lab.physical(name), value, key, partition, timestamp=START_NS // 1_000_000)
            sent += 1
        lab.producer.flush(30)
    return sent


def comparable(lab: Any, name: str) -> dict[tuple[int, str, str], list[Any]]:
    """Return an output topic's records by partition, input topic and key, in order, without the lab's own prefix.

    Keys of one partition come from several where they have changed, in any order.
    """
    found: dict[tuple[int, str, str], list[Any]] = {}
    for written in lab.written(name):
        event = lab.codec.decode(written.value)
        if isinstance(event, DeadLetter):
            event = msgspec.structs.replace(event, topic=(event.topic or "").removeprefix(lab.prefix))
        at = (written.partition, written.input.removeprefix(lab.prefix), written.key)
        found.setdefault(at, []).append((written.position, event))
    return found


@pytest.fixture
def labs(lab: Any, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A laboratory for each engine."""
    folder = tmp_path / "other"
    folder.mkdir()
    other = type(lab)(lab.endpoints, f"{lab.prefix}b.", lab.codec, folder)
    other.make_topics()
    yield {"faust": lab, "direct": other}
    other.close()


def test_both_engines_write_the_same_records(
    labs: dict[str, Any], until: Callable[..., Any], metrics: Callable[[int], str], free_ports: tuple[int, int]
) -> None:
    """Keys, partitions, positions, order and values, for every output topic of every operator."""
    for (engine, where), port in zip(labs.items(), free_ports, strict=True):
        sent = feed(where)
        worker = where.worker(engine, script=None, metrics_port=str(port))

        def is_done(lab: Any = where, sent: int = sent, port: int = port) -> bool:
            names = ("tickstream_pipeline_inputs_total", "tickstream_consumer_lag")
            lines = [line for line in metrics(port).splitlines() if line.startswith(names)]
            committed = sum(float(line.split()[-1]) for line in lines if line.startswith(names[0]))
            # What the pipeline writes for itself is input as well.
            wanted = sent + len(lab.written(topics.VENUE_PRICES.name))
            assert committed >= wanted, f"{committed:.0f} of {wanted}: {lines}"
            return True

        until(is_done, f"{sent} inputs and the prices of all venues")
        assert worker.terminate() == 0
        where.await_decided()
        assert where.written("md.state")
    outputs = sorted({name for operator in make_operators() for name in operator.outputs})
    by_engine = {engine: {name: comparable(where, name) for name in outputs} for engine, where in labs.items()}
    for name in outputs:
        assert by_engine["faust"][name] == by_engine["direct"][name]
        assert by_engine["faust"][name]
