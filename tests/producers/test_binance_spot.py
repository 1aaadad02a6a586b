"""The Binance spot feed is true to its recordings, and repairs one symbol at a time."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bench import feed_player
from bench.feed_task import Task
from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.live.settings import load_for_venue
from producers.venues import make_feed
from producers.venues.binance.feed import AGE_NS_MAX, QUIET_NS, UNDER_WAY_MAX, BinanceFeed
from producers.venues.binance.names import split
from producers.venues.kit.sequence import OLD_RUN_MAX
from runtime import recordings
from runtime.recordings import Recorded

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
Played = tuple[BinanceFeed, list[Output]]


def make(*, line: str, products: tuple[str, ...] | None = None) -> BinanceFeed:
    """Return a live feed of these products, or that of a recording."""
    feed = make_feed("binance_spot", line=line, products=products)
    assert isinstance(feed, BinanceFeed)
    return feed


def read(name: str) -> list[Recorded]:
    """Return a recording's lines."""
    path = RECORDINGS / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return list(recordings.read(path))


def request_of(line: Recorded, asked: list[Fetch]) -> Fetch:
    """Return the request that a recorded REST body answers; a body without an address is the first snapshot."""
    url = line.conn or ""
    if "/" not in url:
        return next(request for request in asked if request.purpose == "snapshot")
    symbol = url.partition("symbol=")[2].partition("&")[0]
    return next(request for request in asked if request.symbol == symbol and request.path.split("?")[0] in url)


def play(lines: list[Recorded]) -> Played:
    """Return the feed after a recording, and all that it said."""
    feed = make(line="binance_spot/0")
    out = feed.opened(lines[0].ts_recv)
    for line in lines:
        if line.t == "http":
            asked = [output for output in out if isinstance(output, Fetch)]
            out += feed.fetched(request_of(line, asked), line.frame, line.ts_recv)
        else:
            out += feed.received(line.frame, line.ts_recv)
    return feed, out


@pytest.fixture(scope="module")
def lines() -> list[Recorded]:
    """The recording of one symbol."""
    return read("binance_spot_btcusdt")


@pytest.fixture(scope="module")
def played(lines: list[Recorded]) -> Played:
    """That recording played."""
    return play(lines)


def sent(lines: list[Recorded], channel: str) -> list[dict[str, Any]]:
    """Return the payloads of one channel, as plain JSON values."""
    frames = (json.loads(line.data) for line in lines if line.t == "recv")
    return [frame["data"] for frame in frames if frame["stream"].partition("@")[2] == channel]


def independent_book(lines: list[Recorded], symbol: str, body: dict[str, Any]) -> dict[str, dict[Decimal, Decimal]]:
    """Return the final book from the raw frames with plain dicts of Decimals, by the venue's documented steps."""
    book = {side: {Decimal(p): Decimal(q) for p, q in body[side]} for side in ("bids", "asks")}
    last = body["lastUpdateId"]
    for diff in sent(lines, "depth@100ms"):
        if diff["s"] != symbol or diff["u"] <= last:
            continue
        assert diff["U"] <= last + 1
        last = diff["u"]
        for side, levels in (("bids", diff["b"]), ("asks", diff["a"])):
            book[side] |= {Decimal(p): Decimal(q) for p, q in levels}
    return {side: {p: q for p, q in levels.items() if q} for side, levels in book.items()}


def apply(book: L2Book, event: BookUpdate) -> None:
    """Follow a book as a consumer does."""
    if event.kind == "snapshot":
        book.bids.replace(event.bid_prices, event.bid_sizes)
        book.asks.replace(event.ask_prices, event.ask_sizes)
    else:
        book.bids.apply(event.bid_prices, event.bid_sizes)
        book.asks.apply(event.ask_prices, event.ask_sizes)


