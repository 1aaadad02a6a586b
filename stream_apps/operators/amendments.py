"""What corrections and cancels need: counted trades by id, and amendments that wait for their trade.

A cancel takes a trade back, and a correction takes its place: at its time, and on its side unless it states another.
Neither says when the trade was or how much, so the trades of venues that amend are remembered by id for as long as
their minutes are kept, at most as many as the limits say. An amendment may come before its trade, by a faster line.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from marketdata.events import Trade

# Amendments whose trade has not come, and ids whose amendment is done: far more than any venue amends in two hours.
WAITING_MAX = 2_000


class Counted(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A counted trade; `live`: it is also in candles that end before the first event; `item`: its order of arrival."""

    ts: int
    price: str
    size: str
    side: str
    live: bool
    item: int

    def trade(self, identity: str) -> Trade:
        """Return the trade."""
        return Trade(trade_id=identity, ts_event=self.ts, price=self.price, size=self.size, side=self.side)


class Waiting(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An amendment of a trade that never came: when it came itself, and the correction that takes its place, if any."""

    ts: int
    trade: Trade | None


class TradeMemory(msgspec.Struct):
    """What amendments need of one symbol: counted trades by id, in order of arrival but for corrections.

    `forgotten` is the newest time of a counted trade that was forgotten. Candles that start before `uncertain_until`
    may hold one that was amended. `settled` are the ids, with the times, of trades whose amendment is done, and of
    corrections: they change nothing when they come again (from a repair, or a slower line).
    """

    trades: dict[str, Counted] = {}
    forgotten: int = 0
    uncertain_until: int = 0
    waiting: dict[str, Waiting] = {}
    settled: dict[str, int] = {}
    items: int = 0

    def standing(self, trade: Trade, original: str = "") -> Trade | None:
        """Return what a trade counts as that comes now, or takes the place of `original`: None when it does not count.

        Amendments may have come before it, and it may be counted already.
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
            trade.ts_event, trade.price, trade.size, trade.side, live=live, item=self.items
        )
        if len(self.trades) > limit:
            # Several at once: finding the first of a dict is slow when its beginning was deleted.
            for oldest in list(islice(self.trades, 1 + limit // 8)):
                self.forgotten = max(self.forgotten, self.trades.pop(oldest).ts)

    def wait(self, original: str, ts: int, correction: Trade | None) -> None:
        """Remember an amendment, which came at `ts`, until its trade comes; None is a cancel."""
        before = self.waiting.get(original)
        if correction is not None and before is not None and before.trade is not None:
            correction = amended(before.trade, correction)
        self.waiting[original] = Waiting(ts, correction)
        if len(self.waiting) > WAITING_MAX:
            del self.waiting[next(iter(self.waiting))]

    def settle(self, original: str, counted: Counted, new: Trade | None) -> None:
        """Put a trade, or nothing, in the place of a counted one."""
        del self.trades[original]
        self.settled[original] = counted.ts
        if new is not None:
            self.settled[new.trade_id] = counted.ts
            self.trades[new.trade_id] = Counted(
                new.ts_event, new.price, new.size, new.side, live=counted.live, item=counted.item
            )
        while len(self.settled) > WAITING_MAX:
            del self.settled[next(iter(self.settled))]

    def forget(self, since: int) -> None:
        """Forget what is older than every kept minute."""
        for identity in [identity for identity, counted in self.trades.items() if counted.ts < since]:
            self.forgotten = max(self.forgotten, self.trades.pop(identity).ts)
        self.settled = {identity: ts for identity, ts in self.settled.items() if ts >= since}
        self.waiting = {identity: one for identity, one in self.waiting.items() if one.ts >= since}


def amended(trade: Trade, correction: Trade) -> Trade:
    """Return a trade after its correction, which keeps the time, and the side unless it states another."""
    side = trade.side if correction.side == "unknown" else correction.side
    return msgspec.structs.replace(correction, ts_event=trade.ts_event, side=side)
