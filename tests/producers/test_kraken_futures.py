"""The Kraken Futures feed tells the truth about the recording, computed a second way, and keeps its rules."""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from marketdata.book import L2Book
from marketdata.events import (
    HIGH_LOW,
    OPEN_CLOSE,
    AnyEvent,
    BookUpdate,
    DeadLetter,
    Derivative,
    FeedStatus,
    Instrument,
    Quote,
    Trades,
)
from marketdata.feed import Output, Reconnect, Send
from producers.venues.kraken_futures.feed import KrakenFuturesFeed
from producers.venues.kraken_futures.names import describe
from runtime import recordings
from runtime.recordings import Recorded
from tickstream.pipe import Connections

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "kraken_futures.jsonl.zst"
SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
T0_MS = T0 // 1_000_000
NAME = "PI_XBTUSD"


@pytest.fixture(scope="module")
def recorded() -> list[Recorded]:
    """The recording's lines: one connection."""
    if not RECORDING.exists():
        pytest.skip(f"the recordings are absent: no {RECORDING}")
    return list(recordings.read(RECORDING))


@pytest.fixture(scope="module")
def played(recorded: list[Recorded]) -> tuple[Counter[str], list[AnyEvent]]:
    """The feed's counts, and all that it said."""
    connections = Connections("kraken_futures")
    events = [event for line in recorded for event in connections.play(line, "")]
    (feed,) = connections.feeds
    return Counter(getattr(feed, "counts", {})), events


@pytest.fixture(scope="module")
def sent(recorded: list[Recorded]) -> list[dict[str, Any]]:
    """The frames as JSON values whose numbers are Decimals."""
    return [json.loads(line.data, parse_float=Decimal) for line in recorded if line.t == "recv"]


def ours(name: str) -> str:
    """Return our symbol of a product, the names of the recording spelt out."""
    contract, pair, *maturity = name.split("_")
    base = {"XBT": "BTC"}.get(pair[:3], pair[:3])
    return "-".join([base, "USD", contract, *maturity])


# --- The recording ---


def test_nothing_of_the_recording_is_refused_or_missing(played: tuple[Counter[str], list[AnyEvent]]) -> None:
    """7,175 frames; `seq` without gaps over 7,014 changes of ten books; 1,000 trades of snapshots and 3 live ones."""
    counts, events = played
    names = ("frames", "snapshots", "book_updates", "trades", "quotes", "subscriptions")
    assert [counts[name] for name in names] == [7175, 10, 7014, 1003, 107, 30]
    assert [counts[name] for name in ("gaps", "dead_letters", "duplicates", "deltas_before_snapshot")] == [0] * 4
    assert {event.kind for event in events if isinstance(event, FeedStatus)} == {"connected"}


def test_each_change_has_its_sequence_and_time(
    played: tuple[Counter[str], list[AnyEvent]], sent: list[dict[str, Any]]
) -> None:
    """Both are the venue's, frame by frame."""
    expected = [(ours(frame["product_id"]), frame["seq"], frame["timestamp"] * 1_000_000)
                for frame in sent if frame.get("feed") in {"book", "book_snapshot"} and "seq" in frame]  # fmt: skip
    got = [(e.symbol, e.sequence, e.ts_event) for e in played[1] if isinstance(e, BookUpdate)]
    assert got == expected