def test_nothing_of_the_recording_is_refused_or_missing(played: Played) -> None:
    """No gap, no dead letter, no duplicate; each ticker is a quote."""
    counts = played[0].counts
    assert [counts[name] for name in ("frames", "trades", "quotes", "snapshots")] == [99_573, 19_904, 73_174, 1]
    assert [counts[name] for name in ("gaps", "dead_letters", "duplicates", "ignored")] == [0] * 4
    assert [event.kind for event in played[1] if isinstance(event, FeedStatus)] == ["connected"]


def test_trades_are_the_venues_own_with_the_takers_side(played: Played, lines: list[Recorded]) -> None:
    """Ids are contiguous. `m` true: the buyer is the maker ("Trade Streams": "Is the buyer the market maker?")."""
    got = [trade for event in played[1] if isinstance(event, Trades) for trade in event.trades]
    assert [(t.trade_id, t.price, t.size, t.side, t.ts_event) for t in got] == [
        (str(t["t"]), t["p"], t["q"], "sell" if t["m"] else "buy", t["T"] * 1_000_000) for t in sent(lines, "trade")
    ]
    assert [int(t.trade_id) for t in got] == list(range(int(got[0].trade_id), int(got[0].trade_id) + len(got)))


def test_book_equals_the_ticker_at_the_same_update_id(played: Played) -> None:
    """Wherever a change ends at the update id of a bookTicker, best prices and sizes are the same."""
    book, checked = L2Book(), 0
    tickers = {event.sequence: event for event in played[1] if isinstance(event, Quote)}
    for event in played[1]:
        if isinstance(event, BookUpdate):
            apply(book, event)
            assert not book.is_crossed()
            quote = tickers.get(event.sequence)
            if quote is not None:
                assert book.best() == ((quote.bid, quote.bid_size), (quote.ask, quote.ask_size))
                checked += 1
    assert checked > 1_000


def test_final_book_equals_one_computed_independently(played: Played, lines: list[Recorded]) -> None:
    """Level by level."""
    body = json.loads(next(line for line in lines if line.t == "http").data)
    book = L2Book()
    for event in played[1]:
        if isinstance(event, BookUpdate):
            apply(book, event)
    got = {name: {Decimal(p): Decimal(q) for p, q in side.top()} for name, side in
           (("bids", book.bids), ("asks", book.asks))}  # fmt: skip
    assert got == independent_book(lines, "BTCUSDT", body)
    assert len(book.bids) > 1_000


def test_several_symbols_join_their_own_snapshots() -> None:
    """Four symbols, each body given to the request of its symbol; the books equal those computed independently."""
    lines = read("binance_spot_multi")
    feed, out = play(lines)
    assert [feed.counts[name] for name in ("frames", "gaps", "dead_letters", "duplicates")] == [265, 0, 0, 0]
    books: dict[str, L2Book] = {}
    for event in out:
        if isinstance(event, BookUpdate):
            apply(books.setdefault(event.symbol, L2Book()), event)
    bodies = {(line.conn or "").partition("symbol=")[2].partition("&")[0]: json.loads(line.data) for line in lines
              if "/depth?" in (line.conn or "")}  # fmt: skip
    assert len(bodies) == 4
    for name, body in bodies.items():
        base, quote, _ = split(name)
        book = books[f"{base}-{quote}"]
        got = {side: {Decimal(p): Decimal(q) for p, q in levels.top()} for side, levels in
               (("bids", book.bids), ("asks", book.asks))}  # fmt: skip
        assert got == independent_book(lines, name, body)


def test_every_name_of_the_recorded_list_is_split_as_the_venue_says() -> None:
    """Base and quote from the name alone equal baseAsset and quoteAsset of all symbols of exchangeInfo."""
    line = next(line for line in read("binance_spot_multi") if "exchangeInfo" in (line.conn or ""))
    symbols = json.loads(line.data)["symbols"]
    assert len(symbols) > 1_500
    wrong = [s["symbol"] for s in symbols if split(s["symbol"]) != (s["baseAsset"], s["quoteAsset"], "")]
    assert wrong == []


# --- Steps, with frames made by hand ---


