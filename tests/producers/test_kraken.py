"""The Kraken feed is true to the recording, computed a second way, and keeps its rules in v1 and v2."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from marketdata.book import L2Book
from marketdata.errors import BadEvent
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.live.settings import ProducerSettings
from producers.venues import find_venue, make_feed
from producers.venues.kraken.feed import KrakenFeed
from producers.venues.kraken.feed_v1 import KrakenV1Feed
from runtime import recordings
from runtime.recordings import Recorded
from tickstream.pipe import Connections

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "kraken_v1.jsonl.zst"
SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND


@pytest.fixture(scope="module")
def recorded() -> list[Recorded]:
    """The recording's lines: three connections, for books, trades and tickers."""
    if not RECORDING.exists():
        pytest.skip(f"the recordings are absent: no {RECORDING}")
    return list(recordings.read(RECORDING))


@pytest.fixture(scope="module")
def played(recorded: list[Recorded]) -> tuple[Counter[str], list[AnyEvent]]:
    """The counts of the feeds, one for each connection, and all that they said."""
    connections = Connections("kraken")
    events = [event for line in recorded for event in connections.play(line, "")]
    counts: Counter[str] = Counter()
    for feed in connections.feeds:
        counts.update(getattr(feed, "counts", {}))
    return counts, events


@pytest.fixture(scope="module")
def sent(recorded: list[Recorded]) -> list[list[Any]]:
    """The data frames as plain JSON values: [channel number, parts..., channel, pair]."""
    return [values for line in recorded if line.t == "recv" and isinstance(values := json.loads(line.data), list)]


# --- The recording ---


def test_every_checksum_of_the_recording_is_right(played: tuple[Counter[str], list[AnyEvent]]) -> None:
    """4,269 of 4,269; ten snapshots without one; nothing is missing, doubled or refused."""
    counts, events = played
    assert (counts["frames"], counts["snapshots"], counts["book_updates"]) == (4430, 10, 4269)
    assert (counts["checksums_right"], counts["checksums_wrong"]) == (4269, 0)
    assert [counts[name] for name in ("gaps", "dead_letters", "duplicates", "deltas_before_snapshot")] == [0] * 4
    assert {event.kind for event in events if isinstance(event, FeedStatus)} == {"connected"}


def test_final_books_equal_ones_computed_independently(
    played: tuple[Counter[str], list[AnyEvent]], sent: list[list[Any]]
) -> None:
    """Plain dicts of Decimals, filled from the raw frames, give the same levels as the events do."""
    expected: dict[tuple[str, str], dict[Decimal, Decimal]] = {}
    for _, *parts, channel, pair in sent:
        for part in parts if channel == "book-1000" else ():
            for name, levels in part.items():
                if name == "c":
                    continue
                book = expected.setdefault((pair.replace("XBT", "BTC").replace("/", "-"), name[0]), {})
                for price, size, *_ in levels:
                    book[Decimal(price)] = Decimal(size)
    books: dict[str, L2Book] = {}
    for event in played[1]:
        if isinstance(event, BookUpdate) and event.kind in {"snapshot", "update"}:
            kept = books.setdefault(event.symbol, L2Book())
            for side, prices, sizes in ((kept.bids, event.bid_prices, event.bid_sizes),
                                        (kept.asks, event.ask_prices, event.ask_sizes)):  # fmt: skip
                (side.replace if event.kind == "snapshot" else side.apply)(prices, sizes)
    got = {
        (symbol, name): {Decimal(price): Decimal(size) for price, size in side.top()}
        for symbol, book in books.items()
        for name, side in (("b", book.bids), ("a", book.asks))
    }
    assert got == {side: {price: size for price, size in levels.items() if size} for side, levels in expected.items()}
    assert len(got) == 20
    assert not any(book.is_crossed() for book in books.values())


def test_trades_come_once_with_the_takers_side(
    played: tuple[Counter[str], list[AnyEvent]], sent: list[list[Any]]
) -> None:
    """Kraken documents `side` as that of the triggering order ("Spot WebSockets v1", trade): it is the aggressor's."""
    expected = [
        (pair.replace("XBT", "BTC").replace("/", "-"), price, size, {"b": "buy", "s": "sell"}[side],
         int(Decimal(time) * SECOND))
        for _, parts, channel, pair in (values for values in sent if values[-2] == "trade")
        for price, size, time, side, *_ in parts
    ]  # fmt: skip
    got = [
        (event.symbol, trade.price, trade.size, trade.side, trade.ts_event)
        for event in played[1] if isinstance(event, Trades) for trade in event.trades
    ]  # fmt: skip
    assert got == expected
    assert len(got) == 10
    ids = [trade.trade_id for event in played[1] if isinstance(event, Trades) for trade in event.trades]
    assert len(set(ids)) == 10
    assert "1618678142.557535-354.11000000-0.89594024-s" in ids


