"""Each venue's documented answers, read to the last digit; the ids of the stream; what a venue does not have."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import databento_dbn
import msgspec
import pytest
import zstandard

from infra.simulator.venues.answers import Answer
from infra.simulator.venues.tape import MINUTE_NS, SECOND_NS
from marketdata import dbn
from marketdata.errors import BadEvent, Refused, SettingsError, Unavailable
from marketdata.events import Candle, Trade, Trades
from producers.history.rest import checked_trades
from producers.venues import HISTORIES, make_feed, make_history
from producers.venues.coinbase.history import CoinbaseHistory
from producers.venues.kit.history import Access, Asked, History, Span, TradeHistory

if TYPE_CHECKING:
    from tests.producers.history.conftest import Served

TS = 2_000_000_000 * SECOND_NS
START = 1_700_000_040  # a whole minute, in seconds
MS = START * 1000
RECORDINGS = Path(__file__).resolve().parents[4] / "shared" / "recordings"
EMPTY_DBN = bytes(
    databento_dbn.Metadata("GLBX.MDP3", 0, dbn.RAW_SYMBOL, dbn.INSTRUMENT_ID, databento_dbn.Schema.from_str("trades"))
)


def adapter(venue: str) -> History:
    """Return an adapter that asks nobody."""
    return make_history(venue, Access(key="key", secret="secret"))


def trade_adapter(venue: str) -> TradeHistory:
    """Return an adapter that asks nobody, of a venue that has trades of the past."""
    history = adapter(venue)
    assert isinstance(history, TradeHistory)
    return history


def asked(history: History, name: str, interval: str = "1m", minutes: float = 10) -> Asked:
    """Return a range of some minutes from START on."""
    start = START * SECOND_NS
    return Asked(instrument=history.instrument(name), start=start, end=start + int(minutes * MINUTE_NS),
                 interval=interval)  # fmt: skip


# Answers as the documents show them; numbers with zeros at the end, which no float keeps.
CANDLES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "bitfinex": (
        "BTC-USD",
        f"[[{MS},37000.10,37010.0,37020.50,36990,1.50000000]]",
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "coinbase": (
        "BTC-USD",
        {"candles": [{"start": str(START), "low": "36990.00", "high": "37020.5", "open": "37000.10", "close": "37010",
                      "volume": "1.50"}]},
        {"open": "37000.10", "close": "37010", "high": "37020.5", "low": "36990.00", "volume": "1.50"},
    ),
    "binance_spot": (
        "BTC-USDT",
        [[MS, "37000.10000000", "37020.50000000", "36990.00000000", "37010.00000000", "1.50000000", MS + 59_999,
          "55512.34000000", 308, "0.75000000", "27756.17", "0"]],
        {"open": "37000.10000000", "close": "37010.00000000", "high": "37020.50000000", "low": "36990.00000000",
         "volume": "1.50000000", "quote_volume": "55512.34000000", "trades": 308, "buy_volume": "0.75000000"},
    ),
    "kraken": (
        "BTC-USD",
        {"error": [], "result": {"last": START, "XXBTZUSD": [
            [START, "37000.1", "37020.5", "36990.0", "37010.0", "37005.2", "1.50000000", 7]]}},
        {"open": "37000.1", "close": "37010.0", "high": "37020.5", "low": "36990.0", "volume": "1.50000000",
         "trades": 7},
    ),
    "alpaca": (
        "AAPL",
        '{"bars":[{"t":"2023-11-14T22:14:00Z","o":178.260,"h":178.30,"l":178.21,"c":178.210,"v":1118,"n":65}],"next_page_token":null}',
        {"open": "178.260", "high": "178.30", "low": "178.21", "close": "178.210", "volume": "1118", "trades": 65},
    ),
}  # fmt: skip
CANDLES["binance_usdm"] = CANDLES["binance_spot"]
CANDLES["bybit"] = (
    "BTC-USDT-PERP",
    {"retCode": 0, "retMsg": "OK", "result": {"symbol": "BTCUSDT", "category": "linear", "list": [
        [str(MS), "37000.10", "37020.5", "36990.00", "37010", "1.50", "55512.340"]]}, "time": MS},
    {"open": "37000.10", "close": "37010", "high": "37020.5", "low": "36990.00", "volume": "1.50",
     "quote_volume": "55512.340"},
)  # fmt: skip

CANDLES |= {
    "gemini": (
        "BTC-USD",
        f"[[{MS},37000.10,37020.50,36990,37010.0,1.50000000]]",
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "kraken_futures": (
        "BTC-USD-PI",
        {"candles": [{"time": MS, "open": "37000.10", "high": "37020.50", "low": "36990", "close": "37010.0",
                      "volume": "1500"}], "more_candles": False},
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1500"},
    ),
    "coinbase_exchange": (
        "BTC-USD",
        f"[[{START},36990,37020.50,37000.10,37010.0,1.50000000]]",
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "deribit": (
        "BTC-USD-PERPETUAL",
        (f'{{"result":{{"status":"ok","ticks":[{MS}],"open":[37000.50],"high":[37020.5],"low":[36990],'
        '"close":[37010.0],"volume":[0.04054],"cost":[1500.0]}}'),
        {"open": "37000.50", "close": "37010.0", "high": "37020.5", "low": "36990", "volume": "1500.0"},
    ),
    "okx": (
        "BTC-USDT",
        {"code": "0", "msg": "", "data": [[str(MS), "37000.10", "37020.50", "36990", "37010.0", "1.50000000",
                                           "55512.3", "55512.3", "1"]]},
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "hyperliquid": (
        "BTC-USD-PERPETUAL",
        [{"t": MS, "T": MS + 59_999, "s": "BTC", "i": "1m", "o": "37000.10", "h": "37020.50", "l": "36990",
          "c": "37010.0", "v": "1.50000", "n": 189}],
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000",
         "trades": 189},
    ),
}  # fmt: skip


def body(value: Any) -> bytes:
    """Return an answer; text stands for itself."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@pytest.mark.parametrize("venue", sorted(CANDLES))
