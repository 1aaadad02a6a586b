"""Deribit: a request is answered with the channels that are subscribed; those that it does not list were refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.feed import Fetch
from tests.producers.conformance.voice import Asked, Fate, Voice, ms, write


class Deribit(Voice):
    """One connection."""

    names = ("BTC-PERPETUAL", "ETH-PERPETUAL")
    book, trades = "book", "trades"

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each channel, as book.BTC-PERPETUAL.100ms."""
        sent = json.loads(message)
        return [Asked(sent["method"].removeprefix("public/"), *channel.split(".")[:2])
                for channel in sent["params"].get("channels", [])]  # fmt: skip

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """List what is accepted; leave the whole request without an answer where one of its channels gets none."""
        sent = json.loads(message)
        asked = [fates(one) for one in self.asked(message)]
        if "unanswered" in asked:
            return []
        channels = sent["params"].get("channels", [])
        accepted = [channel for channel, fate in zip(channels, asked, strict=True) if fate == "accepted"]
        return [write({"jsonrpc": "2.0", "id": sent["id"], "result": accepted if channels else "ok"})]

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        return [self._notify(self.book, name, {
            "type": "snapshot", "timestamp": ms(ts), "instrument_name": name, "change_id": 1,
            "bids": [["new", 9, 1]], "asks": [["new", 11, 2]]})]  # fmt: skip

    def trade(self, name: str, number: int, ts: int) -> list[bytes]:
        """Return a trade."""
        return [self._notify(self.trades, name, [self._trade(name, number, ts)])]

    def alive(self, ts: int) -> list[bytes]:
        """Return the venue's heartbeat."""
        return [write({"jsonrpc": "2.0", "method": "heartbeat", "params": {"type": "heartbeat"}})]

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer the last trades."""
        if request.purpose != "trades":
            return None
        trades = [self._trade(request.symbol, number, ts) for number in range(1, traded + 1)]
        return write({"jsonrpc": "2.0", "result": {"trades": trades, "has_more": False}})

    def _trade(self, name: str, number: int, ts: int) -> dict[str, Any]:
        return {"trade_seq": number, "trade_id": f"{name[:3]}-{number}", "timestamp": ms(ts), "instrument_name": name,
                "price": 10, "amount": 0.5, "direction": "buy", "tick_direction": 0}  # fmt: skip

    def _notify(self, kind: str, name: str, data: Any) -> bytes:
        return write({"jsonrpc": "2.0", "method": "subscription",
                      "params": {"channel": f"{kind}.{name}.100ms", "data": data}})  # fmt: skip
