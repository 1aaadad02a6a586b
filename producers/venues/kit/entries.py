"""A book that the venue sends as entries: each a price level, or one order of several at a level, known by its id."""

from __future__ import annotations

from decimal import Decimal
from functools import reduce

from marketdata.decimals import EXACT, decimal, is_zero
from marketdata.errors import BadEvent
from producers.venues.kit.values import Columns

BID, ASK = 0, 1

# How many entries of size 0 are remembered. A change of one that is forgotten is one of an unknown entry.
EMPTY_MAX = 10_000


class _Level:
    __slots__ = ("entries", "name", "price")

    def __init__(self, price: str) -> None:
        self.price = price
        self.name = ""  # the id of the last entry that set it, in a book of levels
        self.entries: dict[str, str] = {}  # id, or nothing where entries have none, to size

    @property
    def size(self) -> str:
        """The size of all entries together, in the venue's own digits where it is one.

        Raises BadEvent where that is more than a size may be.
        """
        sizes = list(self.entries.values())
        if len(sizes) == 1:
            return sizes[0]
        text = f"{reduce(EXACT.add, map(Decimal, sizes)):f}"
        decimal(text, "271")
        return text


class EntryBook:
    """Both sides of one product. The first entry after `clear` shows whether entries have ids (`by_id`).

    Otherwise it is a book of levels, in which each price has one size. If a later entry has an id there, it names the
    level that it sets, and moves it when it comes again with another price.

    An entry of size 0 is no level. If it has an id, the venue still knows it and may give it a size later, so its side
    and price are remembered.
    """

    __slots__ = ("_by_id", "_empty", "_levels", "_places")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._by_id: bool | None = None
        self._levels: tuple[dict[Decimal, _Level], dict[Decimal, _Level]] = ({}, {})
        self._places: dict[str, tuple[int, Decimal]] = {}
        self._empty: dict[str, tuple[int, str]] = {}

    def put(self, side: int, entry: str, price: str, size: str) -> None:
        """Add an entry, or give it the size and place that it has now; with size 0 it is in no level.

        Raises BadEvent for what is no decimal, or an entry without an id where others have one.
        """
        if self._by_id is None:
            self._by_id = bool(entry)
        if self._by_id and not entry:
            raise BadEvent("no_entry_id", "278", price)
        at = decimal(price, "270")
        if decimal(size, "271") < 0 or "e" in (price + size).lower():  # sums of them would not be what they look like
            raise BadEvent("bad_size", "271", f"{size} at {price}")
        self.take(entry)
        if is_zero(size):
            self._drop(side, at, "")
            if entry:
                self._empty[entry] = (side, price)
                if len(self._empty) > EMPTY_MAX:
                    del self._empty[next(iter(self._empty))]
            return
        level = self._levels[side].setdefault(at, _Level(price))
        level.entries[entry if self._by_id else ""] = size
        if entry:
            self._places[entry] = (side, at)
        if not self._by_id and level.name != entry:
            self._places.pop(level.name, None)
            level.name = entry

    def add(self, side: int, entry: str, price: str, size: str) -> None:
        """Add an entry of a snapshot. Raises BadEvent as `put` does, and where it is there already."""
        entries, levels = len(self._places), len(self._levels[side])
        self.put(side, entry, price, size)
        is_new = len(self._places) > entries if self._by_id else len(self._levels[side]) > levels
        if not is_new and not is_zero(size):
            raise BadEvent("level_twice", "270", price)

    def take(self, entry: str) -> None:
        """Take an entry away by its id, if it is there."""
        self._empty.pop(entry, None)
        place = self._places.pop(entry, None)
        if place is not None:
            self._drop(*place, entry if self._by_id else "")

    def take_level(self, side: int, price: str) -> None:
        """Take a level away with all its entries, if it is there."""
        level = self._levels[side].pop(decimal(price, "270"), None)
        for entry in (level.name, *level.entries) if level is not None else ():
            self._places.pop(entry, None)

    def has_level(self, side: int, price: str) -> bool:
        """Tell whether there is a level of this price."""
        return decimal(price, "270") in self._levels[side]

    def level_count(self, side: int) -> int:
        """Return the number of levels of a side."""
        return len(self._levels[side])

    def best_first(self, side: int) -> list[str]:
        """Return the prices of a side's levels, the best first."""
        levels = self._levels[side]
        return [levels[at].price for at in sorted(levels, reverse=side == BID)]

    @property
    def by_id(self) -> bool:
        """Whether entries are known by ids."""
        return bool(self._by_id)

    def has(self, entry: str) -> bool:
        """Return whether there is an entry, or a level, with this id."""
        return entry in self._places or entry in self._empty

    def at(self, entry: str) -> tuple[int, str, str]:
        """Return side, price and size of an entry by its id. Raises BadEvent where there is none."""
        if entry in self._empty:
            return *self._empty[entry], "0"
        if entry not in self._places:
            raise BadEvent("unknown_entry", "278", entry)
        side, price = self._places[entry]
        level = self._levels[side][price]
        return side, level.price, level.entries[entry if self._by_id else ""]

    def size_at(self, side: int, price: str) -> str:
        """Return the size of a level, 0 where there is none."""
        level = self._levels[side].get(Decimal(price))
        return "0" if level is None else level.size

    def columns(self) -> Columns:
        """Return every level, in any order."""
        bids, asks = (list(levels.values()) for levels in self._levels)
        return ([level.price for level in bids], [level.size for level in bids],
                [level.price for level in asks], [level.size for level in asks])  # fmt: skip

    def _drop(self, side: int, at: Decimal, entry: str) -> None:
        level = self._levels[side].get(at)
        if level is not None:
            level.entries.pop(entry, None)
            if not level.entries:
                self._places.pop(level.name, None)
                del self._levels[side][at]
