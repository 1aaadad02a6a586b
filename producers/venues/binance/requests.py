"""What Binance's live feed requests over REST: products, whole books, trades that may be missing, open interest.

Documents: "Market Data endpoints" of binance-spot-api-docs, and "Market Data" of derivatives/usds-margined-futures, at
https://developers.binance.com/docs/. The weights are those of the market.
"""

from __future__ import annotations

from collections.abc import Iterator

from marketdata.clock import MINUTE_NS
from marketdata.feed import Fetch
from producers.venues.binance.markets import AGG_TRADE, Market
from producers.venues.kit.trade_ids import TradeIds


def products(market: Market) -> Fetch:
    """Return the request of every product."""
    return Fetch(f"{market.rest}/exchangeInfo", "products", weight=market.products_weight)


def book(market: Market, name: str, products: int) -> Fetch:
    """Return the request of a whole book, with as many levels as the weight of so many products allows."""
    levels, weight = market.snapshot(products)
    return Fetch(f"{market.rest}/depth?symbol={name}&limit={levels}", "snapshot", name, weight)


def trades(market: Market, name: str, kind: str, ids: TradeIds) -> Fetch:
    """Return the request of the last trades; of aggregated ones, of those from the first missing id on."""
    if kind != AGG_TRADE:
        return Fetch(f"{market.rest}/trades?symbol={name}&limit=1000", "trades", name, market.trades_weight)
    first = ids.skipped[0][0] if ids.skipped else None if ids.last is None else ids.last + 1
    since = "" if first is None else f"&fromId={first}"
    path = f"{market.rest}/aggTrades?symbol={name}{since}&limit=1000"
    return Fetch(path, "trades", name, market.agg_trades_weight)


class InterestTurns:
    """Whose open interest is requested when: one product after the other, each once a minute."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._ts = self._turn = 0

    def begin(self, ts: int) -> None:
        """Begin with a connection; the first turn comes one pause later."""
        self._ts = ts

    def due(self, ts: int, names: tuple[str, ...]) -> Iterator[Fetch]:
        """Yield the requests of the products whose turn has come."""
        pause = MINUTE_NS // len(names)
        turns = min((ts - self._ts) // pause, len(names))
        if turns:
            self._ts = max(self._ts + turns * pause, ts - pause)
        for turn in range(self._turn, self._turn + turns):
            name = names[turn % len(names)]
            yield Fetch(f"{self._market.rest}/openInterest?symbol={name}", "interest", name,
                        self._market.interest_weight)  # fmt: skip
        self._turn += turns
