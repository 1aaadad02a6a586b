"""Properties of every operator: it never raises, its outputs match their schemas, and a restart changes nothing.

Each chain receives any events that its schema allows, and some that it does not (possible only in `tickstream pipe`,
which uses no Kafka): lone surrogates, control characters, integers beyond 64 bits, empty and very long strings,
decimals of forty digits. Records are lost in between.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import state as packing
from marketdata.clock import TS_MIN
from marketdata.codec import Codec
from marketdata.events import (
    CONNECTION,
    EVENTS,
    EXCLUSIONS,
    SYMBOL,
    AnyEvent,
    BookUpdate,
    CandleHistory,
    Derivative,
    FeedStatus,
    Liquidation,
    Quote,
    Trade,
    Trades,
    VenuePrice,
)
from marketdata.operator import Lost
from marketdata.recipes import read_recipes
from stream_apps.chain import INPUTS, Chain
from stream_apps.operators import make_operators

CODEC = Codec({cls.schema: number for number, cls in enumerate(EVENTS, start=1)})
RECIPES = read_recipes(
    {
        "recipes": {
            "seconds": {"time": "1s"},
            "others": {"time": "90s"},
            "ticks": {"trades": 3},
            "coins": {"volume": "2.5"},
            "value": {"value": "1000", "symbols": ["v:S", "a:S"]},
        }
    }
)
OPERATORS = {operator.name: operator for operator in make_operators(RECIPES)}
T0 = TS_MIN + 86_400 * 10**9 * 5_000
SECOND = 10**9

ODD_TEXTS = ["", "\0", "a\x00b", "\ud800", "x\udfffy", "\x1b[2J", "\x85", "☃", "'; --", "x" * 600, "a:b|c", "\n"]
ODD_NUMBERS = [
    "0", "-0", "-1.5", "1e3", "1E-40", "1e999", "NaN", "Infinity", ".5", "5.", "1_0", " 1", "٣", f"0.{'7' * 40}",
    f"{'9' * 30}.{'9' * 33}", "1" * 64, "1" * 65, "-" * 3, *ODD_TEXTS,
]  # fmt: skip
ODD_INTEGERS = [0, -1, 2**31, 2**63 - 1, -(2**63), 2**63, 2**200]

texts = st.sampled_from(["", "gap", "halted", "disconnected", "stale"])
odd_texts = st.sampled_from(ODD_TEXTS)
numbers = st.integers(1, 400).map(lambda n: f"{n / 100:.2f}") | st.sampled_from(["100", "0.00000001", "123456789.5"])
odd_numbers = st.sampled_from(ODD_NUMBERS)
times = st.integers(-40, 400).map(lambda n: T0 + n * SECOND // 2)
odd_times = st.sampled_from([*ODD_INTEGERS, TS_MIN, T0 - 3 * 3600 * SECOND, T0 + 40 * 86_400 * SECOND])
lines = st.sampled_from(["l/0", "l/0", "l/0", "l/1", "l/2"])
origins = st.sampled_from(["live"] * 8 + ["repair", "backfill"])
venues = ("a", "b", "v")


def mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return values, one in twenty of them invalid."""
    return st.integers(0, 19).flatmap(lambda n: usual if n else odd)


TEXT, NUMBER, TIME = mostly(texts, odd_texts), mostly(numbers, odd_numbers), mostly(times, odd_times)
MAYBE_NUMBER = st.none() | NUMBER
MAYBE_INTEGER = st.none() | mostly(st.integers(0, 60), st.sampled_from(ODD_INTEGERS))
IDS = mostly(
    st.integers(1, 40).map(str) | st.integers(1, 20).map(lambda n: f"00000000-0000-4000-8000-{n:012x}"), odd_texts
)


@st.composite
def framed(draw: st.DrawFn, cls: type[Any], fields: dict[str, st.SearchStrategy[Any]]) -> Any:
    """Return an event of a class, with the common fields."""
    ts = draw(TIME)
    values: dict[str, Any] = {"venue": draw(st.sampled_from(venues)), "symbol": "S", "ts_event": ts}
    values["ts_recv"] = draw(mostly(st.just(ts), odd_times))
    values["line"] = draw(mostly(lines, odd_texts))
    values["origin"] = draw(mostly(origins, odd_texts))
    if cls in {Trades, BookUpdate, Quote, Derivative}:
        values["reason"] = draw(TEXT)
        values["valid"] = not values["reason"]
        values["sequence"] = draw(MAYBE_INTEGER)
    if cls in {BookUpdate, Quote}:
        values["sequence_scope"] = draw(mostly(st.sampled_from([CONNECTION, SYMBOL]), odd_texts))
    if cls is Trades:
        values["amendable"] = draw(st.booleans())
    return cls(**values, **{name: draw(strategy) for name, strategy in fields.items()})


