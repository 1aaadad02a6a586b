"""Binance USD-M futures: as spot, with books and best levels at one address, and trades and mark prices at another."""

from __future__ import annotations

from marketdata.feed import Fetch
from tests.producers.conformance.voice import PRICE, SIZE, ms, write
from tests.producers.conformance.voices.binance_spot import BinanceSpot


class BinanceUsdm(BinanceSpot):
    """One connection of either address."""

    trades = "aggTrade"

    def trade(self, name: str, number: int, ts: int) -> list[bytes]:
        """Return an aggregate of one trade."""
        return [self._stream(name, self.trades, {
            "e": "aggTrade", "E": ms(ts), "s": name, "a": number, "p": PRICE, "q": SIZE, "f": number, "l": number,
            "T": ms(ts), "m": False})]  # fmt: skip

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer a book, and the last aggregates."""
        if request.purpose == "trades":
            return write([{"a": number, "p": PRICE, "q": SIZE, "f": number, "l": number, "T": ms(ts), "m": False}
                          for number in range(1, traded + 1)])  # fmt: skip
        return super().rest(request, traded, ts)
