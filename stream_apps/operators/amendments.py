"""The memory that corrections and cancels need: counted trades by id, and amendments that wait for their trade.

A cancel removes a trade. A correction replaces it, keeping its time, and its side unless the correction states one.
Neither contains the time or size of the original, so the trades of venues that amend are remembered by id while their
minutes are kept, up to a limit. An amendment may arrive before its trade, on a faster line.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import msgspec

from marketdata.events import EXCLUSIONS, Trade

# Waiting amendments, and ids with a completed amendment: far more than any venue amends in two hours.
WAITING_MAX = 2_000


class Counted(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A counted trade; `live`: candles that end before the first event contain it too; `item`: its order of arrival."""

    ts: int
    price: str
    size: str
    side: str
    live: bool
    item: int
    excluded_from: tuple[str, ...] = ()

    @property
    def updates_nothing(self) -> bool:
        """Whether no candle contains it, as it is excluded from everything."""
        return len(self.excluded_from) == len(EXCLUSIONS)

    def trade(self, identity: str) -> Trade:
        """Return the trade, without its conditions."""
        return Trade(
            trade_id=identity, ts_event=self.ts, price=self.price, size=self.size, side=self.side,
            excluded_from=self.excluded_from,
        )  # fmt: skip


class Replaced(NamedTuple):
    """A counted trade that was amended: as it was, and as it is; None when it does not count any more."""

    counted: Counted
    old: Trade
    new: Trade | None


class Waiting(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An amendment whose trade has not arrived: its time of arrival, and the correction (None for a cancel)."""

    ts: int
    trade: Trade | None


class TradeMemory(msgspec.Struct):
    """One symbol's counted trades by id, in order of arrival except for corrections, and its amendments.

    `forgotten` is the newest time of a counted trade that was evicted. A candle that starts before `uncertain_until`
    may contain an evicted trade that was amended. `settled` maps the ids of corrections, and of trades with a completed
    amendment, to their times: they are ignored when they arrive again (from a repair or a slower line).
    """

    trades: dict[str, Counted] = {}
    forgotten: int = 0
    uncertain_until: int = 0
    waiting: dict[str, Waiting] = {}
    settled: dict[str, int] = {}
    items: int = 0

    def standing(self, trade: Trade, original: str = "") -> Trade | None:
        """Return the trade to count for one that arrives now or replaces `original`; None when it does not count.

        Its amendments may have arrived before it, and it may be counted already.
        """
        now = trade
        while (waiting := self.waiting.pop(now.trade_id, None)) is not None:
            self.settled[now.trade_id] = now.ts_event
            if waiting.trade is None:
                return None
            kept_id = waiting.trade.trade_id == now.trade_id
            now = amended(now, waiting.trade)
            if kept_id:
                return now
        if now.trade_id != original and (now.trade_id in self.trades or now.trade_id in self.settled):
            return None
        if now is not trade:
            self.settled[now.trade_id] = now.ts_event
        return now

    def keep(self, trade: Trade, *, live: bool, limit: int) -> None:
        """Remember a counted trade."""
        self.items += 1
        self.trades[trade.trade_id] = Counted(
            trade.ts_event, trade.price, trade.size, trade.side, live, self.items, trade.excluded_from
        )
        if len(self.trades) > limit:
            # Evict several at once: finding a dict's first key is slow after many deletions at its start.
            for oldest in list(islice(self.trades, 1 + limit // 8)):
                self.forgotten = max(self.forgotten, self.trades.pop(oldest).ts)

    def amend(self, amendment: Trade, now: int) -> Replaced | None:
        """Apply a correction or a cancel; None when its trade is not remembered, which it then waits for."""
        original = amendment.original_id or amendment.trade_id
        correction = amendment if amendment.action == "correct" else None
        counted = self.trades.get(original)
        if counted is None:
            self._wait(original, max(amendment.ts_event, now), correction)
            return None
        old = counted.trade(original)
        new = None if correction is None else self.standing(amended(old, correction), original)
        self._settle(original, counted, new)
        return Replaced(counted, old, None if new is None or new.updates_nothing else new)

    def forget(self, since: int) -> None:
        """Evict everything older than the oldest kept minute."""
        for identity in [identity for identity, counted in self.trades.items() if counted.ts < since]:
            self.forgotten = max(self.forgotten, self.trades.pop(identity).ts)
        self.settled = {identity: ts for identity, ts in self.settled.items() if ts >= since}
        self.waiting = {identity: one for identity, one in self.waiting.items() if one.ts >= since}

    def _wait(self, original: str, ts: int, correction: Trade | None) -> None:
        """Remember an amendment that arrived at `ts` until its trade arrives; None is a cancel."""
        before = self.waiting.get(original)
        if correction is not None and before is not None and before.trade is not None:
            correction = amended(before.trade, correction)
        self.waiting[original] = Waiting(ts, correction)
        if len(self.waiting) > WAITING_MAX:
            del self.waiting[next(iter(self.waiting))]

    def _settle(self, original: str, counted: Counted, new: Trade | None) -> None:
        """Replace a counted trade by its correction, or remove it."""
        del self.trades[original]
        self.settled[original] = counted.ts
        if new is not None:
            self.settled[new.trade_id] = counted.ts
            self.trades[new.trade_id] = Counted(
                new.ts_event, new.price, new.size, new.side, counted.live, counted.item, new.excluded_from
            )
        while len(self.settled) > WAITING_MAX:
            del self.settled[next(iter(self.settled))]


def amended(trade: Trade, correction: Trade) -> Trade:
    """Return a corrected trade: it keeps its time, and its side unless the correction states one."""
    side = trade.side if correction.side == "unknown" else correction.side
    return msgspec.structs.replace(correction, ts_event=trade.ts_event, side=side)
