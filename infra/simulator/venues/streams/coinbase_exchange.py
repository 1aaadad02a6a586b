"""Coinbase Exchange's feed, simulated.

Source: "WebSocket Overview", "WebSocket Channels" and "Exchange WebSocket Rate Limits", docs.cdp.coinbase.com/exchange:
8 connections a second of one address (20 in bursts), 100 messages a second of a client. A subscription is answered by
the list of all subscriptions; one that is not possible by `type: error` with `message` and `reason`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step
from infra.simulator.venues.streams.session import Session, read, write

BOOKS = ("level2_batch", "level2")
CHANNELS = (*BOOKS, "matches", "ticker", "ticker_batch", "heartbeat")


class _Channel(msgspec.Struct):
    name: str
    product_ids: list[str] = []


class _Request(msgspec.Struct):
    type: str
    product_ids: list[str] = []
    channels: list[str | _Channel] = []


class CoinbaseExchangeSession(Session):
    """One connection."""

    limits = Limits(messages=(100, 1), attempts=(20, 1))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a product."""
        return f"{coin}-USD"

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer `subscribe` and `unsubscribe`, then send snapshots."""
        request = read(message, _Request)
        kind = request.type
        channels = [_Channel(one) if isinstance(one, str) else one for one in request.channels]
        wanted = [(one.name, product) for one in channels for product in one.product_ids or request.product_ids]
        reason = next((f"{name} is not a valid channel" for name, _ in wanted if name not in CHANNELS), "") or next(
            (f"{product} is not a valid product" for name, product in wanted if not self.lists(name, product)), ""
        )
        if reason or kind not in {"subscribe", "unsubscribe"}:
            self.refuse(reason or f"unknown type {kind}")
            return [write({"type": "error", "message": "Failed to subscribe", "reason": reason})]
        if kind == "unsubscribe":
            for one in wanted:
                self.subscribed.pop(one, None)
            return [self._listed()]
        self.subscribed |= dict.fromkeys(wanted)
        return [self._listed(), *(self._first(channel, name, ts) for channel, name in wanted if channel in BOOKS)]

    def _listed(self) -> bytes:
        channels: dict[str, list[str]] = {}
        for channel, name in self.subscribed:
            channels.setdefault(channel, []).append(name)
        listed = [{"name": channel, "product_ids": names} for channel, names in channels.items()]
        return write({"type": "subscriptions", "channels": listed})

    def _first(self, channel: str, name: str, ts: int) -> bytes:  # noqa: ARG002 - both channels begin alike
        bids, asks = self.markets[name].book()
        return write({"type": "snapshot", "product_id": name, "bids": bids, "asks": asks, "time": _time(ts)})

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send changes of books, matches with the maker's side, tickers and heartbeats."""
        trade, common = step.trade, {"product_id": name, "time": _time(ts), "sequence": step.version}
        if channel in BOOKS:
            changes = [("buy", *level) for level in step.bids] + [("sell", *level) for level in step.asks]
            return [write({"type": "l2update", "product_id": name, "changes": changes, "time": _time(ts)})]
        if channel == "matches":
            maker = "sell" if trade.side == "buy" else "buy"
            return [write({"type": "match", **common, "trade_id": trade.number, "maker_order_id": "m",
                           "taker_order_id": "t", "side": maker, "size": trade.size,
                           "price": trade.price})]  # fmt: skip
        if channel == "heartbeat":
            return [write({"type": "heartbeat", **common, "last_trade_id": trade.number})]
        bids, asks = self.markets[name].book()
        return [write({"type": "ticker", **common, "trade_id": trade.number, "price": trade.price,
                       "last_size": trade.size, "side": trade.side, "best_bid": bids[0][0],
                       "best_bid_size": bids[0][1], "best_ask": asks[0][0], "best_ask_size": asks[0][1]})]  # fmt: skip

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:  # noqa: ARG003 - no pages
        """Answer the list of products, and that no trade is old."""
        if path == "/products":
            return [{"id": name, "base_currency": name[:-4], "quote_currency": "USD", "quote_increment": "0.1",
                     "base_increment": "0.001", "status": "online", "trading_disabled": False}
                    for name in markets]  # fmt: skip
        return [] if path.endswith("/trades") else None


def _time(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1_000_000_000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
