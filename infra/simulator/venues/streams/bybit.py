"""Bybit v5 public streams, simulated.

Source: "Connect" and "Orderbook", bybit-exchange.github.io/docs/v5: a request for spot has at most 10 args, the args of
one connection at most 21,000 characters, and one address opens at most 500 connections in 5 minutes. A refused request
is answered with `success: false` and the reason in `ret_msg`; none of its args is subscribed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step
from infra.simulator.venues.streams.session import Session, read, write

ARGS_MAX = 10
ARGS_CHARACTERS_MAX = 21_000


class _Request(msgspec.Struct):
    op: str
    args: list[str] = []
    req_id: str = ""


class BybitSession(Session):
    """One connection of one market; the path's last part names it (`/v5/public/spot`)."""

    limits = Limits(attempts=(500, 300))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a pair with Tether."""
        return f"{coin}USDT"

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer `subscribe`, `unsubscribe` and `ping`."""
        request = read(message, _Request)
        op, args, number = request.op, request.args, request.req_id
        if op == "ping":
            return [write({"success": True, "ret_msg": "pong", "conn_id": "sim", "req_id": number, "op": "ping"})]
        reason = self._refusal(op, args)
        if reason:
            self.refuse(reason)
        answer = {"success": not reason, "ret_msg": reason, "conn_id": "sim", "req_id": number, "op": op}
        if reason:
            return [write(answer)]
        wanted = [(topic.rpartition(".")[0], topic.rpartition(".")[2]) for topic in args]
        if op == "unsubscribe":
            for one in wanted:
                self.subscribed.pop(one, None)
            return [write(answer)]
        self.subscribed |= dict.fromkeys(wanted)
        return [write(answer), *(self._book(*one, ts) for one in wanted if one[0].startswith("orderbook"))]

    def _refusal(self, op: str, args: list[str]) -> str:
        if op not in {"subscribe", "unsubscribe"}:
            return f"error:unknown op {op}"
        if self.path.endswith("/spot") and len(args) > ARGS_MAX:
            return f"error:args size >{ARGS_MAX}"
        split = [(topic, *topic.rpartition(".")[::2]) for topic in args]
        unknown = [topic for topic, channel, name in split if not self.lists(channel, name)]
        if unknown:
            return f"error:handler not found,topic:{unknown[0]}"
        if op == "subscribe":
            total = sum(len(f"{channel}.{name}") for channel, name in self.subscribed) + sum(map(len, args))
            if total > ARGS_CHARACTERS_MAX:
                return "error:args too long"
        return ""

    def _book(self, channel: str, name: str, ts: int) -> bytes:
        market = self.markets[name]
        bids, asks = market.book()
        depth = int(channel.rpartition(".")[2])
        data = {"s": name, "b": bids[:depth], "a": asks[:depth], "u": market.version, "seq": market.version}
        return write(_frame(f"{channel}.{name}", "snapshot", data, ts))

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send the changes of books, the trades and the tickers."""
        topic = f"{channel}.{name}"
        if channel == "publicTrade":
            trade = step.trade
            rows = [{"T": ts // 1_000_000, "s": name, "S": trade.side.capitalize(), "v": trade.size,
                     "p": trade.price, "i": str(trade.number), "BT": False, "seq": step.version}]  # fmt: skip
            return [write(_frame(topic, "snapshot", rows, ts))]
        if channel == "orderbook.1":
            return [self._book(channel, name, ts)]
        if channel.startswith("orderbook"):
            delta = {"s": name, "b": step.bids, "a": step.asks, "u": step.version, "seq": step.version}
            return [write(_frame(topic, "delta", delta, ts))]
        if channel == "tickers":
            bids, asks = self.markets[name].book()
            data = {"symbol": name, "lastPrice": step.trade.price, "bid1Price": bids[0][0], "bid1Size": bids[0][1],
                    "ask1Price": asks[0][0], "ask1Size": asks[0][1]}  # fmt: skip
            return [write(_frame(topic, "snapshot", data, ts))]
        return []

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer the lists of instruments and of recent trades."""
        if path == "/v5/market/instruments-info":
            listed = [{"symbol": name, "baseCoin": name.removesuffix("USDT"), "quoteCoin": "USDT", "status": "Trading",
                       "contractType": "LinearPerpetual", "settleCoin": "USDT", "priceFilter": {"tickSize": "0.1"},
                       "lotSizeFilter": {"basePrecision": "0.001", "qtyStep": "0.001", "minOrderQty": "0.001"}}
                      for name in markets]  # fmt: skip
            return {"retCode": 0, "retMsg": "OK", "result": {"category": query.get("category"), "list": listed}}
        if path == "/v5/market/recent-trade":
            trade = markets[query["symbol"]].trade
            rows = [] if trade is None else [
                {"execId": str(trade.number), "symbol": query["symbol"], "price": trade.price, "size": trade.size,
                 "side": trade.side.capitalize(), "time": str(trade.ts // 1_000_000), "isBlockTrade": False}
            ]  # fmt: skip
            return {"retCode": 0, "retMsg": "OK", "result": {"category": query.get("category"), "list": rows}}
        return None


def _frame(topic: str, kind: str, data: Any, ts: int) -> dict[str, Any]:
    return {"topic": topic, "type": kind, "ts": ts // 1_000_000, "data": data, "cts": ts // 1_000_000}
