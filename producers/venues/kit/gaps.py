"""The gap ledger of a line: what is missing, opened and closed once each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from marketdata.events import GAP
from producers.venues.kit import books, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Gap, Product


class Ledger:
    """The gaps of one line; `book` and `trades` are the venue's names of the channels, as the ledger shows them.

    A product has one gap over channels, which closes when each channel is complete again, and one for each run of trade
    ids that were skipped, open until they come.
    """

    __slots__ = ("_count", "book", "trades")

    def __init__(self, *, book: str, trades: str) -> None:
        self.book = book
        self.trades = trades
        self._count = 0

    def _open(self, call: Call, product: Product, ts_from: int | None, pending: Collection[str]) -> Gap:
        # Unique over restarts by our clock, and the same whenever the same recording is played.
        self._count += 1
        return Gap(f"{call.line.name}/{product.symbol}/{call.ts}/{self._count}", ts_from, set(pending))

    def lose(self, call: Call, product: Product, reason: str, channels: Collection[str], **fields: Any) -> None:
        """Clear the product's book and open its gap, or widen the one that is open."""
        if product.book_valid and self.book in channels:
            books.clear(call, product, reason)
        if self.trades in channels:
            trades.take_back(call, product)
        ts_from = self._last_good(product, channels)
        if self.trades in channels:
            trades.lose(call, product)
        if product.gap is not None:
            product.gap.pending.update(channels)
        elif channels:
            product.gap = self._open(call, product, ts_from, channels)
            call.status(product.symbol, "gap", product.gap, reason=reason, **fields)

    def _last_good(self, product: Product, channels: Collection[str]) -> int | None:
        """Return until when all of these channels are known to be complete; None where that was never so."""
        ends = (
            product.ts_book_whole if self.book in channels else None,
            product.ts_trades_whole if self.trades in channels else None,
        )
        return min((ts for ts in ends if ts is not None), default=None)

    def account(self, call: Call, product: Product, channel: str, ts_to: int) -> None:
        """Note that a channel of the product is complete again, and close the gap when it was the last."""
        gap = product.gap
        if gap is None or channel not in gap.pending:
            return
        gap.pending.discard(channel)
        if channel == self.trades:
            trades.found(product)
            trades.state_found(call, product)
        if not gap.pending:
            product.gap = None
            call.status(product.symbol, "resynced", gap, ts_to=ts_to)

    def channels(self, product: Product, *, subscribed: bool) -> set[str]:
        """Return the channels by which consumers know a product, and which the loss of a connection touches."""
        channels = {self.book} if product.book_seen or subscribed else set()
        return channels | {self.trades} if product.ts_trades_whole is not None else channels

    def is_pending(self, product: Product, channel: str) -> bool:
        """Return whether an open gap still waits for this channel."""
        return product.gap is not None and channel in product.gap.pending

    def note_skipped(self, call: Call, product: Product) -> None:
        """Open a gap for trade ids that were skipped and are in none yet."""
        noted = product.trade_gaps[-1].last if product.trade_gaps else -1
        skipped = [ids for ids in product.trade_ids.skipped if ids[1] > noted]
        if skipped:
            gap = self._open(call, product, product.ts_trades_whole, {self.trades})
            gap.first, gap.last = max(skipped[0][0], noted + 1), skipped[-1][1]
            product.trade_gaps.append(gap)
            call.status(product.symbol, "gap", gap, reason=GAP, channel=self.trades, detail="trade ids were skipped",
                        expected=gap.first, received=gap.last + 1)  # fmt: skip

    def lose_trades(self, call: Call, product: Product, detail: str) -> None:
        """Enter trades that may be missing since they were complete, without ids to show it: open until a backfill."""
        gap = self._open(call, product, product.ts_trades_whole, {self.trades})
        call.status(product.symbol, "gap", gap, reason=GAP, channel=self.trades, detail=detail, ts_to=call.now)

    def give_up_trades(self, call: Call, product: Product, detail: str) -> None:
        """Enter the trades of a gap that the venue will not send any more, which ends the wait for them."""
        self.lose_trades(call, product, detail)
        trades.missing(call, product)
        self.account(call, product, self.trades, call.now)

    def close_filled(self, call: Call, product: Product) -> None:
        """Close the gaps of skipped trade ids of which none is missing any more."""
        skipped = product.trade_ids.skipped
        filled = [
            g for g in product.trade_gaps if not any(first <= g.last and g.first <= last for first, last in skipped)
        ]
        if not filled:
            return
        product.trade_gaps = [gap for gap in product.trade_gaps if gap not in filled]
        if not skipped and not self.is_pending(product, self.trades):
            trades.found(product)
            trades.found_late(product)
            trades.state_found(call, product)
        for gap in filled:
            call.status(product.symbol, "resynced", gap, channel=self.trades, ts_to=call.now)
