"""A small market of one symbol: a book that never crosses, and one trade each step; the same on every run.

Prices stay, sizes change: a step sets the size of one level on each side, and removes or restores the deepest level.
"""

from __future__ import annotations

from typing import NamedTuple

LEVELS = 10
Level = tuple[str, str]


def coins(count: int) -> list[str]:
    """Return this many names of three letters: BTC and ETH first."""
    letters = "ABCDEFGHIJ"
    made = (letters[n // 100] + letters[n // 10 % 10] + letters[n % 10] for n in range(count))
    return ["BTC", "ETH", *made][:count]


class Trade(NamedTuple):
    """A trade with the aggressor's side; `number` counts the symbol's trades from 1."""

    number: int
    price: str
    size: str
    side: str
    ts: int


class Step(NamedTuple):
    """What changed: new sizes of levels ("0" removes), and a trade. `version` rises by one with each step."""

    version: int
    bids: list[Level]
    asks: list[Level]
    trade: Trade
    ts: int


class Market:
    """One symbol's book and trades; `ts` is the time of the last step."""

    def __init__(self, number: int) -> None:
        middle = 1_000 + 10 * number
        self.version = 1
        self._bids = {f"{middle - step / 10:.1f}": "1.5" for step in range(1, LEVELS + 1)}
        self._asks = {f"{middle + step / 10:.1f}": "2.5" for step in range(1, LEVELS + 1)}
        self.trade: Trade | None = None
        self.ts = 0

    def book(self) -> tuple[list[Level], list[Level]]:
        """Return the levels of both sides, best first."""
        return [level for level in self._bids.items() if level[1] != "0"], [
            level for level in self._asks.items() if level[1] != "0"
        ]

    def step(self, ts: int) -> Step:
        """Change the book, trade once, and return both; `ts` is UTC nanoseconds."""
        self.version += 1
        self.ts = ts
        at = self.version % (LEVELS - 1)
        size = f"{1 + self.version % 7}.25"
        bids = self._set(self._bids, at, size)
        asks = self._set(self._asks, (at + 3) % (LEVELS - 1), size)
        buys = self.version % 2 == 0
        best = next(iter(self._asks if buys else self._bids))
        self.trade = Trade(self.version - 1, best, "0.125", "buy" if buys else "sell", ts)
        return Step(self.version, bids, asks, self.trade, ts)

    def _set(self, side: dict[str, str], at: int, size: str) -> list[Level]:
        prices = list(side)
        deepest = prices[-1]
        side[prices[at]] = size
        side[deepest] = "0" if side[deepest] != "0" else size
        return [(prices[at], size), (deepest, side[deepest])]
