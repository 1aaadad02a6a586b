"""The best bid and offer over all venues that trade the same instrument, with each venue's validity. Pure.

1. Venues trade the same instrument where base currency, quote currency, kind and expiry are equal. An instrument that
   a venue has not listed is known by its symbol alone, so it is used only where no venue lists its kind. Options and
   spreads have no consolidated market: their symbols name no single instrument across venues.
2. The best bid is the highest of the venues whose best prices are valid now, its size the sum at that price over these
   venues. A venue that is not valid is left out and named.
3. `state` says how the best prices relate: `normal`, `locked` (equal), `crossed` (a bid above another venue's ask, as
   happens between venues), `one_sided`, or `unknown` without any valid venue.

It is computed from the market's state in memory when it is asked for or a venue's best prices change. It is not a
topic: no order of events over venues is the right one, because they are in different partitions with different delays,
so a stored value would depend on timing. From `quotes`, which are stored, it can be computed for any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

import msgspec

from api.core.market import Market
from api.core.messages import Json
from api.core.symbol_state import SymbolState
from api.core.trust import Trust, fresh
from marketdata.clock import MILLISECOND_NS, format_rfc3339
from marketdata.decimals import EXACT, plain
from marketdata.events import RESYNCING

UNKNOWN_KIND = "unknown"
_WITHOUT_MARKET = frozenset({"option", "spread"})
_HALF = Decimal("0.5")

# The present by a venue and the time at which we received its value, as `api.core.clocks.Clocks.now` gives it.
Now = Callable[[str, int], int]


class Product(msgspec.Struct, frozen=True, order=True):
    """What is traded, by any venue's name for it; `expiry` is 0 for what does not expire."""

    base: str
    quote: str
    kind: str
    expiry: int = 0


class Side(msgspec.Struct, frozen=True):
    """The best price of one side, the size there over all venues, and the venues."""

    price: str
    size: str
    venues: tuple[str, ...]


class Consolidated(msgspec.Struct, frozen=True):
    """The best bid and offer of one instrument; `ts_event` is the newest time of a venue that is used."""

    product: Product
    trust: Trust
    ts_event: int
    state: str
    bid: Side | None
    ask: Side | None
    venues: tuple[tuple[SymbolState, Trust], ...]

    def is_as(self, other: Consolidated | None) -> bool:
        """Return whether a reader of the other one would learn nothing new, except about ages."""
        names = ("trust", "state", "bid", "ask", "venues")
        return other is not None and all(getattr(self, name) == getattr(other, name) for name in names)

    def data(self, now: Now) -> Json:
        """Return the JSON of all but the envelope."""
        mid = spread = None
        if self.bid is not None and self.ask is not None:
            bid, ask = Decimal(self.bid.price), Decimal(self.ask.price)
            mid, spread = plain(EXACT.multiply(EXACT.add(bid, ask), _HALF)), plain(EXACT.subtract(ask, bid))
        return {
            "kind": self.product.kind,
            "state": self.state,
            "bid": self.bid and msgspec.structs.asdict(self.bid),
            "ask": self.ask and msgspec.structs.asdict(self.ask),
            "mid": mid,
            "spread": spread,
            "venues": [_venue(state, trust, now) for state, trust in self.venues],
            "left_out": [state.venue for state, trust in self.venues if not trust.valid],
        }


def product(state: SymbolState) -> Product:
    """Return what a venue's symbol trades."""
    listed = state.instrument
    if listed is None:
        base, _, quote = state.symbol.partition("-")
        return Product(base, quote, UNKNOWN_KIND)
    return Product(listed.base_currency, listed.quote_currency, listed.kind, listed.expiry or 0)


def choices(market: Market, symbol: str, kind: str | None) -> list[Product]:
    """Return the instruments that a symbol may mean: what venues trade by this name, else by these currencies."""
    named = {product(state) for state in market.named(symbol)}
    base, _, quote = symbol.partition("-")
    alike = {product(state) for state in market.listed(base, quote)}
    for found in (named, alike) if kind is None else (named | alike,):
        fitting = {each for each in found if each.kind not in _WITHOUT_MARKET and kind in {None, each.kind}}
        known = {each for each in fitting if each.kind != UNKNOWN_KIND}
        if known or fitting:
            return sorted(known or fitting)
    return []


def members(market: Market, symbol: str, wanted: Product) -> list[SymbolState]:
    """Return the symbols with data that trade an instrument, one of each venue, by venue."""
    states = [*market.listed(wanted.base, wanted.quote), *market.named(symbol)]
    found = {state.venue: state for state in states if state.has_data and product(state) == wanted}
    return [found[venue] for venue in sorted(found)]