def diff(first: int, final: int, symbol: str = "BTCUSDT", price: str = "100", size: str = "1") -> bytes:
    """Return one book change, not wrapped."""
    return json.dumps({"e": "depthUpdate", "E": T0 // 1_000_000, "s": symbol, "U": first, "u": final,
                       "b": [[price, size]], "a": []}).encode()  # fmt: skip


def trade(number: int, symbol: str = "BTCUSDT") -> bytes:
    """Return one trade."""
    return json.dumps({"stream": f"{symbol.lower()}@trade", "data": {
        "e": "trade", "E": T0 // 1_000_000, "s": symbol, "t": number, "p": "1", "q": "2", "T": T0 // 1_000_000,
        "m": True, "M": True}}).encode()  # fmt: skip


def body(number: int) -> bytes:
    """Return a REST snapshot."""
    return json.dumps({"lastUpdateId": number, "bids": [["99", "1"]], "asks": [["101", "1"]]}).encode()


def fetches(out: list[Output], purpose: str = "snapshot") -> list[Fetch]:
    """Return the requests of one purpose."""
    return [output for output in out if isinstance(output, Fetch) and output.purpose == purpose]


def kinds(out: list[Output]) -> list[str]:
    """Return what happened to books and on the ledger, in order."""
    return [f"{o.symbol} {o.kind}" for o in out if isinstance(o, BookUpdate | FeedStatus)]


def acknowledge(feed: BinanceFeed, out: list[Output]) -> list[Output]:
    """Answer every subscription as the venue does."""
    orders = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    return [o for order in orders for o in feed.received(f'{{"result":null,"id":{order["id"]}}}'.encode(), T0)]


def synced(*symbols: str) -> BinanceFeed:
    """Return a live feed with a good book of each symbol, at update id 20."""
    feed = make(line="binance_spot/0", products=symbols)
    assert acknowledge(feed, feed.opened(T0)) == []
    for symbol in symbols:
        (request,) = fetches(feed.received(diff(10, 20, symbol), T0))
        feed.fetched(request, body(15), T0)
    return feed


def test_snapshot_older_than_what_waits_is_asked_for_again() -> None:
    """`lastUpdateId` before the first `U`: changes between the two are unknown."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(10, 20), T0))
    assert (request.path, request.weight) == ("api/v3/depth?symbol=BTCUSDT&limit=5000", 250)
    out = feed.fetched(request, body(8), T0)
    assert kinds(out) == []
    (again,) = fetches(out)
    assert kinds(feed.fetched(again, body(9), T0)) == ["BTC-USDT snapshot", "BTC-USDT update"]


def test_snapshot_older_than_what_was_heard_is_asked_for_again() -> None:
    """After an unreadable change nothing waits that would show it; consumers were at 20, and must not go back to 18."""
    feed = synced("BTCUSDT")
    (request,) = fetches(feed.received(diff(21, 21).replace(b'"1"', b'"NaN"'), T0))
    assert kinds(out := feed.fetched(request, body(18), T0)) == []
    assert fetches(out) == fetches(feed.received(diff(22, 22), T0)) == []  # no sooner than a second later
    (again,) = fetches(feed.ticked(T0 + SECOND))
    assert kinds(feed.fetched(again, body(22), T0 + SECOND)) == ["BTC-USDT snapshot", "BTC-USDT resynced"]


def test_numbers_that_begin_anew_cost_a_snapshot_and_never_freeze_the_book() -> None:
    """Old changes are left alone, but not when they follow one another: the venue numbers from 1 again."""
    feed = synced("BTCUSDT")
    for _ in range(2 * OLD_RUN_MAX):
        assert kinds(feed.received(diff(20, 20), T0)) == []  # the same again and again proves nothing
    for number in range(1, OLD_RUN_MAX):
        assert kinds(feed.received(diff(number, number), T0)) == []
    out = feed.received(diff(OLD_RUN_MAX, OLD_RUN_MAX), T0)
    assert kinds(out) == ["BTC-USDT clear", "BTC-USDT gap", "BTC-USDT resync"]
    (request,) = fetches(out)
    assert kinds(feed.fetched(request, body(OLD_RUN_MAX), T0)) == ["BTC-USDT snapshot", "BTC-USDT resynced"]


def test_numbers_that_begin_anew_before_the_snapshot_are_the_ones_that_wait() -> None:
    """Or no snapshot would ever join what waits."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(1_000, 1_000), T0))
    for number in range(1, OLD_RUN_MAX + 1):
        assert kinds(feed.received(diff(number, number), T0)) == []
    assert kinds(feed.fetched(request, body(OLD_RUN_MAX), T0)) == ["BTC-USDT snapshot"]
    assert kinds(feed.received(diff(OLD_RUN_MAX + 1, OLD_RUN_MAX + 1), T0)) == ["BTC-USDT update"]