def test_a_documented_candle_is_read_to_the_last_digit(venue: str) -> None:
    """Decimals are the venue's own text, wherever they stand in its row."""
    name, answer, fields = CANDLES[venue]
    history = adapter(venue)
    where = asked(history, name)
    page = history.parse_candles(where, None, body(answer), TS)
    start = START * SECOND_NS
    assert page.items == (
        Candle(venue=venue, symbol=name, interval="1m", start=start, end=start + MINUTE_NS,
               ts_event=start + MINUTE_NS, ts_recv=TS, state="final", origin="backfill", **fields),
    )  # fmt: skip
    assert {name for name in ("quote_volume", "buy_volume", "trades") if name in fields} == history.candle_fields


def test_an_interval_without_trades_is_a_marker() -> None:
    """Binance and Kraken repeat the last price; we publish that there was none."""
    for venue, row in (
        ("binance_spot", [[MS, "7", "7", "7", "7", "0.00000000", MS + 59_999, "0.0", 0, "0.0", "0.0", "0"]]),
        ("kraken", {"result": {"XXBTZUSD": [[START, "7", "7", "7", "7", "0.0", "0.00000000", 0]], "last": START}}),
    ):
        history = adapter(venue)
        name = "BTC-USDT" if venue == "binance_spot" else "BTC-USD"
        (marker,) = history.parse_candles(asked(history, name), None, body(row), TS).items
        assert (marker.open, marker.high, marker.low, marker.close, marker.trades) == (None, None, None, None, 0)
        assert marker.valid
        assert marker.volume == "0"


KRAKEN_FRAME = (
    '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":37000.10,"qty":0.50,'
    '"ord_type":"market","trade_id":61044952,"timestamp":"2023-11-14T22:14:00.123456Z"}]}'
)
KRAKEN_TRADES = (
    f'{{"error":[],"result":{{"XXBTZUSD":[["37000.10","0.50",{START}.123456,"s","m","",61044952]],'
    f'"last":"{START}123456000"}}}}'
)

# The same execution in the stream and in history: the frame, and the answer with its cursor.
SAME: dict[str, tuple[str, list[Any], Any, str | None]] = {
    "bitfinex": (
        "tBTCUSD",
        [{"event": "subscribed", "channel": "trades", "chanId": 5, "symbol": "tBTCUSD", "pair": "BTCUSD"},
         f'[5,"te",[401597395,{MS},-0.50,37000.10]]'],
        f"[[401597395,{MS},-0.50,37000.10]]",
        None,
    ),
    "coinbase": (
        "BTC-USD",
        [{"channel": "market_trades", "timestamp": "2023-11-14T22:14:01Z", "sequence_num": 0, "events": [
            {"type": "update", "trades": [{"product_id": "BTC-USD", "trade_id": "34", "price": "37000.10",
             "size": "0.50", "time": "2023-11-14T22:14:00.123456Z", "side": "BUY"}]}]}],
        {"trades": [{"product_id": "BTC-USD", "trade_id": "34", "price": "37000.10", "size": "0.50",
                     "time": "2023-11-14T22:14:00.123456Z", "side": "BUY", "bid": "", "ask": ""}]},
        f"{START}:60:0",
    ),
    "binance_spot": (
        "BTCUSDT",
        [{"e": "trade", "E": MS, "s": "BTCUSDT", "t": 12345, "p": "37000.10", "q": "0.50", "T": MS, "m": True}],
        [{"id": 12345, "price": "37000.10", "qty": "0.50", "quoteQty": "1", "time": MS, "isBuyerMaker": True,
          "isBestMatch": True}],
        "id:12345",
    ),
    "binance_usdm": (
        "BTCUSDT",
        [{"e": "aggTrade", "E": MS, "s": "BTCUSDT", "a": 777, "p": "37000.10", "q": "0.50", "f": 12345, "l": 12346,
          "T": MS, "m": True}],
        [{"a": 777, "p": "37000.10", "q": "0.50", "f": 12345, "l": 12346, "T": MS, "m": True}],
        "id:777",
    ),
    "bybit": (
        "BTCUSDT",
        [{"topic": "publicTrade.BTCUSDT", "ts": MS, "type": "snapshot", "data": [
            {"i": "2290000001189048101", "T": MS, "p": "37000.10", "v": "0.50", "S": "Sell", "s": "BTCUSDT"}]}],
        {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": [
            {"execId": "2290000001189048101", "symbol": "BTCUSDT", "price": "37000.10", "size": "0.50",
             "side": "Sell", "time": str(MS), "isBlockTrade": False}]}},
        None,
    ),
    "kraken": (
        "BTC/USD",
        [KRAKEN_FRAME],
        KRAKEN_TRADES,
        None,
    ),
}  # fmt: skip

