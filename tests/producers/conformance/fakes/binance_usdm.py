"""Binance USD-M futures: as spot, with books and best levels at one address, and trades and mark prices at another."""

from __future__ import annotations

from typing import Any

from marketdata.events import EXCLUSIONS, Liquidation
from marketdata.feed import Fetch
from tests.producers.conformance.fake_venue import PRICE, SIZE, Mark, Said, ms, write
from tests.producers.conformance.fakes.binance_spot import BinanceSpot


class BinanceUsdm(BinanceSpot):
    """One connection of either address."""

    trades = "aggTrade"
    derivative = "BTCUSDT"
    messages = ("markPrice@1s", "markPrice@1s", "forceOrder", "markPrice@1s")
    # "Trade Streams" of USD-M: `X` is the execution's type.
    marks = (
        Mark({"X": "INSURANCE_FUND"}, ("INSURANCE_FUND",), EXCLUSIONS, liquidation=True),
        Mark({"X": "ADL"}, ("ADL",), EXCLUSIONS, liquidation=True), Mark({"X": "NA"}, ("NA",), EXCLUSIONS),
        Mark({"X": "MARKET"}, ()),
    )  # fmt: skip

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return an aggregate of one trade."""
        return [self._stream(name, self.trades, {
            "e": "aggTrade", "E": ms(ts), "s": name, "a": number, "p": price, "q": SIZE, "f": number, "l": number,
            "T": ms(ts), "m": False} | fields)]  # fmt: skip

    def marked(self, name: str, number: int, ts: int, price: str, mark: Mark) -> list[bytes]:
        """Return a single execution: aggregates leave out what is no market trade."""
        return [self._stream(name, "trade", {"e": "trade", "E": ms(ts), "T": ms(ts), "s": name, "t": number, "p": price,
                                             "q": SIZE, "m": False} | mark.fields)]  # fmt: skip

    def derived(self, ts: int) -> list[Said]:
        """Return "Mark Price Stream", "Liquidation Order Streams" and "Open Interest" of its documents."""
        now, name = ms(ts), self.derivative
        mark = {"e": "markPriceUpdate", "E": now, "s": name, "p": "11794.15000000", "i": "11784.62659091",
                "P": "11784.25641265", "r": "0.00038167", "T": now + 3_600_000}  # fmt: skip
        order = {"s": name, "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "9910", "ap": "9912.5",
                 "X": "FILLED", "l": "0.010", "z": "0.010", "T": now - 1}  # fmt: skip
        forced = Liquidation(ts_event=(now - 1) * 1_000_000, side="sell", price="9912.5", size="0.010")
        priced = {"mark_price": "11794.15000000", "index_price": "11784.62659091"}
        return [
            Said({"stream": "btcusdt@markPrice@1s", "data": mark},
                 priced | {"funding_rate": "0.00038167", "next_funding_ts": (now + 3_600_000) * 1_000_000}),
            Said({"stream": "btcusdt@markPrice@1s", "data": mark | {"r": "", "T": 0}}, priced),
            Said({"stream": "btcusdt@forceOrder", "data": {"e": "forceOrder", "E": now, "o": order}},
                 {"liquidations": (forced,)}),
            Said({"openInterest": "10659.509", "symbol": name, "time": now},
                 {"open_interest": "10659.509"},
                 Fetch(f"fapi/v1/openInterest?symbol={name}", "interest", name)),
        ]  # fmt: skip

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer a book, and the last aggregates."""
        if request.purpose == "trades":
            return write([{"a": number, "p": PRICE, "q": SIZE, "f": number, "l": number, "T": ms(ts), "m": False}
                          for number in range(1, traded + 1)])  # fmt: skip
        return super().rest(request, traded, ts)
