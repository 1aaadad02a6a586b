"""What is known of one instrument of Databento: what was published of it, and how far its records were read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from marketdata.orders import OrderBook
from producers.venues.databento.gateway import Position
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product

BOOK, TRADES = "book", "trades"


class State:
    """One instrument of one publisher.

    `known`: every order (or level) of the book is. `loading`: a snapshot is under way. `fresh`: consumers need the
    whole book next. `begun`: orders were read since the file began. `ts_snapshot`: when the newest first snapshot of a
    file was received.
    """

    __slots__ = (
        "begun",
        "fresh",
        "is_incomplete",
        "known",
        "levels",
        "loading",
        "number",
        "orders",
        "positions",
        "product",
        "tops",
        "trade",
        "trade_place",
        "ts_book",
        "ts_snapshot",
        "until",
    )  # fmt: skip

    def __init__(self, number: int, product: Product, until: int) -> None:
        self.number = number
        self.product = product
        self.until = until  # the mapping is good before this time
        self.orders = OrderBook()
        # If levels are sent, not orders: the published levels of both sides, by price; and the best level of each side
        # where that is all there is, None while the side is not known.
        self.levels: tuple[dict[int, int], dict[int, int]] | None = None
        self.tops: list[dict[int, int] | None] | None = None
        self.begun = False
        self.ts_snapshot = -1
        self.known = False
        self.loading = False
        self.fresh = True
        self.is_incomplete = False
        self.ts_book = 0
        self.trade = (0, 0)
        self.trade_place = 0
        self.positions: dict[int, Position] = {}

    def forget_book(self) -> None:
        """Take the book for unknown."""
        self.known = self.loading = False
        self.fresh = True
        self.levels = self.tops = None
        self.orders = OrderBook()


class TradeOrQuote(NamedTuple):
    """The fields of one trade or quote, as most kinds have them."""

    ts: int
    price: int
    size: int
    action: int
    side: int
    flags: int
    sequence: int


class Lose(Protocol):
    """Loses what may be missing of these instruments; `wrong`: what was read before is not right either."""

    def __call__(self, call: Call, instruments: Iterable[State], detail: str, *, wrong: bool = False) -> None:
        """Lose it."""
