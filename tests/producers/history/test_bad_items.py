"""One bad item of a page is left out with its reason, and costs no other item."""

from __future__ import annotations

from typing import Any

import databento_dbn
import msgspec
import pytest

from marketdata import dbn
from marketdata.clock import MINUTE_NS, SECOND_NS, format_rfc3339
from producers.history.rest import checked_trades
from producers.venues.kit.history import Asked, History, Span, TradeHistory
from tests.producers.history.documented import EMPTY_DBN, START, TS, adapter, asked, body, trade_adapter

START_NS = START * SECOND_NS
MS = START * 1_000


def bitfinex(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute."""
    if candles:
        return body([[MS + at * 60_000, price, 1, 1, 1, 5] for at, price in enumerate(prices)])
    return body([[10 + at, MS + at * 1_000, -0.5, price] for at, price in enumerate(prices)])


def alpaca(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute."""
    step = MINUTE_NS if candles else SECOND_NS
    times = [format_rfc3339(START_NS + at * step) for at in range(len(prices))]
    if candles:
        rows = [{"t": t, "o": p, "h": 1, "l": 1, "c": 1, "v": 5} for t, p in zip(times, prices, strict=True)]
        return body({"bars": rows, "next_page_token": None})
    rows = [
        {"t": t, "x": "V", "p": p, "s": 5, "i": 10 + at} for at, (t, p) in enumerate(zip(times, prices, strict=True))
    ]
    return body({"trades": rows, "next_page_token": None})


def coinbase(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute, newest first."""
    rows: list[Any] = []
    for at, price in enumerate(prices):
        if candles:
            rows.append({"start": str(START + at * 60), "open": price, "high": "1", "low": "1", "close": "1",
                         "volume": "5"})  # fmt: skip
        else:
            rows.append({"trade_id": str(10 + at), "product_id": "BTC-USD", "price": price, "size": "5",
                         "time": format_rfc3339(START_NS + at * SECOND_NS), "side": "BUY"})  # fmt: skip
    return body({"candles" if candles else "trades": rows[::-1]})


def kraken(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute."""
    if candles:
        rows: list[Any] = [[START + at * 60, price, "1", "1", "1", "1", "5", 3] for at, price in enumerate(prices)]
        return body({"error": [], "result": {"XXBTZUSD": rows, "last": START}})
    rows = [[price, "5", START + at, "b", "m", "", 10 + at] for at, price in enumerate(prices)]
    last = START_NS + (len(prices) - 1) * SECOND_NS
    return body({"error": [], "result": {"XXBTZUSD": rows, "last": str(last)}})


def gemini(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute, newest first."""
    if candles:
        return body([[MS + at * 60_000, price, 1, 1, 1, 5] for at, price in enumerate(prices)][::-1])
    rows = [{"tid": 10 + at, "timestampms": MS + at * 1_000, "price": price, "amount": "5", "type": "buy"}
            for at, price in enumerate(prices)]  # fmt: skip
    return body(rows[::-1])


def kraken_futures(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute; trades newest first."""
    if candles:
        rows: list[Any] = [{"time": MS + at * 60_000, "open": price, "high": 1, "low": 1, "close": 1, "volume": 5}
                           for at, price in enumerate(prices)]  # fmt: skip
        return body({"candles": rows})
    rows = [{"uid": str(at), "time": format_rfc3339(START_NS + at * SECOND_NS), "price": price, "size": 5,
             "side": "buy", "type": "fill"} for at, price in enumerate(prices)]  # fmt: skip
    return body({"history": rows[::-1]})


def coinbase_exchange(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute, newest first."""
    if candles:
        return body([[START + at * 60, 1, 1, price, 1, 5] for at, price in enumerate(prices)][::-1])
    rows = [{"trade_id": 10 + at, "time": format_rfc3339(START_NS + at * SECOND_NS), "price": price, "size": "5",
             "side": "buy"} for at, price in enumerate(prices)]  # fmt: skip
    return body(rows[::-1])


def deribit(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one item a second, or a minute."""
    if candles:
        other = {name: [1] * len(prices) for name in ("high", "low", "close", "volume", "cost")}
        return body({"result": {"ticks": [MS + at * 60_000 for at in range(len(prices))], "open": prices, **other}})
    return body({"result": {"trades": [
        {"instrument_name": "BTC-PERPETUAL", "trade_seq": at, "trade_id": str(at), "timestamp": MS + at * 1_000,
         "price": price, "amount": 5, "direction": "buy"} for at, price in enumerate(prices)
    ]}})  # fmt: skip


def hyperliquid(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one candle a minute."""
    assert candles
    return body([{"t": MS + at * 60_000, "o": price, "h": "1", "l": "1", "c": "1", "v": "5", "n": 2}
                 for at, price in enumerate(prices)])  # fmt: skip


def okx(prices: list[Any], *, candles: bool) -> bytes:
    """Return an answer with one candle a minute, newest first."""
    assert candles
    rows = [[str(MS + at * 60_000), price, "1", "1", "1", "5", "5", "5", "1"] for at, price in enumerate(prices)]
    return body({"code": "0", "data": rows[::-1]})


ANSWERS = {
    "bitfinex": bitfinex, "alpaca": alpaca, "coinbase": coinbase, "kraken": kraken, "gemini": gemini,
    "kraken_futures": kraken_futures, "coinbase_exchange": coinbase_exchange, "deribit": deribit,
    "hyperliquid": hyperliquid, "okx": okx,
}  # fmt: skip
TRADES = sorted(set(ANSWERS) - {"hyperliquid", "okx"})
NAMES = {"alpaca": "AAPL", "kraken_futures": "PI_XBTUSD", "deribit": "BTC-PERPETUAL", "hyperliquid": "BTC"}
CURSORS = {"coinbase": f"{START}:60:0", "coinbase_exchange": "10"}
# A price as the venue writes it, where that is a text.
ONE: dict[str, Any] = dict.fromkeys(("coinbase", "kraken", "gemini", "coinbase_exchange", "hyperliquid", "okx"), "1")


def asked_of(venue: str) -> tuple[History, Asked, Any]:
    """Return a venue's adapter, a range, and a price as the venue writes it."""
    history = adapter(venue)
    return history, asked(history, NAMES.get(venue, "BTC-USD")), ONE.get(venue, 1)


@pytest.mark.parametrize("bad", [0, "0", "x", None])
@pytest.mark.parametrize("venue", TRADES)
def test_a_bad_trade_costs_no_other(venue: str, bad: Any) -> None:
    """A price of zero, or that is none; the time between its neighbours is missing."""
    history, where, one = asked_of(venue)
    answer = ANSWERS[venue]([one, one, bad, one], candles=False)
    assert isinstance(history, TradeHistory)
    page = checked_trades(history, where, CURSORS.get(venue), answer, TS)
    assert [trade.ts_event for trade in page.items] == [START_NS + at * SECOND_NS for at in (0, 1, 3)]
    assert len(page.refused) == 1
    assert page.missing == (Span(START_NS + SECOND_NS, START_NS + 3 * SECOND_NS + 1, "bad_item"),)


@pytest.mark.parametrize("bad", ["x", None])
@pytest.mark.parametrize("venue", sorted(ANSWERS))
def test_a_bad_candle_costs_no_other(venue: str, bad: Any) -> None:
    """An open that is no price; the minute is missing."""
    history, where, one = asked_of(venue)
    page = history.parse_candles(where, None, ANSWERS[venue]([one, bad, one], candles=True), TS)
    assert [found.start for found in page.items] == [START_NS, START_NS + 2 * MINUTE_NS]
    assert len(page.refused) == 1
    assert page.missing == (Span(START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS, "bad_item"),)


@pytest.mark.parametrize("venue", TRADES)
def test_a_bad_trade_at_the_end_of_a_page_is_missing_until_the_next(venue: str) -> None:
    """What came before it is returned, and the next page, or the end of the range, ends the span."""
    history, where, one = asked_of(venue)
    answer = ANSWERS[venue]([one, "x"], candles=False)
    assert isinstance(history, TradeHistory)
    page = checked_trades(history, where, CURSORS.get(venue), answer, TS)
    assert [trade.ts_event for trade in page.items] == [START_NS]
    if page.refused:
        ((start, end, reason),) = page.missing
        assert (start, reason) == (START_NS, "bad_item")
        assert START_NS + SECOND_NS < end <= where.end
    else:  # it begins the next page
        assert page.reached <= START_NS + SECOND_NS


def databento(history: History) -> tuple[Asked, bytes]:
    """Return a range of Databento, and the metadata of an answer."""
    symbol, raw = "ESU4", dbn.RAW_SYMBOL
    where = Asked(instrument=history.instrument(symbol), start=START_NS, end=START_NS + 10 * MINUTE_NS, interval="1m")
    name = databento_dbn.SymbolMappingMsg(1, 7, START_NS, raw, symbol, raw, symbol, 0, 2**64 - 1)
    return where, EMPTY_DBN + bytes(name)


def test_a_bad_record_costs_no_other() -> None:
    """Of Databento: a trade whose side is none, and a bar that is none."""
    history = trade_adapter("databento")
    where, head = databento(history)
    rows = [
        dbn.TRADE_BODY.pack(
            12, dbn.TRADE, 1, 7, START_NS + at, 10**9, 5, ord("T"), ord(side), 128, 0, START_NS + at, 0, at
        )
        for at, side in enumerate("BxB")
    ]
    page = history.parse_trades(where, f"{START_NS}:{where.end}", head + b"".join(rows), TS)
    assert [trade.ts_event for trade in page.items] == [START_NS, START_NS + 2]
    assert [item.error.field for item in page.refused] == ["side"]
    bars = [dbn.BAR.pack(14, dbn.OHLCV_1M, 1, 7, START_NS + at * MINUTE_NS, 2, high, 1, 2, 5)
            for at, high in enumerate((3, 0, 3))]  # fmt: skip
    found = history.parse_candles(where, f"{START_NS}:{where.end}", head + b"".join(bars), TS)
    assert [one.start for one in found.items] == [START_NS, START_NS + 2 * MINUTE_NS]
    assert found.missing == (Span(START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS, "bad_item"),)


def test_a_page_of_another_format_is_refused() -> None:
    """More bad items than a venue ever sends, and no good one."""
    history = trade_adapter("bitfinex")
    rows = msgspec.json.decode(bitfinex(["x"] * 20, candles=False))
    with pytest.raises(Exception, match="price"):
        history.parse_trades(asked(history, "BTC-USD"), None, body(rows), TS)
