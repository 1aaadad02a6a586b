"""FIX 4.4: one request brings a symbol's book and trades, and is answered by the book or a reject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marketdata.fix.codec import Fields, decode, encode, utc
from producers.venues.fix.login import FixLogin
from tests.producers.conformance.fake_venue import ASKS, BIDS, PRICE, PRICES, SIZE, Asked, FakeVenue, Fate, Mark


class Fix(FakeVenue):
    """One session."""

    names = ("EUR/USD", "GBP/USD")
    base = "EUR"
    book = trades = "market_data"
    answers_first = True
    # "TradeCondition" (277): an average price, and a bunched one by code B.
    marks = (
        Mark({"277": "B"}, ("B",), PRICES), Mark({"277": "a"}, ("a",), PRICES), Mark({"277": "R Q"}, ("R", "Q")),
    )  # fmt: skip

    def __init__(self) -> None:
        self.token = FixLogin(senders=("US",), target="THEM", begin="FIX.4.4", heartbeat_s=30, reset=True)
        self._number = 0
        self._requests: dict[str, str] = {}

    def asked(self, message: bytes) -> list[Asked]:
        """Return the symbol of a MarketDataRequest."""
        sent = decode(message)
        if sent.kind != "V":
            return []
        return [Asked("subscribe" if sent.get(263) == "1" else "unsubscribe", self.book, sent.get(55))]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer a Logon, a TestRequest, and a request that is not possible."""
        sent = decode(message)
        if sent.kind == "A":
            return [self._write("A", [(98, "0"), (108, sent.get(108)), (141, "Y")], ts)]
        if sent.kind == "1":
            return [self._write("0", [(112, sent.get(112))], ts)]
        for one in self.asked(message):
            if one.verb == "subscribe":
                self._requests[one.name] = sent.get(262)
                if fates(one) == "refused":
                    return [self._write("Y", [(262, sent.get(262)), (281, "0"), (58, "unknown symbol")], ts)]
        return []

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return MarketDataSnapshotFullRefresh."""
        entries = [[(269, side), (270, price), (271, size)]
                   for side, levels in (("0", BIDS), ("1", ASKS)) for price, size in levels]  # fmt: skip
        group = [(268, str(len(entries))), *(field for entry in entries for field in entry)]
        return [self._write("W", [(262, self._requests[name]), (55, name), *group], ts)]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return MarketDataIncrementalRefresh with a trade."""
        entry = [(279, "0"), (269, "2"), (278, f"t{number}"), (55, name), (270, price), (271, SIZE),
                 *((int(tag), value) for tag, value in fields.items())]  # fmt: skip
        return [self._write("X", [(262, self._requests[name]), (268, "1"), *entry], ts)]

    def alive(self, ts: int) -> list[bytes]:
        """Return a Heartbeat."""
        return [self._write("0", [], ts)] if self._number else []

    def _write(self, kind: str, fields: Fields, ts: int) -> bytes:
        self._number += 1
        head = [(35, kind), (49, "THEM"), (56, "US"), (34, str(self._number)), (52, utc(ts))]
        return encode("FIX.4.4", [*head, *fields])
