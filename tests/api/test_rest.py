"""Live answers over REST, from records in the real Kafka."""

from __future__ import annotations

import gzip
import time
from decimal import Decimal
from typing import Any

import orjson
import pytest
import zstandard

from api.rest.models.ledger import StatusAnswer, SummaryAnswer
from api.rest.models.market import BookAnswer, SymbolsAnswer, TickerAnswer, TradesAnswer
from marketdata.clock import format_rfc3339
from marketdata.events import BookUpdate, FeedStatus, Instrument, Quote, Trade, Trades

TS = 1_786_309_548_228_568_123  # 2026-08-09T21:05:48.228568123Z
STAMP = "2026-08-09T21:05:48.228568Z"


def source(symbol: str, venue: str = "coinbase", **more: Any) -> dict[str, Any]:
    """Return what every event has."""
    return {"venue": venue, "symbol": symbol, "line": f"{venue}/0", "ts_event": TS, "ts_recv": time.time_ns()} | more


def snapshot(symbol: str, bids: dict[str, str], asks: dict[str, str], **more: Any) -> BookUpdate:
    """Return a snapshot of a book."""
    return BookUpdate(
        **source(symbol, **more), kind="snapshot", bid_prices=list(bids), bid_sizes=list(bids.values()),
        ask_prices=list(asks), ask_sizes=list(asks.values()),
    )  # fmt: skip


def trades(symbol: str, *numbers: int, **more: Any) -> Trades:
    """Return trades whose prices tell their number."""
    made = tuple(
        Trade(trade_id=str(number), ts_event=TS + number * 1000, price=f"{number}.50", size="0.10", side="sell")
        for number in numbers
    )
    return Trades(**source(symbol, **more), trades=made)


def book_path(symbol: str) -> str:
    """Return the path of a symbol's book."""
    return f"/api/v1/market/{symbol}/orderbook"


def test_the_book_is_answered_to_the_last_digit(shared: Any, symbol: str, wait_for: Any) -> None:
    """Best first, the venue's own strings, no more levels than asked for, and the whole book when asked for."""
    bids = {f"{100 - number / 100:.2f}000": "0.10" for number in range(60)}
    asks = {f"{100.01 + number / 100:.2f}": "1e-8" for number in range(60)}
    shared.produce(snapshot(symbol, dict(reversed(bids.items())), asks, sequence=17))
    wait_for("the book", lambda: shared.client.get(book_path(symbol)).status_code == 200)
    answer = shared.get(book_path(symbol))
    assert answer == {
        "type": "l2_snapshot", "venue": "coinbase", "symbol": symbol, "timestamp": STAMP, "ts_event": str(TS),
        "valid": True, "reason": "",
        "depth": 20, "sequence": 17,
        "data": {"bids": [list(each) for each in list(bids.items())[:20]],
                 "asks": [list(each) for each in list(asks.items())[:20]]},
    }  # fmt: skip
    BookAnswer.model_validate(answer)
    whole = shared.get(book_path(symbol), depth=50_000)["data"]
    assert whole == {"bids": [list(each) for each in bids.items()], "asks": [list(each) for each in asks.items()]}


