"""Bybit v5, spot: one answer for each message, by its number."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.events import Liquidation
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
    Said,
    ms,
    whole,
    write,
)


class Bybit(FakeVenue):
    """One connection of the spot market."""

    names = ("BTCUSDT", "ETHUSDT")
    derivative, market = "BTCUSDT", "linear"
    messages = ("tickers", "tickers", "allLiquidation")
    # "Trade" of the public channels: BT is a block trade, RPI an order of retail price improvement.
    marks = (
        Mark({"BT": True}, ("block",), PRICES), Mark({"RPI": True}, ("RPI",)),
        Mark({"BT": True, "RPI": True}, ("block", "RPI"), PRICES), Mark({"BT": False, "RPI": False}, ()),
    )  # fmt: skip
    book, trades = "orderbook.200", "publicTrade"
    refuses_whole = True

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each topic."""
        sent = json.loads(message)
        topics = [topic.rpartition(".") for topic in sent.get("args", [])]
        return [Asked(sent["op"], channel, name) for channel, _, name in topics]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer the message as a whole."""
        sent, fate = json.loads(message), whole([fates(one) for one in self.asked(message)])
        if sent["op"] == "ping":
            return [write({"success": True, "ret_msg": "pong", "conn_id": "c", "op": "ping"})]
        if fate == "unanswered":
            return []
        text = "error:handler not found" if fate == "refused" else "subscribe"
        return [write({"success": fate == "accepted", "ret_msg": text, "conn_id": "c", "req_id": sent["req_id"],
                       "op": sent["op"]})]  # fmt: skip

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        data = {"s": name, "b": BIDS, "a": ASKS, "u": 20, "seq": 30}
        return [write({"topic": f"{self.book}.{name}", "ts": ms(ts), "type": "snapshot", "data": data, "cts": ms(ts)})]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade."""
        data = [{"i": str(2_290_000_000_068_683_000 + number), "T": ms(ts), "p": price, "v": SIZE, "S": "Buy",
                 "s": name, "BT": False} | fields]  # fmt: skip
        return [write({"topic": f"{self.trades}.{name}", "ts": ms(ts), "type": "snapshot", "data": data})]

    def derived(self, ts: int) -> list[Said]:
        """Return "Ticker" of a linear contract, whole and as a change, and "All Liquidation"."""
        now, topic = ms(ts), f"tickers.{self.derivative}"
        whole_ticker = {"symbol": self.derivative, "lastPrice": "17216.00", "markPrice": "17217.33",
                        "indexPrice": "17227.36", "openInterest": "68744.761", "openInterestValue": "1183601235.91",
                        "fundingRate": "-0.000212", "nextFundingTime": str(now + 3_600_000),
                        "fundingIntervalHour": "8"}  # fmt: skip
        change = {"symbol": self.derivative, "markPrice": "17218", "openInterest": ""}
        long = {"T": now, "s": self.derivative, "S": "Buy", "v": "20000", "p": "0.04499"}
        short = long | {"S": "Sell", "p": "0.04500"}
        forced = [
            Liquidation(ts_event=now * 1_000_000, side=side, price=price, size="20000")
            for side, price in (("sell", "0.04499"), ("buy", "0.04500"))
        ]
        return [
            Said({"topic": topic, "type": "snapshot", "data": whole_ticker, "cs": 1, "ts": now}, {
                "mark_price": "17217.33", "index_price": "17227.36", "open_interest": "68744.761",
                "open_interest_value": "1183601235.91", "funding_rate": "-0.000212",
                "next_funding_ts": (now + 3_600_000) * 1_000_000, "funding_interval": 28_800}),
            Said({"topic": topic, "type": "delta", "data": change, "cs": 2, "ts": now},
                 {"mark_price": "17218"}),
            Said({"topic": f"allLiquidation.{self.derivative}", "type": "snapshot", "ts": now,
                                    "data": [long, short]}, {"liquidations": tuple(forced)}),
        ]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return the answer to a ping."""
        return [write({"success": True, "ret_msg": "pong", "conn_id": "c", "op": "ping"})]

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer the last trades."""
        if request.purpose != "trades":
            return None
        listed = [{"execId": str(2_290_000_000_068_683_000 + number), "symbol": request.symbol, "price": PRICE,
                   "size": SIZE, "side": "Buy", "time": str(ms(ts))} for number in range(1, traded + 1)]  # fmt: skip
        return write({"retCode": 0, "result": {"category": "spot", "list": listed}})
