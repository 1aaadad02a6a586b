"""Bybit v5, spot: one answer for each message, by its number."""

from __future__ import annotations

import json
from collections.abc import Callable

from marketdata.feed import Fetch
from tests.producers.conformance.voice import ASKS, BIDS, PRICE, SIZE, Asked, Fate, Voice, ms, whole, write


class Bybit(Voice):
    """One connection of the spot market."""

    names = ("BTCUSDT", "ETHUSDT")
    book, trades = "orderbook.200", "publicTrade"
    refuses_whole = True

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each topic."""
        sent = json.loads(message)
        topics = [topic.rpartition(".") for topic in sent.get("args", [])]
        return [Asked(sent["op"], channel, name) for channel, _, name in topics]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer the message as a whole."""
        sent, fate = json.loads(message), whole([fates(one) for one in self.asked(message)])
        if sent["op"] == "ping":
            return [write({"success": True, "ret_msg": "pong", "conn_id": "c", "op": "ping"})]
        if fate == "unanswered":
            return []
        text = "error:handler not found" if fate == "refused" else "subscribe"
        return [write({"success": fate == "accepted", "ret_msg": text, "conn_id": "c", "req_id": sent["req_id"],
                       "op": sent["op"]})]  # fmt: skip

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the whole book."""
        data = {"s": name, "b": BIDS, "a": ASKS, "u": 20, "seq": 30}
        return [write({"topic": f"{self.book}.{name}", "ts": ms(ts), "type": "snapshot", "data": data, "cts": ms(ts)})]

    def trade(self, name: str, number: int, ts: int) -> list[bytes]:
        """Return a trade."""
        data = [{"i": str(2_290_000_000_068_683_000 + number), "T": ms(ts), "p": PRICE, "v": SIZE, "S": "Buy",
                 "s": name, "BT": False}]  # fmt: skip
        return [write({"topic": f"{self.trades}.{name}", "ts": ms(ts), "type": "snapshot", "data": data})]

    def alive(self, ts: int) -> list[bytes]:
        """Return the answer to a ping."""
        return [write({"success": True, "ret_msg": "pong", "conn_id": "c", "op": "ping"})]

    def rest(self, request: Fetch, traded: int, ts: int) -> bytes | None:
        """Answer the last trades."""
        if request.purpose != "trades":
            return None
        listed = [{"execId": str(2_290_000_000_068_683_000 + number), "symbol": request.symbol, "price": PRICE,
                   "size": SIZE, "side": "Buy", "time": str(ms(ts))} for number in range(1, traded + 1)]  # fmt: skip
        return write({"retCode": 0, "result": {"category": "spot", "list": listed}})
