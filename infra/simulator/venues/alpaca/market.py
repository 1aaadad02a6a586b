"""A small seeded market of US equities as published by Alpaca: quotes, trades, bars, halts, corrections; pure.

Theory of operation. Each `step` chooses a symbol and an event, and returns its messages, with prices as decimals and
times as integer UTC nanoseconds. A trade just after the end of a minute may belong to that minute: half a minute later
its bar is published again. Corrections and cancels amend one of the last trades. Everything published is remembered, so
that history is consistent.

The flow depends only on the seed; time is an argument, used only for timestamps.
"""

from __future__ import annotations

import random
from collections import deque
from decimal import Decimal
from typing import Any

from marketdata.clock import SECOND_NS, format_rfc3339

MINUTE_NS = 60 * SECOND_NS
LATE_NS = 2 * SECOND_NS
UPDATED_NS = 30 * SECOND_NS
KEPT_MAX = 100_000
_RECENT = 20
_NEVER = 2**63

TAPES = ("C", "A", "B")
_EXCHANGES = "QVDPZ"
_HALT = {"C": ("H", "Trading Halt", "T5", "Single Stock Trading Pause In Affect")}
_RESUME = {"C": ("T", "Trading Resumption", "C11", "Trade Halt Concluded By Other Regulatory Auth,; Resume")}
_CTA_HALT = ("2", "Trading Halt", "M", "Limit Up-Limit Down (LULD) Trading Pause")
_CTA_RESUME = ("3", "Resume", "D", "News Released")

Message = dict[str, Any]


