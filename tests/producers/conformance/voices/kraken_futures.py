"""Kraken Futures: a request for several contracts is acknowledged, or refused by an error that names none of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.producers.conformance.voice import Asked, Fate, Voice, ms, whole, write


class KrakenFutures(Voice):
    """One connection."""

    names = ("PI_XBTUSD", "PI_ETHUSD")
    book, trades = "book", "trade"
    refuses_whole = True

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each contract."""
        sent = json.loads(message)
        return [Asked(sent["event"], sent["feed"], name) for name in sent.get("product_ids", [])]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer the request as a whole."""
        sent = json.loads(message)
        fate = whole([fates(one) for one in self.asked(message)])
        if fate == "refused":
            return [write({"event": "error", "message": "Invalid product id"})]
        return [write({**sent, "event": f"{sent['event']}d"})] if fate == "accepted" else []

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        return [write({"feed": "book_snapshot", "product_id": name, "timestamp": ms(ts), "seq": 5, "tickSize": None,
                       "bids": [{"price": 9, "qty": 1}], "asks": [{"price": 11, "qty": 2}]})]  # fmt: skip

    def trade(self, name: str, number: int, ts: int) -> list[bytes]:
        """Return all trades so far, as a subscription begins with them, newest first."""
        trades: list[Any] = [{"feed": "trade", "product_id": name, "uid": f"{name}-{one}", "side": "buy",
                              "type": "fill", "seq": one, "time": ms(ts), "qty": 0.5, "price": 10}
                             for one in range(number, 0, -1)]  # fmt: skip
        return [write({"feed": "trade_snapshot", "product_id": name, "trades": trades})]

    def alive(self, ts: int) -> list[bytes]:
        """Return a heartbeat."""
        return [write({"feed": "heartbeat", "time": ms(ts)})]
