"""One pair's book as Kraken proves it: cut to the subscribed depth, with the checksum of its best levels.

1. A snapshot has the subscribed depth. A change sets absolute sizes, 0 removes a level; then each side is cut to the
   depth, because the venue sends no removal for a level that falls out of it. `apply` returns the removal of those
   levels, so that no consumer keeps them.
2. The checksum is a CRC32 over the ten best asks, lowest first, then the ten best bids, highest first: price and size
   without the point and without leading zeros, in the venue's own digits.

Sources: "Book checksum (WebSocket v2)" (https://docs.kraken.com/api/docs/guides/spot-ws-book-v2) and "Book checksum
(WebSocket v1)" (https://docs.kraken.com/api/docs/guides/spot-ws-book-v1).
"""

from __future__ import annotations

from zlib import crc32

from marketdata.book import L2Book, Side, levels_digits
from producers.venues.kit.values import Columns

CHECKED = 10  # levels a side that the checksum covers
DEPTHS = (10, 25, 100, 500, 1000)


class Book:
    """One pair's book. `levels` are its levels, `checksum` is the CRC32 of the best ones as an unsigned number."""

    __slots__ = ("_asks_checksum", "_bids_digits", "_depth", "_last", "_ts", "checksum", "levels")

    def __init__(self, depth: int, columns: Columns) -> None:
        self.levels = L2Book()
        self.levels.bids.replace(columns[0], columns[1])
        self.levels.asks.replace(columns[2], columns[3])
        self.levels.bids.truncate(depth)
        self.levels.asks.truncate(depth)
        self._depth = depth
        self._ts = 0
        self._last = columns
        self._bids_digits = levels_digits(self.levels.bids, CHECKED)
        self._asks_checksum = crc32(levels_digits(self.levels.asks, CHECKED))
        self.checksum = crc32(self._bids_digits, self._asks_checksum)

    def is_old(self, ts: int, columns: Columns) -> bool:
        """Return whether a change is older than the last one and concerns one of its levels: it came out of order.

        The checksum does not show it when the later change took the earlier one back. That times alone go back is
        no proof, since nothing documents that they may not.
        """
        return ts < self._ts and not (
            set(columns[0]).isdisjoint(self._last[0]) and set(columns[2]).isdisjoint(self._last[2])
        )

    def apply(self, ts: int, columns: Columns) -> Columns:
        """Apply the changes and return them with the removal of what fell out of the depth."""
        self._ts, self._last = ts, columns
        bid_prices, bid_sizes, ask_prices, ask_sizes = columns
        if bid_prices:
            bid_prices, bid_sizes = _applied(self.levels.bids, self._depth, bid_prices, bid_sizes)
            self._bids_digits = levels_digits(self.levels.bids, CHECKED)
        if ask_prices:
            ask_prices, ask_sizes = _applied(self.levels.asks, self._depth, ask_prices, ask_sizes)
            self._asks_checksum = crc32(levels_digits(self.levels.asks, CHECKED))
        self.checksum = crc32(self._bids_digits, self._asks_checksum)
        return bid_prices, bid_sizes, ask_prices, ask_sizes


def depth_of(columns: Columns) -> int:
    """Return the smallest depth that Kraken has for a snapshot of this size, if no response stated the depth."""
    levels = max(len(columns[0]), len(columns[2]))
    return next((depth for depth in DEPTHS if levels <= depth), levels)


def _applied(side: Side, depth: int, prices: list[str], sizes: list[str]) -> tuple[list[str], list[str]]:
    side.apply(prices, sizes)
    if gone := side.truncate(depth):
        return [*prices, *(price for price, _ in gone)], sizes + ["0"] * len(gone)
    return prices, sizes
