"""The market data of Databento's records: each kind is read here, for books, trades, quotes or bars.

DOCS is Databento's "Schemas" (https://databento.com/docs); CHECKED is what recordings of CME and NASDAQ showed.

1. `mbp-1`, `tbbo`, `bbo` and the consolidated ones: the best bid and offer. As with orders, it counts after F_LAST: a
   trade comes before its effect (CHECKED). `tbbo` contains the quote before the trade.
2. The time of a sampled quote's event is that of the last trade, if there was one: the quote is of its time of receipt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from marketdata import dbn
from marketdata.errors import BadEvent
from marketdata.events import GAP
from producers.venues.databento.books import CHANGES, CLEAR, FILL, NONE, TRADE, Books
from producers.venues.databento.records import time_of
from producers.venues.databento.state import BOOK, State, TradeOrQuote
from producers.venues.databento.symbols import Symbols
from producers.venues.databento.ticks import Ticks
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger

# Kinds whose records are samples of a state; those without a sequence.
_SAMPLED = frozenset({dbn.BBO_1S, dbn.BBO_1M, dbn.CBBO_1S, dbn.CBBO_1M})
_CONSOLIDATED = frozenset({dbn.CMBP_1, dbn.TCBBO, dbn.CBBO_1S, dbn.CBBO_1M})

Reader = Callable[[Call, bytes, int], None]
"""Takes the record that begins at a place of a frame. Raises BadEvent."""


class MarketRecords:
    """Reads the records of one line. `is_sampled`: quotes of mbp-1 are those before a trade (`tbbo`).

    `ts_newest` is the newest time of a record, in UTC nanoseconds.
    """

    def __init__(
        self, *, counts: Counter[str], prices: dbn.Prices, symbols: Symbols, ledger: Ledger, books: Books, ticks: Ticks,
        is_new: Callable[[Call, State, int, int], bool],
    ) -> None:  # fmt: skip
        """Make the readers; `is_new` notes how far the records of an instrument's kind were read."""
        self._counts = counts
        self._prices = prices
        self._symbols = symbols
        self._ledger = ledger
        self._books = books
        self._ticks = ticks
        self._is_new = is_new
        self.is_sampled = False
        self.ts_newest: int | None = None
        self.readers: dict[int, Reader] = {
            dbn.MBO: self._order,
            dbn.TRADE: self._trade_alone,
            dbn.MBP_1: self._best,
            dbn.TBBO: self._best_before_trade,
            dbn.CMBP_1: self._best,
            dbn.TCBBO: self._best_before_trade,
            dbn.MBP_10: self._ten_levels,
            **dict.fromkeys(_SAMPLED, self._best_sampled),
            **dict.fromkeys((dbn.OHLCV_1M, dbn.OHLCV_1H, dbn.OHLCV_1D), self._bar),
        }

    def advance(self, call: Call, ts: int) -> None:
        """Note the time of a record, in UTC nanoseconds."""
        call.now = ts
        if self.ts_newest is None or ts > self.ts_newest:
            self.ts_newest = ts

    def _order(self, call: Call, frame: bytes, at: int) -> None:
        (_, _, publisher, number, ts, order_id, price, size, flags, _, action, side, ts_recv, _, sequence) = (
            dbn.ORDER.unpack_from(frame, at)
        )
        if ts > dbn.INT64_MAX:
            ts = time_of(ts_recv)
        instrument = self._symbols.instruments.get(publisher << 32 | number)
        if instrument is None or ts_recv >= instrument.until:
            instrument = self._symbols.find(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        self._books.follow_first_snapshots(call, instrument, flags, action, ts_recv)
        if not flags & dbn.SNAPSHOT:
            call.venue_time(ts, "ts_event")
            if not self._is_new(call, instrument, dbn.MBO, ts):
                return
            self.advance(call, ts)
            call.sequence = sequence
        instrument.begun = True
        if action in CHANGES:
            self._books.change(call, instrument, flags, action, (order_id, side, price, size))
        elif action == TRADE:
            self._ticks.trade(call, instrument, TradeOrQuote(ts, price, size, action, side, flags, sequence))
        elif action not in {FILL, NONE}:
            raise BadEvent("unknown_action", "action", action)
        if flags & dbn.MAYBE_BAD_BOOK and not flags & dbn.SNAPSHOT and action != CLEAR:
            self._books.wrong(call, instrument, "the venue's gateway lost something: maybe_bad_book")
        instrument.ts_book = max(instrument.ts_book, ts) if instrument.loading else ts
        if flags & dbn.LAST:
            self._books.publish(call, instrument, flags)

    def _ten_levels(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best ten levels of both sides, and a trade."""
        instrument, sent = self._read(call, frame, at)
        if instrument is None:
            return
        if sent.action == TRADE:
            self._ticks.trade(call, instrument, sent)
        if sent.flags & dbn.MAYBE_BAD_BOOK:
            if instrument.product.book_valid:
                self._counts["gaps"] += 1
                self._ledger.lose(call, instrument.product, GAP, {BOOK}, detail="maybe_bad_book")
            instrument.fresh = True
        elif sent.flags & dbn.LAST:
            sides = dbn.LEVELS_10.unpack_from(frame, at + dbn.TRADE_BODY.size)
            bids = {
                price: size for price, size in zip(sides[::4], sides[2::4], strict=True) if price != dbn.UNDEF_PRICE
            }
            asks = {
                price: size for price, size in zip(sides[1::4], sides[3::4], strict=True) if price != dbn.UNDEF_PRICE
            }
            self._books.publish_levels(call, instrument, sent.ts, bids, asks)

    def _read(self, call: Call, frame: bytes, at: int) -> tuple[State | None, TradeOrQuote]:
        """Read what most kinds begin with; no instrument when the record was read on an earlier connection."""
        _, kind, publisher, number, ts, price, size, action, side, flags, _, ts_recv, _, sequence = (
            dbn.TRADE_BODY.unpack_from(frame, at)
        )
        if kind in _SAMPLED or ts > dbn.INT64_MAX:
            ts = time_of(ts_recv)  # the time of the event is that of the last trade, if there was one
        instrument = self._symbols.find(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        sent = TradeOrQuote(call.venue_time(ts, "ts_event"), price, size, action, side, flags, sequence)
        if kind not in _SAMPLED and not self._is_new(call, instrument, kind, ts):
            return None, sent
        self.advance(call, ts)
        call.sequence = sequence if kind not in _CONSOLIDATED else None
        return instrument, sent

    def _trade_alone(self, call: Call, frame: bytes, at: int) -> None:
        instrument, sent = self._read(call, frame, at)
        if instrument is not None:
            self._ticks.trade(call, instrument, sent)

    def _best(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best bid and offer, and a trade."""
        if self.is_sampled:
            self._best_before_trade(call, frame, at)
            return
        instrument, sent = self._read(call, frame, at)
        if instrument is None:
            return
        if sent.action == TRADE:
            self._ticks.trade(call, instrument, sent)
        if sent.flags & dbn.LAST:
            self._ticks.quote(call, instrument, sent, _level(frame, at))

    def _best_before_trade(self, call: Call, frame: bytes, at: int) -> None:
        """Take a trade, and the best bid and offer as they were before it."""
        instrument, sent = self._read(call, frame, at)
        if instrument is not None:
            self._ticks.quote(call, instrument, sent, _level(frame, at))
            if sent.action == TRADE:
                self._ticks.trade(call, instrument, sent)

    def _best_sampled(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best bid and offer at the end of an interval, with the price of the last trade."""
        instrument, sent = self._read(call, frame, at)
        if instrument is not None:
            self._ticks.check_price(instrument, "price", sent.price)
            last = None if sent.price == dbn.UNDEF_PRICE else self._prices.text(sent.price)
            self._ticks.quote(call, instrument, sent, _level(frame, at), last=last)

    def _bar(self, call: Call, frame: bytes, at: int) -> None:
        """Take a candle of the venue's own."""
        _, kind, publisher, number, start, *prices, volume = dbn.BAR.unpack_from(frame, at)
        if start > dbn.INT64_MAX or dbn.UNDEF_PRICE in prices:
            raise BadEvent("bad_bar", "ts_event", start)
        instrument = self._symbols.find(call, publisher, number, start)
        if self._is_new(call, instrument, kind, call.venue_time(start, "ts_event")):
            self._ticks.bar(call, instrument, dbn.BARS[kind], (start, *prices, volume))


def _level(frame: bytes, at: int) -> bytes:
    start = at + dbn.TRADE_BODY.size
    return frame[start : start + dbn.LEVEL.size]
