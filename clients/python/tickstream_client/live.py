"""The live protocol without its socket: texts in, messages and answers out.

Theory of operation. A stream is one channel of one symbol.

1. `opened` subscribes. What arrives before the server's `subscribed` belongs to nothing that was asked and is ignored.
2. Each stream begins with its state (`snapshot`); then `sequence` counts by one with every change. A snapshot or a
   `conflated` message restarts the count.
3. Any other jump is a `SequenceGap`: the stream is subscribed again and silent until the server acknowledges that.
4. `not_ready` (the API is still starting) is asked again after a pause; any other refusal is the caller's to see.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import fields
from typing import Any

from tickstream_client.errors import Refused
from tickstream_client.messages import CHANNEL_OF, Message, Received, SequenceGap, Subscription

# What later versions of the API add is ignored.
_FIELDS = tuple(each.name for each in fields(Message))


class Live:
    """One connection's worth of one subscription; starts again with each `opened`."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._last: dict[Hashable, int] = {}
        self._silent: dict[tuple[str, str], int] = {}  # (channel, symbol) -> the request to be acknowledged first
        self._awaiting: int | None = None
        self._next_id = 0

    def opened(self) -> str:
        """Return what to send first."""
        self._last.clear()
        self._silent.clear()
        return self.again()

    def again(self) -> str:
        """Return the whole subscription once more."""
        asked, self._awaiting = self._ask("subscribe", self._subscription.channels, self._subscription.symbols)
        return asked

    def received(self, text: str | bytes) -> Received:
        """Return what one text means. Raises Refused when the server does not accept the subscription."""
        raw: dict[str, Any] = json.loads(text)
        if raw["type"] in CHANNEL_OF:
            return self._message(raw)
        if raw["type"] == "subscribed":
            if raw.get("id") == self._awaiting:
                self._awaiting = None
            self._silent = {key: asked for key, asked in self._silent.items() if asked != raw.get("id")}
        elif raw["type"] == "error":
            if raw["code"] == "not_ready":
                return Received(retry_id=raw.get("id"))
            if raw["code"] != "slow_consumer":  # that one is followed by the end of the connection
                raise Refused(raw["code"], raw["message"])
        return Received()

    def _message(self, raw: dict[str, Any]) -> Received:
        message = Message(**{name: raw[name] for name in _FIELDS if name in raw})
        channel, symbol = message.channel, message.symbol
        if self._awaiting is not None or (channel, symbol) in self._silent:
            return Received()
        stream = (channel, message.venue, symbol)
        last = self._last.get(stream)
        restarts = last is None or message.snapshot or message.conflated or message.type == "l2_snapshot"
        if not restarts and last is not None and message.sequence != last + 1:
            return self._gap(message, last)
        self._last[stream] = message.sequence
        return Received([message])

    def _gap(self, message: Message, last: int) -> Received:
        channel, symbol = message.channel, message.symbol
        self._last.pop((channel, message.venue, symbol), None)
        # What concerns a whole connection (symbol `*`) comes with any symbol's subscription.
        symbols = (symbol,) if symbol in self._subscription.symbols else self._subscription.symbols[:1]
        asked, self._silent[channel, symbol] = self._ask("subscribe", (channel,), symbols)
        gap = SequenceGap(channel, message.venue, symbol, last + 1, message.sequence)
        return Received([gap], [asked])

    def _ask(self, op: str, channels: tuple[str, ...], symbols: tuple[str, ...]) -> tuple[str, int]:
        self._next_id += 1
        request: dict[str, Any] = {"op": op, "id": self._next_id, "channels": channels, "symbols": symbols}
        request |= {"depth": self._subscription.depth, "interval": self._subscription.interval}
        for name in ("venue", "recipe", "kind"):
            value = getattr(self._subscription, name)
            if value is not None:
                request[name] = value
        return json.dumps(request), self._next_id
