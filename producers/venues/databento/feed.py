"""Databento: records of its binary encoding in, events out; from its files, and from its live gateway.

DOCS is Databento's documentation, https://databento.com/docs ("Schemas", "Standards and conventions", "API reference -
Live"); CHECKED is what recordings of CME and NASDAQ showed.

1. A frame is a line of the gateway's text, or metadata and whole records. Each record is dispatched by its kind: those
   of the market are read in `market` for `books` and `ticks` (trades, with the aggressor's side (DOCS, "Trades"),
   quotes and bars), statuses and definitions in `reference`.
2. `sequence` proves nothing: it numbers the packets of a channel, which has many instruments, so it skips, and all
   records of a packet share it (CHECKED). F_MAYBE_BAD_BOOK is "an unrecoverable gap in the channel" (DOCS): the book is
   cleared until its next snapshot.
3. Symbols: the venue's own, by the mapping of the record's date, see `symbols`.
4. Live (`gateway` has the messages): each schema is subscribed for all products at once, and acknowledged by a message
   that names it: "Subscription request N for <schema> data succeeded" (DOCS, "System messages"; the text is that of
   https://github.com/nautechsystems/nautilus_trader/pull/3337). An error names each symbol that did not resolve, and
   the others go on. It is not requested again: once it resolves, the gateway maps it and sends its data in the same
   session (DOCS, "Symbology", https://databento.com/docs/api-live/basics/symbology).
5. A heartbeat comes when nothing else did for ten seconds; 25 seconds of silence are a dead connection. After a
   disconnect the records since are requested, and those read before are left out, so that orders, books and trades go
   on as if there had been none; a book is published again as soon as the records have reached the place where they
   stopped. Where that fails (older than what the gateway keeps), a new snapshot is requested, and the trades between
   stay a gap. A loss within the records themselves is repaired in the same two ways.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

from marketdata import dbn
from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import ALL_SYMBOLS, GAP, UNSUBSCRIBED, Instrument
from marketdata.feed import Output, Refused, Send
from producers.venues.databento import gateway
from producers.venues.databento.books import Books
from producers.venues.databento.gateway import Position
from producers.venues.databento.market import MarketRecords
from producers.venues.databento.records import CHANGED, Records, code_of, reading, time_of
from producers.venues.databento.reference import read_definition, read_status
from producers.venues.databento.state import BOOK, TRADES, State
from producers.venues.databento.symbols import Symbols
from producers.venues.databento.ticks import Ticks
from producers.venues.kit import trades
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.products import Product
from producers.venues.kit.venue import Signer

SILENCE_NS = 25 * SECOND_NS
VOUCH_NS = SECOND_NS

_IDLE = frozenset({dbn.IMBALANCE, dbn.STATISTICS, dbn.OHLCV_1S, dbn.OHLCV_EOD})
# Without one of these neither book nor trades are less than they were.
_APART = frozenset({dbn.STATUS, dbn.DEFINITION, dbn.SYMBOL_MAPPING, dbn.SYSTEM, dbn.ERROR, *_IDLE, *dbn.BARS})

# Codes of the gateway (DOCS, "Errors" and "System messages").
_FATAL = {1: "auth_failed", 2: "key_deactivated", 3: "connection_limit", 5: "bad_subscription"}
_UNRESOLVED, _INTERNAL, _SKIPPED, _AGED_OUT = 4, 6, 7, 8
_ACKNOWLEDGED, _SLOW, _REPLAYED = 1, 2, 3
_SYMBOL = re.compile(r"[\w./@+-]+")
_ACKNOWLEDGEMENT = re.compile(r"for ([a-z0-9-]+) data succeeded")


class DatabentoFeed(VenueFeed):
    """One line of Databento. Without a `Login` for a token it reads files; with one it uses the live gateway.

    `products` are the symbols to subscribe. A frame is a line of the gateway's text, or metadata and whole records.
    `counts` has, besides what every feed counts: records, definitions, mappings, statuses, bars, slow_reader.
    """

    venue = "databento"
    book_channel, trades_channel = BOOK, TRADES
    silence_ns = SILENCE_NS
    login_ns = SILENCE_NS
    starts_with_data = ()
    awaited = ()
    # A dataset may have hundreds of thousands of instruments; memory limits how many are published.
    products_max = 50_000

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._session = token.session if isinstance(token, gateway.Login) else None
        is_file = self._session is None
        self.channels = () if self._session is None else self._session.schemas
        # Where several schemas are played, the recording has one of them.
        self.book_subscription = next((one for one in self.channels if one in gateway.WITH_BOOKS), BOOK)
        self.trades_subscription = next((one for one in self.channels if one in gateway.WITH_TRADES), TRADES)
        self.carries = {TRADES, BOOK} if self.book_subscription != BOOK else {TRADES}
        wanted = None if is_file else products or ("ALL_SYMBOLS",)
        super().__init__(line=line, products=wanted, token=token, takes_all=True)
        self._prices = dbn.Prices()
        self._symbols = Symbols(self._products, self._ledger)
        self._instruments = self._symbols.instruments
        ticks = Ticks(counts=self.counts, prices=self._prices, is_file=is_file)
        self._books = Books(counts=self.counts, prices=self._prices, ledger=self._ledger, lose=self._lose_records,
                            is_file=is_file)  # fmt: skip
        self._market = MarketRecords(
            counts=self.counts, prices=self._prices, symbols=self._symbols, ledger=self._ledger, books=self._books,
            ticks=ticks, is_new=self._is_new,
        )  # fmt: skip
        # A file's own schema; of several, live, a quote of `tbbo` looks like one of `mbp-1`.
        self._market.is_sampled = "tbbo" in self.channels
        self._records = Records()
        self._streaming = False
        self._unresolved: set[str] = set()  # symbols that the gateway does not know yet
        self._is_incoherent = False  # what was read before is not right, so that records since do not help
        self._replays = 0
        self._readers: dict[int, Callable[[Call, bytes, int], None]] = {
            **self._market.readers,
            dbn.STATUS: self._status,
            dbn.DEFINITION: self._definition,
            dbn.SYMBOL_MAPPING: self._mapping,
            dbn.SYSTEM: self._system,
            dbn.ERROR: self._error,
        }

    # --- Hooks of the base ---

    def _describe(self, name: str) -> Instrument:
        return self._symbols.describe(name)

    def _begin(self) -> None:
        super()._begin()
        self._streaming = False
        self._unresolved.clear()

    def _channels_of(self, product: Product) -> set[str]:
        owner = self._symbols.owner_of(product)
        known = {BOOK} if product.book_seen or (owner is not None and owner.known) else set()
        return known | {TRADES} if product.ts_trade is not None else known

    def _lose_all(self, call: Call, reason: str) -> None:
        """Lose every product; what was read of it is kept, since the records go on where they stopped."""
        super()._lose_all(call, reason)
        for instrument in self._instruments.values():
            instrument.fresh = True
            if instrument.loading:
                instrument.forget_book()

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterable[Output]:
        """Repair a loss over a new connection: it is sent the records since."""
        del channel
        for instrument in filter(None, map(self._symbols.owner_of, map(self._products.get, names))):
            instrument.fresh = True
        self._give_up(call, "loss")
        return ()

    def _give_up(self, call: Call, reason: str) -> None:
        """Leave a connection of the gateway; a file goes on."""
        if self._session is not None and self._liveness.is_open:
            super()._give_up(call, reason)

    def _read(self, call: Call) -> None:
        frame, at, out = call.payload, 0, call.out
        if self._session is not None and not self._liveness.is_open:
            self.counts["ignored"] += 1  # the connection was given up
            return
        if frame.startswith(dbn.MAGIC):
            at = self._metadata(call)
        elif not self._streaming:
            self._text(call)
            return
        while at < len(frame) and (self._liveness.is_open or self._session is None):
            # Each record for itself: how TCP put them together must not show in the events.
            call.out, call.sequence = [], None
            at += self._record(call, frame, at)
            out += call.out
        call.out = out
        self.ts_venue = self._market.ts_newest

    # --- The gateway's text ---

    def _text(self, call: Call) -> None:
        fields = gateway.read_line(call.payload)
        if self._session is None or not fields.keys() & {"lsg_version", "cram", "success"}:
            call.dead("bad_frame", "neither DBN nor a line of the gateway's")
        elif "cram" in fields:
            key = self._token(call.ts) if self._token is not None else ""
            call.out.append(Send(gateway.authentication(self._session, fields["cram"], key)))
        elif fields.get("success") == "1":
            self._subscribe(call)
        elif "success" in fields:
            self._rejected(call, "auth_failed", fields.get("error", ""))

    def _rejected(self, call: Call, reason: str, detail: str) -> None:
        """End a connection that the gateway refused; too many connections are the one reason that passes."""
        if reason == "connection_limit" or "limit" in detail.lower():
            call.status(ALL_SYMBOLS, "disconnected", reason="connection_limit", detail=detail)
            self._give_up(call, "connection_limit")
            return
        self._liveness.is_open, self._ts_login_due = False, None
        advice = "check DATABENTO_API_KEY, and that its plan has this dataset live"
        if reason == "bad_subscription":
            advice = "check DATABENTO_DATASET, DATABENTO_SCHEMAS and DATABENTO_PRODUCTS"
        call.out.append(Refused(reason, f"Databento answered {detail!r}: {advice}"))

    def _subscribe(self, call: Call) -> None:
        """Request everything from where it stopped, or from now on where that is not possible."""
        if any(dbn.MBO in one.positions and not one.known for one in self._instruments.values()):
            self._is_incoherent = True
        if self._is_incoherent:
            self._forget_positions(call)
        self._is_incoherent = False
        self._replays = 0
        super()._subscribe(call)
        call.out.append(Send(gateway.START))

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterator[Output]:
        """Return what subscribes a schema, before the session starts: later it would come without its past."""
        del call, names
        if verb != "subscribe" or self._streaming or self._session is None:
            return
        kind = gateway.KINDS[channel]
        positions = [one.positions[kind] for one in self._instruments.values() if kind in one.positions]
        start = None if channel in gateway.WITHOUT_PAST else gateway.start_of(positions)
        if start is not None:
            self._replays += 1
            for position in positions:
                position.resume(start)
        number = self.channels.index(channel) + 1
        yield Send(gateway.subscription(self._session, channel, self._wanted or (), number, start))

    def _forget_positions(self, call: Call) -> None:
        """Start over: everything since is lost, trades permanently."""
        for instrument in self._instruments.values():
            instrument.positions.clear()
            instrument.forget_book()
            if self._ledger.is_pending(instrument.product, TRADES):
                detail = "the gateway does not have what happened meanwhile"
                self._ledger.give_up_trades(call, instrument.product, detail)

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
            self._lose_records(call, self._instruments.values(), "bad_frame")
            return len(frame)
        self._records.version, self._records.ts_out = metadata.version, bool(metadata.ts_out)
        self._symbols.names.learn_metadata(metadata)
        if self._session is None:
            for instrument in self._instruments.values():
                instrument.begun = False
        if self._session is None or metadata.schema is not None:
            self._market.is_sampled = str(metadata.schema) == "tbbo"
        self._symbols.learn_dataset(metadata.dataset)
        return size

    def _record(self, call: Call, frame: bytes, at: int) -> int:
        """Process one record or report its error; return its length, or that of the rest if it has none."""
        size, rest = frame[at] * dbn.WORD, len(frame) - at
        if not dbn.HEADER.size <= size <= rest:
            call.payload = frame[at:]
            call.dead("bad_frame", f"a record of {size} bytes where there are {rest}")
            self._lose_records(call, self._instruments.values(), "bad_frame")
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
                self._lose_records(call, concerned, error.reason, wrong=True)
        return size

    def _take(self, call: Call, frame: bytes, at: int, kind: int, size: int) -> None:
        self._records.check_length(kind, size)
        reader = self._readers.get(kind)
        if kind in CHANGED:
            reading(partial(self._readers[kind], call, frame, at))
        elif reader is not None:
            reader(call, frame, at)
        elif kind in _IDLE:
            self.counts["ignored"] += 1
        else:
            raise BadEvent("unknown_kind", "rtype", kind)

    def _is_new(self, call: Call, instrument: State, kind: int, ts: int) -> bool:
        """Note how far the records were read; False for one that was read on an earlier connection.

        A time that cannot be must not come here, or all that comes until then would have been read.
        """
        if self._session is None:
            return True
        position = instrument.positions.get(kind)
        if position is None:
            position = instrument.positions[kind] = Position()
        seen = position.take(ts)
        if seen == "new":
            return True
        if seen == "old":
            self.counts["duplicates"] += 1
        else:
            self._lose_records(call, (instrument,), "records that were read before did not come again", wrong=True)
        return False

    def _lose_records(self, call: Call, instruments: Iterable[State], detail: str, *, wrong: bool = False) -> None:
        """Lose what may be missing of these instruments; what was read before is right, or else `wrong`.

        From the gateway records come again, so that what is right can go on; a file has them once.
        """
        self.counts["gaps"] += 1
        self._is_incoherent |= wrong
        for instrument in instruments:
            self._ledger.lose(call, instrument.product, GAP, self._channels_of(instrument.product), detail=detail)
            instrument.fresh = True
            if wrong or self._session is None:
                instrument.forget_book()
        self._give_up(call, "loss")

    # --- Instruments ---

    def _status(self, call: Call, frame: bytes, at: int) -> None:
        """Take whether an instrument trades."""
        _, _, publisher, number, ts, ts_recv, action, reason, _, trading, _, _ = dbn.STATUS_BODY.unpack_from(frame, at)
        if ts > dbn.INT64_MAX:
            ts = time_of(ts_recv)
        state, detail = read_status(action, reason, trading)
        instrument = self._symbols.find(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        if not self._is_new(call, instrument, dbn.STATUS, call.venue_time(ts, "ts_event")):
            return
        self._market.advance(call, ts)
        self.counts["statuses"] += 1
        if state is not None:
            self._products.learn(call, instrument.product, detail=detail, status=state)

    def _definition(self, call: Call, frame: bytes, at: int) -> None:
        """Take what an instrument is."""
        record = self._records.decoded(frame, at)
        ts = min(record.ts_recv, dbn.INT64_MAX)
        number = record.instrument_id
        if self._symbols.names.find(number, ts) is None and record.raw_symbol:
            self._symbols.names.learn(number, record.raw_symbol)
        instrument = self._symbols.find(call, record.publisher_id, number, ts)
        if not self._is_new(call, instrument, dbn.DEFINITION, min(record.ts_event, ts, call.ts)):
            return
        self.counts["definitions"] += 1
        product = instrument.product
        self._products.learn(call, product, **read_definition(record, product.instrument, self._prices))

    def _mapping(self, call: Call, frame: bytes, at: int) -> None:
        """Take which symbol a number means from now on."""
        record = self._records.decoded(frame, at)
        self.counts["mappings"] += 1
        number, symbol = record.instrument_id, record.stype_out_symbol or record.stype_in_symbol
        if not symbol:
            raise BadEvent("bad_symbol", "stype_out_symbol", symbol)
        start = record.start_ts if record.start_ts <= dbn.INT64_MAX else 0
        self._symbols.map(call, number, symbol, start, min(record.end_ts, dbn.INT64_MAX))
        if record.stype_in_symbol in self._unresolved:
            self._unresolved.discard(record.stype_in_symbol)
            product = self._products.get(symbol)
            resolved = ALL_SYMBOLS if product is None else product.symbol
            call.status(resolved, "subscribed", channel=self.trades_subscription)
            if product is not None:
                self._ledger.account(call, product, TRADES, call.now)

    # --- The gateway's records ---

    def _system(self, call: Call, frame: bytes, at: int) -> None:
        """Take a message of the gateway."""
        record = self._records.decoded(frame, at)
        code = code_of(record)
        if record.is_heartbeat():
            self.counts["heartbeats"] += 1
            if record.ts_event <= dbn.INT64_MAX:
                self._market.advance(call, call.venue_time(record.ts_event, "ts_event"))
            self._caught_up(call)
            self._vouch(call, call.now - VOUCH_NS)
        elif code == _REPLAYED:
            self._replays = max(0, self._replays - 1)
            if not self._replays:
                self._caught_up(call)
        elif code == _ACKNOWLEDGED:
            self._take_acknowledgement(call, record.msg)
        elif code == _SLOW:
            self.counts["slow_reader"] += 1

    def _take_acknowledgement(self, call: Call, text: str) -> None:
        found = _ACKNOWLEDGEMENT.search(text)
        if found is None or self._wanted is None or found[1] not in self.channels:
            self.counts["ignored"] += 1
        else:
            self._acknowledged(call, found[1], self._wanted[0])

    def _take_unresolved(self, call: Call, text: str) -> None:
        """State a symbol of which nothing comes before the gateway maps it (DOCS, "Symbology")."""
        named = {name.rstrip(".") for name in _SYMBOL.findall(text)}.intersection(self._wanted or ())
        is_raw = self._session is not None and self._session.stype_in == "raw_symbol"
        channel = self.trades_subscription
        for name in sorted(named - self._unresolved):
            self._unresolved.add(name)
            product = self._products.find(call, name) if is_raw else None
            symbol = ALL_SYMBOLS if product is None else product.symbol
            call.status(symbol, "unsubscribed", reason="refused", channel=channel, detail=text)
            if product is not None:
                self._ledger.lose(call, product, UNSUBSCRIBED, self._carried, detail=text, channel=channel)
                trades.interrupted(call, product)

    def _caught_up(self, call: Call) -> None:
        """All records since the disconnect have arrived: close its gaps, and publish unchanged books."""
        self._replays = 0
        name = self._wanted[0] if self._wanted else ""
        is_subscribed = self._is_subscribed(self.trades_subscription, name)
        for instrument in self._instruments.values():
            if any(position.left for position in instrument.positions.values()):
                self._lose_records(call, (instrument,), "records that were read before did not come again", wrong=True)
                continue
            product = instrument.product
            if is_subscribed:
                self._ledger.account(call, product, TRADES, call.now)
            if instrument.fresh and not product.book_valid and product.book_seen:
                if instrument.levels is not None:
                    self._books.publish_levels(call, instrument, product.ts_book or call.now, *instrument.levels)
                elif instrument.known and not instrument.loading and instrument.tops is None:
                    self._books.publish_whole(call, instrument)

    def _error(self, call: Call, frame: bytes, at: int) -> None:
        """Take what the gateway could not do."""
        record = self._records.decoded(frame, at)
        code = code_of(record)
        call.dead("gateway_error", record.err, field="code", value=str(code))
        if self._session is None:
            if code == _SKIPPED:
                self._lose_records(call, self._instruments.values(), record.err)
        elif code in _FATAL:
            self._rejected(call, _FATAL[code], record.err)
        elif code == _UNRESOLVED:
            self._take_unresolved(call, record.err)
        elif code == _SKIPPED:
            self._lose_records(call, self._instruments.values(), record.err)
        elif code == _AGED_OUT:
            self._is_incoherent = True
            self._give_up(call, "too_long_away")
        elif code == _INTERNAL:
            self._give_up(call, "gateway_error")