TRADE = st.builds(
    Trade,
    trade_id=IDS,
    ts_event=TIME,
    price=NUMBER,
    size=NUMBER,
    side=mostly(st.sampled_from(["buy", "sell", "unknown"]), odd_texts),
    action=mostly(st.sampled_from(["new"] * 8 + ["cancel", "correct"]), odd_texts),
    original_id=st.just("") | IDS,
    conditions=st.just(()) | st.lists(mostly(st.sampled_from(["@", " ", "I"]), odd_texts), max_size=20).map(tuple),
    excluded_from=st.just(()) | st.lists(mostly(st.sampled_from(EXCLUSIONS), odd_texts), max_size=3).map(tuple),
)
LIQUIDATION = st.builds(
    Liquidation,
    ts_event=TIME,
    side=mostly(st.sampled_from(["buy", "sell", "unknown"]), odd_texts),
    price=NUMBER,
    size=NUMBER,
    liquidation_id=st.none() | IDS,
)
COLUMN = st.lists(NUMBER, max_size=3)
KINDS = ["gap", "resynced", "halted", "resumed", "refused", "heartbeat_missed"]
DAY_NS = 86_400 * SECOND
VENUE_PRICE = st.builds(
    VenuePrice,
    venue=st.just("*"),
    symbol=st.just("S"),
    ts_event=times,
    ts_recv=times,
    line=lines,
    of_venue=st.sampled_from(["a", "b", "c"]),
    price=st.none() | numbers | st.just("-1"),
    valid=st.booleans(),
    reason=texts,
)
EVENT: dict[str, st.SearchStrategy[Any]] = {
    "md.venue_prices": VENUE_PRICE,
    "md.ingest.trades": framed(
        Trades, {"trades": st.lists(TRADE, max_size=4).map(tuple), "complete_from": st.none() | st.none() | TIME}
    ),
    "md.ingest.books": framed(
        BookUpdate,
        {
            "kind": mostly(st.sampled_from(["update"] * 4 + ["snapshot", "snapshot", "clear", "heartbeat"]), odd_texts),
            "bid_prices": COLUMN,
            "bid_sizes": COLUMN,
            "ask_prices": COLUMN,
            "ask_sizes": COLUMN,
        },
    ).map(lambda one: one if one.sequence == 7 else _even(one)),
    "md.ingest.quotes": framed(
        Quote,
        {
            "source": mostly(st.just("venue"), odd_texts),
            "bid": MAYBE_NUMBER,
            "bid_size": MAYBE_NUMBER,
            "ask": MAYBE_NUMBER,
            "ask_size": MAYBE_NUMBER,
            "last": MAYBE_NUMBER,
            "change_24h": MAYBE_NUMBER,
        },
    ),
    "md.ingest.derivatives": framed(
        Derivative,
        {
            "mark_price": MAYBE_NUMBER,
            "open_interest": MAYBE_NUMBER,
            "funding_rate": MAYBE_NUMBER,
            "next_funding_ts": MAYBE_INTEGER,
            "funding_interval": MAYBE_INTEGER,
            "liquidations": st.lists(LIQUIDATION, max_size=3).map(tuple),
        },
    ),
    "md.ingest.status": framed(
        FeedStatus,
        {
            "kind": mostly(st.sampled_from(KINDS), odd_texts),
            "reason": TEXT,
            "detail": TEXT,
            "channel": st.none() | TEXT,
            "gap_id": st.none() | TEXT,
            "expected": MAYBE_INTEGER,
            "received": MAYBE_INTEGER,
            "ts_from": st.none() | TIME,
        },
    ),
    "md.ingest.candles": framed(
        CandleHistory,
        {
            "interval": mostly(st.sampled_from(["1m", "5m", "1d"]), odd_texts),
            "start": mostly(st.integers(-3, 3).map(lambda day: T0 - T0 % DAY_NS + day * DAY_NS), odd_times),
            "revision": mostly(st.integers(0, 3), st.sampled_from(ODD_INTEGERS)),
            "opens": COLUMN,
            "highs": COLUMN,
            "lows": COLUMN,
            "closes": COLUMN,
            "volumes": COLUMN,
            "quote_volumes": st.lists(MAYBE_NUMBER, max_size=3),
            "buy_volumes": st.lists(MAYBE_NUMBER, max_size=3),
            "trades": st.lists(MAYBE_INTEGER, max_size=3),
        },
    ).map(lambda one: one if one.revision == 2 else _even_history(one)),
}


