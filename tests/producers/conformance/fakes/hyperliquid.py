"""Hyperliquid: each subscription is answered by a message that repeats it, or by an error that quotes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.producers.conformance.fake_venue import ASKS, BIDS, PRICE, SIZE, Asked, FakeVenue, Fate, Said, ms, write


class Hyperliquid(FakeVenue):
    """One connection."""

    names = ("BTC", "ETH")
    derivative = "BTC"
    messages = ("activeAssetCtx", "activeAssetCtx")
    book, trades = "l2Book", "trades"

    def asked(self, message: bytes) -> list[Asked]:
        """Return the one subscription of a message."""
        sent = json.loads(message)
        one = sent.get("subscription")
        return [] if one is None else [Asked(sent["method"], one["type"], one["coin"])]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer the subscription."""
        sent = json.loads(message)
        if sent["method"] == "ping":
            return [write({"channel": "pong"})]
        (fate,) = (fates(one) for one in self.asked(message))
        if fate == "refused":
            return [self._frame("error", f"Invalid subscription {json.dumps(sent, separators=(',', ':'))}")]
        return [self._frame("subscriptionResponse", sent)] if fate == "accepted" else []

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        levels = [[{"px": price, "sz": size, "n": 1} for price, size in side] for side in (BIDS, ASKS)]
        return [self._frame("l2Book", {"coin": name, "time": ms(ts), "levels": levels})]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return all trades so far, as a subscription begins with them."""
        trades = [{"coin": name, "side": "B", "px": PRICE, "sz": SIZE, "time": ms(ts), "hash": "0x0", "tid": one,
                   "users": ["0x1", "0x2"]} for one in range(1, number + 1)]  # fmt: skip
        trades[-1] |= {"px": price} | fields
        return [self._frame("trades", trades)]

    def derived(self, ts: int) -> list[Said]:
        """Return activeAssetCtx ("WebSocket: subscriptions"), and with the least that it may have."""
        context = {"funding": "0.0000125", "openInterest": "688.11", "prevDayPx": "15.3", "dayNtlVlm": "1169046.29",
                   "premium": "0.00031774", "oraclePx": "14.32", "markPx": "14.3161"}  # fmt: skip
        return [
            Said({"channel": "activeAssetCtx", "data": {"coin": self.derivative, "ctx": ctx}}, values)
            for ctx, values in (
                (context, {"funding_rate": "0.0000125", "funding_interval": 3_600, "open_interest": "688.11",
                           "index_price": "14.32", "mark_price": "14.3161"}),
                ({"markPx": "14.3161", "funding": None}, {"mark_price": "14.3161"}),
            )
        ]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return the answer to a ping."""
        return [write({"channel": "pong"})]

    def _frame(self, channel: str, data: Any) -> bytes:
        return write({"channel": channel, "data": data})
