"""A recording replayed through the whole platform: every trade once, the right book, and the same under kill -9."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from marketdata.topics import TRADES
from runtime.recordings import read

RECORDING = Path(__file__).parents[3] / "shared" / "recordings" / "coinbase_advanced.jsonl.zst"
pytestmark = [
    pytest.mark.skipif(not RECORDING.exists(), reason="the recordings are not beside the project"),
    pytest.mark.timeout(280),  # seven processes start, and some again
]

Level = tuple[Decimal, Decimal]


class Truth:
    """What the recording holds, computed without any code of ours: trades by id, and the books at the end."""

    def __init__(self) -> None:
        self.trades: dict[tuple[str, str], tuple[Decimal, Decimal, str]] = {}
        self.books: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
        for record in read(RECORDING):
            if record.t == "recv":
                frame = json.loads(record.data)
                for event in frame["events"]:
                    self._trades(event)
                    if frame["channel"] == "l2_data":
                        self._book(event)

    def _trades(self, event: dict[str, Any]) -> None:
        for trade in event.get("trades", ()):
            aggressor = {"BUY": "sell", "SELL": "buy"}[trade["side"]]
            key = (trade["product_id"], trade["trade_id"])
            self.trades[key] = (Decimal(trade["price"]), Decimal(trade["size"]), aggressor)

    def _book(self, event: dict[str, Any]) -> None:
        if event["type"] == "snapshot":
            self.books[event["product_id"]] = {"bid": {}, "offer": {}}
        for update in event["updates"]:
            side = self.books[event["product_id"]][update["side"]]
            price, size = Decimal(update["price_level"]), Decimal(update["new_quantity"])
            if size:
                side[price] = size
            else:
                side.pop(price, None)

    def levels(self, symbol: str) -> tuple[list[Level], list[Level]]:
        """Return bids and asks of the final book, best first."""
        book = self.books[symbol]
        return sorted(book["bid"].items(), reverse=True), sorted(book["offer"].items())


@pytest.fixture(scope="module")
def truth() -> Truth:
    """The recording's truth."""
    return Truth()


def stored_trades(services: Any) -> Counter[tuple[Any, ...]]:
    """Return each stored trade with how often it is there."""
    return Counter(services.rows("SELECT symbol, trade_id, price, size, side FROM trades"))


def published_trades(services: Any) -> Counter[tuple[str, str]]:
    """Return each trade of md.trades.v1 with how often it is there."""
    found: Counter[tuple[str, str]] = Counter()
    for event in services.events(TRADES):
        found.update((event.symbol, trade.trade_id) for trade in event.trades)
    return found


def expected_rows(truth: Truth) -> Counter[tuple[Any, ...]]:
    """Return the rows that the table `trades` must hold, each once."""
    return Counter((symbol, trade_id, *values) for (symbol, trade_id), values in truth.trades.items())


def served_book(services: Any, symbol: str) -> tuple[list[Level], list[Level]]:
    """Return bids and asks over REST, every level."""
    book = services.get(f"/api/v1/market/{symbol}/orderbook", depth=50_000)["data"]
    return tuple([(Decimal(price), Decimal(size)) for price, size in book[side]] for side in ("bids", "asks"))  # type: ignore[return-value]


def assert_truth(services: Any, truth: Truth, wait_for: Any) -> None:
    """Wait until all of the recording has arrived, then compare it with the truth, exactly."""
    want = expected_rows(truth)
    wait_for("every trade in the table", lambda: sum(stored_trades(services).values()) >= len(want))
    for symbol in truth.books:
        wait_for(
            f"the final book of {symbol}", lambda symbol=symbol: served_book(services, symbol) == truth.levels(symbol)
        )
    assert stored_trades(services) == want
    assert published_trades(services) == Counter(list(truth.trades))
    assert services.rows("SELECT stage, reason, detail FROM dead_letters LIMIT 5") == []


def replay_module(services: Any, speed: str) -> tuple[str, ...]:
    """Return the replay server's module and arguments."""
    ports = services.ports
    ends = ("--port", str(ports["exchange"]), "--control-port", str(ports["control"]))
    return ("infra.simulator.replay.server", str(RECORDING), "--venue", "coinbase", "--speed", speed, *ends)


def test_every_trade_is_stored_and_published_once_and_the_final_book_is_right(
    services: Any, truth: Truth, wait_for: Any
) -> None:
    """A recording at full speed: each trade once in the table and the topic, the book equal on every level."""
    services.start_all(*replay_module(services, "max"), TICKSTREAM_SOURCE="replay")
    assert_truth(services, truth, wait_for)
    answer = services.http.get(f"{services.api_url}/api/v1/market/BTC-USD/trades", params={"limit": 1000}).json()
    assert {trade["trade_id"] for trade in answer["data"]} <= {trade_id for _, trade_id in truth.trades}
    for symbol in truth.books:
        book = services.get(f"/api/v1/market/{symbol}/orderbook")
        assert (book["valid"], book["reason"]) == (True, ""), "staleness follows the recorder's clock"


def test_a_process_of_each_kind_killed_in_the_middle_changes_no_row(services: Any, truth: Truth, wait_for: Any) -> None:
    """Venue, stream apps, sink, API and producer killed one after the other and started again: the same rows."""
    services.start_all(*replay_module(services, "4"), TICKSTREAM_SOURCE="replay")
    wait_for("the first trades", lambda: services.rows("SELECT 1 FROM trades LIMIT 1"))
    for victim in ("exchange", "stream-apps", "sink", "api", "producer"):
        services.kill(victim)
        services.restart(victim)
    assert_truth(services, truth, wait_for)
