"""An L3 order book: single orders, and the L2 levels that they add up to, in exact integers.

Theory of operation. Prices and sizes are integers in a unit that the caller chooses: integers from a venue are used as
they are, decimal strings are converted by a `Scale`. A level keeps its orders by priority, and its size as their
running sum.

1. The first change of a level records its size and number of orders before the change.
2. `take_changes` compares these with the current levels, returns the levels that differ with their absolute size (0 if
   no order is left), and resets the record. So a batch of changes, or a whole snapshot, returns each level once.
3. An inconsistent change (of an order that is not in the book, or a new one that is) changes nothing and returns False.
   The venue's feed decides whether this is normal, counted or a loss.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import nlargest, nsmallest
from operator import itemgetter
from typing import Literal, NamedTuple

import msgspec

from marketdata.decimals import WHOLE_DIGITS_MAX, decimal
from marketdata.errors import BadEvent

Side = Literal["bid", "ask"]
BID: Side = "bid"
ASK: Side = "ask"


class Level(NamedTuple):
    """One price level of a side: the total size and number of its orders; both are 0 when it is removed."""

    price: int
    size: int
    orders: int


class Order(msgspec.Struct, gc=False):
    """One resting order; read-only for everything but the book."""

    side: Side
    price: int
    size: int


class Changes(NamedTuple):
    """The changed levels, in the order of their first change."""

    bids: list[Level]
    asks: list[Level]


class _Queue(msgspec.Struct):
    """A level: its size, and its orders by priority."""

    size: int
    orders: dict[Hashable, Order]


class _Half:
    """One side: its levels by price, and (size, count) of changed levels before their first change."""

    __slots__ = ("before", "levels")

    def __init__(self) -> None:
        self.levels: dict[int, _Queue] = {}
        self.before: dict[int, tuple[int, int]] = {}

    def touch(self, price: int) -> _Queue:
        """Return the level of a price, and record its state before the change."""
        level = self.levels.get(price)
        if level is None:
            level = self.levels[price] = _Queue(0, {})
        if price not in self.before:
            self.before[price] = (level.size, len(level.orders))
        return level

    def enter(self, order_id: Hashable, order: Order) -> None:
        """Add an order at the end of its price's queue."""
        level = self.touch(order.price)
        level.orders[order_id] = order
        level.size += order.size

    def leave(self, order_id: Hashable, order: Order) -> None:
        """Remove an order from its level."""
        level = self.touch(order.price)
        del level.orders[order_id]
        level.size -= order.size
        if not level.orders:
            del self.levels[order.price]

    def take_changes(self) -> list[Level]:
        """Return the levels that changed since the last call."""
        changed: list[Level] = []
        levels = self.levels
        for price, before in self.before.items():
            level = levels.get(price)
            now = (0, 0) if level is None else (level.size, len(level.orders))
            if now != before:
                changed.append(Level(price, *now))
        self.before.clear()
        return changed


