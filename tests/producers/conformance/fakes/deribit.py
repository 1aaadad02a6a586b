"""Deribit: a request is answered with the channels that are subscribed; those that it does not list were refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.feed import Fetch
from tests.producers.conformance.fake_venue import PRICE, PRICES, Asked, FakeVenue, Fate, Mark, Said, ms, write


class Deribit(FakeVenue):
    """One connection."""

    names = ("BTC-PERPETUAL", "ETH-PERPETUAL")
    derivative = "BTC-29MAR30-50000-C"
    messages = ("ticker", "ticker")
    # "trades.(instrument_name).(interval)": block trades, combos, and whose order was a liquidation.
    marks = (
        Mark({"block_trade_id": "154"}, ("block",), PRICES), Mark({"combo_id": "BTC-FS-1"}, ("combo",)),
        Mark({"liquidation": "MT"}, ("liquidation MT",), (), liquidation=True),
    )  # fmt: skip
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

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade."""
        return [self._notify(self.trades, name, [self._trade(name, number, ts) | {"price": float(price)} | fields])]

    def derived(self, ts: int) -> list[Said]:
        """Return "ticker.(instrument_name).(interval)" of an option, and with the least that it may have."""
        greeks = {"delta": 0.55, "gamma": 0.00001, "vega": 30.1, "theta": -12.2, "rho": 8.1}
        head = {"timestamp": ms(ts), "instrument_name": self.derivative, "state": "open", "mark_price": 0.0121}
        option = head | {"index_price": 64000.5, "open_interest": 12.1, "mark_iv": 57.31, "bid_iv": 55.5,
                         "ask_iv": 60.25, "underlying_price": 64100.25, "greeks": greeks}  # fmt: skip
        return [
            Said(self._value("ticker", self.derivative, option), {
                "mark_price": "0.0121", "index_price": "64000.5", "open_interest": "12.1", "mark_iv": "0.5731",
                "bid_iv": "0.555", "ask_iv": "0.6025", "underlying_price": "64100.25", "delta": "0.55",
                "gamma": "0.00001", "vega": "30.1", "theta": "-12.2", "rho": "8.1"}),
            Said(self._value("ticker", self.derivative, head | {"current_funding": -0.00012, "bid_iv": 0.0}),
                 {"mark_price": "0.0121", "funding_rate": "-0.00012", "funding_interval": 28_800}),
        ]  # fmt: skip

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
        return write(self._value(kind, name, data))

    def _value(self, kind: str, name: str, data: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "method": "subscription",
                "params": {"channel": f"{kind}.{name}.100ms", "data": data}}  # fmt: skip
