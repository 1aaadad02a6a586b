"""Databento: records of its binary encoding in, events out; from its files, and from its live gateway.

DOCS is Databento's documentation, https://databento.com/docs ("Schemas", "Standards and conventions", "API reference -
Live"); CHECKED is what recordings of CME and NASDAQ showed.

1. A frame is a line of the gateway's text, or metadata and whole records. Each record is dispatched by its kind: books
   are `books`, trades (with the aggressor's side, DOCS, "Trades"), quotes and bars `ticks`, statuses and definitions
   `reference`.
2. `sequence` proves nothing: it numbers the packets of a channel, which has many instruments, so it skips, and all
   records of a packet share it (CHECKED). F_MAYBE_BAD_BOOK is "an unrecoverable gap in the channel" (DOCS): the book is
   cleared until its next snapshot.
3. `mbp-1`, `tbbo`, `bbo` and the consolidated ones: the best bid and offer. As with orders, it counts after F_LAST: a
   trade comes before its effect (CHECKED). `tbbo` contains the quote before the trade.
4. Symbols: the venue's own, by the mapping of the record's date, see `symbols`.
5. Live (`gateway` has the messages): a heartbeat comes when nothing else did for ten seconds; 25 seconds of silence are
   a dead connection. After a disconnect the records since are asked for and those seen before left out, so that
   orders, books and trades go on as if nothing had been; a book is published again as soon as the records have reached
   the place where they broke off. Where that fails (older than what the gateway keeps), a snapshot begins anew, and the
   trades between stay a gap. A loss within the records themselves is repaired in the same two ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from marketdata import dbn
from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import (
    ALL_SYMBOLS,
    DISCONNECTED,
    GAP,
    STALE,
    Instrument,
)
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from producers.venues.databento import gateway
from producers.venues.databento.books import CHANGES, CLEAR, FILL, NONE, TRADE, Books
from producers.venues.databento.gateway import Position, Session
from producers.venues.databento.records import CHANGED, Records, code_of, reading
from producers.venues.databento.reference import read_definition, read_status
from producers.venues.databento.state import BOOK, TRADES, State, Told, channels_of
from producers.venues.databento.symbols import Symbols
from producers.venues.databento.ticks import Ticks
from producers.venues.kit import books, idle, trades
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.venue import Signer

SILENCE_NS = 25 * SECOND_NS
VOUCH_NS = SECOND_NS
# A dataset may have hundreds of thousands of instruments; memory limits how many are published.
PRODUCTS_MAX = 50_000

_BOOK_SCHEMAS = frozenset({"mbo", "mbp-10"})

_IDLE = frozenset({dbn.IMBALANCE, dbn.STATISTICS, dbn.OHLCV_1S, dbn.OHLCV_EOD})
# Without one of these neither book nor trades are less than they were.
_APART = frozenset({dbn.STATUS, dbn.DEFINITION, dbn.SYMBOL_MAPPING, dbn.SYSTEM, dbn.ERROR, *_IDLE, *dbn.BARS})


# Kinds whose records are samples of a state; those without a sequence.
_SAMPLED = frozenset({dbn.BBO_1S, dbn.BBO_1M, dbn.CBBO_1S, dbn.CBBO_1M})
_CONSOLIDATED = frozenset({dbn.CMBP_1, dbn.TCBBO, dbn.CBBO_1S, dbn.CBBO_1M})

# Codes of the gateway (DOCS, "Errors" and "System messages").
_FATAL = {1: "auth_failed", 2: "key_deactivated", 3: "connection_limit", 5: "bad_subscription"}
_INTERNAL, _SKIPPED, _AGED_OUT = 6, 7, 8
_SLOW, _REPLAYED = 2, 3


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
        self._ledger = Ledger(book=BOOK, trades=TRADES)
        self._prices = dbn.Prices()
        self._symbols = Symbols(self._products, self._ledger)
        self._instruments = self._symbols.instruments
        is_file = self._session is None
        self._ticks = Ticks(counts=self.counts, prices=self._prices, is_file=is_file)
        self._books = Books(counts=self.counts, prices=self._prices, ledger=self._ledger, lose=self._lose,
                            is_file=is_file)  # fmt: skip
        # A file's own schema; of several, live, a quote of `tbbo` looks like one of `mbp-1`.
        self._is_sampled = self._session is not None and "tbbo" in self._session.schemas
        self._records = Records()
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
            self._ledger.lose(call, instrument.product, STALE, channels_of(instrument))
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
            self._ledger.lose(call, instrument.product, DISCONNECTED, channels_of(instrument))
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
    def _needs_snapshot(instrument: State) -> bool:
        return dbn.MBO in instrument.positions and not instrument.known

    def _forget_positions(self, call: Call) -> None:
        """Start over: everything since is lost, trades permanently."""
        for instrument in self._instruments.values():
            instrument.positions.clear()
            instrument.forget_book()
            product = instrument.product
            if self._ledger.is_pending(product, TRADES):
                self._symbols.lose_for_good(call, product, "the gateway does not have what happened meanwhile")

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
        self._records.version, self._records.ts_out = metadata.version, bool(metadata.ts_out)
        self._symbols.names.learn_metadata(metadata)
        if self._session is None:
            for instrument in self._instruments.values():
                instrument.begun = False
        if self._session is None or metadata.schema is not None:
            self._is_sampled = str(metadata.schema) == "tbbo"
        self._symbols.learn_dataset(metadata.dataset)
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
        self._records.check_length(kind, size)
        taker = self._takers.get(kind)
        if kind in CHANGED:
            reading(partial(self._takers[kind], call, frame, at))
        elif taker is not None:
            taker(call, frame, at)
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
        told = position.take(ts)
        if told == "new":
            return True
        if told == "old":
            self.counts["duplicates"] += 1
        else:
            self._lose(call, (instrument,), "records that were read before did not come again", wrong=True)
        return False

    def _lose(self, call: Call, instruments: Iterable[State], detail: str, *, wrong: bool = False) -> None:
        """Something of these instruments is lost; what was read before is right, or else `wrong`.

        From the gateway records come again, so that what is right can go on; a file has them once.
        """
        self.counts["gaps"] += 1
        self._anew |= wrong
        for instrument in instruments:
            self._ledger.lose(call, instrument.product, GAP, channels_of(instrument), detail=detail)
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
            instrument = self._symbols.find(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        self._books.follow_first_snapshots(call, instrument, flags, action, ts_recv)
        if not flags & dbn.SNAPSHOT:
            call.venue_time(ts, "ts_event")
            if self._session is not None and not self._is_new(call, instrument, dbn.MBO, ts):
                return
            call.now = self.ts_venue = ts
            call.sequence = sequence
        instrument.begun = True
        if action in CHANGES:
            self._books.change(call, instrument, flags, action, (order_id, side, price, size))
        elif action == TRADE:
            self._ticks.trade(call, instrument, Told(ts, price, size, action, side, flags, sequence))
        elif action not in {FILL, NONE}:
            raise BadEvent("unknown_action", "action", action)
        if flags & dbn.MAYBE_BAD_BOOK and not flags & dbn.SNAPSHOT and action != CLEAR:
            self._books.wrong(call, instrument, "the venue's gateway lost something: maybe_bad_book")
        instrument.ts_book = max(instrument.ts_book, ts) if instrument.loading else ts
        if flags & dbn.LAST:
            self._books.publish(call, instrument, flags)

    # --- Levels ---

    def _ten_levels(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best ten levels of both sides, and a trade."""
        instrument, told = self._told(call, frame, at)
        if instrument is None:
            return
        if told.action == TRADE:
            self._ticks.trade(call, instrument, told)
        if told.flags & dbn.MAYBE_BAD_BOOK:
            if instrument.product.book_valid:
                self.counts["gaps"] += 1
                self._ledger.lose(call, instrument.product, GAP, {BOOK}, detail="maybe_bad_book")
            instrument.fresh = True
        elif told.flags & dbn.LAST:
            sides = dbn.LEVELS_10.unpack_from(frame, at + dbn.TRADE_BODY.size)
            bids = {
                price: size for price, size in zip(sides[::4], sides[2::4], strict=True) if price != dbn.UNDEF_PRICE
            }
            asks = {
                price: size for price, size in zip(sides[1::4], sides[3::4], strict=True) if price != dbn.UNDEF_PRICE
            }
            self._books.publish_levels(call, instrument, told.ts, bids, asks)

    # --- Trades and quotes ---

    def _told(self, call: Call, frame: bytes, at: int) -> tuple[State | None, Told]:
        """Read what most kinds begin with; no instrument when the record was read on an earlier connection."""
        _, kind, publisher, number, ts, price, size, action, side, flags, _, ts_recv, _, sequence = (
            dbn.TRADE_BODY.unpack_from(frame, at)
        )
        if kind in _SAMPLED or ts > dbn.INT64_MAX:
            ts = _time(ts_recv)  # the time of the event is that of the last trade, if there was one
        instrument = self._symbols.find(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        told = Told(call.venue_time(ts, "ts_event"), price, size, action, side, flags, sequence)
        if kind not in _SAMPLED and not self._is_new(call, instrument, kind, ts):
            return None, told
        call.now = self.ts_venue = ts
        call.sequence = sequence if kind not in _CONSOLIDATED else None
        return instrument, told

    def _trade_alone(self, call: Call, frame: bytes, at: int) -> None:
        instrument, told = self._told(call, frame, at)
        if instrument is not None:
            self._ticks.trade(call, instrument, told)

    def _best(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best bid and offer, and a trade."""
        if self._is_sampled:
            self._best_before_trade(call, frame, at)
            return
        instrument, told = self._told(call, frame, at)
        if instrument is None:
            return
        if told.action == TRADE:
            self._ticks.trade(call, instrument, told)
        if told.flags & dbn.LAST:
            self._ticks.quote(call, instrument, told, _level(frame, at))

    def _best_before_trade(self, call: Call, frame: bytes, at: int) -> None:
        """Take a trade, and the best bid and offer as they were before it."""
        instrument, told = self._told(call, frame, at)
        if instrument is not None:
            self._ticks.quote(call, instrument, told, _level(frame, at))
            if told.action == TRADE:
                self._ticks.trade(call, instrument, told)

    def _best_sampled(self, call: Call, frame: bytes, at: int) -> None:
        """Take the best bid and offer at the end of an interval, with the price of the last trade."""
        instrument, told = self._told(call, frame, at)
        if instrument is not None:
            self._ticks.check_price(instrument, "price", told.price)
            last = None if told.price == dbn.UNDEF_PRICE else self._prices.text(told.price)
            self._ticks.quote(call, instrument, told, _level(frame, at), last=last)

    def _bar(self, call: Call, frame: bytes, at: int) -> None:
        """Take a candle of the venue's own."""
        _, kind, publisher, number, start, *prices, volume = dbn.BAR.unpack_from(frame, at)
        if start > dbn.INT64_MAX or dbn.UNDEF_PRICE in prices:
            raise BadEvent("bad_bar", "ts_event", start)
        instrument = self._symbols.find(call, publisher, number, start)
        if self._is_new(call, instrument, kind, call.venue_time(start, "ts_event")):
            self._ticks.bar(call, instrument, dbn.BARS[kind], (start, *prices, volume))

    # --- Instruments ---

    def _status(self, call: Call, frame: bytes, at: int) -> None:
        """Take whether an instrument trades."""
        _, _, publisher, number, ts, ts_recv, action, reason, _, trading, _, _ = dbn.STATUS_BODY.unpack_from(frame, at)
        if ts > dbn.INT64_MAX:
            ts = _time(ts_recv)
        state, detail = read_status(action, reason, trading)
        instrument = self._symbols.find(call, publisher, number, min(ts_recv, dbn.INT64_MAX))
        if not self._is_new(call, instrument, dbn.STATUS, call.venue_time(ts, "ts_event")):
            return
        call.now = self.ts_venue = ts
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

    def _describe(self, name: str) -> Instrument:
        return self._symbols.describe(name)

    # --- The gateway's records ---

    def _system(self, call: Call, frame: bytes, at: int) -> None:
        """Take what the gateway says of itself."""
        record = self._records.decoded(frame, at)
        code = code_of(record)
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
            if product.ts_trade is not None and not self._ledger.is_pending(product, TRADES):
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


def _level(frame: bytes, at: int) -> bytes:
    start = at + dbn.TRADE_BODY.size
    return frame[start : start + dbn.LEVEL.size]


def _time(ts: int) -> int:
    if ts > dbn.INT64_MAX:
        raise BadEvent("bad_time", "ts_recv", ts)
    return ts
