"""OKX v5 public streams, simulated.

Source: "OKX API guide", sections "Connect" and "Subscribe": three connections a second from one address, 480 requests
to subscribe, unsubscribe or log in an hour on one connection, and 64 KB of arguments. Each argument is answered by an
event; `error` with code 60018 for an instrument that does not exist. "Funding rate channel", "Mark price channel",
"Index tickers channel", "Open interest channel" and "Liquidation orders channel": what contracts have besides.

Each pair is traded as a perpetual too, `BTC-USDT-SWAP`, whose market is the pair's own. All that a contract has is sent
with each step; at each third trade of a market its contract liquidates somebody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step
from infra.simulator.venues.streams.session import Ended, Frame, Session, read, write

SWAP = "-SWAP"
LIQUIDATIONS = "liquidation-orders"
FUNDING_MS = 28_800_000
LIQUIDATED_EVERY = 3  # trades


class _Arg(msgspec.Struct):
    channel: str
    name: str = msgspec.field(name="instId", default="")
    type: str = msgspec.field(name="instType", default="")


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
            channel, key = arg.channel, _key(arg.channel)
            name = arg.type if key == "instType" else arg.name
            if not self.lists(channel, name):
                self.refuse(f"60018 {name}")
                msg = f"Wrong URL or channel:{channel},{key}:{name} doesn't exist. Please use the correct URL."
                answers.append(write({"event": "error", "code": "60018", "msg": msg, "connId": "sim"}))
                continue
            answers.append(write({"event": op, "arg": {"channel": channel, key: name}, "connId": "sim"}))
            if op == "unsubscribe":
                self.subscribed.pop((channel, name), None)
                continue
            self.subscribed[channel, name] = None
            if channel.startswith("books"):
                market = self.markets[_pair(name)]
                bids, asks = market.book()
                book = {"bids": _levels(bids), "asks": _levels(asks), "ts": _ms(ts), "checksum": 0, "prevSeqId": -1,
                        "seqId": market.version}  # fmt: skip
                answers.append(_frame(channel, name, [book], action="snapshot"))
        return answers

    def lists(self, channel: str, name: str) -> bool:
        """Return whether a channel can be subscribed to, of an instrument, an index or a type."""
        if channel == LIQUIDATIONS:
            is_listed = name in {"SWAP", "FUTURES", "MARGIN", "OPTION"}
        elif channel in {"funding-rate", "open-interest"}:
            is_listed = name.endswith(SWAP) and _pair(name) in self.markets
        else:
            is_listed = (name if channel == "index-tickers" else _pair(name)) in self.markets
        return is_listed and not self._is_refused(channel, name)

    def stepped(self, steps: Mapping[str, Step], ts: int) -> list[Frame]:
        """Return the frames of what changed; a contract changes with its pair."""
        frames = []
        for channel, name in self.subscribed:
            if channel == LIQUIDATIONS:
                liquidated = [] if name != "SWAP" else list(_liquidated(steps))
                payloads = [_frame(channel, name, liquidated)] if liquidated else []
            else:
                payloads = self.changed(channel, name, steps[_pair(name)], ts) if _pair(name) in steps else []
            frames += [Frame(channel, name, payload) for payload in payloads]
        return frames

    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Send the changes of books, the trades, the tickers, and what a contract has."""
        if channel.startswith("books"):
            book = {"bids": _levels(step.bids), "asks": _levels(step.asks), "ts": _ms(ts), "checksum": 0,
                    "prevSeqId": step.version - 1, "seqId": step.version}  # fmt: skip
            return [_frame(channel, name, [book], action="update")]
        if channel == "trades":
            return [_frame(channel, name, [_trade(name, step)])]
        if channel == "tickers":
            bids, asks = self.markets[_pair(name)].book()
            row = {"instId": name, "ts": _ms(ts), "last": step.trade.price, "bidPx": bids[0][0],
                   "bidSz": bids[0][1], "askPx": asks[0][0], "askSz": asks[0][1]}  # fmt: skip
            return [_frame(channel, name, [row])]
        row = _contract(channel, step, ts)
        return [_frame(channel, name, [{"instId": name, **row, "ts": _ms(ts)}])] if row else []

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:
        """Answer the lists of instruments and of recent trades."""
        if path == "/api/v5/public/instruments":
            kind = query.get("instType")
            of_kind: dict[str, Any] = {"instType": kind, "tickSz": "0.1", "lotSz": "0.001", "minSz": "0.001",
                                       "state": "live"}  # fmt: skip
            listed: list[dict[str, Any]] = []
            if kind == "SPOT":
                listed = [{"instId": name, **of_kind} for name in markets]
            elif kind == "SWAP":
                listed = [{"instId": f"{name}{SWAP}", **of_kind, "ctType": "linear", "ctVal": "1", "ctMult": "1",
                           "settleCcy": "USDT", "uly": name} for name in markets]  # fmt: skip
            return {"code": "0", "msg": "", "data": listed}
        if path == "/api/v5/market/trades":
            return {"code": "0", "msg": "", "data": []}
        return None


def _trade(name: str, step: Step) -> dict[str, str]:
    trade = step.trade
    return {"instId": name, "tradeId": str(trade.number), "px": trade.price, "sz": trade.size, "side": trade.side,
            "ts": _ms(trade.ts), "count": "1"}  # fmt: skip


def _contract(channel: str, step: Step, ts: int) -> dict[str, str]:
    """Return what one channel has of a contract; nothing where there is no such channel."""
    price = step.trade.price
    due = ts // 1_000_000 // FUNDING_MS * FUNDING_MS + FUNDING_MS
    fields = {
        "mark-price": {"instType": "SWAP", "markPx": price},
        "index-tickers": {"idxPx": price},
        "open-interest": {"instType": "SWAP", "oi": str(step.version), "oiCcy": str(step.version)},
        "funding-rate": {"instType": "SWAP", "method": "current_period", "fundingRate": "0.0001",
                         "fundingTime": str(due), "nextFundingRate": "", "nextFundingTime": str(due + FUNDING_MS)},
    }  # fmt: skip
    return fields.get(channel, {})


def _liquidated(steps: Mapping[str, Step]) -> Iterator[dict[str, Any]]:
    """Yield what was liquidated of each contract."""
    for name, step in steps.items():
        trade = step.trade
        if trade.number % LIQUIDATED_EVERY == 0:
            position = "long" if trade.side == "sell" else "short"
            detail = {"bkLoss": "0", "bkPx": trade.price, "ccy": "", "posSide": position, "side": trade.side,
                      "sz": trade.size, "ts": _ms(trade.ts)}  # fmt: skip
            yield {"details": [detail], "instFamily": name, "instId": f"{name}{SWAP}", "instType": "SWAP", "uly": name}


def _pair(name: str) -> str:
    """Return the pair that an instrument follows."""
    return name.removesuffix(SWAP)


def _key(channel: str) -> str:
    """Return the argument by which a channel is subscribed."""
    return "instType" if channel == LIQUIDATIONS else "instId"


def _levels(levels: list[tuple[str, str]]) -> list[list[str]]:
    return [[price, size, "0", "0" if size == "0" else "1"] for price, size in levels]


def _ms(ts: int) -> str:
    return str(ts // 1_000_000)


def _frame(channel: str, name: str, data: list[Any], **fields: Any) -> bytes:
    return write({"arg": {"channel": channel, _key(channel): name}, **fields, "data": data})