def test_final_books_equal_ones_computed_independently(
    played: tuple[Counter[str], list[AnyEvent]], sent: list[dict[str, Any]]
) -> None:
    """Plain dicts of Decimals, filled from the raw frames, give the same levels as the events do."""
    expected: dict[tuple[str, str], dict[Decimal, Decimal]] = {}
    for frame in sent:
        symbol = ours(frame.get("product_id", "PI_XBTUSD"))
        if frame.get("feed") == "book_snapshot" and "seq" in frame:
            for side, name in (("buy", "bids"), ("sell", "asks")):
                expected[symbol, side] = {level["price"]: level["qty"] for level in frame[name]}
        elif frame.get("feed") == "book" and "seq" in frame:
            expected[symbol, frame["side"]][frame["price"]] = frame["qty"]
    books: dict[str, L2Book] = {}
    for event in played[1]:
        if isinstance(event, BookUpdate) and event.kind in {"snapshot", "update"}:
            book = books.setdefault(event.symbol, L2Book())
            for side_of, prices, sizes in ((book.bids, event.bid_prices, event.bid_sizes),
                                           (book.asks, event.ask_prices, event.ask_sizes)):  # fmt: skip
                (side_of.replace if event.kind == "snapshot" else side_of.apply)(prices, sizes)
    got = {
        (symbol, name): {Decimal(price): Decimal(size) for price, size in levels.top()}
        for symbol, book in books.items()
        for name, levels in (("buy", book.bids), ("sell", book.asks))
    }
    assert got == {side: {price: size for price, size in levels.items() if size} for side, levels in expected.items()}
    assert len(got) == 20


def test_trades_come_once_oldest_first_with_the_takers_side(
    played: tuple[Counter[str], list[AnyEvent]], sent: list[dict[str, Any]]
) -> None:
    """Kraken documents `side` as that of the taker ("Futures WebSockets", trade): it is the aggressor's."""
    expected: dict[str, list[tuple[Any, ...]]] = {}
    for frame in sent:
        trades = frame.get("trades", [frame] if frame.get("feed") == "trade" and "uid" in frame else ())
        for trade in sorted(trades, key=lambda trade: int(trade["seq"])):
            expected.setdefault(ours(trade["product_id"]), []).append(
                (trade["uid"], str(trade["price"]), str(trade["qty"]), trade["side"], trade["time"] * 1_000_000)
            )
    got: dict[str, list[tuple[Any, ...]]] = {}
    for event in played[1]:
        if isinstance(event, Trades):
            got.setdefault(event.symbol, []).extend(
                (trade.trade_id, trade.price, trade.size, trade.side, trade.ts_event) for trade in event.trades
            )
    assert got == expected
    assert sum(map(len, got.values())) == 1003


def test_tickers_become_quotes(played: tuple[Counter[str], list[AnyEvent]], sent: list[dict[str, Any]]) -> None:
    """Numbers digit for digit; `ticker_lite` has no sizes."""
    expected = [(ours(f["product_id"]), str(f["bid"]), str(f["ask"]), str(f["volume"]), None)
                for f in sent if f.get("feed") == "ticker_lite" and "bid" in f]  # fmt: skip
    got = [(q.symbol, q.bid, q.ask, q.volume_24h, q.bid_size) for q in played[1] if isinstance(q, Quote)]
    assert got == expected


def test_products_are_announced_with_their_increments(played: tuple[Counter[str], list[AnyEvent]]) -> None:
    """The REST answer came first; the kind of contract and its maturity are a part of the symbol."""
    told = {event.venue_symbol: event for event in played[1] if isinstance(event, Instrument)}
    assert len(told) == 10
    perpetual, future = told["PI_ETHUSD"], told["FI_XBTUSD_210924"]
    assert (perpetual.symbol, perpetual.kind, perpetual.status) == ("ETH-USD-PI", "perpetual", "online")
    assert (perpetual.tick_size, perpetual.size_increment) == ("0.05", "1")
    assert (future.symbol, future.kind, future.base_currency) == ("BTC-USD-FI-210924", "future", "BTC")
    for one, expiry in ((perpetual, None), (future, 1_632_495_600_000_000_000)):
        assert (one.expiry, one.contract_multiplier, one.inverse) == (expiry, "1", True)
        assert one.settlement_currency == one.base_currency


# --- Frames made by hand ---


def snapshot(seq: int = 10, name: str = NAME) -> bytes:
    """Return a small book."""
    return json.dumps({"feed": "book_snapshot", "product_id": name, "timestamp": T0_MS, "seq": seq, "tickSize": None,
                       "bids": [{"price": 100.0, "qty": 1.0}], "asks": [{"price": 101.5, "qty": 2.0}]},
                      separators=(",", ":")).encode()  # fmt: skip


