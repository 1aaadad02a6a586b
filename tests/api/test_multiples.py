"""Candles of any multiple of an interval: equal to those made of the trades at once, and valid only if whole."""

from __future__ import annotations

import csv
import io
import time
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.rest.models.candles import CandlesAnswer
from api.rest.models.market import BooksAnswer, QuotesAnswer
from api.rest.multiples import add_up, part_of
from marketdata.clock import MINUTE_NS, format_rfc3339
from marketdata.decimals import plain
from marketdata.events import BookUpdate, Candle

START = 1_786_309_500_000_000_000 // (420 * 1_000_000_000) * (420 * 1_000_000_000)  # a multiple of seven minutes
DECIMALS = st.decimals(Decimal("1e-30"), Decimal("1e30"), allow_nan=False, places=25)
TRADES = st.lists(st.tuples(st.integers(0, 6), DECIMALS, DECIMALS, st.booleans()), max_size=30)


def candle_of(start: int, end: int, trades: list[tuple[int, Decimal, Decimal, bool]], **more: Any) -> Candle:
    """Return the candle of trades (minute, price, size, bought), made of them alone."""
    prices = [price for _, price, _, _ in trades]
    with localcontext(prec=500):
        return Candle(
            venue="v", symbol="s", interval="1m", start=start, end=end, ts_event=end, ts_recv=end,
            open=plain(prices[0]) if prices else None, close=plain(prices[-1]) if prices else None,
            high=plain(max(prices)) if prices else None, low=plain(min(prices)) if prices else None,
            volume=plain(sum((size for _, _, size, _ in trades), Decimal(0))),
            quote_volume=plain(sum((price * size for _, price, size, _ in trades), Decimal(0))),
            buy_volume=plain(sum((size for _, _, size, bought in trades if bought), Decimal(0))),
            trades=len(trades), state="final", **more,
        )  # fmt: skip


@given(TRADES, st.randoms())
def test_the_sum_of_minutes_is_the_candle_of_their_trades(
    trades: list[tuple[int, Decimal, Decimal, bool]], random: Any
) -> None:
    """Exact to the last digit, whatever the order in which the minutes come."""
    trades.sort(key=lambda trade: trade[0])
    parts = [
        candle_of(START + n * MINUTE_NS, START + (n + 1) * MINUTE_NS, [each for each in trades if each[0] == n])
        for n in range(7)
    ]
    random.shuffle(parts)
    made = add_up("7m", START, parts, MINUTE_NS, newest=False)
    direct = candle_of(START, START + 7 * MINUTE_NS, trades)
    fields = ("start", "end", "open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trades", "state")
    assert [getattr(made, name) for name in fields] == [getattr(direct, name) for name in fields]
    assert (made.valid, made.reason, made.revision) == (True, "", 0)


@given(st.sets(st.integers(0, 6), min_size=1), st.sets(st.integers(0, 6)), st.booleans())
def test_a_candle_is_valid_only_if_each_part_is_there_and_valid(
    there: set[int], invalid: set[int], newest: bool
) -> None:
    """The newest may still lack what is to come, and no more than that."""
    parts = [
        candle_of(START + n * MINUTE_NS, START + (n + 1) * MINUTE_NS, [], valid=n not in invalid, reason="stale")
        for n in there
    ]
    made = add_up("7m", START, parts, MINUTE_NS, newest=newest)
    expected = set(range(max(there) + 1)) if newest else set(range(7))
    assert made.valid == (there == expected and not there & invalid)
    assert made.state == ("open" if newest and max(there) < 6 else "final")
    if not made.valid:
        assert made.reason == ("stale" if there & invalid else "gap")


def test_unknown_sums_stay_unknown() -> None:
    """A part whose trades the venue does not count makes the count unknown, not smaller."""
    minute = candle_of(START, START + MINUTE_NS, [])
    other = Candle(
        venue="v", symbol="s", interval="1m", start=START + MINUTE_NS, end=START + 2 * MINUTE_NS, ts_event=1, ts_recv=1,
        volume="2", state="revised", revision=3, origin="repair",
    )  # fmt: skip
    made = add_up("2m", START, [minute, other], MINUTE_NS, newest=False)
    assert (made.trades, made.quote_volume, made.buy_volume, made.volume) == (None, None, None, "2")
    assert (made.state, made.revision, made.origin) == ("revised", 3, "repair")


@pytest.mark.parametrize(
    ("interval", "part"),
    [("3m", "1m"), ("10m", "5m"), ("45m", "15m"), ("2h", "1h"), ("12h", "4h"), ("90s", None), ("25h", None),
     ("tick:5", None)],
)  # fmt: skip
def test_parts_are_the_longest_that_fit(interval: str, part: str | None) -> None:
    """So that few are read."""
    assert part_of(interval) == part


