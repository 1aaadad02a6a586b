"""Each fault of the exchange: its events, an entry on the ledger, and never a wrong book in between."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from marketdata.events import BookUpdate
from marketdata.topics import BOOK_UPDATES

SYMBOL = "BTC-USD"
pytestmark = pytest.mark.timeout(280)  # seven processes start, and some reconnect

# Between an update compared with the exchange and the next; after a snapshot every one of the first few is compared.
COMPARE_EVERY = 10
COMPARE_AFTER_SNAPSHOT = 10

# Fault -> (what the story in feed_status must tell, whether the book must have been invalid, and the reasons for it).
FAULTS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "drop": ({"channel": "l2_data", "symbol": SYMBOL}, {"gap", "resynced"}, {"gap"}),
    "duplicate": ({"channel": "l2_data", "symbol": SYMBOL, "count": 3}, set(), set()),
    "reorder": ({"channel": "l2_data", "symbol": SYMBOL}, {"gap", "resynced"}, {"gap"}),
    "corrupt": ({"channel": "l2_data", "symbol": SYMBOL}, {"gap", "resynced"}, {"gap"}),
    "mute": ({"seconds": 12}, {"heartbeat_missed", "resynced"}, {"stale", "disconnected"}),
    # A reset may get lost on its way, when the other side had data still to come: silence tells it then.
    "disconnect": ({}, {"disconnected", "connected", "resynced"}, {"disconnected", "stale"}),
    "halt": ({"symbol": SYMBOL, "seconds": 3}, {"halted", "resumed"}, {"halted"}),
}


@pytest.fixture(scope="module")
def running(endpoints: Any, services_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The platform on the simulated exchange, which has one fault after the other."""
    name = f"faults_{os.getpid()}"
    services = services_of(endpoints, f"{name}.", name, tmp_path_factory.mktemp("faults"))
    try:
        services.start_all("infra.simulator", TICKSTREAM_EXCHANGE_RATE="200")
        yield services
    finally:
        services.stop()
        services.remove()


def book_updates(services: Any) -> list[BookUpdate]:
    """Return every public book update of the symbol, in order."""
    return [event for event in services.events(BOOK_UPDATES) if event.symbol == SYMBOL]


def exchange_book(services: Any, update: BookUpdate) -> dict[str, dict[Decimal, Decimal]] | None:
    """Return the exchange's own book at the sequence of an update, or None when it keeps it no more."""
    params = {"sequence": update.sequence, "at": update.ts_recv}
    answer = services.http.get(f"{services.control_url}/book/{SYMBOL}", params=params)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    book = answer.raise_for_status().json()
    return {side: {Decimal(price): Decimal(size) for price, size in book[side]} for side in ("bids", "asks")}


def apply(book: dict[str, dict[Decimal, Decimal]], update: BookUpdate) -> None:
    """Set each price to its absolute size; 0 removes the level."""
    for side, prices, sizes in (
        ("bids", update.bid_prices, update.bid_sizes),
        ("asks", update.ask_prices, update.ask_sizes),
    ):
        for price, size in zip(map(Decimal, prices), map(Decimal, sizes), strict=True):
            if size:
                book[side][price] = size
            else:
                book[side].pop(price, None)