def test_tickers_become_quotes(played: tuple[Counter[str], list[AnyEvent]], sent: list[list[Any]]) -> None:
    """Bid and ask with their volume in lots, and the last 24 hours."""
    expected = [
        (parts["b"][0], parts["b"][2], parts["a"][0], parts["a"][2], parts["c"][0], parts["v"][1], parts["h"][1],
         parts["l"][1])
        for _, parts, channel, _pair in (values for values in sent if values[-2] == "ticker")
    ]  # fmt: skip
    got = [(q.bid, q.bid_size, q.ask, q.ask_size, q.last, q.volume_24h, q.high_24h, q.low_24h)
           for q in played[1] if isinstance(q, Quote)]  # fmt: skip
    assert got == expected
    assert len(got) == 18


def test_book_changes_have_the_venues_time(played: tuple[Counter[str], list[AnyEvent]], sent: list[list[Any]]) -> None:
    """The latest time of the levels of each frame, to the microsecond."""
    expected = [
        max(int(Decimal(level[2]) * SECOND) for part in parts for name in "ab" for level in part.get(name, ()))
        for _, *parts, channel, _pair in sent if channel == "book-1000" and "as" not in parts[0]
    ]  # fmt: skip
    assert [e.ts_event for e in played[1] if isinstance(e, BookUpdate) and e.kind == "update"] == expected


def test_pairs_are_announced_with_modern_names_and_increments(recorded: list[Recorded]) -> None:
    """REST gives decimals and the smallest order; XBT is BTC in our symbols and XBT in `venue_symbol`."""
    feed = KrakenV1Feed(line="kraken/0")
    (request,) = [output for output in feed.opened(T0) if isinstance(output, Fetch)]
    (answer,) = [line for line in recorded if line.t == "http"]
    assert feed.fetched(request, answer.frame, T0) == []
    ack = {"channelID": 1, "channelName": "book-10", "event": "subscriptionStatus", "pair": "XBT/USD",
           "status": "subscribed", "subscription": {"depth": 10, "name": "book"}}  # fmt: skip
    (instrument,) = feed.received(json.dumps(ack).encode(), T0)
    assert isinstance(instrument, Instrument)
    assert (instrument.symbol, instrument.venue_symbol) == ("BTC-USD", "XBT/USD")
    assert (instrument.tick_size, instrument.size_increment, instrument.min_order_size) == (
        "0.1", "0.00000001", "0.0002",
    )  # fmt: skip


def as_v2(parts: list[dict[str, Any]], pair: str) -> bytes:
    """Return a book frame of v1 as v2 writes it: the same digits as numbers, the time as text."""
    merged = {name: value for part in parts for name, value in part.items()}
    sides = {
        side: ",".join(
            f'{{"price":{price},"qty":{size}}}' for price, size, *_ in merged.get(name, merged.get(name + "s", ()))
        )
        for side, name in (("bids", "b"), ("asks", "a"))
    }
    crc = f',"checksum":{merged["c"]}' if "c" in merged else ""
    data = f'"symbol":"{pair.replace("XBT", "BTC")}","bids":[{sides["bids"]}],"asks":[{sides["asks"]}]{crc}'
    return f'{{"channel":"book","type":"{"update" if crc else "snapshot"}","data":[{{{data}}}]}}'.encode()


def test_recording_told_in_v2_gives_the_same_books(
    played: tuple[Counter[str], list[AnyEvent]], sent: list[list[Any]]
) -> None:
    """JSON numbers instead of strings: every checksum is right, every level digit for digit the same."""
    feed = KrakenFeed(line="kraken/0")
    out = feed.opened(T0)
    for _, *parts, channel, pair in sent:
        if channel == "book-1000":
            out += feed.received(as_v2(parts, pair), T0)
    assert (feed.counts["checksums_right"], feed.counts["checksums_wrong"]) == (4269, 0)
    columns = [
        [(e.symbol, e.kind, e.bid_prices, e.bid_sizes, e.ask_prices, e.ask_sizes)
         for e in events if isinstance(e, BookUpdate) and e.kind != "heartbeat"]
        for events in (out, played[1])
    ]  # fmt: skip
    assert columns[0] == columns[1]


# --- Frames made by hand ---

BIDS = ["45283.5 0.10000000", "45283.4 1.54582015", "45282.1 0.10000000", "45281.0 0.10000000", "45280.3 1.54592586",
        "45279.0 0.07990000", "45277.6 0.03310103", "45277.5 0.30000000", "45277.3 1.54602737",
        "45276.6 0.15445238"]  # fmt: skip
ASKS = ["45285.2 0.00100000", "45286.4 1.54571953", "45286.6 1.54571109", "45289.6 1.54560911", "45290.2 0.15890660",
        "45291.8 1.54553491", "45294.7 0.04454749", "45296.1 0.35380000", "45297.5 0.09945542",
        "45299.5 0.18772827"]  # fmt: skip
