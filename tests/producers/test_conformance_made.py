"""What test_conformance.py holds recorded venues to, held for what has no recorded connection, by messages made here.

A wrong value anywhere: the feed never raises, tells nothing that ingest would refuse, and asks for every book that it
clears, or, of a file, which cannot be asked, has it on the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from decimal import Decimal
from typing import Any, NamedTuple
from zlib import crc32

import databento_dbn as codec
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import dbn
from marketdata.codec import Codec
from marketdata.events import EVENTS, BookUpdate, DeadLetter, FeedStatus, Instrument, Trades
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from marketdata.fix.codec import Fields, decode, framed, utc
from producers.venues.alpaca.feed import AlpacaFeed
from producers.venues.alpaca.login import KeyPair
from producers.venues.bybit.feed_mixed import MixedFeed
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from producers.venues.databento.feed import DatabentoFeed
from producers.venues.databento.gateway import Login, Session
from producers.venues.deribit.feed import DeribitFeed
from producers.venues.fix.feed import FixFeed
from producers.venues.fix.login import FixLogin
from producers.venues.hyperliquid.feed import HyperliquidFeed
from producers.venues.kit.venue import LiveFeed
from producers.venues.kraken.feed import KrakenFeed
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_trades import IngestTrades

SECOND = 1_000_000_000
TS = 1_786_309_200 * SECOND  # 2026-08-09T21:00:00Z
MS = TS // 1_000_000
TIME = "2026-08-09T21:00:00.000001Z"
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
FEW = settings(max_examples=40, deadline=None)

# What no event may have, of every kind that the venues write.
WRONG: list[Any] = [
    None, True, -1, 0, Decimal("-0.5"), 5, 2**63 - 1, 4_000_000_000_000, "", "-1", "0", "0.00", "1e35", "1e-45",
    "9" * 30, "9" * 33, f"0.{'1' * 45}", "NaN", "Infinity", "x" * 300, "4000000000000", "4000000000.5", [], {}, [[]],
    "2096-10-02T07:06:40.5Z", "1996-10-02T07:06:40.5Z", "2026-08-09T21:05:48",
]  # fmt: skip


class Follower:
    """Follows what a feed tells, and holds every output to the rules; `is_file`: nobody can be asked."""

    def __init__(self, *, is_file: bool = False) -> None:
        self.is_file = is_file
        self.asked: list[Fetch] = []
        self.due: set[str] = set()
        self.valid: dict[str, bool] = {}
        self._instruments: dict[str, Instrument] = {}
        self._books, self._trades = IngestBooks(), IngestTrades()

    def take(self, out: Sequence[Output]) -> Sequence[Output]:
        """Follow the outputs of one call."""
        for output in out:
            if isinstance(output, EVENTS):
                assert CODEC.decode(CODEC.encode(output)) == output
            if isinstance(output, Instrument):
                self._instruments[output.key] = output
            elif isinstance(output, BookUpdate):
                self._follow(output)
            elif isinstance(output, FeedStatus) and output.kind == "gap" and self.is_file:
                self.due.discard(output.symbol)
            elif isinstance(output, Fetch):
                self.asked.append(output)
            self._ingested(output)
        if any(isinstance(output, Send | Fetch | Reconnect | Refused) for output in out):
            self.due.clear()
        return out

    def _ingested(self, output: Output) -> None:
        if isinstance(output, BookUpdate):
            _, told = self._books.step(self._books.start(output.key), output)
            assert not any(isinstance(event, DeadLetter) for event in told)
        elif isinstance(output, Trades):
            _, told = self._trades.step(self._trades.start(output.key), output)
            # Behind a trade there is no book that would stay lost.
            reasons = {event.reason for event in told if isinstance(event, DeadLetter)}
            assert reasons <= {"time_out_of_bounds"}

    def _follow(self, book: BookUpdate) -> None:
        if book.kind == "clear" and book.symbol in self.valid:  # what was never there cannot be lost
            self.due.add(book.symbol)
        elif book.kind == "snapshot":
            self.due.discard(book.symbol)
        else:
            assert book.kind == "clear" or self.valid.get(book.symbol), "a change of a book that nobody may trust"
        self.valid[book.symbol] = book.kind != "clear"


# --- Venues that write JSON: frames, and answers of REST ---


class Step(NamedTuple):
    """A frame, or the answer to a request of this purpose."""

    value: Any
    purpose: str = ""
    path: str = ""


class Talk(NamedTuple):
    """What a venue says, from the first word on, to a new feed."""

    make: Callable[[], LiveFeed]
    steps: list[Step]
    symbol: str = ""
    packed: bool = False


def digits(text: str) -> Any:
    """Return the values of JSON text, numbers with their own digits."""
    return json.loads(text, parse_float=Decimal)


def kraken2() -> list[Step]:
    """Return what Kraken says in v2; its checksums are of the digits."""
    bids, asks = [("100.0", "1.0"), ("99.0", "2.0")], [("101.0", "1.5")]

    def book(kind: str, sent: list[tuple[str, str]], all_bids: list[tuple[str, str]]) -> Step:
        crc = crc32("".join(v.replace(".", "").lstrip("0") for level in asks + all_bids for v in level).encode())
        levels = [",".join(f'{{"price":{p},"qty":{q}}}' for p, q in side) for side in (sent, asks)]
        return Step(digits(f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":[{levels[0]}],'
                           f'"asks":[{levels[1]}],"checksum":{crc},"timestamp":"{TIME}"}}]}}'))  # fmt: skip

    trade = {"symbol": "BTC/USD", "side": "sell", "price": Decimal("100.0"), "qty": Decimal("0.1"),
             "ord_type": "market", "trade_id": 7, "timestamp": TIME}  # fmt: skip
    pair = {"wsname": "XBT/USD", "tick_size": "0.1", "lot_decimals": 8, "ordermin": "0.0001", "status": "online"}
    return [
        Step({"method": "subscribe", "success": True,
              "result": {"channel": "book", "depth": 10, "snapshot": True, "symbol": "BTC/USD"}}),
        book("snapshot", bids, bids), Step({"channel": "trade", "type": "update", "data": [trade]}),
        book("update", [("100.0", "3.0")], [("100.0", "3.0"), *bids[1:]]),
        Step({"error": [], "result": {"XXBTZUSD": pair}}, "products"),
    ]  # fmt: skip


def exchange() -> list[Step]:
    """Return what Coinbase Exchange says of single orders, with its book of level 3."""

    def message(kind: str, sequence: int, **fields: Any) -> Step:
        return Step({"type": kind, "product_id": "BTC-USD", "sequence": sequence, "time": TIME} | fields)

    rows = {"sequence": 9, "time": TIME, "bids": [["100", "1", "a"], ["100", "2", "b"]], "asks": [["101", "1", "c"]]}
    match = {"maker_order_id": "a", "taker_order_id": "t", "trade_id": 7, "side": "buy", "price": "100", "size": "0.5"}
    return [
        message("received", 8, order_id="x"), message("done", 9, order_id="x", reason="canceled"), Step(rows, "book"),
        message("open", 10, order_id="n", side="buy", price="99.5", remaining_size="3"), message("match", 11, **match),
        message("change", 12, order_id="b", side="buy", price="100", old_size="2", new_size="1"),
        message("done", 13, order_id="c", side="sell", price="101", reason="canceled", remaining_size="1"),
        Step({"type": "heartbeat", "product_id": "BTC-USD", "sequence": 13, "last_trade_id": 7, "time": TIME}),
        Step([{"trade_id": 7, "side": "buy", "size": "0.5", "price": "100", "time": TIME}], "trades"),
    ]  # fmt: skip


def bybit() -> list[Step]:
    """Return what Bybit says of two markets of one name: their books' fields are in another order."""

    def book(kind: str, number: int, bids: list[list[str]], *, is_spot: bool) -> Step:
        head = {"ts": MS, "type": kind} if is_spot else {"type": kind, "ts": MS}
        data = {"s": "BTCUSDT", "b": bids, "a": [["101", "1"]], "u": number, "seq": number}
        return Step({"topic": "orderbook.200.BTCUSDT"} | head | {"data": data, "cts": MS})

    def trade(number: str) -> Step:
        data = [{"T": MS, "s": "BTCUSDT", "S": "Sell", "v": "1", "p": "100", "i": number}]
        return Step({"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": MS, "data": data})

    acknowledged = [{"success": True, "ret_msg": word, "op": "subscribe"} for word in ("", "subscribe")]
    listed = [{"execId": "22900", "symbol": "BTCUSDT", "price": "100", "size": "1", "side": "Sell", "time": str(MS)}]
    return [
        *map(Step, acknowledged),
        book("snapshot", 10, [["100", "1"]], is_spot=False), book("snapshot", 20, [["100", "1"]], is_spot=True),
        trade("592b7e41-d3f9-5b7e-8d6a-1e0d3b4e4d5f"), trade("2290000000068683805"),
        book("delta", 11, [["100", "2"]], is_spot=False), book("delta", 21, [["100", "2"]], is_spot=True),
        Step({"retCode": 0, "result": {"category": "spot", "list": listed}}, "trades", "recent-trade?category=spot"),
    ]  # fmt: skip


