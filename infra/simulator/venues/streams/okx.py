"""OKX v5 public streams, simulated.

Source: "OKX API guide", sections "Connect" and "Subscribe": three connections a second from one address, 480 requests
to subscribe, unsubscribe or log in an hour on one connection, and 64 KB of arguments. Each argument is answered by an
event; `error` with code 60018 for an instrument that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step
from infra.simulator.venues.streams.session import Ended, Session, read, write


class _Arg(msgspec.Struct):
    channel: str
    name: str = msgspec.field(name="instId", default="")


class _Request(msgspec.Struct):
    op: str
    args: list[_Arg] = []


class OkxSession(Session):
    """One connection."""

    limits = Limits(attempts=(3, 1), messages=(480, 3_600))

    @classmethod
    def name_of(cls, coin: str) -> str:
        """Return an instrument of the spot market."""
        return f"{coin}-USDT"

    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer each argument of a request; the text `ping` is answered with `pong`."""
        if message == b"ping":
            return [b"pong"]
        request = read(message, _Request)
        op = request.op
        if op not in {"subscribe", "unsubscribe"}:
            raise Ended(4002, "invalid request")
        answers = []
        for arg in request.args:
            channel, name = arg.channel, arg.name
            if not self.lists(channel, name):
                self.refuse(f"60018 {name}")
                msg = f"Wrong URL or channel:{channel},instId:{name} doesn't exist. Please use the correct URL."
                answers.append(write({"event": "error", "code": "60018", "msg": msg, "connId": "sim"}))
                continue
            answers.append(write({"event": op, "arg": {"channel": channel, "instId": name}, "connId": "sim"}))
            if op == "unsubscribe":
                self.subscribed.pop((channel, name), None)
                continue
            self.subscribed[channel, name] = None
            if channel.startswith("books"):
                bids, asks = self.markets[name].book()
                book = {"bids": _levels(bids), "asks": _levels(asks), "ts": _ms(ts), "checksum": 0, "prevSeqId": -1,
                        "seqId": self.markets[name].version}  # fmt: skip
                answers.append(_frame(channel, name, [book], action="snapshot"))
        return answers

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send the changes of books, the trades and the tickers."""
        if channel.startswith("books"):
            book = {"bids": _levels(step.bids), "asks": _levels(step.asks), "ts": _ms(ts), "checksum": 0,
                    "prevSeqId": step.version - 1, "seqId": step.version}  # fmt: skip
            return [_frame(channel, name, [book], action="update")]
        if channel == "trades":
            return [_frame(channel, name, [_trade(name, step)])]
        if channel == "tickers":
            bids, asks = self.markets[name].book()
            row = {"instId": name, "ts": _ms(ts), "last": step.trade.price, "bidPx": bids[0][0],
                   "bidSz": bids[0][1], "askPx": asks[0][0], "askSz": asks[0][1]}  # fmt: skip
            return [_frame(channel, name, [row])]
        return []

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer the lists of instruments and of recent trades."""
        if path == "/api/v5/public/instruments":
            listed = [{"instId": name, "instType": "SPOT", "tickSz": "0.1", "lotSz": "0.001", "minSz": "0.001",
                       "state": "live"} for name in markets]  # fmt: skip
            return {"code": "0", "msg": "", "data": listed if query.get("instType") == "SPOT" else []}
        if path == "/api/v5/market/trades":
            return {"code": "0", "msg": "", "data": []}
        return None


def _trade(name: str, step: Step) -> dict[str, str]:
    trade = step.trade
    return {"instId": name, "tradeId": str(trade.number), "px": trade.price, "sz": trade.size, "side": trade.side,
            "ts": _ms(trade.ts), "count": "1"}  # fmt: skip


def _levels(levels: list[tuple[str, str]]) -> list[list[str]]:
    return [[price, size, "0", "0" if size == "0" else "1"] for price, size in levels]


def _ms(ts: int) -> str:
    return str(ts // 1_000_000)


def _frame(channel: str, name: str, data: list[Any], **fields: Any) -> bytes:
    return write({"arg": {"channel": channel, "instId": name}, **fields, "data": data})
