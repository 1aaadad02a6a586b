"""Each venue's documented answers, read to the last digit; the ids of the stream; symbols and products."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from infra.simulator.venues.tape import MINUTE_NS, SECOND_NS
from marketdata.errors import BadEvent, Refused, SettingsError
from marketdata.events import Candle, Trade, Trades
from producers.venues import HISTORIES, make_feed, make_history
from producers.venues.kit.history import Asked
from tests.producers.history.documented import (
    BOOKS,
    CANDLES,
    EMPTY_DBN,
    MS,
    SAME,
    START,
    TS,
    adapter,
    asked,
    body,
    trade_adapter,
)

if TYPE_CHECKING:
    from tests.producers.history.conftest import Served


RECORDINGS = Path(__file__).resolve().parents[4] / "shared" / "recordings"


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


def test_an_inverse_contracts_turnover_is_no_quote_volume() -> None:
    """It is in the coin ("Get Kline"); the volume is in contracts, as its trades are."""
    history = adapter("bybit")
    answer = {"retCode": 0, "result": {"category": "inverse", "list": [
        [str(MS), "17071", "17073", "17027", "17055.5", "268611", "15.74462667"]]}}  # fmt: skip
    (one,) = history.parse_candles(asked(history, "BTC-USD-PERP"), None, body(answer), TS).items
    assert (one.volume, one.quote_volume) == ("268611", None)
