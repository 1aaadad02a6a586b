"""Derivatives over REST and WebSocket, from records in the real Kafka and rows in the real TimescaleDB."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from api.core.derivatives import EVENTS_MAX, DerivativeState
from api.rest.models.derivatives import DerivativesAnswer
from api.rest.models.market import TradesAnswer
from marketdata.events import Derivative, Liquidation, Trade, Trades

TS = 1_786_309_548_228_568_000  # 2026-08-09T21:05:48.228568Z
STAMP = "2026-08-09T21:05:48.228568Z"
SECOND = 1_000_000_000
FORCED = Liquidation(ts_event=TS, side="sell", price="64000.10", size="0.50")
FORCED_JSON = {"timestamp": STAMP, "side": "sell", "price": "64000.10", "size": "0.50", "liquidation_id": None}


def derivative(symbol: str, seconds: int = 0, **fields: Any) -> Derivative:
    """Return an event."""
    common: dict[str, Any] = {"venue": "bybit", "symbol": symbol, "line": "bybit/0", "ts_recv": time.time_ns()}
    return Derivative(**common, ts_event=TS + seconds * SECOND, **fields)


def path(symbol: str) -> str:
    """Return the path of a symbol's derivatives."""
    return f"/api/v1/market/{symbol}/derivatives"


def test_the_state_has_the_newest_value_of_each_field_and_is_bounded() -> None:
    """An older event changes only what no newer one had, and history is no news."""
    state = DerivativeState()
    state.add(derivative("S", 5, mark_price="10", funding_rate="0"), 1)
    state.add(derivative("S", 4, mark_price="9", index_price="8"), 2)
    state.add(derivative("S", 1, origin="backfill", open_interest="3", mark_price="1"), 3)
    latest = state.latest()
    assert (latest["mark_price"], latest["index_price"], latest["open_interest"]) == ("10", "8", "3")
    assert (latest["funding_rate"], latest["mark_iv"], latest["next_funding_time"]) == ("0", None, None)
    assert set(latest["updated"]) == {"mark_price", "index_price", "open_interest", "funding_rate"}
    assert state.number == 2
    for offset in range(EVENTS_MAX + 50):
        state.add(derivative("S", liquidations=(FORCED,)), offset)
    assert len(state.recent) == EVENTS_MAX
    assert len(state.liquidations()) == 50


def test_rest_answers_with_the_latest_values_and_with_each_event(shared: Any, symbol: str, wait_for: Any) -> None:
    """What a message did not have is null, and is not lost from the latest values."""
    shared.produce(
        derivative(symbol, mark_price="64250.10", funding_rate="0.0001", next_funding_ts=TS + 3600 * SECOND),
        derivative(symbol, 1, open_interest="1234.5", liquidations=(FORCED,)),
    )
    wait_for("both events", lambda: len(shared.client.get(path(symbol)).json().get("data", [])) == 2)
    answer = shared.get(path(symbol))
    DerivativesAnswer.model_validate(answer)
    assert (answer["type"], answer["venue"], answer["valid"], answer["reason"]) == ("derivatives", "bybit", True, "")
    latest, (second, first) = answer["latest"], answer["data"]
    assert (latest["mark_price"], latest["open_interest"], latest["index_price"]) == ("64250.10", "1234.5", None)
    assert latest["next_funding_time"] == "2026-08-09T22:05:48.228568Z"
    assert latest["updated"]["mark_price"] == STAMP
    assert (first["mark_price"], first["open_interest"], first["liquidations"]) == ("64250.10", None, [])
    assert (second["mark_price"], second["liquidations"]) == (None, [FORCED_JSON])
    assert answer["next_cursor"] is None


def test_pages_of_history_come_from_the_database(shared: Any, symbol: str, wait_for: Any) -> None:
    """Each once, newest first, exact, within a range of time."""
    shared.execute(
        "INSERT INTO derivatives (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, valid, reason, venue, "
        "symbol, line, origin, mark_price, liquidations) VALUES "
        "(%s, %s, %s, %s, 0, true, '', 'bybit', %s, 'bybit/0', 'live', %s, %s)",
        (
            (
                datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at // 1_000), at, at, number, symbol,
                f"{number}.50",
                json.dumps([{"ts_event": TS, "side": "sell", "price": "64000.10", "size": "0.50",
                             "liquidation_id": None}]) if number == 3 else None,
            )
            for number, at in ((number, TS - (20 - number) * SECOND) for number in range(20))
        ),
    )  # fmt: skip
    shared.produce(derivative(symbol, mark_price="99.50"))
    wait_for("the symbol", lambda: shared.client.get(path(symbol)).status_code == 200)
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = shared.get(path(symbol), limit=6, **cursor)
        found += answer["data"]
        if answer["next_cursor"] is None:
            break
        cursor = {"cursor": answer["next_cursor"]}
    assert [one["mark_price"] for one in found] == ["99.50", *(f"{number}.50" for number in range(19, -1, -1))]
    assert [one["liquidations"] for one in found if one["mark_price"] == "3.50"] == [[FORCED_JSON]]
    span = shared.get(path(symbol), start="2026-08-09T21:05:30Z", end="2026-08-09T21:05:34Z")["data"]
    assert [one["mark_price"] for one in span] == ["5.50", "4.50", "3.50", "2.50"]


