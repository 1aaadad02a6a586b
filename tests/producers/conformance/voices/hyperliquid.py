"""Hyperliquid: each subscription is answered by a message that repeats it, or by an error that quotes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.producers.conformance.voice import ASKS, BIDS, PRICE, SIZE, Asked, Fate, Voice, ms, write


class Hyperliquid(Voice):
    """One connection."""

    names = ("BTC", "ETH")
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

    def trade(self, name: str, number: int, ts: int) -> list[bytes]:
        """Return all trades so far, as a subscription begins with them."""
        return [self._frame("trades", [{"coin": name, "side": "B", "px": PRICE, "sz": SIZE, "time": ms(ts),
                                        "hash": "0x0", "tid": one, "users": ["0x1", "0x2"]}
                                       for one in range(1, number + 1)])]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return the answer to a ping."""
        return [write({"channel": "pong"})]

    def _frame(self, channel: str, data: Any) -> bytes:
        return write({"channel": channel, "data": data})