def test_quotes_that_are_numbered_anew_are_told_again() -> None:
    """An old one is left alone; many in a row are a new numbering."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)

    def is_published(number: int) -> bool:
        ticker = {"u": number, "s": "BTCUSDT", "b": "9", "B": "1", "a": "11", "A": "1"}
        frame = json.dumps({"stream": "btcusdt@bookTicker", "data": ticker}).encode()
        return any(isinstance(o, Quote) for o in feed.received(frame, T0))

    assert [is_published(1_000), is_published(999), is_published(1_000), is_published(1_001)] == [
        True,
        False,
        False,
        True,
    ]
    assert [is_published(number) for number in range(1, OLD_RUN_MAX + 3)] == [False] * OLD_RUN_MAX + [True] * 2


def partial(number: int, price: str = "100") -> bytes:
    """Return a book of partial depth."""
    return json.dumps({"stream": "btcusdt@depth5@100ms", "data": {
        "lastUpdateId": number, "bids": [[price, "1"]], "asks": [["101", "1"]]}}).encode()  # fmt: skip


def test_partial_books_are_the_book_until_the_changes_have_theirs() -> None:
    """Each is whole: nothing is asked for, an old one is dropped; one that cannot be read leaves no book."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    said = [feed.received(partial(number), T0) for number in (5, 9, 5, 9)]
    assert [kinds(out) for out in said] == [["BTC-USDT snapshot"], ["BTC-USDT snapshot"], [], []]
    assert kinds(feed.received(partial(10, price="NaN"), T0)) == ["BTC-USDT clear", "BTC-USDT gap", "BTC-USDT resync"]
    assert kinds(feed.received(partial(11), T0)) == ["BTC-USDT snapshot", "BTC-USDT resynced"]
    said = [feed.received(partial(number), T0) for number in range(1, OLD_RUN_MAX + 3)]
    assert [kinds(out) for out in said] == [[]] * OLD_RUN_MAX + [["BTC-USDT snapshot"]] * 2
    feed = synced("BTCUSDT")
    assert feed.received(partial(30), T0) == []
    assert feed.counts["ignored"] == 1


def test_bare_book_is_the_snapshot_that_the_only_symbol_waits_for() -> None:
    """It names no symbol: with several it is nobody's, and it is no change that costs a book."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    feed.received(diff(10, 20), T0)
    assert kinds(feed.received(body(15), T0)) == ["BTC-USDT snapshot", "BTC-USDT update"]
    assert feed.received(body(30), T0) == []
    feed.received(diff(10, 20, "ETHUSDT"), T0)
    (letter,) = feed.received(body(30), T0)
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "no_symbol"


def test_list_of_all_tickers_costs_no_book() -> None:
    """Where streams are bare, that of all symbols is a list."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(10, 20), T0))
    feed.fetched(request, body(15), T0)
    assert feed.received(b'[{"e":"24hrMiniTicker","s":"BTCUSDT"},{"e":"24hrMiniTicker","s":"ETHUSDT"}]', T0) == []
    assert kinds(feed.received(b'[{"e":"depthUpdate","s":"BTCUSDT"}]', T0))[:1] == ["BTC-USDT clear"]


