"""An L2 order book: the exact absolute size of each price level, with quick access to the best levels."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from marketdata import compiled
from marketdata.plain_side import Level

if TYPE_CHECKING or compiled.code is None:
    from marketdata.plain_side import Side, levels_digits, levels_in_turn
else:
    Side = compiled.code.Side
    levels_digits = compiled.code.levels_digits
    levels_in_turn = compiled.code.levels_in_turn

__all__ = ["L2Book", "Level", "Side", "levels_digits", "levels_in_turn"]


class L2Book:
    """Both sides of one symbol's book."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = Side(1)
        self.asks = Side(-1)

    @classmethod
    def unpack(cls, columns: Sequence[Sequence[str]]) -> L2Book:
        """Return the book of four columns, as `pack` returns them: bid prices and sizes, ask prices and sizes.

        Levels may be in any order. Raises ValueError when there are not four columns or the two of a side differ in
        length, and TypeError when a price or a size is not a string.
        """
        book = cls()
        book.replace(columns)
        return book

    def pack(self) -> list[list[str]]:
        """Return bid prices, bid sizes, ask prices and ask sizes of the whole book, best levels first."""
        bids, asks = self.bids.top(), self.asks.top()
        return [
            [price for price, _ in bids],
            [size for _, size in bids],
            [price for price, _ in asks],
            [size for _, size in asks],
        ]

    def replace(self, columns: Sequence[Sequence[str]]) -> None:
        """Become the book of four columns, whose levels may be in any order. Raises as `unpack` does."""
        bid_prices, bid_sizes, ask_prices, ask_sizes = columns
        self.bids.replace(bid_prices, bid_sizes)
        self.asks.replace(ask_prices, ask_sizes)

    def apply(self, columns: Sequence[Sequence[str]]) -> None:
        """Set the absolute sizes of four columns; a size of zero removes the level."""
        bid_prices, bid_sizes, ask_prices, ask_sizes = columns
        if bid_prices:
            self.bids.apply(bid_prices, bid_sizes)
        if ask_prices:
            self.asks.apply(ask_prices, ask_sizes)

    def clear(self) -> None:
        """Remove every level."""
        self.bids.replace((), ())
        self.asks.replace((), ())

    def best(self) -> tuple[Level | None, Level | None]:
        """Return the best bid and the best ask."""
        return self.bids.best(), self.asks.best()

    def is_crossed(self) -> bool:
        """Return whether the best bid is above the best ask; equal prices (locked) are not crossed."""
        if not len(self.bids) or not len(self.asks):
            return False
        bid, ask = self.bids.best_key(), self.asks.best_key()
        if type(bid) is float and type(ask) is float:
            return bid > -ask
        # Comparing a float with a Decimal uses the float's binary value, which is above 0.1 for 0.1.
        (bid_price, _), (ask_price, _) = self.bids.top(1)[0], self.asks.top(1)[0]
        return Decimal(bid_price) > Decimal(ask_price)
