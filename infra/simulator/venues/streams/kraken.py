"""Kraken's WebSocket v2, simulated.

Source: "Book (Level 2)", "Trade", "Ticker" and "Instrument", docs.kraken.com/api/docs/websocket-v2: each symbol of a
request is acknowledged by a message of its own, or refused with `success: false` and `error`; the book's checksum is
CRC32 over the best ten asks and bids without points and leading zeros. "API rate limits", support.kraken.com: about 150
connection attempts in ten minutes from one address.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import LEVELS, Market, Step
from infra.simulator.venues.streams.session import Session, read, write


class _Params(msgspec.Struct):
    channel: str = ""
    symbol: list[str] = []


class _Request(msgspec.Struct):
    method: str
    params: _Params = msgspec.field(default_factory=_Params)
    req_id: int | None = None


class KrakenSession(Session):
    """One connection."""

    limits = Limits(attempts=(150, 600))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a pair as v2 writes it."""
        return f"{coin}/USD"

    def opened(self, ts: int) -> list[bytes]:  # noqa: ARG002 - it has no time
        """Report the system's state."""
        data = [{"api_version": "v2", "connection_id": 1, "system": "online", "version": "2.0.0"}]
        return [write({"channel": "status", "type": "update", "data": data})]

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer each symbol of a request, then send its snapshot."""
        request = read(message, _Request)
        method, channel = request.method, request.params.channel
        if method == "ping":
            return [write({"method": "pong", "req_id": request.req_id, "time_in": _time(ts),
                           "time_out": _time(ts)})]  # fmt: skip
        if channel == "instrument":
            self.subscribed["instrument", ""] = None
            pairs = [{"symbol": name, "base": name[:-4], "quote": "USD", "status": "online", "price_increment": 0.1,
                      "qty_increment": 0.001, "qty_min": 0.001, "price_precision": 1, "qty_precision": 8}
                     for name in self.markets]  # fmt: skip
            return [
                write({"method": method, "result": {"channel": channel}, "success": True, "time_in": _time(ts),
                       "time_out": _time(ts)}),
                write({"channel": channel, "type": "snapshot", "data": {"assets": [], "pairs": pairs}}),
            ]  # fmt: skip
        answers = []
        for name in request.params.symbol:
            answers += self._one(method, channel, name, ts)
        return answers

    def _one(self, method: str, channel: str, name: str, ts: int) -> list[bytes]:
        times = {"time_in": _time(ts), "time_out": _time(ts)}
        if channel not in {"book", "trade", "ticker"} or not self.lists(channel, name):
            self.refuse(f"{channel} {name}")
            error = f"Currency pair not supported {name}" if channel in {"book", "trade", "ticker"} else "No channel"
            return [write({"method": method, "error": error, "success": False, "symbol": name, **times})]
        result: dict[str, Any] = {"channel": channel, "symbol": name, "snapshot": True}
        said = write({"method": method, "result": result, "success": True, **times})
        if method == "unsubscribe":
            self.subscribed.pop((channel, name), None)
            return [said]
        self.subscribed[channel, name] = None
        market = self.markets[name]
        if channel == "book":
            bids, asks = market.book()
            data = {"symbol": name, "bids": _levels(bids), "asks": _levels(asks), "checksum": checksum(market),
                    "timestamp": _time(ts)}  # fmt: skip
            return [said, write({"channel": "book", "type": "snapshot", "data": [data]})]
        if channel == "trade":
            rows = [] if market.trade is None else [_trade(name, market.trade)]
            return [said, write({"channel": "trade", "type": "snapshot", "data": rows})] if rows else [said]
        return [said]

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send the changes of books, the trades and the tickers."""
        market = self.markets[name]
        if channel == "book":
            data: dict[str, Any] = {"symbol": name, "bids": _levels(step.bids), "asks": _levels(step.asks),
                                    "checksum": checksum(market), "timestamp": _time(ts)}  # fmt: skip
        elif channel == "trade":
            data = _trade(name, step.trade)
        else:
            bids, asks = market.book()
            data = {"symbol": name, "bid": _number(bids[0][0]), "bid_qty": _number(bids[0][1]),
                    "ask": _number(asks[0][0]), "ask_qty": _number(asks[0][1]), "last": _number(step.trade.price),
                    "volume": 1, "vwap": 1, "low": 1, "high": 1, "change": 0, "change_pct": 0}  # fmt: skip
        return [write({"channel": channel, "type": "update", "data": [data]})]

    def beats(self, ts: int) -> list[bytes]:  # noqa: ARG002 - it has no time
        """Send a heartbeat."""
        return [write({"channel": "heartbeat"})]

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer the list of pairs, and that no trade is old."""
        if path == "/0/public/AssetPairs":
            listed = {name.replace("/", ""): {
                "altname": name.replace("/", ""), "wsname": name, "base": name[:-4], "quote": "ZUSD",
                "tick_size": "0.1", "lot_decimals": 8, "ordermin": "0.001", "status": "online", "pair_decimals": 1}
                for name in markets}  # fmt: skip
            return {"error": [], "result": listed}
        if path == "/0/public/Trades":
            return {"error": [], "result": {query.get("pair", ""): [], "last": query.get("since", "0")}}
        return None


def checksum(market: Market) -> int:
    """Return CRC32 over the best ten asks, then bids, of each price and size its digits without leading zeros."""
    bids, asks = market.book()
    text = "".join(
        part.replace(".", "").lstrip("0") for side in (asks, bids) for level in side[:LEVELS] for part in level
    )
    return crc32(text.encode())


def _levels(levels: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"price": _number(price), "qty": _number(size)} for price, size in levels]


def _number(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())  # a JSON number with the digits as they are


def _trade(name: str, trade: Any) -> dict[str, Any]:
    return {"symbol": name, "side": trade.side, "price": _number(trade.price), "qty": _number(trade.size),
            "ord_type": "market", "trade_id": trade.number, "timestamp": _time(trade.ts)}  # fmt: skip


def _time(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1_000_000_000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
