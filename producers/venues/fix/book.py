"""The book of a FIX venue: changes by entry, price or level's number, and snapshots that come in fragments.

Theory of operation. Source: FIX 5.0SP2 "Market Data", messages W and X; entries are applied in the order of a message.

1. Entries are known by MDEntryID (278) where the first has one, and MDEntryRefID (280) names one that is replaced.
   Otherwise levels are known by side and price, or by side and MDPriceLevel (1023), the number from the best, which is
   1. Before 5.0 that was MDEntryPositionNo (290).
2. MDUpdateAction (279): New, Change and Delete concern one of them. DeleteThru takes away all from the best to the one
   named, DeleteFrom all from the one named to the worst. Overlay puts another price and size in the place of one; so
   does a Change by number to a price that is not there. An entry whose MDEntryID is already known replaces that one,
   also in a New, whatever its side and price were; ids belong to one symbol. An entry of size 0 is no level, but its id
   stays known: venues send such entries while nobody quotes the instrument. Where the first entry has no id, an id of a
   later one is that of the level that it set last.
3. A Delete of an MDEntryID that is not in the book changes nothing, and is counted: both sides agree then that the
   entry is not there. The standard wants a "previous MDEntryID" (FIX 4.4, message X, field 278), which may be gone
   already, or was beyond the depth of the snapshot; that no message is missing the session's numbers show. Where an
   unknown id or level leaves open what the book is now, something was lost: a Change, a range, a level's number.
4. MDEntryType (269) J empties the book.
5. Where a snapshot states its depth (MarketDepth, 264) nothing reports what is pushed beyond it (MDImplicitDelete, 547,
   is the venue's choice): it is taken away after each message.
6. A snapshot may come in several W: all but the last have LastFragment (893) N, or each says how many answer its
   request (TotNumReports, 911; those of other symbols count). Changes that come between them are made after the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from producers.venues.kit.entries import ASK, BID, EntryBook
from producers.venues.kit.values import Columns

SIDES = {"0": BID, "1": ASK}
EMPTY = "J"
NEW, CHANGE, DELETE, DELETE_THRU, DELETE_FROM, OVERLAY = "012345"
_ACTIONS = frozenset({NEW, CHANGE, DELETE, DELETE_THRU, DELETE_FROM, OVERLAY})

ENTRIES_MAX = 1_000_000
WAITING_MAX = 100_000

Entry = dict[int, str]
# The levels that changed, by side and price; in order, each once.
Touched = dict[tuple[int, str], None]


class FixBook:
    """Both sides of one symbol. `depth` is how many levels the venue keeps up; 0 is all."""

    __slots__ = ("_entries", "depth")

    def __init__(self, depth: int = 0) -> None:
        self._entries = EntryBook()
        self.depth = depth

    def add(self, entry: Entry) -> None:
        """Add an entry of a snapshot. Raises BadEvent for one that cannot be."""
        self._entries.add(SIDES[entry[269]], entry.get(278, ""), entry.get(270, ""), entry.get(271, ""))

    def apply(self, entry: Entry, touched: Touched) -> bool:
        """Apply the change of an entry of X, and record the levels that it touched.

        Return False for a Delete of an entry that is not there. Raises BadEvent for an action or a side that is none,
        and for an entry or a level that is not there but would have to be.
        """
        action = entry.get(279, "")
        if action not in _ACTIONS:
            raise BadEvent("unknown_action", "279", action)
        if entry.get(269) == EMPTY:
            for side in (BID, ASK):
                touched.update(dict.fromkeys((side, price) for price in self._entries.best_first(side)))
            self._entries.clear()
        elif action in {DELETE_THRU, DELETE_FROM}:
            side, prices = self._range(action, entry)
            self._take_levels(side, prices, touched)
        elif action == DELETE and self._is_gone(entry):
            return False
        else:
            self._change(action, entry, touched)
        return True

    def trim(self, touched: Touched) -> None:
        """Take away what was pushed beyond the depth that is kept up."""
        for side in (BID, ASK) if self.depth else ():
            if self._entries.level_count(side) > self.depth:
                self._take_levels(side, self._entries.best_first(side)[self.depth :], touched)

    def whole(self) -> Columns:
        """Return every level, in any order."""
        return self._entries.columns()

    def sizes(self, touched: Touched) -> Columns:
        """Return the levels that were touched, as they are now."""
        columns: Columns = ([], [], [], [])
        for side, price in touched:
            columns[2 * side].append(price)
            columns[2 * side + 1].append(self._entries.size_at(side, price))
        return columns

    def _take_levels(self, side: int, prices: Iterable[str], touched: Touched) -> None:
        for price in prices:
            self._entries.take_level(side, price)
            touched[side, price] = None

    def _is_gone(self, entry: Entry) -> bool:
        """Return whether an entry is named by an id that is not in the book."""
        named = entry.get(280) or entry.get(278, "")
        has_ids = self._entries.by_id or not (self._entries.level_count(BID) or self._entries.level_count(ASK))
        return has_ids and bool(named) and not self._entries.has(named)

    def _change(self, action: str, entry: Entry, touched: Touched) -> None:
        """Make a change of one entry or level: what is replaced goes, what is new comes."""
        entries = self._entries
        named = entry.get(280) or entry.get(278, "")
        if not entries.by_id and not entries.has(named):
            named = ""
        side, price, size = SIDES.get(entry.get(269, "")), entry.get(270, ""), ""
        if action != NEW and named:
            before, at, size = entries.at(named)
            entries.take(named)
            touched[before, at] = None
            side, price = (before if side is None else side), price or at
        elif action != NEW:
            side = _side(entry)
            at = self._replaced(side, action, entry)
            if at:
                size = entries.size_at(side, at) if entries.has_level(side, at) else ""
                self._take_levels(side, (at,), touched)
            price = price or at
        if action == DELETE:
            return
        side = _side(entry) if side is None else side
        name = entry.get(278, "")
        if entries.has(name):  # it leaves the level where it was
            before, at, _ = entries.at(name)
            touched[before, at] = None
        entries.put(side, name, price, entry.get(271) or size)
        touched[side, price] = None

    def _replaced(self, side: int, action: str, entry: Entry) -> str:
        """Return the price of the level that a change without an id concerns; nothing for one beyond the depth."""
        price, number = entry.get(270, ""), _number(entry)
        if number is None and price:
            return price
        if price and action != OVERLAY and (action == DELETE or self._entries.has_level(side, price)):
            return price
        return self._at(side, number)

    def _range(self, action: str, entry: Entry) -> tuple[int, list[str]]:
        """Return the side and the prices that DeleteThru or DeleteFrom takes away."""
        name = entry.get(278, "")
        is_named = self._entries.has(name) or (self._entries.by_id and bool(name))
        if is_named and _number(entry) is None and 270 not in entry:
            side, price, _ = self._entries.at(name)
        else:
            side, price = _side(entry), entry.get(270, "")
        prices = self._entries.best_first(side)
        number = _number(entry)
        if number is not None:
            self._at(side, number)
            return side, prices[:number] if action == DELETE_THRU else prices[number - 1 :]
        limit = decimal(price, "270")
        from_best = (action == DELETE_THRU) == (side == BID)
        return side, [p for p in prices if (Decimal(p) >= limit if from_best else Decimal(p) <= limit)]

    def _at(self, side: int, number: int | None) -> str:
        """Return the price of a level by its number; nothing for one that was beyond the depth. Raises BadEvent."""
        prices = self._entries.best_first(side)
        if number is not None and 1 <= number <= len(prices):
            return prices[number - 1]
        if number is not None and self.depth and number > self.depth:
            return ""
        raise BadEvent("unknown_level", "1023", number)


class Coming:
    """A snapshot of which not everything is here: the book so far, and the changes that came meanwhile."""

    __slots__ = ("_count", "_waiting", "book", "request")

    def __init__(self, request: str, depth: int) -> None:
        self.request = request
        self.book = FixBook(depth)
        self._count = 0
        self._waiting: list[Entry] = []

    def add(self, entries: Iterable[Entry]) -> None:
        """Take a fragment. Raises BadEvent for an entry that cannot be, or when there are too many."""
        for entry in entries:
            if entry[269] in SIDES:
                self._count += 1
                self.book.add(entry)
        if self._count > ENTRIES_MAX:
            raise BadEvent("too_many_entries", "268", self._count)

    def keep(self, entry: Entry) -> None:
        """Keep a change for later. Raises BadEvent when there are too many."""
        if len(self._waiting) >= WAITING_MAX:
            raise BadEvent("too_many_changes", "268", len(self._waiting))
        self._waiting.append(entry)

    def finished(self) -> FixBook:
        """Return the book, with the changes made that came since it began. Raises BadEvent where one cannot be."""
        for entry in self._waiting:
            self.book.apply(entry, {})
        self.book.trim({})
        return self.book


def _side(entry: Entry) -> int:
    side = SIDES.get(entry.get(269, ""))
    if side is None:
        raise BadEvent("no_side", "269", entry.get(269))
    return side


def whole_number(entry: Entry, tag: int) -> int:
    """Return a number that may be missing, which is 0. Raises BadEvent for what is none."""
    text = entry.get(tag, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadEvent("not_a_number", str(tag), text)
    return int(text)


def _number(entry: Entry) -> int | None:
    """Return the number of a level, if present. Raises BadEvent for an invalid one."""
    tag = next((tag for tag in (1023, 290) if tag in entry), None)
    return None if tag is None else whole_number(entry, tag)
