"""What the database and the API hold, compared with what they must: a recording's, or the exchange's own record."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import httpx
import psycopg

RECORD_PAGE = 100_000
LEVELS = 10
Levels = list[list[str]]


def stored_rows(database_url: str, venue: str) -> dict[str, int]:
    """Return how many trades and venue quotes of a venue are stored."""
    queries = {
        "trades": "SELECT count(*) FROM trades WHERE venue = %s",
        "quotes": "SELECT count(*) FROM quotes WHERE venue = %s AND source = 'venue'",
    }
    with psycopg.connect(database_url) as connection:
        return {name: connection.execute(query, (venue,)).fetchall()[0][0] for name, query in queries.items()}


def api_book(api: str, symbol: str, venue: str, *, stale: bool = False) -> dict[str, Levels] | None:
    """Return the API's best levels of a book as strings; None while it is not known or not valid.

    With `stale` the book may be stale, as it is some seconds after a replay is over.
    """
    parameters: dict[str, str | int] = {"venue": venue, "depth": LEVELS}
    answer = httpx.get(f"http://{api}/api/v1/market/{symbol}/orderbook", params=parameters, timeout=10, trust_env=False)
    body = answer.json()
    if answer.is_error or not (body["valid"] or (stale and body["reason"] == "stale")):
        return None
    data = body["data"]
    return {side: [[level[0], level[1]] for level in data[side]] for side in ("bids", "asks")}


def same_books(one: dict[str, Levels] | None, other: dict[str, Levels]) -> bool:
    """Return whether two books have the same best levels, as numbers."""
    if one is None:
        return False
    sides = ("bids", "asks")
    numbers = [[[(Decimal(p), Decimal(s)) for p, s in book[side][:LEVELS]] for side in sides] for book in (one, other)]
    return numbers[0] == numbers[1]


def await_still(api: str, control: str, seconds_max: float) -> list[str]:
    """Wait until the API's books are the exchange's, which stands still; return the symbols where they are not."""
    symbols = [one["symbol"] for one in _get(control, "/record")]
    deadline = time.monotonic() + seconds_max
    while True:
        symbols = [
            one for one in symbols if not same_books(api_book(api, one, "coinbase"), _exchange_book(control, one))
        ]
        if not symbols or time.monotonic() > deadline:
            return symbols
        time.sleep(0.5)


def compare_trades(database_url: str, control: str) -> dict[str, Any]:
    """Compare the stored trades of each product with the exchange's record, which stands still.

    From the first stored id to the exchange's last one each must be there once; count, sum of sizes and sum of price
    times size are compared. Returns totals and the symbols that differ.
    """
    expected_all = stored_all = doubled = 0
    different: list[str] = []
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT symbol, count(*), count(DISTINCT trade_id), min(trade_id::bigint), sum(size), sum(price * size) "
            "FROM trades WHERE venue = 'coinbase' GROUP BY symbol"
        ).fetchall()
    stored = {row[0]: row[1:] for row in rows}
    for one in _get(control, "/record"):
        symbol = one["symbol"]
        if symbol not in stored:
            different.append(symbol)
            expected_all += one["last_trade_id"] - one["first_trade_id"] + 1
            continue
        count, distinct, first, size, value = stored[symbol]
        expected = one["last_trade_id"] - first + 1
        expected_all += expected
        stored_all += count
        doubled += count - distinct
        is_kept = first >= one["trades_kept_from"]
        if (count, distinct) != (expected, expected) or (is_kept and (size, value) != _sums(control, symbol, first)):
            different.append(symbol)
    return {"expected": expected_all, "stored": stored_all, "doubled": doubled, "different": different}


def _sums(control: str, symbol: str, since: int) -> tuple[Decimal, Decimal]:
    size = value = Decimal(0)
    while True:
        trades = _get(control, f"/record/{symbol}/trades?since={since}&limit={RECORD_PAGE}")["trades"]
        if not trades:
            return size, value
        for _, _, price, amount, _ in trades:
            size += Decimal(amount)
            value += Decimal(price) * Decimal(amount)
        since = int(trades[-1][0]) + 1


def _exchange_book(control: str, symbol: str) -> dict[str, Levels]:
    body = _get(control, f"/book/{symbol}?depth={LEVELS}")
    return {side: body[side] for side in ("bids", "asks")}


def _get(control: str, path: str) -> Any:
    return httpx.get(f"http://{control}{path}", timeout=60, trust_env=False).raise_for_status().json()
