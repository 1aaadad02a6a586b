"""The Bitfinex feed tells the truth about the recording, and follows its numbers, orders and checksums."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, Derivative, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues import VENUES
from producers.venues.bitfinex.feed import CHECKSUMS, LISTED_MAX, BitfinexFeed
from producers.venues.kit.sequence import OLD_RUN_MAX
from runtime import recordings

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "bitfinex.jsonl.zst"
T0 = 1_750_000_000_000_000_000
MS = 1_750_000_000_000
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def frames() -> list[str]:
    """The recorded frames as text."""
    if not RECORDING.exists():
        pytest.skip(f"the recordings are absent: no {RECORDING}")
    return [line.data for line in recordings.read(RECORDING) if line.t == "recv"]


@pytest.fixture(scope="module")
def played(frames: list[str]) -> tuple[BitfinexFeed, list[Output]]:
    """The feed after the whole recording, and all that it said."""
    feed = BitfinexFeed(line="bitfinex/0")
    out = feed.opened(T0)
    for number, frame in enumerate(frames):
        out += feed.received(frame.encode(), T0 + number)
    return feed, out


def exact(frames: list[str], channel: str) -> list[tuple[str, Any]]:
    """Return (symbol, payload) of a channel's data, numbers as exact Decimals."""
    names: dict[int, str] = {}
    found = []
    for frame in frames:
        values = json.loads(frame, parse_float=Decimal, parse_int=Decimal)
        if isinstance(values, dict):
            if values["event"] == "subscribed" and values["channel"] == channel:
                names[values["chanId"]] = values["symbol"]
        elif values[0] in names and values[1] != "hb":
            found.append((names[values[0]], values[1]))
    return found


def test_recording_is_read_whole(played: tuple[BitfinexFeed, list[Output]], frames: list[str]) -> None:
    """1,670 numbered frames without a gap; every book change and ticker is told."""
    feed, _ = played
    assert feed.counts["frames"] == 1_693
    numbers = [json.loads(frame)[-1] for frame in frames if frame.startswith("[")]
    assert numbers == list(range(1, 1_671))
    expected = {"snapshots": 7, "book_updates": 1_593, "trades": 210, "quotes": 21, "heartbeats": 40,
                "ignored": 2}  # two heartbeats came before the answer that names their channels  # fmt: skip
    assert {key: feed.counts[key] for key in expected} == expected
    refused = ("gaps", "dead_letters", "duplicates", "deltas_before_snapshot", "repeats")
    assert [feed.counts[key] for key in refused] == [0] * 5


def test_final_books_equal_those_computed_independently(
    played: tuple[BitfinexFeed, list[Output]], frames: list[str]
) -> None:
    """Plain dicts of Decimals over the raw JSON give the same levels, digit for digit."""
    expected: dict[tuple[str, bool], dict[Decimal, Decimal]] = {}
    for name, payload in exact(frames, "book"):
        rows = payload
        if isinstance(payload[0], list):
            expected[name, True], expected[name, False] = {}, {}
        else:
            rows = [payload]
        for price, count, amount in rows:
            levels = expected[name, amount > 0]
            levels[price] = abs(amount)
            if not count:
                del levels[price]
    names = {e.symbol: e.venue_symbol for e in played[1] if isinstance(e, Instrument)}
    books: dict[str, L2Book] = {name: L2Book() for name in names.values()}
    for event in played[1]:
        if isinstance(event, BookUpdate):
            book = books[names[event.symbol]]
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
    got = {
        (name, is_bid): {Decimal(p): Decimal(s) for p, s in side.top()}
        for name, book in books.items() for is_bid, side in ((True, book.bids), (False, book.asks))
    }  # fmt: skip
    assert got == expected
    texts = [text for e in played[1] if isinstance(e, BookUpdate) for text in e.bid_prices]
    assert "0.00000002" in texts, "2e-8 is told in fixed-point form"


