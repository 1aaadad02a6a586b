"""The Python client against the real API."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tickstream_client import ApiError, Disconnected, MarketDataClient, Message, Refused, Resumed

from marketdata import topics
from marketdata.events import BookUpdate, Candle, Trade, Trades
from tests.clients import market_data

ROOT = Path(__file__).parents[2]
MINUTE_NS = 60_000_000_000
VENUE = "coinbase"
Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result], limit_s: float = 60) -> Result:
    """Run a coroutine with a limit."""

    async def limited() -> Result:
        async with asyncio.timeout(limit_s):
            return await work

    return asyncio.run(limited())


def trade(symbol: str, number: int) -> Trades:
    """Return one trade; its price tells its number."""
    now = time.time_ns()
    one = Trade(trade_id=f"t{number}", ts_event=now, price=f"{60_000 + number}.10", size="0.50000000", side="buy")
    return Trades(venue=VENUE, symbol=symbol, ts_event=now, ts_recv=now, line="coinbase/0", trades=(one,))


def book(symbol: str, kind: str, bids: dict[str, str], asks: dict[str, str], **changes: Any) -> BookUpdate:
    """Return a change of the book."""
    now = time.time_ns()
    return BookUpdate(
        venue=VENUE,
        symbol=symbol,
        ts_event=now,
        ts_recv=now,
        line="coinbase/0",
        kind=kind,
        bid_prices=list(bids),
        bid_sizes=list(bids.values()),
        ask_prices=list(asks),
        ask_sizes=list(asks.values()),
        **changes,
    )


def candle(symbol: str, start: int, close: str) -> Candle:
    """Return a final candle."""
    return Candle(
        venue=VENUE,
        symbol=symbol,
        interval="1m",
        start=start,
        end=start + MINUTE_NS,
        ts_event=start,
        ts_recv=time.time_ns(),
        open="1.10",
        high="9.00",
        low="1.00",
        close=close,
        volume="3.50",
        trades=2,
        state="final",
    )


def test_candles_come_newest_first_within_the_range_with_the_exact_digits(platform: Any, symbol: str) -> None:
    """A range of candles is [start, end), and no digit changes on the way."""
    first = time.time_ns() // MINUTE_NS * MINUTE_NS - 3 * MINUTE_NS
    platform.publish(topics.CANDLES, *(candle(symbol, first + n * MINUTE_NS, f"{n}.50") for n in range(3)))

    async def work() -> tuple[list[Any], list[Any]]:
        async with MarketDataClient(platform.url) as client:
            stream = client.stream_candles(symbol)
            live = [await anext(stream) for _ in range(3)]  # its state: the API has them now
            await stream.aclose()
            start = datetime.fromtimestamp(first / 1e9, UTC)
            end = datetime.fromtimestamp(first / 1e9 + 120, UTC)
            return live, await client.get_candles(symbol, "1m", start=start, end=end)

    live, stored = run(retried(work))
    assert [each["close"] for each in stored] == ["1.50", "0.50"]
    assert sorted(each.data["close"] for each in live) == ["0.50", "1.50", "2.50"]


async def retried(work: Any) -> Any:
    """Return what `work` returns once the API knows the symbol, which it does when the first record has arrived."""
    while True:
        try:
            return await work()
        except (Refused, ApiError) as error:
            if not any(word in str(error) for word in ("unknown_symbol", "404", "503")):
                raise
            await asyncio.sleep(0.05)


def test_a_history_longer_than_a_page_is_read_page_by_page(platform: Any, symbol: str) -> None:
    """1,100 trades come in two pages: each once, newest first, the older ones from the database."""
    platform.publish(topics.TRADES, *(trade(symbol, number) for number in range(1_200)))
    platform.wait_rows("trades", symbol, 1_200)

    async def work() -> list[Any]:
        async with MarketDataClient(platform.url) as client:
            return await client.get_trades(symbol, limit=1_100)

    trades = run(retried(work))
    assert [each["trade_id"] for each in trades] == [f"t{number}" for number in range(1_199, 99, -1)]


def test_a_live_book_equals_the_book_of_the_api(platform: Any, symbol: str) -> None:
    """Snapshot and deltas give the same levels, digit for digit, as the REST answer."""
    platform.publish(
        topics.BOOK_UPDATES,
        book(symbol, "snapshot", {"100.10": "1.0", "100.0": "2", "99": "3"}, {"100.20": "1", "101": "2.50"}),
    )

    async def work() -> tuple[Any, Any]:
        async with MarketDataClient(platform.url) as client:
            stream = client.stream_book(symbol, 5)
            kept = await anext(stream)
            assert (kept.valid, kept.bids(1)) == (True, [("100.10", "1.0")])
            platform.publish(
                topics.BOOK_UPDATES,
                book(symbol, "update", {"100.10": "0", "100.05": "7"}, {"100.20": "4"}),
                book(symbol, "update", {"98": "1"}, {"100.15": "0.00000001"}),
            )
            while kept.bids()[-1] != ("98", "1"):
                kept = await anext(stream)
            await stream.aclose()
            return kept, await client.get_orderbook(symbol, depth=5)

    kept, answer = run(retried(work))
    assert [list(level) for level in kept.bids()] == answer["data"]["bids"]
    assert [list(level) for level in kept.asks()] == answer["data"]["asks"]
    assert kept.asks(1) == [("100.15", "0.00000001")]
    assert kept.valid


def test_a_gap_makes_the_live_book_invalid_until_its_new_snapshot(platform: Any, symbol: str) -> None:
    """Consumers see both: that the book may not be trusted, and that it may again."""
    platform.publish(topics.BOOK_UPDATES, book(symbol, "snapshot", {"10": "1"}, {"11": "1"}))

    async def work() -> list[tuple[bool, str, Any]]:
        async with MarketDataClient(platform.url) as client:
            stream = client.stream_book(symbol, 5)
            seen: list[tuple[bool, str, Any]] = []
            kept = await anext(stream)
            seen.append((kept.valid, kept.reason, kept.bids(1)))
            platform.publish(topics.BOOK_UPDATES, book(symbol, "clear", {}, {}, valid=False, reason="gap"))
            while kept.valid:
                kept = await anext(stream)
            seen.append((kept.valid, kept.reason, None))
            platform.publish(topics.BOOK_UPDATES, book(symbol, "snapshot", {"10.5": "3"}, {"11": "1"}))
            while not kept.valid:
                kept = await anext(stream)
            seen.append((kept.valid, kept.reason, kept.bids(1)))
            await stream.aclose()
            return seen

    assert run(retried(work)) == [(True, "", [("10", "1")]), (False, "gap", None), (True, "", [("10.5", "3")])]


def test_a_client_goes_on_when_the_api_was_killed_and_started_again(platform: Any, symbol: str) -> None:
    """The reader gets the lost connection as an event, and then what it missed, each trade once."""
    platform.publish(topics.TRADES, trade(symbol, 1))

    async def work() -> tuple[list[str], list[str]]:
        async with MarketDataClient(platform.url, reconnect_max_s=0.5) as client:
            stream = client.stream_trades(symbol)
            before = await anext(stream)
            assert isinstance(before, Message)
            platform.kill("api")
            lost = await anext(stream)
            assert isinstance(lost, Disconnected)
            await asyncio.to_thread(platform.start, "api")
            platform.publish(topics.TRADES, trade(symbol, 2))
            after: list[str] = []
            resumed: list[bool] = []
            while after[-1:] != ["t2"]:
                event = await anext(stream)
                if isinstance(event, Message):
                    after.append(event.data["trade_id"])
                elif isinstance(event, Resumed):
                    resumed.append(event.recovered)
            await stream.aclose()
            assert resumed == [True]
            return [before.data["trade_id"]], after

    before, after = run(retried(work), 90)
    assert before == ["t1"]
    assert after == ["t2"]


def test_an_unknown_symbol_is_an_error_that_says_so(platform: Any, symbol: str) -> None:
    """Neither history nor a stream waits for what does not exist."""
    platform.publish(topics.TRADES, trade(symbol, 1))

    async def work() -> None:
        async with MarketDataClient(platform.url) as client:
            await client.get_trades(symbol)
            with pytest.raises(ApiError, match="NO-SUCH") as problem:
                await client.get_ticker("NO-SUCH")
            assert problem.value.status == 404
            with pytest.raises(Refused) as refused:
                await anext(client.stream_trades("NO-SUCH"))
            assert refused.value.code == "unknown_symbol"

    run(retried(work))


@pytest.fixture(scope="module")
def market(platform: Any) -> str:
    """A symbol with candles, a bar by recipe, metrics, derivative data and quotes of two venues."""
    market_data.publish(platform, "WHOLE-USD")
    return "WHOLE-USD"


def test_bars_of_a_recipe_are_read_and_followed_by_its_name(platform: Any, market: str) -> None:
    """History and stream have the recipe's bars with their own fields; the interval names the same bars."""

    async def work() -> tuple[Any, ...]:
        async with MarketDataClient(platform.url) as client:
            stream = client.stream_candles(market, recipe="five_seconds", venue=VENUE)
            live = await anext(stream)
            await stream.aclose()
            stored = await client.get_candles(market, recipe="five_seconds", venue=VENUE)
            revisions = await client.get_candle_revisions(market, recipe="five_seconds", venue=VENUE)
            return live, stored, revisions, await client.get_candles(market, "5s", venue=VENUE)

    live, stored, revisions, by_interval = run(retried(work))
    assert len(stored) == 1
    assert stored == revisions == by_interval
    assert [{name: one[name] for name in live.data} for one in stored] == [live.data]
    bar = stored[0]
    assert (bar["recipe"], bar["recipe_hash"], bar["interval"]) == ("five_seconds", "a1b2c3d4", "5s")
    assert (bar["buy_trades"], bar["sell_trades"], bar["sell_volume"]) == (1, 1, "0.25")