def test_times_may_be_microseconds() -> None:
    """As with `timeUnit=MICROSECOND` ("General WSS information")."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    ms = str(T0 // 1_000_000).encode()
    (trades,) = [o for o in feed.received(trade(1).replace(ms, ms + b"007"), T0) if isinstance(o, Trades)]
    assert trades.trades[0].ts_event == T0 + 7_000


def test_every_change_twice_is_no_new_numbering() -> None:
    """Old changes between new ones are what a second subscription of the same stream brings."""
    feed = synced("BTCUSDT")
    for number in range(21, 21 + 3 * OLD_RUN_MAX):
        assert kinds(feed.received(diff(number, number), T0)) == ["BTC-USDT update"]
        assert kinds(feed.received(diff(number, number), T0)) == []


def test_hole_in_what_waits_makes_every_snapshot_from_before_it_too_old() -> None:
    """21 to 24 never came: 15 joins the first change but not the second."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(10, 20), T0))
    feed.received(diff(25, 30), T0)
    out = feed.fetched(request, body(15), T0)
    assert kinds(out) == []
    (again,) = fetches(out)
    assert kinds(feed.fetched(again, body(24), T0)) == ["BTC-USDT snapshot", "BTC-USDT update"]


def test_change_lost_before_the_snapshot_shows_with_the_next_one() -> None:
    """The snapshot has some of the lost change (21 to 25); until the next comes, it is the book of its update id."""
    feed = make(line="binance_spot/0")
    feed.opened(T0)
    (request,) = fetches(feed.received(diff(10, 20), T0))
    out = feed.fetched(request, body(22), T0)
    assert [(o.kind, o.sequence) for o in out if isinstance(o, BookUpdate)] == [("snapshot", 22)]
    out = feed.received(diff(26, 30), T0)
    assert kinds(out) == ["BTC-USDT clear", "BTC-USDT gap", "BTC-USDT resync"]
    assert [o.expected for o in out if isinstance(o, FeedStatus) and o.kind == "gap"] == [23]


def test_far_levels_stay_unknown_after_a_resync_until_they_are_touched() -> None:
    """The new book is the new snapshot and its changes: a level that only the old book had is not carried over."""
    feed, book = synced("BTCUSDT"), L2Book()
    for event in feed.received(diff(21, 21, price="1"), T0):
        if isinstance(event, BookUpdate):
            apply(book, event)
    (request,) = fetches(feed.received(diff(23, 23, price="2"), T0))
    out = feed.fetched(request, body(22), T0) + feed.received(diff(24, 24, price="3"), T0)
    for event in out:
        if isinstance(event, BookUpdate):
            apply(book, event)
    assert book.bids.top() == [("99", "1"), ("3", "1"), ("2", "1")]


def test_gap_of_one_symbol_leaves_the_others_alone() -> None:
    """One book is cleared, one snapshot asked for, and the gap closed by it."""
    feed = synced("BTCUSDT", "ETHUSDT")
    out = feed.received(diff(22, 25), T0)
    assert kinds(out) == ["BTC-USDT clear", "BTC-USDT gap", "BTC-USDT resync"]
    gap = next(o for o in out if isinstance(o, FeedStatus))
    assert (gap.expected, gap.received) == (21, 22)
    (request,) = fetches(out)
    assert request.symbol == "BTCUSDT"
    assert kinds(feed.received(diff(21, 21, "ETHUSDT"), T0)) == ["ETH-USDT update"]
    assert kinds(feed.received(diff(26, 26), T0)) == []
    out = feed.fetched(request, body(24), T0)
    assert [(o.kind, o.sequence) for o in out if isinstance(o, BookUpdate)] == [
        ("snapshot", 24), ("update", 25), ("update", 26)
    ]  # fmt: skip
    assert kinds(out)[-1] == "BTC-USDT resynced"
    assert feed.counts["gaps"] == 1


def test_old_change_is_dropped_and_counted() -> None:
    """`u` at or below the local one."""
    feed = synced("BTCUSDT")
    assert feed.received(diff(10, 20), T0) == []
    assert feed.counts["duplicates"] == 1