def deribit() -> list[Step]:
    """Return what Deribit says of a perpetual: its answers have the numbers of the feed's own requests."""

    def notify(kind: str, data: Any) -> Step:
        return Step({"jsonrpc": "2.0", "method": "subscription",
                     "params": {"channel": f"{kind}.BTC-PERPETUAL.100ms", "data": data}})  # fmt: skip

    def book(number: int, **more: Any) -> Step:
        levels = {"bids": [["new", Decimal("100.0"), 10]], "asks": [["new", 101, 5]]}
        return notify(
            "book", {"instrument_name": "BTC-PERPETUAL", "timestamp": MS, "change_id": number} | levels | more
        )

    trade = {"trade_seq": 7, "trade_id": "7", "timestamp": MS, "instrument_name": "BTC-PERPETUAL", "price": 100,
             "amount": 10, "direction": "buy"}  # fmt: skip
    ticker = {"timestamp": MS, "instrument_name": "BTC-PERPETUAL", "state": "open", "best_bid_price": 100,
              "best_bid_amount": 10, "mark_price": 100, "current_funding": 0, "greeks": {"delta": 1}, "mark_iv": 50,
              "stats": {"high": 101}}  # fmt: skip
    listed = {"instrument_name": "BTC-PERPETUAL", "tick_size": Decimal("0.5"), "is_active": True}
    return [
        *(Step({"id": number, "result": [f"{kind}.BTC-PERPETUAL.100ms"]})
          for number, kind in enumerate(("book", "trades", "ticker"), start=2)),
        book(1, type="snapshot"), book(2, type="change", prev_change_id=1), notify("trades", [trade]),
        notify("ticker", ticker), Step({"method": "heartbeat", "params": {"type": "test_request"}}),
        Step({"result": [listed]}, "products"),
    ]  # fmt: skip


