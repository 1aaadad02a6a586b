"""Whatever happens to the frames on their way, the feed never raises and never lets a wrong book look right."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata.codec import Codec
from marketdata.events import EVENTS, BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.coinbase.feed import CoinbaseFeed
from runtime.recordings import Recorded

if TYPE_CHECKING:
    from tests.producers.conftest import Frames

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
PRODUCTS = ("BTC-USD", "ETH-USD")
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LEVELS_KEPT = 30
FRAMES = 80


def shortened(frame: bytes) -> bytes:
    """Return a frame with the far levels of a book snapshot left out, so that thousands of runs are quick."""
    if len(frame) < 100_000:
        return frame
    values = json.loads(frame)
    for event in values["events"]:
        levels = event.get("updates", [])
        bids = [level for level in levels if level["side"] == "bid"]
        asks = [level for level in levels if level["side"] == "offer"]
        event["updates"] = bids[:LEVELS_KEPT] + asks[:LEVELS_KEPT]
    return json.dumps(values, separators=(",", ":")).encode()


class Sent(list[bytes]):
    """Frames that are not shown in full when an example fails."""

    def __repr__(self) -> str:
        return f"<{len(self)} frames>"


@pytest.fixture(scope="module")
def sent(recording: list[Recorded]) -> Sent:
    """The first recorded frames, both snapshots among them."""
    return Sent([shortened(line.frame) for line in recording if line.t == "recv"][:FRAMES])


def check(out: list[Output], valid: dict[str, bool], announced: set[str]) -> None:
    """Hold every rule that an output must keep whatever came before it; `valid` is each book's state so far."""
    for output in out:
        if isinstance(output, EVENTS):
            assert CODEC.decode(CODEC.encode(output)) == output
        if isinstance(output, Instrument):
            announced.add(output.symbol)
        elif isinstance(output, Trades | BookUpdate | Quote):
            assert output.symbol in announced
        if isinstance(output, BookUpdate):
            if output.kind in {"update", "heartbeat"}:
                assert valid.get(output.symbol), "a change or a heartbeat of a book that nobody may trust"
            assert output.kind != "clear" or (not output.valid and output.reason)
            valid[output.symbol] = output.kind != "clear"


def play(frames: list[bytes]) -> tuple[CoinbaseFeed, list[list[Output]]]:
    """Return the feed and what it says to each frame, having held the rules all along."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS)
    feed.opened(T0)
    valid: dict[str, bool] = {}
    announced: set[str] = set()
    said = []
    for number, frame in enumerate(frames):
        out = feed.received(frame, T0 + number * SECOND // 50)
        check(out, valid, announced)
        said.append(out)
    return feed, said


def flat(said: list[list[Output]]) -> list[Output]:
    """Return everything that was said, in order."""
    return [output for out in said for output in out]


def asks_for_repair(out: list[Output]) -> bool:
    """Tell whether level2 is subscribed anew, or everything is."""
    orders = [json.loads(output.frame) for output in out if isinstance(output, Send)]
    again = any(order["type"] == "subscribe" and order["channel"] == "level2" for order in orders)
    return again or any(isinstance(output, Reconnect) for output in out)


def book_is_valid(said: list[list[Output]], symbol: str) -> bool:
    """Tell whether consumers hold this symbol's book for good after what was said."""
    updates = [output for output in flat(said) if isinstance(output, BookUpdate) and output.symbol == symbol]
    return bool(updates) and updates[-1].kind != "clear"


@QUICK
@given(place=st.integers(1, FRAMES - 2), count=st.integers(1, 3))
def test_lost_frames_clear_every_book_before_anything_else(sent: Sent, place: int, count: int) -> None:
    """The very next frame is told after a clear of each valid book and a gap of each symbol; a repair is asked for."""
    after = sent[place + count :]
    if not after:
        return
    _, before = play(sent[:place])
    feed, said = play(sent[:place] + after)
    reaction = said[place]
    for symbol in {o.symbol for o in flat(before) if isinstance(o, Instrument)}:
        if book_is_valid(before, symbol):
            clear = next(o for o in reaction if isinstance(o, BookUpdate) and o.symbol == symbol)
            assert (clear.kind, clear.reason) == ("clear", "gap")
        assert [o.kind for o in reaction if isinstance(o, FeedStatus) and o.symbol == symbol][:1] == ["gap"]
    assert asks_for_repair(reaction)
    assert feed.counts["gaps"] >= 1


@QUICK
@given(place=st.integers(0, FRAMES - 1), times=st.integers(1, 3))
def test_duplicated_frame_changes_nothing(sent: Sent, place: int, times: int) -> None:
    """The events are the same as without it, but for the moment of receipt."""
    feed, said = play(sent[: place + 1] + [sent[place]] * times + sent[place + 1 :])
    assert [out for out in said[place + 1 : place + 1 + times] if out] == []
    assert feed.counts["duplicates"] == times
    assert feed.counts["gaps"] == 0
    assert feed.counts["trades"] == play(sent)[0].counts["trades"]


@QUICK
@given(place=st.integers(1, FRAMES - 3))
def test_swapped_frames_are_a_gap_and_the_late_one_is_dropped(sent: Sent, place: int) -> None:
    """Out of order cannot be told from lost: the book is cleared, the older frame is not applied."""
    feed, said = play([*sent[:place], sent[place + 1], sent[place], *sent[place + 2 :]])
    assert asks_for_repair(said[place])
    assert said[place + 1] == []
    assert (feed.counts["gaps"], feed.counts["duplicates"]) == (1, 1)


