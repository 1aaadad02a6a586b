"""The books of Databento: of single orders, of the best level alone, or of ten levels.

DOCS is Databento's "Standards and conventions" and "MBO snapshots" (https://databento.com/docs); CHECKED is what
recordings of CME and NASDAQ showed.

1. Orders (`mbo`): Add, Modify, Cancel and cleaR change the book; Trade, Fill and None never do, since a cancel follows
   each fill (DOCS, "State management of resting orders"). The book is read only after a record with F_LAST, the last of
   its event for this instrument. A cancel takes its size away from the order.
2. A snapshot is a cleaR, then Adds by priority, all with F_SNAPSHOT, until F_LAST (DOCS, "MBO snapshots"). A cleaR
   without that flag is the venue's own: the book is empty then, and complete (CHECKED: NASDAQ's day begins so). Until
   one of the two came, the book is incomplete and not published: the stream contains a clear and a gap.
   A file of one day begins with the snapshot of midnight UTC, whose cleaR and F_LAST may be missing: in a file, Adds
   with F_SNAPSHOT begin a book at the start of an instrument's records and at midnight, and the first record without
   that flag ends it. A file is sorted by the time of receipt, so that a later record of any instrument ends it too.
3. What proves a loss: an order that is not in the book, or is there already; more taken away than was there; a snapshot
   that is interrupted, or has no beginning. The book is cleared until its next snapshot. The documents' example takes
   an unknown order that is modified for a new one; here it is a loss, as everything that was ever added is known
   (CHECKED: none in 13,796 records).
4. F_TOB: an Add is the new best level of its side, and no price means that the side is empty (DOCS, "Limit order book
   construction"). `mbp-10`: each record has all ten levels. Both are published as changes of levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter

from marketdata import dbn
from marketdata.errors import BadEvent
from marketdata.events import GAP
from marketdata.orders import ASK, BID, Level, Side
from producers.venues.databento.state import BOOK, Lose, State
from producers.venues.kit import books
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.values import Columns

ADD, MODIFY, CANCEL, CLEAR, TRADE, FILL, NONE = b"AMCRTFN"
CHANGES = frozenset({ADD, MODIFY, CANCEL, CLEAR})
_SIDES: dict[int, Side] = {ord("B"): BID, ord("A"): ASK}


class Books:
    """The books of one line; `is_file`: records come from a file, which begins with snapshots and is read once."""

    def __init__(
        self, *, counts: Counter[str], prices: dbn.Prices, ledger: Ledger, lose: Lose, is_file: bool
    ) -> None:  # fmt: skip
        self._counts = counts
        self._prices = prices
        self._ledger = ledger
        self._lose = lose
        self._is_file = is_file
        # Of a file: the instruments whose snapshot ends at the first record without its flag.
        self._first_snapshots: set[State] = set()

    def follow_first_snapshots(
        self, call: Call, instrument: State, flags: int, action: int, ts_recv: int
    ) -> None:  # fmt: skip
        """Begin the snapshot of a file's first records, with its clear or without, or end those that are over."""
        if not flags & dbn.SNAPSHOT:
            if self._first_snapshots:
                self._end_snapshots(call, instrument, ts_recv)
            return
        if not self._is_file or flags & (dbn.TOB | dbn.MBP) or action not in {ADD, CLEAR}:
            return
        if not instrument.begun or (ts_recv % dbn.DAY_NS == 0 and ts_recv > instrument.ts_snapshot):
            self._first_snapshots.add(instrument)
            instrument.ts_snapshot = ts_recv
            self._clear_book(instrument, flags)
        elif action == CLEAR:
            self._first_snapshots.discard(instrument)  # this one ends at F_LAST

    def change(self, call: Call, instrument: State, flags: int, action: int, sent: tuple[int, int, int, int]) -> None:
        """Change the book by one order, or find out that something is missing."""
        order_id, side, price, size = sent
        if action == CLEAR:
            self._clear_book(instrument, flags)
            return
        if flags & dbn.TOB:
            self._change_best(instrument, side, price, size)
        elif not instrument.known:
            self._incomplete(call, instrument)
        elif instrument.loading != bool(flags & dbn.SNAPSHOT):
            self.wrong(call, instrument, "a snapshot that is not whole")
        elif flags & dbn.MBP:
            self.wrong(call, instrument, "levels where orders were")
        elif action == ADD:
            if side not in _SIDES or price == dbn.UNDEF_PRICE:
                raise BadEvent("bad_order", "side" if side not in _SIDES else "price", price)
            if not instrument.orders.add(order_id, _SIDES[side], price, size):
                self.wrong(call, instrument, f"order {order_id} came twice")
        else:
            self._change_order(call, instrument, action, sent)

    def wrong(self, call: Call, instrument: State, detail: str) -> None:
        """The book cannot be right: something was lost before, and only a snapshot helps."""
        if instrument.known or instrument.tops is not None:
            self._lose(call, (instrument,), detail, wrong=True)

    def publish(self, call: Call, instrument: State, flags: int) -> None:
        """Publish what one event made of the book."""
        if instrument.tops is not None:
            bids, asks = instrument.tops
            if bids is not None and asks is not None:
                self.publish_levels(call, instrument, instrument.ts_book, bids, asks)
        elif instrument.loading and not flags & dbn.SNAPSHOT:
            self.wrong(call, instrument, "a snapshot that is not whole")
        elif instrument.known:
            self._publish_orders(call, instrument)

    def publish_whole(self, call: Call, instrument: State) -> None:
        """Publish the whole book of orders."""
        orders = instrument.orders
        orders.take_changes()
        instrument.fresh = False
        columns = self._columns(orders.levels(BID), orders.levels(ASK))
        ts = instrument.ts_book or call.now
        books.snapshot(call, instrument.product, ts, columns)
        self._ledger.account(call, instrument.product, BOOK, ts)

    def publish_levels(
        self, call: Call, instrument: State, ts: int, bids: dict[int, int], asks: dict[int, int]
    ) -> None:
        """Publish the changes from the previously published levels."""
        before, instrument.levels = instrument.levels, (bids, asks)
        if before is None or instrument.fresh:
            instrument.fresh = False
            books.snapshot(call, instrument.product, ts, self._level_columns(bids, asks))
            self._ledger.account(call, instrument.product, BOOK, ts)
            return
        books.update(
            call, instrument.product, ts, self._level_columns(_changed(before[0], bids), _changed(before[1], asks))
        )

    def _end_snapshots(self, call: Call, instrument: State, ts_recv: int) -> None:
        """Publish the snapshots that a record without their flag ends."""
        ended = [one for one in self._first_snapshots if one is instrument or one.ts_snapshot < ts_recv]
        for loaded in sorted(ended, key=attrgetter("product.name")):
            self._first_snapshots.remove(loaded)
            if not loaded.loading:
                continue
            try:
                self._publish_orders(call, loaded)
            except BadEvent as error:
                call.dead_value(error)
                self._lose(call, (loaded,), error.reason, wrong=True)

    @staticmethod
    def _clear_book(instrument: State, flags: int) -> None:
        instrument.forget_book()
        instrument.known = True
        instrument.loading = bool(flags & dbn.SNAPSHOT)
        instrument.ts_book = 0

    @staticmethod
    def _change_best(instrument: State, side: int, price: int, size: int) -> None:
        """Set the best level of a side, the only one that is published."""
        if side not in _SIDES:
            raise BadEvent("bad_order", "side", side)
        if instrument.tops is None:
            instrument.tops = [{}, {}] if instrument.known else [None, None]
        instrument.tops[_SIDES[side] == ASK] = {} if price == dbn.UNDEF_PRICE or not size else {price: size}

    def _change_order(self, call: Call, instrument: State, action: int, sent: tuple[int, int, int, int]) -> None:
        order_id, side, price, size = sent
        order = instrument.orders.get(order_id)
        if order is None or _SIDES.get(side, order.side) != order.side:
            self.wrong(call, instrument, f"order {order_id} is not in the book")
        elif action == CANCEL:
            if size > order.size:
                self.wrong(call, instrument, f"order {order_id} has {order.size}, and {size} were taken away")
            else:
                instrument.orders.reduce(order_id, size)
        elif price == dbn.UNDEF_PRICE:
            raise BadEvent("bad_order", "price", price)
        else:
            instrument.orders.modify(order_id, price, size)

    def _incomplete(self, call: Call, instrument: State) -> None:
        """State once that the book cannot be known before its next snapshot."""
        self._counts["deltas_before_snapshot"] += 1
        if not instrument.is_incomplete and not instrument.product.book_seen:
            instrument.is_incomplete = True
            self._counts["gaps"] += 1
            books.clear(call, instrument.product, GAP)
            self._ledger.lose(call, instrument.product, GAP, {BOOK}, detail="the records begin within a book")

    def _publish_orders(self, call: Call, instrument: State) -> None:
        instrument.loading = False
        bids, asks = instrument.orders.take_changes()
        if instrument.fresh:
            self.publish_whole(call, instrument)
        elif bids or asks:
            books.update(call, instrument.product, instrument.ts_book, self._columns(bids, asks))

    def _columns(self, bids: Iterable[Level], asks: Iterable[Level]) -> Columns:
        text = self._prices.text
        bids, asks = list(bids), list(asks)
        return (
            [text(level.price) for level in bids],
            [str(level.size) for level in bids],
            [text(level.price) for level in asks],
            [str(level.size) for level in asks],
        )

    def _level_columns(self, bids: dict[int, int], asks: dict[int, int]) -> Columns:
        text = self._prices.text
        return (
            list(map(text, bids)), list(map(str, bids.values())), list(map(text, asks)), list(map(str, asks.values())),
        )  # fmt: skip


def _changed(before: dict[int, int], now: dict[int, int]) -> dict[int, int]:
    """Return the levels that are not what they were, 0 for those that are gone."""
    gone = {price: 0 for price in before if price not in now}
    return {price: size for price, size in now.items() if before.get(price) != size} | gone
