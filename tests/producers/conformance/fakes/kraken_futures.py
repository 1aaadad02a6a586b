"""Kraken Futures: a request for several contracts is acknowledged, or refused by an error that names none of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.events import Liquidation
from tests.producers.conformance.fake_venue import PRICE, PRICES, Asked, FakeVenue, Fate, Mark, Said, ms, whole, write


class KrakenFutures(FakeVenue):
    """One connection."""

    names = ("PI_XBTUSD", "PI_ETHUSD")
    book, trades = "book", "trade"
    refuses_whole = True
    base = "XBT"
    derivative = "PI_XBTUSD"
    messages = ("ticker", "ticker", "trade")
    # "Trade": the types fill, liquidation, assignment, termination and block.
    marks = (
        Mark({"type": "liquidation"}, ("liquidation",), (), liquidation=True),
        Mark({"type": "block"}, ("block",), PRICES), Mark({"type": "assignment"}, ("assignment",), PRICES),
        Mark({"type": "termination"}, ("termination",), PRICES), Mark({"type": "fill"}, ()),
    )  # fmt: skip

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each contract."""
        sent = json.loads(message)
        return [Asked(sent["event"], sent["feed"], name) for name in sent.get("product_ids", [])]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer the request as a whole."""
        sent = json.loads(message)
        fate = whole([fates(one) for one in self.asked(message)])
        if fate == "refused":
            return [write({"event": "error", "message": "Invalid product id"})]
        return [write({**sent, "event": f"{sent['event']}d"})] if fate == "accepted" else []

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        return [write({"feed": "book_snapshot", "product_id": name, "timestamp": ms(ts), "seq": 5, "tickSize": None,
                       "bids": [{"price": 9, "qty": 1}], "asks": [{"price": 11, "qty": 2}]})]  # fmt: skip

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return all trades so far, as a subscription begins with them, newest first."""
        trades: list[Any] = [{"feed": "trade", "product_id": name, "uid": f"{name}-{one}", "side": "buy",
                              "type": "fill", "seq": one, "time": ms(ts), "qty": 0.5, "price": 10}
                             for one in range(number, 0, -1)]  # fmt: skip
        trades[0] |= {"price": float(price)} | fields
        return [write({"feed": "trade_snapshot", "product_id": name, "trades": trades})]

    def derived(self, ts: int) -> list[Said]:
        """Return "Ticker" of a perpetual and with the least that it may have, and a liquidation among the trades."""
        now, name = ms(ts), self.derivative
        head = {"time": now, "product_id": name, "feed": "ticker", "bid": 21978.5, "ask": 21987.0, "bid_size": 2536.0,
                "ask_size": 13948.0, "volume": 31403908.0, "tag": "perpetual", "pair": "XBT:USD"}  # fmt: skip
        ticker = head | {"index": 21984.54, "markPrice": 21979.68641534714, "openInterest": 30072580.0,
                         "funding_rate": -6.2604214e-11, "relative_funding_rate": -0.000001380384722222,
                         "relative_funding_rate_prediction": -0.000008047629166667,
                         "next_funding_rate_time": now + 1_800_000}  # fmt: skip
        trade = {"feed": "trade", "product_id": name, "uid": "u-1", "side": "sell", "type": "liquidation", "seq": 9,
                 "time": now, "qty": 15000, "price": 34969.5}  # fmt: skip
        forced = Liquidation(ts_event=now * 1_000_000, side="sell", price="34969.5", size="15000", liquidation_id="u-1")
        return [
            Said(ticker, {
                "mark_price": "21979.68641534714", "index_price": "21984.54", "open_interest": "30072580.0",
                "funding_rate": "-0.000001380384722222", "predicted_funding_rate": "-0.000008047629166667",
                "next_funding_ts": (now + 1_800_000) * 1_000_000}),
            Said(head | {"markPrice": 21979.5}, {"mark_price": "21979.5"}),
            Said(trade, {"liquidations": (forced,)}),
        ]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return a heartbeat."""
        return [write({"feed": "heartbeat", "time": ms(ts)})]