def beat(ms: int) -> bytes:
    """Return a heartbeat."""
    return f'{{"feed":"heartbeat","time":{ms}}}'.encode()


def change(seq: int, price: str = "100.5", qty: str = "3.0", name: str = NAME, ms: int = T0_MS) -> bytes:
    """Return a change of one bid."""
    return (f'{{"feed":"book","product_id":"{name}","side":"buy","seq":{seq},"price":{price},"qty":{qty},'
            f'"timestamp":{ms + seq}}}').encode()  # fmt: skip


def trade(seq: int) -> dict[str, Any]:
    """Return a trade as JSON values."""
    return {"feed": "trade", "product_id": NAME, "uid": f"uid-{seq}", "side": "sell", "type": "fill",
            "seq": seq, "time": T0_MS + seq, "qty": 5.0, "price": 100.0}  # fmt: skip


def trades(*seqs: int) -> bytes:
    """Return a snapshot of trades, newest first."""
    return json.dumps({"feed": "trade_snapshot", "product_id": NAME,
                       "trades": [trade(seq) for seq in sorted(seqs, reverse=True)]}).encode()  # fmt: skip


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
                order = json.loads(output.frame)
                lines.append(f"{order['event']} {order['feed']} {','.join(order.get('product_ids', ()))}".strip())
            case Reconnect():
                lines.append(f"reconnect {output.reason}")
            case DeadLetter():
                lines.append(f"dead {output.reason}")
            case _:
                lines.append(type(output).__name__)
    return lines


@pytest.fixture
def feed() -> KrakenFuturesFeed:
    """A feed of one product whose connection is up."""
    feed = KrakenFuturesFeed(line="kraken_futures/0", products=("pi_xbtusd",))
    feed.opened(T0)
    return feed


def test_subscribes_each_feed_by_the_venues_names() -> None:
    """REST writes products small, the WebSocket large."""
    out = KrakenFuturesFeed(line="kraken_futures/0", products=("pi_xbtusd",)).opened(T0)
    assert story(out)[1:-1] == [
        "subscribe heartbeat", "subscribe book PI_XBTUSD", "subscribe trade PI_XBTUSD", "subscribe ticker PI_XBTUSD",
    ]  # fmt: skip


def test_numbers_keep_every_digit(feed: KrakenFuturesFeed) -> None:
    """No float in between, no exponent after."""
    feed.received(snapshot(), T0)
    (update,) = feed.received(change(11, price="0.12345678901234567890", qty="1e-7"), T0)
    assert isinstance(update, BookUpdate)
    assert (update.bid_prices, update.bid_sizes) == (["0.12345678901234567890"], ["0.0000001"])


def test_skipped_sequence_clears_the_book_of_its_product_alone(feed: KrakenFuturesFeed) -> None:
    """Numbers are per product; the book is subscribed again and its snapshot closes the gap."""
    feed = KrakenFuturesFeed(line="kraken_futures/0")
    feed.opened(T0)
    feed.received(snapshot(), T0)
    feed.received(snapshot(70, "FI_XBTUSD_210924"), T0)
    assert story(feed.received(change(11), T0)) == ["BTC-USD-PI update"]
    out = feed.received(change(13), T0)
    assert story(out) == [
        "BTC-USD-PI clear gap", "BTC-USD-PI gap gap", "unsubscribe book PI_XBTUSD", "subscribe book PI_XBTUSD",
        "BTC-USD-PI resync gap",
    ]  # fmt: skip
    gap = out[1]
    assert isinstance(gap, FeedStatus)
    assert (gap.expected, gap.received) == (12, 13)
    assert feed.received(change(14), T0) == [], "no book to change"
    assert story(feed.received(change(71, name="FI_XBTUSD_210924"), T0)) == ["BTC-USD-FI-210924 update"]
    assert story(feed.received(snapshot(20), T0)) == ["BTC-USD-PI snapshot", "BTC-USD-PI resynced"]
    assert story(feed.received(change(21), T0)) == ["BTC-USD-PI update"]


