"""The state of every market, pure: events in, changes out; no clock, no Kafka, no sockets.

Theory of operation. `Market.apply` takes one event of the public topics and returns what changed, in order. A book
follows the rules of its stream:

1. A snapshot replaces the book. A clear makes it unknown and invalid until the next snapshot.
2. An update of an unknown book is ignored and counted. Others are applied; a book that is then crossed is invalid.
3. A heartbeat, or an update without levels, changes nothing but the time and the validity.

Trust has two parts: what the stream says (`valid`, `reason`), and age, which only who reads can judge: `fresh` takes
the reader's clock. Everything is bounded: trades, anomalies, candles and views a symbol, and the number of symbols.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from api.core.changes import (
    AnomalyFound,
    BookChanged,
    CandleChanged,
    Change,
    DerivativeChanged,
    MetricsChanged,
    StatusChanged,
    TickerChanged,
    Traded,
)
from api.core.depth import Edges
from api.core.derivatives import DerivativeState
from api.core.notations import Notations
from api.core.statistics import INTERVAL as STATISTICS_INTERVAL
from api.core.symbol_state import (
    TRADES_MAX,
    BookState,
    NumberedAnomaly,
    NumberedCandle,
    NumberedMetrics,
    NumberedStatus,
    NumberedTrade,
    SymbolState,
    place_of,
)
from api.core.ticker import amend, last_trade, merge_ticker
from api.core.trust import TRUSTED, Trust
from marketdata.book import Level
from marketdata.book_state import BooksState
from marketdata.events import (
    ALL_SYMBOLS,
    CROSSED,
    RESYNCING,
    Anomaly,
    AnyEvent,
    BookUpdate,
    Candle,
    Derivative,
    FeedStatus,
    Instrument,
    Metrics,
    Quote,
    RawFrame,
    Trades,
)
from marketdata.recipes import Recipe

SYMBOLS_MAX = 20_000
ANOMALIES_MAX = 200
CANDLES_MAX = 10

# Intervals of a symbol's bars by recipe, and names of recipes, that are kept.
RECIPES_KEPT_MAX = 64


class Market:
    """Every symbol's state; `ignored` counts, by reason, what could not be used.

    `recipes` maps the names of recipes to the intervals of their bars: those given, and those of bars that were read.
    """

    def __init__(self, recipes: Iterable[Recipe] = ()) -> None:
        self.recipes = {recipe.name: recipe.interval for recipe in recipes}
        self._states: dict[tuple[str, str], SymbolState] = {}
        self._venues: dict[str, list[str]] = {}
        self.notations = Notations()
        self._listed: dict[tuple[str, str], dict[SymbolState, None]] = {}
        self.ignored: dict[str, int] = {}

    def find(self, venue: str, symbol: str) -> SymbolState | None:
        """Return a symbol's state, or None when nothing is known of it."""
        return self._states.get((venue, symbol))

    def venues_of(self, symbol: str) -> list[str]:
        """Return the venues that trade a symbol; those with data before those that only list it."""
        venues = self._venues.get(symbol, [])
        with_data = [venue for venue in venues if self._states[venue, symbol].has_data]
        return with_data or venues

    def named(self, symbol: str) -> list[SymbolState]:
        """Return the states of a symbol, one of each venue."""
        return [self._states[venue, symbol] for venue in self._venues.get(symbol, [])]

    def listed(self, base: str, quote: str) -> list[SymbolState]:
        """Return the states of every symbol that a venue has listed with these currencies."""
        return list(self._listed.get((base, quote), ()))

    def states(self) -> Iterator[SymbolState]:
        """Return every state, those of whole connections (symbol `*`) included."""
        return iter(self._states.values())

    def symbols(self) -> list[str]:
        """Return every symbol known, without an order."""
        return [symbol for symbol in self._venues if symbol != ALL_SYMBOLS]

    def apply(self, event: AnyEvent, offset: int = 0, epoch: str = "") -> list[Change]:
        """Take an event in and return what changed; `offset` is its place in its partition, which `epoch` names."""
        state = None if isinstance(event, RawFrame) else self.state(event.venue, event.symbol)
        if state is None:
            return []
        state.messages += 1
        if epoch:
            state.epochs[event.schema] = epoch
        match event:
            case BookUpdate():
                state.book.offset = offset
                changes = self._book_update(state, event)
            case Quote():
                changes = self._quote(state, event)
            case Trades() | Metrics() | Derivative() | Candle() | Anomaly() | FeedStatus():
                changes = self._placed(state, event, offset)
            case Instrument():
                changes = self._instrument(state, event)
            case _:
                self._ignore("unexpected_event")
                changes = []
        return changes

    def restore(self, venue: str, symbol: str, saved: BooksState) -> None:
        """Take in a book as the pipeline saved it; the market keeps `saved.book`."""
        state = self.state(venue, symbol)
        if state is None:
            return
        book = state.book
        book.book = saved.book
        book.known = saved.updates > 0
        book.trust = Trust(not saved.reason, saved.reason)
        book.ts_event, book.ts_recv = saved.ts_event, saved.ts_recv
        book.line, book.sequence = saved.line, saved.sequence
        book.levels_changed += 1

    def invalidate(self, venue: str, symbol: str, reason: str) -> None:
        """Clear a book until its next snapshot: it cannot be known before."""
        state = self.state(venue, symbol)
        if state is not None:
            state.book.book.clear()
            state.book.known = False
            state.book.trust = Trust(False, reason)
            state.book.levels_changed += 1

    def state(self, venue: str, symbol: str) -> SymbolState | None:
        """Return a symbol's state, made when there is none yet; None when there are too many already."""
        state = self._states.get((venue, symbol))
        if state is None:
            if len(self._states) >= SYMBOLS_MAX:
                self._ignore("too_many_symbols")
                return None
            state = self._states[venue, symbol] = SymbolState(venue, symbol)
            self._venues.setdefault(symbol, []).append(venue)
            self._venues[symbol].sort()
            self.notations.add(symbol, venue, symbol)
        return state

    def _ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def _book_update(self, state: SymbolState, event: BookUpdate) -> list[Change]:
        book, before = state.book, state.book.trust
        if event.kind == "update" and not book.known:
            self._ignore("delta_before_snapshot")
            return []
        book.ts_event, book.ts_recv, book.line = event.ts_event, event.ts_recv, event.line
        if event.sequence is not None:
            book.sequence = event.sequence
        views: dict[int, tuple[list[Level], list[Level]]] | None = {}
        if event.kind == "snapshot":
            book.book.bids.replace(event.bid_prices, event.bid_sizes)
            book.book.asks.replace(event.ask_prices, event.ask_sizes)
            book.known, views = True, None
            book.levels_changed += 1
        elif event.kind == "clear":
            book.book.clear()
            book.known = False
            book.levels_changed += 1
        elif event.bid_prices or event.ask_prices:
            views = _apply_levels(state, event)
        book.trust = _book_trust(book, event)
        changes: list[Change] = []
        if views is None or views or book.trust != before:
            changes.append(BookChanged(state, views, book.trust != before))
            if book.trust != before:
                changes += self._renew_ticker(state)
        return changes

    def _quote(self, state: SymbolState, event: Quote) -> list[Change]:
        if event.source == "book":
            state.book_quote = event
        else:
            state.venue_quote = event
        return self._renew_ticker(state)

    def _trades(self, state: SymbolState, event: Trades, offset: int) -> list[Change]:
        trust = Trust(event.valid, event.reason)
        if event.ts_recv >= state.trades_ts_recv:
            state.trades_trust = trust
            state.trades_ts_event, state.trades_ts_recv = event.ts_event, event.ts_recv
        new: list[NumberedTrade] = []
        for item, trade in enumerate(event.trades):
            if state.trades_floor < 0:
                state.trades_floor = trade.ts_event
            if len(state.trades) == TRADES_MAX:
                state.trades_floor = max(state.trades_floor, state.trades[0].trade.ts_event)
            if event.origin == "live":
                state.trade_number += 1
            numbered = NumberedTrade(state.trade_number, offset, item, trade, trust, event.ts_recv)
            state.trades.append(numbered)
            new.append(numbered)
            if trade.action != "new":
                amend(state, trade)
            elif state.last is None or trade.ts_event >= state.last.ts_event:
                state.last = last_trade(state, trade) or state.last
        # Repaired and backfilled trades are history: they are read over REST, and are not published live.
        live: list[Change] = [Traded(state, new)] if new and event.origin == "live" else []
        return live + self._renew_ticker(state) if new else []

    def _candle(self, state: SymbolState, event: Candle, offset: int) -> list[Change]:
        if event.interval not in state.candles and not self._begin_interval(state, event):
            return []
        if event.interval == STATISTICS_INTERVAL:
            state.day.add(event)
        kept, place = state.candles[event.interval], place_of(event)
        if event.origin == "backfill" and place not in kept:
            return []  # years of history are not live; REST reads them from the database
        if place not in kept and len(kept) >= CANDLES_MAX:
            oldest = min(kept)
            if place < oldest:
                return []
            del kept[oldest]
        state.candle_numbers[event.interval] += 1
        kept[place] = candle = NumberedCandle(state.candle_numbers[event.interval], offset, event)
        return [CandleChanged(state, candle)]

    def _begin_interval(self, state: SymbolState, event: Candle) -> bool:
        """Prepare a symbol for the first bar of a recipe; False when it is of none, or there are too many."""
        if not event.recipe:
            self._ignore("unknown_interval")
            return False
        if len(state.candles) >= RECIPES_KEPT_MAX or len(self.recipes) >= RECIPES_KEPT_MAX:
            self._ignore("too_many_recipes")
            return False
        state.candles[event.interval] = {}
        state.candle_numbers[event.interval] = 0
        self.recipes[event.recipe] = event.interval
        return True

    def _anomaly(self, state: SymbolState, event: Anomaly, offset: int) -> list[Change]:
        state.anomaly_number += 1
        found = NumberedAnomaly(state.anomaly_number, offset, event)
        state.anomalies.pop(event.anomaly_id, None)
        state.anomalies[event.anomaly_id] = found
        if len(state.anomalies) > ANOMALIES_MAX:
            del state.anomalies[next(iter(state.anomalies))]
        return [AnomalyFound(state, found)]

    def _status(self, state: SymbolState, event: FeedStatus, offset: int) -> list[Change]:
        state.status_number += 1
        status = NumberedStatus(state.status_number, offset, event)
        state.statuses.append(status)
        return [StatusChanged(state, status)]

    def _instrument(self, state: SymbolState, event: Instrument) -> list[Change]:
        before, state.instrument = state.instrument, event
        if before is not None:
            self._listed[before.base_currency, before.quote_currency].pop(state, None)
            if before.venue_symbol != event.venue_symbol:
                self.notations.remove(before.venue_symbol, event.venue, event.symbol)
        self.notations.add(event.venue_symbol, event.venue, event.symbol)
        self.notations.add(event.symbol, event.venue, event.symbol)
        self._listed.setdefault((event.base_currency, event.quote_currency), {})[state] = None
        return []

    def _placed(
        self, state: SymbolState, event: Trades | Metrics | Derivative | Candle | Anomaly | FeedStatus, offset: int
    ) -> list[Change]:
        """Take in an event that messages name by its place in its partition."""
        match event:
            case Trades():
                changes = self._trades(state, event, offset)
            case Derivative():
                changes = self._derivative(state, event, offset)
            case Candle():
                changes = self._candle(state, event, offset)
            case Anomaly():
                changes = self._anomaly(state, event, offset)
            case FeedStatus():
                changes = self._status(state, event, offset)
            case Metrics():
                number = state.metrics.number + 1 if state.metrics else 1
                state.metrics = NumberedMetrics(number, offset, event)
                changes = [MetricsChanged(state, state.metrics)]
        return changes

    def _derivative(self, state: SymbolState, event: Derivative, offset: int) -> list[Change]:
        if state.derivative is None:
            state.derivative = DerivativeState()
        numbered = state.derivative.add(event, offset)
        return [DerivativeChanged(state, numbered)] if event.origin == "live" else []

    def _renew_ticker(self, state: SymbolState) -> list[Change]:
        ticker = merge_ticker(state)
        before = state.ticker
        state.ticker = ticker
        if ticker is None or (before is not None and before.trust == ticker.trust and before.data == ticker.data):
            return []
        state.ticker_number += 1
        return [TickerChanged(state)]


def _apply_levels(state: SymbolState, event: BookUpdate) -> dict[int, tuple[list[Level], list[Level]]]:
    book = state.book.book
    edges = [Edges(book, depth) for depth in state.depths]
    book.bids.apply(event.bid_prices, event.bid_sizes)
    book.asks.apply(event.ask_prices, event.ask_sizes)
    state.book.levels_changed += 1
    views: dict[int, tuple[list[Level], list[Level]]] = {}
    for edge in edges:
        bids, asks = edge.changes(book, event.bid_prices, event.ask_prices)
        if bids or asks:
            views[edge.depth] = (bids, asks)
    return views


def _book_trust(book: BookState, event: BookUpdate) -> Trust:
    if event.kind == "clear":
        return Trust(False, event.reason or RESYNCING)
    if not book.known:
        return book.trust
    if not event.valid:
        return Trust(False, event.reason or RESYNCING)
    return Trust(False, CROSSED) if book.book.is_crossed() else TRUSTED