def consolidate(wanted: Product, states: Iterable[SymbolState], now: Now, stale_ns: int) -> Consolidated:
    """Return the best bid and offer over the symbols of several venues."""
    venues = tuple((state, _trust(state, now, stale_ns)) for state in states)
    used = [state for state, trust in venues if trust.valid]
    bid, ask = _best(used, "bid", 1), _best(used, "ask", -1)
    if bid is None and ask is None:
        reason = next((trust.reason for _, trust in venues if not trust.valid), RESYNCING)
        newest = max((state.ticker.ts_event if state.ticker else state.ts_recv for state, _ in venues), default=0)
        return Consolidated(wanted, Trust(False, reason), newest, "unknown", None, None, venues)
    state = "one_sided"
    if bid is not None and ask is not None:
        order = Decimal(bid.price).compare(Decimal(ask.price))
        state = "normal" if order < 0 else "locked" if order == 0 else "crossed"
    newest = max(each.ticker.ts_event for each in used if each.ticker)
    return Consolidated(wanted, Trust(True), newest, state, bid, ask, venues)


class Views:
    """Consolidated views that somebody follows, each a symbol and what it means."""

    def __init__(self, market: Market, now: Now, stale_ns: int) -> None:
        self._market = market
        self._now = now
        self._stale_ns = stale_ns
        self._views: dict[tuple[str, Product], Consolidated] = {}
        self._by_state: dict[SymbolState, list[tuple[str, Product]]] = {}

    def add(self, symbol: str, wanted: Product) -> None:
        """Follow a view."""
        self._views[symbol, wanted] = self._compute(symbol, wanted)
        self._watch(symbol, wanted)

    def remove(self, symbol: str, wanted: Product) -> None:
        """Follow a view no more."""
        del self._views[symbol, wanted]
        for watching in self._by_state.values():
            if (symbol, wanted) in watching:
                watching.remove((symbol, wanted))

    def get(self, symbol: str, wanted: Product) -> Consolidated:
        """Return a view as it was when it changed last."""
        return self._views[symbol, wanted]

    def changed(self, state: SymbolState) -> list[tuple[str, Product]]:
        """Return the views that a new ticker of a symbol changes."""
        return [view for view in self._by_state.get(state, ()) if self._renew(*view)]

    def renew(self) -> list[tuple[str, Product]]:
        """Return the views that time or new venues change; call it about once a second."""
        self._by_state.clear()
        for view in self._views:
            self._watch(*view)
        return [view for view in self._views if self._renew(*view)]

    def _watch(self, symbol: str, wanted: Product) -> None:
        for state in members(self._market, symbol, wanted):
            self._by_state.setdefault(state, []).append((symbol, wanted))

    def _compute(self, symbol: str, wanted: Product) -> Consolidated:
        return consolidate(wanted, members(self._market, symbol, wanted), self._now, self._stale_ns)

    def _renew(self, symbol: str, wanted: Product) -> bool:
        found = self._compute(symbol, wanted)
        if found.is_as(self._views[symbol, wanted]):
            return False
        self._views[symbol, wanted] = found
        return True


def _trust(state: SymbolState, now: Now, stale_ns: int) -> Trust:
    if state.ticker is None:
        return Trust(False, RESYNCING)
    ts_recv = state.ticker_ts_recv
    return fresh(state.ticker.trust, ts_recv, now(state.venue, ts_recv), stale_ns)


def _best(states: Iterable[SymbolState], side: str, sign: int) -> Side | None:
    """Return the best price of a side and who has it; `sign` is 1 for the highest, -1 for the lowest."""
    best: Decimal | None = None
    price, size = "", Decimal(0)
    venues: list[str] = []
    for state in states:
        data = state.ticker.data if state.ticker else {}
        text = data.get(side)
        if text is None:
            continue
        value = Decimal(text)
        order = 1 if best is None else value.compare(best) * sign
        if order > 0:
            best, price, size, venues = value, text, Decimal(0), []
        if order >= 0:
            size = EXACT.add(size, Decimal(data.get(f"{side}_size") or "0"))
            venues.append(state.venue)
    return None if best is None else Side(price, plain(size), tuple(venues))


def _venue(state: SymbolState, trust: Trust, now: Now) -> Json:
    ticker = state.ticker
    data = ticker.data if ticker else {}
    listed, ts_recv = state.instrument, state.ticker_ts_recv
    return {
        "venue": state.venue,
        "symbol": state.symbol,
        **{name: data.get(name) for name in ("bid", "bid_size", "ask", "ask_size")},
        "contract_multiplier": listed.contract_multiplier if listed else None,
        "valid": trust.valid,
        "reason": trust.reason,
        "timestamp": format_rfc3339(ticker.ts_event) if ticker else None,
        "age_ms": max(0, now(state.venue, ts_recv) - ts_recv) // MILLISECOND_NS if ticker else None,
    }
