"""Trades whose numbers rise by one per product: each told once, a skipped number on the ledger until it comes.

A snapshot (the venue's last trades, which a new subscription brings) fills holes, or proves that there are no such
trades; what it does not reach stays on the ledger, and the stream of trades says so itself. A venue that begins to
number anew is followed: trades that are newer than their numbers are no duplicates.
"""

from __future__ import annotations

from marketdata.events import Trade
from producers.feed_kit import trades
from producers.feed_kit.calls import Call
from producers.feed_kit.gaps import Ledger
from producers.feed_kit.products import Product
from producers.feed_kit.trade_ids import TradeIds

Numbered = tuple[int, Trade]


def take(
    call: Call, product: Product, ledger: Ledger, batch: list[Numbered], *, snapshot: bool = False, whole: bool = True
) -> bool:  # fmt: skip
    """Tell the trades (in order of number, at least one) that are new; not `whole`: some of them could not be read.

    True when a number was skipped although no frame is known to be lost: the last trades should be asked for again.
    """
    ids = product.trade_ids
    before, holes_before = ids.last, len(ids.holes)
    fresh = ids.unsent(batch)
    if len(fresh) != len(batch):
        call.line.counts["duplicates"] += len(batch) - len(fresh)
    if not fresh and not snapshot and (anew := ids.of_new_numbering(batch, product.ts_trade or 0)):
        _begin_anew(call, product, ledger)
        return take(call, product, ledger, anew)
    if fresh:
        repair = before is not None and fresh[0][0] < before
        trades.send(call, product, [trade for _, trade in fresh], origin="repair" if repair else "live")
    skipped = False
    if snapshot:
        if whole:
            ids.rule_out(batch[0][0], batch[-1][0])
        give_up(call, product, ledger)
    elif fresh and before is not None and not ids.holes:
        ledger.account(call, product, ledger.trades, call.now)
    elif len(ids.holes) > holes_before and not ledger.is_pending(product, ledger.trades):
        ledger.note_holes(call, product)
        skipped = True
    ledger.close_holes(call, product)
    return skipped


def _begin_anew(call: Call, product: Product, ledger: Ledger) -> None:
    """Follow new numbers; the ledger keeps what was missing of the old ones, and that more may be missing between."""
    product.trade_ids = TradeIds()
    product.trade_gap = None
    ledger.lose_trades(call, product, "the venue began to number its trades anew")


def give_up(call: Call, product: Product, ledger: Ledger) -> None:
    """No more trades will come by themselves: what is still missing stays on the ledger, and candles hear it."""
    if product.trade_ids.holes:
        ledger.note_holes(call, product)
        trades.missing(call, product)
    ledger.account(call, product, ledger.trades, call.now)