CHECKSUM = 3310070434  # of this book, in Kraken's guide "Book checksum (WebSocket v2)"


def checksum(bids: list[str], asks: list[str]) -> int:
    """Return the checksum of levels as `price size`, best first, computed apart from the feed."""
    return crc32("".join(v.replace(".", "").lstrip("0") for level in asks + bids for v in level.split()).encode())


def levels(side: list[str]) -> str:
    """Return levels as v2 writes them: numbers, with their trailing zeros."""
    return ",".join('{{"price":{},"qty":{}}}'.format(*level.split()) for level in side)


def book2(kind: str, bids: list[str], asks: list[str], crc: int, at: int = 1) -> bytes:
    """Return a book frame of v2."""
    data = f'"bids":[{levels(bids)}],"asks":[{levels(asks)}],"checksum":{crc}'
    time = f'"timestamp":"2026-08-09T21:00:{at:02d}.000001Z"'
    return f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD",{data},{time}}}]}}'.encode()


def trade2(*ids: int, kind: str = "update") -> bytes:
    """Return a trade frame of v2."""
    trades = [{"symbol": "BTC/USD", "side": "sell", "price": 45283.5, "qty": 0.1, "ord_type": "market", "trade_id": i,
               "timestamp": "2026-08-09T21:00:00.000001Z"} for i in ids]  # fmt: skip
    return json.dumps({"channel": "trade", "type": kind, "data": trades}).encode()


def book1(part: dict[str, Any], *more: dict[str, Any]) -> bytes:
    """Return a book frame of v1."""
    return json.dumps([336, part, *more, "book-10", "XBT/USD"], separators=(",", ":")).encode()


def levels1(side: list[str], at: int = 1) -> list[list[str]]:
    """Return levels as v1 writes them."""
    return [[*level.split(), f"1618678133.{at:06d}"] for level in side]


def trade1(*trades: list[str]) -> bytes:
    """Return a trade frame of v1."""
    return json.dumps([337, trades, "trade", "XBT/USD"]).encode()


def story(out: list[Output]) -> list[str]:
    """Return the outputs in short."""
    lines: list[str] = []
    for output in out:
        match output:
            case BookUpdate() | FeedStatus():
                lines.append(" ".join(filter(None, (output.symbol, output.kind, output.reason))))
            case Trades():
                lines.append(f"trades {','.join(trade.trade_id for trade in output.trades)} {output.reason}".strip())
            case Send():
                lines.append(output.frame.decode())
            case Reconnect():
                lines.append(f"reconnect {output.reason}")
            case DeadLetter():
                lines.append(f"dead {output.reason}")
            case _:
                lines.append(type(output).__name__)
    return lines


def answer(channel: str, pair: str = "BTC/USD", error: str = "") -> bytes:
    """Return Kraken's answer to a subscription: an acknowledgement, or a refusal, which does not name the channel."""
    if error:
        return json.dumps({"method": "subscribe", "success": False, "error": error, "symbol": pair}).encode()
    depth = {"depth": 10} if channel == "book" else {}
    result = {"channel": channel, "snapshot": True, "symbol": pair, **depth}
    return json.dumps({"method": "subscribe", "success": True, "result": result}).encode()


def acknowledge(feed: KrakenFeed, *pairs: str) -> None:
    """Acknowledge every subscription of these pairs."""
    for channel in ("book", "trade", "ticker"):
        for pair in pairs:
            feed.received(answer(channel, pair), T0)


@pytest.fixture
def feed() -> KrakenFeed:
    """A feed of BTC/USD whose subscriptions stand, and whose book has ten levels."""
    feed = KrakenFeed(line="kraken/0", products=("BTC/USD",))
    feed.opened(T0)
    acknowledge(feed, "BTC/USD")
    return feed


@pytest.fixture
def feed1() -> KrakenV1Feed:
    """A feed of XBT/USD on a connection that uses v1."""
    feed = KrakenV1Feed(line="kraken/0", products=("BTC/USD",))
    feed.opened(T0)
    feed.received(b'{"connectionID":1,"event":"systemStatus","status":"online","version":"1.9.2"}', T0)
    return feed


def test_documented_book_has_the_documented_checksum(feed: KrakenFeed) -> None:
    """JSON numbers keep their digits: the checksum of Kraken's own example is right, and the book has their text."""
    (snapshot,) = feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    assert isinstance(snapshot, BookUpdate)
    assert [f"{p} {s}" for p, s in zip(snapshot.bid_prices, snapshot.bid_sizes, strict=True)] == BIDS
    assert [f"{p} {s}" for p, s in zip(snapshot.ask_prices, snapshot.ask_sizes, strict=True)] == ASKS
    assert feed.counts["checksums_right"] == 1


