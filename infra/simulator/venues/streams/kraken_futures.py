"""Kraken Futures' public feeds, simulated.

Source: "Book", "Trade" and "Ticker", docs.kraken.com/api/docs/futures-api/websocket: a request names one feed and its
products; it is answered by `subscribed`, or by `alert` or `error` with a message. "Websocket request limits",
docs.kraken.com: 100 connections, 100 requests a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step
from infra.simulator.venues.streams.session import Session, read, write

_TYPES = {"PF_": "flexible_futures", "PI_": "futures_inverse"}


class _Request(msgspec.Struct):
    event: str
    feed: str = ""
    product_ids: list[str] = []


class KrakenFuturesSession(Session):
    """One connection."""

    limits = Limits(messages=(100, 1), attempts=(100, 60))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a perpetual: an inverse one of the two best known, a linear one of the others."""
        return {"BTC": "PI_XBTUSD", "ETH": "PI_ETHUSD"}.get(coin, f"PF_{coin}USD")

    def opened(self, ts: int) -> list[bytes]:  # noqa: ARG002 - it has no time
        """Greet the client."""
        return [write({"event": "info", "version": 1})]

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer a request for one feed of several products, then send their snapshots."""
        request = read(message, _Request)
        event, feed, names = request.event, request.feed, request.product_ids
        if event == "ping":
            return [write({"event": "pong"})]
        if event not in {"subscribe", "unsubscribe"} or feed not in {"book", "trade", "ticker", "heartbeat"}:
            self.refuse(f"{event} {feed}")
            return [write({"event": "error", "message": "Invalid feed"})]
        unknown = [name for name in names if not self.lists(feed, name)]
        if unknown:
            self.refuse(f"{feed} {unknown[0]}")
            return [write({"event": "error", "message": "Invalid product id"})]
        said = {"event": f"{event}d", "feed": feed}
        if feed == "heartbeat":
            self.subscribed["heartbeat", ""] = None
            return [write(said)]
        answers = [write({**said, "product_ids": names})]
        for name in names:
            if event == "unsubscribe":
                self.subscribed.pop((feed, name), None)
                continue
            self.subscribed[feed, name] = None
            market = self.markets[name]
            if feed == "book":
                bids, asks = market.book()
                answers.append(write({"feed": "book_snapshot", "product_id": name, "timestamp": ts // 1_000_000,
                                      "seq": _number(market.version, 3), "tickSize": None, "bids": _levels(bids),
                                      "asks": _levels(asks)}))  # fmt: skip
            elif feed == "trade":
                rows = [] if market.trade is None else [_trade(name, market.trade)]
                answers.append(write({"feed": "trade_snapshot", "product_id": name, "trades": rows}))
        return answers

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send each change of a level by itself, the trades and the tickers."""
        if channel == "book":
            return _changes(name, step, ts)
        if channel == "trade":
            return [write({"feed": "trade", **_trade(name, step.trade)})]
        bids, asks = self.markets[name].book()
        return [write({"feed": "ticker", "product_id": name, "time": ts // 1_000_000,
                       "bid": float(bids[0][0]), "bid_size": float(bids[0][1]),
                       "ask": float(asks[0][0]), "ask_size": float(asks[0][1]),
                       "last": float(step.trade.price)})]  # fmt: skip

    def beats(self, ts: int) -> list[bytes]:
        """Send a heartbeat to whoever subscribed to them."""
        is_wanted = ("heartbeat", "") in self.subscribed
        return [write({"feed": "heartbeat", "time": ts // 1_000_000})] if is_wanted else []

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:  # noqa: ARG003 - one list
        """Answer the list of instruments."""
        if path.endswith("/instruments"):
            listed = [{"symbol": name, "type": _TYPES[name[:3]], "tradeable": True, "tickSize": 0.1,
                       "contractValueTradePrecision": 3, "contractSize": 1, "base": name[3:-3], "quote": "USD",
                       "pair": f"{name[3:-3]}:USD"} for name in markets]  # fmt: skip
            return {"result": "success", "instruments": listed}
        return None


def _changes(name: str, step: Step, ts: int) -> list[bytes]:
    # Four changes a step, each with a number of its own; the market's version is that of the last.
    changes = [("buy", *level) for level in step.bids] + [("sell", *level) for level in step.asks]
    return [
        write({"feed": "book", "product_id": name, "side": side, "seq": _number(step.version, at),
               "price": float(price), "qty": float(size), "timestamp": ts // 1_000_000})
        for at, (side, price, size) in enumerate(changes)
    ]  # fmt: skip


def _number(version: int, at: int) -> int:
    return (version - 1) * 4 + at + 1


def _levels(levels: list[tuple[str, str]]) -> list[dict[str, float]]:
    return [{"price": float(price), "qty": float(size)} for price, size in levels]


def _trade(name: str, trade: Any) -> dict[str, Any]:
    return {"product_id": name, "uid": f"{name}-{trade.number}", "side": trade.side, "type": "fill",
            "seq": trade.number, "time": trade.ts // 1_000_000, "qty": float(trade.size),
            "price": float(trade.price)}  # fmt: skip
