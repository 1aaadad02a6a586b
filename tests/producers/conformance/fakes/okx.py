"""OKX v5: an event for each argument of a request; an error has the channel and the instrument or type in its text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from marketdata.events import Liquidation
from marketdata.feed import Fetch
from tests.producers.conformance.fake_venue import (
    ASKS,
    BIDS,
    PRICE,
    SIZE,
    Asked,
    FakeVenue,
    Fate,
    Mark,
    Said,
    ms,
    write,
)

INDEX, LIQUIDATIONS = "index-tickers", "liquidation-orders"


class Okx(FakeVenue):
    """One connection."""

    names = ("BTC-USDT", "ETH-USDT")
    book, trades = "books", "trades"
    answers_each = True
    derivative = "BTC-USD-SWAP"
    messages = ("funding-rate", "funding-rate", "mark-price", "index-tickers", "open-interest", "open-interest",
                "liquidation-orders")  # fmt: skip
    # "Trades channel": source 1 is an order of the Enhanced Liquidity Program.
    marks = (Mark({"source": "1"}, ("ELP",)), Mark({"source": "0"}, ()))

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each argument."""
        sent = {} if message == b"ping" else json.loads(message)
        return [Asked(sent["op"], arg["channel"], arg[_key(arg["channel"])]) for arg in sent.get("args", [])]

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Answer each argument by itself."""
        answers = [b"pong"] if message == b"ping" else []
        for one in self.asked(message):
            fate = fates(one)
            key = _key(one.channel)
            arg = {"channel": one.channel, key: one.name}
            if fate == "accepted":
                answers.append(write({"event": one.verb, "arg": arg, "connId": "c"}))
            elif fate == "refused":
                msg = f"Wrong URL or channel:{one.channel},{key}:{one.name} doesn't exist. Please use the correct URL."
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

    def derived(self, ts: int) -> list[Said]:
        """Return the messages of "Funding rate channel" and its neighbours, with their fields and, once, the least."""
        now, name = ms(ts), self.derivative
        due, then = now + 1_724_598, now + 1_724_598 + 28_800_000
        funding = {"formulaType": "noRate", "fundingRate": "0.0001875391284828", "fundingTime": str(due),
                   "impactValue": "", "instId": name, "instType": "SWAP", "interestRate": "",
                   "method": "current_period", "maxFundingRate": "0.00375", "minFundingRate": "-0.00375",
                   "nextFundingRate": "",
                   "nextFundingTime": str(then), "premium": "0.0001233824646391",
                   "settFundingRate": "0.0001699799259033", "settState": "settled", "ts": str(now)}  # fmt: skip
        mark = {"instType": "SWAP", "instId": name, "markPx": "42310.6", "ts": str(now)}
        index = {"instId": "BTC-USD", "idxPx": "42308.1", "high24h": "42500", "low24h": "41000.5", "open24h": "41800",
                 "sodUtc0": "41900", "sodUtc8": "42000", "ts": str(now)}  # fmt: skip
        interest = {"instId": name, "instType": "SWAP", "oi": "2216113.01000000309", "oiCcy": "22161.1301000000309",
                    "oiUsd": "1939251795.54769270396321", "ts": str(now)}  # fmt: skip
        details = [{"bkLoss": "0", "bkPx": "0.007831", "ccy": "", "posSide": "short", "side": "buy", "sz": "13",
                    "ts": str(now - 2_000)},
                   {"bkLoss": "0", "bkPx": "0.00779", "ccy": "", "posSide": "long", "side": "sell", "sz": "0.1",
                    "ts": str(now - 5_000)}]  # fmt: skip
        forced = {"details": details, "instFamily": "BTC-USD", "instId": name, "instType": "SWAP", "uly": "BTC-USD"}
        other = forced | {"instId": "IOST-USDT-SWAP", "instFamily": "IOST-USDT", "uly": "IOST-USDT"}
        return [
            Said(self._values("funding-rate", name, [funding]), {
                "funding_rate": "0.0001875391284828", "next_funding_ts": due * 1_000_000, "funding_interval": 28_800}),
            Said(self._values("funding-rate", name, [funding | {"fundingRate": "", "nextFundingTime": ""}]), {
                "next_funding_ts": due * 1_000_000}),
            Said(self._values("mark-price", name, [mark]), {"mark_price": "42310.6"}),
            Said(self._values(INDEX, "BTC-USD", [index]), {"index_price": "42308.1"}),
            Said(self._values("open-interest", name, [interest]), {
                "open_interest": "2216113.01000000309", "open_interest_value": "1939251795.54769270396321"}),
            Said(self._values("open-interest", name, [{"instId": name, "oi": "0", "ts": str(now)}]), {
                "open_interest": "0"}),
            Said(self._values(LIQUIDATIONS, "SWAP", [other, forced]), {"liquidations": tuple(
                Liquidation(ts_event=int(one["ts"]) * 1_000_000, side=one["side"], price=one["bkPx"], size=one["sz"])
                for one in reversed(details))}),
        ]  # fmt: skip

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
        return write(self._values(channel, name, data, **fields))

    def _values(self, channel: str, name: str, data: list[Any], **fields: Any) -> dict[str, Any]:
        return {"arg": {"channel": channel, _key(channel): name}, **fields, "data": data}


def _key(channel: str) -> str:
    """Return the argument by which a channel is subscribed."""
    return "instType" if channel == LIQUIDATIONS else "instId"