def test_unreadable_change_clears_the_symbol_that_it_names() -> None:
    """The others' books are not touched; garbage that names none clears all."""
    feed = synced("BTCUSDT", "ETHUSDT")
    out = feed.received(diff(21, 21).replace(b'"1"', b'"NaN"'), T0)
    assert kinds(out) == ["BTC-USDT clear", "BTC-USDT gap", "BTC-USDT resync"]
    assert len([o for o in out if isinstance(o, DeadLetter)]) == 1
    assert kinds(feed.received(b"\x00", T0)) == ["ETH-USDT clear", "ETH-USDT gap", "ETH-USDT resync"]


def test_change_that_shows_a_loss_and_cannot_be_waits_for_no_snapshot() -> None:
    """It would be applied behind the next snapshot; then that one would never have been published."""
    feed = synced("BTCUSDT")
    out = feed.received(diff(25, 30, price="-1"), T0)
    assert kinds(out) == ["BTC-USDT clear", "BTC-USDT gap", "BTC-USDT resync"]
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["not_positive"]
    (request,) = fetches(out)
    assert kinds(feed.fetched(request, body(31), T0)) == ["BTC-USDT snapshot", "BTC-USDT resynced"]


def test_skipped_trades_are_asked_for_and_close_their_gap() -> None:
    """REST's last trades fill what is missing, as a repair."""
    feed = synced("BTCUSDT")
    feed.received(trade(1), T0)
    out = feed.received(trade(4), T0)
    (request,) = fetches(out, "trades")
    assert "BTC-USDT gap" in kinds(out)
    answer = json.dumps([{"id": n, "price": "1", "qty": "2", "quoteQty": "2", "time": T0 // 1_000_000,
                          "isBuyerMaker": False, "isBestMatch": True} for n in range(1, 6)]).encode()  # fmt: skip
    out = feed.fetched(request, answer, T0)
    assert [(e.origin, [t.trade_id for t in e.trades]) for e in out if isinstance(e, Trades)] == [
        ("repair", ["2", "3", "5"]), ("live", []), ("repair", []),
    ]  # fmt: skip
    assert "BTC-USDT resynced" in kinds(out)
    assert feed.received(trade(5), T0) == []


def test_requests_of_many_symbols_share_one_budget() -> None:
    """A few at once, 3,000 of weight a minute less the list of products; then the rest."""
    names = tuple(f"A{number}USDT" for number in range(24))
    feed = make(line="binance_spot/0", products=names)
    out = feed.opened(T0)
    feed.fetched(fetches(out, "products")[0], b'{"symbols":[]}', T0)
    pending = [request for name in names for request in fetches(feed.received(diff(1, 2, name), T0))]
    assert len(pending) == UNDER_WAY_MAX
    answered = 0
    while pending:
        answered += 1
        pending += fetches(feed.fetched(pending.pop(0), body(2), T0 + SECOND))
    assert answered == (3_000 - 20) // 250
    assert fetches(feed.ticked(T0 + 2 * SECOND)) == []
    feed.received(diff(3, 3, names[0]), T0 + 61 * SECOND)
    assert len(fetches(feed.ticked(T0 + 62 * SECOND))) <= UNDER_WAY_MAX
    assert feed._requests.waiting


