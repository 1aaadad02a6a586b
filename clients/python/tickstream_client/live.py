"""The live protocol without its socket: texts in, messages and answers out.

Theory of operation. A stream is one channel of one symbol.

1. `opened` subscribes. What arrives of a channel before the server's `subscribed` belongs to nothing that was asked and
   is ignored.
2. Each stream begins with its state (`snapshot`); then `sequence` counts by one with every change. A snapshot or a
   `conflated` message restarts the count.
3. Messages have positions, which outlive the connection and the server. After a lost connection `opened` names the last
   one of each stream: the server sends exactly what came after it, or says that it cannot (`resumed`) and starts again.
4. Any other jump is a `SequenceGap`: the stream is subscribed again and silent until the server acknowledges that.
5. `not_ready` (the API is still starting) is asked again after a pause; any other refusal is the caller's to see.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import fields
from typing import Any

from tickstream_client.errors import Refused
from tickstream_client.messages import CHANNEL_OF, Message, Received, Resumed, SequenceGap, Subscription

# What later versions of the API add is ignored.
_FIELDS = tuple(each.name for each in fields(Message))
_Stream = tuple[str, str, str]
_Request = tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]


class Live:
    """One subscription, over as many connections as it takes."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._last: dict[Hashable, int] = {}
        self._positions: dict[_Stream, str] = {}
        self._silent: dict[tuple[str, str], int] = {}  # (channel, symbol) -> the request to be acknowledged first
        self._awaiting: dict[str, int] = {}  # channel -> the request to be acknowledged first
        self._requests: dict[int, _Request] = {}  # those that were not acknowledged yet
        self._next_id = 0

    def opened(self) -> list[str]:
        """Return what to send first on a new connection."""
        self._last.clear()
        self._silent.clear()
        self._awaiting.clear()
        self._requests.clear()
        symbols = self._subscription.symbols
        since = {channel: self._since(channel) for channel in self._subscription.channels}
        fresh = tuple(channel for channel, positions in since.items() if not positions)
        asked = [self._await(fresh, symbols, {})] if fresh else []
        # A position belongs to one channel.
        return asked + [self._await((channel,), symbols, found) for channel, found in since.items() if found]

    def retry(self, identity: int) -> str:
        """Return a request once more that the server could not answer yet."""
        return self._await(*self._requests.pop(identity))

    def received(self, text: str | bytes) -> Received:
        """Return what one text means. Raises Refused when the server does not accept the subscription."""
        raw: dict[str, Any] = json.loads(text)
        kind = raw["type"]
        if kind in CHANNEL_OF:
            return self._message(raw)
        if kind == "subscribed":
            self._acknowledged(raw.get("id"))
        elif kind == "resumed":
            return self._resumed(raw)
        elif kind == "error":
            if raw["code"] == "not_ready":
                return Received(retry_id=raw.get("id"))
            if raw["code"] != "slow_consumer":  # that one is followed by the end of the connection
                raise Refused(raw["code"], raw["message"])
        return Received()

    def _acknowledged(self, identity: int | None) -> None:
        self._awaiting = {channel: asked for channel, asked in self._awaiting.items() if asked != identity}
        self._silent = {key: asked for key, asked in self._silent.items() if asked != identity}
        if identity is not None:
            self._requests.pop(identity, None)

    def _resumed(self, raw: dict[str, Any]) -> Received:
        stream = (raw["channel"], raw["venue"], raw["symbol"])
        self._last.pop(stream, None)
        if not raw["recovered"]:
            self._positions.pop(stream, None)
        return Received([Resumed(*stream, recovered=raw["recovered"], messages=raw["messages"])])

    def _message(self, raw: dict[str, Any]) -> Received:
        message = Message(**{name: raw[name] for name in _FIELDS if name in raw})
        channel, symbol = message.channel, message.symbol
        if channel in self._awaiting or (channel, symbol) in self._silent:
            return Received()
        stream = (channel, message.venue, symbol)
        last = self._last.get(stream)
        restarts = last is None or message.snapshot or message.conflated or message.type == "l2_snapshot"
        if not restarts and last is not None and message.sequence != last + 1:
            return self._gap(message, last)
        self._last[stream] = message.sequence
        if message.position is not None:
            self._positions[stream] = message.position
        return Received([message])

    def _gap(self, message: Message, last: int) -> Received:
        channel, symbol = message.channel, message.symbol
        self._last.pop((channel, message.venue, symbol), None)
        # What concerns a whole connection (symbol `*`) comes with any symbol's subscription.
        symbols = (symbol,) if symbol in self._subscription.symbols else self._subscription.symbols[:1]
        asked, self._silent[channel, symbol] = self._ask((channel,), symbols, {})
        gap = SequenceGap(channel, message.venue, symbol, last + 1, message.sequence)
        return Received([gap], [asked])

    def _since(self, channel: str) -> dict[str, str]:
        """Return the last position of each stream of a channel, by symbol."""
        return {symbol: found for (each, _, symbol), found in self._positions.items() if each == channel}

    def _await(self, channels: tuple[str, ...], symbols: tuple[str, ...], since: dict[str, str]) -> str:
        """Return a request; nothing of its channels passes before it is acknowledged."""
        asked, identity = self._ask(channels, symbols, since)
        self._requests[identity] = (channels, symbols, since)
        self._awaiting |= dict.fromkeys(channels, identity)
        return asked

    def _ask(self, channels: tuple[str, ...], symbols: tuple[str, ...], since: dict[str, str]) -> tuple[str, int]:
        self._next_id += 1
        request: dict[str, Any] = {"op": "subscribe", "id": self._next_id, "channels": channels, "symbols": symbols}
        request |= {"depth": self._subscription.depth, "interval": self._subscription.interval}
        for name in ("venue", "recipe", "kind"):
            value = getattr(self._subscription, name)
            if value is not None:
                request[name] = value
        if since:
            request["since"] = since
        return json.dumps(request), self._next_id