def test_old_change_is_dropped(feed: KrakenFuturesFeed) -> None:
    """What the snapshot already holds, or came before, says nothing."""
    feed.received(snapshot(), T0)
    assert feed.received(change(10), T0) == []
    feed.received(change(11), T0)
    assert feed.received(change(11), T0) == []
    assert feed.counts["duplicates"] == 2


def test_third_loss_within_a_minute_reconnects(feed: KrakenFuturesFeed) -> None:
    """A connection that keeps losing is given up."""
    told = []
    for seq in (10, 20, 30):
        feed.received(snapshot(seq), T0)
        told += story(feed.received(change(seq + 5), T0))
    assert told[-1] == "reconnect gaps"


def test_skipped_trade_is_asked_for_and_filled(feed: KrakenFuturesFeed) -> None:
    """Trades have numbers of their own; ids are the venue's uids."""
    assert story(feed.received(trades(1, 2), T0)) == ["Instrument", "trades uid-1,uid-2"]
    out = feed.received(json.dumps(trade(4)).encode(), T0)
    assert story(out) == [
        "trades  gap", "trades uid-4 gap", "BTC-USD-PI gap gap", "unsubscribe trade PI_XBTUSD",
        "subscribe trade PI_XBTUSD", "BTC-USD-PI resync trade_gap",
    ]  # fmt: skip
    out = feed.received(trades(1, 2, 3, 4), T0)
    assert story(out) == ["trades uid-3", "trades", "trades", "BTC-USD-PI resynced"]
    repair = out[0]
    assert isinstance(repair, Trades)
    assert (repair.origin, [t.trade_id for t in repair.trades]) == ("repair", ["uid-3"])
    assert repair.trades[0].side == "sell"


