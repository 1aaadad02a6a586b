"""Deribit's market data over JSON-RPC, simulated.

Source: "Notifications" and "book.(instrument_name).(interval)", https://docs.deribit.com: the answer to
`public/subscribe` lists the channels that are subscribed; unknown ones are left out. "Connection management best
practices": 32 connections of one address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step, Trade
from infra.simulator.venues.streams.session import Session, read, write


class _Params(msgspec.Struct):
    channels: list[str] = []


class _Request(msgspec.Struct):
    method: str
    id: int | None = None
    params: _Params = msgspec.field(default_factory=_Params)


class DeribitSession(Session):
    """One connection."""

    limits = Limits(streams=500, messages=(20, 1), attempts=(32, 60))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a perpetual."""
        return f"{coin}-PERPETUAL"

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer a request, then send the snapshots of books."""
        request = read(message, _Request)
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request.id}
        if request.method in {"public/set_heartbeat", "public/test"}:
            return [write({**reply, "result": "ok"})]
        if request.method not in {"public/subscribe", "public/unsubscribe"}:
            self.refuse(request.method)
            return [write({**reply, "error": {"code": -32601, "message": "Method not found"}})]
        wanted = [(channel, _split(channel)) for channel in request.params.channels]
        known = [(channel, one) for channel, one in wanted if self.lists(*one)]
        for channel, _ in wanted:
            if channel not in dict(known):
                self.refuse(channel)
        if request.method == "public/unsubscribe":
            for _, one in known:
                self.subscribed.pop(one, None)
        elif self.is_full(one for _, one in known):
            self.refuse("channels")
            return [write({**reply, "error": {"code": 11050, "message": "bad_request"}})]
        else:
            self.subscribed |= dict.fromkeys(one for _, one in known)
        answers = [write({**reply, "result": [channel for channel, _ in known]})]
        if request.method == "public/subscribe":
            answers += [self._snapshot(name, ts) for _, (kind, name) in known if kind == "book"]
        return answers

    def _snapshot(self, name: str, ts: int) -> bytes:
        market = self.markets[name]
        bids, asks = market.book()
        return _notify("book", name, {
            "type": "snapshot", "timestamp": ts // 1_000_000, "instrument_name": name, "change_id": market.version,
            "bids": [["new", float(price), float(size)] for price, size in bids],
            "asks": [["new", float(price), float(size)] for price, size in asks]})  # fmt: skip

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send the changes of books, the trades and the tickers."""
        ms = ts // 1_000_000
        if channel == "book":
            return [_notify(channel, name, {
                "type": "change", "timestamp": ms, "instrument_name": name, "change_id": step.version,
                "prev_change_id": step.version - 1, "bids": _changes(step.bids),
                "asks": _changes(step.asks)})]  # fmt: skip
        if channel == "trades":
            return [_notify(channel, name, [_trade(name, step.trade)])]
        if channel != "ticker":
            return []
        bids, asks = self.markets[name].book()
        return [_notify(channel, name, {
            "timestamp": ms, "instrument_name": name, "state": "open", "best_bid_price": float(bids[0][0]),
            "best_bid_amount": float(bids[0][1]), "best_ask_price": float(asks[0][0]),
            "best_ask_amount": float(asks[0][1]), "last_price": float(step.trade.price),
            "mark_price": float(step.trade.price), "index_price": float(step.trade.price),
            "open_interest": 100.5, "current_funding": 0.0001, "funding_8h": 0.0001,
            "stats": {"volume": 1.5, "high": 2000.0, "low": 900.0, "price_change": 0.5}})]  # fmt: skip

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer the list of instruments and the last trades of one."""
        if path.endswith("/public/get_instruments"):
            listed = [{"instrument_name": name, "tick_size": 0.1, "min_trade_amount": 0.001, "contract_size": 1.0,
                       "is_active": True, "settlement_currency": "USDC", "instrument_type": "linear"}
                      for name in markets]  # fmt: skip
            return {"jsonrpc": "2.0", "result": listed}
        if path.endswith("/public/get_last_trades_by_instrument"):
            trade = markets[query["instrument_name"]].trade
            rows = [] if trade is None else [_trade(query["instrument_name"], trade)]
            return {"jsonrpc": "2.0", "result": {"trades": rows, "has_more": False}}
        return None


def _split(channel: str) -> tuple[str, str]:
    kind, _, rest = channel.partition(".")
    return kind, rest.rpartition(".")[0]


def _notify(kind: str, name: str, data: Any) -> bytes:
    return write(
        {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": f"{kind}.{name}.100ms", "data": data}}
    )


def _changes(levels: list[tuple[str, str]]) -> list[list[Any]]:
    return [["delete" if size == "0" else "change", float(price), float(size)] for price, size in levels]


def _trade(name: str, trade: Trade) -> dict[str, Any]:
    return {"trade_seq": trade.number, "trade_id": f"T-{trade.number}", "timestamp": trade.ts // 1_000_000,
            "instrument_name": name, "price": float(trade.price), "amount": float(trade.size),
            "direction": trade.side, "tick_direction": 0}  # fmt: skip
