"""Both engines write the same records for the same inputs, for each app as it is."""

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
    FeedStatus,
    Instrument,
    Quote,
    Trade,
    Trades,
)
from marketdata.headers import HOPS, encode_times
from stream_apps.engines.apps import by_input, written_topics
from stream_apps.table import APPS

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
START_NS = 1_780_000_000 * SECOND_NS
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")
DAY_NS = 86_400 * SECOND_NS
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
            "symbol": SYMBOLS[number % 3],
            "ts_event": ts,
            "ts_recv": ts + 1_000_000,
            "line": "sim/0",
        }
        price = f"{100 + random.randint(-300, 300) / 100:.2f}"
        event: AnyEvent
        if topic.endswith("trades"):
            size = random.choice(["0.5", "1.25", "40", "-1"])
            # A trade for a candle that was given up long ago is late.
            at = ts - 40 * DAY_NS if number % 60 == 58 else ts
            trade = Trade(trade_id=str(number // 3 + 1), ts_event=at, price=price, size=size, side="buy")
            beat = number % 10 == 9
            event = Trades(**common, trades=() if beat else (trade,), valid=number % 50 != 49, reason="")
        elif topic.endswith(("books", "book_updates")):
            event = _book(common, number, price)
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
        closes=prices, volumes=["1", "2", "0"], quote_volumes=["0"] * 3, buy_volumes=[None] * 3, trades=[1, 2, 0],
    )  # fmt: skip


def _book(common: dict[str, Any], number: int, price: str) -> BookUpdate:
    kind = {79: "clear", 0: "snapshot", 1: "snapshot", 2: "snapshot"}.get(number % 80, "update")
    if kind == "clear":
        return BookUpdate(**common, sequence=number, kind=kind, valid=False, reason="gap")
    bids = [f"{float(price) - step / 100:.2f}" for step in range(1, 4)]
    asks = [f"{float(price) + step / 100:.2f}" for step in range(1, 4)]
    sizes = [str(number % 7), "2", "3"]
    if kind == "snapshot":
        sizes[0] = "1"
    columns: dict[str, Any] = {"bid_prices": bids, "bid_sizes": sizes, "ask_prices": asks, "ask_sizes": sizes}
    return BookUpdate(**common, sequence=number, kind=kind, **columns)


def feed(lab: Any, app: str) -> int:
    """Send an app's inputs and return how many records it got."""
    sent = 0
    for name in by_input(APPS[app], {}):
        for event in inputs(name):
            partition = SYMBOLS.index(event.symbol) % topics.PARTITIONS  # type: ignore[union-attr]
            lab.send(name, event, partition)
            sent += 1
        lab.send_bytes(name, b"sim:BTC-USD", b"nobody's", 0, {HOPS: encode_times(1_780_000_000_000_000_000, 0)})
        sent += 1
    lab.producer.flush(30)
    return sent


def comparable(lab: Any, name: str) -> list[Any]:
    """Return an output topic's records, per partition and operator in order, without the lab's own prefix."""
    found = []
    for written in lab.written(name):
        if written.position[1] < 0:
            continue  # checkpoints come when the engine's own clock says so
        event = lab.codec.decode(written.value)
        if isinstance(event, DeadLetter):
            event = msgspec.structs.replace(event, topic=(event.topic or "").removeprefix(lab.prefix))
        found.append((written.partition, written.source, written.position, written.key, event))
    return sorted(found, key=lambda line: line[:2])


@pytest.fixture
def labs(lab: Any, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A laboratory for each engine."""
    folder = tmp_path / "other"
    folder.mkdir()
    other = type(lab)(lab.endpoints, f"{lab.prefix}b.", lab.codec, folder)
    other.make_topics()
    yield {"faust": lab, "direct": other}
    other.close()


@pytest.mark.parametrize("app", sorted(APPS))
def test_both_engines_write_the_same_records(
    labs: dict[str, Any],
    until: Callable[..., Any],
    metrics: Callable[[int], str],
    free_ports: tuple[int, int],
    app: str,
) -> None:
    """Keys, partitions, positions, order and values, for every output topic of the app."""
    for (engine, where), port in zip(labs.items(), free_ports, strict=True):
        for symbol in SYMBOLS:
            base, _, quote = symbol.partition("-")
            known = Instrument(
                venue="sim",
                symbol=symbol,
                ts_recv=START_NS,
                venue_symbol=symbol,
                base_currency=base,
                quote_currency=quote,
                tick_size="0.01",
                status="online",
            )
            where.send("md.instruments", known, 0)
        sent = feed(where, app)
        worker = where.worker(engine, script=None, args=("--app", app), metrics_port=str(port))

        def stepped(port: int = port) -> float:
            lines = [line for line in metrics(port).splitlines() if line.startswith("tickstream_operator_inputs_total")]
            return sum(float(line.split()[-1]) for line in lines)

        until(lambda worker=worker: "recovered" in worker.log.read_text(), "the first input", 60)
        until(lambda sent=sent: stepped() >= sent, f"{sent} inputs", 60)
        assert worker.terminate() == 0
        assert sum(1 for _ in where.written("md.state")) + len(where.written("md.books")) > 0
    outputs = {
        name for found in by_input(APPS[app], {}).values() for operator in found for name in written_topics(operator)
    }
    by_engine = {engine: {name: comparable(where, name) for name in outputs} for engine, where in labs.items()}
    assert by_engine["faust"] == by_engine["direct"]
    assert all(by_engine["faust"][name] for name in outputs)