SAME |= {
    "gemini": (
        "BTCUSD",
        [{"E": MS * 1_000_000, "s": "btcusd", "t": 1234, "p": "37000.10", "q": "0.50", "m": True}],
        [{"timestamp": START, "timestampms": MS, "tid": 1234, "price": "37000.10", "amount": "0.50",
          "exchange": "gemini", "type": "sell"}],
        None,
    ),
    "kraken_futures": (
        "PI_XBTUSD",
        [('{"feed":"trade","product_id":"PI_XBTUSD","uid":"45ee9737-1877","side":"sell","type":"fill","seq":5,'
         f'"time":{MS},"qty":15000,"price":37000.50}}')],
        ('{"result":"success","history":[{"time":"2023-11-14T22:14:00.000Z","trade_id":81,"price":37000.50,'
        '"size":15000,"side":"sell","type":"fill","uid":"45ee9737-1877"}]}'),
        None,
    ),
    "coinbase_exchange": (
        "BTC-USD",
        [{"type": "match", "product_id": "BTC-USD", "trade_id": 34, "time": "2023-11-14T22:14:00.123456Z",
          "side": "buy", "price": "37000.10", "size": "0.50", "sequence": 9, "maker_order_id": "a",
          "taker_order_id": "b"}],
        [{"trade_id": 34, "time": "2023-11-14T22:14:00.123456Z", "side": "buy", "price": "37000.10",
          "size": "0.50"}],
        "34",
    ),
    "deribit": (
        "BTC-PERPETUAL",
        [('{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.BTC-PERPETUAL.100ms","data":['
         f'{{"trade_seq":7,"trade_id":"48077291","timestamp":{MS},"price":37000.50,"instrument_name":"BTC-PERPETUAL",'
         '"direction":"sell","amount":10.0,"liquidation":"T"}]}}')],
        (f'{{"result":{{"trades":[{{"trade_seq":7,"trade_id":"48077291","timestamp":{MS},"price":37000.50,'
        '"instrument_name":"BTC-PERPETUAL","direction":"sell","amount":10.0,"liquidation":"T"}],"has_more":false}}'),
        None,
    ),
}  # fmt: skip


def test_alpacas_trades_have_the_streams_ids_and_not_those_taken_back() -> None:
    """A canceled trade, and one that was replaced by a corrected one, are left out."""
    rows = [
        {"t": "2023-11-14T22:14:00.123456789Z", "x": "V", "p": 178.26, "s": 100, "c": ["@"], "i": 5, "z": "C"},
        {"t": "2023-11-14T22:14:01Z", "x": "V", "p": 178.26, "s": 100, "c": ["@"], "i": 6, "z": "C", "u": "canceled"},
        {"t": "2023-11-14T22:14:02Z", "x": "V", "p": 178.26, "s": 100, "c": ["@"], "i": 7, "z": "C", "u": "incorrect"},
        {"t": "2023-11-14T22:14:02Z", "x": "V", "p": 178.27, "s": 10, "c": ["@"], "i": 8, "z": "C", "u": "corrected"},
    ]
    feed = make_feed("alpaca", products=("AAPL",))
    feed.opened(TS)
    streamed = [
        trade
        for row in (rows[0], rows[3])
        for event in feed.received(body([{"T": "t", "S": "AAPL"} | row]), TS)
        if isinstance(event, Trades)
        for trade in event.trades
    ]
    history = trade_adapter("alpaca")
    answer = body({"trades": rows, "symbol": "AAPL", "next_page_token": None})
    page = history.parse_trades(asked(history, "AAPL"), None, answer, TS)
    assert list(page.items) == streamed
    assert len(streamed) == 2


def test_databentos_trades_are_those_of_its_files() -> None:
    """A recorded file as an answer gives the trades that the feed reads from it."""
    path = RECORDINGS / "cme_esu4_trades.dbn.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    streamed = [
        trade
        for event in make_feed("databento").received(data, TS)
        if isinstance(event, Trades)
        for trade in event.trades
    ]
    history = trade_adapter("databento")
    start, end = 1719878280 * SECOND_NS, 1719878520 * SECOND_NS
    where = Asked(instrument=history.instrument("ESU4"), start=start, end=end)
    page = history.parse_trades(where, f"{start}:{end}", data, TS)
    assert list(page.items) == streamed
    assert len(streamed) > 100


def test_databento_goes_no_further_than_the_dataset(served: Served) -> None:
    """The dataset's end is asked for first, since a range beyond it is refused; what is reached says so."""
    history = served.history("databento")
    now = time.time_ns()
    found, missing = served.trades(history, now - 10 * MINUTE_NS, now + 10 * MINUTE_NS)
    assert found
    assert not missing
    where = Asked(instrument=history.instrument("ESU4"), start=START * SECOND_NS, end=TS)
    available = "2023-11-14T22:20:00.000000000Z"
    first = history.parse_candles(
        msgspec.structs.replace(where, interval="1m"), None, body({"start": "", "end": available}), TS
    )
    assert first.cursor == f"{START * SECOND_NS}:{(START + 360) * SECOND_NS}"
    last = trade_adapter("databento").parse_trades(where, f"{START}:{START + 1}", EMPTY_DBN, TS)
    assert (last.cursor, last.reached) == (None, START + 1)