class Bar:
    """The trades of one symbol in one minute."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.trades: list[tuple[int, Decimal, int]] = []
        self.is_published = False
        self.changed = False

    @property
    def due(self) -> int | None:
        """When the bar is to be published, or published again; None where nothing is new."""
        end = self.start + MINUTE_NS
        if not self.is_published:
            return end
        return end + UPDATED_NS if self.changed else None

    def message(self, kind: str, symbol: str) -> Message:
        """Return the bar as the venue publishes it: a late trade counts at its own time."""
        ordered = sorted(self.trades, key=lambda trade: trade[0])
        prices = [price for _, price, _ in ordered]
        volume = sum(size for _, _, size in ordered)
        value = sum(price * size for _, price, size in ordered)
        return {
            "T": kind, "S": symbol, "o": prices[0], "h": max(prices), "l": min(prices), "c": prices[-1], "v": volume,
            "n": len(ordered), "vw": round(Decimal(value) / volume, 6), "t": self.start,
        }  # fmt: skip


class Stock:
    """One symbol."""

    def __init__(self, symbol: str, tape: str, cents: int) -> None:
        self.symbol = symbol
        self.tape = tape
        self.cents = cents
        self.halted = False
        self.next_id = 1
        self.recent: deque[Message] = deque(maxlen=_RECENT)
        self.bars: deque[Bar] = deque(maxlen=3)
        self.trades: dict[int, Message] = {}
        self.minutes: dict[int, Message] = {}

    @property
    def price(self) -> Decimal:
        """The current price."""
        return Decimal(self.cents) / 100


class Market:
    """Every symbol."""

    def __init__(self, symbols: tuple[str, ...], seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._due = _NEVER
        self.stocks = {
            symbol: Stock(symbol, TAPES[place % len(TAPES)], self._random.randrange(2_000, 40_000))
            for place, symbol in enumerate(symbols)
        }

    def step(self, ts: int) -> list[Message]:
        """Cause one event at this time, after the events due by the clock; return the messages."""
        stock = self._random.choice(list(self.stocks.values()))
        messages = self.tick(ts)
        chance = self._random.random()
        if stock.halted:
            return [*messages, *(self.resume(stock, ts) if chance < 0.2 else ())]
        stock.cents = max(100, stock.cents + self._random.choice((-2, -1, 0, 0, 1, 2)))
        if chance < 0.55:
            messages.append(self._quote(stock, ts))
        elif chance < 0.95:
            messages.append(self._trade(stock, ts))
        elif chance < 0.965 and stock.recent:
            messages.append(self._correction(stock, ts))
        elif chance < 0.98 and stock.recent:
            messages.append(self._cancel(stock, ts))
        elif chance > 0.99:
            messages += self.halt(stock, ts)
        return messages

    def tick(self, ts: int) -> list[Message]:
        """Return the bars that are due at this time."""
        if ts < self._due:
            return []
        messages = []
        for stock in self.stocks.values():
            for bar in stock.bars:
                if bar.due is None or ts < bar.due:
                    continue
                kind = "u" if bar.is_published else "b"
                bar.is_published, bar.changed = True, False
                messages.append(self._message(stock, bar, kind))
        dues = (bar.due for stock in self.stocks.values() for bar in stock.bars)
        self._due = min((due for due in dues if due is not None), default=_NEVER)
        return messages

    def halt(self, stock: Stock, ts: int) -> list[Message]:
        """Stop the trading of a symbol."""
        stock.halted = True
        return [self._status(stock, ts, _HALT.get(stock.tape, _CTA_HALT))]

    def resume(self, stock: Stock, ts: int) -> list[Message]:
        """Let a symbol trade again; on tape C quotes come back first."""
        stock.halted = False
        messages = [self._status(stock, ts, _RESUME.get(stock.tape, _CTA_RESUME))]
        if stock.tape == "C":
            messages.insert(
                0, self._status(stock, ts, ("Q", "Quotation Resumption", "T3", "News and Resumption Times"))
            )
        return messages

    def _quote(self, stock: Stock, ts: int) -> Message:
        spread = Decimal(self._random.randrange(1, 4)) / 100
        return {
            "T": "q", "S": stock.symbol, "bx": self._exchange(), "bp": stock.price - spread,
            "bs": self._random.randrange(1, 20), "ax": self._exchange(), "ap": stock.price + spread,
            "as": self._random.randrange(1, 20), "c": ["R"], "z": stock.tape, "t": ts,
        }  # fmt: skip

    def _trade(self, stock: Stock, ts: int) -> Message:
        into = ts % MINUTE_NS
        if into < LATE_NS and self._random.random() < 0.5:
            ts -= into + self._random.randrange(1, SECOND_NS)
        # Some trades are at a tenth of a cent, such as those of wholesalers.
        price = stock.price + (Decimal("0.001") if self._random.random() < 0.1 else 0)
        trade: Message = {
            "T": "t", "S": stock.symbol, "i": stock.next_id, "x": self._exchange(), "p": price,
            "s": self._random.randrange(1, 400), "t": ts, "c": ["@"], "z": stock.tape,
        }  # fmt: skip
        stock.next_id += 1
        stock.recent.append(trade)
        self._keep(stock, trade)
        self._count(stock, trade)
        return trade

    @staticmethod
    def _keep(stock: Stock, trade: Message) -> None:
        stock.trades[trade["i"]] = dict(trade)
        if len(stock.trades) > KEPT_MAX:
            del stock.trades[next(iter(stock.trades))]

    def _count(self, stock: Stock, trade: Message) -> None:
        start = trade["t"] - trade["t"] % MINUTE_NS
        bar = next((bar for bar in stock.bars if bar.start == start), None)
        if bar is None:
            bar = Bar(start)
            stock.bars.append(bar)
        bar.trades.append((trade["t"], trade["p"], trade["s"]))
        bar.changed = True
        if bar.due is not None:
            self._due = min(self._due, bar.due)

    def _message(self, stock: Stock, bar: Bar, kind: str) -> Message:
        message = bar.message(kind, stock.symbol)
        stock.minutes[bar.start] = message
        return message

    def _take_back(self, stock: Stock, why: str) -> Message:
        """Choose one of the last trades; history keeps it, with its amendment."""
        trade = self._random.choice(list(stock.recent))
        stock.recent.remove(trade)
        if trade["i"] in stock.trades:
            stock.trades[trade["i"]]["u"] = why
        return trade

    def _correction(self, stock: Stock, ts: int) -> Message:
        old = self._take_back(stock, "incorrect")
        new = old | {"i": stock.next_id, "p": old["p"] + Decimal("0.01"), "u": "corrected"}
        stock.next_id += 1
        self._keep(stock, new)
        return {
            "T": "c", "S": stock.symbol, "x": old["x"], "oi": old["i"], "op": old["p"], "os": old["s"], "oc": old["c"],
            "ci": new["i"], "cp": new["p"], "cs": new["s"], "cc": old["c"],
            "z": stock.tape, "t": ts,
        }  # fmt: skip

    def _cancel(self, stock: Stock, ts: int) -> Message:
        old = self._take_back(stock, "canceled")
        return {
            "T": "x", "S": stock.symbol, "i": old["i"], "x": old["x"], "p": old["p"], "s": old["s"], "a": "C",
            "z": stock.tape, "t": ts,
        }  # fmt: skip

    @staticmethod
    def _status(stock: Stock, ts: int, texts: tuple[str, str, str, str]) -> Message:
        code, message, reason, reason_message = texts
        return {
            "T": "s", "S": stock.symbol, "sc": code, "sm": message, "rc": reason, "rm": reason_message, "t": ts,
            "z": stock.tape,
        }  # fmt: skip

    def _exchange(self) -> str:
        return self._random.choice(_EXCHANGES)


def time_text(ts: int) -> str:
    """Return a time as Alpaca writes it: RFC 3339 with as many of nine digits as there are."""
    fraction = f"{ts % SECOND_NS:09d}".rstrip("0")
    return format_rfc3339(ts)[:19] + (f".{fraction}" if fraction else "") + "Z"
