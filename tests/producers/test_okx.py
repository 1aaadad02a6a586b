"""The OKX feed tells the truth about the recordings, and follows its numbers and checksums."""

from __future__ import annotations

import json
import random
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.okx.feed import OkxFeed
from producers.venues.okx.feed_2022 import OkxFeed2022
from runtime import recordings
from runtime.recordings import Recorded
from tickstream.pipe import Connections, Pipeline

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
LINES = tuple(f"okx_redundant_line{number}" for number in (1, 2, 3))
T0 = 1_750_000_000_000_000_000
MS = 1_750_000_000_000
SECOND = 1_000_000_000


def read(name: str) -> list[Recorded]:
    """Return the lines of a recording."""
    path = RECORDINGS / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return list(recordings.read(path))


def played(lines: list[Recorded]) -> tuple[OkxFeed, list[Output]]:
    """Return the feed after these lines, REST answers first, and all that it said."""
    feed = OkxFeed2022(line="okx/0")
    out = feed.opened(lines[0].ts_recv)
    for line in lines:
        if line.t == "http":
            out += feed.fetched(Fetch("", "products"), line.frame, line.ts_recv)
        elif line.t == "recv":
            out += feed.received(line.frame, line.ts_recv)
    return feed, out


def sent(lines: list[Recorded], channel: str) -> list[dict[str, Any]]:
    """Return the data frames of a channel as plain values."""
    frames = [json.loads(line.data) for line in lines if line.t == "recv"]
    return [frame for frame in frames if frame["arg"]["channel"] == channel and "data" in frame]


def followed(out: list[Output]) -> dict[str, dict[str, dict[Decimal, Decimal]]]:
    """Return symbol to side to levels, as a consumer of the events has them."""
    books: dict[str, L2Book] = {}
    for event in out:
        if isinstance(event, BookUpdate):
            book = books.setdefault(event.symbol, L2Book())
            if event.kind in {"snapshot", "clear"}:
                book.clear()
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
    return {
        symbol: {name: {Decimal(p): Decimal(s) for p, s in side.top()} for name, side in
                 (("bids", book.bids), ("asks", book.asks))}
        for symbol, book in books.items()
    }  # fmt: skip


def independent(frames: list[dict[str, Any]]) -> dict[str, dict[str, dict[Decimal, Decimal]]]:
    """Return the same from the raw frames with plain dicts of Decimals."""
    books: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
    for frame in frames:
        if frame["action"] == "snapshot":
            books[frame["arg"]["instId"]] = {"bids": {}, "asks": {}}
        for side, levels in books[frame["arg"]["instId"]].items():
            levels.update({Decimal(level[0]): Decimal(level[1]) for level in frame["data"][0][side]})
            for price in [price for price, size in levels.items() if not size]:
                del levels[price]
    return books


@pytest.mark.parametrize(
    ("name", "channel", "truth"),
    [
        ("okx", "books", {"checksums_right": 290, "snapshots": 3, "book_updates": 287, "trades": 74, "quotes": 28}),
        (LINES[0], "books-l2-tbt", {"checksums_right": 1504, "snapshots": 10, "trades": 36, "quotes": 46}),
        (LINES[1], "books-l2-tbt", {"checksums_right": 1446, "snapshots": 10, "trades": 36, "quotes": 47}),
        (LINES[2], "books-l2-tbt", {"checksums_right": 1422, "snapshots": 10, "trades": 36, "quotes": 46}),
    ],
)
def test_recording_is_read_whole_with_every_checksum_right(name: str, channel: str, truth: dict[str, int]) -> None:
    """Each checksum holds, nothing is refused, and the last books are those of plain dicts of the raw frames."""
    lines = read(name)
    feed, out = played(lines)
    assert {key: feed.counts[key] for key in truth} == truth
    wrong = ("checksums_wrong", "gaps", "dead_letters", "duplicates", "deltas_before_snapshot")
    assert [feed.counts[key] for key in wrong] == [0] * 5
    assert followed(out) == independent(sent(lines, channel))


def test_trades_come_once_with_the_takers_side() -> None:
    """OKX documents `side` as that of the taker ("Trades channel": trade side of taker), so it stays as it is."""
    lines = read("okx")
    expected = [
        (t["instId"], t["tradeId"], t["px"], t["sz"], t["side"], int(t["ts"]) * 1_000_000)
        for frame in sent(lines, "trades") for t in frame["data"]
    ]  # fmt: skip
    got = [
        (event.symbol, t.trade_id, t.price, t.size, t.side, t.ts_event)
        for event in played(lines)[1] if isinstance(event, Trades) for t in event.trades
    ]  # fmt: skip
    assert got == expected
    assert len(got) == 74