def test_bad_parameters_and_unknown_symbols_are_problems(shared: Any, symbol: str, wait_for: Any) -> None:
    """They name field and value; a symbol without derivatives has null values and is not valid."""
    assert shared.get(path("NO-SUCH"), status=404)["title"]
    shared.produce(Trades(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=TS, ts_recv=time.time_ns()))
    wait_for("the symbol", lambda: shared.client.get(path(symbol)).status_code == 200)
    answer = shared.get(path(symbol))
    assert (answer["valid"], answer["data"], answer["latest"]["mark_price"]) == (False, [], None)
    assert shared.get(path(symbol), status=422, start="noon")["errors"][0]["field"] == "start"
    assert shared.get(path(symbol), status=422, limit=0)
    assert shared.get(path(symbol), status=422, cursor="x")["errors"][0]["field"] == "cursor"


def test_the_websocket_begins_with_the_latest_values_and_sends_each_event(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """Every message has all values known; liquidations are those that are new."""
    shared.produce(derivative(symbol, mark_price="10"), derivative(symbol, 1, liquidations=(FORCED,)))
    wait_for("both events", lambda: len(shared.client.get(path(symbol)).json().get("data", [])) == 2)

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("derivatives", symbols=(symbol,))
            first = await client.receive()
            assert (first["type"], first["snapshot"], first["valid"]) == ("derivative", True, True)
            assert first["data"]["mark_price"] == "10"
            assert first["data"]["liquidations"] == [FORCED_JSON]
            shared.produce(derivative(symbol, 2, open_interest="5"), derivative(symbol, 3, mark_price="11"))
            second, third = await client.receive(), await client.receive()
            assert [one["sequence"] - first["sequence"] for one in (second, third)] == [1, 2]
            assert (second["data"]["open_interest"], second["data"]["mark_price"]) == ("5", "10")
            assert (third["data"]["mark_price"], third["data"]["liquidations"]) == ("11", [])
            shared.produce(derivative(symbol, 3, valid=False, reason="gap"))
            fourth = await client.receive()
            assert (fourth["valid"], fourth["reason"], fourth["data"]["mark_price"]) == (False, "gap", "11")

    asyncio.run(follow())


def test_conditions_of_trades_are_in_rest_and_websocket(
    shared: Any, symbol: str, open_socket: Any, wait_for: Any
) -> None:
    """From memory and from the database; a trade without any has neither field."""
    shared.execute(
        "INSERT INTO trades (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, item, valid, reason, "
        "liquidation, price, size, side, action, trade_id, venue, symbol, line, origin, conditions, excluded_from) "
        "VALUES (%s, %s, %s, 0, 0, 0, true, '', false, 1.50, 0.10, 'buy', 'new', '1', 'alpaca', %s, 'alpaca/0', 'live',"
        " %s, %s)",
        [(datetime(2026, 8, 9, 21, tzinfo=UTC), TS - SECOND, TS, symbol, ["@", "I"], ["high_low", "open_close"])],
    )
    marked = Trade(trade_id="2", ts_event=TS, price="1", size="1", side="buy", conditions=("@", "4"),
                   excluded_from=("open_close",))  # fmt: skip
    plain = Trade(trade_id="3", ts_event=TS + 1_000, price="2", size="1", side="buy")
    shared.produce(
        Trades(venue="alpaca", symbol=symbol, line="alpaca/0", ts_event=TS, ts_recv=time.time_ns(),
               trades=(marked, plain))
    )  # fmt: skip
    trades = f"/api/v1/market/{symbol}/trades"
    wait_for("the trades", lambda: len(shared.client.get(trades).json().get("data", [])) == 3)
    answer = shared.get(trades)
    TradesAnswer.model_validate(answer)
    assert [(one.get("conditions"), one.get("excluded_from")) for one in answer["data"]] == [
        (None, None), (["@", "4"], ["open_close"]), (["@", "I"], ["high_low", "open_close"])
    ]  # fmt: skip

    async def follow() -> None:
        async with open_socket(shared) as client:
            await client.subscribe("trades", symbols=(symbol,))
            data = (await client.receive())["data"]
            assert (data["conditions"], data["excluded_from"]) == (["@", "4"], ["open_close"])
            assert "conditions" not in (await client.receive())["data"]

    asyncio.run(follow())
