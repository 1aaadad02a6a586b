"""The candle service, and symbols in every usual notation."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.core.notations import Notations
from api.rest.models.candle_service import (
    HealthAnswer,
    LatestCandleAnswer,
    ServiceCandlesAnswer,
    ServiceGapsAnswer,
    ServiceStatusAnswer,
    ServiceSymbolsAnswer,
)
from marketdata.clock import MINUTE_NS, format_rfc3339
from marketdata.events import BookUpdate, Candle, Instrument
from tests.waiting import wait_for

START = 1_786_309_500_000_000_000 // (60 * MINUTE_NS) * (60 * MINUTE_NS)
EXCHANGE = "bitfinex"


def at(minute: int) -> str:
    """Return the time of a minute after the start."""
    return format_rfc3339(START + minute * MINUTE_NS)


@pytest.fixture(scope="module")
def base(shared: Any) -> str:
    """The base currency of a symbol with thirty stored minutes, an open one, a backfill and two gaps."""
    name = uuid.uuid4().hex[:6].upper()
    symbol = f"{name}-USD"
    shared.execute(
        "INSERT INTO candles (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, ts_end, start_ns, end_ns, "
        "trades, revision, valid, reason, state, interval, open, high, low, close, volume, quote_volume, buy_volume, "
        "venue, symbol, origin) SELECT to_timestamp(s / 1000000000), s, s, n, 0, to_timestamp(s / 1000000000 + 60), s, "
        "s + 60000000000, 3, 0, true, '', 'final', '1m', 1.10, 2, 0.50, n + 1.20, 0.10, 1, 1, %s, %s, 'live' "
        "FROM (SELECT n, %s + n * 60000000000 AS s FROM generate_series(0, 29) AS n) AS minutes",
        [(EXCHANGE, symbol, START)],
    )
    shared.execute(
        "INSERT INTO ingestion_jobs (job_id, venue, symbol, kind, interval, state, start_ns, end_ns, cursor_ns, "
        "fetched) VALUES (%s, %s, %s, 'candles', '1m', 'done', %s, %s, %s, 7)",
        [(symbol, EXCHANGE, symbol, START, START + MINUTE_NS, START + MINUTE_NS)],
    )
    shared.execute(
        "INSERT INTO gaps (gap_id, venue, symbol, line, reason, detail, state, ts_from_ns, found_by, detected_at, "
        "repaired_at) VALUES (%s, %s, %s, 'l', 'sequence', '', %s, %s, 'feed', to_timestamp(%s), to_timestamp(%s))",
        [
            (f"{symbol}0", EXCHANGE, symbol, "open", START, START // 10**9, None),
            (f"{symbol}1", EXCHANGE, symbol, "repaired", START, START // 10**9 - 5, START // 10**9),
        ],
    )
    shared.produce(
        BookUpdate(venue=EXCHANGE, symbol=symbol, line="l", ts_event=START, ts_recv=time.time_ns(), kind="snapshot",
                   bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"]),
        Instrument(venue=EXCHANGE, symbol=symbol, ts_recv=1, venue_symbol=f"t{name}X:USDX", base_currency=name,
                   quote_currency="USD", kind="spot", status="online"),
        Candle(venue=EXCHANGE, symbol=symbol, interval="1m", start=START + 30 * MINUTE_NS,
               end=START + 31 * MINUTE_NS, ts_event=START, ts_recv=time.time_ns(), open="5", high="6", low="4",
               close="5.5", volume="1", quote_volume="5", buy_volume="1", trades=1),
    )  # fmt: skip
    path = f"/candles/latest?exchange={EXCHANGE}&symbol={symbol}"
    wait_for("the open one", lambda: (shared.client.get(path).json().get("candle") or {}).get("closed") is False)
    wait_for("its listing", lambda: shared.client.get(f"/candles/latest?symbol=t{name}X:USDX").status_code == 200)
    return name


def test_candles_are_answered_oldest_first_in_parts(shared: Any, base: str) -> None:
    """From `start` on as many as the limit, then from `next_start`; without a start the newest."""
    symbol = f"{base}-USD"
    newest = shared.get("/candles", symbol=symbol, limit=3)
    ServiceCandlesAnswer.model_validate(newest)
    assert [each["timestamp"] for each in newest["candles"]] == [at(28), at(29), at(30)]
    assert (newest["exchange"], newest["symbol"], newest["timeframe"]) == (EXCHANGE, symbol, "1m")
    assert newest["candles"][1] == {
        "timestamp": at(29), "open": "1.10", "high": "2", "low": "0.50", "close": "30.20", "volume": "0.10",
        "trades": 3, "closed": True, "valid": True, "reason": "",
    }  # fmt: skip
    for limit in (1, 7, 31, 1000):
        found: list[str] = []
        start: str | None = at(0)
        while start is not None:
            part = shared.get("/candles", symbol=symbol, exchange=EXCHANGE, start=start, limit=limit)
            assert len(part["candles"]) <= limit
            found += [each["timestamp"] for each in part["candles"]]
            start = part["next_start"]
        assert found == [at(minute) for minute in range(31)]
    some = shared.get("/candles", symbol=symbol, start=at(3), end=at(5))
    assert ([each["timestamp"] for each in some["candles"]], some["next_start"]) == ([at(3), at(4)], None)
    three = shared.get("/candles", symbol=symbol, timeframe="3m", start=at(0), end=at(6))["candles"]
    assert [(each["timestamp"], each["close"], each["volume"]) for each in three] == [
        (at(0), "3.20", "0.3"), (at(3), "6.20", "0.3")
    ]  # fmt: skip


def test_the_latest_candle_may_be_open(shared: Any, base: str) -> None:
    """And there may be none."""
    answer = shared.get("/candles/latest", symbol=f"{base}-USD")
    LatestCandleAnswer.model_validate(answer)
    assert (answer["candle"]["timestamp"], answer["candle"]["closed"]) == (at(30), False)
    assert shared.get("/candles/latest", symbol=f"{base}-USD", timeframe="1d")["candle"] is None


def test_gaps_symbols_and_status_are_in_its_own_words(shared: Any, base: str) -> None:
    """`exchange`, `timeframe`, `candles_fetched`, `repaired`."""
    symbol = f"{base}-USD"
    gaps = shared.get("/gaps", exchange=EXCHANGE, symbol=symbol, timeframe="1m")
    ServiceGapsAnswer.model_validate(gaps)
    assert [(each["start"], each["repaired"]) for each in gaps["gaps"]] == [(at(0), False), (at(0), True)]
    assert shared.get("/gaps", symbol=symbol, start=at(0), limit=1)["gaps"] == gaps["gaps"][:1]
    symbols = shared.get("/symbols", exchange=EXCHANGE)
    ServiceSymbolsAnswer.model_validate(symbols)
    assert {
        "exchange": EXCHANGE, "symbol": symbol, "exchange_symbol": f"t{base}X:USDX", "base_currency": base,
        "quote_currency": "USD", "status": "online",
    } in symbols["symbols"]  # fmt: skip
    status = shared.get("/status")
    ServiceStatusAnswer.model_validate(status)
    (job,) = [each for each in status["jobs"] if each["symbol"] == symbol]
    assert (job["exchange"], job["timeframe"], job["status"], job["candles_fetched"]) == (EXCHANGE, "1m", "done", 7)
    wait_for("the exchange", lambda: EXCHANGE in [each["exchange"] for each in shared.get("/status")["exchanges"]])
    health = shared.get("/health")
    HealthAnswer.model_validate(health)
    assert health["status"] == "healthy"


@pytest.mark.parametrize("path", ["/api/v1/market/{}/ticker", "/api/v1/market/{}/candles", "/candles?symbol={}"])
def test_a_symbol_may_be_written_in_every_usual_way(shared: Any, base: str, path: str) -> None:
    """The answer has our own name of it; also where a slash is in the path."""
    for name in (f"{base}-USD", f"{base}/USD", f"{base}%2FUSD", f"{base}USD", f"{base.lower()}_usd", f"t{base}X:USDX"):
        answer = shared.client.get(path.format(name))
        assert answer.status_code == 200, (name, answer.text)
        assert answer.json()["symbol"] == f"{base}-USD"


def test_lists_are_filtered_by_every_notation(shared: Any, base: str) -> None:
    """Gaps, jobs, anomalies and the status know the symbol as it is stored."""
    for name in (f"{base}/USD", f"{base}USD"):
        assert len(shared.get("/api/v1/gaps", symbol=name)["data"]) == 2
        assert len(shared.get("/api/v1/jobs", symbol=name)["data"]) == 1
        assert [each["symbol"] for each in shared.get("/api/v1/status", symbol=name)["data"]["symbols"]] == [
            f"{base}-USD"
        ]
        assert shared.get("/api/v1/anomalies", symbol=name)["data"] == []


def test_a_name_of_several_symbols_is_refused(shared: Any, symbol: str) -> None:
    """A guess would answer about another instrument."""
    base = symbol.partition("-")[0]
    shared.produce(
        *(
            BookUpdate(venue=EXCHANGE, symbol=name, line="l", ts_event=1, ts_recv=1, kind="snapshot", bid_prices=["1"],
                       bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"])
            for name in (f"{base}A-USD", f"{base}-AUSD")
        )
    )  # fmt: skip
    path = f"/api/v1/market/{base}AUSD/ticker"
    wait_for("both", lambda: shared.client.get(path).status_code == 409)
    problem = shared.get(path, 409)
    assert (problem["code"], problem["near"]) == ("ambiguous_symbol", [f"{base}-AUSD", f"{base}A-USD"])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/candles", "symbol"), ("/candles?symbol=X&timeframe=2w", "timeframe"),
        ("/candles?symbol=X&timeframe=tick:5", "timeframe"), ("/candles?symbol=X&limit=1001", "limit"),
        ("/candles?symbol=X&start=now", "start"), ("/gaps?timeframe=x", "timeframe"), ("/symbols?venue=x", "venue"),
        ("/candles/latest?symbol=X&interval=1m", "interval"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_refused_by_its_name_here(shared: Any, path: str, field: str) -> None:
    """The candle service's own names, not those of the other paths."""
    answer = shared.client.get(path)
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == [field]


NAMES = st.text("ABC-/_: ", min_size=1, max_size=6)


@given(st.lists(st.tuples(NAMES, st.sampled_from("xy"), NAMES)), NAMES)
def test_notations_find_exactly_the_names_that_differ_only_in_separators(
    added: list[tuple[str, str, str]], wanted: str
) -> None:
    """And none that was removed."""

    def plain(name: str) -> str:
        return "".join(each for each in name if each.isalpha())

    known = Notations()
    for each in added:
        known.add(*each)
    symbols = {symbol for name, _, symbol in added if plain(name) == plain(wanted)}
    assert known.symbols(wanted) == sorted(symbols)
    at_x = {symbol for name, venue, symbol in added if plain(name) == plain(wanted) and venue == "x"}
    assert known.symbols(wanted.lower(), "x") == sorted(at_x)
    for each in added:
        known.remove(*each)
    assert known.symbols(wanted) == []