def _even(one: BookUpdate) -> BookUpdate:
    """Return a book update with as many sizes as prices on each side."""
    bids, asks = len(one.bid_prices), len(one.ask_prices)
    return msgspec.structs.replace(one, bid_sizes=["1", "0", "2"][:bids], ask_sizes=["3", "1", "0"][:asks])


def _even_history(one: CandleHistory) -> CandleHistory:
    """Return a history with columns of equal lengths, whose first two candles may be valid."""
    count = len(one.opens)
    prices = {name: (["5", "", "6"])[:count] for name in ("highs", "lows", "closes")}
    sums = {name: ["1", None, "-2"][:count] for name in ("quote_volumes", "buy_volumes")}
    opens = [*["5", ""][: count - 1], one.opens[-1]] if count else []
    volumes = ["1", "0", "2"][:count]
    trades = [1, None, -1][:count]
    return msgspec.structs.replace(one, opens=opens, volumes=volumes, trades=trades, **prices, **sums)


def loss(topic: str, offset: int) -> Lost:
    """Return a loss of records."""
    reasons = ["undecodable", "retention", "recreated", "truncated"]
    return Lost(topic=topic, partition=offset % 3, offset=offset, count=[None, 1, 7][offset % 3],
                ts=T0 + offset * SECOND, reason=reasons[offset % 4])  # fmt: skip


def run(topic: str, events: list[AnyEvent | Lost], restarts: AbstractSet[int] = frozenset()) -> list[list[AnyEvent]]:
    """Return what a chain publishes for each event or loss of one key, restarted from checkpoints before some."""
    chain = Chain(topic, make_operators(RECIPES))
    published = []
    for number, event in enumerate(events):
        if number in restarts:
            packed = {name: packing.pack_state(state) for name, state in chain.keys.get("v:S", {}).items()}
            chain = Chain(topic, make_operators(RECIPES))
            chain.keys["v:S"] = {
                name: packing.unpack_state(data, OPERATORS[name].state) for name, data in packed.items()
            }
            assert packed == {name: packing.pack_state(state) for name, state in chain.keys["v:S"].items()}
        published.append(chain.lose(event, ["v:S"]) if isinstance(event, Lost) else chain.step(event, "v:S"))
    return published


@pytest.mark.parametrize("topic", INPUTS)
@given(data=st.data())
@settings(max_examples=60)
def test_no_event_makes_an_operator_raise_and_all_outputs_match_their_schemas(topic: str, data: st.DataObject) -> None:
    """For any events in any order, with losses; states can also be stored and restored without a difference."""
    events: list[AnyEvent | Lost] = data.draw(st.lists(EVENT[topic], min_size=1, max_size=25))
    for place in data.draw(st.lists(st.integers(0, len(events)), max_size=2)):
        events.insert(place, loss(topic, place))
    published = run(topic, events)
    for event, outputs in zip(events, published, strict=True):
        for output in outputs:
            assert CODEC.decode(CODEC.encode(output)) == output
            assert "\0" not in str(output).replace("\\x00", "")
        if isinstance(event, Lost):
            gaps = [one for one in outputs if isinstance(one, FeedStatus) and one.kind == "gap"]
            assert [one.gap_id for one in gaps] == [f"{topic}|{event.partition}|{event.offset}|v:S"]
    restarts = data.draw(st.sets(st.integers(0, len(events) - 1), max_size=3))
    assert run(topic, events, restarts) == published


@pytest.mark.parametrize("topic", INPUTS)
@given(data=st.data())
@settings(max_examples=20)
def test_a_loss_of_a_symbol_that_was_never_seen_is_on_the_ledger_and_nothing_else(
    topic: str, data: st.DataObject
) -> None:
    """Nothing downstream exists that could become invalid."""
    offset = data.draw(st.integers(0, 2**40))
    (outputs,) = run(topic, [loss(topic, offset)])
    kinds = {(type(one).__name__, getattr(one, "kind", "")) for one in outputs}
    assert ("FeedStatus", "gap") in kinds
    assert kinds <= {("FeedStatus", "gap"), ("FeedStatus", "resynced"), ("Anomaly", "gap")}