@QUICK
@given(place=st.integers(1, FRAMES - 2), cut=st.integers(1, 400), junk=st.binary(max_size=20))
def test_corrupted_frame_is_a_dead_letter_and_a_gap(sent: Sent, place: int, cut: int, junk: bytes) -> None:
    """What cannot be read is kept; the frame after it finds every book cleared first."""
    broken = sent[place][: -min(cut, len(sent[place]))] + junk
    feed, said = play([*sent[:place], broken, *sent[place + 1 :]])
    letters = [o for o in said[place] if isinstance(o, DeadLetter)]
    assert [letter.payload for letter in letters] == [broken]
    assert asks_for_repair(said[place + 1])
    assert feed.counts["gaps"] >= 1


@QUICK
@given(place=st.integers(0, FRAMES - 1), seed=st.integers(0, 2**32), junk=st.sampled_from(
    [None, True, -1, 1.5, 10**30, "", "NaN", "Infinity", "1e999", "x" * 70, [], {}, [[]], "2026-08-09T21:05:48"]
))  # fmt: skip
def test_any_value_of_any_frame_may_be_junk(sent: Sent, place: int, seed: int, junk: Any) -> None:
    """No value anywhere makes the feed raise or break a rule, and a book that missed a change is cleared."""
    values = json.loads(sent[place])
    spot = random.Random(seed)
    holder, key = values, spot.choice(sorted(values))
    while isinstance(holder[key], dict | list) and holder[key] and spot.random() < 0.9:
        holder = holder[key]
        key = spot.choice(sorted(holder)) if isinstance(holder, dict) else spot.randrange(len(holder))
    holder[key] = junk
    feed, said = play([*sent[:place], json.dumps(values).encode(), *sent[place + 1 :]])
    if any(isinstance(o, DeadLetter) for o in said[place]) and values.get("channel") == "l2_data":
        seen = {o.symbol for o in flat(said[:place]) if isinstance(o, Instrument)}
        symbols = {event["product_id"] for event in json.loads(sent[place])["events"]} & seen
        both = flat(said[place : place + 2])
        last = place == len(sent) - 1
        for symbol in symbols:
            cleared = any(isinstance(o, BookUpdate) and o.symbol == symbol and o.kind == "clear" for o in both)
            assert cleared or last or not book_is_valid(said[:place], symbol) or key == "timestamp"
    assert feed.counts["frames"] == len(sent)


@QUICK
@given(frame=st.binary(max_size=300))
def test_any_bytes_are_a_dead_letter(frame: bytes) -> None:
    """Nothing that is no Coinbase frame raises or says anything else."""
    out = CoinbaseFeed(line="coinbase/0", products=PRODUCTS).received(frame, T0)
    assert [type(output) for output in out] == [DeadLetter]


@QUICK
@given(body=st.binary(max_size=300))
def test_any_rest_answer_is_survived(body: bytes) -> None:
    """Bytes that are no list of products are a dead letter."""
    feed = CoinbaseFeed(line="coinbase/0", products=PRODUCTS)
    out = feed.fetched(Fetch(path="", purpose="products"), body, T0)
    assert [type(output) for output in out] == [DeadLetter]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.tuples(st.sampled_from(["trade", "trade", "lose", "mute", "snapshot", "drop", "bad", "beat"]),
                                 st.integers(1, 4)), max_size=40))  # fmt: skip
def test_every_trade_is_sent_once_or_on_the_ledger(make_frames: type[Frames], script: list[tuple[str, int]]) -> None:
    """A venue that trades on while frames, trades and connections are lost: what was not sent is a hole that is known.

    `lose` drops a frame of trades, `mute` leaves trade ids out without dropping a frame, `drop` loses the connection,
    `bad` spoils one trade, `snapshot` sends the last eight trades as after a subscription.
    """
    feed, frames, now = CoinbaseFeed(line="coinbase/0", products=("BTC-USD",)), make_frames(), T0
    feed.opened(now)
    feed.received(frames.snapshot(), now)
    out = feed.received(frames.trades(1, kind="snapshot"), now)
    made, valid, announced = 1, {"BTC-USD": True}, {"BTC-USD"}
    for action, count in script:
        now += 30 * SECOND
        new = list(range(made + 1, made + 1 + count))
        if action not in {"snapshot", "drop", "beat"}:
            made += count
        match action:
            case "trade":
                said = feed.received(frames.trades(*new), now)
            case "lose":
                frames.trades(*new)
                continue
            case "mute":
                continue
            case "bad":
                frame = frames.trades(*new).replace(b'"trade_id":"%d"' % new[0], b'"trade_id":"x"')
                said = feed.received(frame, now)
            case "snapshot":
                said = feed.received(frames.trades(*range(max(1, made - 7), made + 1), kind="snapshot"), now)
            case "beat":
                said = feed.received(frames.heartbeat(), now)
            case _:
                said = feed.closed("reset", now) + feed.opened(now)
                frames.sequence = 0
        check(said, valid, announced)
        out += said
    sent = [int(trade.trade_id) for o in out if isinstance(o, Trades) for trade in o.trades]
    assert len(sent) == len(set(sent)), "a trade was sent twice"
    missing = set(range(1, max(sent))) - set(sent)
    ids = feed._products["BTC-USD"].trade_ids
    assert missing == {number for first, last in ids.holes for number in range(first, last + 1)}
    opened = {o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "gap"}
    closed = {o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"}
    assert closed <= opened
    assert not missing or opened - closed, "trades are missing and no gap is open"
