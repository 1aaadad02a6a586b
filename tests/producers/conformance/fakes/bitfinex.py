"""Bitfinex v2: channels have numbers of their own, and every frame of a connection is numbered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.events import Liquidation
from tests.producers.conformance.fake_venue import PRICE, Asked, FakeVenue, Fate, Said, ms, write


class Bitfinex(FakeVenue):
    """One connection."""

    names = ("tBTCUSD", "tETHUSD")
    book, trades = "book", "trades"
    answers_first = True
    derivative = "tBTCF0:USTF0"
    messages = ("status", "status", "liquidations")

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
        if sent["event"] != "subscribe":
            return []
        kind, _, name = sent.get("key", "").partition(":")
        channel = {"deriv": "status", "liq": "liquidations"}.get(kind, sent["channel"])
        return [Asked("subscribe", channel, "" if channel == "liquidations" else name or sent["symbol"])]

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

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return an executed trade."""
        return self._frame(self.trades, name, "te", [number, ms(ts), 0.5, float(price)], ts)

    def derived(self, ts: int) -> list[Said]:
        """Return the derivatives' status and the liquidations, as "Status" and "Liquidations" place their fields."""
        now, name = ms(ts), self.derivative
        row = [now, None, 0.896, 0.771995, None, 1396531.67460709, None, now + 3_600_000, 0.0001056, 6, None,
               -0.01381344, None, None, 0.7664, None, None, 246502.09001551, None, None, None, None, 0.3]  # fmt: skip
        least = [*row[:3], None, *row[4:7], None, None, 6, None, None, None, None, 0.7664, *[None] * 8]
        forced = ["pos", 142397657, now, None, name, -2.62932, 91.583875238719, None, 1, 1, None, 112.27]
        begun = [*forced[:8], 0, 1, None, None]
        liquidation = Liquidation(ts_event=now * 1_000_000, side="buy", price="112.27", size="2.62932",
                                  liquidation_id="142397657")  # fmt: skip
        return [
            Said(self._row("status", name, row, ts), {
                "index_price": "0.771995", "next_funding_ts": (now + 3_600_000) * 1_000_000,
                "predicted_funding_rate": "0.0001056", "funding_rate": "-0.01381344", "funding_interval": 28_800,
                "mark_price": "0.7664", "open_interest": "246502.09001551"}),
            Said(self._row("status", name, least, ts), {"mark_price": "0.7664"}),
            Said(self._row("liquidations", "", [begun, forced], ts), {"liquidations": (liquidation,)}),
        ]  # fmt: skip

    def alive(self, ts: int) -> list[bytes]:
        """Return the heartbeat of each channel of best levels."""
        return [frame for channel, name in self._ids if channel == "ticker"
                for frame in self._frame(channel, name, "hb", ts)]  # fmt: skip

    def _frame(self, channel: str, name: str, *values: Any) -> list[bytes]:
        row = self._row(channel, name, *values)
        self._sequence += 1
        return [write(row)]

    def _row(self, channel: str, name: str, *values: Any) -> list[Any]:
        """Return a frame's values; those of `derived`, of which one is sent on a connection, have the next number."""
        *payload, ts = values
        return [self._ids[channel, name], *payload, self._sequence + 1, ms(ts)]