@pytest.mark.parametrize("venue", ["alpaca", "databento"])
def test_a_venue_that_needs_a_key_says_so_before_anything_is_asked(venue: str) -> None:
    """Whoever starts a job learns it from its settings, not from a refusal."""
    with pytest.raises(SettingsError, match="needs a key"):
        make_history(venue)


@pytest.mark.parametrize("venue", sorted(SAME))
def test_the_same_execution_is_the_same_trade_in_stream_and_history(venue: str) -> None:
    """Id, time, price, size and aggressor are equal, so that de-duplication joins the two."""
    product, frames, answer, cursor = SAME[venue]
    feed = make_feed(venue, products=(product,))
    feed.opened(TS)
    streamed: list[Trade] = []
    for frame in frames:
        for event in feed.received(body(frame), TS):
            if isinstance(event, Trades):
                streamed += event.trades
    history = trade_adapter(venue)
    page = history.parse_trades(asked(history, product), cursor, body(answer), TS)
    assert list(page.items) == streamed
    assert [trade.side for trade in streamed] == ["sell"]


# What no row may have, of every kind that venues write; `...` is a value that is not there.
WRONG: list[Any] = [None, True, -1, 0, -0.5, 2**63 - 1, 10**30, "", "-1", "1e35", "9" * 33, "NaN", "1e999", "x" * 300,
                    [], {}, [[]], "2096-10-02T07:06:40.5Z", ...]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value within another: what holds it, and where."""
    for at in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, at
        yield from places(value[at])


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_value_of_any_answer_is_an_error_that_names_it_or_rows_that_may_be(wrong: Any) -> None:
    """Whatever the value: nothing else is raised, and no trade is returned that no candle may be built from."""
    read: list[tuple[str, str, str | None, Any, bool]] = [(v, n, None, a, False) for v, (n, a, _) in CANDLES.items()]
    read += [(v, n, cursor, a, True) for v, (n, _, a, cursor) in SAME.items()]
    for venue, name, cursor, answer, is_trades in read:
        history = adapter(venue)
        where = asked(history, name)
        plain = json.loads(body(answer))
        for place in range(len(list(places(plain)))):
            spoilt = deepcopy(plain)
            holder, at = list(places(spoilt))[place]
            if wrong is ...:
                del holder[at]
            else:
                holder[at] = wrong
            with suppress(BadEvent, Refused, Unavailable):  # which name what is wrong
                if is_trades:
                    assert isinstance(history, TradeHistory)
                    for trade in checked_trades(history, where, cursor, body(spoilt), TS).items:
                        assert Decimal(trade.price) > 0
                        assert Decimal(trade.size) > 0
                else:
                    history.parse_candles(where, cursor, body(spoilt), TS)


@pytest.mark.parametrize("venue", sorted(CANDLES))
def test_a_candle_of_a_time_that_cannot_be_is_refused(venue: str) -> None:
    """Outside of the range it would be left out, and end the walk, unnoticed."""
    name, answer, _ = CANDLES[venue]
    history = adapter(venue)
    for year, at in (("1996", 846_000_000), ("2096", 3_999_999_960)):
        wrong = body(answer).replace(b"2023", year.encode()).replace(str(START).encode(), str(at).encode())
        try:
            (error,) = [item.error for item in history.parse_candles(asked(history, name), None, wrong, TS).refused]
        except BadEvent as raised:
            error = raised
        assert (error.reason, error.field) == ("time_out_of_bounds", "start")


BINANCE_ROW = {"id": 0, "price": "37000.10", "qty": "0.50", "quoteQty": "1", "time": MS, "isBuyerMaker": True}


@pytest.mark.parametrize("bad", [{"price": "0.00000000"}, {"price": "x"}, {"qty": "0"}, {"id": None}, {"time": -1}])
@pytest.mark.parametrize("place", range(4))
def test_a_bad_trade_costs_no_other_one_of_its_page(bad: dict[str, Any], place: int) -> None:
    """It is left out with its bytes and reason, and the time between its neighbours is missing, wherever it is."""
    history = trade_adapter("binance_spot")
    where = asked(history, "BTC-USDT")
    rows = [BINANCE_ROW | {"id": 10 + at, "time": MS + at} for at in range(4)]
    rows[place] |= bad
    page = checked_trades(history, where, "id:10", body(rows), TS)
    pages = [page]
    if place == 3:  # the next page has what came after it
        assert page.cursor == f"id:13:{(MS + 2) * 1_000_000}"
        rest = [rows[3], BINANCE_ROW | {"id": 14, "time": MS + 4}]
        pages.append(checked_trades(history, where, page.cursor, body(rest), TS))
    ids = [trade.trade_id for page in pages for trade in page.items]
    assert ids == [str(10 + at) for at in range(4 if place < 3 else 5) if at != place]
    ((payload, error),) = [item for page in pages for item in page.refused]
    assert json.loads(payload) == rows[place]
    assert error.value
    ((start, end, reason),) = [span for page in pages for span in page.missing]
    assert reason == "bad_item"
    assert start == (where.start if place == 0 else (MS + place - 1) * 1_000_000)
    assert end == (MS + place + 1) * 1_000_000 + 1


def test_a_bad_candle_costs_no_other_one_of_its_page() -> None:
    """One corrupt row is the only minute that is missing."""
    history = adapter("binance_spot")
    ((ms, *rest),) = CANDLES["binance_spot"][1]
    rows = [[ms + at * 60_000, *rest] for at in range(4)]
    rows[2][2] = "x"
    page = history.parse_candles(asked(history, "BTC-USDT"), None, body(rows), TS)
    assert [one.start for one in page.items] == [ms * 1_000_000 + at * MINUTE_NS for at in (0, 1, 3)]
    assert page.missing == (Span(page.items[1].end, page.items[2].start, "bad_item"),)
    assert [item.error.field for item in page.refused] == ["kline"]


def test_a_page_of_nothing_but_bad_items_is_another_format() -> None:
    """A venue that renames its fields is no sequence of bad trades: the page is refused, and the job says so."""
    history = trade_adapter("binance_spot")
    rows = [BINANCE_ROW | {"id": 10 + at, "price": None} for at in range(20)]
    with pytest.raises(BadEvent, match="price"):
        history.parse_trades(asked(history, "BTC-USDT"), "id:10", body(rows), TS)


def test_a_bad_trade_at_the_end_of_history_leaves_the_rest_of_the_range_missing() -> None:
    """Nothing shows when it was made, but that it came after the one before it."""
    history = trade_adapter("binance_spot")
    where = asked(history, "BTC-USDT")
    page = history.parse_trades(where, f"id:13:{MS * 1_000_000}", body([BINANCE_ROW | {"id": 13, "qty": "-1"}]), TS)
    assert (page.items, page.cursor, page.reached) == ((), None, where.end)
    assert page.missing == (Span(MS * 1_000_000, where.end, "bad_item"),)


def test_trades_that_cannot_be_make_no_candles() -> None:
    """The shell holds every venue to it: candles are made of trades before the stream app sees them."""
    history = trade_adapter("kraken")
    where = asked(history, "BTC-USD")
    assert checked_trades(history, where, None, KRAKEN_TRADES.encode(), TS).items
    for field, right, wrong in (
        ("price", '"37000.10"', '"-1"'), ("price", '"37000.10"', '"0"'), ("size", '"0.50"', '"0"'),
        ("ts_event", str(START), "4000000000"), ("ts_event", str(START), "5"),
    ):  # fmt: skip
        page = checked_trades(history, where, None, KRAKEN_TRADES.replace(right, wrong).encode(), TS)
        assert not page.items
        assert [item.error.field for item in page.refused] == [field]
        assert page.missing == (Span(where.start, where.end, "bad_item"),)


def test_krakens_next_page_is_where_its_last_trade_was() -> None:
    """A place far beyond it would end the walk as if there were no more trades."""
    history = trade_adapter("kraken")
    wrong = KRAKEN_TRADES.replace(f'"last":"{START}', '"last":"4000000000')
    with pytest.raises(BadEvent, match="bad_answer: last = '4000000000123456000'"):
        history.parse_trades(asked(history, "BTC-USD"), None, wrong.encode(), TS)


def test_databento_refuses_what_is_of_another_symbol_or_of_no_time() -> None:
    """It would be left out as if there had been nothing."""
    history = trade_adapter("databento")
    where = asked(history, "ESU4")
    cursor = f"{where.start}:{where.end}"

    def records(received: int, symbol: str) -> bytes:
        record = (dbn.TRADE_BODY.size // dbn.WORD, dbn.TRADE, 1, 7, where.start, SECOND_NS, 1, ord("T"), ord("B"), 0,
                  0, received, 0, 5)  # fmt: skip
        raw = dbn.RAW_SYMBOL
        name = databento_dbn.SymbolMappingMsg(1, 7, where.start, raw, symbol, raw, symbol, 0, 2**64 - 1)
        return EMPTY_DBN + bytes(name) + dbn.TRADE_BODY.pack(*record)

    assert history.parse_trades(where, cursor, records(where.start, "ESU4"), TS).items
    with pytest.raises(BadEvent, match="bad_symbol: symbol = 'ESZ4'"):
        history.parse_trades(where, cursor, records(where.start, "ESZ4"), TS)
    with pytest.raises(BadEvent, match="time_out_of_bounds: ts_recv"):
        history.parse_trades(where, cursor, records(4 * 10**18, "ESU4"), TS)


def test_candles_between_the_intervals_are_refused() -> None:
    """A candle that begins a second late is not of this interval, whatever the venue calls it; it costs no other."""
    history = adapter("bitfinex")
    sent = f"[[{MS},1,1,1,1,1],[{MS + 1000},1,1,1,1,1],[{MS + 60_000},1,1,1,1,1]]".encode()
    page = history.parse_candles(asked(history, "BTC-USD"), None, sent, TS)
    assert [candle.start for candle in page.items] == [MS * 1_000_000, (MS + 60_000) * 1_000_000]
    assert [item.error.reason for item in page.refused] == ["bad_time"]


def test_what_kraken_no_longer_has_is_missing(served: Served) -> None:
    """Its last 720 candles are returned; those before are a span, which trades can fill."""
    start, end = served.minute(10), served.minute(990)
    found, missing = served.candles(served.history("kraken"), start, end)
    (span,) = missing
    assert (span.start, span.reason) == (start, "too_old")
    assert span.end == found[0].start
    assert time.time_ns() - found[0].start <= 721 * MINUTE_NS
    assert len(found) == (end - span.end) // MINUTE_NS
    assert served.history("kraken").candles_kept == 720


def test_more_trades_than_a_page_in_one_second_are_missing(served: Served) -> None:
    """Coinbase sends the newest of a second: the others are a span, and the rest of the range is returned."""
    history = CoinbaseHistory(served.access(), rows_max=1)
    history.budget = served.history("coinbase").budget
    start, end = served.minute(898), served.minute(899)  # a minute with twins
    found, missing = served.trades(history, start, end)
    past = served.venue.trades(start, end)
    seconds = [one.ts // SECOND_NS for one in past]
    twins = [second for second in seconds if seconds.count(second) > 1]
    assert len(twins) == 2
    assert {one.trade_id for one in found} == {
        str(one.number) for at, one in enumerate(past) if seconds[at + 1 : at + 2] != [seconds[at]]
    }
    assert [span for span in missing if span.start == twins[0] * SECOND_NS]


def test_a_server_that_hides_trades_is_found_out_by_the_ids(served: Served) -> None:
    """Coinbase's pages that are shorter than was asked for cost requests, and no trade, the first ones neither."""
    served.venue.rows_max = 4
    history = CoinbaseHistory(served.access(), rows_max=1_000)
    history.budget = served.history("coinbase").budget
    start, end = served.minute(896), served.minute(940)
    found, missing = served.trades(history, start, end)
    assert [one.trade_id for one in found] == [str(one.number) for one in served.venue.trades(start, end)]
    assert not missing


