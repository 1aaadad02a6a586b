"""Bitfinex's books: levels, or single orders summed to levels, and the checksums over both.

DOCS is "Books", "Raw Books" and "WS Checksums", https://docs.bitfinex.com/reference/ws-public-books and
https://docs.bitfinex.com/docs/ws-websocket-checksum.

1. A level (P0 to P4) is `[price, count, amount]`: count 0 removes it; an amount above 0 is a bid, below 0 an ask. An
   order of a raw book (R0) is `[order, price, amount]`: price 0 removes it.
2. `cs` is the signed CRC32 of the best 25 levels: bid price, amount, ask price, negative amount in turn, joined by ":",
   as JavaScript writes numbers: with an exponent below 1e-6. In a raw book the order's id is in place of the price.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from itertools import zip_longest
from typing import Any
from zlib import crc32

from marketdata.book import L2Book, Level
from marketdata.decimals import is_zero, plain
from marketdata.errors import BadEvent
from producers.venues.kit.values import Columns, number, numbers

CHECKED_LEVELS = 25


class Book:
    """One channel's book; its levels, and a raw book's orders, are kept for checksums and sums."""

    __slots__ = ("is_raw", "levels", "orders")

    def __init__(self, *, is_raw: bool) -> None:
        self.is_raw = is_raw
        self.levels = L2Book()
        self.orders: dict[int, tuple[str, str]] = {}  # price and signed amount

    def replace(self, rows: list[list[Any]]) -> Columns:
        """Take a snapshot and return its columns. Raises BadEvent."""
        if self.is_raw:
            self.orders.clear()
            self.levels.clear()
        columns = self.change_orders(rows) if self.is_raw else _levels(rows)
        self.levels.replace(columns)
        return columns

    def change_orders(self, rows: list[list[Any]]) -> Columns:
        """Follow [order, price, amount] rows; return the levels that they change as columns.

        Raises BadEvent, and nothing was changed then.
        """
        prices = numbers([row[1] for row in rows], "price")
        amounts = numbers([row[2] for row in rows], "amount")
        if not all(type(row[0]) is int and row[0] >= 0 for row in rows):
            raise BadEvent("bad_frame", "order", str(rows)[:200])
        book = self.levels
        totals: dict[tuple[bool, Decimal], tuple[str, Decimal]] = {}

        def add(price: str, amount: str, sign: int) -> None:
            is_ask = amount[0] == "-"
            key = is_ask, Decimal(price)
            if key not in totals:
                totals[key] = price, Decimal((book.asks if is_ask else book.bids).size_at(price) or "0")
            totals[key] = totals[key][0], totals[key][1] + sign * abs(Decimal(amount))

        for row, price, amount in zip(rows, prices, amounts, strict=True):
            before = self.orders.pop(row[0], None)
            if before is not None:
                add(*before, -1)
            if not is_zero(price):
                self.orders[row[0]] = price, amount
                add(price, amount, 1)
        columns: Columns = ([], [], [], [])
        for (is_ask, _), (price, size) in totals.items():
            columns[2 * is_ask].append(price)
            columns[2 * is_ask + 1].append(plain(size))
        book.apply(columns)
        return columns

    def checksum(self) -> int:
        """Return the venue's checksum of this book."""
        return _raw_checksum(self.orders) if self.is_raw else checksum(self.levels)


def checksum(book: L2Book) -> int:
    """Return Bitfinex's checksum of a book of levels: signed CRC32 over its best 25, bid and ask in turn."""
    bids, asks = book.bids.top(CHECKED_LEVELS), book.asks.top(CHECKED_LEVELS)
    return _signed_crc(((p, s) for p, s in bids), ((p, f"-{s}") for p, s in asks))


def read_level(row: list[Any]) -> Columns:
    """Return the columns of one [price, count, amount]. Raises BadEvent."""
    price, count, amount = number(row[0], "price"), row[1], number(row[2], "amount")
    if type(count) is not int or count < 0:
        raise BadEvent("bad_frame", "count", str(count)[:200])
    if price[0] == "-":
        raise BadEvent("not_positive", "price", price)
    if amount[0] == "-":
        return [], [], [price], [amount[1:] if count else "0"]
    return [price], [amount if count else "0"], [], []


def _levels(rows: list[list[Any]]) -> Columns:
    """Return the columns of [price, count, amount] rows. Raises BadEvent."""
    prices = numbers([row[0] for row in rows], "price")
    amounts = [str(row[2]) for row in rows]
    sizes = numbers([amount.removeprefix("-") for amount in amounts], "amount")
    columns: Columns = ([], [], [], [])
    for row, price, amount, size in zip(rows, prices, amounts, sizes, strict=True):
        count = row[1]
        if type(count) is not int or count < 0:
            raise BadEvent("bad_frame", "count", str(count)[:200])
        if price[0] == "-" or size[0] == "-":
            raise BadEvent("not_positive", "price", f"{price}, {amount}")
        side = 2 if amount[0] == "-" else 0
        columns[side].append(price)
        columns[side + 1].append(size if count else "0")
    return columns


def _raw_checksum(orders: dict[int, tuple[str, str]]) -> int:
    listed = [(Decimal(price), number, amount) for number, (price, amount) in orders.items()]
    bids = sorted((-price, number, amount) for price, number, amount in listed if amount[0] != "-")
    asks = sorted((price, number, amount) for price, number, amount in listed if amount[0] == "-")
    return _signed_crc(((str(n), a) for _, n, a in bids[:CHECKED_LEVELS]),
                       ((str(n), a) for _, n, a in asks[:CHECKED_LEVELS]))  # fmt: skip


def _signed_crc(bids: Iterable[Level], asks: Iterable[Level]) -> int:
    pairs = zip_longest(bids, asks)
    text = ":".join(_javascript(value) for pair in pairs for level in pair if level is not None for value in level)
    value = crc32(text.encode())
    return value - (1 << 32) if value >> 31 else value


def _javascript(text: str) -> str:
    """Return a decimal as JavaScript prints it: no zeros at the end, an exponent below 1e-6."""
    if "." not in text:
        return text
    text = text.rstrip("0").rstrip(".")
    digits = text.lstrip("-")
    if not digits.startswith("0.000000"):
        return text
    ones = digits[2:].lstrip("0")
    exponent = len(digits) - 2 - len(ones) + 1
    sign = "-" if text[0] == "-" else ""
    return f"{sign}{ones[0]}{'.' if len(ones) > 1 else ''}{ones[1:]}e-{exponent}"
