"""Metrics and the consolidated best bid and offer over REST and WebSocket, from the real Kafka and TimescaleDB."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from api.rest.models.metrics import ConsolidatedAnswer, MetricsAnswer
from marketdata.events import BookUpdate, Instrument, Metrics, Quote

SECOND = 1_000_000_000
START = 1_786_309_500_000_000_000  # 2026-08-09T21:05:00Z


def metrics(symbol: str, second: int, **more: Any) -> Metrics:
    """Return metrics of one second."""
    fields: dict[str, Any] = {
        "valid": True, "bid": "99", "bid_size": "1", "ask": "101", "ask_size": "3", "mid": "100", "spread": "2",
        "microprice": "99.5", "spread_bps": "200", "imbalance": "-0.5", "depth_bps": ["5"], "bid_depths": ["1"],
        "ask_depths": ["3"], "bid_reach_bps": "100", "ask_reach_bps": "100", "order_flow": str(second),
    } | more  # fmt: skip
    at = START + second * SECOND
    return Metrics(
        venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=at, ts_recv=time.time_ns(), ts_from=at - SECOND,
        **fields,
    )  # fmt: skip


def store(stage: Any, symbol: str, seconds: range) -> None:
    """Put metrics into the table."""
    stage.execute(
        "INSERT INTO metrics (ts, ts_event_ns, ts_recv_ns, kafka_offset, kafka_partition, valid, reason, venue, symbol,"
        " line, origin, ts_from_ns, order_flow, depth_bps, bid_depths, ask_depths, changes, best_price_changes) VALUES "
        "(%s, %s, 0, %s, 0, true, '', 'coinbase', %s, 'l', 'live', %s, %s, '{5,10}', '{1.50,2}', '{3,4}', 7, 1)",
        (
            (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at // 1000), at, second, symbol, at - SECOND,
             second)
            for second, at in ((second, START + second * SECOND) for second in seconds)
        ),
    )  # fmt: skip


def test_metrics_are_paged_from_memory_into_the_database(shared: Any, symbol: str, wait_for: Any) -> None:
    """The latest are in memory only, the others in the table only; each is given once, newest first."""
    store(shared, symbol, range(9))
    shared.produce(metrics(symbol, 9))
    path = f"/api/v1/market/{symbol}/metrics"
    wait_for("the metrics", lambda: shared.client.get(path).status_code == 200)
    answer = shared.get(path)
    MetricsAnswer.model_validate(answer)
    assert (answer["type"], answer["valid"], answer["next_cursor"]) == ("metrics", True, None)
    assert [one["order_flow"] for one in answer["data"]] == [str(second) for second in range(9, -1, -1)]
    newest, stored, *_ = answer["data"]
    assert (newest["mid"], newest["start"], newest["timestamp"]) == (
        "100", "2026-08-09T21:05:08.000000Z", "2026-08-09T21:05:09.000000Z")  # fmt: skip
    assert (stored["bid_depths"], stored["mid"], stored["changes"]) == (["1.50", "2"], None, 7)
    paged: list[Any] = []
    cursor: dict[str, Any] = {}
    for _ in range(4):
        page = shared.get(path, limit=3, **cursor)
        paged += page["data"]
        cursor = {"cursor": page["next_cursor"]}
    assert (paged, cursor) == (answer["data"], {"cursor": None})
    some = shared.get(path, start="2026-08-09T21:05:02Z", end="2026-08-09T21:05:04Z")
    assert [one["order_flow"] for one in some["data"]] == ["3", "2"]


def test_metrics_of_an_invalid_book_say_so(shared: Any, symbol: str, wait_for: Any) -> None:
    """No value is given, and the reason is that of the book."""
    empty: dict[str, Any] = dict.fromkeys(("bid", "ask", "mid", "spread", "order_flow"))
    shared.produce(metrics(symbol, 1, valid=False, reason="checksum", **empty))
    path = f"/api/v1/market/{symbol}/metrics"
    wait_for("the metrics", lambda: shared.client.get(path).status_code == 200)
    answer = shared.get(path)
    assert (answer["valid"], answer["reason"], answer["data"][0]["mid"]) == (False, "checksum", None)


def listed(venue: str, symbol: str) -> Instrument:
    """Return an instrument."""
    base, _, quote = symbol.partition("-")
    return Instrument(venue=venue, symbol=symbol, ts_recv=START, venue_symbol=symbol, base_currency=base,
                      quote_currency=quote)  # fmt: skip


def quote(venue: str, symbol: str, bid: str, ask: str) -> Quote:
    """Return best prices."""
    now = time.time_ns()
    return Quote(venue=venue, symbol=symbol, ts_event=now, ts_recv=now, line=venue, bid=bid, bid_size="1", ask=ask,
                 ask_size="1")  # fmt: skip


def test_both_channels_send_their_state_and_then_each_change(
    shared: Any, symbol: str, wait_for: Any, open_socket: Any
) -> None:
    """The consolidated stream needs no venue, and equals the answer of REST."""
    shared.produce(
        listed("coinbase", symbol), listed("kraken", symbol), metrics(symbol, 1),
        quote("coinbase", symbol, "99", "101"), quote("kraken", symbol, "100", "102"),
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/consolidated"
    wait_for("both", lambda: len(shared.client.get(path).json().get("data", {}).get("venues", [])) == 2)
    answer = shared.get(path)
    ConsolidatedAnswer.model_validate(answer)
    assert (answer["venue"], answer["symbol"], answer["valid"]) == ("*", symbol, True)
    assert answer["data"]["bid"] == {"price": "100", "size": "1", "venues": ["kraken"]}
    assert answer["data"]["ask"] == {"price": "101", "size": "1", "venues": ["coinbase"]}
    problem = shared.get(path, 404, kind="perpetual")
    assert [(each["field"], each["value"]) for each in problem["errors"]] == [("kind", "perpetual")]
    assert "spot" in problem["detail"]

    async def scenario() -> None:
        async with open_socket(shared) as client:
            answer = await client.subscribe("metrics", "consolidated", symbols=(symbol,), venue="coinbase")
            assert answer["type"] == "subscribed", answer
            first = {message["type"]: message for message in [await client.receive() for _ in range(2)]}
            assert first["metrics"]["data"]["mid"] == "100"
            assert first["consolidated"]["snapshot"] is True
            shared.produce(quote("kraken", symbol, "101", "102"), metrics(symbol, 2, mid="100.5"))
            following: dict[str, Any] = {}
            while set(following) != {"metrics", "consolidated"}:
                message = await client.receive()
                following[message["type"]] = message
            assert following["metrics"]["data"]["mid"] == "100.5"
            assert following["metrics"]["sequence"] == first["metrics"]["sequence"] + 1
            assert following["consolidated"]["data"]["state"] == "locked"
            assert following["consolidated"]["sequence"] == first["consolidated"]["sequence"] + 1
            await client.send(op="subscribe", id=2, channels=["consolidated"], symbols=["NONE-SUCH"])
            assert (await client.receive())["code"] == "unknown_symbol"
            await client.send(op="unsubscribe", id=3, channels=["consolidated"], symbols=[symbol])
            assert (await client.until(lambda message: message["type"] == "unsubscribed"))[-1]["id"] == 3

    asyncio.run(scenario())


def test_a_symbol_without_metrics_has_none(shared: Any, symbol: str, wait_for: Any) -> None:
    """Its book is known, and nothing was computed yet."""
    shared.produce(
        BookUpdate(venue="coinbase", symbol=symbol, line="coinbase/0", ts_event=START, ts_recv=time.time_ns(),
                   kind="snapshot", bid_prices=["1"], bid_sizes=["1"], ask_prices=["2"], ask_sizes=["1"])
    )  # fmt: skip
    path = f"/api/v1/market/{symbol}/metrics"
    wait_for("the symbol", lambda: shared.client.get(path).status_code == 200)
    answer = shared.get(path)
    assert (answer["data"], answer["valid"], answer["reason"]) == ([], False, "resyncing")