def test_the_ticker_has_every_field_as_a_decimal_string(shared: Any, symbol: str, wait_for: Any) -> None:
    """Prices of the book, statistics of the venue, the last trade."""
    shared.produce(
        snapshot(symbol, {"100.10": "1"}, {"100.20": "2"}),
        Quote(**source(symbol), source="book", bid="100.10", bid_size="1", ask="100.20", ask_size="2"),
        Quote(
            **source(symbol), bid="1", ask="9", last="100.15", volume_24h="1234.5", high_24h="110.00", low_24h="90",
            change_24h="-1.25",
        ),
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/ticker"
    wait_for("the ticker", lambda: (shared.client.get(path).json().get("data") or {}).get("bid") == "100.10")
    wait_for("its statistics", lambda: shared.get(path)["data"]["last"])
    answer = shared.get(path)
    TickerAnswer.model_validate(answer)
    assert answer == {
        "type": "ticker", "venue": "coinbase", "symbol": symbol, "timestamp": STAMP, "ts_event": str(TS),
        "valid": True, "reason": "",
        "data": {"bid": "100.10", "bid_size": "1", "ask": "100.20", "ask_size": "2", "last": "100.15",
                 "volume_24h": "1234.5", "high_24h": "110.00", "low_24h": "90", "change_24h": "-1.25"},
    }  # fmt: skip


def test_recent_trades_come_newest_first_in_pages_without_a_hole(shared: Any, symbol: str, wait_for: Any) -> None:
    """Pages of seven over trades of equal and different times give each trade once, in order."""
    shared.produce(*[trades(symbol, number, number, number + 1) for number in range(0, 60, 2)])
    path = f"/api/v1/market/{symbol}/trades"
    wait_for("the trades", lambda: len(shared.client.get(path, params={"limit": 1000}).json().get("data", ())) == 90)
    everything = shared.get(path, limit=1000)
    TradesAnswer.model_validate(everything)
    stamps = [each["timestamp"] for each in everything["data"]]
    assert stamps == sorted(stamps, reverse=True)
    assert everything["next_cursor"] is None
    pages: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = shared.get(path, limit=7, **({"cursor": cursor} if cursor else {}))
        pages += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["data"]) == 7
    assert pages == everything["data"]


def test_trades_of_a_range_are_those_from_start_up_to_end(shared: Any, symbol: str, wait_for: Any) -> None:
    """The start is in, the end is not, to the microsecond and in any zone."""
    shared.produce(trades(symbol, *range(10)))
    path = f"/api/v1/market/{symbol}/trades"
    wait_for("the trades", lambda: len(shared.client.get(path).json().get("data", ())) == 10)
    found = shared.get(path, start="2026-08-09T23:05:48.228570+02:00", end="2026-08-09T21:05:48.228575Z")
    # Trade n happened at ...568123 ns plus n microseconds.
    assert [each["trade_id"] for each in found["data"]] == ["6", "5", "4", "3", "2"]


def test_a_gap_makes_book_ticker_and_status_invalid_until_the_snapshot(shared: Any, symbol: str, wait_for: Any) -> None:
    """The reason is in each answer, and no old level is served meanwhile."""
    shared.produce(
        snapshot(symbol, {"100": "1"}, {"101": "1"}),
        Quote(**source(symbol), source="book", bid="100", bid_size="1", ask="101", ask_size="1"),
    )
    wait_for("the ticker", lambda: shared.client.get(f"/api/v1/market/{symbol}/ticker").json().get("valid"))
    shared.produce(
        BookUpdate(**source(symbol), kind="clear", valid=False, reason="gap"),
        FeedStatus(**source(symbol), kind="gap", reason="sequence", gap_id="g1", expected=3, received=5),
    )
    wait_for("the gap", lambda: not shared.get(book_path(symbol))["valid"])
    book = shared.get(book_path(symbol))
    assert (book["reason"], book["data"]) == ("gap", {"bids": [], "asks": []})
    ticker = shared.get(f"/api/v1/market/{symbol}/ticker")
    assert (ticker["valid"], ticker["reason"]) == (False, "gap")
    wait_for("the event", lambda: shared.get("/api/v1/status", symbol=symbol)["data"]["events"])
    status = shared.get("/api/v1/status", symbol=symbol)
    StatusAnswer.model_validate(status)
    assert (status["valid"], status["reason"]) == (False, "gap")
    assert [(each["kind"], each["expected"], each["received"]) for each in status["data"]["events"]] == [("gap", 3, 5)]
    shared.produce(snapshot(symbol, {"90": "1"}, {"91": "1"}))
    wait_for("the new book", lambda: shared.get(book_path(symbol))["valid"])
    assert shared.get(book_path(symbol))["data"] == {"bids": [["90", "1"]], "asks": [["91", "1"]]}