def test_a_full_millisecond_is_missing_and_the_next_one_follows() -> None:
    """Bitfinex pages by the millisecond: what one hides behind a full page cannot be asked for."""
    history = trade_adapter("bitfinex")
    history._limit = 2  # type: ignore[attr-defined]
    where = asked(history, "BTC-USD")
    page = history.parse_trades(where, str(MS * 1_000_000), f"[[1,{MS},1,1],[2,{MS},1,1]]".encode(), TS)
    assert page.cursor == str((MS + 1) * 1_000_000)
    assert page.missing == (Span(MS * 1_000_000, (MS + 1) * 1_000_000, "too_many"),)


def test_a_cursor_that_does_not_move_ends_the_walk(served: Served) -> None:
    """A server that repeats itself costs one page, not an endless loop."""
    again = body({"products": [], "pagination": {"next_cursor": "same", "has_next": True}})
    served.venue.fail(Answer(200, again), Answer(200, again))
    with pytest.raises(BadEvent, match="stuck"):
        served.symbols(served.history("coinbase"))


def test_products_are_read_as_the_feeds_read_them(served: Served) -> None:
    """Increments, states and currencies come from the same fields."""
    (coinbase, *_) = served.symbols(served.history("coinbase"))
    assert (coinbase.tick_size, coinbase.size_increment, coinbase.status) == ("0.01", "0.0001", "online")
    (spot, *_) = served.symbols(served.history("binance_spot"))
    assert (spot.symbol, spot.size_increment, spot.min_order_size) == ("BTC-USDT", "0.00010000", "0.00010000")
    (kraken, *_) = served.symbols(served.history("kraken"))
    assert (kraken.symbol, kraken.venue_symbol, kraken.tick_size) == ("BTC-USD", "BTC/USD", "0.1")
    assert [one.symbol for one in served.symbols(served.history("bitfinex"))] == ["BTC-USD", "ETH-USD", "DUSK-USD"]


