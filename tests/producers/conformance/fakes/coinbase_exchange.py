"""Coinbase Exchange: each message is answered with all subscriptions, or refused as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.feed import Fetch
from tests.producers.conformance.fake_venue import ASKS, BIDS, PRICE, SIZE, Asked, FakeVenue, Fate, iso, whole, write


class CoinbaseExchange(FakeVenue):
    """One connection, with books of levels."""

    names = ("BTC-USD", "ETH-USD")
    book, trades = "level2_batch", "matches"
    refuses_whole = True

    def __init__(self) -> None:
        self._listed: dict[str, list[str]] = {}
        self._traded: dict[str, int] = {}

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each channel and product."""
        sent = json.loads(message)
        return [Asked(sent["type"], channel, name) for channel in sent["channels"]
                for name in sent.get("product_ids", [])]  # fmt: skip

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Refuse the message as a whole, or list what is subscribed."""
        asked = self.asked(message)
        fate = whole([fates(one) for one in asked])
        if fate == "refused":
            return [write({"type": "error", "message": "Failed to subscribe", "reason": "not a valid product"})]
        if fate == "unanswered":
            return []
        for one in asked:
            names = self._listed.setdefault(one.channel, [])
            if one.verb == "subscribe" and one.name not in names:
                names.append(one.name)
            elif one.verb == "unsubscribe" and one.name in names:
                names.remove(one.name)
        channels = [{"name": channel, "product_ids": names} for channel, names in self._listed.items() if names]
        return [write({"type": "subscriptions", "channels": channels})]

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        return [write({"type": "snapshot", "product_id": name, "bids": BIDS, "asks": ASKS, "time": iso(ts)})]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a match; its side is the maker's."""
        self._traded[name] = number
        return [write({"type": "match", "trade_id": number, "maker_order_id": "m", "taker_order_id": "t",
                       "side": "sell", "size": SIZE, "price": price, "product_id": name, "sequence": 10 + number,
                       "time": iso(ts)} | fields)]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return each product's heartbeat."""
        return [write({"type": "heartbeat", "last_trade_id": self._traded.get(name, 0), "product_id": name,
                       "sequence": 10 + self._traded.get(name, 0), "time": iso(ts)})
                for name in self.names]  # fmt: skip

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer the last trades, newest first."""
        if request.purpose != "trades":
            return None
        return write([{"trade_id": number, "side": "sell", "size": SIZE, "price": PRICE, "time": iso(ts)}
                      for number in range(traded, 0, -1)])  # fmt: skip
