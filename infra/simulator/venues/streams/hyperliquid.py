"""Hyperliquid's market data, simulated.

Source: "Subscriptions" and "Rate limits and user limits", https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api:
one subscription a message, 1,000 subscriptions, 2,000 messages a minute and 100 connections of one address.
"""

from __future__ import annotations

from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Step, Trade
from infra.simulator.venues.streams.session import Session, read, write

CHANNELS = frozenset({"l2Book", "trades", "bbo", "activeAssetCtx"})


class _Subscription(msgspec.Struct):
    type: str = ""
    coin: str = ""


class _Request(msgspec.Struct):
    method: str
    subscription: _Subscription = msgspec.field(default_factory=_Subscription)


class HyperliquidSession(Session):
    """One connection."""

    limits = Limits(streams=1_000, address_messages=(2_000, 60), attempts=(100, 60))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return the coin itself."""
        return coin

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer a subscription, then send its first data."""
        request = read(message, _Request)
        if request.method == "ping":
            return [write({"channel": "pong"})]
        wanted = (request.subscription.type, request.subscription.coin)
        subscription = {"type": wanted[0], "coin": wanted[1]}
        named = msgspec.json.encode({"method": request.method, "subscription": subscription}).decode()
        if wanted[0] not in CHANNELS or not self.lists(*wanted) or self.is_full([wanted]):
            self.refuse(named)
            return [write({"channel": "error", "data": f"Invalid subscription {named}"})]
        answers = [write({"channel": "subscriptionResponse",
                          "data": {"method": request.method, "subscription": subscription}})]  # fmt: skip
        if request.method == "unsubscribe":
            self.subscribed.pop(wanted, None)
            return answers
        self.subscribed[wanted] = None
        trade = self.markets[wanted[1]].trade
        if wanted[0] == "l2Book":
            answers.append(self._book(wanted[1], ts))
        elif wanted[0] == "trades" and trade is not None:
            answers.append(write({"channel": "trades", "data": [_trade(wanted[1], trade)]}))
        return answers

    def _book(self, name: str, ts: int) -> bytes:
        bids, asks = self.markets[name].book()
        levels = [[{"px": price, "sz": size, "n": 1} for price, size in side] for side in (bids, asks)]
        return write({"channel": "l2Book", "data": {"coin": name, "time": ts // 1_000_000, "levels": levels}})

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send whole books, the trades, the best levels and what belongs to the perpetuals."""
        data: Any
        if channel == "l2Book":
            return [self._book(name, ts)]
        if channel == "trades":
            data = [_trade(name, step.trade)]
        elif channel == "bbo":
            best = [{"px": side[0][0], "sz": side[0][1], "n": 1} for side in self.markets[name].book()]
            data = {"coin": name, "time": ts // 1_000_000, "bbo": best}
        else:
            price = step.trade.price
            data = {"coin": name, "ctx": {"funding": "0.0000125", "openInterest": "10.5", "markPx": price,
                                          "oraclePx": price, "midPx": price}}  # fmt: skip
        return [write({"channel": channel, "data": data})]


def _trade(name: str, trade: Trade) -> dict[str, Any]:
    return {"coin": name, "side": "B" if trade.side == "buy" else "A", "px": trade.price, "sz": trade.size,
            "time": trade.ts // 1_000_000, "hash": "0x0", "tid": trade.number, "users": ["0x1", "0x2"]}  # fmt: skip