def test_numbers_are_written_in_fixed_point(feed: KrakenFeed) -> None:
    """An exponent or a whole number counts as its digits, not as it is spelt."""
    bids = ["45283.5 1e-8", *BIDS[1:]]
    (snapshot,) = feed.received(book2("snapshot", bids, ASKS, checksum(["45283.5 0.00000001", *BIDS[1:]], ASKS)), T0)
    assert isinstance(snapshot, BookUpdate)
    assert snapshot.bid_sizes[0] == "0.00000001"


def test_what_falls_out_of_the_depth_is_told_as_removed(feed: KrakenFeed) -> None:
    """An eleventh level is cut before the check, and consumers receive that, since the venue never takes it back."""
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    better = "45284.0 0.50000000"
    out = feed.received(book2("update", [better], [], checksum([better, *BIDS[:9]], ASKS)), T0)
    (update,) = out
    assert isinstance(update, BookUpdate)
    assert (update.bid_prices, update.bid_sizes) == (["45284.0", "45276.6"], ["0.50000000", "0"])
    assert (feed.counts["checksums_right"], feed.counts["checksums_wrong"]) == (2, 0)


def test_thin_book_is_not_cut_where_the_answer_to_its_subscription_was_not_heard() -> None:
    """What was subscribed is known: a snapshot of ten levels does not mean a depth of ten."""
    feed = KrakenFeed(line="kraken/0", products=("BTC/USD",))
    feed.opened(T0)
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    better = "45284.0 0.50000000"
    (update,) = feed.received(book2("update", [better], [], checksum([better, *BIDS[:9]], ASKS)), T0)
    assert isinstance(update, BookUpdate)
    assert update.bid_prices == ["45284.0"]


def test_wrong_checksum_clears_the_book_and_subscribes_it_again(feed: KrakenFeed) -> None:
    """The change is not published; the fresh snapshot closes the gap."""
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    out = feed.received(book2("update", [], [ASKS[0].replace("100000", "200000")], CHECKSUM), T0)
    params = '"params":{"channel":"book","symbol":["BTC/USD"],"depth":10'
    assert story(out) == [
        "BTC-USD clear checksum", "BTC-USD gap checksum", f'{{"method":"unsubscribe",{params}}}}}',
        f'{{"method":"subscribe",{params},"snapshot":true}}}}', "BTC-USD resync checksum",
    ]  # fmt: skip
    assert feed.counts["checksums_wrong"] == 1
    assert feed.received(book2("update", [], [ASKS[0]], CHECKSUM), T0) == [], "no book to change"
    assert story(feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)) == ["BTC-USD snapshot", "BTC-USD resynced"]


def test_snapshot_with_a_wrong_checksum_is_never_told(feed: KrakenFeed) -> None:
    """It opens a gap and is asked for again; the third loss within a minute reconnects."""
    published = [line for _ in range(3) for line in story(feed.received(book2("snapshot", BIDS, ASKS, 1), T0))]
    assert "BTC-USD snapshot" not in published
    assert published[0] == "BTC-USD gap checksum"
    assert published[-1] == "reconnect gaps"


def test_pair_that_is_told_badly_does_not_cost_the_others_their_connection() -> None:
    """While another book is good, three wrong ones are asked for again later, and no sooner."""
    feed = KrakenFeed(line="kraken/0", products=("BTC/USD", "ETH/USD"))
    feed.opened(T0)
    acknowledge(feed, "BTC/USD", "ETH/USD")
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM).replace(b"BTC", b"ETH"), T0)
    published: list[str] = []
    for _ in range(3):
        published += story(feed.received(book2("snapshot", BIDS, ASKS, 1), T0)) + story(
            feed.received(answer("book"), T0)
        )
    assert sum('"method":"subscribe"' in line for line in published) == 2
    assert not any(line.startswith(("reconnect", "ETH")) for line in published)
    feed.received(b'{"channel":"heartbeat"}', T0 + 8 * SECOND)
    assert feed.ticked(T0 + 9 * SECOND) == []
    published = story(feed.ticked(T0 + 10 * SECOND))
    assert sum('"method":"subscribe"' in line and "BTC/USD" in line for line in published) == 1
    assert story(feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0))[0] == "BTC-USD snapshot"


def test_lost_change_is_noticed_at_the_next(feed: KrakenFeed) -> None:
    """The book that missed a change fails the check of the next one, whatever that is."""
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    bids = ["45283.5 0.70000000", *BIDS[1:]]
    out = feed.received(book2("update", [], ["45285.2 0.2"], checksum(bids, ["45285.2 0.2", *ASKS[1:]])), T0)
    assert story(out)[:2] == ["BTC-USD clear checksum", "BTC-USD gap checksum"]


def test_pairs_in_one_frame_stay_apart() -> None:
    """The changes of each are its own event."""
    feed = KrakenFeed(line="kraken/0")
    feed.opened(T0)
    for name in (b"BTC", b"ETH"):
        feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM).replace(b"BTC", name), T0)
    bids = ["45283.5 0.70000000", *BIDS[1:]]
    one = book2("update", bids[:1], [], checksum(bids, ASKS))
    both = one[:-2] + b"," + one[one.index(b'{"symbol"') : -2].replace(b"BTC", b"ETH") + b"]}"
    out = feed.received(both, T0)
    assert [(o.symbol, o.bid_sizes) for o in out if isinstance(o, BookUpdate)] == [
        ("BTC-USD", ["0.70000000"]), ("ETH-USD", ["0.70000000"])]  # fmt: skip