def test_the_benchmark_measures_a_feed_that_has_its_book(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its player answers at the time of the frame that asks: at another one the snapshot would be refused."""
    monkeypatch.setattr(feed_player, "_FRAMES", [])
    frames = [("BINANCE", T0, frame.decode()) for frame in (diff(10, 20), diff(21, 22))]
    address = "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=5000"
    played = feed_player.play(Task("binance_spot", frames, [(address, body(15).decode())]), None, None)
    assert played.books == len(["snapshot", "update", "update"])


def test_quiet_symbol_gets_its_book_without_a_change() -> None:
    """Its snapshot is asked for after a while, and is good at once."""
    feed = make(line="binance_spot/0", products=("BTCUSDT",))
    out = feed.opened(T0)
    assert fetches(feed.ticked(T0 + SECOND)) == []
    assert fetches(feed.ticked(T0 + QUIET_NS + SECOND)) == [], "nothing shows yet that its changes would come"
    acknowledge(feed, out)
    (request,) = fetches(feed.ticked(T0 + QUIET_NS + 2 * SECOND))
    assert kinds(feed.fetched(request, body(7), T0 + 7 * SECOND)) == ["BTC-USDT snapshot"]
    assert kinds(feed.received(diff(8, 9), T0 + 8 * SECOND)) == ["BTC-USDT update"]


def test_quiet_connection_is_probed_and_an_old_one_left() -> None:
    """The probe's answer is a sign of life; after nearly 24 hours the feed asks for a new connection."""
    feed = synced("BTCUSDT")
    out = feed.ticked(T0 + BinanceFeed.ping_ns + SECOND)
    assert [json.loads(o.frame)["method"] for o in out if isinstance(o, Send)] == ["LIST_SUBSCRIPTIONS"]
    assert feed.received(b'{"result":["btcusdt@trade"],"id":0}', T0 + AGE_NS_MAX) == []
    assert [o.reason for o in feed.ticked(T0 + AGE_NS_MAX + SECOND) if isinstance(o, Reconnect)] == ["connection_age"]


def test_products_tell_increments_and_states_but_no_tick_size() -> None:
    """Old orders may rest between the ticks of a new tick size."""
    feed = make(line="binance_spot/0")
    (request,) = fetches(feed.opened(T0), "products")
    filters = [{"filterType": "PRICE_FILTER", "tickSize": "0.01000000"},
               {"filterType": "LOT_SIZE", "stepSize": "0.00001000", "minQty": "0.00002000"}]  # fmt: skip
    listed = {"symbols": [{"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT",
                           "filters": filters}]}  # fmt: skip
    feed.fetched(request, json.dumps(listed).encode(), T0)
    (published,) = [o for o in feed.received(trade(1), T0) if isinstance(o, Instrument)]
    assert (published.tick_size, published.size_increment, published.min_order_size) == (
        None,
        "0.00001000",
        "0.00002000",
    )
    assert (published.symbol, published.base_currency, published.quote_currency, published.status) == (
        "BTC-USDT",
        "BTC",
        "USDT",
        "online",
    )


def test_more_symbols_get_smaller_snapshots() -> None:
    """So that all books are there within two minutes of the budget: levels beyond stay unknown until touched."""
    for count, levels in ((1, 5_000), (24, 5_000), (25, 1_000), (120, 1_000), (300, 100), (341, 100)):
        names = tuple(f"A{number}USDT" for number in range(count))
        feed = make(line="binance_spot/0", products=names)
        feed.opened(T0)
        (request,) = fetches(feed.received(diff(1, 2, names[0]), T0))
        assert request.path.endswith(f"limit={levels}"), count
        assert request.weight * count <= 2 * 3_000


def test_streams_of_many_symbols_are_spread_over_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection carries 1,024 streams ("WebSocket Streams for Binance"), of which each symbol takes three."""
    monkeypatch.setenv("TICKSTREAM_VENUE", "binance_spot")
    monkeypatch.setenv("BINANCE_SPOT_PRODUCTS", ",".join(f"A{number}USDT" for number in range(400)))
    settings, venue = load_for_venue()
    parts = settings.streams_of(venue)
    assert [len(part.products or ()) for part in parts] == [341, 59]
    for part in parts:
        feed = make(line=part.name, products=part.products)
        orders = [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]
        assert sum(len(order["params"]) for order in orders) <= 1_024
        assert len({order["id"] for order in orders}) == len(orders)


# --- Subscriptions ---


def statuses(out: list[Output]) -> list[tuple[str, str, str | None, str]]:
    """Return kind, symbol, channel and reason of the statuses among these outputs."""
    return [(o.kind, o.symbol, o.channel, o.reason) for o in out if isinstance(o, FeedStatus)]


def test_a_refused_subscription_is_on_the_ledger() -> None:
    """The venue's code and text are in the status, not only in a dead letter; the other channels stay."""
    feed = make(line="binance_spot/0", products=("BTCUSDT",))
    orders = {order["params"][0].partition("@")[2]: order for order in
              [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]}  # fmt: skip
    error = {"error": {"code": 2, "msg": "Invalid request: too many parameters"}, "id": orders["trade"]["id"]}
    out = feed.received(json.dumps(error).encode(), T0)
    assert statuses(out) == [
        ("unsubscribed", "BTC-USDT", "trade", "refused"), ("gap", "BTC-USDT", "trade", "unsubscribed")]  # fmt: skip
    (status,) = [o for o in out if isinstance(o, FeedStatus) and o.kind == "unsubscribed"]
    assert "Invalid request" in status.detail
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["venue_error"]
    assert [(o.symbol, o.valid) for o in out if isinstance(o, Trades)] == [("BTC-USDT", False)]
    for channel in ("bookTicker", "depth@100ms"):
        assert feed.received(f'{{"result":null,"id":{orders[channel]["id"]}}}'.encode(), T0) == []


def test_a_subscription_without_an_answer_is_on_the_ledger_and_requested_again() -> None:
    """Trades may not flow although quotes do: after ten seconds that is stated."""
    feed = make(line="binance_spot/0", products=("BTCUSDT",))
    feed.opened(T0)
    out = feed.ticked(T0 + 15 * SECOND)
    assert {(kind, channel) for kind, _, channel, _ in statuses(out) if kind == "unsubscribed"} == {
        ("unsubscribed", channel) for channel in ("trade", "bookTicker", "depth@100ms")}  # fmt: skip
    feed.received(b'{"stream":"x@y","data":{"e":"other"}}', T0 + 60 * SECOND)
    again = feed.ticked(T0 + 80 * SECOND)
    assert ("subscribed", "BTC-USDT", "trade", "") in statuses(acknowledge(feed, again))


def test_a_symbol_that_the_venue_does_not_list_counts_as_refused() -> None:
    """The venue acknowledges streams of any name, and never sends anything of an unknown one."""
    feed = make(line="binance_spot/0", products=("BTCUSDT", "NOSUCHUSDT"))
    out = feed.opened(T0)
    (request,) = fetches(out, "products")
    acknowledge(feed, out)
    listed = json.dumps({"symbols": [{"symbol": "BTCUSDT", "status": "TRADING"}]}).encode()
    out = feed.fetched(request, listed, T0)
    assert {(kind, symbol) for kind, symbol, _, _ in statuses(out)} == {
        ("unsubscribed", "NOSUCH-USDT"), ("gap", "NOSUCH-USDT")}  # fmt: skip
    feed.received(b'{"stream":"x@y","data":{"e":"other"}}', T0 + 70 * SECOND)
    again = feed.ticked(T0 + 80 * SECOND)
    assert [json.loads(o.frame)["params"] for o in again if isinstance(o, Send) and o.frame != feed.ping] == [
        [f"nosuchusdt@{channel}"] for channel in ("trade", "bookTicker", "depth@100ms")]  # fmt: skip
    assert not statuses(acknowledge(feed, again))
    assert not statuses(feed.fetched(request, b'{"symbols":[]}', T0))  # an empty list shows nothing


def test_one_bad_trade_of_rest_does_not_cost_the_others() -> None:
    """It is a dead letter; what the page lacks stays on the ledger, and its other trades are published."""
    feed = synced("BTCUSDT")
    feed.received(trade(1), T0)
    out = feed.received(trade(5), T0)
    (request,) = fetches(out, "trades")
    assert [(o.kind, o.expected, o.received) for o in out if isinstance(o, FeedStatus)] == [("gap", 2, 5)]
    row = {"price": "1", "qty": "1", "time": T0 // 1_000_000, "isBuyerMaker": True}
    rows = [row | {"id": number} for number in (1, 2, 3, 4, 5)]
    rows[2] |= {"price": "0.00000000"}
    out = feed.fetched(request, json.dumps(rows).encode(), T0)
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["2", "4"]
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["not_positive"]
    assert not statuses(out)  # the gap stays open
