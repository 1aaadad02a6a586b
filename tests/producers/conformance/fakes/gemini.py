"""Gemini: one answer for each request, by its number; a book begins with its first frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.feed import Fetch
from tests.producers.conformance.fake_venue import (
    ASKS,
    BIDS,
    PRICE,
    PRICES,
    SIZE,
    Asked,
    FakeVenue,
    Fate,
    Mark,
    ms,
    whole,
    write,
)


class Gemini(FakeVenue):
    """One connection."""

    names = ("BTCUSD", "ETHUSD")
    book, trades = "depth@100ms", "trade"
    refuses_whole = True
    # "List Trades": `type` is auction or block for what was traded outside of the continuous book.
    marks = (Mark({"type": "block"}, ("block",), PRICES), Mark({"type": "auction"}, ("auction",)))
    marks_by_rest = True

    def asked(self, message: bytes) -> list[Asked]:
        """Return the one stream of a request, as btcusd@trade."""
        sent = json.loads(message)
        streams = [stream.partition("@") for stream in sent.get("params", [])]
        return [Asked(sent["method"], channel, name.upper()) for name, _, channel in streams]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer the request's number."""
        sent = json.loads(message)
        fate = whole([fates(one) for one in self.asked(message)])
        if fate == "refused":
            error = {"code": -1121, "msg": "Invalid symbol."}
            return [write({"id": sent["id"], "status": 400, "error": error})]
        return [write({"id": sent["id"], "status": 200, "result": None})] if fate == "accepted" else []

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the first frame, which is the whole book."""
        return [write({"e": "depthUpdate", "E": ts, "s": name.lower(), "U": 7, "u": 7, "b": BIDS, "a": ASKS})]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade whose buyer took."""
        return [write({"E": ts, "s": name.lower(), "t": number, "p": price, "q": SIZE, "m": False} | fields)]

    def marked(self, name: str, number: int, ts: int, price: str, mark: Mark) -> list[bytes]:
        """Return a list of one trade."""
        return [write([{"tid": number, "timestampms": ms(ts), "price": price, "amount": SIZE, "type": "buy"}
                       | mark.fields])]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return the answer to a ping."""
        return [write({"id": "ping", "status": 200, "result": {}})]

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer the last trades."""
        if request.purpose != "trades":
            return None
        return write([{"tid": number, "timestampms": ms(ts), "price": PRICE, "amount": SIZE, "type": "buy"}
                      for number in range(traded, 0, -1)])  # fmt: skip
