"""The events of a product's book: snapshot, update, heartbeat and clear.

No level and no time is published that consumers would refuse, since they could not ask the venue again: BadEvent is
raised before anything is published, and the feed loses the book as for any bad value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import msgspec

from marketdata import compiled
from marketdata.book import L2Book
from marketdata.decimals import FRACTION_DIGITS_MAX
from marketdata.errors import BadEvent
from marketdata.events import POSITIVE_KINDS, BookUpdate
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.values import Columns, best_first

_ABOVE_ZERO = f"0.{1:0{FRACTION_DIGITS_MAX}}"


@runtime_checkable
class KeepsBooks(Protocol):
    """A feed that follows its books itself, to check them; who reads them there need not follow them once more."""

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book of the venue's name, as it is after the last frame; None where none is kept."""


def snapshot(call: Call, product: Product, ts_event: int, columns: Columns) -> None:
    """Publish a whole book, which is valid from now on; sides come in any order. Raises BadEvent."""
    check(call, product, ts_event, columns)
    bid_prices, bid_sizes = best_first(columns[0], columns[1], descending=True)
    ask_prices, ask_sizes = best_first(columns[2], columns[3], descending=False)
    product.book_valid = product.book_seen = True
    product.ts_book = ts_event
    call.line.counts["snapshots"] += 1
    if product.instrument.tick_size is not None:
        _count_off_tick(call, product, columns)
    call.out.append(_event(call, product, "snapshot", ts_event, (bid_prices, bid_sizes, ask_prices, ask_sizes)))


def update(call: Call, product: Product, ts_event: int, columns: Columns, *, even_empty: bool = False) -> bool:
    """Publish absolute sizes that changed; return False when there is no book to change, which is counted.

    Two updates of one frame and product become one event: sizes are absolute, so later ones come later. An update
    without any level is not published, unless `even_empty`, for where it has a number of its own. Raises BadEvent.
    """
    if not product.book_valid:
        call.line.counts["deltas_before_snapshot"] += 1
        return False
    if not columns[0] and not columns[2] and not even_empty:
        return True
    check(call, product, ts_event, columns)
    call.line.counts["book_updates"] += 1
    product.ts_book = ts_event
    if product.instrument.tick_size is not None:
        _count_off_tick(call, product, columns)
    event = _event(call, product, "update", ts_event, columns)
    if call.out:
        last = call.out[-1]
        if isinstance(last, BookUpdate) and last.kind == "update" and last.symbol == event.symbol:
            event = _joined(last, event)
            call.out.pop()
    call.out.append(event)
    return True


def _count_off_tick(call: Call, product: Product, columns: Columns) -> None:
    if off_tick := product.count_off_tick(columns[0] + columns[2]):
        call.line.counts["off_tick"] += off_tick


def check(call: Call, product: Product, ts_event: int, columns: Columns) -> None:
    """Raise BadEvent for a time or a level that no book may have; values are known to be decimals."""
    call.venue_time(ts_event, "ts_event")
    bid_prices, bid_sizes, ask_prices, ask_sizes = columns
    if bid_prices and _has_below(bid_prices, bid_sizes):
        _check_side(product, "bid", bid_prices, bid_sizes)
    if ask_prices and _has_below(ask_prices, ask_sizes):
        _check_side(product, "ask", ask_prices, ask_sizes)


def _check_side(product: Product, side: str, prices: list[str], sizes: list[str]) -> None:
    """Raise BadEvent where a level is below zero, or not above it and should be."""
    if product.instrument.kind in POSITIVE_KINDS and min(map(float, prices)) <= 0:
        raise BadEvent("not_positive", f"{side}_prices", min(prices, key=float))
    smallest = min(sizes)
    if smallest[0] == "-":
        raise BadEvent("negative", f"{side}_sizes", smallest)


def _look_below(prices: list[str], sizes: list[str]) -> bool:
    """Return whether a decimal size is below zero, or a decimal price may be not above it."""
    # By their text a sign, a point, and a zero with or without decimals come before every price above zero.
    return min(prices) < _ABOVE_ZERO or min(sizes)[0] == "-"


_has_below: Callable[[list[str], list[str]], bool] = _look_below if compiled.code is None else compiled.code.has_below


def clear(call: Call, product: Product, reason: str) -> None:
    """State that the book may not be trusted any more."""
    product.book_valid = False
    # No sequence: the frame that shows the loss may itself bring this product's next snapshot.
    call.out.append(
        BookUpdate(venue=call.line.venue, symbol=product.symbol, ts_event=call.now, ts_recv=call.ts,
                   line=call.line.name, sequence_scope=call.line.sequence_scope, kind="clear", valid=False,
                   reason=reason)
    )  # fmt: skip


def heartbeat(call: Call, product: Product, ts_event: int) -> None:
    """State that the book is unchanged, at `ts_event` or at its last change."""
    vouched = max(ts_event, product.ts_book or 0)
    product.ts_book_vouched = max(product.ts_book_vouched or 0, vouched)
    call.out.append(_event(call, product, "heartbeat", vouched, ([], [], [], [])))


def _event(call: Call, product: Product, kind: str, ts_event: int, columns: Columns) -> BookUpdate:
    bid_prices, bid_sizes, ask_prices, ask_sizes = columns
    line, validity = call.line, product.validity
    # Named one by one: to merge `**validity` in costs more than all the rest, on every change of every book.
    return BookUpdate(
        venue=line.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=line.name,
        sequence=call.sequence, sequence_scope=line.sequence_scope, kind=kind, bid_prices=bid_prices,
        bid_sizes=bid_sizes, ask_prices=ask_prices, ask_sizes=ask_sizes, valid=validity["valid"],
        reason=validity["reason"],
    )  # fmt: skip


def _joined(first: BookUpdate, second: BookUpdate) -> BookUpdate:
    return msgspec.structs.replace(
        second,
        bid_prices=first.bid_prices + second.bid_prices,
        bid_sizes=first.bid_sizes + second.bid_sizes,
        ask_prices=first.ask_prices + second.ask_prices,
        ask_sizes=first.ask_sizes + second.ask_sizes,
    )