def test_every_venue_says_what_it_can(served: Served) -> None:
    """Each adapter has a budget that lets something through, minutes, and says whether it has empty ones."""
    for venue in sorted(HISTORIES):
        history = make_history(venue, served.access())
        assert history.venue == venue
        assert history.budget.burst > 0
        assert history.budget.per_s > 0
        assert "1m" in history.intervals
        assert isinstance(history.sparse, bool)


# --- Books ---

# The venue's own levels: a body of REST, the number or time, and prices and sizes of bids and of asks.
BOOKS: dict[str, tuple[str, Any, int]] = {
    "binance_spot": ("BTC-USDT", {"lastUpdateId": 1027024, "bids": [["4.00", "431.0"]], "asks": [["4.2", "12"]]},
                     1027024),
    "binance_usdm": ("BTC-USDT", {"lastUpdateId": 1027024, "E": MS, "T": MS, "bids": [["4.00", "431.0"]],
                                  "asks": [["4.2", "12"]]}, 1027024),
    "bybit": ("BTC-USDT", {"retCode": 0, "result": {"s": "BTCUSDT", "b": [["4.00", "431.0"]], "a": [["4.2", "12"]],
                                                    "ts": MS + 20, "u": 230704, "seq": 1432604333, "cts": MS}},
              MS * 1_000_000),
    "coinbase": ("BTC-USD", {"pricebook": {"product_id": "BTC-USD", "bids": [{"price": "4.00", "size": "431.0"}],
                                           "asks": [{"price": "4.2", "size": "12"}],
                                           "time": "2023-11-14T22:14:00.000Z"}}, MS * 1_000_000),
    "coinbase_exchange": ("BTC-USD", {"sequence": 13051505638, "bids": [["4.00", "431.0", 2]],
                                      "asks": [["4.2", "12", 1]], "time": "2023-11-14T22:14:00Z"}, 13051505638),
    "deribit": ("BTC-PERPETUAL", ('{"result":{"timestamp":1,"change_id":474988,"bids":[[4.00,431.0]],'
                '"asks":[[4.2,12]]}}'), 474988),
    "okx": ("BTC-USDT", {"code": "0", "msg": "", "data": [{"bids": [["4.00", "431.0", "0", "4"]],
                                                          "asks": [["4.2", "12", "0", "1"]], "ts": str(MS)}]},
            MS * 1_000_000),
    "hyperliquid": ("BTC", {"coin": "BTC", "time": MS, "levels": [[{"px": "4.00", "sz": "431.0", "n": 1}],
                                                                  [{"px": "4.2", "sz": "12", "n": 2}]]},
                    MS * 1_000_000),
}  # fmt: skip


