"""What an event must be before anything may rely on it: types, numbers, times, known instrument, tick size.

The venue's own numbers are checked as text. A whole column of prices is first matched in one go against a pattern that
holds the usual notation, the sign and (for ticks such as 0.01) the tick size; only what does not match is looked at
one by one, exactly, to find out whether it is unusual or wrong.

Theory of operation of the tick size. What we know of it may be old: a venue that changes it tells nobody.

1. A venue's own book is the truth about its book, and orders rest at prices of an older tick: levels and quotes off the
   tick are counted as `off_tick`, and go on.
2. A trade off the tick is refused with a dead letter where the venue lists that tick. That it does is the feed's to
   say: at a trade off a tick that was not listed within the last minute, it first tells an Instrument without a tick,
   by which any price is right, and asks the venue again (`producers.feed_kit.products`). That Instrument comes on a
   topic of its own: where that can be read again, it is, before a trade is refused for its tick.
3. Old trades, from history, were made with ticks that nobody remembers; theirs is not looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.decimals import EXACT, FRACTION_DIGITS_MAX, WHOLE_DIGITS_MAX, decimal
from marketdata.errors import BadEvent
from marketdata.events import (
    POSITIVE_KINDS,
    TRADE_ID_LENGTH_MAX,
    BookUpdate,
    DeadLetter,
    FeedStatus,
    Instrument,
    Quote,
    Trade,
    Trades,
)

Checked = TypeVar("Checked", BookUpdate, Quote, FeedStatus)

SIDES = frozenset({"buy", "sell", "unknown"})
ACTIONS = frozenset({"new", "correct", "cancel"})
ORIGINS = frozenset({"live", "repair", "backfill"})
KINDS = frozenset({"snapshot", "update", "clear", "heartbeat"})

_SIZES = re.compile(rf"(?:\d{{1,{WHOLE_DIGITS_MAX}}}(?:\.\d{{1,{FRACTION_DIGITS_MAX}}})?,)*", re.ASCII)

_POSITIVE = re.compile(rf"(?=[0.]*[1-9])\d{{1,{WHOLE_DIGITS_MAX}}}(?:\.\d{{1,{FRACTION_DIGITS_MAX}}})?", re.ASCII)


def number(value: object, field: str) -> Decimal:
    """Return the exact value of a decimal string within the limits.

    Raises BadEvent `bad_type`, `not_a_decimal` or `out_of_range`.
    """
    if not isinstance(value, str):
        raise BadEvent("bad_type", field, value)
    return decimal(value, field)


class Terms:
    """What the prices of one instrument must be."""

    def __init__(self, instrument: Instrument | None) -> None:
        self.instrument = instrument
        self._positive = instrument is None or instrument.kind in POSITIVE_KINDS
        tick = None if instrument is None or instrument.tick_size is None else Decimal(instrument.tick_size)
        self._tick = tick if tick is not None and tick.is_finite() and tick > 0 else None
        digits = FRACTION_DIGITS_MAX
        if self._tick is not None:
            sign, ones, exponent = self._tick.normalize().as_tuple()
            # Only a power of ten can be told by counting digits; others leave nothing to the pattern.
            digits = -int(exponent) if ones == (1,) and int(exponent) <= 0 and not sign else -1
        fraction = rf"(?:\.\d{{1,{digits}}}0{{0,20}})?" if digits > 0 else r"(?:\.0{1,20})?"
        # Possessive: trying each price's last zeros both ways would double the time with every price before a bad one.
        usual = rf"(?:(?>(?=[0.]*[1-9])\d{{1,{WHOLE_DIGITS_MAX}}}{fraction}),)*+" if digits >= 0 else r"(?!)"
        self._usual = re.compile(usual, re.ASCII)
        self._checked: dict[str, bool] = {}

    def prices(self, prices: Sequence[str], field: str) -> bool:
        """Check a column of prices; tell whether all are on the tick.

        Raises BadEvent naming the first that is wrong.
        """
        if self.are_usual(prices):
            return True
        off_tick = [price for price in prices if not self.is_on_tick(price, field)]
        return not off_tick

    def are_usual(self, prices: Sequence[str]) -> bool:
        """Tell whether prices are right and in the usual notation; others may be right as well."""
        return _matches(self._usual, prices)

    def price(self, price: str, field: str) -> None:
        """Check one price.

        Raises BadEvent `off_tick`, and what `is_on_tick` does.
        """
        if not self.is_on_tick(price, field):
            raise BadEvent("off_tick", field, price)

    def is_on_tick(self, price: str, field: str) -> bool:
        """Check one price but for its tick; tell whether it is on that.

        Raises BadEvent `bad_type`, `not_a_decimal`, `out_of_range` or `not_positive`.
        """
        checked = self._checked
        known = checked.get(price) if type(price) is str else None
        if known is not None:
            return known
        if self.are_usual((price,)):
            return True
        value = number(price, field)
        if self._positive and value <= 0:
            raise BadEvent("not_positive", field, price)
        if len(checked) >= 10_000:
            checked.clear()
        checked[price] = self._tick is None or EXACT.remainder(value, self._tick) == 0
        return checked[price]


def _matches(pattern: re.Pattern[str], column: Sequence[str]) -> bool:
    try:
        text = ",".join(column) + "," if column else ""
    except TypeError:  # one is no string
        return False
    return pattern.fullmatch(text) is not None and text.count(",") == len(column)


def _are_usual_sizes(sizes: Sequence[str]) -> bool:
    return _matches(_SIZES, sizes)


def _sizes(sizes: Sequence[str], field: str) -> None:
    if not _are_usual_sizes(sizes):
        for size in sizes:
            if number(size, field) < 0:
                raise BadEvent("negative", field, size)


def _time(ts_event: int, ts_recv: int, field: str = "ts_event") -> None:
    if type(ts_event) is not int or type(ts_recv) is not int:
        raise BadEvent("bad_type", field, ts_event)
    if ts_event < TS_MIN or ts_event > ts_recv + AHEAD_NS_MAX:
        raise BadEvent("time_out_of_bounds", field, ts_event)


def _one_of(value: str, allowed: frozenset[str], field: str) -> None:
    if value not in allowed:
        raise BadEvent(f"unknown_{field}", field, value)


def letter(
    event: Trades | BookUpdate | Quote | FeedStatus, error: BadEvent, *, stage: str = "validate", payload: bytes = b""
) -> DeadLetter:
    """Return the dead letter of an event that cannot be used; an empty payload means all of it."""
    return DeadLetter(
        venue=event.venue,
        symbol=event.symbol,
        ts_recv=event.ts_recv,
        stage=stage,
        reason=error.reason,
        detail=str(error),
        field=error.field,
        value=error.value,
        line=event.line,
        payload=payload,
    )


def part(event: Trades, trade: Trade) -> bytes:
    """Return the JSON of an event with only one of its trades: the payload of that trade's dead letter."""
    return msgspec.json.encode(msgspec.structs.replace(event, trades=(trade,)))


