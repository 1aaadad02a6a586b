"""A random market as FIX sends it: entries by price, by id or by the number of their level; pure, from a seed."""

from __future__ import annotations

import random
from decimal import Decimal
from itertools import count
from typing import Literal

from marketdata.fix.codec import Fields

SIDES = ("0", "1")
TICK = Decimal("0.50")
LEVELS_MAX = 20

# How entries are identified: by price, by id, or by the number of their level.
By = Literal["price", "id", "number"]
Levels = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]


class Market:
    """One symbol: entries by id, several of which may share a price unless levels are sent."""

    def __init__(self, symbol: str, chance: random.Random) -> None:
        self.symbol = symbol
        self._chance = chance
        self._ids = count(1)
        self.entries: tuple[dict[str, tuple[Decimal, Decimal]], dict[str, tuple[Decimal, Decimal]]] = ({}, {})
        for side in (0, 1):
            for depth in range(5):
                self.entries[side][self._id()] = (self._price(side, depth), self._size())

    def levels(self) -> Levels:
        """Return the sizes by price, of both sides."""
        sides: Levels = ({}, {})
        for levels, entries in zip(sides, self.entries, strict=True):
            for price, size in entries.values():
                levels[price] = levels.get(price, Decimal(0)) + size
        return sides

    def move(self, by: By) -> Fields:
        """Change one entry, or trade; return the message entry of the change."""
        if by == "number":
            return self.move_level()
        side = self._chance.randrange(2)
        entries = self.entries[side]
        action = self._chance.choice("0001112") if len(entries) > 2 else "0"
        if len(entries) >= LEVELS_MAX:
            action = "2"
        if self._chance.random() < 0.3:
            return self.trade()
        if action == "0":
            entry = self._id()
            taken = {price for price, _ in entries.values()}
            free = [self._price(side, depth) for depth in range(LEVELS_MAX + 1)]
            price = self._chance.choice([price for price in free if by == "id" or price not in taken])
        else:
            entry = self._chance.choice(sorted(entries))
            price = entries[entry][0]
        entries[entry] = (price, self._size())
        fields: Fields = [(279, action), (269, SIDES[side]), (278, entry), (55, self.symbol), (270, f"{price}")]
        if action == "2":
            del entries[entry]
        else:
            fields.append((271, f"{entries[entry][1]}"))
        return [field for field in fields if by == "id" or field[0] != 278]

    def move_level(self) -> Fields:
        """Change levels by their number from the best, or trade; return the message entry of the change."""
        if self._chance.random() < 0.3:
            return self.trade()
        side = self._chance.randrange(2)
        entries = self.entries[side]
        order = sorted(entries, key=lambda entry: entries[entry][0], reverse=side == 0)
        action = "4" if len(order) >= LEVELS_MAX else self._chance.choice("00112345") if len(order) > 4 else "0"
        number = self._chance.randrange(1, 3 if action == "3" else len(order) + 1)
        if action == "4":
            number = len(order) - self._chance.randrange(2)
        first, last = {"0": (0, 0), "3": (0, number), "4": (number - 1, len(order))}.get(action, (number - 1, number))
        gone = [entries.pop(entry)[0] for entry in order[first:last]]
        fields: Fields = [(279, action), (269, SIDES[side]), (55, self.symbol)]
        if action in "015":
            price = gone[0] if action == "1" else self._new_price(side, action, gone, number)
            size = self._size()
            entries[self._id()] = (price, size)
            fields += [] if action == "1" else [(270, f"{price}")]
            fields.append((271, f"{size}"))
            number = 1 + sum((at > price) if side == 0 else (at < price) for at, _ in entries.values())
        return [*fields, (1023, str(number))]

    def _new_price(self, side: int, action: str, gone: list[Decimal], number: int) -> Decimal:
        """Return an unused price; for a replacement, one that keeps the level's number."""
        taken = sorted((price for price, _ in self.entries[side].values()), reverse=side == 0)
        free = {self._price(side, depth) for depth in range(LEVELS_MAX + 1)} - set(taken)
        if action == "5":
            free = {at for at in free if sorted((*taken, at), reverse=side == 0)[number - 1] == at}
        return self._chance.choice(sorted(free | set(gone)))

    def trade(self) -> Fields:
        """Return the entry of a trade."""
        return [(279, "0"), (269, "2"), (278, self._id()), (55, self.symbol), (270, f"{self._price(1, 0)}"),
                (271, f"{self._size()}"), (2446, self._chance.choice("12"))]  # fmt: skip

    def snapshot(self, by: By) -> list[Fields]:
        """Return the entries of the whole book."""
        return [
            [(269, side), *([(278, entry)] if by == "id" else []), (270, f"{price}"), (271, f"{size}")]
            for side, entries in zip(SIDES, self.entries, strict=True)
            for entry, (price, size) in entries.items()
        ]

    def _id(self) -> str:
        return f"{self.symbol}.{next(self._ids)}"

    def _price(self, side: int, depth: int) -> Decimal:
        return Decimal("1000.00") + (depth + 1) * (TICK if side else -TICK)

    def _size(self) -> Decimal:
        return Decimal(self._chance.randrange(1, 9_999)).scaleb(-2)