def test_trade_of_a_snapshot_that_cannot_be_read_stays_on_the_ledger(feed: KrakenFuturesFeed) -> None:
    """The venue did list it: its number is no proof that there was no such trade."""
    feed.received(json.dumps(trade(5)).encode(), T0)
    (gap,) = [o for o in feed.received(json.dumps(trade(8)).encode(), T0) if isinstance(o, FeedStatus)][:1]
    out = feed.received(trades(5, 6, 7, 8).replace(b'"uid-6"', b"6"), T0)
    assert [t.trade_id for o in out if isinstance(o, Trades) for t in o.trades] == ["uid-7"]
    assert not [o for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"]
    out = feed.received(trades(5, 6, 7, 8), T0)
    assert [o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"] == [gap.gap_id]


def test_trades_that_are_numbered_anew_are_no_duplicates(feed: KrakenFuturesFeed) -> None:
    """Lower numbers on newer trades are a new numbering; what may be missing between the two stays on the ledger."""
    for seq in range(100, 110):
        feed.received(json.dumps(trade(seq)).encode(), T0)
    told: list[Output] = []
    for _ in range(2):
        for seq in range(100, 110):
            told += feed.received(json.dumps(trade(seq)).encode(), T0)
    assert told == []  # the same again and again proves nothing
    for seq in range(1, 12):
        told += feed.received(json.dumps(trade(seq) | {"uid": f"new-{seq}", "time": T0_MS + 1_000 + seq}).encode(), T0)
    assert [t.trade_id for o in told if isinstance(o, Trades) for t in o.trades] == [f"new-{n}" for n in range(1, 12)]
    assert {o.origin for o in told if isinstance(o, Trades)} == {"live"}
    assert [(o.kind, o.channel) for o in told if isinstance(o, FeedStatus)] == [("gap", "trade")]


def test_heartbeat_vouches_up_to_a_second_before_it(feed: KrakenFuturesFeed) -> None:
    """It has the venue's time."""
    feed.received(snapshot(), T0)
    feed.received(trades(1), T0)
    out = feed.received(beat(T0_MS + 2_000), T0)
    assert story(out) == ["trades", "BTC-USD-PI heartbeat"]
    assert [event.ts_event for event in out if isinstance(event, Trades | BookUpdate)] == [T0 + SECOND] * 2


def test_heartbeat_vouches_for_no_trades_while_some_may_be_missing(feed: KrakenFuturesFeed) -> None:
    """After a lost connection the snapshot of the last trades comes first."""
    feed.received(json.dumps(trade(7)).encode(), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    assert not [o for o in feed.received(beat(T0_MS + 5_000), T0) if isinstance(o, Trades)]
    feed.received(trades(6, 7, 8), T0)
    assert [o.trades for o in feed.received(beat(T0_MS + 5_000), T0) if isinstance(o, Trades)] == [()]


def test_suspended_product_is_halted_in_each_stream(feed: KrakenFuturesFeed) -> None:
    """The ticker tells it, and when it is over."""
    feed.received(snapshot(), T0)
    ticker = {"feed": "ticker", "product_id": NAME, "bid": 100.0, "ask": 101.5, "bid_size": 1.0, "ask_size": 2.0,
              "last": 101.0, "volume": 7, "time": T0_MS, "suspended": True}  # fmt: skip
    out = feed.received(json.dumps(ticker).encode(), T0)
    assert story(out) == ["Instrument", "BTC-USD-PI halted halted", "trades  halted",
                          "BTC-USD-PI heartbeat halted", "Quote"]  # fmt: skip
    quote = out[-1]
    assert isinstance(quote, Quote)
    assert (quote.bid_size, quote.volume_24h, quote.valid) == ("1.0", "7", False)
    out = feed.received(json.dumps(ticker | {"suspended": False}).encode(), T0)
    assert "BTC-USD-PI resumed online" in story(out)


@pytest.mark.parametrize(("wrong", "reason"), [
    ({"price": '"NaN"'}, "not_a_decimal"), ({"qty": "-3.0"}, "negative"),
])  # fmt: skip
def test_impossible_change_is_a_gap_of_its_product(feed: KrakenFuturesFeed, wrong: dict[str, Any], reason: str) -> None:
    """The book missed it."""
    feed.received(snapshot(), T0)
    out = feed.received(change(11, **wrong), T0)
    assert story(out)[:3] == [f"dead {reason}", "BTC-USD-PI clear gap", "BTC-USD-PI gap gap"]


@pytest.mark.parametrize("name", ["fills", "fills_snapshot", "open_orders_snapshot", "balances_snapshot"])
def test_feeds_of_an_account_are_left_alone(feed: KrakenFuturesFeed, name: str) -> None:
    """Whoever recorded them; they tell nothing of the market."""
    assert feed.received(json.dumps({"feed": name, "account": "a", name: []}).encode(), T0) == []
    assert feed.counts["ignored"] == 1


def test_refusals_and_alerts_are_dead_letters(feed: KrakenFuturesFeed) -> None:
    """The venue says why."""
    for event in ("error", "alert"):
        out = feed.received(json.dumps({"event": event, "message": "Invalid product id"}).encode(), T0)
        (letter,) = [output for output in out if isinstance(output, DeadLetter)]
        assert (letter.reason, letter.value) == ("venue_error", "Invalid product id")


@pytest.mark.parametrize(("kind", "conditions", "excluded"), [
    ("fill", (), ()), ("liquidation", ("liquidation",), ()), ("block", ("block",), (HIGH_LOW, OPEN_CLOSE)),
    ("assignment", ("assignment",), (HIGH_LOW, OPEN_CLOSE)),
    ("termination", ("termination",), (HIGH_LOW, OPEN_CLOSE)), ("new_kind", ("new_kind",), ()),
])  # fmt: skip
def test_type_of_a_trade_is_its_condition(
    feed: KrakenFuturesFeed, kind: str, conditions: tuple[str, ...], excluded: tuple[str, ...]
) -> None:
    """A fill has none. What is not matched in the book sets no price of a candle; it counts in the volume."""
    out = feed.received(json.dumps(trade(1) | {"type": kind}).encode(), T0)
    (sent,) = [one for event in out if isinstance(event, Trades) for one in event.trades]
    assert (sent.conditions, sent.excluded_from) == (conditions, excluded)
    assert sent.liquidation == (kind == "liquidation")


def test_liquidations_are_published_once_each(feed: KrakenFuturesFeed) -> None:
    """From single trades, from snapshots and from repairs; the side is that of the order that liquidates."""
    forced = json.dumps(trade(2) | {"type": "liquidation"}).encode()
    listed = trades(1, 2, 3).replace(b'"uid-3", "side": "sell", "type": "fill"',
                                     b'"uid-3", "side": "sell", "type": "liquidation"')  # fmt: skip
    out = [event for frame in (forced, forced, listed, listed) for event in feed.received(frame, T0)]
    found = [one for event in out if isinstance(event, Derivative) for one in event.liquidations]
    assert [(one.liquidation_id, one.side, one.price, one.size) for one in found] == [
        ("uid-2", "sell", "100.0", "5.0"), ("uid-3", "sell", "100.0", "5.0"),
    ]  # fmt: skip
    assert [one.ts_event for one in found] == [(T0_MS + 2) * 1_000_000, (T0_MS + 3) * 1_000_000]


# The example of the document "Ticker", at our time.
TICKER = (
    f'{{"time":{T0_MS},"product_id":"PI_XBTUSD","funding_rate":-6.2604214e-11,'
    '"funding_rate_prediction":-3.65989977e-10,"relative_funding_rate":-1.380384722222e-6,'
    f'"relative_funding_rate_prediction":-8.047629166667e-6,"next_funding_rate_time":{T0_MS + 1_800_000},'
    '"feed":"ticker","bid":21978.5,"ask":21987.0,"bid_size":2536.0,"ask_size":13948.0,"volume":31403908.0,"dtm":0,'
    '"leverage":"50x","index":21984.54,"premium":-0.0,"last":21983.5,"change":1.9974017538161748,"suspended":false,'
    '"tag":"perpetual","pair":"XBT:USD","openInterest":30072580.0,"markPrice":21979.68641534714,"maturityTime":0,'
    '"post_only":false,"volumeQuote":31403908.0,"open":21968.5,"high":22123.0,"low":21456.0}'
)


def test_documented_ticker_is_a_quote_and_a_derivative(feed: KrakenFuturesFeed) -> None:
    """Every digit as the venue wrote it; the funding rates are the relative ones."""
    out = feed.received(TICKER.encode(), T0)
    (quote,) = [event for event in out if isinstance(event, Quote)]
    assert (quote.bid, quote.bid_size, quote.high_24h, quote.low_24h) == ("21978.5", "2536.0", "22123.0", "21456.0")
    (sent,) = [event for event in out if isinstance(event, Derivative)]
    assert (sent.mark_price, sent.index_price, sent.open_interest) == ("21979.68641534714", "21984.54", "30072580.0")
    assert (sent.funding_rate, sent.predicted_funding_rate) == ("-0.000001380384722222", "-0.000008047629166667")
    assert (sent.ts_event, sent.next_funding_ts) == (T0, T0 + 1_800 * SECOND)
    unknown = (sent.funding_interval, sent.open_interest_value, sent.delta, sent.mark_iv, sent.underlying_price)
    assert unknown == (None,) * 5
    assert sent.liquidations == ()


def test_funding_rate_that_is_left_out_is_zero_only_where_funding_is_due(feed: KrakenFuturesFeed) -> None:
    """Kraken leaves a rate of zero out; a contract with a maturity has none at all, and `ticker_lite` no field."""
    no_rates = re.sub(r'"(relative_)?funding_rate(_prediction)?":[^,]*,', "", TICKER)
    (sent,) = [event for event in feed.received(no_rates.encode(), T0) if isinstance(event, Derivative)]
    assert (sent.funding_rate, sent.predicted_funding_rate) == ("0", None)
    no_funding = re.sub(r'"next_funding_rate_time":\d+,', "", no_rates)
    (sent,) = [event for event in feed.received(no_funding.encode(), T0) if isinstance(event, Derivative)]
    assert (sent.funding_rate, sent.next_funding_ts) == (None, None)
    lite = b'{"feed":"ticker_lite","product_id":"PI_XBTUSD","bid":1.0,"ask":2.0,"volume":3.0,"tag":"perpetual"}'
    assert not [event for event in feed.received(lite, T0) if isinstance(event, Derivative)]


def test_bad_value_of_a_ticker_costs_no_other(feed: KrakenFuturesFeed) -> None:
    """A value that no event may hold is a dead letter of its own."""
    bad = TICKER.replace('"openInterest":30072580.0', '"openInterest":-1.0')
    out = feed.received(bad.encode(), T0)
    (sent,) = [event for event in out if isinstance(event, Derivative)]
    assert (sent.open_interest, sent.index_price) == (None, "21984.54")
    assert [(o.reason, o.field) for o in out if isinstance(o, DeadLetter)] == [("negative", "open_interest")]


@pytest.mark.parametrize("later", [1, 2, 5])
def test_old_snapshot_that_comes_again_does_not_replace_a_newer_book(feed: KrakenFuturesFeed, later: int) -> None:
    """Neither its number nor its time is newer, and nothing asked for it: the book goes on."""
    feed.received(snapshot(), T0)
    for seq in range(11, 11 + later):
        feed.received(change(seq, price=f"{90 + seq}.5"), T0)
    assert feed.received(snapshot(), T0) == []
    assert feed.counts["duplicates"] == 1
    assert story(feed.received(change(11 + later), T0)) == ["BTC-USD-PI update"]


def test_old_snapshot_does_not_answer_the_request_after_a_loss(feed: KrakenFuturesFeed) -> None:
    """The book stays lost until a snapshot comes that is newer than what was lost."""
    feed.received(snapshot(), T0)
    feed.received(change(11), T0)
    assert "BTC-USD-PI clear gap" in story(feed.received(change(13), T0))
    assert feed.received(snapshot(), T0) == []
    assert story(feed.received(snapshot(14), T0)) == ["BTC-USD-PI snapshot", "BTC-USD-PI resynced"]


def test_snapshot_of_lower_numbers_and_a_newer_time_is_a_reset(feed: KrakenFuturesFeed) -> None:
    """The venue numbers from the start again: its newest book counts."""
    feed.received(snapshot(), T0)
    reset = json.loads(snapshot(1)) | {"timestamp": T0_MS + 60_000}
    later = T0 + 60 * SECOND
    assert story(feed.received(json.dumps(reset).encode(), later)) == ["BTC-USD-PI snapshot"]
    assert story(feed.received(change(2, ms=T0_MS + 60_000), later)) == ["BTC-USD-PI update"]


def test_new_connection_may_begin_with_any_number(feed: KrakenFuturesFeed) -> None:
    """Numbers of an earlier connection say nothing about this one's first snapshot."""
    feed.received(snapshot(), T0)
    feed.closed("reset", T0)
    feed.opened(T0)
    assert "BTC-USD-PI snapshot" in story(feed.received(snapshot(5), T0))


@pytest.mark.parametrize(("name", "symbol", "kind", "settled_in"), [
    ("PI_XBTUSD", "BTC-USD-PI", "perpetual", "BTC"), ("FI_ETHUSD_211231", "ETH-USD-FI-211231", "future", "ETH"),
    ("PF_XBTUSD", "BTC-USD-PF", "perpetual", None), ("FF_XBTUSD_261225", "BTC-USD-FF-261225", "future", None),
    ("PF_TSLAXUSD", "TSLAX-USD-PF", "perpetual", None),
])  # fmt: skip
def test_name_of_a_contract_shows_its_kind(name: str, symbol: str, kind: str, settled_in: str | None) -> None:
    """PI and FI are inverse, PF and FF linear; FI and FF have a maturity."""
    found = describe(name)
    assert (found.symbol, found.kind, found.settlement_currency) == (symbol, kind, settled_in)
    assert found.inverse == (settled_in is not None)


def test_contract_is_delisted_when_it_stops_trading(feed: KrakenFuturesFeed) -> None:
    """Its maturity comes from the ticker or from REST; the venue sends nothing at that moment."""
    name = "FI_XBTUSD_210924"
    feed = KrakenFuturesFeed(line="kraken_futures/0", products=(name,))
    feed.opened(T0)
    feed.received(snapshot(name=name), T0)
    ticker = {"feed": "ticker", "product_id": name, "bid": 1.0, "time": T0_MS, "maturityTime": T0_MS + 5_000}
    feed.received(json.dumps(ticker).encode(), T0)
    feed.received(beat(T0_MS + 4_999), T0 + 4 * SECOND)
    assert feed.ticked(T0 + 5 * SECOND) == []
    feed.received(beat(T0_MS + 5_000), T0 + 5 * SECOND)
    told = feed.ticked(T0 + 6 * SECOND)
    assert story(told)[:2] == ["Instrument", "BTC-USD-FI-210924 halted delisted"]
    assert feed.ticked(T0 + 7 * SECOND) == []


def subscribed(feed: str, *names: str) -> bytes:
    """Return an acknowledgement."""
    return json.dumps({"event": "subscribed", "feed": feed, "product_ids": names}).encode()


@pytest.mark.parametrize("is_whole", [True, False])
def test_refused_contract_costs_no_other(*, is_whole: bool) -> None:
    """An error names no contract, whether the venue refuses the whole message or one contract of it."""
    names = ("PI_XBTUSD", "PI_NOSUCHUSD", "PI_ETHUSD")
    feed = KrakenFuturesFeed(line="kraken_futures/0", products=names)
    feed.opened(T0)
    error = b'{"event":"error","message":"Invalid product id"}'
    if not is_whole:
        feed.received(subscribed("book", names[0]), T0)
    out = feed.received(error, T0)
    alone = [json.loads(o.frame)["product_ids"] for o in out if isinstance(o, Send)]
    assert alone == [[name] for name in names[not is_whole :]]
    if not is_whole:
        feed.received(subscribed("book", names[2]), T0)
    for name in ("trade", "ticker"):
        feed.received(subscribed(name, *names), T0)
    told: list[Output] = []
    for (name,) in alone:
        told += feed.received(error if name == names[1] else subscribed("book", name), T0)
    assert [(o.kind, o.channel, o.symbol) for o in told if isinstance(o, FeedStatus)] == [
        ("unsubscribed", "book", "NOSUCH-USD-PI"), ("gap", "book", "NOSUCH-USD-PI"),
    ]  # fmt: skip


def test_heartbeat_vouches_for_no_trades_without_an_acknowledgement(feed: KrakenFuturesFeed) -> None:
    """Silence of a feed that may not be subscribed says nothing."""
    feed.received(snapshot(), T0)
    assert story(feed.received(beat(T0_MS + 2_000), T0)) == ["BTC-USD-PI heartbeat"]
    feed.received(subscribed("trade", NAME), T0)
    assert story(feed.received(beat(T0_MS + 3_000), T0)) == ["trades", "BTC-USD-PI heartbeat"]


def test_snapshot_of_a_quiet_market_proves_the_subscription(feed: KrakenFuturesFeed) -> None:
    """It is as old as the last change; that the book was sent again is what counts."""
    for name in ("book", "trade", "ticker"):
        feed.received(subscribed(name, NAME), T0)
    feed.received(snapshot(), T0)
    feed.received(change(12), T0)
    feed.received(subscribed("book", NAME), T0)
    feed.received(snapshot(12), T0)
    told: list[Output] = []
    for second in range(1, 60):
        told += feed.received(beat(T0_MS + second * 1_000), T0 + second * SECOND)
        told += feed.ticked(T0 + second * SECOND)
    assert not [o for o in told if isinstance(o, FeedStatus | Send)]


def test_unknown_contract_names_are_refused(feed: KrakenFuturesFeed) -> None:
    """A name that is no contract becomes no symbol."""
    (letter,) = KrakenFuturesFeed(line="kraken_futures/0").received(snapshot(name="XBT/USD"), T0)
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "bad_symbol"
