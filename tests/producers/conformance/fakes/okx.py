"""OKX v5: an event for each argument of a request; an error has the channel and the instrument in its text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.feed import Fetch
from tests.producers.conformance.fake_venue import ASKS, BIDS, PRICE, SIZE, Asked, FakeVenue, Fate, Mark, ms, write


class Okx(FakeVenue):
    """One connection."""

    names = ("BTC-USDT", "ETH-USDT")
    book, trades = "books", "trades"
    answers_each = True
    # "Trades channel": source 1 is an order of the Enhanced Liquidity Program.
    marks = (Mark({"source": "1"}, ("ELP",)), Mark({"source": "0"}, ()))

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each argument."""
        sent = {} if message == b"ping" else json.loads(message)
        return [Asked(sent["op"], arg["channel"], arg["instId"]) for arg in sent.get("args", [])]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer each argument by itself."""
        answers = [b"pong"] if message == b"ping" else []
        for one in self.asked(message):
            fate = fates(one)
            arg = {"channel": one.channel, "instId": one.name}
            if fate == "accepted":
                answers.append(write({"event": one.verb, "arg": arg, "connId": "c"}))
            elif fate == "refused":
                msg = f"Wrong URL or channel:{one.channel},instId:{one.name} doesn't exist. Please use the correct URL."
                answers.append(write({"event": "error", "code": "60018", "msg": msg, "connId": "c"}))
        return answers

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        bids, asks = ([[*level, "0", "1"] for level in side] for side in (BIDS, ASKS))
        book = {"bids": bids, "asks": asks, "ts": str(ms(ts)), "checksum": 0, "prevSeqId": -1, "seqId": 10}
        return [self._frame(self.book, name, [book], action="snapshot")]

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade."""
        return [self._frame(self.trades, name, [self._trade(name, number, ts) | {"px": price} | fields])]

    def alive(self, ts: int) -> list[bytes]:
        """Return the answer to a ping."""
        return [b"pong"]

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer the last trades, newest first."""
        if request.purpose != "trades":
            return None
        listed = [self._trade(request.symbol, number, ts) for number in range(traded, 0, -1)]
        return write({"code": "0", "msg": "", "data": listed})

    def _trade(self, name: str, number: int, ts: int) -> dict[str, str]:
        return {"instId": name, "tradeId": str(number), "px": PRICE, "sz": SIZE, "side": "buy", "ts": str(ms(ts)),
                "count": "1"}  # fmt: skip

    def _frame(self, channel: str, name: str, data: list[Any], **fields: Any) -> bytes:
        return write({"arg": {"channel": channel, "instId": name}, **fields, "data": data})
