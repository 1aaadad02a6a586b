"""A book seen to a limited depth: the changes that keep a client's best N levels exact.

Theory of operation. A side's view is every level at or above its edge, the N-th best level (no edge: the whole side).
A change of the book moves the edge; the view then changes in three ways only: at the prices that the change names, by
untouched levels that come into view because the edge fell, and by those that leave because it rose. Each is found by
bisection, so that a view costs the size of the change and not its depth.
"""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.book import L2Book, Level, Side


class Edges:
    """Where both sides of a view end before a change: the price of the N-th best level, None when there are fewer."""

    __slots__ = ("_asks", "_bids", "depth")

    def __init__(self, book: L2Book, depth: int) -> None:
        self.depth = depth
        self._bids = _edge(book.bids, depth)
        self._asks = _edge(book.asks, depth)

    def changes(
        self, book: L2Book, bid_prices: Sequence[str], ask_prices: Sequence[str]
    ) -> tuple[list[Level], list[Level]]:
        """Return what a client with the view before must set (size 0 removes) to have the view of the book now."""
        return (
            _side_changes(book.bids, self.depth, self._bids, bid_prices),
            _side_changes(book.asks, self.depth, self._asks, ask_prices),
        )


def _edge(side: Side, depth: int) -> str | None:
    level = side.nth(depth)
    return level[0] if level is not None else None


def _side_changes(side: Side, depth: int, edge: str | None, prices: Sequence[str]) -> list[Level]:
    before = None if edge is None else side.key(edge)
    level = side.nth(depth)
    now = None if level is None else side.key(level[0])
    changes: dict[object, Level] = {}
    for price in prices:
        key = side.key(price)
        size = side.size_at(price) if now is None or key >= now else None
        if size is not None:
            changes[key] = (price, size)
        elif before is None or key >= before:
            changes[key] = (price, "0")
    if before is not None and (now is None or now < before):
        for price, size in side.between(now, before):
            changes.setdefault(side.key(price), (price, size))
    elif now is not None and (before is None or before < now):
        for price, _ in side.between(before, now):
            changes.setdefault(side.key(price), (price, "0"))
    return list(changes.values())