def test_the_status_comes_in_pages_and_by_reason(shared: Any, symbol: str, wait_for: Any) -> None:
    """Pages in the order of names give each symbol once; filters name those that may not be trusted, and why."""
    names = [f"{symbol.partition('-')[0]}{number}-USD" for number in range(5)]
    venue = f"v{symbol[:8].lower()}"
    shared.produce(*(snapshot(each, {"1": "1"}, {"2": "1"}, venue=venue) for each in names))
    shared.produce(BookUpdate(**source(names[3], venue), kind="clear", valid=False, reason="gap"))
    wait_for("the gap", lambda: shared.get("/api/v1/status", venue=venue, reason="gap")["data"]["symbols"])
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = shared.get("/api/v1/status", venue=venue, limit=2, **cursor)
        StatusAnswer.model_validate(page)
        assert (page["valid"], page["reason"]) == (False, "gap")  # of all, on whatever page
        found += [each["symbol"] for each in page["data"]["symbols"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == names
    bad = shared.get("/api/v1/status", venue=venue, valid="false")["data"]["symbols"]
    assert [(each["symbol"], each["reason"]) for each in bad] == [(names[3], "gap")]
    good = shared.get("/api/v1/status", venue=venue, valid="true")
    assert (good["valid"], len(good["data"]["symbols"])) == (True, 4)
    assert shared.get("/api/v1/status", venue=venue, reason="stale")["data"]["symbols"] == []

    def summary() -> list[dict[str, Any]]:
        answer = shared.get("/api/v1/status/summary")
        SummaryAnswer.model_validate(answer)
        return [each for each in answer["data"] if each["venue"] == venue and each["symbols"] == 5]

    (counts,) = wait_for("the summary", summary)
    assert (counts["valid"], counts["reasons"], counts["halted"]) == (4, {"gap": 1}, 0)
    assert counts["messages"] == 6
    assert len(shared.client.get("/api/v1/status/summary").content) < 20_000


def test_symbols_have_the_currencies_and_steps_of_the_venue(shared: Any, symbol: str, wait_for: Any) -> None:
    """The fields of an instrument, and whether its data may be trusted now."""
    base = symbol.partition("-")[0]
    shared.produce(
        Instrument(
            venue="coinbase", symbol=symbol, ts_recv=TS, venue_symbol=symbol, base_currency=base, quote_currency="USD",
            tick_size="0.01", size_increment="0.00000001", min_order_size="0.0001", status="online",
            kind="option", expiry=TS, strike="60000", contract_multiplier="0.1", settlement_currency="BTC",
        )
    )  # fmt: skip

    def listed() -> list[dict[str, Any]]:
        answer = shared.get("/api/v1/market/symbols", venue="coinbase")
        SymbolsAnswer.model_validate(answer)
        return [each for each in answer["data"] if each["symbol"] == symbol]

    assert wait_for("the symbol", listed) == [
        {
            "venue": "coinbase", "symbol": symbol, "venue_symbol": symbol, "base_currency": base,
            "quote_currency": "USD", "min_order_size": "0.0001", "tick_size": "0.01", "size_increment": "0.00000001",
            "status": "online", "kind": "option", "expiry": format_rfc3339(TS), "strike": "60000",
            "contract_multiplier": "0.1", "settlement_currency": "BTC", "inverse": None,
            "valid": False, "reason": "resyncing",
        }
    ]  # fmt: skip


def test_a_symbol_of_several_venues_must_say_which(shared: Any, symbol: str, wait_for: Any) -> None:
    """409 names the venues; with ?venue= each answers for itself."""
    shared.produce(snapshot(symbol, {"1": "1"}, {"2": "1"}))
    shared.produce(snapshot(symbol, {"3": "1"}, {"4": "1"}, venue="kraken"))
    wait_for("both", lambda: shared.client.get(book_path(symbol)).status_code == 409)
    problem = shared.get(book_path(symbol), 409)
    assert problem["venues"] == ["coinbase", "kraken"]
    assert "venue=" in problem["detail"]
    assert shared.get(book_path(symbol), venue="kraken")["data"]["bids"] == [["3", "1"]]
    assert shared.get(book_path(symbol), venue="coinbase")["data"]["bids"] == [["1", "1"]]
    missing = shared.get(book_path(symbol), 404, venue="okx")
    assert missing["venues"] == ["coinbase", "kraken"]


def test_an_unknown_symbol_is_answered_with_near_names(shared: Any, symbol: str, wait_for: Any) -> None:
    """404 as a problem that helps."""
    shared.produce(snapshot(symbol, {"1": "1"}, {"2": "1"}))
    wait_for("the book", lambda: shared.client.get(book_path(symbol)).status_code == 200)
    answer = shared.client.get(book_path(symbol + "T"))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert symbol in answer.json()["near"]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("trades?limit=0", "limit", "0"),
        ("trades?limit=1001", "limit", "1001"),
        ("trades?limit=ten", "limit", "ten"),
        ("trades?start=2026-08-09T21:05:48", "start", "2026-08-09T21:05:48"),
        ("trades?end=yesterday", "end", "yesterday"),
        ("trades?start=1786309548", "start", "1786309548"),
        ("trades?start=0001-01-01T00:00:00Z", "start", "0001-01-01T00:00:00Z"),
        ("trades?start=9999-12-31T00:00:00Z", "start", "9999-12-31T00:00:00Z"),
        ("trades?start=2026-08-09T21:00:00Z&end=2026-08-09T21:00:00Z", "end", "2026-08-09T21:00:00Z"),
        ("trades?cursor=nonsense", "cursor", "nonsense"),
        ("trades?cursor=WyJhIiwxLDJd", "cursor", "WyJhIiwxLDJd"),
        ("orderbook?depth=0", "depth", "0"),
        ("orderbook?depth=50001", "depth", "50001"),
        ("candles?interval=90s", "interval", "90s"),
        ("candles?interval=25h", "interval", "25h"),
        ("candles/revisions?interval=2m", "interval", "2m"),
        ("quotes?limit=1001", "limit", "1001"),
        ("books?end=yesterday", "end", "yesterday"),
        ("candles?recipe=none_such", "recipe", "none_such"),
        ("candles?recipe=a&interval=1m", "recipe", "a"),
        ("candles?interval=%F0%9F%92%A9", "interval", "💩"),
        ("candles?interval=tick:1e9999999", "interval", "tick:1e9999999"),
        ("candles?limit=100000000000000000000", "limit", "100000000000000000000"),
        ("candles?source=exchange", "source", "exchange"),
        ("candles?start=2026-08-09T21:00:00Z&end=2026-08-09T20:00:00Z", "end", "2026-08-09T20:00:00Z"),
        ("candles?cursor=Wy0xLDJd", "cursor", "Wy0xLDJd"),
        ("candles?from=2026-08-09T21:00:00Z", "from", "2026-08-09T21:00:00Z"),
        ("candles?interval=1m&interval=5m", "interval", "5m"),
        ("candles/revisions?recipe=none_such", "recipe", "none_such"),
        ("candles/explain", "start", ""),
        ("candles/explain?start=", "start", ""),
        ("candles/explain?start=2026-08-09T21:00:00Z&recipe=none_such", "recipe", "none_such"),
        ("derivatives?limit=1001", "limit", "1001"),
        ("derivatives?end=1960-01-01T00:00:00Z", "end", "1960-01-01T00:00:00Z"),
        ("derivatives?cursor=Wy0xLDJd", "cursor", "Wy0xLDJd"),
        ("metrics?limit=-1", "limit", "-1"),
        ("metrics?depth=20", "depth", "20"),
        ("consolidated?venue=coinbase", "venue", "coinbase"),
        ("ticker?venue=", "venue", ""),
        ("ticker?venue=%00", "venue", "\x00"),
    ],
)
def test_a_bad_parameter_is_named_with_its_value(shared: Any, path: str, field: str, value: str) -> None:
    """422 as a problem, before anything else is looked at."""
    answer = shared.client.get(f"/api/v1/market/BTC-USD/{path}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    assert [(each["field"], each["value"]) for each in problem["errors"]] == [(field, value)]
    assert field in problem["detail"]


def test_a_message_states_what_is_allowed(shared: Any) -> None:
    """A person who reads the error knows what to change."""
    for path, message in (
        ("trades?limit=1001", "must be at most 1000"),
        ("trades?limit=0", "must be at least 1"),
        ("trades?limit=ten", "must be a whole number"),
        ("ticker?venue=", "must have at least one character, and no control characters"),
        ("candles?source=exchange", "must be 'trades' or 'venue'"),
        ("candles/explain", "must be given"),
        ("metrics?depth=20", "is not a parameter here; there are venue, start, end, limit, cursor, format"),
        ("candles?interval=1m&interval=5m", "is given more than once"),
    ):
        problem = shared.client.get(f"/api/v1/market/BTC-USD/{path}").json()
        assert [each["message"] for each in problem["errors"]] == [message], path


def test_a_plus_that_became_a_space_is_explained(shared: Any) -> None:
    """The most common mistake with zones in addresses."""
    answer = shared.client.get("/api/v1/market/BTC-USD/trades?start=2026-08-09T21:05:48+02:00")
    assert answer.status_code == 422
    assert "%2B" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("POST", "/api/v1/status", 405), ("GET", "/static/../settings.py", 404)],
)
def test_whatever_goes_wrong_is_a_problem(shared: Any, method: str, path: str, status: int) -> None:
    """No error is HTML or plain text."""
    answer = shared.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["instance"]


