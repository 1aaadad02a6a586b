"""History over REST, from rows in the real TimescaleDB, merged with what memory holds."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from api.rest.models.candles import CandlesAnswer
from api.rest.models.ledger import AnomaliesAnswer, GapsAnswer, JobsAnswer
from api.rest.models.market import TradesAnswer
from marketdata.events import BookUpdate, Candle, Trade, Trades

MINUTE_NS = 60_000_000_000
START = 1_786_309_500_000_000_000  # 2026-08-09T21:05:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(ns: int) -> datetime:
    """Return nanoseconds as the database has them."""
    return EPOCH + timedelta(microseconds=ns // 1000)


def stamp(ns: int) -> str:
    """Return nanoseconds as answers have them."""
    return moment(ns).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def store_trades(stage: Any, symbol: str, numbers: range) -> None:
    """Put trades into the table, number n at n milliseconds after the start, from offset n."""
    stage.execute(
        "INSERT INTO trades (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, item, valid, reason, "
        "liquidation, price, size, side, action, trade_id, venue, symbol, line, origin) VALUES "
        "(%s, %s, %s, %s, 0, 0, true, '', false, %s, 0.10, 'buy', 'new', %s, 'coinbase', %s, 'coinbase/0', 'live')",
        (
            (moment(at), at, at, number, f"{number}.50", str(number), symbol)
            for number, at in ((number, START + number * 1_000_000) for number in numbers)
        ),
    )


def produce_book(stage: Any, symbol: str) -> None:
    """Make a symbol known."""
    stage.produce(
        BookUpdate(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=START, ts_recv=time.time_ns(),
                   kind="snapshot", bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"])
    )  # fmt: skip


def known(stage: Any, symbol: str, wait_for: Any) -> None:
    """Wait until a symbol is known."""
    wait_for("the symbol", lambda: stage.client.get(f"/api/v1/market/{symbol}/ticker").status_code == 200)


def all_pages(stage: Any, path: str, limit: int, **parameters: Any) -> list[dict[str, Any]]:
    """Return the data of every page."""
    data: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = stage.get(path, limit=limit, **parameters, **cursor)
        data += page["data"]
        if page["next_cursor"] is None:
            return data
        assert len(page["data"]) == limit
        cursor = {"cursor": page["next_cursor"]}


def test_pages_of_trades_go_from_memory_into_the_database_without_a_hole(
    shared: Any, symbol: str, wait_for: Any
) -> None:
    """Old trades are only in the table, new ones only in memory: paging gives each once, newest first."""
    store_trades(shared, symbol, range(40))
    shared.produce(
        *[
            Trades(
                venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=START, ts_recv=time.time_ns(),
                trades=(Trade(trade_id=str(number), ts_event=START + number * 1_000_000, price=f"{number}.50",
                              size="0.10", side="buy"),),
            )
            for number in range(40, 60)
        ]
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/trades"
    wait_for("the trades", lambda: len(shared.client.get(path).json().get("data", ())) == 60)
    TradesAnswer.model_validate(shared.get(path))
    for limit in (1, 7, 20, 60, 100):
        assert [each["trade_id"] for each in all_pages(shared, path, limit)] == [str(n) for n in reversed(range(60))]
    stored = shared.get(path, start=stamp(START + 10_000_000), end=stamp(START + 12_000_000))
    assert stored["data"] == [
        {"trade_id": str(number), "price": f"{number}.50", "size": "0.10", "side": "buy", "liquidation": False,
         "timestamp": stamp(START + number * 1_000_000), "ts_event": str(START + number * 1_000_000),
         "ts_recv": str(START + number * 1_000_000), "valid": True, "reason": ""}
        for number in (11, 10)
    ]  # fmt: skip


def test_a_stored_amendment_says_what_it_amends(shared: Any, symbol: str, wait_for: Any) -> None:
    """As a live one does; a row of before the column has no original."""
    store_trades(shared, symbol, range(3))
    change = "UPDATE trades SET action = %s, original_id = %s WHERE symbol = %s AND trade_id = %s"
    shared.execute(change, [("correct", "0", symbol, "1"), ("cancel", "", symbol, "2")])
    produce_book(shared, symbol)
    known(shared, symbol, wait_for)
    page = shared.get(f"/api/v1/market/{symbol}/trades")
    TradesAnswer.model_validate(page)
    assert [(each["trade_id"], each.get("action"), each.get("original_id")) for each in page["data"]] == [
        ("2", "cancel", None), ("1", "correct", "0"), ("0", None, None)
    ]  # fmt: skip


def store_candles(stage: Any, symbol: str, rows: list[tuple[int, int, str, str]], table: str = "candles") -> None:
    """Put closed candles into the table: (minute, revision, state, close)."""
    stage.execute(
        f"INSERT INTO {table} (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, ts_end, start_ns, end_ns, "
        "trades, revision, valid, reason, state, interval, open, high, low, close, volume, quote_volume, buy_volume, "
        "venue, symbol, origin) VALUES (%s, %s, %s, %s, 0, %s, %s, %s, 3, %s, true, '', %s, '1m', 1.0, 9, 0.5, %s, 7, "
        "70, 3, 'coinbase', %s, 'live')",
        (
            (
                moment(at), at, at, minute * 10 + revision, moment(at + MINUTE_NS), at, at + MINUTE_NS, revision, state,
                close, symbol,
            )
            for minute, revision, state, close, at in (
                (minute, revision, state, close, START + minute * MINUTE_NS) for minute, revision, state, close in rows
            )
        ),
    )  # fmt: skip


def test_candles_show_the_last_revision_and_the_open_one(shared: Any, symbol: str, wait_for: Any) -> None:
    """Closed candles from the table, the open one from memory; how one was corrected is told on request."""
    store_candles(shared, symbol, [(minute, 0, "final", "2.50") for minute in range(30)])
    store_candles(shared, symbol, [(7, 1, "revised", "3.00"), (7, 2, "revised", "4.00")])
    shared.produce(
        Candle(
            venue="coinbase", symbol=symbol, interval="1m", start=START + 30 * MINUTE_NS, end=START + 31 * MINUTE_NS,
            ts_event=START, ts_recv=time.time_ns(), open="5", high="6", low="4", close="5.10", volume="1", trades=1,
        )
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/candles"
    wait_for("the open candle", lambda: len(shared.client.get(path).json().get("data", ())) == 31)
    answer = shared.get(path)
    CandlesAnswer.model_validate(answer)
    assert [each["start"] for each in answer["data"]] == [stamp(START + n * MINUTE_NS) for n in reversed(range(31))]
    opened, corrected = answer["data"][0], answer["data"][23]
    assert (opened["state"], opened["close"], opened["end"]) == ("open", "5.10", stamp(START + 31 * MINUTE_NS))
    assert (corrected["state"], corrected["revision"], corrected["close"]) == ("revised", 2, "4.00")
    assert all_pages(shared, path, 4) == answer["data"]
    some = shared.get(path, start=stamp(START + 7 * MINUTE_NS), end=stamp(START + 9 * MINUTE_NS))["data"]
    assert [each["close"] for each in some] == ["2.50", "4.00"]
    history = shared.get(f"{path}/revisions", start=stamp(START + 7 * MINUTE_NS), end=stamp(START + 8 * MINUTE_NS))
    CandlesAnswer.model_validate(history)
    assert [(each["revision"], each["close"]) for each in history["data"]] == [(2, "4.00"), (1, "3.00"), (0, "2.50")]
    assert len(all_pages(shared, f"{path}/revisions", 5)) == 32


def bar(symbol: str, number: int | None, interval: str, start: int, **more: Any) -> Candle:
    """Return a closed bar of a recipe."""
    fields: dict[str, Any] = {"state": "final", "trades": 2, "open": "5", "high": "6", "low": "4", "close": "5.10"}
    return Candle(
        venue="coinbase", symbol=symbol, interval=interval, start=start, end=start + 1, ts_event=start,
        ts_recv=time.time_ns(), recipe="ticks" if number is not None else "fives", recipe_hash="0123456789abcdef",
        number=number, volume="3", quote_volume="10", buy_volume="1", sell_volume="2", buy_trades=1, sell_trades=1,
        **(fields | more),
    )  # fmt: skip


def test_bars_by_recipe_are_answered_by_interval_and_by_name(shared: Any, symbol: str, wait_for: Any) -> None:
    """Stored ones and live ones, in pages, also where several start at the same time."""
    shared.execute(
        "INSERT INTO candles (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, ts_end, start_ns, end_ns, "
        "trades, revision, valid, reason, state, interval, open, high, low, close, volume, quote_volume, buy_volume, "
        "venue, symbol, origin, recipe, recipe_hash, number, sell_volume, buy_trades, sell_trades) VALUES (%s, %s, %s, "
        "%s, 0, %s, %s, %s, 2, 0, true, '', 'final', 'tick:2', 5, 6, 4, 5.10, 3, 10, 1, 'coinbase', %s, 'live', "
        "'ticks', '0123456789abcdef', %s, 2, 1, 1)",
        ((moment(START), START, START, number, moment(START), START, START + 1, symbol, number) for number in range(7)),
    )
    shared.produce(
        *(bar(symbol, number, "tick:2", START + number // 9) for number in range(6, 10)),
        bar(symbol, None, "5s", START),
    )
    path = f"/api/v1/market/{symbol}/candles"
    wait_for("the bars", lambda: len(shared.client.get(f"{path}?recipe=ticks").json().get("data", ())) == 10)
    answer = shared.get(path, recipe="ticks")
    CandlesAnswer.model_validate(answer)
    assert [each["number"] for each in answer["data"]] == list(reversed(range(10)))
    assert answer["interval"] == "tick:2"
    assert all_pages(shared, path, 3, recipe="ticks") == answer["data"]
    assert all_pages(shared, path, 3, interval="tick:2") == answer["data"]
    differ = {"number", "start_ns", "end_ns", "ts_event", "ts_recv"}
    facts = [{name: value for name, value in each.items() if name not in differ} for each in answer["data"][1:]]
    assert all(each == facts[0] for each in facts)
    assert (facts[0]["vwap"], facts[0]["sell_volume"], facts[0]["recipe"]) == ("3.33333333333333333", "2", "ticks")
    (five,) = shared.get(path, interval="5s")["data"]
    assert (five["recipe"], five["number"]) == ("fives", None)
    for query in ({"interval": "6s"}, {"recipe": "sixes"}, {"recipe": "fives", "interval": "5s"}):
        (error,) = shared.get(path, 422, **query)["errors"]
        assert (error["field"], error["value"]) == next(iter(query.items()))


def test_the_venues_own_candles_are_answered_on_request(shared: Any, symbol: str, wait_for: Any) -> None:
    """In the same form and by the same pages, with nothing of ours among them, neither stored nor live."""
    store_candles(shared, symbol, [(0, 0, "final", "2.50")])
    theirs = [(minute, 0, "final", "3.00") for minute in range(5)]
    store_candles(shared, symbol, [*theirs, (2, 1, "revised", "4.00")], "venue_candles")
    produce_book(shared, symbol)
    shared.produce(
        Candle(venue="coinbase", symbol=symbol, interval="1m", start=START, end=START + MINUTE_NS, ts_event=START,
               ts_recv=time.time_ns(), open="5", high="6", low="4", close="5.10", volume="1", trades=1)
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/candles"
    wait_for("the open candle", lambda: shared.client.get(path).json().get("data", [{}])[0].get("close") == "5.10")
    answer = shared.get(path, source="venue")
    CandlesAnswer.model_validate(answer)
    assert (answer["source"], shared.get(path)["source"]) == ("venue", "trades")
    assert [each["close"] for each in answer["data"]] == ["3.00", "3.00", "4.00", "3.00", "3.00"]
    assert all_pages(shared, path, 2, source="venue") == answer["data"]
    revised = all_pages(shared, f"{path}/revisions", 4, source="venue")
    assert [(each["revision"], each["close"]) for each in revised[2:4]] == [(1, "4.00"), (0, "3.00")]
    (error,) = shared.get(path, 422, source="ours")["errors"]
    assert (error["field"], error["value"]) == ("source", "ours")


def test_the_ledger_of_gaps_is_paged_and_filtered(shared: Any, symbol: str) -> None:
    """Open and repaired gaps, latest detected first, two of them at the same moment."""
    shared.execute(
        "INSERT INTO gaps (gap_id, venue, symbol, channel, line, reason, detail, state, ts_from, ts_from_ns, expected, "
        "received, found_by, detected_at, repaired_at, repaired_by) VALUES (%s, 'coinbase', %s, 'l2_data', "
        "'coinbase/0', 'sequence', 'text', %s, %s, %s, 41, 43, 'sequence', %s, %s, %s)",
        (
            (
                f"{symbol}-{number}", symbol, "open" if number == 4 else "repaired", moment(START), START,
                moment(START + number // 2 * 1_000_000_000), None if number == 4 else moment(START + 10**10),
                None if number == 4 else "snapshot",
            )
            for number in range(5)
        ),
    )  # fmt: skip
    answer = shared.get("/api/v1/gaps", symbol=symbol)
    GapsAnswer.model_validate(answer)
    assert [each["gap_id"] for each in answer["data"]] == [f"{symbol}-{number}" for number in (4, 3, 2, 1, 0)]
    assert all_pages(shared, "/api/v1/gaps", 2, symbol=symbol) == answer["data"]
    (open_one,) = shared.get("/api/v1/gaps", symbol=symbol, state="open")["data"]
    assert open_one == {
        "gap_id": f"{symbol}-4", "venue": "coinbase", "symbol": symbol, "channel": "l2_data", "line": "coinbase/0",
        "reason": "sequence", "detail": "text", "state": "open", "start": stamp(START), "end": None, "expected": 41,
        "received": 43, "found_by": "sequence", "detected_at": stamp(START + 2 * 10**9), "repaired_at": None,
        "repaired_by": None, "start_ns": str(START), "end_ns": None,
    }  # fmt: skip
    early = shared.get("/api/v1/gaps", symbol=symbol, start=stamp(START), end=stamp(START + 10**9))["data"]
    assert [each["gap_id"] for each in early] == [f"{symbol}-1", f"{symbol}-0"]


def test_the_jobs_of_history_are_paged_and_filtered(shared: Any, symbol: str) -> None:
    """Latest change first, each with its range, its cursor and what went wrong."""
    shared.execute(
        "INSERT INTO ingestion_jobs (job_id, venue, symbol, kind, interval, state, start_ns, end_ns, cursor_ns, "
        "fetched, last_error, started_at, updated_at) "
        "VALUES (%s, 'coinbase', %s, 'trades', '', %s, %s, %s, %s, 7, %s, %s, %s)",
        (
            (
                f"{symbol}-{number}", symbol, "failed" if number == 2 else "running", START, START + 10**9, START,
                "gone" if number == 2 else None, moment(START), moment(START + number * 1_000_000_000),
            )
            for number in range(3)
        ),
    )  # fmt: skip
    answer = shared.get("/api/v1/jobs", symbol=symbol)
    JobsAnswer.model_validate(answer)
    assert [each["job_id"] for each in answer["data"]] == [f"{symbol}-{number}" for number in (2, 1, 0)]
    assert all_pages(shared, "/api/v1/jobs", 2, symbol=symbol) == answer["data"]
    assert shared.get("/api/v1/jobs", symbol=symbol, state="failed", kind="trades")["data"] == [
        {
            "job_id": f"{symbol}-2", "venue": "coinbase", "symbol": symbol, "kind": "trades", "interval": "",
            "state": "failed", "start": stamp(START), "end": stamp(START + 10**9), "cursor": stamp(START), "fetched": 7,
            "published": 0, "attempts": 1, "last_error": "gone", "started_at": stamp(START),
            "updated_at": stamp(START + 2 * 10**9), "completed_at": None,
            "start_ns": str(START), "end_ns": str(START + 10**9), "cursor_ns": str(START),
        }
    ]  # fmt: skip


def test_anomalies_are_paged_and_filtered(shared: Any, symbol: str) -> None:
    """Newest first, with value, limit and evidence; those of before they had a life count as ended."""
    shared.execute(
        "INSERT INTO anomalies (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, venue, symbol, anomaly_id, "
        "kind, severity, metric, value, limit_value, evidence) VALUES (%s, %s, %s, %s, 0, 'coinbase', %s, %s, %s, "
        "'warning', 'spread', 0.0200, 0.01, %s)",
        (
            (
                moment(START), START, START, number, symbol, str(number), "gap" if number % 2 else "spread_blowout",
                json.dumps({"n": str(number)}),
            )
            for number in range(6)
        ),
    )  # fmt: skip
    answer = shared.get("/api/v1/anomalies", symbol=symbol)
    AnomaliesAnswer.model_validate(answer)
    assert [each["anomaly_id"] for each in answer["data"]] == ["5", "4", "3", "2", "1", "0"]
    assert all_pages(shared, "/api/v1/anomalies", 4, symbol=symbol) == answer["data"]
    (first, *_) = shared.get("/api/v1/anomalies", symbol=symbol, kind="spread_blowout")["data"]
    assert first == {
        "anomaly_id": "4", "venue": "coinbase", "symbol": symbol, "timestamp": stamp(START), "kind": "spread_blowout",
        "severity": "warning", "metric": "spread", "value": "0.0200", "limit": "0.01", "evidence": {"n": "4"},
        "phase": "start", "usual": None, "text": "", "start": stamp(START), "peak": None, "end": None,
        "start_ns": str(START), "peak_ns": None, "end_ns": None,
    }  # fmt: skip
    assert shared.get("/api/v1/anomalies", symbol=symbol, state="open")["data"] == []


def test_an_anomaly_is_one_entry_from_start_to_end(shared: Any, symbol: str) -> None:
    """As it is after its last event, however many there were; filters judge it as it is now."""
    second = 1_000_000_000
    phases = [
        ("a", "start", "warning", 0, None), ("b", "start", "warning", 1, None), ("a", "peak", "critical", 5, None),
        ("a", "end", "critical", 5, 8),
    ]  # fmt: skip
    shared.execute(
        "INSERT INTO anomalies (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, venue, symbol, anomaly_id, "
        "kind, severity, metric, value, limit_value, evidence, phase, ts_start_ns, ts_peak_ns, ts_end_ns, usual, text) "
        "VALUES (%s, %s, 0, %s, 0, 'coinbase', %s, %s, 'crossed', %s, 'm', %s, 0, '{}', %s, %s, %s, %s, 0.5, 'why')",
        (
            (
                moment(START + (one == "b") * second), START + at * second, number, symbol, one, severity, at, phase,
                START + (one == "b") * second, START + at * second, end and START + end * second,
            )
            for number, (one, phase, severity, at, end) in enumerate(phases)
        ),
    )  # fmt: skip
    answer = shared.get("/api/v1/anomalies", symbol=symbol)
    AnomaliesAnswer.model_validate(answer)
    newer, older = answer["data"]
    assert (newer["anomaly_id"], newer["phase"], newer["end"]) == ("b", "start", None)
    assert (older["anomaly_id"], older["phase"], older["severity"], older["value"]) == ("a", "end", "critical", "5")
    assert [older[name] for name in ("timestamp", "start", "peak", "end", "usual", "text")] == [
        stamp(START), stamp(START), stamp(START + 5 * second), stamp(START + 8 * second), "0.5", "why"
    ]  # fmt: skip
    assert all_pages(shared, "/api/v1/anomalies", 1, symbol=symbol) == answer["data"]

    def ids(**parameters: Any) -> list[str]:
        return [one["anomaly_id"] for one in shared.get("/api/v1/anomalies", symbol=symbol, **parameters)["data"]]

    assert (ids(state="open"), ids(state="ended"), ids(severity="critical")) == (["b"], ["a"], ["a"])


def test_without_a_database_history_says_so_and_live_answers_go_on(stage: Any, gate: Any, wait_for: Any) -> None:
    """Down at the start, up, cut in the middle, up again: 503 as a problem meanwhile, and no restart."""
    gate.close()
    stage.start(TICKSTREAM_API_DATABASE_URL=gate.url)
    produce_book(stage, "BTC-USD")
    known(stage, "BTC-USD", wait_for)
    paths = ("/api/v1/market/BTC-USD/candles", "/api/v1/market/BTC-USD/trades", "/api/v1/gaps", "/api/v1/anomalies")

    def is_down() -> bool:
        assert stage.get("/api/v1/market/BTC-USD/orderbook")["valid"]
        assert stage.client.get("/api/v1/market/BTC-USD/ticker").status_code == 200
        answers = [stage.client.get(path) for path in paths]
        assert {answer.status_code for answer in answers} <= {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["content-type"] == "application/problem+json"
                assert "database" in answer.json()["detail"]
        return all(answer.status_code == 503 for answer in answers)

    def is_up() -> bool:
        return all(stage.client.get(path).status_code == 200 for path in paths)

    wait_for("history to be down", is_down)
    # Kafka counts as reached once it has been asked, which may come after the first live answers.
    wait_for("Kafka to be reached", lambda: stage.get("/readyz")["checks"]["kafka"] == "ok")
    state = stage.get("/readyz")
    assert (state["status"], state["live"], state["history"]) == ("degraded", True, False)
    assert state["checks"]["database"] != "ok"
    gate.open()
    wait_for("history to be up", is_up)
    stage.ready()
    gate.close()
    wait_for("history to be down again", is_down)
    gate.open()
    wait_for("history to be up again", is_up)


def test_recent_trades_are_answered_without_a_database(stage: Any, gate: Any, wait_for: Any) -> None:
    """The first page comes from memory and says that there is more; the next one needs the database."""
    gate.close()
    stage.start(TICKSTREAM_API_DATABASE_URL=gate.url)
    stage.produce(
        Trades(venue="coinbase", symbol="BTC-USD", line="coinbase/0", ts_event=START, ts_recv=time.time_ns(),
               trades=tuple(Trade(trade_id=str(number), ts_event=START + number, price="1", size="1", side="buy")
                            for number in range(5)))
    )  # fmt: skip
    path = "/api/v1/market/BTC-USD/trades"
    wait_for("the trades", lambda: len(stage.client.get(path).json().get("data", ())) == 5)
    page = stage.get(path)
    assert [each["trade_id"] for each in page["data"]] == ["4", "3", "2", "1", "0"]
    assert stage.get(path, 503, cursor=page["next_cursor"])["title"] == "Service Unavailable"
    assert stage.get(path, 503, start=stamp(START))["status"] == 503


def test_a_missing_schema_is_told_by_readiness(bare_stage: Any, wait_for: Any) -> None:
    """Tables that nobody made are no reason to fail: readiness names the command."""
    bare_stage.make_topics()
    bare_stage.start()
    wait_for("Kafka", lambda: bare_stage.client.get("/readyz").json()["checks"]["kafka"] == "ok")
    checks = bare_stage.get("/readyz")["checks"]
    assert "tickstream db migrate" in checks["database"]
    bare_stage.make_tables()
    bare_stage.ready()
