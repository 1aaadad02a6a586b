"""Bitfinex v2 public streams, simulated.

Source: "Public Channels", docs.bitfinex.com/docs/ws-public: 25 channels at a time on a connection, 20 connections a
minute of one address. "Error codes": 10300 a subscription failed, 10302 an unknown channel, 10305 the limit of open
channels. "Flags": 65536 numbers every frame, 131072 sends a checksum of each book.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step
from infra.simulator.venues.streams.session import Session, read, write

NUMBERED = 65_536
CHECKED = 131_072
STAMPED = 32_768


_ECHOED = ("channel", "symbol", "prec", "freq", "len", "subId")


class _Request(msgspec.Struct):
    event: str
    channel: str = ""
    symbol: str = ""
    flags: int = 0
    cid: Any = None
    channel_id: int = msgspec.field(name="chanId", default=0)


class BitfinexSession(Session):
    """One connection; channels are numbered from 1."""

    limits = Limits(streams=25, attempts=(20, 60))

    def __init__(self, *connection: Any) -> None:
        super().__init__(*connection)
        self._ids: dict[tuple[str, str], int] = {}
        self._last_id = 0
        self._flags = 0
        self._sequence = 0

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return a trading pair."""
        return f"t{coin}USD"

    def opened(self, ts: int) -> list[bytes]:  # noqa: ARG002 - it has no time
        """Greet the client."""
        return [write({"event": "info", "version": 2, "serverId": "sim", "platform": {"status": 1}})]

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer `subscribe`, `unsubscribe`, `conf` and `ping`."""
        request = read(message, _Request)
        event = request.event
        if event == "ping":
            return [write({"event": "pong", "cid": request.cid, "ts": ts // 1_000_000})]
        if event == "conf":
            self._flags = request.flags
            return [write({"event": "conf", "status": "OK", "flags": self._flags})]
        if event == "unsubscribe":
            one = next((one for one, number in self._ids.items() if number == request.channel_id), None)
            if one is not None:
                del self.subscribed[one], self._ids[one]
            return [write({"event": "unsubscribed", "status": "OK", "chanId": request.channel_id})]
        return self._subscribe(request, read(message, dict[str, Any]), ts)

    def _subscribe(self, request: _Request, sent: dict[str, Any], ts: int) -> list[bytes]:
        channel, name = request.channel, request.symbol
        refusal = self._refusal(channel, name)
        if refusal is not None:
            code, msg = refusal
            self.refuse(f"{code} {msg}")
            named = {key: sent[key] for key in _ECHOED if key in sent}
            return [write({"event": "error", "msg": msg, "code": code, **named})]
        self.subscribed[channel, name] = None
        self._last_id += 1
        number = self._ids[channel, name] = self._last_id
        extra = {"prec": "P0", "freq": "F0", "len": "100", "subId": number} if channel == "book" else {}
        said = write({"event": "subscribed", "channel": channel, "chanId": number, "symbol": name, **extra,
                      "pair": name[1:]})  # fmt: skip
        market = self.markets[name]
        if channel == "book":
            bids, asks = market.book()
            rows = [_level(level, 1) for level in bids] + [_level(level, -1) for level in asks]
            return [said, self._frame(number, rows, ts)]
        if channel == "trades":
            trade = market.trade
            return [said, self._frame(number, [] if trade is None else [_trade(trade)], ts)]
        return [said]

    def _refusal(self, channel: str, name: str) -> tuple[int, str] | None:
        if channel not in {"book", "trades", "ticker", "status"}:
            return 10302, "channel: unknown"
        if not self.lists(channel, name):
            return 10300, "symbol: invalid"
        if (channel, name) in self.subscribed:
            return 10301, "subscribe: dup"
        return (10305, "channel: limit") if self.is_full([(channel, name)]) else None

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send each change of a level, the checksum after it, trades and tickers."""
        number, market = self._ids[channel, name], self.markets[name]
        if channel == "book":
            frames = [self._frame(number, _level(level, 1), ts) for level in step.bids]
            frames += [self._frame(number, _level(level, -1), ts) for level in step.asks]
            return [*frames, self._frame(number, checksum(market), ts, "cs")] if self._flags & CHECKED else frames
        if channel == "trades":
            return [self._frame(number, _trade(step.trade), ts, kind) for kind in ("te", "tu")]
        if channel == "ticker":
            bids, asks = market.book()
            last = float(step.trade.price)
            row = [float(bids[0][0]), float(bids[0][1]), float(asks[0][0]), float(asks[0][1]), 0, 0, last, 1, last,
                   last]  # fmt: skip
            return [self._frame(number, row, ts)]
        return []

    def _frame(self, number: int, payload: Any, ts: int, kind: str = "") -> bytes:
        frame = [number, kind, payload] if kind else [number, payload]
        if self._flags & NUMBERED:
            self._sequence += 1
            frame.append(self._sequence)
        if self._flags & STAMPED:
            frame.append(ts // 1_000_000)
        return write(frame)


def checksum(market: Market) -> int:
    """Return the signed CRC32 of the best 25 levels, bid and ask in turn."""
    bids, asks = market.book()
    parts: list[str] = []
    for at in range(25):
        parts += [_number(text) for level in bids[at : at + 1] for text in level]
        parts += [f"{'-' * place}{_number(text)}" for level in asks[at : at + 1] for place, text in enumerate(level)]
    value = crc32(":".join(parts).encode())
    return value - (1 << 32) if value >> 31 else value


def _number(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _level(level: tuple[str, str], sign: int) -> list[float | int]:
    price, size = level
    if size == "0":
        return [float(price), 0, sign]
    return [float(price), 1, sign * float(size)]


def _trade(trade: Any) -> list[float | int]:
    size = float(trade.size)
    return [trade.number, trade.ts // 1_000_000, size if trade.side == "buy" else -size, float(trade.price)]