class OrderBook:
    """The orders of one symbol, by the venue's order ids."""

    __slots__ = ("_asks", "_bids", "_orders")

    def __init__(self) -> None:
        self._orders: dict[Hashable, Order] = {}
        self._bids = _Half()
        self._asks = _Half()

    def __len__(self) -> int:
        """Return the number of orders."""
        return len(self._orders)

    def __contains__(self, order_id: Hashable) -> bool:
        """Return whether an order is in the book."""
        return order_id in self._orders

    def get(self, order_id: Hashable) -> Order | None:
        """Return an order, or None if it is not in the book."""
        return self._orders.get(order_id)

    # --- Changes. Each returns False, and changes nothing, if the order is not (for `add`: already) in the book ---

    def add(self, order_id: Hashable, side: Side, price: int, size: int) -> bool:
        """Add a new order at the end of its price's queue; an order without a size is ignored."""
        if order_id in self._orders:
            return False
        if size > 0:
            order = self._orders[order_id] = Order(side, price, size)
            self._half(side).enter(order_id, order)
        return True

    def modify(self, order_id: Hashable, price: int, size: int) -> bool:
        """Set an order's price and size; a size of 0 or less removes it.

        It keeps its place in the queue if the price stays the same and the size does not grow.
        """
        order = self._orders.get(order_id)
        if order is None:
            return False
        if size <= 0:
            return self.remove(order_id)
        half = self._half(order.side)
        if price == order.price and size <= order.size:
            half.touch(price).size += size - order.size
            order.size = size
            return True
        half.leave(order_id, order)
        order.price, order.size = price, size
        half.enter(order_id, order)
        return True

    def reduce(self, order_id: Hashable, by: int) -> bool:
        """Reduce an order's size, as a fill or a partial cancel does; nothing left removes the order."""
        order = self._orders.get(order_id)
        return order is not None and self.modify(order_id, order.price, order.size - by)

    def remove(self, order_id: Hashable) -> bool:
        """Remove an order."""
        order = self._orders.pop(order_id, None)
        if order is None:
            return False
        self._half(order.side).leave(order_id, order)
        return True

    def clear(self) -> None:
        """Remove every order."""
        for half in (self._bids, self._asks):
            for price in half.levels:
                half.touch(price)
            half.levels.clear()
        self._orders.clear()

    # --- Levels ---

    def take_changes(self) -> Changes:
        """Return the levels that changed since the last call."""
        return Changes(self._bids.take_changes(), self._asks.take_changes())

    def levels(self, side: Side) -> list[Level]:
        """Return every level of a side, best first."""
        levels = [Level(price, level.size, len(level.orders)) for price, level in self._half(side).levels.items()]
        levels.sort(key=itemgetter(0), reverse=side == BID)
        return levels

    def top(self, side: Side, depth: int) -> list[Level]:
        """Return the best `depth` levels of a side, best first."""
        levels = self._half(side).levels
        prices = nlargest(depth, levels) if side == BID else nsmallest(depth, levels)
        return [Level(price, levels[price].size, len(levels[price].orders)) for price in prices]

    def queue(self, side: Side, price: int) -> list[tuple[Hashable, int]]:
        """Return the orders at a price as (id, size), in order of priority."""
        level = self._half(side).levels.get(price)
        return [] if level is None else [(order_id, order.size) for order_id, order in level.orders.items()]

    def _half(self, side: Side) -> _Half:
        return self._bids if side == BID else self._asks


class Scale:
    """Converts decimal strings to integers in units of 10^-places, and back, without rounding."""

    __slots__ = ("_limit", "_zeros", "places")

    def __init__(self, places: int) -> None:
        self.places = places
        self._zeros = "0" * places
        self._limit = 10 ** (WHOLE_DIGITS_MAX + places)

    def number(self, text: str, field: str) -> int:
        """Return a decimal as an integer in units of the scale; `field` names it in the error.

        Raises BadEvent: `not_a_decimal`, and `too_precise` for more decimals than the scale has.
        """
        whole, _, part = text.partition(".")
        if len(part) <= self.places and whole.isdigit() and text.isascii() and len(text) <= WHOLE_DIGITS_MAX:
            if not part:
                return int(whole + self._zeros)
            if part.isdigit():
                return int(whole + part + self._zeros[len(part) :])
        return self._unusual(text, field)

    def _unusual(self, text: str, field: str) -> int:
        sign, digits, exponent = decimal(text, field).as_tuple()
        shift = int(exponent) + self.places
        value, rest = divmod(int("".join(map(str, digits)) + "0" * shift), int("1" + "0" * -shift))
        if rest:
            raise BadEvent("too_precise", field, text)
        return -value if sign else value

    def text(self, number: int) -> str:
        """Return the decimal string of an integer in units of the scale, without trailing zeros.

        Raises BadEvent (`out_of_range`) for a number with more digits than any market has; a sum may have them.
        """
        places = self.places
        if not -self._limit < number < self._limit:
            raise BadEvent("out_of_range", "size", number)
        if not places:
            return str(number)
        digits = str(abs(number)).rjust(places + 1, "0")
        part = digits[-places:].rstrip("0")
        sign = "-" if number < 0 else ""
        return f"{sign}{digits[:-places]}.{part}" if part else sign + digits[:-places]
