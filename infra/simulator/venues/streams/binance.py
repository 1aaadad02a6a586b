"""Binance's market data streams and snapshots, simulated: spot, and USD-M futures with their two addresses.

Source: "General WebSocket Streams information" (spot) and "Websocket Market Streams" (USD-M), developers.binance.com:
at most 1,024 streams on a connection; 5 (spot) or 10 (futures) messages a second from the client, beyond which the
connection is closed with 1008; 300 connection attempts in 5 minutes from one address. "Important WebSocket Change
Notice": since 2026-04-23 the futures' `/public` path carries depth, bookTicker and trade, and `/market` the others;
a stream of the other class is acknowledged and sends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step
from infra.simulator.venues.streams.session import Ended, Session, read, write

PUBLIC = ("depth", "bookTicker", "trade")


class _Request(msgspec.Struct):
    method: str
    params: list[str] = []
    id: int | str | None = None


class SpotSession(Session):
    """One connection of the spot market."""

    limits = Limits(streams=1_024, messages=(5, 1), attempts=(300, 300))
    rest = "/api/v3"

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a pair with Tether."""
        return f"{coin}USDT"

    def received(self, message: bytes, ts: int) -> list[bytes]:  # noqa: ARG002 - a snapshot comes over REST
        """Answer `SUBSCRIBE`, `UNSUBSCRIBE` and `LIST_SUBSCRIPTIONS`.

        An unknown symbol is acknowledged, is not listed, and never sends anything.
        """
        request = read(message, _Request)
        method, number = request.method, request.id
        if method == "LIST_SUBSCRIPTIONS":
            return [write({"result": [f"{name.lower()}@{channel}" for channel, name in self.subscribed], "id": number})]
        if method not in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            self.refuse(f"unknown method {method}")
            return [write({"error": {"code": 2, "msg": "Invalid request: unknown variant"}, "id": number})]
        wanted = [_split(stream) for stream in request.params]
        if method == "UNSUBSCRIBE":
            for one in wanted:
                self.subscribed.pop(one, None)
        elif self.is_full(wanted):
            self.refuse("streams")
            raise Ended(1008, "Too many streams")
        elif any(name in self.markets and not self.lists(channel, name) for channel, name in wanted):
            self.refuse("streams of a message")
            return [write({"error": {"code": 2, "msg": "Invalid request: unknown stream"}, "id": number})]
        else:
            self.subscribed |= dict.fromkeys(one for one in wanted if one[1] in self.markets)
        return [write({"result": None, "id": number})]

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send diffs, trades and the best levels of what this address carries."""
        data = self._event(channel, name, step, ts) if self._carries(channel) else None
        return [] if data is None else [write({"stream": f"{name.lower()}@{channel}", "data": data})]

    def _carries(self, channel: str) -> bool:  # noqa: ARG002 - spot has one address
        return True

    def _event(self, channel: str, name: str, step: Step, ts: int) -> dict[str, Any] | None:
        ms, trade = ts // 1_000_000, step.trade
        common = {"E": ms, "s": name}
        if channel.startswith("depth"):
            return {"e": "depthUpdate", **common, "U": step.version, "u": step.version, "b": step.bids, "a": step.asks}
        if channel == "trade":
            return {"e": "trade", **common, "t": trade.number, "p": trade.price, "q": trade.size, "T": ms,
                    "m": trade.side == "sell", "M": True}  # fmt: skip
        if channel == "bookTicker":
            bids, asks = self.markets[name].book()
            return {"u": step.version, "s": name, "b": bids[0][0], "B": bids[0][1], "a": asks[0][0], "A": asks[0][1]}
        return None

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer the list of products, a snapshot of one book and old trades."""
        if path == f"{cls.rest}/exchangeInfo":
            filters = [{"filterType": "PRICE_FILTER", "tickSize": "0.1"},
                       {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001"}]  # fmt: skip
            listed = [{"symbol": name, "status": "TRADING", "baseAsset": name.removesuffix("USDT"),
                       "quoteAsset": "USDT", "contractType": "PERPETUAL", "filters": filters}
                      for name in markets]  # fmt: skip
            return {"timezone": "UTC", "symbols": listed}
        if path == f"{cls.rest}/depth":
            market = markets[query["symbol"]]
            bids, asks = market.book()
            return {"lastUpdateId": market.version, "bids": bids, "asks": asks}
        if path == f"{cls.rest}/openInterest":
            return {"symbol": query["symbol"], "openInterest": "10.5", "time": markets[query["symbol"]].ts // 1_000_000}
        return [] if path.startswith(f"{cls.rest}/") else None


class UsdmSession(SpotSession):
    """One connection of USD-M futures, at `/public/...` or `/market/...`."""

    limits = Limits(streams=1_024, messages=(10, 1), attempts=(300, 300))
    rest = "/fapi/v1"

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer open interest as well."""
        if path == f"{cls.rest}/openInterest":
            market = markets[query["symbol"]]
            return {
                "openInterest": f"{market.version}.000",
                "symbol": query["symbol"],
                "time": time.time_ns() // 1_000_000,
            }
        return super().answer(markets, path, query)

    def _carries(self, channel: str) -> bool:
        return self.path.startswith("/public" if channel.startswith(PUBLIC) else "/market")

    def _event(self, channel: str, name: str, step: Step, ts: int) -> dict[str, Any] | None:
        ms, trade = ts // 1_000_000, step.trade
        if channel == "aggTrade":
            return {"e": "aggTrade", "E": ms, "s": name, "a": trade.number, "p": trade.price, "q": trade.size,
                    "f": trade.number, "l": trade.number, "T": ms, "m": trade.side == "sell"}  # fmt: skip
        if channel.startswith("markPrice"):
            return {"e": "markPriceUpdate", "E": ms, "s": name, "p": trade.price, "i": trade.price, "P": trade.price,
                    "r": "0.0001", "T": ms - ms % 28_800_000 + 28_800_000}  # fmt: skip
        event = super()._event(channel, name, step, ts)
        if event is None:
            return None
        if channel.startswith("depth"):
            return {**event, "T": ms, "pu": step.version - 1}
        return {**event, "E": ms, "T": ms, "e": event.get("e", "bookTicker")}


def _split(stream: str) -> tuple[str, str]:
    name, _, channel = stream.partition("@")
    return channel, name.upper()