def test_a_candle_is_explained_by_its_trades(platform: Any, market: str) -> None:
    """The stored trades make the stored candle, and the one that is excluded is named with its condition."""
    start = datetime.fromtimestamp(market_data.START / 1e9, UTC)

    async def work() -> Any:
        async with MarketDataClient(platform.url) as client:
            return await client.explain_candle(market, start, venue=VENUE)

    answer = run(retried(work))
    assert (answer["verdict"], answer["counted"]["count"], answer["left_out"]["count"]) == ("equal", 2, 1)
    assert [(each["trade_id"], each["why"], each["conditions"]) for each in answer["left_out"]["items"]] == [
        ("3", "excluded", ["INSURANCE_FUND"])
    ]


def test_the_examples_of_the_readme_run(platform: Any) -> None:
    """As they are written, each as a program of its own that ends."""
    market_data.publish(platform, "README-USD", (VENUE,))
    readme = ROOT / "clients" / "python" / "README.md"
    printed = []
    for code in market_data.examples(readme, "python", platform.url, "README-USD"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    candles, derived = printed
    assert "101.00 final" in candles
    assert "[('99.50', '1')] [('101.00', '2')]" in candles
    assert "equal 2 {'excluded': 1}" in derived


def test_metrics_derivatives_and_consolidated_prices_are_read_and_followed(platform: Any, market: str) -> None:
    """Each stream begins with the values that REST gives."""

    async def work() -> dict[str, tuple[Any, Any]]:
        async with MarketDataClient(platform.url) as client:
            streams = {
                "metrics": client.stream_metrics(market, venue=VENUE),
                "derivatives": client.stream_derivatives(market, venue=VENUE),
                "consolidated": client.stream_consolidated(market, kind="spot"),
            }
            live = {name: await anext(stream) for name, stream in streams.items()}
            for stream in streams.values():
                await stream.aclose()
            return {
                "metrics": (live["metrics"], (await client.get_metrics(market, limit=1, venue=VENUE))[0]),
                "derivatives": (live["derivatives"], await client.get_derivative(market, venue=VENUE)),
                "consolidated": (live["consolidated"], await client.get_consolidated(market, kind="spot")),
                "events": (None, await client.get_derivatives(market, venue=VENUE)),
            }

    found = run(retried(work))
    live, metrics = found["metrics"]
    assert live.data == {name: metrics[name] for name in live.data}
    assert (metrics["spread"], metrics["imbalance"], metrics["depth_bps"]) == ("1.50", "-0.333333333333333333", ["5"])
    live, derivative = found["derivatives"]
    assert live.data == derivative["latest"] | {"liquidations": live.data["liquidations"]}
    assert (derivative["latest"]["mark_price"], derivative["latest"]["funding_rate"]) == ("100.20", "0.00010000")
    assert [each["price"] for each in live.data["liquidations"]] == ["98.00"]
    assert [each["mark_price"] for each in found["events"][1]] == ["100.20", "100.10"]
    live, consolidated = found["consolidated"]
    assert consolidated["data"]["bid"] == live.data["bid"] == {"price": "100.00", "size": "1", "venues": ["kraken"]}
    assert consolidated["data"]["ask"] == live.data["ask"] == {"price": "101.00", "size": "2", "venues": ["coinbase"]}
    assert [(each["venue"], each["valid"]) for each in consolidated["data"]["venues"]] == [
        ("coinbase", True), ("kraken", True)
    ]  # fmt: skip