def test_quotes_and_instruments_are_the_venues_own_text() -> None:
    """Bid, ask and the day's statistics come from the ticker; increments and states from REST."""
    lines = read("okx")
    out = played(lines)[1]
    assert [(q.symbol, q.bid, q.bid_size, q.ask, q.ask_size, q.last, q.volume_24h, q.high_24h, q.low_24h)
            for q in out if isinstance(q, Quote)] == [
        (t["instId"], t["bidPx"], t["bidSz"], t["askPx"], t["askSz"], t["last"], t["vol24h"], t["high24h"],
         t["low24h"]) for frame in sent(lines, "tickers") for t in frame["data"]
    ]  # fmt: skip
    instruments = {i.symbol: i for i in out if isinstance(i, Instrument)}
    assert {(i.symbol, i.kind, i.base_currency, i.quote_currency, i.tick_size, i.status)
            for i in instruments.values()} == {
        ("BTC-USDT", "spot", "BTC", "USDT", "0.1", "online"),
        ("UNI-USD-SWAP", "perpetual", "UNI", "USD", "0.001", "online"),
        ("BTC-USD-220527", "future", "BTC", "USD", "0.1", "online"),
    }  # fmt: skip
    assert {(i.symbol, i.expiry, i.strike, i.contract_multiplier, i.settlement_currency, i.inverse)
            for i in instruments.values()} == {
        ("BTC-USDT", None, None, None, None, None),
        ("UNI-USD-SWAP", None, None, "10", "UNI", True),
        ("BTC-USD-220527", 1_653_638_400_000_000_000, None, "100", "BTC", True),
    }  # fmt: skip


def described(listed: dict[str, str]) -> Instrument:
    """Return the instrument that a listed product is announced with."""
    feed = OkxFeed(line="okx/0")
    feed.opened(T0)
    feed.fetched(Fetch("", "products"), json.dumps({"code": "0", "data": [listed]}).encode(), T0)
    name = listed["instId"]
    ticker = {"instId": name, "last": "1", "bidPx": "1", "bidSz": "1", "askPx": "2", "askSz": "1", "vol24h": "1",
              "open24h": "1", "high24h": "2", "low24h": "1", "ts": str(MS)}  # fmt: skip
    out = feed.received(json.dumps({"arg": {"channel": "tickers", "instId": name}, "data": [ticker]}).encode(), T0)
    (instrument,) = [event for event in out if isinstance(event, Instrument)]
    return instrument


def test_an_option_has_its_strike_and_a_linear_contract_its_multiplier() -> None:
    """As the venue listed them: the face value is ctVal times ctMult, an empty field is unknown."""
    listed = {"instId": "BTC-USD-220514-22000-C", "ctMult": "0.1", "ctType": "", "ctVal": "1", "stk": "22000",
              "expTime": "1652515200000", "settleCcy": "BTC", "tickSz": "0.0005", "state": "live"}  # fmt: skip
    linear = {"instId": "BTC-USDT-SWAP", "ctMult": "1", "ctType": "linear", "ctVal": "0.01", "settleCcy": "USDT"}
    option, swap = (described(one) for one in (listed, linear))
    assert (option.kind, option.strike, option.contract_multiplier, option.inverse) == ("option", "22000", "0.1", None)
    assert option.expiry == 1_652_515_200_000_000_000
    assert (swap.kind, swap.contract_multiplier, swap.settlement_currency, swap.inverse) == (
        "perpetual", "0.01", "USDT", False,
    )  # fmt: skip
    assert swap.expiry is None


