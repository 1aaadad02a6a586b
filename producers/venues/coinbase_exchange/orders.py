"""Books of single orders of Coinbase Exchange: from the channel `full` and the REST book of level 3.

1. `sequence` rises by one per product over the messages of `full`. They wait while the REST book of level 3 is fetched;
   those up to its sequence are in it, the rest are played on top, and from then on each must follow the one before it
   ("Full channel"). A skipped number loses the book, and another one is fetched.
2. `open` enters an order, `change` gives it another size or price, a `match` takes its size from the maker's, `done`
   takes it away. `done` and `change` of orders that do not rest in the book are normal and ignored, and so is a price
   of null, which is a market order's ("Full channel").
3. A match with a maker that is not in the book proves the book wrong, and so does the cancel of an order that is
   neither there nor was received since: it rested, so the snapshot was not whole. (On the recording no message does,
   and without the best 7 of its 7,109 orders the 11th one shows it.)
4. Some recorders write the book as `open` messages of one sequence without a time: these are a snapshot too.

Source: "Exchange WebSocket Channels", "Full channel" (https://docs.cdp.coinbase.com/exchange/websocket-feed/channels).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from marketdata.errors import BadEvent
from marketdata.orders import ASK, BID, Level, OrderBook, Scale
from producers.venues.coinbase_exchange.messages import (
    Done,
    Match,
    Open,
    OrderChange,
    OrderMessage,
    Received,
    RestBook,
)
from producers.venues.kit import books
from producers.venues.kit.calls import Call
from producers.venues.kit.numbered_orders import Act, NumberedOrders, Whole
from producers.venues.kit.products import Product
from producers.venues.kit.values import Columns, integer

_SCALE = Scale(18)  # the venue's finest increments have fewer decimals


class Lose(Protocol):
    """Loses the book of a product: what the venue sent does not fit it."""

    def __call__(
        self, call: Call, product: Product, detail: str, *, expected: int | None = None, received: int | None = None
    ) -> None:
        """Clear it, open its gap, and fetch another one."""


class OrderBooks:
    """The books of orders of one line. `snapshot` publishes a whole book, `request` fetches one for this reason."""

    def __init__(
        self, counts: Counter[str], *, snapshot: Callable[[Call, Product, int, Columns], None], lose: Lose,
        request: Callable[[Call, Product, str], None],
    ) -> None:  # fmt: skip
        self._counts = counts
        self._snapshot = snapshot
        self._lose = lose
        self._request = request

    def take(self, call: Call, product: Product, orders: NumberedOrders, act: Act) -> None:
        """Take a message about the orders of one product."""
        whole = orders.end_rows(act.ts)
        if whole is not None:
            self.join(call, product, orders, whole)
        expected = None if orders.at is None else orders.at + 1
        match orders.take(act):
            case "next":
                self._perform(call, product, orders, act)
            case "known":
                self._counts["deltas_before_snapshot"] += 1
            case "old":
                self._counts["duplicates"] += 1
            case "wait":
                self._request(call, product, "no_book")
            case "lost":
                self._lose(call, product, "sequence", expected=expected, received=act.number)

    def join(self, call: Call, product: Product, orders: NumberedOrders, whole: Whole) -> bool:
        """Begin a book with a snapshot and what came after it; False when the snapshot is of no use."""
        held = len(orders.waiting)
        kept = orders.join(whole)
        if kept is None:
            self._counts["snapshots_too_old"] += 1
            return False
        self._counts["deltas_before_snapshot"] += held - len(kept)
        unknown = Counter(_unknown(act) for act in kept if not orders.perform(act))
        if unknown:
            self._counts.update(unknown)
            orders.miss()
            return False
        whole.book.take_changes()
        sequence, call.sequence = call.sequence, orders.at
        with call.refusing("bad_book") as refusing:
            columns = order_columns(whole.book.levels(BID), whole.book.levels(ASK))
            self._snapshot(call, product, kept[-1].ts if kept else whole.ts, columns)
        call.sequence = sequence
        if refusing.failed:
            orders.miss()
        return not refusing.failed

    def _perform(self, call: Call, product: Product, orders: NumberedOrders, act: Act) -> None:
        if orders.perform(act):
            books.update(call, product, act.ts, order_columns(*orders.book.take_changes()))
            return
        self._counts[_unknown(act)] += 1
        orders.miss()
        self._lose(call, product, _unknown(act).removesuffix("s"), received=act.number)


def read_act(message: OrderMessage, ts: int) -> Act:
    """Return what a message does to the orders. Raises BadEvent."""
    act = Act(message.sequence or 0, ts)
    if isinstance(message, Open):
        act.verb, act.order_id, act.side = "enter", message.order_id, BID if message.side == "buy" else ASK
        act.price, act.size = _above_zero(message.price, "price"), _above_zero(message.remaining_size, "size")
    elif isinstance(message, Done):
        rested = message.reason == "canceled" and message.price is not None
        act.verb, act.order_id = "cancel" if rested else "remove", message.order_id
    elif isinstance(message, Received) and message.order_id:
        act.verb, act.order_id = "announce", message.order_id
    elif isinstance(message, Match):
        act.verb, act.order_id, act.size = "reduce", message.maker_order_id, _above_zero(message.size, "size")
    elif isinstance(message, OrderChange) and message.new_size is not None:
        act.verb, act.order_id, act.size = "modify", message.order_id, _SCALE.number(message.new_size, "new_size")
        act.price = None if message.new_price is None else _above_zero(message.new_price, "new_price")
        if act.size < 0:
            raise BadEvent("negative", "new_size", message.new_size)
    return act


def read_book(sent: RestBook) -> tuple[int, OrderBook]:
    """Return the sequence and the orders of a book of level 3. Raises BadEvent."""
    book = OrderBook()
    for side, rows in ((BID, sent.bids), (ASK, sent.asks)):
        for row in rows:
            book.add(row.order_id, side, _above_zero(row.price, "price"), _above_zero(row.size, "size"))
    return integer(str(sent.sequence), "sequence", "bad_sequence"), book


def order_columns(bids: list[Level], asks: list[Level]) -> Columns:
    """Return levels of orders as columns of text."""
    text = _SCALE.text
    return (
        [text(level.price) for level in bids], [text(level.size) for level in bids],
        [text(level.price) for level in asks], [text(level.size) for level in asks],
    )  # fmt: skip


def _above_zero(text: str, field: str) -> int:
    """Return a price or size of an order, scaled. Raises BadEvent."""
    value = _SCALE.number(text, field)
    if value <= 0:
        raise BadEvent("not_positive", field, text)
    return value


def _unknown(act: Act) -> str:
    """Return as what a message is counted whose order is not there."""
    return "unknown_makers" if act.verb == "reduce" else "unknown_orders"
