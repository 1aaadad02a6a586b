"""The exchange's own record of one book: every version that is remembered, and which ones each client was sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infra.simulator.market import Market
from infra.simulator.matching import ASK, BID
from infra.simulator.venues.coinbase.connection import Connection

_SIDES = {BID: "bid", ASK: "ask"}


def book_record(market: Market, connections: Iterable[Connection]) -> dict[str, Any]:
    """Return what is remembered of a book, oldest first; times are UTC nanoseconds.

    - `book`: the `version`, `bids` and `asks` ([price, size]) before the first of `changes`.
    - `changes`: [version, [[side, price, new size], ...]] of each version that changed a level; size "0" removes it.
    - `sent`: of each connection when it was `opened` and `closed`, and its book `frames`, [sequence, version].
    """
    price, size = market.price.string, market.size.string
    levels = {(side, ticks): lots for side in (BID, ASK) for ticks, lots in market.book.levels(side)}
    changes: list[tuple[int, list[tuple[str, str, str]]]] = []
    for version, undone in zip(range(market.version, -1, -1), market.changes_newest_first(), strict=False):
        if undone:
            sizes = [(_SIDES[side], price(ticks), size(levels.get((side, ticks), 0))) for side, ticks, _ in undone]
            changes.append((version, sizes))
        for side, ticks, before in undone:
            levels[side, ticks] = before
    oldest = {place: lots for place, lots in levels.items() if lots}
    return {
        "symbol": market.product.symbol,
        "book": {
            "version": market.versions_kept_from,
            "bids": [(price(ticks), size(lots)) for (side, ticks), lots in oldest.items() if side == BID],
            "asks": [(price(ticks), size(lots)) for (side, ticks), lots in oldest.items() if side == ASK],
        },
        "changes": changes[::-1],
        "sent": [
            {
                "connection": one.id,
                "opened": one.opened,
                "closed": one.closed,
                "frames": one.book_frames(market.product.symbol),
            }
            for one in connections
            if one.was_sent(market.product.symbol)
        ],
    }