def test_three_lines_come_out_as_one_whatever_their_interleaving() -> None:
    """Trades once each in any order of the lines; by time also every one of the 1,494 book changes and 47 tickers."""
    recorded = [[line for line in read(name) if line.t == "recv"] for name in LINES]
    data = [Counter(line.data for line in lines if '"data"' in line.data) for lines in recorded]
    assert len(data[0] | data[1] | data[2]) == 1_599
    assert len(data[0] & data[1] & data[2]) == 1_497
    ids = {(t["instId"], t["tradeId"]) for lines in recorded for f in sent(lines, "trades") for t in f["data"]}
    last = independent(sent(recorded[0], "books-l2-tbt"))
    chance = random.Random(7)
    for order in ("time", "chance", "chance", "one after the other"):
        queue = [(line.ts_recv if order == "time" else chance.random(), number)
                 for number, lines in enumerate(recorded) for line in lines]  # fmt: skip
        queue = queue if order == "one after the other" else sorted(queue)
        waiting = [iter(lines) for lines in recorded]
        connections, pipeline = Connections("okx"), Pipeline()
        out = [
            passed for _, number in queue for event in connections.play(next(waiting[number]), f"{number}/")
            for topic, passed in pipeline.push(event)
            if topic in {"md.trades", "md.book_updates", "md.quotes"}
        ]  # fmt: skip
        trades = [(e.symbol, t.trade_id) for e in out if isinstance(e, Trades) for t in e.trades]
        assert len(trades) == len(set(trades)) == 36
        assert set(trades) == ids
        changes = [(e.symbol, e.sequence) for e in out if isinstance(e, BookUpdate) and e.kind == "update"]
        assert len(changes) == len(set(changes))
        assert followed(list(out)) == last
        if order == "time":
            assert len(changes) == 1_494
            assert len([e for e in out if isinstance(e, Quote) and e.source == "venue"]) == 47


# --- Made by hand ---


def book(action: str, number: int, previous: int, *, bids: Any = (), asks: Any = (), checksum: int = 0) -> bytes:
    """Return a frame of `books` as it is since `seqId`; levels are (price, size)."""
    data = {"asks": [[*a, "0", "1"] for a in asks], "bids": [[*b, "0", "1"] for b in bids], "ts": str(MS + number),
            "checksum": checksum, "seqId": number, "prevSeqId": previous}  # fmt: skip
    return json.dumps({"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": action, "data": [data]}).encode()


SNAPSHOT = book("snapshot", 10, -1, bids=[("9", "1")], asks=[("11", "1")])


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


@pytest.fixture
def feed() -> OkxFeed:
    """A feed that has a book, numbered 10."""
    feed = OkxFeed(line="okx/0", products=("BTC-USDT",))
    feed.opened(T0)
    assert kinds(feed.received(SNAPSHOT, T0)) == ["snapshot"]
    return feed


