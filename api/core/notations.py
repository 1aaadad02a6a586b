"""Finds symbols by any usual notation: `BTC-USD`, `BTC/USD`, `BTCUSD`, and as each venue writes it itself; pure."""

from __future__ import annotations

_SEPARATORS = str.maketrans("", "", "-/_: ")


class Notations:
    """The markets (venue, symbol) by their names without separators and case; one entry for each name of each."""

    def __init__(self) -> None:
        self._markets: dict[str, set[tuple[str, str]]] = {}

    def add(self, name: str, venue: str, symbol: str) -> None:
        """Note a name of a symbol at a venue."""
        self._markets.setdefault(_plain(name), set()).add((venue, symbol))

    def remove(self, name: str, venue: str, symbol: str) -> None:
        """Forget a name that a venue uses no more."""
        markets = self._markets.get(_plain(name), set())
        markets.discard((venue, symbol))
        if not markets:
            self._markets.pop(_plain(name), None)

    def symbols(self, name: str, venue: str | None = None) -> list[str]:
        """Return the symbols that a name may mean, at one venue or at any, in order."""
        found = self._markets.get(_plain(name), ())
        return sorted({symbol for each, symbol in found if venue is None or each == venue})


def _plain(name: str) -> str:
    return name.translate(_SEPARATORS).upper()
