"""Published books against REST books on the real Kafka, through stream apps and command: equal, different, waiting."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from infra.local.settings import free_port
from infra.simulator.venues.answers import Answer
from marketdata.events import BookUpdate, Instrument
from producers.history.reconcile_books import TRIES_MAX, BookReconciliation
from producers.history.rest import Rest
from producers.history.score import Score
from producers.venues import make_history
from producers.venues.kit.history import Access
from tests.waiting import WAIT_S

BINANCE: dict[str, Any] = {"venue": "binance_spot", "symbol": "BTC-USDT"}


def produce(pipeline: Any, kind: str, number: int, bids: dict[str, str], asks: dict[str, str]) -> None:
    """Publish an update as the feed does."""
    now = time.time_ns()
    pipeline.produce(BookUpdate(
        **BINANCE, ts_event=now, ts_recv=now, line="binance_spot/0", sequence=number, kind=kind,
        bid_prices=list(bids), bid_sizes=list(bids.values()), ask_prices=list(asks), ask_sizes=list(asks.values()),
    ))  # fmt: skip


def depth(number: int, bids: dict[str, str], asks: dict[str, str]) -> Answer:
    """Return the venue's documented answer."""
    book = {"lastUpdateId": number, "bids": list(map(list, bids.items())), "asks": list(map(list, asks.items()))}
    return Answer(200, json.dumps(book).encode())


@pytest.fixture
def book(pipeline: Any, wait_for: Callable[..., Any]) -> Any:
    """The stream apps, with a book of two updates after its snapshot: numbers 100, 102 and 105."""
    pipeline.produce(Instrument(**BINANCE, ts_recv=time.time_ns(), venue_symbol="BTCUSDT", base_currency="BTC",
                            quote_currency="USDT", status="online"))  # fmt: skip
    produce(pipeline, "snapshot", 100, {"99.0": "5", "98.0": "7"}, {"101.0": "3", "102.0": "4"})
    produce(pipeline, "update", 102, {"99.0": "6"}, {})
    produce(pipeline, "update", 105, {"99.5": "1"}, {"101.0": "0"})
    query = "SELECT 1 FROM quotes WHERE venue = 'binance_spot' AND source = 'book' AND bid = 99.5"
    wait_for("the published book", lambda: pipeline.rows(query))
    return pipeline


def compare(pipeline: Any, venue: str, url: str, *symbols: str) -> dict[str, Score]:
    """Compare these books as the history process does."""

    async def compared() -> dict[str, Score]:
        async with Rest(make_history(venue, Access(rest_url=url))) as rest:
            return await BookReconciliation(rest, pipeline.kafka, pipeline.codec).compare(symbols)

    return asyncio.run(compared())


def test_a_wrong_level_is_named_and_an_old_book_is_not_compared(
    book: Any, venue: Any, wait_for: Callable[..., Any]
) -> None:  # fmt: skip
    """The command prints the level, exits with 1 and publishes a status; a right book is equal in each level."""
    bids, asks = {"99.5": "1.0", "99.0": "6", "98.0": "7.00"}, {"102.0": "4"}
    venue.histories.fail(depth(105, bids, asks))
    assert str(compare(book, "binance_spot", venue.url, "BTC-USDT")["BTC-USDT"]) == "book levels 4 of 4 equal"
    (request,) = venue.histories.asked
    assert request.query["symbol"] == "BTCUSDT"
    venue.histories.fail(*[depth(99, bids, asks)] * TRIES_MAX)
    old = compare(book, "binance_spot", venue.url, "BTC-USDT")["BTC-USDT"]
    assert str(old) == "book levels not compared: the REST book is older than the published book"
    venue.histories.fail(depth(105, bids, {"102.0": "9"}))
    printed = book.command("reconcile", "binance_spot", "BTC-USDT", "--rest-url", venue.url, exits=1)
    text = "book levels 3 of 4 equal (ask 102.0: 4 here, 9 there)"
    assert text in printed, printed
    query = "SELECT detail FROM feed_status WHERE kind = 'reconciled' AND reason = 'different'"
    ((detail,),) = wait_for("the status", lambda: book.rows(query))
    assert text in detail


def test_a_number_that_is_not_published_yet_is_waited_for(
    book: Any, venue: Any, wait_for: Callable[..., Any]
) -> None:  # fmt: skip
    """The venue is asked once; then the update with its number comes, and is compared."""
    venue.histories.fail(depth(107, {"99.5": "1", "99.0": "6", "98.0": "7"}, {"102.0": "4", "103.0": "8"}))
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(compare, book, "binance_spot", venue.url, "BTC-USDT")
        wait_for("the request of the REST book", lambda: venue.histories.asked)
        assert not running.done()
        produce(book, "update", 107, {}, {"103.0": "8"})
        assert str(running.result(WAIT_S)["BTC-USDT"]) == "book levels 4 of 4 equal"
    assert len(venue.histories.asked) == 1


def test_a_venue_whose_books_cannot_be_compared_says_why(pipeline: Any, venue: Any) -> None:
    """Without a request, and without a difference."""
    score = compare(pipeline, "kraken", venue.url, "BTC-USD")["BTC-USD"]
    assert "not compared: REST sends a book without a number or a time" in str(score)
    assert (score.ratio, list(venue.histories.asked)) == (None, [])


def test_books_of_the_simulated_exchange_are_equal_while_it_trades(pipeline: Any, wait_for: Callable[..., Any]) -> None:
    """Live producer, stream apps and REST; levels that change meanwhile are left out, all others are equal."""
    stream, rest = free_port(), free_port()
    pipeline.env |= {
        "TICKSTREAM_EXCHANGE_PORT": str(stream), "TICKSTREAM_EXCHANGE_CONTROL_PORT": str(rest),
        "TICKSTREAM_EXCHANGE_RATE": "20", "COINBASE_WS_URL": f"ws://127.0.0.1:{stream}",
        "COINBASE_REST_URL": f"http://127.0.0.1:{rest}", "COINBASE_PRODUCTS": "BTC-USD,ETH-USD",
        "TICKSTREAM_VENUE": "coinbase", "TICKSTREAM_SOURCE": "sim",
    }  # fmt: skip
    pipeline.start("infra.simulator")
    pipeline.start("producers.live")
    quotes = "SELECT count(DISTINCT symbol) FROM quotes WHERE source = 'book' AND valid"
    wait_for("both books", lambda: pipeline.rows(quotes)[0][0] == 2)
    for symbol, score in compare(pipeline, "coinbase", f"http://127.0.0.1:{rest}", "BTC-USD", "ETH-USD").items():
        assert score.compared == score.equal > 10, (symbol, score)
