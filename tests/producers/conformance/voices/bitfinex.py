"""Bitfinex v2: channels have numbers of their own, and every frame of a connection is numbered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.producers.conformance.voice import Asked, Fate, Voice, ms, write


class Bitfinex(Voice):
    """One connection."""

    names = ("tBTCUSD", "tETHUSD")
    book, trades = "book", "trades"
    answers_first = True

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], int] = {}
        self._last = self._sequence = 0

    def greeting(self, ts: int) -> list[bytes]:
        """Return the version of the API."""
        return [write({"event": "info", "version": 2, "serverId": "s", "platform": {"status": 1}})]

    def asked(self, message: bytes) -> list[Asked]:
        """Return the one channel that a message is about."""
        sent = json.loads(message)
        if sent["event"] == "unsubscribe":
            return [Asked("unsubscribe", *what) for what, number in self._ids.items() if number == sent["chanId"]]
        return [Asked("subscribe", sent["channel"], sent["symbol"])] if sent["event"] == "subscribe" else []

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer a subscription with a number, or an error."""
        sent = json.loads(message)
        if sent["event"] == "conf":
            return [write({"event": "conf", "status": "OK", "flags": sent["flags"]})]
        for one in self.asked(message):
            if sent["event"] == "unsubscribe":
                del self._ids[one.channel, one.name]
                return [write({"event": "unsubscribed", "status": "OK", "chanId": sent["chanId"]})]
            fate = fates(one)
            named = {key: value for key, value in sent.items() if key != "event"}
            if fate == "refused":
                return [write({"event": "error", "msg": "symbol: invalid", "code": 10300, **named})]
            if fate == "accepted":
                self._last += 1
                self._ids[one.channel, one.name] = self._last
                return [write({"event": "subscribed", "chanId": self._last, **named, "pair": one.name[1:]})]
        return []

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the levels, asks with negative amounts."""
        return self._frame(self.book, name, [[9, 1, 1], [11, 1, -2]], ts)

    def trade(self, name: str, number: int, ts: int) -> list[bytes]:
        """Return an executed trade."""
        return self._frame(self.trades, name, "te", [number, ms(ts), 0.5, 10], ts)

    def alive(self, ts: int) -> list[bytes]:
        """Return the heartbeat of each channel of best levels."""
        return [frame for channel, name in self._ids if channel == "ticker"
                for frame in self._frame(channel, name, "hb", ts)]  # fmt: skip

    def _frame(self, channel: str, name: str, *values: Any) -> list[bytes]:
        number = self._ids[channel, name]
        self._sequence += 1
        *payload, ts = values
        return [write([number, *payload, self._sequence, ms(ts)])]