def hyperliquid() -> list[Step]:
    """Return what Hyperliquid says of a perpetual."""

    def frame(channel: str, data: Any) -> Step:
        return Step({"channel": channel, "data": data})

    book = {"coin": "BTC", "time": MS, "levels": [[{"px": "100", "sz": "1"}], [{"px": "101", "sz": "2"}]]}
    return [
        *(frame("subscriptionResponse", {"method": "subscribe", "subscription": {"type": kind, "coin": "BTC"}})
          for kind in ("l2Book", "trades", "activeAssetCtx")),
        frame("l2Book", book), frame("l2Book", book | {"time": MS + 1}),
        frame("trades", [{"coin": "BTC", "side": "B", "px": "101", "sz": "1", "time": MS, "tid": 7}]),
        frame("activeAssetCtx", {"coin": "BTC", "ctx": {"funding": "0.1", "markPx": "100", "openInterest": "5"}}),
        frame("bbo", {"coin": "BTC", "time": MS, "bbo": [{"px": "100", "sz": "1"}, None]}), Step({"channel": "pong"}),
    ]  # fmt: skip


def alpaca(time: Any) -> list[Step]:
    """Return what Alpaca says, with this for a time."""
    of = {"S": "AAPL", "x": "V", "t": time, "z": "C"}
    return [Step([message]) for message in (
        {"T": "success", "msg": "connected"}, {"T": "success", "msg": "authenticated"},
        {"T": "subscription", "trades": ["AAPL"]}, {"T": "t", "i": 1, "p": 150.25, "s": 100} | of,
        {"T": "q", "bp": 150.2, "bs": 3, "ap": 150.3, "as": 4} | of,
        {"T": "b", "o": 150, "h": 151, "l": 149.5, "c": 150.5, "v": 1200, "n": 17, "vw": 150.25} | of,
        {"T": "c", "oi": 1, "ci": 2, "cp": 150.5, "cs": 90} | of, {"T": "x", "i": 2, "p": 150.5, "s": 90} | of,
        {"T": "s", "sc": "H", "sm": "Halt", "rc": "T1", "rm": "News"} | of,
    )]  # fmt: skip