def test_change_that_comes_again_is_dropped(feed: KrakenFeed) -> None:
    """Its time shows that it is the same one."""
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    bids = ["45283.5 0.70000000", *BIDS[1:]]
    frame = book2("update", bids[:1], [], checksum(bids, ASKS))
    assert story(feed.received(frame, T0)) == ["BTC-USD update"]
    assert feed.received(frame, T0) == []
    assert feed.counts["duplicates"] == 1


def test_book_that_comes_again_does_not_take_a_good_one_back(feed: KrakenFeed) -> None:
    """A recording that starts over has the same book at its end; after a loss the same snapshot is as good as any."""
    bids = ["45283.5 0.70000000", *BIDS[1:]]
    frames = [book2("snapshot", BIDS, ASKS, CHECKSUM), book2("update", bids[:1], [], checksum(bids, ASKS))]
    assert [story(feed.received(frame, T0))[-1] for frame in frames] == ["BTC-USD snapshot", "BTC-USD update"]
    assert [feed.received(frame, T0) for frame in frames] == [[], []]
    assert feed.counts["duplicates"] == 2
    feed.closed("lost", T0)
    feed.opened(T0)
    assert "BTC-USD snapshot" in story(feed.received(frames[0], T0))
    assert story(feed.received(frames[1], T0)) == ["BTC-USD update"]
    assert feed.counts["duplicates"] == 2


def test_v1_book_that_comes_again_does_not_take_a_good_one_back(feed1: KrakenV1Feed) -> None:
    """The same holds where each pair has frames of its own."""
    level = "45280.0 1.00000000"
    snapshot = book1({"as": levels1(ASKS), "bs": levels1(BIDS[:9])})
    change = book1({"b": levels1([level], 2), "c": str(checksum([*BIDS[:5], level, *BIDS[5:9]], ASKS))})
    feed1.received(snapshot, T0)
    assert story(feed1.received(change, T0)) == ["BTC-USD update"]
    assert [feed1.received(frame, T0) for frame in (change, snapshot, change)] == [[], [], []]
    feed1.closed("lost", T0)
    feed1.opened(T0)
    assert "BTC-USD snapshot" in story(feed1.received(snapshot, T0))
    assert story(feed1.received(change, T0)) == ["BTC-USD update"]


def test_each_version_subscribes_in_its_own_form() -> None:
    """v2 by method and with tokenised assets among its instruments, v1 by event and with its own names."""
    v2 = [json.loads(o.frame) for o in KrakenFeed(line="kraken/0", products=("XBT/USD",)).opened(T0)
          if isinstance(o, Send)]  # fmt: skip
    assert [order["params"]["channel"] for order in v2] == ["instrument", "book", "trade", "ticker"]
    assert v2[0]["params"]["include_tokenized_assets"] is True
    assert {name for order in v2[1:] for name in order["params"]["symbol"]} == {"BTC/USD"}
    out = KrakenV1Feed(line="kraken/0", products=("BTC/USD",)).opened(T0)
    assert [json.loads(output.frame) for output in out if isinstance(output, Send)] == [
        {"event": "subscribe", "pair": ["XBT/USD"], "subscription": {"name": "book", "depth": 1000}},
        {"event": "subscribe", "pair": ["XBT/USD"], "subscription": {"name": "trade"}},
        {"event": "subscribe", "pair": ["XBT/USD"], "subscription": {"name": "ticker"}},
    ]


@pytest.mark.parametrize(("frame", "version"), [
    (b'{"event":"systemStatus","status":"online"}', KrakenV1Feed),
    (b'[1,[["1","1","1618678133.000001","s","l",""]],"trade","XBT/USD"]', KrakenV1Feed),
    (b'{"channel":"status","type":"update","data":[{"system":"online"}]}', KrakenFeed),
    (b'{"method":"subscribe","success":true,"result":{"channel":"ticker","symbol":"BTC/USD"}}', KrakenFeed),
    (b"no JSON", KrakenFeed),
])  # fmt: skip
def test_first_frame_of_a_recording_shows_its_version(frame: bytes, version: type[KrakenFeed]) -> None:
    """From then on the feed is one of that version; bytes that show none are a dead letter, and leave it open."""
    feed, expected = make_feed("kraken"), version(line="kraken/0")
    assert feed.opened(T0) == expected.opened(T0)
    assert feed.received(frame, T0) == expected.received(frame, T0)
    assert feed.counts == expected.counts
    is_open = frame == b"no JSON"
    assert isinstance(feed, KrakenV1Feed) == (is_open or version is KrakenV1Feed)
    feed.received(b'{"channel":"heartbeat"}', T0)
    assert isinstance(feed, KrakenV1Feed) == (version is KrakenV1Feed)


