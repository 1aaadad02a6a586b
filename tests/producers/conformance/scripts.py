"""Messages of venues without a recorded connection, made from their documents, from the first message on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from marketdata.feed import Fetch, Output
from producers.venues.alpaca.feed import AlpacaFeed
from producers.venues.alpaca.login import KeyPair
from producers.venues.bybit.feed_mixed import MixedFeed
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from producers.venues.deribit.feed import DeribitFeed
from producers.venues.gemini.feed import GeminiFeed
from producers.venues.hyperliquid.feed import HyperliquidFeed
from producers.venues.kit.venue import LiveFeed
from producers.venues.kraken.feed import KrakenFeed
from tests.producers.conformance.cases import SECOND
from tests.producers.conformance.follower import MS, TIME, TS, Follower

# --- Venues that write JSON: frames, and answers of REST ---


class Step(NamedTuple):
    """A frame, or the answer to a request of this purpose."""

    value: Any
    purpose: str = ""
    path: str = ""


class Script(NamedTuple):
    """What a venue sends to a new feed, from the first message on."""

    make: Callable[[], LiveFeed]
    steps: list[Step]
    symbol: str = ""
    packed: bool = False


def digits(text: str) -> Any:
    """Return the values of JSON text, numbers with their own digits."""
    return json.loads(text, parse_float=Decimal)


def kraken2() -> list[Step]:
    """Return what Kraken sends in v2; its checksums are of the digits."""
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
    """Return what Coinbase Exchange sends of single orders, with its book of level 3."""

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
    """Return what Bybit sends of two markets of one name: their books' fields are in another order."""

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
    """Return what Deribit sends of a perpetual: its answers have the numbers of the feed's own requests."""

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
    """Return what Hyperliquid sends of a perpetual."""

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


def gemini() -> list[Step]:
    """Return what Gemini sends of one product; its times are nanoseconds."""

    def depth(first: int, last: int, bids: list[list[str]], asks: list[list[str]]) -> Step:
        return Step({"e": "depthUpdate", "E": TS, "s": "btcusd", "U": first, "u": last, "b": bids, "a": asks})

    details = {"symbol": "BTCUSD", "tick_size": "1e-8", "quote_increment": "0.01", "min_order_size": "0.00001",
               "status": "open"}  # fmt: skip
    listed = [{"tid": 5, "timestampms": MS, "price": "100", "amount": "1", "type": "sell"}]
    return [
        depth(7, 7, [["100.50", "1.0"], ["100", "2"]], [["101", "1"]]), Step({"id": "1", "status": 200}),
        Step({"id": "2", "status": 200}), depth(7, 12, [["100.50", "0.0"]], []), depth(12, 30, [], [["102", "3"]]),
        Step({"E": TS, "s": "btcusd", "t": 5, "p": "100", "q": "0.5", "m": True}),
        Step({"id": "ping", "status": 200}), Step(details, "products"), Step(listed, "trades"),
    ]  # fmt: skip


def alpaca(time: Any) -> list[Step]:
    """Return what Alpaca sends, with this for a time."""
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


SCRIPTS = {
    "kraken v2": Script(lambda: KrakenFeed(line="kraken/0", products=("BTC/USD",)), kraken2()),
    "coinbase_exchange full": Script(
        lambda: CoinbaseExchangeFeed(line="coinbase_exchange/0", products=("BTC-USD",), depth="full"), exchange(),
        symbol="BTC-USD",
    ),
    "bybit, two markets": Script(lambda: MixedFeed(line="bybit/0"), bybit(), symbol="BTCUSDT"),
    "deribit": Script(lambda: DeribitFeed(line="deribit/0", products=("BTC-PERPETUAL",)), deribit()),
    "gemini": Script(lambda: GeminiFeed(line="gemini/0", products=("BTCUSD",)), gemini(), symbol="BTCUSD"),
    "hyperliquid": Script(lambda: HyperliquidFeed(line="hyperliquid/0", products=("BTC",)), hyperliquid()),
    "alpaca json": Script(alpaca_feed, alpaca("2026-08-09T21:00:00Z")),
    "alpaca msgpack": Script(
        alpaca_feed, alpaca(msgspec.msgpack.Ext(-1, (TS // SECOND).to_bytes(4, "big"))), packed=True
    ),
}  # fmt: skip
_JSON = msgspec.json.Encoder(decimal_format="number")
_MSGPACK = msgspec.msgpack.Encoder(decimal_format="number")


def encoded(script: Script, value: Any) -> bytes:
    """Return a frame."""
    return (_MSGPACK if script.packed else _JSON).encode(value)


def play_step(script: Script, feed: LiveFeed, follower: Follower, step: Step, frame: bytes) -> Sequence[Output]:
    """Bring a frame, or an answer to what was asked for, or to what nobody asked for."""
    if not step.purpose:
        return follower.take(feed.received(frame, TS))
    asked = [request for request in follower.asked if request.purpose == step.purpose]
    request = asked[0] if asked else Fetch(step.path, step.purpose, script.symbol)
    if asked:
        follower.asked.remove(request)
    return follower.take(feed.fetched(request, frame, TS))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value within another: what holds it, and where."""
    for at in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, at
        yield from places(value[at])
