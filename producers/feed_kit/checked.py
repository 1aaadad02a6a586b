"""The best levels of a side as a venue's checksum covers them, each level's text kept until the level changes."""

from __future__ import annotations

from typing import Any

from marketdata.book import Side


class CheckedSide:
    """A side of a book, and the text `price:size` of each of its best `depth` levels."""

    __slots__ = ("_best", "_depth", "_levels", "_texts")

    def __init__(self, levels: Side, depth: int) -> None:
        self._levels = levels
        self._depth = depth
        # Few levels change at a time: the others keep their text, by the level's key, and an untouched side its list.
        self._texts: dict[Any, str] = {}
        self._best: list[str] | None = None

    def replace(self, prices: list[str], sizes: list[str]) -> None:
        """Forget every level and take these, as the side does."""
        self._levels.replace(prices, sizes)
        self._texts.clear()
        self._best = None

    def apply(self, prices: list[str], sizes: list[str]) -> None:
        """Change the side, and forget what was made of the levels that changed."""
        if not prices:
            return
        self._best = None
        forget = self._texts.pop
        for key in self._levels.apply(prices, sizes):
            forget(key, None)

    def best(self) -> list[str]:
        """Return the texts of the best levels, best first."""
        if self._best is None:
            texts = self._texts
            self._best = [texts.get(key) or self._text(key) for key in self._levels.best_keys(self._depth)]
        return self._best

    def _text(self, key: Any) -> str:
        text = self._texts[key] = ":".join(self._levels.at(key))
        return text