@pytest.mark.parametrize("venue", sorted(HISTORIES))
def test_a_documented_book_is_read_to_the_last_digit_or_the_reason_is_given(venue: str) -> None:
    """With the number or the time that the stream's updates have."""
    history = adapter(venue)
    if isinstance(history.books, str):
        assert venue not in BOOKS
        return
    name, answer, mark = BOOKS[venue]
    found = history.books.read(body(answer))
    assert (found.mark, found.columns) == (mark, (["4.00"], ["431.0"], ["4.2"], ["12"]))
    request = history.books.request(history.instrument(name))
    asked_for = json.loads(request.body) if request.body else dict(request.query)
    assert history.instrument(name).venue_symbol in (request.path, *asked_for.values(), request.path.split("/")[1:2][0]
                                                     if "/" in request.path else "")  # fmt: skip
    with pytest.raises((BadEvent, Refused)):
        history.books.read(body({"error": "no such product"}))


# --- Kraken Futures, Coinbase Exchange, Deribit ---


def test_what_kraken_futures_hides_or_no_longer_has_is_missing() -> None:
    """A millisecond that fills a page, and the time before the first trade of a page that is not full."""
    history = trade_adapter("kraken_futures")
    where = asked(history, "PI_XBTUSD")
    row = {"time": "2023-11-14T22:14:00.000Z", "price": 1, "size": 1, "side": "buy", "type": "fill"}
    full = body({"history": [row | {"uid": str(at)} for at in range(100)]})
    half = history.parse_trades(where, f"{where.start}:8000000", full, TS)
    assert (half.items, half.cursor) == ((), f"{where.start}:4000000")
    last = history.parse_trades(where, f"{where.start}:1000000", full, TS)
    assert len(last.items) == 100
    assert last.missing == (Span(where.start, where.start + 1_000_000, "too_many"),)
    late = body({"history": [row | {"uid": "1", "time": "2023-11-14T22:15:00.000Z"}]})
    page = history.parse_trades(where, None, late, TS)
    assert page.missing == (Span(where.start, where.start + MINUTE_NS, "too_old"),)


def test_coinbase_exchange_finds_the_first_trade_of_a_range_by_halving_its_ids(served: Served) -> None:
    """As many requests as the newest id has binary digits, and one page."""
    history = served.history("coinbase_exchange")
    found, _ = served.trades(history, served.minute(896), served.minute(904))
    assert [one.trade_id for one in found] == [
        str(one.number) for one in served.venue.trades(served.minute(896), served.minute(904))
    ]
    newest = served.venue.tape.first_at(time.time_ns())
    assert len(served.venue.asked) <= newest.bit_length() + 3


@pytest.mark.parametrize(
    ("venue", "name", "symbol", "venue_symbol"),
    [
        ("deribit", "SOL-USDC-PERPETUAL", "SOL-USDC-PERPETUAL", "SOL_USDC-PERPETUAL"),
        ("deribit", "BTC-USD-29MAR24-50000-C", "BTC-USD-29MAR24-50000-C", "BTC-29MAR24-50000-C"),
        ("deribit", "BTC-USDC", "BTC-USDC", "BTC_USDC"),
        ("kraken_futures", "DOGE-USD-PF", "DOGE-USD-PF", "PF_XDGUSD"),
        ("kraken_futures", "ETH-USD-FI-211231", "ETH-USD-FI-211231", "FI_ETHUSD_211231"),
        ("hyperliquid", "kPEPE-USD-PERPETUAL", "kPEPE-USD-PERPETUAL", "kPEPE"),
        ("hyperliquid", "PURR-USDC", "PURR-USDC", "PURR/USDC"),
        ("gemini", "BTC-GUSD-PERP", "BTC-GUSD-PERP", "BTCGUSDPERP"),
    ],
)
def test_our_symbol_leads_to_the_venues_name(venue: str, name: str, symbol: str, venue_symbol: str) -> None:
    """And back."""
    history = adapter(venue)
    for either in (name, venue_symbol):
        found = history.instrument(either)
        assert (found.symbol, found.venue_symbol) == (symbol, venue_symbol)


