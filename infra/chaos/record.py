"""The exchange's own record of a product, fetched over its control port, and its book at any sequence."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import httpx

from marketdata.clock import SECOND_NS

# Longer than any freeze: what a connection was sent may be read as late as this after it was closed.
READ_LATE_NS = 90 * SECOND_NS
SAVED_EVERY = 500

Side = dict[str, str]
Sides = tuple[Side, Side]


class Deal(NamedTuple):
    """One trade of the exchange; `ts` is UTC nanoseconds, `side` the aggressor's."""

    trade_id: int
    ts: int
    price: str
    size: str
    side: str


class Sent(NamedTuple):
    """What one connection was sent of a book: (sequence, version) of each frame, oldest first."""

    opened: int
    closed: int | None
    frames: list[tuple[int, int]]


class ProductRecord:
    """One product's record. Prices and sizes are decimal strings; a book is (bids, asks), price -> size."""

    def __init__(self, trades: list[list[Any]], body: dict[str, Any]) -> None:
        """Take the bodies of `/record/SYMBOL/trades` and `/record/SYMBOL/book`."""
        self.deals = {int(number): Deal(int(number), ts, *rest) for number, ts, *rest in trades}
        self._sent = [
            Sent(one["opened"], one["closed"], [(s, v) for s, v in one["frames"]])
            for one in sorted(body["sent"], key=lambda one: -int(one["connection"]))
        ]
        self.oldest_version: int = body["book"]["version"]
        self._changes: list[tuple[int, list[tuple[str, str, str]]]] = [
            (version, [(side, price, size) for side, price, size in levels]) for version, levels in body["changes"]
        ]
        self._saved: list[tuple[int, int, Sides]] = []  # (index of the next change, version, book)
        self._bids = dict(body["book"]["bids"])
        self._asks = dict(body["book"]["asks"])
        self._at, self._version = 0, self.oldest_version
        self._save()

    def versions(self, sequence: int, ts_recv: int) -> Iterator[int]:
        """Yield the versions of the book that a sequence may stand for, the likeliest first.

        Each connection counts from 0, so the time of receipt decides which it was. What is left in a socket is read
        after the connection was closed, therefore older connections follow.
        """
        for sent in self._sent:
            if sent.opened > ts_recv or (sent.closed is not None and ts_recv - sent.closed > READ_LATE_NS):
                continue
            place = bisect_right(sent.frames, sequence, key=lambda frame: frame[0])
            if place:
                yield sent.frames[place - 1][1]

    def book(self, version: int) -> Sides:
        """Return the book of a version, not to be changed; versions are best asked for in rising order."""
        if version < self._version:
            place = bisect_right(self._saved, version, key=lambda saved: saved[1]) - 1
            self._at, self._version, (bids, asks) = self._saved[max(place, 0)]
            self._bids, self._asks = dict(bids), dict(asks)
        while self._at < len(self._changes) and self._changes[self._at][0] <= version:
            self._version, levels = self._changes[self._at]
            for side, price, size in levels:
                book = self._bids if side == "bid" else self._asks
                if size == "0":
                    book.pop(price, None)
                else:
                    book[price] = size
            self._at += 1
            if self._at % SAVED_EVERY == 0 and self._at > self._saved[-1][0]:
                self._save()
        return self._bids, self._asks

    def _save(self) -> None:
        self._saved.append((self._at, self._version, (dict(self._bids), dict(self._asks))))


def best(side: Side, count: int, *, highest: bool) -> list[tuple[str, str]]:
    """Return the best levels of a side, best first."""
    return sorted(side.items(), key=lambda level: float(level[0]), reverse=highest)[:count]


def same_levels(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> bool:
    """Return whether two lists of levels are equal as numbers."""
    if one == other:
        return True
    numbers = [[(Decimal(price), Decimal(size)) for price, size in levels] for levels in (one, other)]
    return numbers[0] == numbers[1]


class Control:
    """The control port of the simulated exchange; each call raises httpx.HTTPError when it does not answer."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def set_rate(self, events_per_s: float) -> None:
        """Enter this many orders a second from now on, all products together."""
        self._client.put("/rate", json={"events_per_s": events_per_s}).raise_for_status()

    def fetch(self, symbol: str) -> ProductRecord:
        """Return the record of a product; stop the orders first."""
        trades: list[list[Any]] = []
        while True:
            since = int(trades[-1][0]) + 1 if trades else 0
            answer = self._client.get(f"/record/{symbol}/trades", params={"since": since}).raise_for_status()
            page = answer.json()["trades"]
            if not page:
                break
            trades += page
        return ProductRecord(trades, self._client.get(f"/record/{symbol}/book").raise_for_status().json())

    def book(self, symbol: str, depth: int) -> dict[str, list[tuple[str, str]]]:
        """Return the best levels of a product's book as it is now: `bids` and `asks` as (price, size), best first."""
        body = self._client.get(f"/book/{symbol}", params={"depth": depth}).raise_for_status().json()
        return {side: [(price, size) for price, size in body[side]] for side in ("bids", "asks")}
