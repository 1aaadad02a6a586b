"""One product's order book, order by order, with price-time matching; pure, in whole ticks and lots.

Prices are integers in ticks and sizes integers in lots, so nothing is ever rounded. Every order in, every fill, cancel
and expiry is counted, so that volume can be proved to be conserved: what was entered is either resting, traded,
cancelled or expired.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import NamedTuple

BID = 1
ASK = -1


class Fill(NamedTuple):
    """One execution: a resting order of `maker_side` gave `lots` at `ticks`."""

    ticks: int
    lots: int
    maker_side: int


class Change(NamedTuple):
    """A price level's total size before and after, in lots; 0 means no level."""

    side: int
    ticks: int
    before: int
    after: int


@dataclass(slots=True)
class Order:
    """A resting order; `lots` is what is left of it."""

    side: int
    ticks: int
    lots: int


@dataclass(slots=True)
class Totals:
    """Lots since the book began, by what became of them; a trade counts for both of its orders."""

    entered: int = 0
    traded: int = 0
    cancelled: int = 0
    expired: int = 0


class _Side:
    """The levels of one side: per price the orders in time order, the prices sorted with the best at the end."""

    __slots__ = ("keys", "orders", "sign", "sizes")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.keys: list[int] = []
        self.orders: dict[int, dict[int, Order]] = {}
        self.sizes: dict[int, int] = {}

    def best(self) -> int | None:
        return self.sign * self.keys[-1] if self.keys else None

    def add(self, order_id: int, order: Order) -> None:
        if order.ticks not in self.sizes:
            insort(self.keys, self.sign * order.ticks)
            self.sizes[order.ticks] = 0
            self.orders[order.ticks] = {}
        self.orders[order.ticks][order_id] = order
        self.sizes[order.ticks] += order.lots

    def shrink(self, ticks: int, lots: int) -> None:
        self.sizes[ticks] -= lots
        if not self.sizes[ticks]:
            del self.sizes[ticks]
            del self.orders[ticks]
            del self.keys[bisect_left(self.keys, self.sign * ticks)]


class Matching:
    """The order book of one product. Methods return the fills; `take_changes` gives the levels touched since."""

    def __init__(self) -> None:
        self._sides = {BID: _Side(BID), ASK: _Side(ASK)}
        self._orders: dict[int, Order] = {}
        # Order ids in an array, with each one's place in it, so that a random order is found at once.
        self._ids: list[int] = []
        self._places: dict[int, int] = {}
        self._next_id = 1
        self._before: dict[tuple[int, int], int] = {}
        self.totals = Totals()

    def __len__(self) -> int:
        """Return the number of resting orders."""
        return len(self._ids)

    def best(self, side: int) -> int | None:
        """Return the best price of a side in ticks, None when it is empty."""
        return self._sides[side].best()

    def depth(self, side: int) -> int:
        """Return the number of levels of a side."""
        return len(self._sides[side].keys)

    def size_at(self, side: int, ticks: int) -> int:
        """Return a level's size in lots, 0 where there is none."""
        return self._sides[side].sizes.get(ticks, 0)

    def levels(self, side: int) -> list[tuple[int, int]]:
        """Return a side's levels as (ticks, lots), best first."""
        levels = self._sides[side]
        return [(levels.sign * key, levels.sizes[levels.sign * key]) for key in reversed(levels.keys)]

    def resting(self) -> list[Order]:
        """Return every resting order, in no order."""
        return list(self._orders.values())

    def order_id(self, place: int) -> int:
        """Return the id of the resting order at a place from 0 to `len() - 1`; places move as orders leave."""
        return self._ids[place]

    def limit(self, side: int, ticks: int, lots: int) -> tuple[int | None, list[Fill]]:
        """Enter a limit order: match what crosses, rest the remainder. Returns its id, None when nothing rests."""
        self.totals.entered += lots
        fills, left = self._match(side, lots, ticks)
        if not left:
            return None, fills
        order_id = self._next_id
        self._next_id += 1
        self._touch(side, ticks)
        order = Order(side, ticks, left)
        self._sides[side].add(order_id, order)
        self._orders[order_id] = order
        self._places[order_id] = len(self._ids)
        self._ids.append(order_id)
        return order_id, fills

    def market(self, side: int, lots: int) -> list[Fill]:
        """Enter a market order; what finds no counterpart expires."""
        self.totals.entered += lots
        fills, left = self._match(side, lots, None)
        self.totals.expired += left
        return fills

    def cancel(self, order_id: int) -> bool:
        """Take a resting order away; False when it is not there."""
        order = self._orders.get(order_id)
        if order is None:
            return False
        self._touch(order.side, order.ticks)
        side = self._sides[order.side]
        del side.orders[order.ticks][order_id]
        side.shrink(order.ticks, order.lots)
        self._forget(order_id)
        self.totals.cancelled += order.lots
        return True

    def take_changes(self) -> list[Change]:
        """Return every level whose size differs from what it was at the last call, and start the next list."""
        sides = self._sides
        changes = [
            Change(side, ticks, before, after)
            for (side, ticks), before in self._before.items()
            if (after := sides[side].sizes.get(ticks, 0)) != before
        ]
        self._before.clear()
        return changes

    def _match(self, side: int, lots: int, limit: int | None) -> tuple[list[Fill], int]:
        opposite = self._sides[-side]
        fills: list[Fill] = []
        while lots and (best := opposite.best()) is not None and (limit is None or side * (limit - best) >= 0):
            self._touch(-side, best)
            maker_id, maker = next(iter(opposite.orders[best].items()))
            filled = min(lots, maker.lots)
            fills.append(Fill(best, filled, -side))
            self.totals.traded += 2 * filled
            lots -= filled
            maker.lots -= filled
            if not maker.lots:
                del opposite.orders[best][maker_id]
                self._forget(maker_id)
            opposite.shrink(best, filled)
        return fills, lots

    def _touch(self, side: int, ticks: int) -> None:
        self._before.setdefault((side, ticks), self.size_at(side, ticks))

    def _forget(self, order_id: int) -> None:
        place = self._places.pop(order_id)
        last = self._ids.pop()
        if last != order_id:
            self._ids[place] = last
            self._places[last] = place
        del self._orders[order_id]