def compare_with_exchange(services: Any, updates: list[BookUpdate], since_ns: int) -> tuple[int, set[str]]:
    """Rebuild the book update by update and compare it while valid; return how often, and the reasons of invalidity.

    What was received before `since_ns` was compared by the tests before.
    """
    book: dict[str, dict[Decimal, Decimal]] = {"bids": {}, "asks": {}}
    known, since_snapshot, compared, reasons = False, 0, 0, set()
    for update in updates:
        if not update.valid and update.ts_recv >= since_ns:
            reasons.add(update.reason)
        if update.kind == "clear":
            known = False
            continue
        if update.kind == "snapshot":
            book, known, since_snapshot = {"bids": {}, "asks": {}}, True, 0
        assert known, f"an update at sequence {update.sequence} on a book that was never repaired"
        if update.kind == "heartbeat":
            continue
        apply(book, update)
        since_snapshot += 1
        if not update.valid or update.ts_recv < since_ns:
            continue
        if since_snapshot <= COMPARE_AFTER_SNAPSHOT or since_snapshot % COMPARE_EVERY == 0:
            want = exchange_book(services, update)
            if want is not None:
                assert book == want, f"the book differs from the exchange's at sequence {update.sequence}"
                compared += 1
    return compared, reasons


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_told_repaired_and_never_shows_a_wrong_book(running: Any, wait_for: Any, kind: str) -> None:
    """After a fault: its events, a closed entry on the ledger, invalid then valid, equal to the exchange throughout."""
    parameters, story, reasons = FAULTS[kind]
    valid = lambda: running.get(f"/api/v1/market/{SYMBOL}/orderbook")["valid"]  # noqa: E731 - asked many times
    wait_for("a valid book", valid)
    wait_for("some trades", lambda: running.rows("SELECT 1 FROM trades HAVING count(*) > 20"))
    since_ns = time.time_ns()
    fault = running.http.post(f"{running.control_url}/faults", json={"kind": kind, **parameters}, timeout=30)
    assert fault.raise_for_status().json()["fault"]["kind"] == kind

    def told() -> bool:
        query = "SELECT kind FROM feed_status WHERE symbol IN (%s, '*') AND ts_recv_ns >= %s"
        return story <= {row[0] for row in running.rows(query, SYMBOL, since_ns)}

    wait_for(f"the story {sorted(story)}", told)
    wait_for("a valid book again", valid)
    if "resynced" in story:
        wait_for("the gap on the ledger, closed", lambda: closed_gaps(running, since_ns))
        assert open_book_gaps(running) == []
    if kind == "corrupt":
        wait_for("the dead letter", lambda: running.rows("SELECT 1 FROM dead_letters WHERE stage = 'feed'"))
    before = running.rows("SELECT count(*) FROM trades")[0][0]
    wait_for("trades to go on", lambda: running.rows("SELECT count(*) FROM trades")[0][0] > before + 40)

    def books() -> set[str] | None:
        compared, seen = compare_with_exchange(running, book_updates(running), since_ns)
        return seen | {"compared"} if compared > COMPARE_AFTER_SNAPSHOT and (not reasons or seen & reasons) else None

    seen = wait_for("the books to tell of it, and to be right", books)
    assert reasons or seen <= {"compared", "resyncing"}
    ids = [int(row[0]) for row in running.rows("SELECT trade_id FROM trades WHERE symbol = %s", SYMBOL)]
    assert len(ids) == len(set(ids))


def test_gaps_that_a_killed_producer_left_are_closed_by_the_next_one(running: Any, wait_for: Any) -> None:
    """Killed while no book gets through: the next producer's first book closes them, and its own of what was missed."""
    wait_for("a valid book", lambda: running.get(f"/api/v1/market/{SYMBOL}/orderbook")["valid"])
    lost = {"kind": "drop", "channel": "l2_data", "symbol": SYMBOL, "count": 0}
    running.http.post(f"{running.control_url}/faults", json=lost).raise_for_status()
    open_ones = {"symbol": SYMBOL, "state": "open"}
    (gap, *_) = wait_for("an open gap of the book", lambda: [
        one for one in running.get("/api/v1/gaps", **open_ones)["data"] if one["channel"] != "market_trades"
    ])  # fmt: skip
    running.kill("producer")
    running.http.delete(f"{running.control_url}/faults").raise_for_status()
    assert open_book_gaps(running)
    running.restart("producer")
    wait_for("the end of every gap of the book", lambda: {
        one["channel"] for one in running.get("/api/v1/gaps", **open_ones)["data"]
    } <= {"trades", "market_trades"})  # fmt: skip
    closed = {one["gap_id"]: one for one in running.get("/api/v1/gaps", symbol=SYMBOL, state="repaired")["data"]}
    assert closed[gap["gap_id"]]["repaired_by"] == "restarted"
    own = "SELECT state, ts_to_ns > ts_from_ns FROM gaps WHERE reason = 'restarted' AND symbol = %s"
    assert running.rows(own, SYMBOL) == [("repaired", True)]


def open_book_gaps(services: Any) -> list[tuple[Any, ...]]:
    """Return the open entries that concern the book; trades that no snapshot brings back rightly stay open."""
    query = "SELECT * FROM gaps WHERE repaired_at IS NULL AND symbol = %s AND channel IS DISTINCT FROM 'market_trades'"
    rows: list[tuple[Any, ...]] = services.rows(query, SYMBOL)
    return rows


def closed_gaps(services: Any, since_ns: int) -> list[tuple[Any, ...]]:
    """Return the entries of the ledger that were detected after a time and are closed."""
    query = "SELECT gap_id FROM gaps WHERE repaired_at IS NOT NULL AND detected_at >= to_timestamp(%s / 1e9)"
    rows: list[tuple[Any, ...]] = services.rows(query, since_ns)
    return rows