def test_deribits_linear_contracts_count_in_the_base_currency() -> None:
    """Their trades do as well; those of inverse contracts count in US dollars, which is `cost`."""
    history = adapter("deribit")
    answer = body(CANDLES["deribit"][1])
    (one,) = history.parse_candles(asked(history, "SOL_USDC-PERPETUAL"), None, answer, TS).items
    assert one.volume == "0.04054"


# --- Bybit ---


@pytest.mark.parametrize(
    ("name", "symbol", "venue_symbol", "category"),
    [
        ("BTC-USDT", "BTC-USDT", "BTCUSDT", "spot"),
        ("BTCUSDT", "BTC-USDT", "BTCUSDT", "spot"),
        ("linear:BTCUSDT", "BTC-USDT-PERP", "BTCUSDT", "linear"),
        ("BTC-USDT-PERP", "BTC-USDT-PERP", "BTCUSDT", "linear"),
        ("BTC-USDC-PERP", "BTC-USDC-PERP", "BTCPERP", "linear"),
        ("BTCPERP", "BTC-USDC-PERP", "BTCPERP", "linear"),
        ("BTC-26DEC25", "BTC-USDC-26DEC25", "BTC-26DEC25", "linear"),
        ("BTC-USDC-26DEC25", "BTC-USDC-26DEC25", "BTC-26DEC25", "linear"),
        ("BTC-USDT-26DEC25", "BTC-USDT-26DEC25", "BTCUSDT-26DEC25", "linear"),
        ("BTCUSD", "BTC-USD-PERP", "BTCUSD", "inverse"),
        ("BTC-USD-PERP", "BTC-USD-PERP", "BTCUSD", "inverse"),
        ("BTC-USD-H26", "BTC-USD-H26", "BTCUSDH26", "inverse"),
    ],
)
def test_bybits_market_is_in_our_symbol(name: str, symbol: str, venue_symbol: str, category: str) -> None:
    """One name is several products: the request has the market of the one that is meant."""
    history = trade_adapter("bybit")
    found = history.instrument(name)
    assert (found.symbol, found.venue_symbol) == (symbol, venue_symbol)
    for request in (history.candles(asked(history, name), None), history.trades(asked(history, name), None)):
        assert dict(request.query)["category"] == category
        assert dict(request.query)["symbol"] == venue_symbol
    for wrong in ("option:BTCUSDT", "BTC-26DEC25-100000-C"):
        with pytest.raises(BadEvent):
            history.instrument(wrong)


def test_bybit_has_only_its_latest_trades(served: Served) -> None:
    """Those before the oldest of them are a span that nobody has any more; the others are all there."""
    history = served.history("bybit")
    now = time.time_ns()
    start = now - 90 * MINUTE_NS
    found, missing = served.trades(history, start, now)
    past = served.venue.trades(start, now)
    assert 0 < len(found) <= 60 < len(past)
    assert [one.trade_id for one in found] == [f"id-{one.number}" for one in past[-len(found) :]]
    ((begin, end, reason),) = missing
    assert (begin, reason) == (start, "too_old")
    assert end == found[0].ts_event + 1_000_000
    last = found[-1].ts_event - 1
    assert served.trades(history, last, now) == ([one for one in found if one.ts_event > last], [])


def test_okxs_failures_are_later_or_final() -> None:
    """A rate limit is tried again, a wrong name is not."""
    history = adapter("okx")
    for code, error in (("50011", Unavailable), ("51001", Refused)):
        with pytest.raises(error, match=f"{code} why"):
            history.parse_candles(asked(history, "BTC-USDT"), None, body({"code": code, "msg": "why"}), TS)


def test_bybits_failures_are_later_or_final() -> None:
    """A rate limit is tried again, a wrong symbol is not; lists of another market are not taken for ours."""
    history = adapter("bybit")
    where = asked(history, "BTC-USDT")
    for code, error in ((10006, Unavailable), (10001, Refused)):
        with pytest.raises(error, match=f"{code} why"):
            history.parse_candles(where, None, body({"retCode": code, "retMsg": "why", "result": {}}), TS)
    with pytest.raises(BadEvent, match="category = 'linear'"):
        history.parse_candles(where, None, body(CANDLES["bybit"][1]), TS)


def test_an_inverse_contracts_turnover_is_no_quote_volume() -> None:
    """It is in the coin ("Get Kline"); the volume is in contracts, as its trades are."""
    history = adapter("bybit")
    answer = {"retCode": 0, "result": {"category": "inverse", "list": [
        [str(MS), "17071", "17073", "17027", "17055.5", "268611", "15.74462667"]]}}  # fmt: skip
    (one,) = history.parse_candles(asked(history, "BTC-USD-PERP"), None, body(answer), TS).items
    assert (one.volume, one.quote_volume) == ("268611", None)
