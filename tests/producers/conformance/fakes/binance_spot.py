"""Binance spot: each message is answered by its number, for all of its streams; books come by REST."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.feed import Fetch
from tests.producers.conformance.fake_venue import ASKS, BIDS, PRICE, SIZE, Asked, FakeVenue, Fate, ms, whole, write


class BinanceSpot(FakeVenue):
    """One connection."""

    names = ("BTCUSDT", "ETHUSDT")
    book, trades = "depth@100ms", "trade"
    refuses_whole = True

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each stream, as btcusdt@trade."""
        sent = json.loads(message)
        streams = [stream.partition("@") for stream in sent.get("params", [])]
        return [Asked(sent["method"].lower(), channel, name.upper()) for name, _, channel in streams]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer the message's number."""
        number, fate = json.loads(message)["id"], whole([fates(one) for one in self.asked(message)])
        if fate == "refused":
            return [write({"error": {"code": 2, "msg": "Invalid request: unknown stream"}, "id": number})]
        return [write({"result": None, "id": number})] if fate == "accepted" else []

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return a change without levels: what goes before it comes by REST."""
        return [self._stream(name, self.book, {"e": "depthUpdate", "E": ms(ts), "T": ms(ts), "s": name, "U": 10,
                                               "u": 12, "pu": 10, "b": [], "a": []})]  # fmt: skip

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade whose buyer took."""
        return [self._stream(name, self.trades, {"e": self.trades, "E": ms(ts), "s": name, "t": number, "p": price,
                                                 "q": SIZE, "T": ms(ts), "m": False, "M": True} | fields)]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return the best levels, which have no number of the book."""
        return [self._stream(name, "bookTicker", {"u": ts // 1_000_000_000, "E": ms(ts), "T": ms(ts), "s": name,
                                                  "b": "9", "B": "1", "a": "11", "A": "2"})
                for name in self.names]  # fmt: skip

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer a book, and the last trades."""
        if request.purpose == "snapshot":
            return write({"lastUpdateId": 11, "E": ms(ts), "T": ms(ts), "bids": BIDS, "asks": ASKS})
        if request.purpose == "trades":
            return write([{"id": number, "price": PRICE, "qty": SIZE, "time": ms(ts), "isBuyerMaker": False}
                          for number in range(1, traded + 1)])  # fmt: skip
        return None

    def _stream(self, name: str, channel: str, data: object) -> bytes:
        return write({"stream": f"{name.lower()}@{channel}", "data": data})
