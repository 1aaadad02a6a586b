"""Databento: records of its binary encoding in, events out; from its files, and from its live gateway.

Theory of operation, with the source of each step. DOCS is Databento's documentation ("Schemas", "Standards and
conventions", "API reference - Live"); CHECKED is what recordings of CME and NASDAQ showed.

1. Orders (`mbo`): Add, Modify, Cancel and cleaR change the book; Trade, Fill and None never do, since a cancel follows
   each fill (DOCS, "State management of resting orders"). The book is read only after a record with F_LAST, the last of
   its event for this instrument. A cancel takes its size away from the order.
2. A snapshot is a cleaR, then Adds by priority, all with F_SNAPSHOT, until F_LAST (DOCS, "MBO snapshots"). A cleaR
   without that flag is the venue's own: the book is empty then, and complete (CHECKED: NASDAQ's day begins so). Until
   one of the two came, the book is incomplete and not published: the stream contains a clear and a gap.
   A file of one day begins with the snapshot of midnight UTC, whose cleaR and F_LAST may be missing (RULES, the
   project's own list of venue rules): in a file, Adds with F_SNAPSHOT begin a book at the start of an instrument's
   records and at midnight, and the first record without that flag ends it. A file is sorted by the time of receipt, so
   that a later record of any instrument ends it too.
3. What proves a loss: an order that is not in the book, or is there already; more taken away than was there; a snapshot
   that is interrupted, or has no beginning; F_MAYBE_BAD_BOOK, "an unrecoverable gap in the channel" (DOCS). The book is
   cleared until its next snapshot. DOCS' example takes an unknown order that is modified for a new one; here it
   is a loss, as everything that was ever added is known (CHECKED: none in 13,796 records).
   `sequence` proves nothing: it numbers the packets of a channel, which has many instruments, so it skips, and all
   records of a packet share it (CHECKED).
4. F_TOB: an Add is the new best level of its side, and no price means that the side is empty (DOCS, "Limit order book
   construction"). `mbp-10`: each record has all ten levels. Both are published as changes of levels.
5. `mbp-1`, `tbbo`, `bbo` and the consolidated ones: the best bid and offer; no price means that there is none. As with
   orders, it counts after F_LAST: a trade comes before its effect (CHECKED). `tbbo` contains the quote before the
   trade.
6. `side` of a trade is the aggressor's: "Ask for a sell aggressor in a trade, Bid for a buy aggressor, None where no
   side is specified" (DOCS, "Trades"). A record has no trade id; its time, `sequence` and its place among those with
   both the same make one, which is the same in every schema (CHECKED: mbp-1 and trades).
7. Bars (`ohlcv`) are candles of history; the day of a bar begins at midnight UTC (DOCS).
8. `status`: `is_trading` is yes, no or unknown, and unknown is not no: then the action says it, and where it does not
   either, nothing changes. Definitions make instruments.
9. Symbols: the venue's own, by the mapping of the record's date. A venue's data in a dataset of several venues
   has the venue behind it (`AAPL@XCIS`). An instrument that no mapping knows, where there are mappings, cannot be read.
10. Live (`gateway` has the messages): a heartbeat comes when nothing else did for ten seconds; 25 seconds
   of silence are a dead connection. After a disconnect the records since are asked for and those seen before left
   out, so that orders, books and trades go on as if nothing had been; a book is told again as soon as the records
   have reached the place where they broke off. Where that fails (older than what the gateway keeps), a snapshot begins
   anew, and the trades between stay a gap. A loss within the records themselves is repaired in the same two ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import databento_dbn
import msgspec

from marketdata import dbn
from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import (
    ALL_SYMBOLS,
    DISCONNECTED,
    GAP,
    POSITIVE_KINDS,
    STALE,
    CandleHistory,
    Instrument,
    Quote,
    Trade,
)
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from marketdata.orders import ASK, BID, Level, OrderBook, Side
from producers.venues.databento import gateway
from producers.venues.databento.gateway import Position, Session
from producers.venues.kit import books, idle, quotes, trades
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.values import Columns
from producers.venues.kit.venue import Signer

SILENCE_NS = 25 * SECOND_NS
VOUCH_NS = SECOND_NS
# A dataset may have hundreds of thousands of instruments; memory limits how many are published.
PRODUCTS_MAX = 50_000

_BOOK = "book"
_BOOK_SCHEMAS = frozenset({"mbo", "mbp-10"})
_TRADES = "trades"

_ADD, _MODIFY, _CANCEL, _CLEAR, _TRADE, _FILL, _NONE = b"AMCRTFN"
_CHANGES = frozenset({_ADD, _MODIFY, _CANCEL, _CLEAR})
_SIDES: dict[int, Side] = {ord("B"): BID, ord("A"): ASK}
_AGGRESSORS = {ord("B"): "buy", ord("A"): "sell", ord("N"): "unknown"}
_IDLE = frozenset({dbn.IMBALANCE, dbn.STATISTICS, dbn.OHLCV_1S, dbn.OHLCV_EOD})
# Without one of these neither book nor trades are less than they were.
_APART = frozenset({dbn.STATUS, dbn.DEFINITION, dbn.SYMBOL_MAPPING, dbn.SYSTEM, dbn.ERROR, *_IDLE, *dbn.BARS})

# Kinds of instruments by what a dataset is, until its definition says so: only what is owned has no price below zero.
_EQUITIES = frozenset(
    {"XNAS", "XBOS", "XPSX", "XNYS", "XASE", "XCHI", "XCIS", "ARCX", "BATS", "BATY", "EDGA", "EDGX", "IEXG", "MEMX",
     "EPRL", "DBEQ", "EQUS"}
)  # fmt: skip
_KINDS = {"K": "equity", "B": "equity", "F": "future", "S": "future", "C": "option", "P": "option", "T": "option",
          "M": "option", "X": "spot", "Y": "spot"}  # fmt: skip

# What a status says of trading where it does not say so itself (DOCS, "Status": actions).
_STATES = {"PRE_OPEN": "auction", "PRE_CROSS": "auction", "CROSS": "auction", "ROTATION": "auction",
           "NEW_PRICE_INDICATION": "auction", "QUOTING": "halted", "TRADING": "online", "HALT": "halted",
           "PAUSE": "halted", "SUSPEND": "halted", "CLOSE": "halted", "POST_CLOSE": "halted",
           "NOT_AVAILABLE_FOR_TRADING": "halted"}  # fmt: skip
_ACTIONS = {int(action): action.name for action in databento_dbn.StatusAction.variants()}
_REASONS = {int(reason): reason.name for reason in databento_dbn.StatusReason.variants()}

# Kinds that differ from version to version, and their bytes in each.
_CHANGED = {
    dbn.DEFINITION: {1: 360, 2: 400, 3: 520},
    dbn.SYMBOL_MAPPING: {1: 80, 2: 176, 3: 176},
    dbn.SYSTEM: {1: 80, 2: 320, 3: 320},
    dbn.ERROR: {1: 80, 2: 320, 3: 320},
}
# The gateway adds its own time to each record where it was asked to.
_TS_OUT_BYTES = 8
# Kinds whose records are samples of a state; those without a sequence.
_SAMPLED = frozenset({dbn.BBO_1S, dbn.BBO_1M, dbn.CBBO_1S, dbn.CBBO_1M})
_CONSOLIDATED = frozenset({dbn.CMBP_1, dbn.TCBBO, dbn.CBBO_1S, dbn.CBBO_1M})

# Codes of the gateway (DOCS, "Errors" and "System messages").
_FATAL = {1: "auth_failed", 2: "key_deactivated", 3: "connection_limit", 5: "bad_subscription"}
_INTERNAL, _SKIPPED, _AGED_OUT = 6, 7, 8
_SLOW, _REPLAYED = 2, 3


class _Instrument:
    """One instrument of one publisher: what was published, and how far its records were read.

    `known`: every order (or level) of the book is. `loading`: a snapshot is under way. `fresh`: consumers need the
    whole book next. `begun`: orders were read since the file began. `ts_snapshot`: when the newest first snapshot of a
    file was received.
    """

    __slots__ = (
        "begun", "fresh", "known", "levels", "loading", "number", "orders", "positions", "product", "told_incomplete",
        "tops", "trade", "trade_place", "ts_book", "ts_snapshot", "until",
    )  # fmt: skip

    def __init__(self, number: int, product: Product, until: int) -> None:
        self.number = number
        self.product = product
        self.until = until  # the mapping is good before this time
        self.orders = OrderBook()
        # If levels are sent, not orders: the published levels of both sides, by price; and the best level of each side
        # where that is all there is, None while the side is not known.
        self.levels: tuple[dict[int, int], dict[int, int]] | None = None
        self.tops: list[dict[int, int] | None] | None = None
        self.begun = False
        self.ts_snapshot = -1
        self.known = False
        self.loading = False
        self.fresh = True
        self.told_incomplete = False
        self.ts_book = 0
        self.trade = (0, 0)
        self.trade_place = 0
        self.positions: dict[int, Position] = {}

    def forget_book(self) -> None:
        """Take the book for unknown."""
        self.known = self.loading = False
        self.fresh = True
        self.levels = self.tops = None
        self.orders = OrderBook()


class _Told(NamedTuple):
    """The fields of one trade or quote, as most kinds have them."""

    ts: int
    price: int
    size: int
    action: int
    side: int
    flags: int
    sequence: int


class DatabentoFeed:
    """One line of Databento. Without a `Login` for a token it reads files; with one it uses the live gateway.

    `products` are the symbols to subscribe. A frame is a line of the gateway's text, or metadata and whole records.
    `counts` counts, besides what every feed does: records.
    """

    venue = "databento"
    silence_ns = SILENCE_NS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = products or ("ALL_SYMBOLS",)
        self._key = token
        self._session = token.session if isinstance(token, gateway.Login) else None
        self._products = Listing(None, self._describe, limit=PRODUCTS_MAX)
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._prices = dbn.Prices()
        self._symbols = dbn.Symbols()
        self._kind = "future"
        self._venues: dict[int, str] = {}
        self._instruments: dict[int, _Instrument] = {}
        self._owners: dict[str, _Instrument] = {}
        # Of a file: the instruments whose snapshot ends at the first record without its flag.
        self._first_snapshots: set[_Instrument] = set()
        # A file's own schema; of several, live, a quote of `tbbo` looks like one of `mbp-1`.
        self._is_sampled = self._session is not None and "tbbo" in self._session.schemas
        self._version = databento_dbn.DBN_VERSION
        self._ts_out = False
        self._open = False
        self._streaming = False
        self._anew = False
        self._replays = 0
        self._ts_alive = 0
        self._takers: dict[int, Callable[[Call, bytes, int], None]] = {
            dbn.MBO: self._order,
            dbn.TRADE: self._trade_alone,
            dbn.MBP_1: self._best,
            dbn.TBBO: self._best_before_trade,
            dbn.CMBP_1: self._best,
            dbn.TCBBO: self._best_before_trade,
            dbn.MBP_10: self._ten_levels,
            dbn.STATUS: self._status,
            dbn.DEFINITION: self._definition,
            dbn.SYMBOL_MAPPING: self._mapping,
            dbn.SYSTEM: self._system,
            dbn.ERROR: self._error,
            **dict.fromkeys((dbn.BBO_1S, dbn.BBO_1M, dbn.CBBO_1S, dbn.CBBO_1M), self._best_sampled),
            **dict.fromkeys((dbn.OHLCV_1M, dbn.OHLCV_1H, dbn.OHLCV_1D), self._bar),
        }

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        has_book = self._session is not None and not _BOOK_SCHEMAS.isdisjoint(self._session.schemas)
        self._products.resume(call, self._ledger, previous, (), has_book=has_book)
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Wait for the gateway's greeting."""
        self._open = True
        self._streaming = False
        self._ts_alive = ts
        call = self._call(ts)
        call.status(ALL_SYMBOLS, "connected")
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""
        self.counts["frames"] += 1
        self._ts_alive = ts
        call = self._call(ts, frame)
        if not self._open and self._session is not None:
            self.counts["ignored"] += 1  # the connection was given up
            return call.out
        at = 0
        if frame.startswith(dbn.MAGIC):
            at = self._metadata(call)
        elif not self._streaming:
            self._text(call)
            return call.out
        out = call.out
        while at < len(frame) and (self._open or self._session is None):
            # Each record for itself: how TCP put them together must not show in the events.
            call.out, call.sequence = [], None
            at += self._record(call, frame, at)
            out += call.out
        call.out = out
        return out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:  # noqa: ARG002 - the protocol's
        """Ignore an answer: nothing is ever asked over REST."""
        self.counts["ignored"] += 1
        return []

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence."""
        call = self._call(ts)
        silent_ns = ts - self._ts_alive
        if not self._open or silent_ns <= SILENCE_NS:
            return call.out
        detail = f"no record for {silent_ns // MILLISECOND_NS} ms"
        call.status(ALL_SYMBOLS, "heartbeat_missed", reason=STALE, detail=detail)
        for instrument in self._instruments.values():
            self._ledger.lose(call, instrument.product, STALE, _channels(instrument))
            instrument.fresh = True
        self._give_up(call, "heartbeat_missed")
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid; what was read of it is kept, since the records go on where they broke off."""
        self._open = self._streaming = False
        call = self._call(ts)
        call.status(ALL_SYMBOLS, "disconnected", reason=reason)
        for instrument in self._instruments.values():
            self._ledger.lose(call, instrument.product, DISCONNECTED, _channels(instrument))
            instrument.fresh = True
            if instrument.loading:
                instrument.forget_book()
        return call.out

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    # --- The gateway's text ---

    def _text(self, call: Call) -> None:
        fields = gateway.read_line(call.payload)
        if self._session is None or not fields.keys() & {"lsg_version", "cram", "success"}:
            call.dead("bad_frame", "neither DBN nor a line of the gateway's")
        elif "cram" in fields:
            key = self._key(call.ts) if self._key is not None else ""
            call.out.append(Send(gateway.authentication(self._session, fields["cram"], key)))
        elif fields.get("success") == "1":
            self._subscribe(call, self._session)
        elif "success" in fields:
            self._rejected(call, "auth_failed", fields.get("error", ""))

    def _rejected(self, call: Call, reason: str, detail: str) -> None:
        """The gateway takes us no more; too many connections are the one reason that passes."""
        if reason == "connection_limit" or "limit" in detail.lower():
            call.status(ALL_SYMBOLS, "disconnected", reason="connection_limit", detail=detail)
            self._give_up(call, "connection_limit")
            return
        self._open = False
        advice = "check DATABENTO_API_KEY, and that its plan has this dataset live"
        if reason == "bad_subscription":
            advice = "check DATABENTO_DATASET, DATABENTO_SCHEMAS and DATABENTO_PRODUCTS"
        call.out.append(Refused(reason, f"Databento said {detail!r}: {advice}"))

    def _subscribe(self, call: Call, session: Session) -> None:
        """Ask for everything from where it broke off, or from now on where that is not possible."""
        if any(self._needs_snapshot(instrument) for instrument in self._instruments.values()):
            self._anew = True
        if self._anew:
            self._forget_positions(call)
        self._anew = False
        self._replays = 0
        for number, schema in enumerate(session.schemas, start=1):
            kind = gateway.KINDS[schema]
            positions = [one.positions[kind] for one in self._instruments.values() if kind in one.positions]
            start = None if schema in gateway.WITHOUT_PAST else gateway.start_of(positions)
            if start is not None:
                self._replays += 1
                for position in positions:
                    position.resume(start)
            call.out.append(Send(gateway.subscription(session, schema, self._wanted, number, start)))
        call.out.append(Send(gateway.START))

    @staticmethod
    def _needs_snapshot(instrument: _Instrument) -> bool:
        return dbn.MBO in instrument.positions and not instrument.known

    def _forget_positions(self, call: Call) -> None:
        """Start over: everything since is lost, trades permanently."""
        for instrument in self._instruments.values():
            instrument.positions.clear()
            instrument.forget_book()
            product = instrument.product
            if self._ledger.is_pending(product, _TRADES):
                self._lose_for_good(call, product, "the gateway does not have what happened meanwhile")

    def _give_up(self, call: Call, reason: str) -> None:
        """Leave a connection of the gateway; a file goes on."""
        if self._session is not None:
            self._open = False
            call.out.append(Reconnect(reason))

    # --- Records ---

    def _metadata(self, call: Call) -> int:
        """Take the metadata at the beginning of a frame, and return where they end."""
        frame = call.payload
        self._streaming = True
        try:
            size = dbn.metadata_size(frame) or len(frame)
            metadata = dbn.decode_metadata(frame[:size])
        except ValueError as error:
            call.dead("bad_frame", str(error))
            self._lose(call, self._instruments.values(), "bad_frame")
            return len(frame)
        self._version, self._ts_out = metadata.version, bool(metadata.ts_out)
        self._symbols.learn_metadata(metadata)
        if self._session is None:
            for instrument in self._instruments.values():
                instrument.begun = False
        if self._session is None or metadata.schema is not None:
            self._is_sampled = str(metadata.schema) == "tbbo"
        dataset = metadata.dataset.partition(".")[0]
        self._kind = "equity" if dataset in _EQUITIES else "option" if dataset == "OPRA" else "future"
        return size

    def _record(self, call: Call, frame: bytes, at: int) -> int:
        """Process one record or report its error; return its length, or that of the rest if it has none."""
        size, rest = frame[at] * dbn.WORD, len(frame) - at
        if not dbn.HEADER.size <= size <= rest:
            call.payload = frame[at:]
            call.dead("bad_frame", f"a record of {size} bytes where there are {rest}")
            self._lose(call, self._instruments.values(), "bad_frame")
            return rest
        self.counts["records"] += 1
        kind, call.payload = frame[at + 1], frame[at : at + size]
        try:
            self._take(call, frame, at, kind, size)
        except BadEvent as error:
            call.dead_value(error)
            _, _, publisher, number, _ = dbn.HEADER.unpack_from(frame, at)
            instrument = self._instruments.get(publisher << 32 | number)
            if kind not in _APART or error.reason == "bad_length":  # then its kind may be the wrong byte
                concerned = self._instruments.values() if instrument is None else (instrument,)
                self._lose(call, concerned, error.reason, wrong=True)
        return size

    def _take(self, call: Call, frame: bytes, at: int, kind: int, size: int) -> None:
        expected = dbn.SIZES.get(kind)
        if expected is not None and size != expected and size != expected + _TS_OUT_BYTES:
            raise BadEvent("bad_length", "length", size)
        taker = self._takers.get(kind)
        if kind in _CHANGED:
            self._take_changed(call, frame, at, kind, size)
        elif taker is not None:
            taker(call, frame, at)
        elif kind in _IDLE:
            self.counts["ignored"] += 1
        else:
            raise BadEvent("unknown_kind", "rtype", kind)

    def _take_changed(self, call: Call, frame: bytes, at: int, kind: int, size: int) -> None:
        """Take a record of a kind that changed over the versions; the codec breaks down on a wrong length."""
        known = _CHANGED[kind].get(self._version)
        if known is None or size != known + self._ts_out * _TS_OUT_BYTES:
            raise BadEvent("bad_record" if known is None else "bad_length", "length", size)
        try:
            self._takers[kind](call, frame, at)
        except (databento_dbn.DBNError, AttributeError, OverflowError, TypeError, ValueError) as error:
            # The codec reads texts and enums only when they are asked for.
            raise BadEvent("bad_record", "record", error) from None

    def _instrument(self, call: Call, publisher: int, number: int, ts: int) -> _Instrument:
        """Return an instrument, found by its symbol at this time. Raises BadEvent when it has none."""
        key = publisher << 32 | number
        instrument = self._instruments.get(key)
        if instrument is not None and ts < instrument.until:
            return instrument
        found = self._symbols.find(number, ts)
        if found is None and len(self._symbols):
            raise BadEvent("unknown_instrument", "instrument_id", number)
        name, until = found or (str(number), dbn.INT64_MAX)
        name += self._venue_of(publisher)
        owner = self._owners.get(name)
        if owner is not None and owner.number != number and ts < owner.until:
            name += f"#{number}"  # two at once
            owner = self._owners.get(name)
        product = self._products.find(call, name)
        if product is None:
            raise BadEvent("bad_symbol", "symbol", name)
        if owner is not None and owner.number == number:
            owner.until = until
            self._instruments[key] = owner
            return owner
        if product.book_valid:  # the name means another instrument from now on
            books.clear(call, product, GAP)
        made = self._instruments[key] = self._owners[name] = _Instrument(number, product, until)
        if product.trades_lost:  # an earlier process read it, and nobody knows how far
            self._lose_for_good(call, product, "an earlier process was reading it")
        return made

    def _lose_for_good(self, call: Call, product: Product, detail: str) -> None:
        """Enter the trades of a gap that the gateway will not send any more."""
        self._ledger.lose_trades(call, product, detail)
        trades.missing(call, product)
        self._ledger.account(call, product, _TRADES, call.now)

    def _venue_of(self, publisher: int) -> str:
        """Return what distinguishes the venues of a dataset; nothing if the dataset has a single venue."""
        known = self._venues.get(publisher)
        if known is None:
            parts = dbn.publisher(publisher) if publisher else ("", "", "")
            known = f"@{publisher}" if parts is None else "" if parts[0] == parts[2] else f"@{parts[2]}"
            self._venues[publisher] = known
        return known

    def _is_new(self, call: Call, instrument: _Instrument, kind: int, ts: int) -> bool:
        """Note how far the records were read; False for one that was read on an earlier connection.

        A time that cannot be must not come here, or all that comes until then would have been read.
        """
        if self._session is None:
            return True
        position = instrument.positions.get(kind)
        if position is None:
            position = instrument.positions[kind] = Position()
        told = position.take(ts)
        if told == "new":
            return True
        if told == "old":
            self.counts["duplicates"] += 1
        else:
            self._lose(call, (instrument,), "records that were read before did not come again", wrong=True)
        return False

    def _lose(self, call: Call, instruments: Iterable[_Instrument], detail: str, *, wrong: bool = False) -> None:
        """Something of these instruments is lost; what was read before is right, or else `wrong`.

        From the gateway records come again, so that what is right can go on; a file has them once.
        """
        self.counts["gaps"] += 1
        self._anew |= wrong
        for instrument in instruments:
            self._ledger.lose(call, instrument.product, GAP, _channels(instrument), detail=detail)
            instrument.fresh = True
            if wrong or self._session is None:
                instrument.forget_book()
        self._give_up(call, "loss")

    # --- Orders ---

    def _order(self, call: Call, frame: bytes, at: int) -> None:
        (_, _, publisher, number, ts, order_id, price, size, flags, _, action, side, ts_recv, _, sequence) = (
            dbn.ORDER.unpack_from(frame, at)
        )
        if ts > dbn.INT64_MAX:
            ts = _time(ts_recv)
        instrument = self._instruments.get(publisher << 32 | number)
        if instrument is None or ts_recv >= instrument.until:
            instrument = self._instrument(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        self._follow_first_snapshots(call, instrument, flags, action, ts_recv)
        if not flags & dbn.SNAPSHOT:
            call.venue_time(ts, "ts_event")
            if self._session is not None and not self._is_new(call, instrument, dbn.MBO, ts):
                return
            call.now = self.ts_venue = ts
            call.sequence = sequence
        instrument.begun = True
        if action in _CHANGES:
            self._change(call, instrument, flags, action, (order_id, side, price, size))
        elif action == _TRADE:
            self._trade(call, instrument, _Told(ts, price, size, action, side, flags, sequence))
        elif action not in {_FILL, _NONE}:
            raise BadEvent("unknown_action", "action", action)
        if flags & dbn.MAYBE_BAD_BOOK and not flags & dbn.SNAPSHOT and action != _CLEAR:
            self._wrong(call, instrument, "the venue's gateway lost something: maybe_bad_book")
        instrument.ts_book = max(instrument.ts_book, ts) if instrument.loading else ts
        if flags & dbn.LAST:
            self._tell(call, instrument, flags)

    def _follow_first_snapshots(
        self, call: Call, instrument: _Instrument, flags: int, action: int, ts_recv: int
    ) -> None:  # fmt: skip
        """Begin the snapshot of a file's first records, with its clear or without, or end those that are over."""
        if not flags & dbn.SNAPSHOT:
            if self._first_snapshots:
                self._end_snapshots(call, instrument, ts_recv)
            return
        if self._session is not None or flags & (dbn.TOB | dbn.MBP) or action not in {_ADD, _CLEAR}:
            return
        if not instrument.begun or (ts_recv % dbn.DAY_NS == 0 and ts_recv > instrument.ts_snapshot):
            self._first_snapshots.add(instrument)
            instrument.ts_snapshot = ts_recv
            self._clear_book(instrument, flags)
        elif action == _CLEAR:
            self._first_snapshots.discard(instrument)  # this one ends at F_LAST

    def _end_snapshots(self, call: Call, instrument: _Instrument, ts_recv: int) -> None:
        """Publish the snapshots that a record without their flag ends."""
        ended = [one for one in self._first_snapshots if one is instrument or one.ts_snapshot < ts_recv]
        for loaded in sorted(ended, key=attrgetter("product.name")):
            self._first_snapshots.remove(loaded)
            if not loaded.loading:
                continue
            try:
                self._tell_orders(call, loaded)
            except BadEvent as error:
                call.dead_value(error)
                self._lose(call, (loaded,), error.reason, wrong=True)

    @staticmethod
    def _clear_book(instrument: _Instrument, flags: int) -> None:
        instrument.forget_book()
        instrument.known = True
        instrument.loading = bool(flags & dbn.SNAPSHOT)
        instrument.ts_book = 0

    def _change(
        self, call: Call, instrument: _Instrument, flags: int, action: int, told: tuple[int, int, int, int]
    ) -> None:
        """Change the book by one order, or find out that something is missing."""
        order_id, side, price, size = told
        if action == _CLEAR:
            self._clear_book(instrument, flags)
            return
        if flags & dbn.TOB:
            self._change_best(instrument, side, price, size)
        elif not instrument.known:
            self._incomplete(call, instrument)
        elif instrument.loading != bool(flags & dbn.SNAPSHOT):
            self._wrong(call, instrument, "a snapshot that is not whole")
        elif flags & dbn.MBP:
            self._wrong(call, instrument, "levels where orders were")
        elif action == _ADD:
            if side not in _SIDES or price == dbn.UNDEF_PRICE:
                raise BadEvent("bad_order", "side" if side not in _SIDES else "price", price)
            if not instrument.orders.add(order_id, _SIDES[side], price, size):
                self._wrong(call, instrument, f"order {order_id} came twice")
        else:
            self._change_order(call, instrument, action, told)

    @staticmethod
    def _change_best(instrument: _Instrument, side: int, price: int, size: int) -> None:
        """Set the best level of a side, the only one that is published."""
        if side not in _SIDES:
            raise BadEvent("bad_order", "side", side)
        if instrument.tops is None:
            instrument.tops = [{}, {}] if instrument.known else [None, None]
        instrument.tops[_SIDES[side] == ASK] = {} if price == dbn.UNDEF_PRICE or not size else {price: size}

    def _change_order(self, call: Call, instrument: _Instrument, action: int, told: tuple[int, int, int, int]) -> None:
        order_id, side, price, size = told
        order = instrument.orders.get(order_id)
        if order is None or _SIDES.get(side, order.side) != order.side:
            self._wrong(call, instrument, f"order {order_id} is not in the book")
        elif action == _CANCEL:
            if size > order.size:
                self._wrong(call, instrument, f"order {order_id} has {order.size}, and {size} were taken away")
            else:
                instrument.orders.reduce(order_id, size)
        elif price == dbn.UNDEF_PRICE:
            raise BadEvent("bad_order", "price", price)
        else:
            instrument.orders.modify(order_id, price, size)

    def _incomplete(self, call: Call, instrument: _Instrument) -> None:
        """Tell once that the book cannot be known before its next snapshot."""
        self.counts["deltas_before_snapshot"] += 1
        if not instrument.told_incomplete and not instrument.product.book_seen:
            instrument.told_incomplete = True
            self.counts["gaps"] += 1
            books.clear(call, instrument.product, GAP)
            self._ledger.lose(call, instrument.product, GAP, {_BOOK}, detail="the records begin within a book")

    def _wrong(self, call: Call, instrument: _Instrument, detail: str) -> None:
        """The book cannot be right: something was lost before, and only a snapshot helps."""
        if instrument.known or instrument.tops is not None:
            self._lose(call, (instrument,), detail, wrong=True)

    def _tell(self, call: Call, instrument: _Instrument, flags: int) -> None:
        """Tell what one event made of the book."""
        if instrument.tops is not None:
            bids, asks = instrument.tops
            if bids is not None and asks is not None:
                self._tell_levels(call, instrument, instrument.ts_book, bids, asks)
        elif instrument.loading and not flags & dbn.SNAPSHOT:
            self._wrong(call, instrument, "a snapshot that is not whole")
        elif instrument.known:
            self._tell_orders(call, instrument)

    def _tell_orders(self, call: Call, instrument: _Instrument) -> None:
        instrument.loading = False
        bids, asks = instrument.orders.take_changes()
        if instrument.fresh:
            self._tell_book(call, instrument)
        elif bids or asks:
            books.update(call, instrument.product, instrument.ts_book, self._columns(bids, asks))

    def _tell_book(self, call: Call, instrument: _Instrument) -> None:
        orders = instrument.orders
        orders.take_changes()
        instrument.fresh = False
        columns = self._columns(orders.levels(BID), orders.levels(ASK))
        ts = instrument.ts_book or call.now
        books.snapshot(call, instrument.product, ts, columns)
        self._ledger.account(call, instrument.product, _BOOK, ts)

    def _columns(self, bids: Iterable[Level], asks: Iterable[Level]) -> Columns:
        text = self._prices.text
        bids, asks = list(bids), list(asks)
        return (
            [text(level.price) for level in bids],
            [str(level.size) for level in bids],
            [text(level.price) for level in asks],
            [str(level.size) for level in asks],
        )

    # --- Levels ---

    def _ten_levels(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best ten levels of both sides, and a trade."""
        instrument, told = self._told(call, frame, at)
        if instrument is None:
            return
        if told.action == _TRADE:
            self._trade(call, instrument, told)
        if told.flags & dbn.MAYBE_BAD_BOOK:
            if instrument.product.book_valid:
                self.counts["gaps"] += 1
                self._ledger.lose(call, instrument.product, GAP, {_BOOK}, detail="maybe_bad_book")
            instrument.fresh = True
        elif told.flags & dbn.LAST:
            sides = dbn.LEVELS_10.unpack_from(frame, at + dbn.TRADE_BODY.size)
            bids = {
                price: size for price, size in zip(sides[::4], sides[2::4], strict=True) if price != dbn.UNDEF_PRICE
            }
            asks = {
                price: size for price, size in zip(sides[1::4], sides[3::4], strict=True) if price != dbn.UNDEF_PRICE
            }
            self._tell_levels(call, instrument, told.ts, bids, asks)

    def _tell_levels(
        self, call: Call, instrument: _Instrument, ts: int, bids: dict[int, int], asks: dict[int, int]
    ) -> None:
        """Publish the changes from the previously published levels."""
        before, instrument.levels = instrument.levels, (bids, asks)
        if before is None or instrument.fresh:
            instrument.fresh = False
            books.snapshot(call, instrument.product, ts, self._sides(bids, asks))
            self._ledger.account(call, instrument.product, _BOOK, ts)
            return
        books.update(call, instrument.product, ts, self._sides(_changed(before[0], bids), _changed(before[1], asks)))

    def _sides(self, bids: dict[int, int], asks: dict[int, int]) -> Columns:
        text = self._prices.text
        return (
            list(map(text, bids)), list(map(str, bids.values())), list(map(text, asks)), list(map(str, asks.values())),
        )  # fmt: skip

    # --- Trades and quotes ---

    def _told(self, call: Call, frame: bytes, at: int) -> tuple[_Instrument | None, _Told]:
        """Read what most kinds begin with; no instrument when the record was read on an earlier connection."""
        _, kind, publisher, number, ts, price, size, action, side, flags, _, ts_recv, _, sequence = (
            dbn.TRADE_BODY.unpack_from(frame, at)
        )
        if kind in _SAMPLED or ts > dbn.INT64_MAX:
            ts = _time(ts_recv)  # the time of the event is that of the last trade, if there was one
        instrument = self._instrument(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        told = _Told(call.venue_time(ts, "ts_event"), price, size, action, side, flags, sequence)
        if kind not in _SAMPLED and not self._is_new(call, instrument, kind, ts):
            return None, told
        call.now = self.ts_venue = ts
        call.sequence = sequence if kind not in _CONSOLIDATED else None
        return instrument, told

    def _trade_alone(self, call: Call, frame: bytes, at: int) -> None:
        instrument, told = self._told(call, frame, at)
        if instrument is not None:
            self._trade(call, instrument, told)

    def _trade(self, call: Call, instrument: _Instrument, told: _Told) -> None:
        """Publish a trade; trades of one event are distinguished by their order."""
        if told.side not in _AGGRESSORS:
            raise BadEvent("bad_side", "side", told.side)
        moment = (told.ts, told.sequence)
        instrument.trade_place = instrument.trade_place + 1 if moment == instrument.trade else 0
        instrument.trade = moment
        if told.price == dbn.UNDEF_PRICE or not told.size:
            call.dead("bad_trade", "a trade without a price or a size")
            return
        trade = Trade(
            trade_id=f"{told.ts}-{told.sequence}-{instrument.trade_place}",
            ts_event=told.ts,
            price=self._prices.text(told.price),
            size=str(told.size),
            side=_AGGRESSORS[told.side],
        )
        trades.check(instrument.product.instrument, trade)
        trades.send(call, instrument.product, (trade,))

    def _best(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best bid and offer, and a trade."""
        if self._is_sampled:
            self._best_before_trade(call, frame, at)
            return
        instrument, told = self._told(call, frame, at)
        if instrument is None:
            return
        if told.action == _TRADE:
            self._trade(call, instrument, told)
        if told.flags & dbn.LAST:
            self._quote(call, instrument, told, _level(frame, at))

    def _best_before_trade(self, call: Call, frame: bytes, at: int) -> None:
        """Take a trade, and the best bid and offer as they were before it."""
        instrument, told = self._told(call, frame, at)
        if instrument is not None:
            self._quote(call, instrument, told, _level(frame, at))
            if told.action == _TRADE:
                self._trade(call, instrument, told)

    def _best_sampled(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best bid and offer at the end of an interval, with the price of the last trade."""
        instrument, told = self._told(call, frame, at)
        if instrument is not None:
            self._check_price(instrument, "price", told.price)
            last = None if told.price == dbn.UNDEF_PRICE else self._prices.text(told.price)
            self._quote(call, instrument, told, _level(frame, at), last=last)

    def _quote(
        self, call: Call, instrument: _Instrument, told: _Told, level: bytes, *, last: str | None = None
    ) -> None:
        bid, ask, bid_size, ask_size = dbn.LEVEL.unpack(level)
        text = self._prices.text
        self._check_price(instrument, "bid_px", bid)
        self._check_price(instrument, "ask_px", ask)
        quotes.send(
            call, instrument.product, told.ts,
            bid=None if bid == dbn.UNDEF_PRICE else text(bid), bid_size=str(bid_size),
            ask=None if ask == dbn.UNDEF_PRICE else text(ask), ask_size=str(ask_size), last=last,
        )  # fmt: skip
        if told.flags & dbn.MAYBE_BAD_BOOK:
            quote = call.out.pop()
            assert isinstance(quote, Quote)  # noqa: S101 - it was sent two lines above
            call.out.append(msgspec.structs.replace(quote, valid=False, reason=GAP))

    def _check_price(self, instrument: _Instrument, field: str, price: int) -> None:
        if price <= 0 and instrument.product.instrument.kind in POSITIVE_KINDS:
            raise BadEvent("not_positive", field, self._prices.text(price))

    def _bar(self, call: Call, frame: bytes, at: int) -> None:
        """Process a candle; it is published through history."""
        _, kind, publisher, number, start, *prices, volume = dbn.BAR.unpack_from(frame, at)
        if start > dbn.INT64_MAX or dbn.UNDEF_PRICE in prices:
            raise BadEvent("bad_bar", "ts_event", start)
        instrument = self._instrument(call, publisher, number, start)
        if not self._is_new(call, instrument, kind, call.venue_time(start, "ts_event")):
            return
        interval, length = dbn.BARS[kind]
        columns = [[self._prices.text(price)] for price in prices]
        self.counts["bars"] += 1
        call.out.append(
            CandleHistory(
                venue=self.venue, symbol=instrument.product.symbol, ts_event=start + length, ts_recv=call.ts,
                line=self._line.name, interval=interval, start=start, opens=columns[0], highs=columns[1],
                lows=columns[2], closes=columns[3], volumes=[str(volume)], quote_volumes=[None], buy_volumes=[None],
                trades=[None],
            )
        )  # fmt: skip

    # --- Instruments ---

    def _status(self, call: Call, frame: bytes, at: int) -> None:
        """Take whether an instrument trades."""
        _, _, publisher, number, ts, ts_recv, action, reason, _, trading, _, _ = dbn.STATUS_BODY.unpack_from(frame, at)
        if ts > dbn.INT64_MAX:
            ts = _time(ts_recv)
        name = _ACTIONS.get(action, "")
        state = _STATES.get(name)
        if trading == ord("Y"):
            state = "online"
        elif trading == ord("N"):
            state = state if state in {"halted", "auction"} else "halted"
        elif trading != ord("~"):
            raise BadEvent("bad_status", "is_trading", trading)
        instrument = self._instrument(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        if not self._is_new(call, instrument, dbn.STATUS, call.venue_time(ts, "ts_event")):
            return
        call.now = self.ts_venue = ts
        self.counts["statuses"] += 1
        if state is not None:
            why = _REASONS.get(reason, "NONE")
            detail = name.lower() if why == "NONE" else f"{name.lower()}: {why.lower()}"
            self._products.learn(call, instrument.product, detail=detail, status=state)

    def _definition(self, call: Call, frame: bytes, at: int) -> None:
        """Take what an instrument is."""
        record = self._decoded(frame, at)
        ts = min(record.ts_recv, dbn.INT64_MAX)
        number = record.instrument_id
        if self._symbols.find(number, ts) is None and record.raw_symbol:
            self._symbols.learn(number, record.raw_symbol)
        instrument = self._instrument(call, record.publisher_id, number, ts)
        if not self._is_new(call, instrument, dbn.DEFINITION, min(record.ts_event, ts, call.ts)):
            return
        self.counts["definitions"] += 1
        before = instrument.product.instrument
        kind = _KINDS.get(_letter(record.instrument_class), before.kind)
        tick = record.min_price_increment
        # Spreads and options trade off their own tick, and some contracts have several.
        regular = _letter(record.instrument_class) == "F" and record.tick_rule in {None, 0, 255}
        self._products.learn(
            call,
            instrument.product,
            base_currency=record.asset or before.base_currency,
            quote_currency=record.currency or before.quote_currency,
            tick_size=self._prices.text(tick) if regular and 0 < tick < dbn.UNDEF_PRICE else None,
            status="delisted" if _letter(record.security_update_action) == "D" else before.status,
            kind=kind,
            expiry=record.expiration if 0 < record.expiration <= dbn.INT64_MAX else None,
            strike=self._size_of(record.strike_price) if kind == "option" else None,
            contract_multiplier=self._size_of(record.unit_of_measure_qty),
            settlement_currency=record.settl_currency or None,
        )

    def _size_of(self, value: int) -> str | None:
        """Return a value of a definition in units of 1e-9, None where there is none."""
        return self._prices.text(value) if 0 < value < dbn.UNDEF_PRICE else None

    def _mapping(self, call: Call, frame: bytes, at: int) -> None:
        """Take which symbol a number means from now on."""
        record = self._decoded(frame, at)
        self.counts["mappings"] += 1
        number, symbol = record.instrument_id, record.stype_out_symbol or record.stype_in_symbol
        if not symbol:
            raise BadEvent("bad_symbol", "stype_out_symbol", symbol)
        start = record.start_ts if record.start_ts <= dbn.INT64_MAX else 0
        self._symbols.learn(number, symbol, start, min(record.end_ts, dbn.INT64_MAX))
        for publisher in self._venues:  # far fewer than instruments, each of which is mapped on every connection
            instrument = self._instruments.get(publisher << 32 | number)
            if instrument is not None:
                instrument.until = min(instrument.until, max(start, call.now))  # look again

    def _describe(self, name: str) -> Instrument:
        symbol = name.partition("@")[0]
        return Instrument(venue=self.venue, symbol=name, ts_recv=0, venue_symbol=symbol, base_currency=symbol,
                          quote_currency="", kind=self._kind)  # fmt: skip

    # --- The gateway's records ---

    def _system(self, call: Call, frame: bytes, at: int) -> None:
        """Take what the gateway says of itself."""
        record = self._decoded(frame, at)
        code = _code(record)
        if record.is_heartbeat():
            self.counts["heartbeats"] += 1
            if record.ts_event <= dbn.INT64_MAX:
                call.now = self.ts_venue = call.venue_time(record.ts_event, "ts_event")
            self._caught_up(call)
            self._vouch(call, call.now - VOUCH_NS)
        elif code == _REPLAYED:
            self._replays = max(0, self._replays - 1)
            if not self._replays:
                self._caught_up(call)
        elif code == _SLOW:
            self.counts["slow_reader"] += 1

    def _vouch(self, call: Call, ts: int) -> None:
        """Nothing is pending: everything that happened has been published."""
        for instrument in self._instruments.values():
            product = instrument.product
            if product.ts_trade is not None and not self._ledger.is_pending(product, _TRADES):
                trades.heartbeat(call, product, ts)
            if product.book_valid:
                books.heartbeat(call, product, ts)

    def _caught_up(self, call: Call) -> None:
        """All records since the disconnect have arrived: close its gaps, and publish unchanged books."""
        self._replays = 0
        for instrument in self._instruments.values():
            if any(position.left for position in instrument.positions.values()):
                self._lose(call, (instrument,), "records that were read before did not come again", wrong=True)
                continue
            product = instrument.product
            self._ledger.account(call, product, _TRADES, call.now)
            if instrument.fresh and not product.book_valid and product.book_seen:
                if instrument.levels is not None:
                    self._tell_levels(call, instrument, product.ts_book or call.now, *instrument.levels)
                elif instrument.known and not instrument.loading and instrument.tops is None:
                    self._tell_book(call, instrument)

    def _error(self, call: Call, frame: bytes, at: int) -> None:
        """Take what the gateway could not do."""
        record = self._decoded(frame, at)
        code = _code(record)
        call.dead("gateway_error", record.err, field="code", value=str(code))
        if self._session is None:
            if code == _SKIPPED:
                self._lose(call, self._instruments.values(), record.err)
        elif code in _FATAL:
            self._rejected(call, _FATAL[code], record.err)
        elif code == _SKIPPED:
            self._lose(call, self._instruments.values(), record.err)
        elif code == _AGED_OUT:
            self._anew = True
            self._give_up(call, "too_long_away")
        elif code == _INTERNAL:
            self._give_up(call, "gateway_error")

    def _decoded(self, frame: bytes, at: int) -> Any:
        """Return a record of a kind that changed over the versions, as the newest has it. Raises BadEvent."""
        data = frame[at : at + frame[at] * dbn.WORD]
        # A new one each time: what met bad bytes is of no use for the next.
        decoder = databento_dbn.DBNDecoder(
            has_metadata=False, ts_out=self._ts_out, input_version=self._version, upgrade_policy=dbn.UPGRADED
        )
        found = decoder.write_and_decode(data)
        if not found:
            raise BadEvent("bad_record", "length", len(data))
        return found[0]


def _changed(before: dict[int, int], now: dict[int, int]) -> dict[int, int]:
    """Return the levels that are not what they were, 0 for those that are gone."""
    gone = {price: 0 for price in before if price not in now}
    return {price: size for price, size in now.items() if before.get(price) != size} | gone


def _channels(instrument: _Instrument) -> set[str]:
    """Return by what consumers know this instrument."""
    product = instrument.product
    channels = {_BOOK} if product.book_seen or instrument.known else set()
    return channels | {_TRADES} if product.ts_trade is not None else channels


def _code(record: Any) -> int | None:
    """Return the code of a message of the gateway's; the first version had none."""
    code = getattr(record, "code", None)
    return None if code is None else int(code)


def _letter(value: Any) -> str:
    """Return the letter of one of the codec's enums, which it also gives as plain text where it does not know it."""
    return str(getattr(value, "value", value))


def _level(frame: bytes, at: int) -> bytes:
    start = at + dbn.TRADE_BODY.size
    return frame[start : start + dbn.LEVEL.size]


def _time(ts: int) -> int:
    if ts > dbn.INT64_MAX:
        raise BadEvent("bad_time", "ts_recv", ts)
    return ts