@runtime_checkable
class ReadsAgain(Protocol):
    """Instruments that follow a stream, of which the latest may not have been read yet."""

    def read_again(self, key: str) -> None:
        """Read the latest of a key, unless that was just done."""


class Validator:
    """Checks events against the instruments, a mapping from `venue:symbol` that its owner keeps up to date.

    An instrument that is missing is an error only where the venue has listed others: what a venue that lists nothing
    trades is not known to anyone. What goes on although it is off the tick is counted in `counts`.
    """

    def __init__(self, instruments: Mapping[str, Instrument], counts: Counter[str]) -> None:
        self._instruments = instruments
        self._counts = counts
        self._terms: dict[str, Terms] = {}
        self._old_terms: dict[str, Terms] = {}
        self._listing: tuple[int, frozenset[str]] = (0, frozenset())

    def terms(self, key: str) -> Terms:
        """Return the terms of a key.

        Raises BadEvent `unknown_instrument`.
        """
        instrument = self._instruments.get(key)
        terms = self._terms.get(key)
        if terms is None or terms.instrument is not instrument:
            terms = self._terms[key] = Terms(instrument)
        if instrument is None:
            if self._listing[0] != len(self._instruments):
                venues = frozenset(known.partition(":")[0] for known in self._instruments)
                self._listing = (len(self._instruments), venues)
            venue, _, symbol = key.partition(":")
            if venue in self._listing[1]:
                raise BadEvent("unknown_instrument", "symbol", symbol)
        return terms

    def _by_terms(self, terms: Terms, trade: Trade, event: Trades) -> Terms:
        """Check a trade; return the terms by which it is right, the latest where it is off the tick of the others.

        Raises BadEvent.
        """
        try:
            self._trade(trade, terms, event.ts_recv)
        except BadEvent as error:
            if error.reason != "off_tick" or not isinstance(self._instruments, ReadsAgain):
                raise
            self._instruments.read_again(event.key)
            terms = self.terms(event.key)
            self._trade(trade, terms, event.ts_recv)
        return terms

    def _terms_of_history(self, key: str) -> Terms:
        """Return the terms of a key without its tick size, which was another one when old trades were made."""
        now = self.terms(key).instrument
        terms = self._old_terms.get(key)
        if terms is None or (terms.instrument is None) != (now is None):
            terms = Terms(None if now is None else msgspec.structs.replace(now, tick_size=None))
            self._old_terms[key] = terms
        return terms

    def trades(self, event: Trades) -> tuple[Trades | None, list[DeadLetter]]:
        """Return the event without its bad trades (None when nothing of it can be used) and a letter for each."""
        try:
            terms = self.terms(event.key) if event.origin == "live" else self._terms_of_history(event.key)
            _time(event.ts_event, event.ts_recv)
            _one_of(event.origin, ORIGINS, "origin")
        except BadEvent as error:
            return None, [letter(event, error)]
        letters: list[DeadLetter] = []
        good: list[Trade] = []
        for trade in event.trades:
            try:
                terms = self._by_terms(terms, trade, event)
                good.append(trade)
            except BadEvent as error:
                letters.append(letter(event, error, payload=part(event, trade)))
        if not letters:
            return event, letters
        return (msgspec.structs.replace(event, trades=tuple(good)) if good else None), letters

    @staticmethod
    def _trade(trade: Trade, terms: Terms, ts_recv: int) -> None:
        _time(trade.ts_event, ts_recv)
        if trade.side not in SIDES:
            raise BadEvent("unknown_side", "side", trade.side)
        if trade.action not in ACTIONS:
            raise BadEvent("unknown_action", "action", trade.action)
        if not isinstance(trade.trade_id, str) or not 0 < len(trade.trade_id) <= TRADE_ID_LENGTH_MAX:
            raise BadEvent("bad_trade_id", "trade_id", trade.trade_id)
        if trade.action != "new" and len(trade.original_id) > TRADE_ID_LENGTH_MAX:
            raise BadEvent("bad_trade_id", "original_id", trade.original_id)
        terms.price(trade.price, "price")
        size = trade.size
        if not (type(size) is str and _POSITIVE.fullmatch(size)) and number(size, "size") <= 0:
            raise BadEvent("not_positive", "size", trade.size)

    def book(self, event: BookUpdate) -> BadEvent | None:
        """Return what is wrong with a book update, if anything; one bad level spoils all of it."""
        return _error(self._book, event)

    def _book(self, event: BookUpdate) -> None:
        terms = self.terms(event.key)
        _time(event.ts_event, event.ts_recv)
        _one_of(event.kind, KINDS, "kind")
        _one_of(event.origin, ORIGINS, "origin")
        for field, prices, sizes in (
            ("bid", event.bid_prices, event.bid_sizes),
            ("ask", event.ask_prices, event.ask_sizes),
        ):
            if len(prices) != len(sizes):
                raise BadEvent("uneven_columns", f"{field}_sizes", f"{len(prices)} prices, {len(sizes)} sizes")
            if prices:
                self._counts["off_tick"] += not terms.prices(prices, f"{field}_prices")
                _sizes(sizes, f"{field}_sizes")

    def quote(self, event: Quote) -> BadEvent | None:
        """Return what is wrong with a quote, if anything."""
        return _error(self._quote, event)

    def _quote(self, event: Quote) -> None:
        terms = self.terms(event.key)
        _time(event.ts_event, event.ts_recv)
        _one_of(event.origin, ORIGINS, "origin")
        if self._is_usual(event, terms):
            return
        for field, price in (("bid", event.bid), ("ask", event.ask), ("last", event.last)):
            if price is not None:
                self._counts["off_tick"] += not terms.is_on_tick(price, field)
        # Statistics of the venue need not fall on a tick: averages and adjusted prices are among them.
        for field in ("bid_size", "ask_size", "volume_24h"):
            value = getattr(event, field)
            if value is not None and number(value, field) < 0:
                raise BadEvent("negative", field, value)
        for field in ("high_24h", "low_24h", "change_24h"):
            value = getattr(event, field)
            if value is not None:
                number(value, field)

    @staticmethod
    def _is_usual(event: Quote, terms: Terms) -> bool:
        prices = [price for price in (event.bid, event.ask, event.last) if price is not None]
        others = (event.bid_size, event.ask_size, event.volume_24h, event.high_24h, event.low_24h)
        numbers = [value for value in others if value is not None]
        if event.change_24h is not None:
            numbers.append(event.change_24h.removeprefix("-") if type(event.change_24h) is str else event.change_24h)
        return terms.are_usual(prices) and _are_usual_sizes(numbers)

    def status(self, event: FeedStatus) -> BadEvent | None:
        """Return what is wrong with a feed status, if anything; it may be about a symbol that nobody lists."""
        return _error(self._status, event)

    @staticmethod
    def _status(event: FeedStatus) -> None:
        _time(event.ts_event, event.ts_recv)
        if not event.kind:
            raise BadEvent("unknown_kind", "kind", event.kind)


def _error(check: Callable[[Checked], None], event: Checked) -> BadEvent | None:
    try:
        check(event)
    except BadEvent as error:
        return error
    return None
