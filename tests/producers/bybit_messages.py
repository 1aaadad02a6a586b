"""Messages of Bybit as tests make them, and what a feed makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marketdata.events import BookUpdate, Derivative
from marketdata.feed import Output, Send
from producers.venues.bybit.feed import BybitFeed
from producers.venues.bybit.names import LINEAR, SPOT
from runtime.recordings import Recorded

RECORDING = Path(__file__).resolve().parents[3] / "shared" / "recordings" / "bybit.jsonl.zst"
CONNECTIONS = {"BYBIT.ws.3": SPOT, "BYBIT.ws.2": LINEAR}  # of the recording
SYMBOLS = {(SPOT, "BTCUSDT"): "BTC-USDT", (LINEAR, "BTCUSDT"): "BTC-USDT-PERP", (LINEAR, "SOLUSDT"): "SOL-USDT-PERP"}
T0 = 1_790_000_000_000_000_000
MS = 1_790_000_000_000
SECOND = 1_000_000_000


def sent(lines: list[Recorded], topic: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (symbol, frame) of the recorded frames of a topic."""
    frames = [(CONNECTIONS[line.conn or ""], json.loads(line.data)) for line in lines if line.t == "recv"]
    return [
        (SYMBOLS[market, frame["topic"].rpartition(".")[2]], frame)
        for market, frame in frames if frame.get("topic", "").startswith(topic)
    ]  # fmt: skip


def book(kind: str, number: int, *, bids: Any = (), asks: Any = (), topic: str = "orderbook.200") -> bytes:
    """Return a book frame as the linear market writes it."""
    data = {"s": "BTCUSDT", "b": bids, "a": asks, "u": number, "seq": 1_000 + number}
    frame = {"topic": f"{topic}.BTCUSDT", "type": kind, "ts": MS, "data": data, "cts": MS}
    return json.dumps(frame, separators=(",", ":")).encode()


def orders(out: list[Output]) -> list[tuple[str, list[str]]]:
    """Return verb and topics of the messages among these outputs."""
    sent = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    return [(order["op"], order["args"]) for order in sent if "args" in order]


def acknowledge(feed: BybitFeed, out: list[Output]) -> list[Output]:
    """Answer every subscription as the venue does."""
    answers: list[Output] = []
    for order in [json.loads(o.frame) for o in out if isinstance(o, Send) and b"args" in o.frame]:
        answer = {"success": True, "ret_msg": "", "conn_id": "x", "req_id": order["req_id"], "op": order["op"]}
        answers += feed.received(json.dumps(answer).encode(), T0)
    return answers


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


def trade(number: str) -> bytes:
    """Return a frame of one trade of the linear market."""
    data = [{"T": MS, "s": "BTCUSDT", "S": "Sell", "v": "1", "p": "10", "i": number}]
    return json.dumps({"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": MS, "data": data}).encode()


def listed(*numbers: str) -> bytes:
    """Return REST's recent trades, newest first."""
    rows = [{"execId": number, "price": "10", "size": "1", "side": "Sell", "time": str(MS)} for number in numbers]
    return json.dumps({"result": {"category": "linear", "list": rows}}).encode()


def derived(out: list[Output]) -> list[Derivative]:
    """Return the derivative events among these outputs."""
    return [o for o in out if isinstance(o, Derivative)]


def ticker(kind: str, ms: int = MS, **fields: Any) -> bytes:
    """Return a ticker of the linear market, as the documents show it."""
    frame = {"topic": "tickers.BTCUSDT", "type": kind, "data": {"symbol": "BTCUSDT"} | fields, "cs": 1, "ts": ms}
    return json.dumps(frame, separators=(",", ":")).encode()


def feed_with_book() -> BybitFeed:
    """Return a feed of the linear market that has a book, numbered 10."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT",), market=LINEAR)
    assert acknowledge(feed, feed.opened(T0)) == []
    assert kinds(feed.received(book("snapshot", 10, bids=[("9", "1")], asks=[("11", "1")]), T0)) == ["snapshot"]
    return feed
