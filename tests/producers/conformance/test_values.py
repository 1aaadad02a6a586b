"""Impossible values in any frame cost at most what that frame contains."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.clock import AHEAD_NS_MAX
from marketdata.events import ALL_SYMBOLS, EVENTS, BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_trades import IngestTrades
from tests.producers.conformance.cases import CODEC, EACH, QUICK, SECOND, Case, frames_of, recorded
from tests.producers.conformance.player import Player

# How venues write the times of this decade: RFC 3339, milliseconds, microseconds, seconds with a fraction.
_TIME = re.compile(r"\b20[12]\d(?=-\d\d-\d\dT)|\b1[4-9](?=\d{8}\.|\d{11}\b|\d{14}\b)")


@EACH
def test_time_of_a_far_future_costs_the_ledger_nothing(case: Case) -> None:
    """Only the events of that frame may have its time: later events would be refused with it, like every gap."""
    lines, frames = recorded(case), frames_of(case)
    for place in frames[len(frames) // 3 :: len(frames) // 4]:
        player = Player(case)
        player.open(lines[0].ts_recv)
        for line in lines[:place]:
            player.play(line)
        now = lines[place].ts_recv
        spoilt = _TIME.sub(lambda found: "2099" if len(found[0]) == 4 else "40", lines[place].data).encode()
        of_feed = [o for o in player.take(player.feed.received(spoilt, now), now) if isinstance(o, FeedStatus)]
        later: list[Output] = [output for line in lines[place + 1 : place + 40] for output in player.play(line)]
        end = lines[min(place + 39, len(lines) - 1)].ts_recv
        later += player.take(player.feed.closed("reset", end), end)
        # A trade of that time may come again in a list of the last ones.
        events = [
            o for o in later if isinstance(o, FeedStatus | BookUpdate) or (isinstance(o, Trades) and not o.trades)
        ]
        assert any(event.symbol != ALL_SYMBOLS for event in events)
        for event in [*of_feed, *events]:
            assert event.ts_event <= event.ts_recv + AHEAD_NS_MAX
            assert not isinstance(event, FeedStatus) or (event.ts_from or 0) <= event.ts_recv + AHEAD_NS_MAX


JUNK: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "NaN",
    "Infinity",
    "1e999",
    "x" * 70,
    [],
    {},
    [[]],
    "2026-08-09T21:05:48",
]


@EACH
@QUICK
@given(data=st.data(), junk=st.sampled_from(JUNK), seed=st.integers(0, 2**32))
def test_any_value_of_any_frame_may_be_junk(case: Case, data: st.DataObject, junk: Any, seed: int) -> None:
    """No value anywhere makes the feed raise, break a rule of its events, or publish what Avro cannot hold."""
    place = data.draw(st.sampled_from(frames_of(case)))
    values = json.loads(recorded(case)[place].frame)
    spot = random.Random(seed)
    holder: Any = {"frame": values}
    key: Any = "frame"
    while isinstance(holder[key], dict | list) and holder[key] and spot.random() < 0.95:
        holder = holder[key]
        key = spot.choice(sorted(holder)) if isinstance(holder, dict) else spot.randrange(len(holder))
    holder[key] = junk
    spoilt = json.dumps(values, separators=(",", ":")).encode()
    lines, player = recorded(case), Player(case)
    player.open(lines[0].ts_recv)
    for number, line in enumerate(lines):
        published = player.play(line) if number != place else player.take(
            player.feed.received(spoilt, line.ts_recv), line.ts_recv)  # fmt: skip
        for event in published if number >= place else ():
            if isinstance(event, EVENTS):
                assert CODEC.decode(CODEC.encode(event)) == event


# What looks like a price, a size or a time, and no event may have it.
WRONG: list[Any] = [
    "-1", "-0.5", "0", "0.00", "1e35", "1e-45", "9" * 33, f"0.{'1' * 45}", -1, 0, -0.5, 5,
    4_000_000_000_000, "4000000000000", "4000000000.5", "2096-10-02T07:06:40.5Z", "1996-10-02T07:06:40.5Z",
]  # fmt: skip


def leaves(holder: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each value of a frame that holds no others: its path, what holds it, and where."""
    for at in holder if isinstance(holder, dict) else range(len(holder)):
        name = f"{path}.{at if isinstance(holder, dict) or len(holder) < 10 else ''}"
        if isinstance(holder[at], dict | list):
            yield from leaves(holder[at], name)
        else:
            yield name, holder, at


@cache
def kinds_of(case: Case) -> list[list[int]]:
    """Return the places of the frames, those of one shape together, so that rare kinds are tried as often as others."""
    kinds: dict[frozenset[str], list[int]] = {}
    for place in frames_of(case):
        shape = frozenset(path for path, _, _ in leaves({"frame": json.loads(recorded(case)[place].frame)}))
        kinds.setdefault(shape, []).append(place)
    return list(kinds.values())


@EACH
@settings(QUICK, max_examples=50)
@given(data=st.data(), wrong=st.sampled_from(WRONG))
def test_what_a_feed_publishes_is_never_refused_by_ingest(case: Case, data: st.DataObject, wrong: Any) -> None:
    """A book or trade that ingest alone finds wrong would never be asked for again: the feed is as strict."""
    lines = recorded(case)
    place = data.draw(st.sampled_from(data.draw(st.sampled_from(kinds_of(case)))))
    values = {"frame": json.loads(lines[place].frame)}
    spots: dict[str, list[tuple[Any, Any]]] = {}
    for path, holder, at in leaves(values):
        spots.setdefault(path, []).append((holder, at))
    holder, at = data.draw(st.sampled_from(spots[data.draw(st.sampled_from(sorted(spots)))]))
    holder[at] = wrong
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines[:place]:
        player.play(line)
    now = lines[place].ts_recv
    spoilt = json.dumps(values["frame"], separators=(",", ":")).encode()
    published = player.take(player.feed.received(spoilt, now), now)
    assert not player.repairs_due, "a book was cleared and nothing asked for a new one"
    ingest = IngestBooks(), IngestTrades()
    for event in published:
        for operator, kind in zip(ingest, (BookUpdate, Trades), strict=True):
            if isinstance(event, kind):
                _, out = operator.step(operator.start(event.key), event)
                assert not [letter.reason for letter in out if isinstance(letter, DeadLetter)]


@EACH
@QUICK
@given(frame=st.binary(max_size=300))
def test_any_bytes_are_survived(case: Case, frame: bytes) -> None:
    """Bytes that no venue sends are dead letters; a REST answer may be any bytes too."""
    player = Player(case)
    asked = [output for output in player.open(SECOND) if isinstance(output, Fetch)]
    out = player.feed.received(frame, SECOND)
    for request in [*asked, Fetch(path="", purpose="snapshot"), Fetch(path="", purpose="products")]:
        out += player.feed.fetched(request, frame, SECOND)
    assert not [output for output in out if isinstance(output, Trades | BookUpdate | Quote | Instrument)]