@pytest.fixture
def stored(shared: Any, symbol: str, wait_for: Any) -> str:
    """A symbol with forty stored minutes: number 9 is missing, 20 is not valid."""
    shared.execute(
        "INSERT INTO candles (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, ts_end, start_ns, end_ns, "
        "trades, revision, valid, reason, state, interval, open, high, low, close, volume, quote_volume, buy_volume, "
        "venue, symbol, origin) SELECT to_timestamp(s / 1000000000), s, s, n, 0, to_timestamp(s / 1000000000 + 60), s, "
        "s + 60000000000, 3, 0, n <> 20, CASE WHEN n = 20 THEN 'gap' ELSE '' END, 'final', '1m', n + 1.10, n + 5, "
        "n + 0.5, n + 2.20, 0.1, 0.7, 0.05, 'coinbase', %s, 'live' FROM (SELECT n, %s + n * 60000000000 AS s FROM "
        "generate_series(0, 39) AS n WHERE n <> 9) AS minutes",
        [(symbol, START)],
    )
    shared.produce(
        BookUpdate(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=START, ts_recv=time.time_ns(),
                   kind="snapshot", bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"]),
        Candle(venue="coinbase", symbol=symbol, interval="1m", start=START + 40 * MINUTE_NS,
               end=START + 41 * MINUTE_NS, ts_event=START, ts_recv=time.time_ns(), open="50", high="60", low="40",
               close="55.5", volume="1", quote_volume="50", buy_volume="1", trades=1),
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/candles"
    wait_for("the open one", lambda: shared.client.get(path, params={"limit": 1}).json()["data"][0]["state"] == "open")
    return symbol


def test_seven_minutes_are_answered_from_stored_and_live_minutes(shared: Any, stored: str) -> None:
    """In pages of any size, by a range, and as a file; the newest is open, what lacks a minute is not valid."""
    path = f"/api/v1/market/{stored}/candles"
    answer = shared.get(path, interval="7m")
    CandlesAnswer.model_validate(answer)
    assert answer["interval"] == "7m"
    data = answer["data"]
    assert [each["start"] for each in data] == [format_rfc3339(START + n * 7 * MINUTE_NS) for n in range(5, -1, -1)]
    assert [(each["state"], each["valid"], each["reason"]) for each in data] == [
        ("open", True, ""), ("final", True, ""), ("final", True, ""), ("final", False, "gap"), ("final", False, "gap"),
        ("final", True, ""),
    ]  # fmt: skip
    oldest, newest = data[-1], data[0]
    assert [oldest[name] for name in ("open", "high", "low", "close", "volume", "quote_volume", "trades", "vwap")] == [
        "1.10", "11", "0.5", "8.20", "0.7", "4.9", 21, "7"
    ]  # fmt: skip
    assert (newest["open"], newest["close"], newest["volume"]) == ("36.10", "55.5", "1.5")
    for limit in (1, 2, 5):
        pages: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = shared.get(path, interval="7m", limit=limit, **cursor)
            pages += page["data"]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert pages == data
    span = {"start": format_rfc3339(START + 7 * MINUTE_NS), "end": format_rfc3339(START + 15 * MINUTE_NS)}
    assert shared.get(path, interval="7m", **span)["data"] == data[3:5]
    file = shared.client.get(path, params={"interval": "7m", "format": "csv"})
    rows = list(csv.DictReader(io.StringIO(file.text)))
    assert [(row["start_ns"], row["close"], row["volume"]) for row in rows] == [
        (each["start_ns"], each["close"], each["volume"]) for each in data
    ]


def test_stored_quotes_and_books_are_answered_exactly(shared: Any, stored: str) -> None:
    """Newest first in pages, to the last digit and nanosecond; unknown values are null."""
    shared.execute(
        "INSERT INTO quotes (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, valid, reason, venue, symbol, "
        "line, origin, source, bid, bid_size, ask, ask_size) SELECT to_timestamp(%s / 1000000000), %s + n, 7, n, 0, "
        "true, '', 'coinbase', %s, 'l', 'live', 'book', 100.10, 1.0, 100.20, n FROM generate_series(0, 6) AS n",
        [(START, START, stored)],
    )
    path = f"/api/v1/market/{stored}/quotes"
    answer = shared.get(path, limit=3)
    QuotesAnswer.model_validate(answer)
    assert answer["data"][0] == {
        "timestamp": format_rfc3339(START), "ts_event": str(START + 6), "ts_recv": "7", "origin": "live", "valid": True,
        "reason": "", "source": "book", "bid": "100.10", "bid_size": "1.0", "ask": "100.20", "ask_size": "6",
        "last": None, "volume_24h": None, "high_24h": None, "low_24h": None, "change_24h": None,
    }  # fmt: skip
    found = answer["data"]
    while answer["next"] is not None:
        answer = shared.client.get(answer["next"]).json()
        found += answer["data"]
    assert [each["ask_size"] for each in found] == ["6", "5", "4", "3", "2", "1", "0"]
    shared.execute(
        "INSERT INTO books (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, valid, reason, venue, symbol, "
        "line, origin, sequence, depth, updates, bid_prices, bid_sizes, ask_prices, ask_sizes) VALUES "
        "(to_timestamp(%s / 1000000000), %s, 8, 1, 0, true, '', 'coinbase', %s, 'l', 'live', 17, 2, 5, "
        "'{100.10,100.0}', '{1.0,2}', '{100.20}', '{0.00000001}')",
        [(START, START + 3, stored)],
    )
    books = shared.get(f"/api/v1/market/{stored}/books")
    BooksAnswer.model_validate(books)
    assert books["data"] == [
        {
            "timestamp": format_rfc3339(START), "ts_event": str(START + 3), "ts_recv": "8", "origin": "live",
            "valid": True, "reason": "", "depth": 2, "sequence": 17,
            "bids": [["100.10", "1.0"], ["100.0", "2"]], "asks": [["100.20", "0.00000001"]],
        }
    ]  # fmt: skip
    assert shared.client.get(f"/api/v1/market/{stored}/books", params={"format": "parquet"}).content[:4] == b"PAR1"
