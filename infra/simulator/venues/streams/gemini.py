"""Gemini's WebSocket API, simulated.

Source: "WebSocket API", https://developer.gemini.com/websocket/introduction (version 0.10.7), with "Stream Reference"
(.../websocket/streams) and "Message Format" (.../websocket/message-format): a request with a stream that does not exist
is refused whole, with `status` 400 and an `error`; an accepted one is answered with `status` 200. `conninfo` states the
limits: 7,000 requests in 10 s and 300 connections in 5 minutes. With `snapshot=-1` in the address the first
`depthUpdate` of a subscription is the whole book. A frame's `U` is the `u` of the frame before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Level, Market, Step
from infra.simulator.venues.streams.session import Session, read, write

CHANNELS = ("depth@100ms", "trade", "bookTicker")


class _Request(msgspec.Struct):
    method: str
    id: Any = None
    params: list[str] = []


class GeminiSession(Session):
    """One connection; `path` has the parameters of the address."""

    limits = Limits(messages=(7_000, 10), attempts=(300, 300))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a pair."""
        return f"{coin}USD"

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer `subscribe`, `unsubscribe`, `conninfo` and `ping`, then send whole books."""
        request = read(message, _Request)
        accepted = write({"id": request.id, "status": 200})
        if request.method == "ping":
            return [accepted]
        if request.method == "conninfo":
            (requests, seconds), (connects, span) = self.limits.messages or (0, 0), self.limits.attempts or (0, 0)
            limits = [{"rateLimitType": "REQUESTS", "limit": requests, "intervalNum": seconds},
                      {"rateLimitType": "CONNECTIONS", "limit": connects, "intervalNum": span}]  # fmt: skip
            return [write({"id": request.id, "status": 200, "result": {"rateLimits": limits}})]
        wanted = [(channel, name.upper()) for name, _, channel in (one.partition("@") for one in request.params)]
        unknown = [f"{name.lower()}@{channel}" for channel, name in wanted
                   if channel not in CHANNELS or not self.lists(channel, name)]  # fmt: skip
        if request.method not in {"subscribe", "unsubscribe"} or unknown:
            reason = f"Invalid stream name: {unknown[0]}" if unknown else f"Unknown method: {request.method}"
            self.refuse(reason)
            return [write({"id": request.id, "status": 400, "error": {"code": -1013, "msg": reason}})]
        if request.method == "unsubscribe":
            for one in wanted:
                self.subscribed.pop(one, None)
            return [accepted]
        self.subscribed |= dict.fromkeys(wanted)
        books = (self._book(name, ts) for channel, name in wanted if channel.startswith("depth"))
        return [accepted, *books] if "snapshot=-1" in self.query else [accepted]

    def _book(self, name: str, ts: int) -> bytes:
        market = self.markets[name]
        return _depth(name, (market.version, market.version), market.book(), ts)

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send the changes of books, the trades and the best levels."""
        if channel.startswith("depth"):
            return [_depth(name, (step.version - 1, step.version), (step.bids, step.asks), ts)]
        if channel == "trade":
            trade = step.trade
            return [write({"E": trade.ts, "s": name, "t": trade.number, "p": trade.price, "q": trade.size,
                           "m": trade.side == "sell"})]  # fmt: skip
        bids, asks = self.markets[name].book()
        return [write({"u": step.version, "E": ts, "s": name, "b": bids[0][0], "B": bids[0][1], "a": asks[0][0],
                       "A": asks[0][1]})]  # fmt: skip

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer the details of a symbol, and its last trade."""
        kind, _, name = path.removeprefix("/v1/").rpartition("/")
        name = name.upper()
        if kind == "symbols/details" and name in markets:
            return {"symbol": name, "base_currency": name[:-3], "quote_currency": "USD", "tick_size": 0.001,
                    "quote_increment": 0.1, "min_order_size": "0.001", "status": "open"}  # fmt: skip
        if kind == "trades" and name in markets:
            trade = markets[name].trade
            is_listed = trade is not None and trade.ts // 1_000_000_000 >= int(query.get("timestamp", 0))
            return [] if trade is None or not is_listed else [
                {"timestamp": trade.ts // 1_000_000_000, "timestampms": trade.ts // 1_000_000, "tid": trade.number,
                 "price": trade.price, "amount": trade.size, "exchange": "gemini", "type": trade.side}
            ]  # fmt: skip
        return None


def _depth(name: str, ids: tuple[int, int], book: tuple[list[Level], list[Level]], ts: int) -> bytes:
    return write({"e": "depthUpdate", "E": ts, "s": name, "U": ids[0], "u": ids[1], "b": book[0], "a": book[1]})
