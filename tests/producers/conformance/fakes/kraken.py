"""Kraken v2: each pair of a request is acknowledged by a message of its own; a refusal names the pair alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from zlib import crc32

from tests.producers.conformance.fake_venue import ASKS, BIDS, PRICE, Asked, FakeVenue, Fate, iso, write


class Kraken(FakeVenue):
    """One connection."""

    names = ("BTC/USD", "ETH/USD")
    book, trades = "book", "trade"
    answers_each = True

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each pair."""
        sent = json.loads(message)
        params = sent.get("params", {})
        return [Asked(sent["method"], params["channel"], name) for name in params.get("symbol", [])]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer each pair by itself."""
        sent, answers = json.loads(message), []
        for one in self.asked(message):
            fate = fates(one)
            reply: dict[str, Any] = {"method": sent["method"], "success": fate == "accepted"}
            if fate == "accepted":
                depth = {"depth": sent["params"]["depth"]} if "depth" in sent["params"] else {}
                reply["result"] = {"channel": one.channel, "symbol": one.name, "snapshot": True, **depth}
            else:
                reply |= {"error": f"Currency pair not supported {one.name}", "symbol": one.name}
            answers += [write(reply)] if fate != "unanswered" else []
        return answers

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book with its checksum, over asks and then bids."""
        levels = [[{"price": int(price), "qty": int(size)} for price, size in side] for side in (BIDS, ASKS)]
        crc = crc32("".join(text for side in (ASKS, BIDS) for level in side for text in level).encode())
        book = {"symbol": name, "bids": levels[0], "asks": levels[1], "checksum": crc, "timestamp": iso(ts)}
        return [self._frame("book", "snapshot", [book])]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return all trades so far, as a subscription begins with them."""
        trades: list[dict[str, Any]] = [{"symbol": name, "side": "buy", "price": 10, "qty": 0.5, "ord_type": "limit",
                                         "trade_id": one, "timestamp": iso(ts)}
                                        for one in range(1, number + 1)]  # fmt: skip
        trades[-1] |= {"price": float(price)} | fields
        return [self._frame("trade", "snapshot", trades)]

    def alive(self, ts: int) -> list[bytes]:
        """Return a heartbeat."""
        return [write({"channel": "heartbeat"})]

    def _frame(self, channel: str, kind: str, data: list[Any]) -> bytes:
        return write({"channel": channel, "type": kind, "data": data})