def test_trades_come_once_oldest_first(played: tuple[BitfinexFeed, list[Output]], frames: list[str]) -> None:
    """All of the snapshots of the last trades, by time; the sign of the amount is the aggressor's side."""
    expected = {
        (name, str(number)): (price, abs(amount), "buy" if amount > 0 else "sell", int(ms) * 1_000_000)
        for name, rows in exact(frames, "trades") for number, ms, amount, price in rows
    }  # fmt: skip
    names = {e.symbol: e.venue_symbol for e in played[1] if isinstance(e, Instrument)}
    got = [
        ((names[e.symbol], t.trade_id), (Decimal(t.price), Decimal(t.size), t.side, t.ts_event))
        for e in played[1] if isinstance(e, Trades) for t in e.trades
    ]  # fmt: skip
    assert dict(got) == expected
    assert len(got) == len(expected) == 210
    for event in played[1]:
        if isinstance(event, Trades):
            times = [trade.ts_event for trade in event.trades]
            assert times == sorted(times)


def test_symbols_and_quotes_are_as_documented(played: tuple[BitfinexFeed, list[Output]], frames: list[str]) -> None:
    """Six letters are two currencies, a colon divides longer ones; the ticker's sizes are no level's."""
    instruments = [(i.venue_symbol, i.symbol) for i in played[1] if isinstance(i, Instrument)]
    assert ("tIOTETH", "IOT-ETH") in instruments
    assert ("tTESTBTC:TESTUSD", "TESTBTC-TESTUSD") in instruments
    got = [[q.bid, q.ask, q.last, q.volume_24h, q.high_24h, q.low_24h] for q in played[1] if isinstance(q, Quote)]
    expected = [[values[at] for at in (0, 2, 6, 7, 8, 9)] for _, values in exact(frames, "ticker")]
    assert [[Decimal(str(value)) for value in row] for row in got] == expected
    assert not [q for q in played[1] if isinstance(q, Quote) and (q.bid_size or q.ask_size)]


# --- Made by hand ---


class FeedDriver:
    """A feed with tBTCUSD's book (channel 1) and trades (channel 2); writes its numbered frames."""

    def __init__(self, precision: str = "P0") -> None:
        self.feed = BitfinexFeed(line="bitfinex/0", products=("tBTCUSD",))
        self.feed.opened(T0)
        self.number = 0
        self.event(event="conf", status="OK", flags=229_376)
        self.event(event="subscribed", channel="book", chanId=1, symbol="tBTCUSD", prec=precision, len="100")
        self.event(event="subscribed", channel="trades", chanId=2, symbol="tBTCUSD")

    def event(self, **fields: Any) -> list[Output]:
        """Give the feed an event."""
        return self.feed.received(json.dumps(fields).encode(), T0)

    def data(self, *values: Any) -> list[Output]:
        """Give the feed the next frame of data, numbered and timed."""
        self.number += 1
        return self.feed.received(json.dumps([*values, self.number, MS + self.number]).encode(), T0)


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


def signed(text: str) -> int:
    """Return the signed CRC32 of a text."""
    value = crc32(text.encode())
    return value - (1 << 32) if value >> 31 else value