def test_v1_message_with_a_part_for_each_side_is_one_change(feed1: KrakenV1Feed) -> None:
    """The checksum of the last part covers both sides."""
    feed1.received(book1({"as": levels1(ASKS), "bs": levels1(BIDS)}), T0)
    bids, asks = ["45283.5 0.7", *BIDS[1:]], ["45285.2 0.2", *ASKS[1:]]
    out = feed1.received(
        book1({"a": levels1(asks[:1], 2)}, {"b": levels1(bids[:1], 3), "c": str(checksum(bids, asks))}), T0
    )
    (update,) = out
    assert isinstance(update, BookUpdate)
    assert (update.bid_sizes, update.ask_sizes) == (["0.7"], ["0.2"])
    assert update.ts_event == 1_618_678_133_000_003_000
    assert feed1.counts["checksums_right"] == 1


def test_v1_mismatch_is_repaired_in_v1(feed1: KrakenV1Feed) -> None:
    """With the depth that the channel's name states."""
    feed1.received(book1({"as": levels1(ASKS), "bs": levels1(BIDS)}), T0)
    out = feed1.received(book1({"a": levels1(["45285.2 0.2"], 2), "c": "1"}), T0)
    assert [json.loads(output.frame) for output in out if isinstance(output, Send)] == [
        {"event": verb, "pair": ["XBT/USD"], "subscription": {"name": "book", "depth": 10}}
        for verb in ("unsubscribe", "subscribe")
    ]


def test_change_older_than_the_one_that_took_it_back_is_no_news(feed1: KrakenV1Feed) -> None:
    """Add and removal swapped: both pass the checksum in the wrong order, but the time of the level went back."""
    feed1.received(book1({"as": levels1(ASKS), "bs": levels1(BIDS[:9])}), T0)
    level = "45280.0 1.00000000"
    added = [*BIDS[:5], level, *BIDS[5:9]]
    add = book1({"b": levels1([level], 2), "c": str(checksum(added, ASKS))})
    remove = book1({"b": levels1(["45280.0 0.00000000"], 3), "c": str(checksum(BIDS[:9], ASKS))})
    assert story(feed1.received(remove, T0)) == ["BTC-USD update"]
    assert story(feed1.received(add, T0))[:2] == ["BTC-USD clear gap", "BTC-USD gap gap"]


def test_v1_trades_alike_in_one_message_are_two_and_a_repeated_message_is_none(feed1: KrakenV1Feed) -> None:
    """Ids are made of what the trade is, and an ordinal for equal ones: the same on every line, at every time."""
    alike = ["5541.20000", "0.15850568", "1534614057.321597", "s", "l", ""]
    other = ["5541.30000", "0.10000000", "1534614057.324998", "b", "m", ""]
    frame = trade1(alike, alike, other)
    first = "1534614057.321597-5541.20000-0.15850568-s"
    assert story(feed1.received(frame, T0))[-1] == f"trades {first},{first}-1,1534614057.324998-5541.30000-0.10000000-b"
    assert feed1.received(frame, T0) == []
    assert feed1.counts["duplicates"] == 3


def test_v1_trades_of_a_lost_connection_stay_on_the_ledger(feed1: KrakenV1Feed) -> None:
    """Nothing numbers them: the connection's gap closes, the entry of the trades stays open, candles become invalid."""
    feed1.received(book1({"as": levels1(ASKS), "bs": levels1(BIDS)}), T0)
    feed1.received(trade1(["1", "1", "1618678133.000001", "s", "l", ""]), T0)
    assert story(feed1.closed("reset", T0)) == ["* disconnected reset", "BTC-USD clear disconnected", "trades  gap",
                                                "BTC-USD gap disconnected"]  # fmt: skip
    feed1.opened(T0 + SECOND)
    feed1.received(book1({"as": levels1(ASKS), "bs": levels1(BIDS)}), T0 + SECOND)
    out = feed1.received(trade1(["1", "1", "1618678143.000001", "s", "l", ""]), T0 + SECOND)
    assert story(out) == ["BTC-USD gap gap", "trades  gap", "BTC-USD resynced",
                          "trades 1618678143.000001-1-1-s"]  # fmt: skip


def test_skipped_trade_id_is_asked_for_and_filled(feed: KrakenFeed) -> None:
    """v2 numbers trades per pair; its snapshot brings what was lost, as a repair."""
    feed.received(trade2(1, 2), T0)
    out = feed.received(trade2(4), T0)
    assert story(out)[:3] == ["trades  gap", "trades 4 gap", "BTC-USD gap gap"]
    orders = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    assert [(o["method"], o["params"]["channel"]) for o in orders] == [("unsubscribe", "trade"), ("subscribe", "trade")]
    out = feed.received(trade2(1, 2, 3, 4, kind="snapshot"), T0)
    assert story(out) == ["trades 3", "trades", "trades", "BTC-USD resynced"]
    assert isinstance(out[0], Trades)
    assert (out[0].origin, out[0].trades[0].side) == ("repair", "sell")


