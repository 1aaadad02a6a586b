"""Each venue's recording through one running platform, by the venue's own protocol: the same trades and books."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from infra.simulator.venues.fix import server as fix
from infra.simulator.venues.fix.server import FixVenue
from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, Trades
from marketdata.fix.steps import Identity
from marketdata.topics import TRADES
from producers.venues import find_venue
from runtime import recordings
from runtime.recordings import Recorded
from tickstream import pipe

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
pytestmark = [
    pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not beside the project"),
    pytest.mark.timeout(280),  # the first case starts the platform
]


class Case(NamedTuple):
    """A venue and its recordings, of which the first `lines` are played; several are redundant lines of one feed.

    A line of Databento's files is a record. Without recordings the simulated venue is recorded, so many moves of it.
    """

    venue: str
    recordings: tuple[str, ...]
    lines: int | None = None


CASES = (
    Case("binance_spot", ("binance_spot_multi",)),
    Case("binance_spot", ("binance_spot_btcusdt",), lines=1_500),
    Case("binance_usdm", ("binance_usdm_btcusdt",), lines=700),
    Case("kraken", ("kraken_v1",), lines=1_000),
    Case("kraken_futures", ("kraken_futures",), lines=800),
    Case("okx", ("okx",)),
    Case("okx", ("okx_redundant_line1", "okx_redundant_line2", "okx_redundant_line3")),
    Case("bitfinex", ("bitfinex",), lines=700),
    Case("bybit", ("bybit",)),
    Case("gemini", ("gemini",)),
    Case("coinbase_exchange", ("coinbase_exchange_legacy",), lines=1_000),
    Case("databento", ("cme_esu4_mbp1",), lines=800),
    Case("databento", ("cme_esm4_mbo",)),
    Case("fix", (), lines=300),
)

Levels = list[tuple[Decimal, Decimal]]


class Truth:
    """What recordings hold by the same feed and operators without Kafka, which have tests of their own."""

    def __init__(self, venue: str, files: list[Path]) -> None:
        self.trades: Counter[tuple[str, str]] = Counter()
        self.books: dict[str, L2Book] = {}
        for topic, event in pipe.run(files, pipe.Connections(venue), pipe.Pipeline()):
            assert not isinstance(event, DeadLetter)
            if topic == "md.trades" and isinstance(event, Trades):
                self.trades.update((event.symbol, trade.trade_id) for trade in event.trades)
            elif topic == "md.book_updates" and isinstance(event, BookUpdate):
                book = self.books.setdefault(event.symbol, L2Book())
                if event.kind == "snapshot":
                    book.bids.replace(event.bid_prices, event.bid_sizes)
                    book.asks.replace(event.ask_prices, event.ask_sizes)
                elif event.kind == "update":
                    book.bids.apply(event.bid_prices, event.bid_sizes)
                    book.asks.apply(event.ask_prices, event.ask_sizes)

    def levels(self, symbol: str) -> tuple[Levels, Levels]:
        """Return bids and asks of a final book."""
        book = self.books[symbol]
        bids, asks = ([(Decimal(p), Decimal(s)) for p, s in side.top()] for side in (book.bids, book.asks))
        return bids, asks


@pytest.fixture(scope="module")
def road(
    endpoints: Any, services_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, request: Any
) -> Iterator[Any]:
    """The platform without a source, on topics and tables of its own; each test brings a source and a producer."""
    name = f"venues_{os.getpid()}"
    running = services_of(endpoints, f"{name}.", name, tmp_path_factory.mktemp("venues"))
    failed_before = request.session.testsfailed
    try:
        for service, module in (("stream-apps", "stream_apps"), ("sink", "sink"), ("api", "api")):
            running.start(service, module)
        running.wait_ready("stream-apps", "sink", "api")
        yield running
    finally:
        running.stop()
        running.remove()
        if request.session.testsfailed > failed_before:
            sys.stderr.write(running.logs())


def files_of(case: Case, folder: Path) -> list[Path]:
    """Return the recordings to play, shortened where the case says so."""
    if not case.recordings:
        venue = FixVenue(Identity(sender="THEM", target="US"), ("BTC-USD", "EUR/USD"), by="number", fragment=4)
        frames = fix.recorded(venue, case.lines or 0, time.time_ns())
        recordings.write(
            folder / "session.jsonl.zst", (Recorded("recv", ts, None, data.decode()) for ts, data in frames)
        )
        return [folder / "session.jsonl.zst"]
    files = [next(RECORDINGS.glob(f"{name}.*")) for name in case.recordings]
    if case.lines is None:
        return files
    short = [folder / file.name for file in files]
    for file, to in zip(files, short, strict=True):
        lines = islice(recordings.read(file), case.lines)
        if case.venue == "databento":
            to.write_bytes(b"".join(line.frame for line in lines))
        else:
            recordings.write(to, lines)
    return short


def served_book(road: Any, venue: str, symbol: str) -> tuple[Levels, Levels]:
    """Return bids and asks over REST, every level."""
    book = road.get(f"/api/v1/market/{symbol}/orderbook", venue=venue, depth=50_000)["data"]
    bids, asks = ([(Decimal(price), Decimal(size)) for price, size in book[side]] for side in ("bids", "asks"))
    return bids, asks


def is_served(road: Any, venue: str, symbol: str, truth: Truth) -> bool:
    """Assert that the final book of a symbol is what REST serves, telling the first levels that differ."""
    for served, expected in zip(served_book(road, venue, symbol), truth.levels(symbol), strict=True):
        extra, missing = set(served) - set(expected), set(expected) - set(served)
        assert (sorted(extra)[:3], sorted(missing)[:3], len(extra), len(missing)) == ([], [], 0, 0)
    return True


def stored_trades(road: Any, venue: str) -> Counter[tuple[str, str]]:
    """Return each stored trade with how often it is there."""
    return Counter(road.rows("SELECT symbol, trade_id FROM trades WHERE venue = %s", venue))


def published_trades(road: Any, venue: str) -> Counter[tuple[str, str]]:
    """Return each trade of md.trades.v1 with how often it is there."""
    found: Counter[tuple[str, str]] = Counter()
    for event in road.events(TRADES):
        if event.venue == venue:
            found.update((event.symbol, trade.trade_id) for trade in event.trades)
    return found


def truth_and_replay(road: Any, case: Case, folder: Path) -> Truth:
    """Start the replay and a producer of the case's venue, and return what must come of it."""
    files, ports = files_of(case, folder), road.ports
    scheme = {"websocket": "ws", "tcp": "tcp"}[find_venue(case.venue).transport]
    addresses = {
        f"{case.venue}_WS_URL".upper(): f"{scheme}://127.0.0.1:{ports['exchange']}",
        f"{case.venue}_REST_URL".upper(): road.control_url,
    }
    road.start("exchange", "infra.simulator.replay.server", *map(str, files), "--venue", case.venue, "--speed", "max")
    road.start("producer", "producers.live", TICKSTREAM_SOURCE="replay", TICKSTREAM_VENUE=case.venue, **addresses)
    return Truth(case.venue, files)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join((case.venue, *case.recordings[:1])))
def test_recording_of_every_venue_arrives_exactly(road: Any, case: Case, wait_for: Any, tmp_path: Path) -> None:
    """At full speed: each trade once in the table and the topic, every level of each final book, no dead letter."""
    before = stored_trades(road, case.venue)
    truth = truth_and_replay(road, case, tmp_path)
    try:
        want = truth.trades + before
        wait_for("every trade in the table", lambda: stored_trades(road, case.venue).total() >= want.total())
        for symbol in truth.books:
            wait_for(f"the final book of {symbol}", lambda symbol=symbol: is_served(road, case.venue, symbol, truth))
        assert stored_trades(road, case.venue) == want
        assert published_trades(road, case.venue) == want
        letters = "SELECT stage, reason, field, detail FROM dead_letters WHERE venue = %s LIMIT 5"
        assert road.rows(letters, case.venue) == []
    finally:
        for name in ("producer", "exchange"):
            road.end(name)