def alpaca_feed() -> AlpacaFeed:
    """Return a feed that can log in."""
    return AlpacaFeed(line="alpaca/0", products=("AAPL",), token=KeyPair("key", "secret"))


TALKS = {
    "kraken v2": Talk(lambda: KrakenFeed(line="kraken/0", products=("BTC/USD",)), kraken2()),
    "coinbase_exchange full": Talk(
        lambda: CoinbaseExchangeFeed(line="coinbase_exchange/0", products=("BTC-USD",), depth="full"), exchange(),
        symbol="BTC-USD",
    ),
    "bybit, two markets": Talk(lambda: MixedFeed(line="bybit/0"), bybit(), symbol="BTCUSDT"),
    "deribit": Talk(lambda: DeribitFeed(line="deribit/0", products=("BTC-PERPETUAL",)), deribit()),
    "hyperliquid": Talk(lambda: HyperliquidFeed(line="hyperliquid/0", products=("BTC",)), hyperliquid()),
    "alpaca json": Talk(alpaca_feed, alpaca("2026-08-09T21:00:00Z")),
    "alpaca msgpack": Talk(
        alpaca_feed, alpaca(msgspec.msgpack.Ext(-1, (TS // SECOND).to_bytes(4, "big"))), packed=True
    ),
}  # fmt: skip
_JSON = msgspec.json.Encoder(decimal_format="number")
_MSGPACK = msgspec.msgpack.Encoder(decimal_format="number")


def encoded(talk: Talk, value: Any) -> bytes:
    """Return a frame."""
    return (_MSGPACK if talk.packed else _JSON).encode(value)


def said(talk: Talk, feed: LiveFeed, follower: Follower, step: Step, frame: bytes) -> Sequence[Output]:
    """Bring a frame, or an answer to what was asked for, or to what nobody asked for."""
    if not step.purpose:
        return follower.take(feed.received(frame, TS))
    asked = [request for request in follower.asked if request.purpose == step.purpose]
    request = asked[0] if asked else Fetch(step.path, step.purpose, talk.symbol)
    if asked:
        follower.asked.remove(request)
    return follower.take(feed.fetched(request, frame, TS))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value within another: what holds it, and where."""
    for at in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, at
        yield from places(value[at])


@pytest.mark.parametrize("name", TALKS)
def test_talk_is_read_without_a_dead_letter(name: str) -> None:
    """Else the next test would spoil what is spoilt already."""
    talk, follower = TALKS[name], Follower()
    feed = talk.make()
    follower.take(feed.opened(TS))
    for step in talk.steps:
        out = said(talk, feed, follower, step, encoded(talk, step.value))
        assert not [output for output in out if isinstance(output, DeadLetter)]
    assert all(follower.valid.values())
    assert len(follower.valid) == (0 if "alpaca" in name else 2 if "two" in name else 1)


@pytest.mark.parametrize("name", TALKS)
@FEW
@given(data=st.data(), wrong=st.sampled_from([*WRONG, ...]))
def test_wrong_value_tells_nothing_wrong_and_is_repaired(name: str, data: st.DataObject, wrong: Any) -> None:
    """Whatever value of whatever message it is, or that is missing; then the venue goes on, and begins anew."""
    talk, follower = TALKS[name], Follower()
    feed = talk.make()
    spoilt = data.draw(st.integers(0, len(talk.steps) - 1))
    value = deepcopy(talk.steps[spoilt].value)
    spots = list(places(value))
    holder, at = spots[data.draw(st.integers(0, len(spots) - 1))]
    if wrong is ...:
        del holder[at]
    else:
        holder[at] = wrong
    follower.take(feed.opened(TS))
    for number, step in enumerate(talk.steps):
        said(talk, feed, follower, step, encoded(talk, value if number == spoilt else step.value))
        for second in range(1, 62) if step.purpose else ():  # a bad answer may be asked for again a while later
            follower.take(feed.ticked(TS + second * SECOND) if follower.due else [])
        assert not follower.due, "a book was cleared and nothing asked for a new one"
    follower.take(feed.ticked(TS + SECOND))
    follower.take(feed.closed("reset", TS + SECOND))
    assert not any(follower.valid.values())


# --- FIX ---


def entry(**fields: str) -> Fields:
    """Return fields by their tags."""
    return [(int(tag[1:]), value) for tag, value in fields.items()]


def group(*entries: Fields) -> Fields:
    """Return a group of entries."""
    return [(268, str(len(entries))), *(field for one in entries for field in one)]


_WHOLE = group(entry(t269="0", t278="a", t270="100", t271="1"), entry(t269="0", t278="b", t270="100", t271="2"),
               entry(t269="1", t278="c", t270="101", t271="3"))  # fmt: skip
_TRADE = entry(t279="0", t269="2", t278="t1", t55="B-U", t270="100", t271="1", t272="20260809", t273="20:59:59.123")
MESSAGES: dict[str, tuple[str, Fields]] = {
    "whole": ("W", [(262, "r"), (55, "B-U"), *_WHOLE]),
    "last part": ("W", [(262, "r"), (55, "B-U"), (893, "Y"), *_WHOLE]),
    "new": ("X", [(60, "20260809-20:59:59"), *group(entry(t279="0", t269="1", t278="d", t55="B-U", t270="102",
                                                          t271="1"))]),
    "changed": ("X", group(entry(t279="1", t278="a", t55="B-U", t270="99", t271="4"), entry(t279="2", t278="b"))),
    "trade": ("X", group(_TRADE)),
    "status": ("f", [(55, "B-U"), (326, "2")]),
    "security": ("d", [(55, "B-U"), (15, "USD"), (969, "0.5"), (561, "1"), (562, "0.01")]),
    "alive": ("0", []),
}  # fmt: skip
TEXTS = ["", "-1", "0", "0.00", "1e35", "9" * 30, "9" * 33, f"0.{'1' * 45}", "5", "NaN", "x" * 300, "J", "2", "Y",
         "20960809-21:05:48", "19960809-21:05:48.123", "25:00:00", "|"]  # fmt: skip


class Desk:
    """Writes a venue's messages with the right length and checksum, to a feed that has logged on and has a book."""

    def __init__(self, begin: str) -> None:
        login = FixLogin(senders=("US",), target="THEM", begin=begin, heartbeat_s=10, reset=True, username="me",
                         password="secret")  # fmt: skip
        self.begin, self.number, self.follower = begin, 0, Follower()
        self.feed = FixFeed(line="fix/0", products=("B-U",), token=login)
        self.follower.take(self.feed.opened(TS))
        self.says(self.message("A", [(98, "0"), (108, "10"), (141, "Y"), (1137, "9")]))
        self.says(self.message(*MESSAGES["whole"]))
        assert self.follower.valid == {"B-U": True}

    def message(self, kind: str, fields: Fields, *, again: bool = False) -> Fields:
        """Return the next message, or the one before it once more."""
        self.number += not again
        number = self.number - again
        repeat: Fields = [(43, "Y"), (122, utc(TS))] if again else []
        return [(35, kind), (49, "THEM"), (56, "US"), (34, str(number)), (52, utc(TS)), *repeat, *fields]

    def says(self, fields: Fields) -> Sequence[Output]:
        """Bring a message, whatever its values are."""
        body = "".join(f"{tag}={value}\x01" for tag, value in fields).encode("latin-1")
        return self.follower.take(self.feed.received(framed(self.begin, body), TS))


def respelt(fields: Fields, place: int, change: str, text: str) -> Fields:
    """Return a message with one field that is gone, there twice, something else, or of a group that lies."""
    tag, value = fields[place]
    other = {"gone": [], "twice": [(tag, value)] * 2, "value": [(tag, text)], "tag": [(268, value)]}[change]
    return [*fields[:place], *other, *fields[place + 1 :]]


@settings(FEW, max_examples=100)
@given(data=st.data(), begin=st.sampled_from(["FIX.4.4", "FIXT.1.1"]), kind=st.sampled_from(sorted(MESSAGES)),
       missing=st.booleans())  # fmt: skip
def test_wrong_field_of_fix_tells_nothing_wrong_and_is_repaired(
    data: st.DataObject, begin: str, kind: str, *, missing: bool
) -> None:
    """In order, or sent again behind a message that came too early; what could not be read is asked for anew."""
    desk = Desk(begin)
    if missing:
        desk.number += 1
        desk.says(desk.message("0", []))
    fields = desk.message(*MESSAGES[kind], again=missing)
    change = data.draw(st.sampled_from(["gone", "twice", "value", "value", "tag"]))
    text = data.draw(st.sampled_from(TEXTS))
    out = desk.says(respelt(fields, data.draw(st.integers(1, len(fields) - 1)), change, text))
    assert not desk.follower.due, "a book was cleared and nothing asked for a new one"
    if any(isinstance(output, DeadLetter) for output in out) and kind in {"whole", "new", "changed"}:
        assert any(isinstance(output, Send | Reconnect) for output in out)
        assert not desk.follower.valid["B-U"]
    for _ in range(2):
        desk.says(desk.message("0", []))
    desk.follower.take(desk.feed.ticked(TS + SECOND))
    desk.follower.take(desk.feed.closed("reset", TS + SECOND))
    assert not any(desk.follower.valid.values())


def test_desk_of_fix_is_understood() -> None:
    """No message of the table is a dead letter by itself."""
    desk = Desk("FIXT.1.1")
    for kind in ("new", "changed", "trade", "status", "security", "alive", "last part"):
        assert not [o for o in desk.says(desk.message(*MESSAGES[kind])) if isinstance(o, DeadLetter)]
    assert all(decode(o.frame) for o in desk.follower.take(desk.feed.closed("done", TS)) if isinstance(o, Send))


# --- Databento ---


def order(action: str, number: int = 0, price: int = dbn.UNDEF_PRICE, side: str = "N", flags: int = dbn.LAST) -> bytes:
    """Return a record of orders, of the instrument 7."""
    return dbn.ORDER.pack(14, dbn.MBO, 1, 7, TS, number, price, 5, flags, 0, ord(action), ord(side), TS, 0, 5)


def priced(kind: int, action: str, *levels: bytes) -> bytes:
    """Return a record that begins with a trade."""
    length = (dbn.TRADE_BODY.size + sum(map(len, levels))) // dbn.WORD
    body = (length, kind, 1, 7, TS, 100 * SECOND, 5, ord(action), ord("B"), dbn.LAST, 0, TS, 0, 5)
    return dbn.TRADE_BODY.pack(*body) + b"".join(levels)


LEVEL = dbn.LEVEL_COUNTED.pack(99 * SECOND, 101 * SECOND, 3, 4, 1, 1)
BOOK = [order("R", flags=dbn.SNAPSHOT), order("A", 1, 100 * SECOND, "B", dbn.SNAPSHOT | dbn.LAST)]
RECORDS = {
    "order": order("A", 2, 101 * SECOND, "A"), "change": order("M", 1, 99 * SECOND, "B"),
    "cancel": order("C", 1, 100 * SECOND, "B"), "clear": order("R"), "traded": order("T", 0, 100 * SECOND, "B"),
    "trade": priced(dbn.TRADE, "T"), "levels": priced(dbn.MBP_10, "A", LEVEL, *[LEVEL] * 9),
    **{f"quote {kind}": priced(kind, "A", LEVEL) for kind in (dbn.MBP_1, dbn.TBBO, dbn.BBO_1S, dbn.CMBP_1)},
    "status": dbn.STATUS_BODY.pack(10, dbn.STATUS, 1, 7, TS, TS, 7, 50, 0, ord("Y"), ord("~"), ord("~")),
    "system": bytes(codec.SystemMsg(TS, "", codec.SystemCode(0))),
    "error": bytes(codec.ErrorMsg(TS, "no", code=codec.ErrorCode(4))),
}  # fmt: skip


@settings(FEW, max_examples=120)
@given(data=st.data(), kind=st.sampled_from(sorted(RECORDS)), dataset=st.sampled_from(["GLBX.MDP3", "XNAS.ITCH"]),
       is_file=st.booleans())  # fmt: skip
def test_wrong_bytes_of_databento_tell_nothing_wrong_and_are_repaired(
    data: st.DataObject, kind: str, dataset: str, *, is_file: bool
) -> None:
    """One byte of a record, or eight at once as in a price or a time; a refused record of orders costs the book."""
    record = bytearray(RECORDS[kind])
    width = data.draw(st.sampled_from([1, 4, 8]))
    at = data.draw(st.integers(0, len(record) // width - 1)) * width
    record[at : at + width] = data.draw(st.sampled_from(
        [bytes(width), b"\xff" * width, b"\xff" * (width - 1) + b"\x7f", bytes(width - 1) + b"\x80",
         bytes([record[at] ^ 1, *record[at + 1 : at + width]])]))  # fmt: skip
    follower = Follower(is_file=is_file)
    schema = "mbp-10" if kind == "levels" else "mbo"
    login = None if is_file else Login("db-key-of-nobody", Session(schemas=(schema,)))
    feed = DatabentoFeed(line="databento/0", products=("ES.c.0",), token=login)
    metadata = bytes(codec.Metadata(dataset=dataset, start=TS, stype_in=dbn.RAW_SYMBOL, stype_out=dbn.INSTRUMENT_ID,
                                    mappings=[], schema=None, version=3))  # fmt: skip
    follower.take(feed.opened(TS))
    begin = [] if kind == "levels" else BOOK
    for frame in [*([] if is_file else [b"cram=abc\n", b"success=1|session_id=5\n"]), metadata, *begin]:
        follower.take(feed.received(frame, TS))
    assert follower.valid == dict.fromkeys(["7"] if begin else [], True)
    out = follower.take(feed.received(bytes(record), TS))
    assert not follower.due, "a book was cleared, and nothing asked for it or says so"
    refused = [output.reason for output in out if isinstance(output, DeadLetter)]
    if begin and kind not in {"status", "system", "error"} and set(refused) - {"bad_trade"}:
        assert not follower.valid["7"]
    for frame in BOOK:
        follower.take(feed.received(frame, TS))
    follower.take(feed.ticked(TS + SECOND))
    follower.take(feed.closed("reset", TS + SECOND))
    assert not any(follower.valid.values())
