"""Trades whose ids show no hole: each told once; after a loss a list of the last trades must reach back before it.

A list that has a trade from before the loss has all that came since. Where not even REST's list does, some may be
missing for good: that stays on the ledger until a backfill, and the stream of trades says so itself. Trades that were
told after the loss prove nothing, although every list has them.
"""

from __future__ import annotations

from operator import attrgetter

from marketdata.events import Trade
from producers.feed_kit import trades
from producers.feed_kit.calls import Call
from producers.feed_kit.gaps import Ledger
from producers.feed_kit.products import Product

_TIME = attrgetter("ts_event")


def tell(call: Call, product: Product, batch: list[Trade], *, again: str, origin: str = "live") -> bool:
    """Tell the trades that were not told before, oldest first; the others are counted as `again`.

    True when one of them was told before the loss that the product's gap is about.
    """
    told = product.told
    reaches_back = any(told.was_before(trade.trade_id) for trade in batch)
    fresh = [trade for trade in batch if told.is_new(trade.trade_id)]
    call.line.counts[again] += len(batch) - len(fresh)
    if fresh:
        fresh.sort(key=_TIME)
        trades.send(call, product, fresh, origin=origin)
    return reaches_back


def settle(call: Call, product: Product, ledger: Ledger, *, whole: bool) -> None:
    """End the gap of trades with REST's list, the last that can be asked: what it does not have stays missing."""
    if not ledger.is_pending(product, ledger.trades):
        return
    if not whole:
        trades.missing(call, product)
        ledger.lose_trades(call, product, "the last trades do not reach back so far", since=product.ts_whole)
    ledger.account(call, product, ledger.trades, call.now)
