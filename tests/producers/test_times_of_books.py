"""An impossible time costs no book and no quote: the values are published at the time of receipt, on every venue."""

from __future__ import annotations

import json
from typing import Any

import pytest

from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Quote
from marketdata.feed import Fetch, Output, Send
from producers.venues import find_venue

T0 = 1_790_000_000_000_000_000
MS = T0 // 1_000_000
SECOND = 1_000_000_000
IMPOSSIBLE = (-1, 0, 1, 10**18, 10**40)


def okx(kind: str, number: int, time: Any, size: str) -> dict[str, Any]:
    """Return a frame of OKX."""
    book = {"asks": [["101", "1", "0", "1"]], "bids": [["100", size, "0", "1"]], "ts": str(time), "checksum": 0,
            "seqId": number, "prevSeqId": number - 1 if kind == "update" else -1}  # fmt: skip
    return {"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": kind, "data": [book]}


def bybit(kind: str, number: int, time: Any, size: str) -> dict[str, Any]:
    """Return a frame of Bybit."""
    data = {"s": "BTCUSDT", "b": [["100", size]], "a": [["101", "1"]], "u": number, "seq": number}
    return {"topic": "orderbook.200.BTCUSDT", "type": "snapshot" if kind == "snapshot" else "delta", "ts": time,
            "data": data, "cts": time}  # fmt: skip


def kraken_futures(kind: str, number: int, time: Any, size: str) -> dict[str, Any]:
    """Return a frame of Kraken Futures."""
    common = {"product_id": "PF_XBTUSD", "timestamp": time, "seq": number}
    if kind == "snapshot":
        sides = {"bids": [{"price": 100, "qty": float(size)}], "asks": [{"price": 101, "qty": 1}]}
        return {"feed": "book_snapshot", **common, **sides}
    return {"feed": "book", **common, "side": "buy", "price": 100, "qty": float(size)}


def deribit(kind: str, number: int, time: Any, size: str) -> dict[str, Any]:
    """Return a frame of Deribit."""
    data = {"type": "snapshot" if kind == "snapshot" else "change", "timestamp": time, "change_id": number,
            "instrument_name": "BTC-PERPETUAL", "bids": [["new", 100, float(size)]],
            "asks": [["new", 101, 1]]}  # fmt: skip
    if kind != "snapshot":
        data["prev_change_id"] = number - 1
    return {"method": "subscription", "params": {"channel": "book.BTC-PERPETUAL.100ms", "data": data}}


def hyperliquid(kind: str, number: int, time: Any, size: str) -> dict[str, Any]:
    """Return a frame of Hyperliquid, whose books are all whole."""
    del kind, number
    levels = [[{"px": "100", "sz": size}], [{"px": "101", "sz": "1"}]]
    return {"channel": "l2Book", "data": {"coin": "BTC", "time": time, "levels": levels}}


VENUES = {
    "okx": ("BTC-USDT", okx), "bybit": ("BTCUSDT", bybit), "kraken_futures": ("PF_XBTUSD", kraken_futures),
    "deribit": ("BTC-PERPETUAL", deribit), "hyperliquid": ("BTC", hyperliquid),
}  # fmt: skip


def lost(out: list[Output]) -> list[Output]:
    """Return what says that something is missing, or asks for it again."""
    return [one for one in out if isinstance(one, DeadLetter | Send | Fetch)
            or (isinstance(one, FeedStatus) and one.kind == "gap")
            or (isinstance(one, BookUpdate) and one.kind == "clear")]  # fmt: skip


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("time", IMPOSSIBLE)
def test_an_impossible_time_gives_way_to_that_of_receipt(venue: str, time: int) -> None:
    """As case 31: the book stays, with the change in it; the next frame goes on as ever."""
    product, frame = VENUES[venue]
    feed = find_venue(venue).make(line=f"{venue}/0", products=(product,), token=None)
    feed.opened(T0)
    feed.received(json.dumps(frame("snapshot", 10, MS, "1")).encode(), T0)
    out = feed.received(json.dumps(frame("update", 11, time, "2")).encode(), T0 + SECOND)
    assert lost(out) == []
    (changed,) = (one for one in out if isinstance(one, BookUpdate))
    assert (changed.valid, changed.ts_event) == (True, T0 + SECOND)
    assert [float(size) for size in changed.bid_sizes] == [2.0]
    assert feed.counts["bad_times"] >= 1
    after = feed.received(json.dumps(frame("update", 12, MS + 1_500, "3")).encode(), T0 + 2 * SECOND)
    assert lost(after) == []
    assert [float(size) for one in after if isinstance(one, BookUpdate) for size in one.bid_sizes] == [3.0]


TICKERS: dict[str, tuple[str, Any]] = {
    "okx": ("BTC-USDT", lambda time: {"arg": {"channel": "tickers", "instId": "BTC-USDT"}, "data": [
        {"instId": "BTC-USDT", "last": "100", "bidPx": "100", "bidSz": "1", "askPx": "101", "askSz": "1",
         "open24h": "", "high24h": "", "low24h": "", "vol24h": "", "ts": str(time)}]}),
    "bybit": ("BTCUSDT", lambda time: {"topic": "tickers.BTCUSDT", "type": "snapshot", "ts": time, "data": {
        "symbol": "BTCUSDT", "lastPrice": "100"}}),
    "binance_spot": ("BTCUSDT", lambda time: {"stream": "btcusdt@bookTicker", "data": {
        "e": "bookTicker", "u": 1, "s": "BTCUSDT", "b": "100", "B": "1", "a": "101", "A": "1", "T": time, "E": time}}),
    "kraken": ("BTC/USD", lambda time: {"channel": "ticker", "type": "update", "data": [
        {"symbol": "BTC/USD", "bid": 100, "bid_qty": 1, "ask": 101, "ask_qty": 1, "last": 100, "volume": 1, "high": 1,
         "low": 1, "change": 0, "timestamp": "0001-01-01T00:00:00Z" if time < 10**15 else "9999-01-01T00:00:00Z"}]}),
    "kraken_futures": ("PF_XBTUSD", lambda time: {"feed": "ticker", "product_id": "PF_XBTUSD", "time": time,
                                                  "bid": 100, "bid_size": 1, "ask": 101, "ask_size": 1}),
    "hyperliquid": ("BTC", lambda time: {"channel": "bbo", "data": {"coin": "BTC", "time": time, "bbo": [
        {"px": "100", "sz": "1"}, {"px": "101", "sz": "1"}]}}),
}  # fmt: skip


@pytest.mark.parametrize("venue", TICKERS)
@pytest.mark.parametrize("time", IMPOSSIBLE)
def test_a_quote_with_an_impossible_time_has_that_of_receipt(venue: str, time: int) -> None:
    """Its prices are as good as ever, and it is counted; a 0 counts as no time on some venues."""
    product, frame = TICKERS[venue]
    feed = find_venue(venue).make(line=f"{venue}/0", products=(product,), token=None)
    feed.opened(T0)
    out = feed.received(json.dumps(frame(time)).encode(), T0)
    assert [one for one in out if isinstance(one, DeadLetter)] == []
    (quote,) = (one for one in out if isinstance(one, Quote))
    assert (quote.valid, quote.ts_event) == (True, T0)
    assert feed.counts["bad_times"] >= 1 or time == 0
