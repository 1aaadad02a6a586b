"""Trades whose ids do not show a gap: each is published once; after a loss a list of the last trades has to reach back.

A list that has a trade from before the loss has all that came since, and so has one that begins before the time until
which trades were complete. Where not even REST's list does, or none comes, some may be missing for good: the gap stays
on the ledger until a backfill, and the stream of trades states it. Trades that were published after the loss prove
nothing, although every list has them.
"""

from __future__ import annotations

from operator import attrgetter

from marketdata.events import GAP, Trade
from producers.venues.kit import trades
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.products import Product

_TIME = attrgetter("ts_event")


def take(
    call: Call, product: Product, ledger: Ledger, batch: list[Trade], *, again: str, origin: str = "live"
) -> bool:  # fmt: skip
    """Publish the trades that were not published before, oldest first; the others are counted as `again`.

    Return whether the batch is complete back to before the loss that the product's gap is about. A trade that no event
    may hold is refused, which opens that gap: the caller asks the venue for it again.
    """
    good = trades.accepted(call, batch)
    is_whole, batch = len(good) == len(batch), good
    if not is_whole and origin == "live":
        ledger.lose(call, product, GAP, {ledger.trades}, detail="bad_trade", channel=ledger.trades)
    known = product.sent_ids
    reaches_back = any(known.was_before(trade.trade_id) for trade in batch)
    if product.trades_lost and product.ts_whole is not None and batch:
        reaches_back = reaches_back or min(map(_TIME, batch)) < product.ts_whole
    fresh = [trade for trade in batch if known.is_new(trade.trade_id)]
    call.line.counts[again] += len(batch) - len(fresh)
    if fresh:
        fresh.sort(key=_TIME)
        trades.send(call, product, fresh, origin=origin)
    reaches_back = reaches_back and is_whole
    if not product.is_played and trades.is_overdue(call, product):
        end_loss(call, product, ledger, whole=reaches_back)
    return reaches_back


def end_loss(call: Call, product: Product, ledger: Ledger, *, whole: bool) -> None:
    """Close the gap of trades after the last list that can be had: what it does not have stays on the ledger."""
    if not ledger.is_pending(product, ledger.trades):
        return
    if not whole:
        ledger.lose_trades(call, product, "the last trades do not reach back so far")
        trades.missing(call, product)
    ledger.account(call, product, ledger.trades, call.now)