def test_heartbeat_vouches_for_the_time_that_passed(feed: KrakenFeed) -> None:
    """It has no time of its own: the venue's last time, plus what passed here, less a second."""
    (snapshot,) = feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    feed.received(trade2(1, kind="snapshot"), T0)
    out = feed.received(b'{"channel":"heartbeat"}', T0 + 5 * SECOND)
    assert story(out) == ["trades", "BTC-USD heartbeat"]
    assert isinstance(snapshot, BookUpdate)
    for event in out:
        assert isinstance(event, Trades | BookUpdate)
        assert event.ts_event == snapshot.ts_event + 4 * SECOND


def test_heartbeat_vouches_for_no_trades_while_some_may_be_missing(feed: KrakenFeed) -> None:
    """After a lost connection the snapshot of the last trades comes first."""
    feed.received(trade2(7), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    acknowledge(feed, "BTC/USD")
    beat = b'{"channel":"heartbeat"}'
    assert not [o for o in feed.received(beat, T0) if isinstance(o, Trades)]
    feed.received(trade2(6, 7, 8, kind="snapshot"), T0)
    assert [o.trades for o in feed.received(beat, T0) if isinstance(o, Trades)] == [()]


def test_refusal_costs_its_pair_and_channel_alone() -> None:
    """It names the pair; requests are answered in order. It is on the ledger, and vouched for by nothing."""
    feed = KrakenFeed(line="kraken/0", products=("BTC/USD", "ETH/USD"))
    feed.opened(T0)
    out: list[Output] = []
    for channel in ("book", "trade", "ticker"):
        feed.received(answer(channel, "BTC/USD"), T0)
        refused = "EService:Trading is not available" if channel == "trade" else ""
        out += feed.received(answer(channel, "ETH/USD", refused), T0)
    published = [(o.symbol, o.kind, o.channel) for o in out if isinstance(o, FeedStatus)]
    assert published == [("ETH-USD", "unsubscribed", "trade"), ("ETH-USD", "gap", "trade")]
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["venue_error"]
    for name in (b"BTC", b"ETH"):
        feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM).replace(b"BTC", name), T0)
    out = feed.received(b'{"channel":"heartbeat"}', T0 + 2 * SECOND)
    assert [(type(o).__name__, o.symbol) for o in out if isinstance(o, BookUpdate | Trades)] == [
        ("Trades", "BTC-USD"), ("BookUpdate", "BTC-USD"), ("BookUpdate", "ETH-USD"),
    ]  # fmt: skip


def test_pair_that_is_subscribed_already_is_acknowledged() -> None:
    """A request that came again is answered so; nothing is lost."""
    feed = KrakenFeed(line="kraken/0", products=("BTC/USD",))
    feed.opened(T0)
    for channel in ("book", "trade", "ticker"):
        out = feed.received(answer(channel, error="Already subscribed to one of the pairs"), T0)
        assert [o.kind for o in out if isinstance(o, FeedStatus)] == []
    assert feed.counts["subscriptions"] == 3


@pytest.mark.parametrize(("pair", "symbol"), [("AAPLx/USD", "AAPLx-USD"), ("TSLAx/EUR", "TSLAx-EUR"),
                                              ("BRK.Bx/USD", "BRK.Bx-USD")])  # fmt: skip
def test_tokenised_assets_keep_their_names(pair: str, symbol: str) -> None:
    """Names are case-sensitive: AAPLx is a tokenised stock, and no setting or frame changes its letters."""
    feed = KrakenFeed(line="kraken/0", products=ProducerSettings(products=(pair,)).products_of(find_venue("kraken")))
    sent = [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]
    assert {name for order in sent[1:] for name in order["params"]["symbol"]} == {pair}
    listed = {"symbol": pair, "base": pair.split("/", maxsplit=1)[0], "quote": pair.split("/")[1], "status": "online",
              "price_increment": 0.01, "qty_increment": 1e-8, "qty_min": 0.01}  # fmt: skip
    feed.received(json.dumps({"channel": "instrument", "type": "snapshot",
                              "data": {"assets": [], "pairs": [listed]}}).encode(), T0)  # fmt: skip
    out = feed.received(trade2(1).replace(b"BTC/USD", pair.encode()), T0)
    (instrument,) = [o for o in out if isinstance(o, Instrument)]
    assert (instrument.symbol, instrument.venue_symbol, instrument.tick_size) == (symbol, pair, "0.01")
    assert [o.symbol for o in out if isinstance(o, Trades)] == [symbol]