def test_lost_number_clears_and_subscribes_again() -> None:
    """The gap closes with the book's and the trades' next snapshots, which must reach back to a known trade."""
    line = FeedDriver()
    (event,) = [e for e in line.data(1, [[9, 1, 1], [11, 1, -1]]) if isinstance(e, BookUpdate)]
    assert (event.kind, event.ts_event, event.sequence) == ("snapshot", (MS + 1) * 1_000_000, 1)
    line.data(2, [[5, MS, 1, 10]])
    line.number += 1
    out = line.data(1, [9, 1, 2])
    assert kinds(out) == ["clear"]
    (gap,) = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap"]
    assert (gap.expected, gap.received) == (3, 4)
    verbs = [json.loads(o.frame)["event"] for o in out if isinstance(o, Send)]
    assert verbs == ["unsubscribe", "subscribe"] * 2
    line.event(event="subscribed", channel="book", chanId=3, symbol="tBTCUSD", prec="P0", len="100")
    line.event(event="subscribed", channel="trades", chanId=4, symbol="tBTCUSD")
    assert kinds(line.data(3, [[9, 1, 3], [11, 1, -1]])) == ["snapshot"]
    out = line.data(4, [[7, MS + 9, -1, 10]])
    (request,) = [o for o in out if isinstance(o, Fetch)]
    out = line.feed.fetched(request, json.dumps([[5, MS, 1, 10], [6, MS + 8, 1, 10]]).encode(), T0)
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["6"]
    assert [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"] == [gap.gap_id]


@pytest.mark.parametrize(("kind", "wrong"), [
    ("te", [6, MS, 0, 10]), ("te", [6, 2 * MS, 1, 10]), ("te", [6, MS, 1]), ({}, [6, MS, 1, 10]),
])  # fmt: skip
def test_trade_that_cannot_be_is_asked_for_again(kind: Any, wrong: list[int]) -> None:
    """No id shows that it is missing: trades are subscribed again, and the next list has it."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    line.data(2, [[5, MS, 1, 10]])
    out = line.data(2, kind, wrong)
    assert kinds(out) == []
    assert [json.loads(o.frame)["event"] for o in out if isinstance(o, Send)] == ["unsubscribe", "subscribe"]
    line.event(event="subscribed", channel="trades", chanId=4, symbol="tBTCUSD")
    out = line.data(4, [[5, MS, 1, 10], [6, MS + 1, 1, 10]])
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["6"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["resynced"]


@pytest.mark.parametrize("rows", [
    [[6, MS + 8, 1, 10], [7, MS + 9, 1, 10]], [[5 + at, MS + at, 1, 10] for at in range(LISTED_MAX)],
])  # fmt: skip
def test_trades_that_are_not_all_since_the_loss_leave_it_on_the_ledger(rows: list[list[int]]) -> None:
    """What was told after the loss is in every list and proves nothing; and a full answer has not all that came."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    line.data(2, [[5, MS, 1, 10]])
    line.number += 1
    line.data(2, "te", [7, MS + 9, 1, 10])
    line.event(event="subscribed", channel="trades", chanId=4, symbol="tBTCUSD")
    out = line.data(4, [[7, MS + 9, 1, 10]])
    (request,) = [o for o in out if isinstance(o, Fetch)]
    assert f"start={MS}" in request.path
    out = line.feed.fetched(request, json.dumps(rows).encode(), T0)
    stated = [e.reason for e in out if isinstance(e, Trades) and not e.trades and e.origin == "live"]
    assert stated == ["gap", ""], "what is missing is on the ledger, and nothing after it"
    assert [(o.kind, o.ts_from) for o in out if isinstance(o, FeedStatus)] == [("gap", MS * 1_000_000)]


@pytest.mark.parametrize("change", [
    "[1, [9, 2, 1.50],2,1786309548229]", "[1, [9.10, 0, 1],2,1786309548229]", "[1, [11.5, 1, -0.25],2]",
    "[1, [11, 0, -1],2]", "[1, [9, 1, 3],5]", "[1, [9, 1, 3],1]", "[1, [9, 1, 3]]", "[1, [9, 1, 3],2,1]",
    "[3, [9, 1, 3],2]", "[2, [9, 1, 3],2]", "[1, [09, 1, 3],2]", "[1, [9, 1, 3],99999999999999999]",
])  # fmt: skip
def test_most_frequent_frame_means_the_same_however_it_is_written(change: str) -> None:
    """Without spaces a change of one level is read in one go; with spaces, which JSON allows, like all others."""
    said = []
    for frame in (change, change.replace(" ", "")):
        line = FeedDriver()
        line.data(1, [[9, 1, 1], [11, 1, -1]])
        out = line.feed.received(frame.encode(), T0)
        said.append([event for event in out if not isinstance(event, DeadLetter)])
    assert said[0] == said[1]


def test_old_frame_is_left_alone() -> None:
    """Or it would undo what came after it."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    old = json.dumps([1, [9, 1, 5], 2, MS + 2]).encode()
    assert kinds(line.feed.received(old, T0)) == ["update"]
    line.number = 2
    assert kinds(line.data(1, [9, 1, 7])) == ["update"]
    for frame in (old, old.replace(b" ", b"")):
        assert line.feed.received(frame, T0) == []
    assert line.feed.counts["duplicates"] == 2


def test_numbers_that_begin_anew_are_a_loss() -> None:
    """Old ones are left alone, but not when they count up: no book stands still for ever."""
    line = FeedDriver()
    line.number = 1_000
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    line.number = 0
    said = [kinds(line.data(1, "hb")) for _ in range(OLD_RUN_MAX)]
    assert said == [[]] * (OLD_RUN_MAX - 1) + [["clear"]]


@pytest.mark.parametrize("frame", [b"[1,[9,1,x],2]", b'[1,[9,"a",1],2]', b'[1,"cs","x",2]', b"[1", b'[1,{},"x",2]'])
def test_unreadable_frame_clears_the_book_that_it_may_have_changed(frame: bytes) -> None:
    """At once, and it is asked for again."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    out = line.feed.received(frame, T0)
    assert [o.payload for o in out if isinstance(o, DeadLetter)] == [frame]
    assert kinds(out) == ["clear"]
    assert [json.loads(o.frame)["event"] for o in out if isinstance(o, Send)] == ["unsubscribe", "subscribe"]


@pytest.mark.parametrize("name", ["tBTCUSD", "BTCUSD", "btcusd"])
def test_product_may_be_named_without_its_t(name: str) -> None:
    """The venue is asked for its own name, which is also the one in its answer."""
    feed = BitfinexFeed(line="bitfinex/0", products=(name,))
    orders = [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]
    assert {order["symbol"] for order in orders[1:]} == {"tBTCUSD"}
    answer = {"event": "subscribed", "channel": "book", "chanId": 1, "symbol": "tBTCUSD", "prec": "P0", "len": "100"}
    (told,) = feed.received(json.dumps(answer).encode(), T0)
    assert isinstance(told, Instrument)


def test_numbers_checksums_and_times_are_switched_on_first() -> None:
    """Flags 65536, 131072 and 32768 (documented) in one `conf`, before the first subscription."""
    out = BitfinexFeed(line="bitfinex/0", products=("tBTCUSD",)).opened(T0)
    sent = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    assert sent[0] == {"event": "conf", "flags": 65_536 + 131_072 + 32_768}
    assert [order["channel"] for order in sent[1:]] == ["book", "trades", "ticker"]


def test_connection_whose_frames_are_not_numbered_is_left() -> None:
    """Nothing would prove a loss; a recording is read all the same."""
    for products, flags, reasons in (
        (("tBTCUSD",), {"flags": CHECKSUMS}, ["not_numbered"]), (("tBTCUSD",), {}, []), (None, {"flags": 0}, []),
    ):  # fmt: skip
        feed = BitfinexFeed(line="bitfinex/0", products=products)
        feed.opened(T0)
        out = feed.received(json.dumps({"event": "conf", "status": "OK"} | flags).encode(), T0)
        assert [o.reason for o in out if isinstance(o, Reconnect)] == reasons
        assert len([o for o in out if isinstance(o, DeadLetter)]) == len(reasons)


def test_orders_before_the_snapshot_of_a_raw_book_are_none_of_it() -> None:
    """They are counted, and leave nothing behind that a checksum or a level would show."""
    line = FeedDriver("R0")
    assert kinds(line.data(1, [7, 9, 4])) == []
    (event,) = [e for e in line.data(1, [[1, 9, 1], [3, 11, -2]]) if isinstance(e, BookUpdate)]
    assert (event.bid_prices, event.bid_sizes) == (["9"], ["1"])
    assert line.feed.counts["deltas_before_snapshot"] == 1


def test_data_of_a_channel_that_was_never_announced_are_told_once() -> None:
    """A recording that begins in the middle is not read in silence; a heartbeat may come before the answer."""
    feed = BitfinexFeed(line="bitfinex/0")
    feed.opened(T0)
    frames = [b'[7,"hb",1]', b"[7,[100,1,2],2]", b"[7,[101,1,2],3]", b'[8,"te",[1,1750000000000,2,100],4]']
    letters = [out for frame in frames for out in feed.received(frame, T0) if isinstance(out, DeadLetter)]
    assert [(letter.reason, letter.value) for letter in letters] == [("unknown_channel", "7"), ("unknown_channel", "8")]
    assert feed.counts["ignored"] == len(frames)
    other = {"event": "subscribed", "channel": "candles", "chanId": 9, "key": "trade:1m:tBTCUSD"}
    assert feed.received(json.dumps(other).encode(), T0) == []
    assert feed.received(b"[9,[1,2,3,4,5,6],5]", T0) == []


def test_greeting_begins_a_new_connection() -> None:
    """A recording may hold a second connection without saying so: its numbers and its books start again."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    assert kinds(line.event(event="info", version=2, platform={"status": 1})) == ["clear"]
    line.event(event="subscribed", channel="book", chanId=1, symbol="tBTCUSD", prec="P0", len="100")
    line.number = 0
    out = line.data(1, [[9, 1, 2], [11, 1, -1]])
    assert kinds(out) == ["snapshot"]
    assert line.feed.counts["duplicates"] == 0


def test_heartbeat_vouches_for_no_trades_while_some_may_be_missing() -> None:
    """The loss is stated at once, and minutes are not stated to be complete that are not."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    line.data(2, [[5, MS, 1, 10]])
    assert [o.trades for o in line.data(2, "hb") if isinstance(o, Trades)] == [()]
    line.number += 1
    assert [(o.valid, o.reason) for o in line.data(2, "hb") if isinstance(o, Trades)] == [(False, "gap")]
    assert not [o for o in line.data(2, "hb") if isinstance(o, Trades)]


def test_te_is_told_and_its_tu_is_not() -> None:
    """Both have the same id; the sign of the amount is the taker's side, as documented for v1's Trades."""
    line = FeedDriver()
    out = line.data(2, "te", [7, MS, -0.5, 10.10]) + line.data(2, "tu", [7, MS, -0.5, 10.10])
    (event,) = [e for e in out if isinstance(e, Trades)]
    assert [(t.price, t.size, t.side) for t in event.trades] == [("10.1", "0.5", "sell")]


@pytest.mark.parametrize("right", [True, False])
def test_checksum_of_levels_is_in_javascript_numbers(*, right: bool) -> None:
    """Bid and ask in turn, asks negative, exponents below 1e-6; a wrong one clears the book."""
    line = FeedDriver()
    line.feed.received(b"[1,[[2e-8,1,1.50],[1e-8,2,0.0000015],[0.00000031,1,-1000]],1]", T0)
    line.number = 1
    out = line.data(1, "cs", signed("2e-8:1.5:3.1e-7:-1000:1e-8:0.0000015") + (not right))
    assert kinds(out) == ([] if right else ["clear"])
    assert line.feed.counts["checksums_right" if right else "checksums_wrong"] == 1


def test_raw_book_is_summed_to_levels() -> None:
    """Orders of one price are one level; a changed order moves; price 0 removes; the checksum is over ids."""
    line = FeedDriver("R0")
    (event,) = [e for e in line.data(1, [[1, 9, 1], [2, 9, 0.5], [3, 11, -2]]) if isinstance(e, BookUpdate)]
    assert (event.bid_prices, event.bid_sizes, event.ask_prices, event.ask_sizes) == (["9"], ["1.5"], ["11"], ["2"])
    (event,) = [e for e in line.data(1, [2, 8, 0.5]) if isinstance(e, BookUpdate)]
    assert (event.bid_prices, event.bid_sizes) == (["9", "8"], ["1", "0.5"])
    assert kinds(line.data(1, "cs", signed("1:1:3:-2:2:0.5"))) == []
    (event,) = [e for e in line.data(1, [1, 0, 1]) if isinstance(e, BookUpdate)]
    assert (event.bid_prices, event.bid_sizes) == (["9"], ["0"])
    assert line.feed.counts["checksums_right"] == 1


def test_restart_and_silence_reconnect() -> None:
    """Info 20051 announces a restart; 30 s without a frame are a dead line."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    assert line.event(event="info", code=20051, msg="Stopping") == [Reconnect("venue_restart")]
    out = line.feed.ticked(T0 + 31 * SECOND)
    assert kinds(out) == ["clear"]
    assert isinstance(out[-1], Reconnect)


# --- Subscriptions, derivatives and liquidations ---

# The examples of the documents, "Status" (see `producers.venues.bitfinex.rows`), digit for digit.
STATUS = b"""[5,[1596124822000,null,0.896,0.771995,null,1396531.67460709,null,1596153600000,0.0001056,6,null,
-0.01381344,null,null,0.7664,null,null,246502.09001551,null,null,null,null,0.3],%d]"""
LIQUIDATION = """["pos",142397657,%s,null,"tBSVUSD",-2.62932,91.583875238719,null,%d,1,null,%s]"""


def derivatives_feed() -> BitfinexFeed:
    """Return a feed with the status (channel 5) of a perpetual, and all liquidations (channel 6)."""
    feed = BitfinexFeed(line="bitfinex/0")
    feed.opened(T0)
    for number, key in ((5, "deriv:tBTCF0:USTF0"), (6, "liq:global")):
        answer = {"event": "subscribed", "channel": "status", "chanId": number, "key": key}
        feed.received(json.dumps(answer).encode(), T0)
    return feed


def test_status_of_a_derivative_is_what_the_documents_place_where() -> None:
    """Mark, index, funding, its next time and open interest, with the venue's digits; what is null stays unknown."""
    feed = derivatives_feed()
    (event,) = [o for o in feed.received(STATUS % 1, T0) if isinstance(o, Derivative)]
    assert (event.symbol, event.ts_event) == ("BTCF0-USTF0", 1_596_124_822_000_000_000)
    assert (event.mark_price, event.index_price, event.open_interest) == ("0.7664", "0.771995", "246502.09001551")
    assert (event.funding_rate, event.predicted_funding_rate) == ("-0.01381344", "0.0001056")
    assert (event.next_funding_ts, event.funding_interval) == (1_596_153_600_000_000_000, 28_800)
    unknown = [1_596_124_823_000, *[None] * 13, 1e-7, *[None] * 8]
    (event,) = [o for o in feed.received(json.dumps([5, unknown]).encode(), T0) if isinstance(o, Derivative)]
    assert event.mark_price == "0.0000001"
    assert {event.index_price, event.open_interest, event.funding_rate, event.next_funding_ts} == {None}


def test_liquidation_is_published_where_it_was_traded() -> None:
    """The order's side closes the position; the beginning of a liquidation has no price yet; a bad row costs itself."""
    feed = derivatives_feed()
    rows = [LIQUIDATION % ("1596124822000.2002", 1, "112.27"), LIQUIDATION % ("1596124822000", 0, "null"),
            LIQUIDATION % ("1596124822001", 1, "0"), LIQUIDATION % ("1596124822002", 1, "113.50")]  # fmt: skip
    out = feed.received(f"[6,[{','.join(rows)}]]".encode(), T0)
    told = [(o.symbol, one) for o in out if isinstance(o, Derivative) for one in o.liquidations]
    assert [(name, one.side, one.price, one.size, one.liquidation_id) for name, one in told] == [
        ("BSV-USD", "buy", price, "2.62932", "142397657") for price in ("112.27", "113.50")
    ]
    assert told[0][1].ts_event == 1_596_124_822_000_200_200
    assert [(o.reason, o.value) for o in out if isinstance(o, DeadLetter)] == [("not_positive", "0")]
    assert len(feed.received(f"[6,{rows[0]}]".encode(), T0)) == 1, "a single row, as updates have it"


def test_derivatives_have_a_channel_more_and_a_refused_channel_is_on_the_ledger() -> None:
    """Errors name what was asked for (code 10305: the connection is full); other channels are not concerned."""
    feed = BitfinexFeed(line="bitfinex/0", products=("tBTCUSD", "tBTCF0:USTF0"))
    sent = [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]
    assert [order["key"] for order in sent if "key" in order] == ["liq:global", "deriv:tBTCF0:USTF0"]
    venue = VENUES["bitfinex"]
    most = venue.limits.products_max(len(venue.channels))
    assert most == 6
    assert most * len(venue.channels) < 25, "and one for the liquidations"
    refusal = {"event": "error", "channel": "trades", "symbol": "tBTCUSD", "code": 10305, "msg": "channel: limit"}
    out = feed.received(json.dumps(refusal).encode(), T0)
    told = [(o.kind, o.reason, o.symbol, o.detail) for o in out if isinstance(o, FeedStatus)]
    assert told[0] == ("unsubscribed", "refused", "BTC-USD", "10305 channel: limit")
    assert told[1][:2] == ("gap", "unsubscribed")
    key = {"event": "error", "channel": "status", "key": "deriv:tBTCF0:USTF0", "code": 10300, "msg": "failed"}
    out = feed.received(json.dumps(key).encode(), T0)
    assert [(o.kind, o.symbol, o.channel) for o in out if isinstance(o, FeedStatus)] == [
        ("unsubscribed", "BTCF0-USTF0", "status")
    ]
    assert [o.reason for o in feed.received(b'{"event":"error","code":10000,"msg":"x"}', T0)
            if isinstance(o, DeadLetter)] == ["venue_error"]  # fmt: skip


def test_one_bad_trade_of_a_list_costs_no_other() -> None:
    """It is a dead letter by itself; the others are published."""
    line = FeedDriver()
    line.data(1, [[9, 1, 1], [11, 1, -1]])
    out = line.data(2, [[5, MS, 1, 10], [6, MS, 1, 0], [7, MS, 1, 10]])
    assert [t.trade_id for e in out if isinstance(e, Trades) for t in e.trades] == ["5", "7"]
    assert [o.value for o in out if isinstance(o, DeadLetter)] == ["0"]