def test_large_answers_are_compressed_as_the_client_likes(shared: Any, symbol: str, wait_for: Any) -> None:
    """zstd, gzip or plain: the same JSON."""
    shared.produce(snapshot(symbol, {f"{1 + number / 1000:.3f}": "1" for number in range(1000)}, {"3": "1"}))
    wait_for("the book", lambda: shared.client.get(book_path(symbol)).status_code == 200)
    bodies = {}
    for encoding in ("zstd, gzip", "gzip", "identity", "zstd;q=0, gzip"):
        request = shared.client.build_request(
            "GET", book_path(symbol), params={"depth": 1000}, headers={"Accept-Encoding": encoding}
        )
        answer = shared.client.send(request, stream=True)
        bodies[encoding] = (answer.headers.get("content-encoding"), b"".join(answer.iter_raw()))
    plain = orjson.loads(bodies["identity"][1])
    assert [found for found, _ in bodies.values()] == ["zstd", "gzip", None, "gzip"]
    assert orjson.loads(zstandard.ZstdDecompressor().decompress(bodies["zstd, gzip"][1], 10**7)) == plain
    assert orjson.loads(gzip.decompress(bodies["gzip"][1])) == plain
    assert len(plain["data"]["bids"]) == 1000
    assert len(bodies["zstd, gzip"][1]) < len(bodies["identity"][1]) / 2


def test_numbers_stay_exact_from_topic_to_answer(shared: Any, symbol: str, wait_for: Any) -> None:
    """A price with more digits than a float holds arrives as it was sent."""
    price = "0.1234567890123456789012345"
    shared.produce(snapshot(symbol, {price: "1000000000000000000000.1"}, {}))
    wait_for("the book", lambda: shared.client.get(book_path(symbol)).status_code == 200)
    ((found, size),) = shared.get(book_path(symbol))["data"]["bids"]
    assert (Decimal(found), size) == (Decimal(price), "1000000000000000000000.1")


def test_metrics_and_pages_are_served(shared: Any) -> None:
    """/metrics in Prometheus' format; the page of documentation needs nothing from elsewhere."""
    assert "tickstream_ws_clients" in shared.client.get("/metrics").text
    page = shared.client.get("/docs")
    assert page.status_code == 200
    # The page as it is built, or the one that says how to build it.
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "/openapi.json" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    front = shared.client.get("/")
    assert front.status_code == 200
    assert front.headers["content-type"] == "text/html; charset=utf-8"