def test_lost_number_clears_the_book_and_subscribes_again(feed: OkxFeed) -> None:
    """The gap closes with the next snapshot, under the same id."""
    assert kinds(feed.received(book("update", 12, 10, bids=[("9", "2")]), T0)) == ["update"]
    out = feed.received(book("update", 15, 14, bids=[("9", "3")]), T0)
    assert kinds(out) == ["clear"]
    (gap,) = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap"]
    assert (gap.expected, gap.received) == (12, 14)
    assert [json.loads(o.frame)["op"] for o in out if isinstance(o, Send)] == ["unsubscribe", "subscribe"]
    assert kinds(feed.received(book("update", 16, 15, bids=[("9", "4")]), T0)) == []
    out = feed.received(book("snapshot", 17, -1, bids=[("9", "5")], asks=[("11", "1")]), T0)
    assert [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"] == [gap.gap_id]


def test_equal_numbers_say_that_nothing_changed(feed: OkxFeed) -> None:
    """Equal seqId and prevSeqId, with no level, are a heartbeat, as often as they come."""
    for _ in range(2):
        assert kinds(feed.received(book("update", 10, 10), T0)) == ["heartbeat"]
    assert kinds(feed.received(book("update", 11, 10, bids=[("9", "0")]), T0)) == ["update"]


def test_levels_under_an_equal_number_are_not_lost(feed: OkxFeed) -> None:
    """That contradicts the documents; what the feed keeps and checks is also what consumers get."""
    (event,) = [o for o in feed.received(book("update", 10, 10, bids=[("9", "7")]), T0) if isinstance(o, BookUpdate)]
    assert (event.kind, event.bid_sizes) == ("snapshot", ["7"])


def unnumbered(action: str, ms: int, size: str) -> bytes:
    """Return a frame as older captures have them: no seqId, here no checksum either."""
    data = {"asks": [], "bids": [["9", size, "0", "1"]], "ts": str(ms)}
    return json.dumps({"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": action, "data": [data]}).encode()


def test_older_time_is_a_loss_where_nothing_else_numbers_the_changes() -> None:
    """The same time twice is no proof against a change; an older one came out of order."""
    feed = OkxFeed2022(line="okx/0")
    feed.opened(T0)
    assert kinds(feed.received(unnumbered("snapshot", MS, "1"), T0)) == ["snapshot"]
    assert kinds(feed.received(unnumbered("update", MS + 5, "2"), T0)) == ["update"]
    assert kinds(feed.received(unnumbered("update", MS + 4, "3"), T0)) == ["clear"]


@pytest.mark.parametrize(("frame", "said"), [
    (book("update", 12, 10, bids=[("x", "2")]), ["clear"]),
    (book("update", 12, 10, bids=[("9", "2")])[:-20], ["clear"]),
    (book("update", 12, 10, bids=[("9", "2")]).replace(b'"ts": ', b'"ts": 1'), ["clear"]),
    (b'{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{', []),
    (b'{"arg":{"channel":"books","instId":"ETH-USDT"},"data":[{', []),
    (b'{"data":[]}', ["clear"]),
])  # fmt: skip
def test_frame_that_cannot_be_read_costs_the_book_that_it_may_have_changed(
    feed: OkxFeed, frame: bytes, said: list[str]
) -> None:
    """At once, not when the next number shows it; what its head says was something else costs nothing."""
    out = feed.received(frame.replace(b'": ', b'":').replace(b', "', b',"'), T0)
    assert len([o for o in out if isinstance(o, DeadLetter)]) == 1
    assert kinds(out) == said
    assert bool([o for o in out if isinstance(o, Send)]) == bool(said)


def test_instrument_that_is_suspended_before_its_first_frame_is_halted_from_the_start() -> None:
    """REST's answer comes first as a rule; nothing of a halted instrument seems valid."""
    feed = OkxFeed(line="okx/0")
    feed.opened(T0)
    listed = {"instId": "BTC-USDT", "tickSz": "0.1", "lotSz": "1", "minSz": "1", "state": "suspend"}
    assert feed.fetched(Fetch("", "products"), json.dumps({"data": [listed]}).encode(), T0) == []
    out = feed.received(SNAPSHOT, T0)
    assert [(o.kind, o.reason) for o in out if isinstance(o, FeedStatus)] == [("halted", "halted")]
    assert [(o.valid, o.reason) for o in out if isinstance(o, BookUpdate)] == [(False, "halted")]


def test_lower_number_that_follows_tells_the_whole_book_again(feed: OkxFeed) -> None:
    """After maintenance seqId is below prevSeqId (documented); consumers get the book under the new numbers."""
    out = feed.received(book("update", 3, 10, bids=[("8", "2")]), T0)
    (event,) = [o for o in out if isinstance(o, BookUpdate)]
    assert (event.kind, event.sequence, event.bid_prices) == ("snapshot", 3, ["9", "8"])
    assert kinds(feed.received(book("update", 4, 3, bids=[("8", "0")]), T0)) == ["update"]


def test_frame_that_was_seen_is_dropped(feed: OkxFeed) -> None:
    """An old change and the old snapshot are duplicates."""
    change = book("update", 12, 10, bids=[("9", "2")])
    feed.received(change, T0)
    assert feed.received(change, T0) == []
    assert feed.received(SNAPSHOT, T0) == []
    assert feed.counts["duplicates"] == 2


def test_wrong_checksum_clears_the_book(feed: OkxFeed) -> None:
    """Zero is no checksum; the right one is counted; a wrong one invalidates."""
    right = crc32(b"9:2:11:1")
    right -= (1 << 32) if right >> 31 else 0
    assert kinds(feed.received(book("update", 11, 10, bids=[("9", "2")], checksum=right), T0)) == ["update"]
    out = feed.received(book("update", 12, 11, bids=[("9", "3")], checksum=right), T0)
    assert [(o.kind, o.reason) for o in out if isinstance(o, BookUpdate)] == [("clear", "checksum")]
    assert (feed.counts["checksums_right"], feed.counts["checksums_wrong"]) == (1, 1)


def trade(number: int, count: int = 1) -> bytes:
    """Return a frame of one trade."""
    data = {"instId": "BTC-USDT", "tradeId": str(number), "px": "10", "sz": "1", "side": "buy", "ts": str(MS),
            "count": str(count)}  # fmt: skip
    return json.dumps({"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [data]}).encode()


def test_trades_of_a_lost_connection_are_asked_for_at_once(feed: OkxFeed) -> None:
    """REST's last trades reach back; no live trade need come before."""
    feed.received(trade(1), T0)
    feed.closed("reset", T0)
    (request,) = [o for o in feed.opened(T0) if isinstance(o, Fetch) and o.purpose == "trades"]
    feed.received(SNAPSHOT, T0)
    listed = [json.loads(trade(number))["data"][0] for number in (2, 1)]
    out = feed.fetched(request, json.dumps({"code": "0", "data": listed}).encode(), T0)
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["2"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_trade_that_stands_for_several_leaves_no_hole(feed: OkxFeed) -> None:
    """With `count` 3 the id is the last of three; a true gap is requested from REST and closed by its answer."""
    feed.received(trade(1), T0)
    out = feed.received(trade(4, count=3), T0)
    assert not [o for o in out if isinstance(o, FeedStatus)]
    out = feed.received(trade(6), T0)
    (request,) = [o for o in out if isinstance(o, Fetch)]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["gap"]
    listed = [json.loads(trade(number))["data"][0] for number in (6, 5, 4)]
    out = feed.fetched(request, json.dumps({"code": "0", "data": listed}).encode(), T0)
    assert [(o.origin, [t.trade_id for t in o.trades]) for o in out if isinstance(o, Trades)] == [
        ("repair", ["5"]), ("live", []), ("repair", [])], "valid again at once, and complete"  # fmt: skip
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


def test_trade_of_an_impossible_time_is_not_told_and_asked_for(feed: OkxFeed) -> None:
    """The dead letter is all that it becomes: its id is a gap, which REST may fill with the right time."""
    feed.received(trade(1), T0)
    out = feed.received(trade(2).replace(str(MS).encode(), str(MS * 2).encode()), T0)
    assert [(o.reason, o.field) for o in out if isinstance(o, DeadLetter)] == [("time_out_of_bounds", "ts_event")]
    assert not [o for o in out if isinstance(o, Trades)]
    out = feed.received(trade(3), T0)
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["trades"]


def test_second_channel_of_the_same_book_is_left_alone(feed: OkxFeed) -> None:
    """books5 and books-l2-tbt beside books tell nothing new; bbo-tbt is a quote."""
    other = book("snapshot", 12, -1, bids=[("9", "5")], asks=[("11", "1")]).replace(b'"books"', b'"books5"')
    assert feed.received(other, T0) == []
    assert kinds(feed.received(book("update", 12, 10, bids=[("9", "2")]), T0)) == ["update"]
    out = feed.received(SNAPSHOT.replace(b'"books"', b'"bbo-tbt"'), T0)
    assert [(o.bid, o.bid_size, o.ask, o.ask_size) for o in out if isinstance(o, Quote)] == [("9", "1", "11", "1")]


def test_silence_is_pinged_and_then_left(feed: OkxFeed) -> None:
    """15 s: a ping; a pong is a heartbeat; 30 s: reconnect, the book stale."""
    assert Send(b"ping") in feed.ticked(T0 + 16 * SECOND)
    assert feed.received(b"pong", T0 + 17 * SECOND) == []
    assert feed.counts["heartbeats"] == 1
    out = feed.ticked(T0 + 48 * SECOND)
    assert kinds(out) == ["clear"]
    assert isinstance(out[-1], Reconnect)


def test_errors_and_notices_of_the_venue_are_heard(feed: OkxFeed) -> None:
    """An error is a dead letter, a notice of an upgrade a reason to reconnect in time."""
    out = feed.received(b'{"event":"error","code":"60012","msg":"Invalid request"}', T0)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["venue_error"]
    assert feed.received(b'{"event":"notice","code":"64008","msg":"upgrade"}', T0) == [Reconnect("notice")]


@pytest.mark.parametrize("number", [2**63, -(2**63), 10**30])
def test_number_that_no_event_can_hold_is_a_dead_letter(number: int) -> None:
    """It names the field, and the book is asked for again."""
    feed = OkxFeed(line="test")
    feed.received(SNAPSHOT, T0)
    out = feed.received(book("update", number, 10, bids=[("9", "2")]), T0)
    (dead,) = [event for event in out if isinstance(event, DeadLetter)]
    assert dead.field == "data[0].seqId"
    assert kinds(out) == ["clear"]


@pytest.mark.parametrize("sent", ['"9", 2', '"9", "two"', '["9"], "2"', "{}"])
def test_level_that_is_none_is_a_dead_letter_with_its_field_and_value(sent: str) -> None:
    """It names the side, and the book is asked for again."""
    feed = OkxFeed(line="test")
    feed.received(SNAPSHOT, T0)
    spoilt = book("update", 11, 10, bids=[("8", "1")]).replace(b'"8", "1"', sent.encode())
    out = feed.received(spoilt, T0)
    (dead,) = [event for event in out if isinstance(event, DeadLetter)]
    assert dead.field == "bids"
    assert sent in (dead.value or "") or dead.value == "two"
    assert kinds(out) == ["clear"]
