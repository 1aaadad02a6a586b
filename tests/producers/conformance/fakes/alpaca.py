"""Alpaca: after the login, each request is answered with every subscription that there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.events import EXCLUSIONS, OPEN_CLOSE
from producers.venues.alpaca.login import KeyPair
from tests.producers.conformance.fake_venue import PRICE, PRICES, Asked, FakeVenue, Fate, Mark, iso, whole, write


class Alpaca(FakeVenue):
    """One connection; quotes are the best levels, and there is no book."""

    names = ("AAPL", "MSFT")
    book, trades = "quotes", "trades"
    base = "AAPL"
    token = KeyPair("key", "secret")

    # Sale conditions of tape C ("TimeAndSale Sale Conditions", https://kb.dxfeed.com): odd lot, derivatively priced,
    # the market centre's official close.
    ordinary = ("@",)
    marks = (
        Mark({"c": ["@", "I"]}, ("@", "I"), PRICES), Mark({"c": ["@", "4"]}, ("@", "4"), (OPEN_CLOSE,)),
        Mark({"c": ["@", "M"]}, ("@", "M"), EXCLUSIONS), Mark({"c": ["@", "F"]}, ("@", "F")), Mark({"c": []}, ()),
    )  # fmt: skip

    def __init__(self) -> None:
        self._listed: dict[str, list[str]] = {}

    def greeting(self, ts: int) -> list[bytes]:
        """Return the welcome."""
        return [write([{"T": "success", "msg": "connected"}])]

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each channel and product."""
        sent = json.loads(message)
        verb = sent.pop("action")
        channels = {} if verb == "auth" else sent
        return [Asked(verb, channel, name) for channel, names in channels.items() for name in names]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Leave out of the list what is refused."""
        asked = self.asked(message)
        if not asked:
            return [write([{"T": "success", "msg": "authenticated"}])]
        if whole([fates(one) for one in asked]) == "unanswered":
            return []
        for one in asked:
            names = self._listed.setdefault(one.channel, [])
            if one.verb == "subscribe" and one.name not in names and fates(one) == "accepted":
                names.append(one.name)
            elif one.verb == "unsubscribe" and one.name in names:
                names.remove(one.name)
        listed = {key: list[str]() for key in ("trades", "quotes", "bars")} | self._listed
        return [write([{"T": "subscription", **listed}])]

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return a quote."""
        return [write([{"T": "q", "S": name, "bx": "V", "bp": 9, "bs": 1, "ax": "V", "ap": 11, "as": 2, "c": ["R"],
                        "z": "C", "t": iso(ts)}])]  # fmt: skip

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade."""
        return [write([{"T": "t", "S": name, "i": number, "x": "V", "p": float(price), "s": 0.5, "c": ["@"],
                        "z": "C", "t": iso(ts)} | fields])]  # fmt: skip
