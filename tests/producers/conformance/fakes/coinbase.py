"""Coinbase Advanced Trade: each message is answered with all subscriptions; every frame of a connection is numbered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.producers.conformance.fake_venue import ASKS, BIDS, PRICE, SIZE, Asked, FakeVenue, Fate, iso, whole, write


class Coinbase(FakeVenue):
    """One connection."""

    names = ("BTC-USD", "ETH-USD")
    book, trades = "level2", "market_trades"
    refuses_whole = True

    def __init__(self) -> None:
        self._listed: dict[str, list[str]] = {}
        self._sequence = -1

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each product; heartbeats and states belong to the connection."""
        sent = json.loads(message)
        names = sent["product_ids"] if sent["channel"] not in {"heartbeats", "status"} else []
        return [Asked(sent["type"], sent["channel"], name) for name in names]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Refuse the message as a whole, or list what is subscribed."""
        asked, sent = self.asked(message), json.loads(message)
        fate = whole([fates(one) for one in asked])
        if fate == "refused":
            return [write({"type": "error", "message": "too many L2 streams requested in a single session"})]
        if fate == "unanswered":
            return []
        listed = self._listed.setdefault(sent["channel"], [])
        for one in asked:
            if one.verb == "subscribe" and one.name not in listed:
                listed.append(one.name)
            elif one.verb == "unsubscribe" and one.name in listed:
                listed.remove(one.name)
        events = [{"subscriptions": {channel: names for channel, names in self._listed.items() if names}}]
        return [self._frame("subscriptions", events, ts)]

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        levels = [("bid", *level) for level in BIDS] + [("offer", *level) for level in ASKS]
        updates = [{"side": side, "event_time": iso(ts), "price_level": price, "new_quantity": size}
                   for side, price, size in levels]  # fmt: skip
        return [self._frame("l2_data", [{"type": "snapshot", "product_id": name, "updates": updates}], ts)]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return all trades so far, as a subscription begins with them."""
        trades = [{"product_id": name, "trade_id": str(one), "price": PRICE, "size": SIZE, "time": iso(ts),
                   "side": "SELL"} for one in range(number, 0, -1)]  # fmt: skip
        trades[0] |= {"price": price} | fields
        return [self._frame("market_trades", [{"type": "snapshot", "trades": trades}], ts)]

    def alive(self, ts: int) -> list[bytes]:
        """Return a heartbeat."""
        return [self._frame("heartbeats", [{"current_time": iso(ts), "heartbeat_counter": 1}], ts)]

    def _frame(self, channel: str, events: list[Any], ts: int) -> bytes:
        self._sequence += 1
        return write({"channel": channel, "timestamp": iso(ts), "sequence_num": self._sequence, "events": events})