def test_pair_that_is_routed_elsewhere_is_refused_with_a_reason() -> None:
    """`BTC/USD:BTNL` is margin of another venue, not a book of Kraken's."""
    with pytest.raises(BadEvent, match="bad_symbol"):
        KrakenFeed(line="kraken/0", products=("BTC/USD:BTNL",)).symbols()


def test_maintenance_halts_every_pair(feed: KrakenFeed) -> None:
    """What is sent while the venue matches no orders is halted, in each stream."""
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    status = b'{"channel":"status","type":"update","data":[{"api_version":"v2","system":"%s","version":"2.0.0"}]}'
    out = feed.received(status % b"maintenance", T0)
    assert story(out) == ["Instrument", "BTC-USD halted halted", "trades  halted", "BTC-USD heartbeat halted"]
    assert story(feed.received(status % b"online", T0))[:2] == ["Instrument", "BTC-USD resumed online"]


def test_refusals_of_the_venue_are_dead_letters(feed: KrakenFeed, feed1: KrakenV1Feed) -> None:
    """In either API's form."""
    v2 = b'{"error":"Currency pair not supported BTC/X","method":"subscribe","success":false,"symbol":"BTC/X"}'
    v1 = b'{"errorMessage":"Currency pair not supported","event":"subscriptionStatus","pair":"X","status":"error"}'
    for each, frame in ((feed, v2), (feed1, v1)):
        letters = [output for output in each.received(frame, T0) if isinstance(output, DeadLetter)]
        assert [letter.reason for letter in letters] == ["venue_error"]


def test_unreadable_change_clears_its_pair_alone() -> None:
    """The frame names the pair, so the others go on."""
    feed = KrakenV1Feed(line="kraken/0")
    feed.opened(T0)
    other = book1({"as": levels1(ASKS), "bs": levels1(BIDS)}).replace(b"XBT/USD", b"ETH/USD")
    for frame in (book1({"as": levels1(ASKS), "bs": levels1(BIDS)}), other):
        feed.received(frame, T0)
    out = feed.received(book1({"b": [["NaN", "1", "1618678133.000002"]], "c": "1"}), T0)
    assert story(out)[:3] == ["dead not_a_decimal", "BTC-USD clear gap", "BTC-USD gap gap"]
    assert not any(line.startswith("ETH") for line in story(out))


@pytest.mark.parametrize("frame", [
    book2("update", BIDS[:1], [], CHECKSUM)[:-9],
    book2("update", BIDS[:1], [], CHECKSUM).replace(b'"checksum":', b'"checksum":"x').replace(b',"time', b'","time'),
    book2("update", ["45283.5 true"], [], CHECKSUM),
])  # fmt: skip
def test_unreadable_frame_of_v2_clears_the_book_at_once(feed: KrakenFeed, frame: bytes) -> None:
    """It may have been a change; nothing waits for the next checksum to show that."""
    feed.received(book2("snapshot", BIDS, ASKS, CHECKSUM), T0)
    out = feed.received(frame, T0)
    assert story(out)[0].startswith("dead ")
    assert story(out)[1] == "BTC-USD clear gap"
    assert '"method":"subscribe","params":{"channel":"book"' in "".join(story(out))


@pytest.mark.parametrize("frame", [
    book1({"b": levels1(BIDS[:1]), "c": "1"})[:-30], b'[336,{"b":[["1"]]},"book-10","XBT/USD"]', b"[336]",
])  # fmt: skip
def test_unreadable_frame_of_v1_clears_the_book_at_once(feed1: KrakenV1Feed, frame: bytes) -> None:
    """It may have been a change; nothing waits for the next checksum to show that."""
    feed1.received(book1({"as": levels1(ASKS), "bs": levels1(BIDS)}), T0)
    out = feed1.received(frame, T0)
    assert story(out)[0].startswith("dead ")
    assert story(out)[1] == "BTC-USD clear gap"
    assert '"event":"subscribe"' in "".join(story(out))


@pytest.mark.parametrize(("levels_sent", "depth"), [(7, 10), (10, 10), (11, 25), (60, 100), (400, 500), (900, 1000)])
def test_depth_is_read_off_a_snapshot_where_no_answer_told_it(levels_sent: int, depth: int) -> None:
    """The smallest that Kraken has; recordings may begin after the answers."""
    feed = KrakenFeed(line="kraken/0")
    feed.opened(T0)
    bids = [f"{2000 - i}.5 1.0" for i in range(levels_sent)]
    asks = [f"{3000 + i}.5 1.0" for i in range(levels_sent)]
    feed.received(book2("snapshot", bids, asks, checksum(bids[:10], asks[:10])), T0)
    for extra in range(depth - levels_sent + 1):
        bids.insert(0, f"{2001 + extra}.5 1.0")
        (update,) = feed.received(book2("update", bids[:1], [], checksum(bids[:10], asks[:10]), at=extra % 60), T0)
        assert isinstance(update, BookUpdate)
        assert len(update.bid_prices) == (2 if extra == depth - levels_sent else 1)
