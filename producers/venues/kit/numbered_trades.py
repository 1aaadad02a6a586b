"""Trades whose numbers rise by one per product: each is published once, a skipped number is on the ledger.

A snapshot (the venue's last trades, which a new subscription or REST brings) fills skipped numbers, or proves that
there are no such trades; what it does not reach stays on the ledger, and the stream of trades states it. A venue that
resets its numbers is followed: trades that are newer than their numbers are no duplicates.
"""

from __future__ import annotations

from marketdata.events import Trade
from producers.venues.kit import trades
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.products import Product
from producers.venues.kit.trade_ids import TradeIds

Numbered = tuple[int, Trade]


def take(
    call: Call, product: Product, ledger: Ledger, batch: list[Numbered], *, snapshot: bool = False, whole: bool = True,
    final: bool = True,
) -> bool:  # fmt: skip
    """Publish the trades (in order of number, at least one) that are new; not `whole`: some of them were unreadable.

    A snapshot that is not `final` may be followed by one that reaches further back. Return whether that one should be
    asked for: trades are missing after a snapshot, or a number was skipped although no frame is known to be lost.
    """
    good = _accepted(call, batch)
    whole, batch = whole and len(good) == len(batch), good
    ids = product.trade_ids
    before = ids.last
    fresh = ids.unsent(batch)
    call.line.counts["duplicates"] += len(batch) - len(fresh)
    if not fresh and not snapshot and (after := ids.after_reset(batch, product.ts_trade or 0)):
        _follow_reset(call, product, ledger)
        return take(call, product, ledger, after)
    if snapshot and whole and batch:
        _rule_out(product, batch)
    was_pending = ledger.is_pending(product, ledger.trades)
    skips = before is not None and bool(ids.skipped) and ids.skipped[-1][0] > before
    if skips:
        trades.doubt(product)
        trades.lose(call, product)
    is_complete = not _is_missing(product) and bool(batch) and (snapshot or (bool(fresh) and before is not None))
    if is_complete:
        trades.found(product)  # first, so that what is sent now is valid again
    _send(call, product, fresh, before)
    if skips:
        product.ts_back = fresh[-1][1].ts_event
        if not was_pending:
            ledger.note_skipped(call, product)
    if snapshot and not final and _is_missing(product):
        return True
    if is_complete:
        ledger.account(call, product, ledger.trades, call.now)
    elif snapshot or trades.is_overdue(call, product):
        give_up(call, product, ledger, answered=bool(batch))
    ledger.close_filled(call, product)
    return skips and not snapshot and not was_pending


def _accepted(call: Call, batch: list[Numbered]) -> list[Numbered]:
    good = {trade.trade_id for trade in trades.accepted(call, [trade for _, trade in batch])}
    return [one for one in batch if one[1].trade_id in good]


def _send(call: Call, product: Product, fresh: list[Numbered], before: int | None) -> None:
    if not fresh:
        return
    is_repair = before is not None and fresh[0][0] < before
    trades.send(call, product, [trade for _, trade in fresh], origin="repair" if is_repair else "live")


def _is_missing(product: Product) -> bool:
    return bool(product.trade_ids.skipped) or product.unproven


def _rule_out(product: Product, batch: list[Numbered]) -> None:
    """Take note that the venue has no other trades from the first of these to the last."""
    product.trade_ids.rule_out(batch[0][0], batch[-1][0])
    if product.ts_whole is not None and batch[0][1].ts_event < product.ts_whole:
        product.unproven = False


def _follow_reset(call: Call, product: Product, ledger: Ledger) -> None:
    """Follow new numbers; the ledger keeps what was missing of the old ones, and that more may be missing between."""
    product.trade_ids = TradeIds()
    product.trade_gaps.clear()
    ledger.lose_trades(call, product, "the venue reset its trade ids")
    trades.lose(call, product)
    trades.missing(call, product)
    ledger.account(call, product, ledger.trades, call.now)


def give_up(call: Call, product: Product, ledger: Ledger, *, answered: bool = True) -> None:
    """Stop waiting for trades: what is still missing stays on the ledger, and the stream of trades states it.

    Where the venue has not `answered`, nothing shows that none is missing.
    """
    if product.trade_ids.skipped:
        ledger.note_skipped(call, product)
        trades.missing(call, product)
    elif product.trades_lost and (product.unproven or not answered):
        ledger.lose_trades(call, product, "the last trades do not reach back so far")
        trades.missing(call, product)
    ledger.account(call, product, ledger.trades, call.now)
