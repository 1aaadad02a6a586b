"""FIX 4.4 and 5.0SP2 market data: messages in, events out, over a session that repairs itself.

Theory of operation. Source: FIX 4.4 volume 3 and FIX 5.0SP2 "Market Data"; the session is `marketdata.fix.session`.

1. After Logon, for each symbol: SecurityListRequest (x), SecurityStatusRequest (e), and MarketDataRequest (V) for the
   full book and the trades, snapshot and updates. The venue may reject unsupported requests, and we continue without
   them.
2. MarketDataSnapshotFullRefresh (W) is the whole book, or a part of it; MarketDataIncrementalRefresh (X) changes it:
   see `producers.venues.fix.book`.
3. Messages are processed in order of MsgSeqNum. When one is missing, the books are cleared at once. The session
   requests it, the resent messages are processed in order, and then each book is published again as a snapshot. A
   message that the venue does not resend (GapFill) may have been an update: then the book is requested again, and the
   trades stay on the ledger as missing. This does not apply after a resent W or X: the venue still has its messages, so
   it skips only session messages.
4. Trades may be missing from the time without a connection. They are not if a list of trades repeats a known one, or if
   the sequence continues and the resent messages were first sent in that time, since the venue then kept publishing.
   Otherwise the gap is on the ledger.
5. AggressorSide (FIX 5.0SP2, tag 2446) is used if present. Trades in a snapshot without an id may be known already, and
   are ignored; other trades without an id get one from their time and number.
6. SecurityStatus (f) halts and resumes. A symbol whose request is rejected (Y, j), or that sends no book in time after
   two requests, is not subscribed: that is a status, on the ledger, and nothing vouches for it until a book comes.
7. Some venues never send W ("X-only"): the X messages that follow a subscription are the book. It begins, and is
   valid, with an X that
   - empties the book (MDEntryType J): what follows in that message is all of it; or
   - is the first change since the subscription and contains only New, where the setting FIX_SNAPSHOTS=false states
     that the venue sends no W, and it answers our newest request (MDReqID). In a recording, which has no settings, it
     is enough that it follows a recorded Logon without a loss, and that no W was recorded before.
   A loss ends it: it is requested again, and in a recording it begins again with the next Logon or J.
8. SecurityID may name an instrument, see `producers.venues.fix.instruments`.
9. Prices may be zero or below: the FIX data type Price "may be negative" for certain asset classes (forwards, spreads).
   SecurityType (167), in any message that names the instrument, shows what it is. Without it, a name that is a pair is
   spot, and any other is unknown. Prices of spot and equity must be above zero.
10. A refused Logon is final. Silence or mismatched sequence numbers cause a new connection, which restarts or continues
   the numbers, depending on the settings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import ALL_SYMBOLS, DISCONNECTED, GAP, STALE, UNSUBSCRIBED, Trade
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from marketdata.fix.codec import Fields, Message, utc_ns
from marketdata.fix.session import (
    END_REASON,
    Ended,
    HeartbeatReceived,
    LoggedOn,
    LogonRecorded,
    Lost,
    Received,
    Recovered,
    Repeated,
    ResendConfirmed,
    Sent,
    Session,
    Skipped,
    Step,
    Unreadable,
)
from producers.venues.fix.book import EMPTY, NEW, SIDES, Coming, Entry, FixBook, Touched, whole_number
from producers.venues.fix.instruments import Names, describe, kind_of, read_definition
from producers.venues.fix.requests import Requests, market_data
from producers.venues.fix.state import Found, Login, State, identity_of
from producers.venues.fix.trades import read_time, read_trade, trade_id
from producers.venues.kit import books, idle, trades
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.losses import Losses
from producers.venues.kit.outstanding import Outstanding
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.venue import Signer

_BOOK, _TRADES = "book", "trades"
# Why trades of a symbol may be missing: the connection was lost, a message was not sent again, or cannot be read.
_AWAY, _SKIPPED, _UNREAD = "away", "skipped", "unread"
_TRADE = "2"
_OF_BOOK = frozenset({*SIDES, EMPTY})
# What may come after the entries: depth of the application's queue, routing, the trailer; and, from engines that sort
# the body by tag, TotNumReports and LastFragment.
_AFTER = frozenset({813, 814, 215, 893, 911, 89, 93})
# SecurityTradingStatus (326); what is not named says nothing about whether orders match.
_STATES = {"2": "halted", "3": "online", "4": "halted", "5": "auction", "17": "online", "18": "halted",
           "21": "auction", "22": "auction"}  # fmt: skip
# Of these we can do without an answer: SecurityListRequest, SecurityStatusRequest.
_OPTIONAL = frozenset({"x", "e"})


class FixFeed:
    """One line of a FIX venue. `products` None accepts every symbol that is seen, and asks for none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, heartbeats, gaps,
    resyncs, duplicates (messages, and trades, that came again), deltas_before_snapshot, ignored, dead_letters.
    """

    venue = "fix"

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        self._line = Line(self.venue, line)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        login = None if token is None else msgspec.json.decode(token(0), type=Login)
        self._is_recorded = login is None or login.recorded
        self._session = Session(None if login is None else identity_of(login, line))
        self._wanted = products
        self._products = Listing(products, describe)
        self._states: dict[str, State] = {}
        self._requests = Requests()
        self._ledger = Ledger(book=_BOOK, trades=_TRADES)
        self._asked = Outstanding()
        self._losses = Losses()
        self._unsent: set[str] = set()  # symbols whose subscription was refused, or brought nothing
        self._names = Names("" if login is None else login.security_id_source)
        self._sends_snapshots = login is None or login.snapshots
        self._has_snapshots = False  # a W came
        self._is_followed = False  # a recording is known from its Logon on, without a loss
        self._whole = True
        self._skipped = False
        self._is_resent = False  # what is missing now, as far as the venue has sent it
        self._is_up = False
        self._ts_closed = 0  # when the last connection ended on which we were logged on
        self._since = 0  # the number of the Logon, where numbers go on

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None if self._wanted is None else self._products.symbols(self._wanted)

    @property
    def silence_ns(self) -> int:
        """How long the venue may be silent: the session's limit, from its HeartBtInt."""
        return self._session.silence_ns

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        self._products.resume(call, self._ledger, previous, self._wanted or ())
        for product in list(self._products):
            self._find(call, product.name)
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Log on."""
        self._losses.clear()
        self._asked.clear()
        self._whole, self._skipped, self._since, self._is_followed = True, False, 0, False
        self._unsent.clear()
        self._session.forget_sent()
        call = self._call(ts)
        call.status(ALL_SYMBOLS, "connected")
        self._follow(call, self._session.opened(ts))
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means, and those that waited for it."""
        self.counts["frames"] += 1
        call = self._call(ts, frame)
        self._follow(call, self._session.received(frame, ts))
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Return nothing: FIX has no other channel."""
        del request, body, ts
        return []

    def ticked(self, ts: int) -> list[Output]:
        """Notice silence, and snapshots that were asked for and did not come."""
        call = self._call(ts)
        self._follow(call, self._session.ticked(ts))
        if self._session.state in {"up", "listening"}:
            for _, name, tries in self._asked.take_overdue(ts):
                product = self._products.get(name)
                if tries and product is not None and product.book_seen and not self._is_recorded:
                    call.out.append(Reconnect("no_snapshot"))
                else:
                    if tries and not self._is_recorded:
                        self._unsubscribed(call, name, "no_data", "no book came in time, twice")
                    self._ask_again(call, (name,), "no_snapshot", tries=tries + 1)
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return idle.time_passed(self._call(ts), self._products, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Log out where that can still be said, and declare every book invalid."""
        call = self._call(ts)
        self._follow(call, self._session.leave(reason, ts))
        self._session.closed()
        self._asked.clear()
        call.status(ALL_SYMBOLS, "disconnected", reason=reason)
        self._lose(call, DISCONNECTED)
        self._requests.retire_all()
        self._distrust(self._states, _AWAY)
        self._ts_closed = ts if self._is_up else self._ts_closed
        self._is_up = False
        return call.out

    # --- What the session says ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _follow(self, call: Call, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Received):
                self._message(call, step.message, again=step.again)
            elif isinstance(step, Sent):
                call.out.append(Send(step.frame))
            elif isinstance(step, HeartbeatReceived):
                self._vouch(call, step.message)
            elif isinstance(step, Repeated):
                self.counts["duplicates"] += 1
            elif isinstance(step, ResendConfirmed):
                self._is_resent = step.message.kind in {"W", "X"}
            elif isinstance(step, LoggedOn | LogonRecorded):
                self._logged_on(call, step)
            elif isinstance(step, Unreadable):
                call.dead(step.reason, "no FIX message, or none of this session")
            elif isinstance(step, Ended):
                self._end(call, step)
            else:
                self._loss(call, step)

    def _logged_on(self, call: Call, step: LoggedOn | LogonRecorded) -> None:
        """Subscribe; in a recording the venue sends each book anew, by X where it never sends W."""
        if isinstance(step, LoggedOn):
            self._since, self._is_up = step.since, True
            self._subscribe(call)
            return
        if not self._has_snapshots:
            self._lose(call, DISCONNECTED)
            self._distrust(self._states, _AWAY)
        self._is_followed = True
        for state in self._states.values():
            state.can_begin = True

    def _loss(self, call: Call, step: Lost | Skipped | Recovered) -> None:
        if isinstance(step, Lost):
            self.counts["gaps"] += len(self._products) > 0
            self._whole = self._is_resent = self._is_followed = False
            self._lose(call, GAP, expected=step.expected, received=step.received or None)
        elif isinstance(step, Skipped):
            if step.reset or not self._is_resent:
                self._skipped = True
                self._distrust(self._states, _SKIPPED)
        else:
            self._mend(call)

    def _end(self, call: Call, ended: Ended) -> None:
        if ended.text == END_REASON:
            call.out.append(Reconnect(END_REASON))  # a replay recognises this reason
        elif ended.reason == "heartbeat_missed":
            call.status(ALL_SYMBOLS, "heartbeat_missed", reason=STALE, detail=ended.text)
            self._lose(call, STALE)
            call.out.append(Reconnect(ended.reason))
        elif ended.final:
            self._lose(call, DISCONNECTED, detail=ended.text or ended.reason)
            advice = f"the venue refused the Logon: {ended.text[:500]}; check FIX_SENDER_COMP_ID, FIX_TARGET_COMP_ID, "
            call.out.append(Refused(ended.reason, advice + "FIX_USERNAME and FIX_PASSWORD"))
        else:
            self._lose(call, DISCONNECTED, detail=ended.text or ended.reason)
            call.out.append(Reconnect(ended.reason))

    def _distrust(self, names: Iterable[str], why: str) -> None:
        """Invalidate these books until their next snapshot, ignoring pending ones; trades may be missing."""
        for name in names:
            state = self._states[name]
            state.whole, state.coming, state.missed = False, None, state.missed or why
            state.can_begin = False

    def _lose(self, call: Call, reason: str, **fields: object) -> None:
        for product in self._products:
            channels = {_BOOK} if product.book_seen or self._wanted else set()
            channels |= {_TRADES} if product.book_seen or product.ts_trade is not None else set()
            self._ledger.lose(call, product, reason, channels, **fields)

    def _mend(self, call: Call) -> None:
        """Nothing is missing any longer: publish the books kept up to date, and request the others."""
        self._whole = True
        skipped, self._skipped = self._skipped, False
        refused: list[str] = []
        for product in self._products:
            state = self._states[product.name]
            if state.whole and not product.book_valid and not self._is_told(call, product, state):
                refused.append(product.name)
            if state.whole or state.missed in {"", _SKIPPED}:  # otherwise its snapshot may still prove them
                self._account_trades(call, product, state)
        torn = [p.name for p in self._products if not self._states[p.name].whole and (_BOOK, p.name) not in self._asked]
        if skipped and torn:
            self._repair(call, torn, "gap_fill")
        elif refused:
            self._repair(call, refused, "bad_message")

    def _is_told(self, call: Call, product: Product, state: State) -> bool:
        """Tell a book that was kept up while something was missing; False where it holds what no book may."""
        with call.refusing("bad_message") as refusing:
            self._publish(call, product, state.book, call.now)
        if refusing.failed:
            self._distrust((product.name,), _UNREAD)
        return not refusing.failed

    def _vouch(self, call: Call, message: Message) -> None:
        """Handle a Heartbeat in order: everything before it has been received."""
        self.counts["heartbeats"] += 1
        with call.refusing("bad_time"):
            self._note(call, message)
        if self._whole:
            for product in self._products:
                if product.ts_trade is not None and not self._ledger.is_pending(product, _TRADES):
                    trades.heartbeat(call, product, call.now)
                if product.book_valid:
                    books.heartbeat(call, product, call.now)

    def _note(self, call: Call, message: Message) -> None:
        call.sequence = message.number(34)
        call.now = self.ts_venue = call.venue_time(utc_ns(message.get(52), "52"), "52")

    # --- What is asked for ---

    def _send(self, call: Call, kind: str, fields: Fields) -> None:
        try:
            steps = self._session.send(kind, fields, call.ts)
        except BadEvent as error:
            call.dead_value(error)
        else:
            call.out += [Send(step.frame) for step in steps if isinstance(step, Sent)]

    def _subscribe(self, call: Call) -> None:
        for name in self._wanted or ():
            self._send(call, "x", [(320, self._requests.number(call.ts)), (559, "0"), *self._names.named(name)])
            self._send(call, "e", [(324, self._requests.number(call.ts)), *self._names.named(name), (263, "1")])
            self._ask(call, name)

    def _ask(self, call: Call, name: str, *, tries: int = 0) -> None:
        """Ask for a symbol's book and trades, in place of an earlier request."""
        state = self._states.setdefault(name, State(can_begin=True))
        if state.request in self._requests:
            self._send(call, "V", market_data(state.request, self._names.named(name), "2"))
            self._requests.retire(state.request)
        state.request = self._requests.open(name, call.ts)
        state.whole, state.coming, state.can_begin = False, None, True
        self._send(call, "V", market_data(state.request, self._names.named(name), "1"))
        self._asked.ask(_BOOK, name, call.ts, tries=tries)

    def _repair(self, call: Call, names: Collection[str], reason: str) -> None:
        if self._losses.too_many(call.ts) and not self._is_recorded:
            call.out.append(Reconnect("gaps"))
        else:
            self._ask_again(call, names, reason)

    def _ask_again(self, call: Call, names: Collection[str], reason: str, *, tries: int = 0) -> None:
        self.counts["resyncs"] += 1
        for name in names:
            self._ask(call, name, tries=tries)
            product = self._products.get(name)
            if product is not None and product.gap is not None:
                call.status(product.symbol, "resync", product.gap, reason=reason, channel=_BOOK)

    # --- Messages ---

    def _message(self, call: Call, message: Message, *, again: bool) -> None:
        payload, call.payload = call.payload, message.frame
        try:
            self._note(call, message)
            if again and message.kind in {"W", "X"}:
                self._sent_again(message)
            if message.kind == "W":
                self._take_snapshot(call, message, again=again)
            elif message.kind == "X":
                self._take_changes(call, message, again=again)
            elif message.kind == "f":
                self._take_status(call, message)
            elif message.kind in {"y", "d"}:
                self._learn(call, message)
            elif message.kind in {"Y", "j", "3"}:
                self._refused(call, message)
            else:
                self.counts["ignored"] += 1
        except BadEvent as error:
            call.dead_value(error)
            if message.kind in {"W", "X"}:
                self._unreadable(call, message)
        call.payload = payload

    def _sent_again(self, message: Message) -> None:
        """Process a resent W or X, which shows that the venue stores them, and when it was first sent."""
        self._is_resent = True
        first, number = message.get(122), message.number(34) or 0
        if number < self._since and first and utc_ns(first, "122") > self._ts_closed:
            self._since = 0
            for state in self._states.values():
                state.missed = "" if state.missed == _AWAY else state.missed

    def _unreadable(self, call: Call, message: Message) -> None:
        """A message whose values cannot be read may have been a change of the symbols that it names, or of any."""
        request = message.get(262)
        named = {self._names.find({tag: value}) for tag, value in message.fields if tag in {48, 55}}
        named.add(self._requests.name_of(request))
        if request:  # it may be the last part of several books
            named |= {name for name, state in self._states.items() if state.coming and state.coming.request == request}
        missed = [self._products[name] for name in sorted(named) if name in self._products] or list(self._products)
        self._distrust((product.name for product in missed), _UNREAD)
        for product in missed:
            self._ledger.lose(call, product, GAP, {_BOOK, _TRADES}, detail="bad_message")
        self.counts["gaps"] += 1
        if missed:
            self._repair(call, [product.name for product in missed], "bad_message")

    def _find(self, call: Call, name: str) -> tuple[Product, State] | None:
        """Return the product of a symbol and what is known of it; None where it was not asked for."""
        product = self._products.find(call, name)
        if product is None:
            return None
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = State(can_begin=self._is_followed)
            if self._ledger.is_pending(product, _TRADES):  # since an earlier process
                state.missed = _AWAY
        return product, state

    def _take_snapshot(self, call: Call, message: Message, *, again: bool) -> None:
        self._has_snapshots = True
        head = message.before(268)
        name = self._names.find(head) or self._requests.name_of(head.get(262, ""))
        entries = message.entries(268, {269}, _AFTER)
        found = self._find(call, name)
        if found is None:
            return
        product, state = found
        self._learn_kind(call, product, head.get(167, ""))
        if self._requests.is_retired(head.get(262)):
            self.counts["ignored"] += 1
        else:
            if not entries or not _OF_BOOK.isdisjoint(entry[269] for entry in entries):
                if state.coming is None or state.coming.request != head.get(262, ""):
                    state.coming = Coming(head.get(262, ""), whole_number(head, 264))
                state.coming.add(entries)
            for complete in self._complete(message, name):
                self._begin(call, complete, read_time(message, {}, call.now))
        batch = [read_trade(product, message, entry, n, call.now) for n, entry in enumerate(entries)
                 if entry[269] == _TRADE and trade_id(entry)]  # fmt: skip
        repeats = self._tell(call, product, state, batch, again=again)
        if self._whole and state.whole:
            state.missed = "" if repeats else state.missed
            self._account_trades(call, product, state)

    def _complete(self, message: Message, name: str) -> list[str]:
        """Return the symbols whose snapshots are complete with this message, which is a part of them."""
        request, total = message.get(262), whole_number({911: message.get(911, "0")}, 911)
        if message.get(893) or not request or total <= 1:
            return [name] if message.get(893, "Y") == "Y" else []
        if not self._requests.is_last(request, total):
            return []
        return [name for name, state in self._states.items() if state.coming and state.coming.request == request]

    def _begin(self, call: Call, name: str, ts_event: int) -> None:
        """Start a symbol's book over with a received snapshot."""
        state = self._states[name]
        if state.coming is None:
            return
        state.whole = False
        book = state.coming.finished()
        if self._whole:
            self._publish(call, self._products[name], book, ts_event)
        state.book, state.coming, state.whole = book, None, True
        self._asked.came(_BOOK, name)

    def _take_changes(self, call: Call, message: Message, *, again: bool) -> None:
        head = message.before(268)
        request = head.get(262, "")
        is_old = self._requests.is_retired(request)
        head_name = name = self._names.find(head) or self._requests.name_of(request)
        ts_event = read_time(message, {}, call.now)
        found: dict[str, Found] = {}
        for number, entry in enumerate(message.entries(268, {279}, _AFTER)):
            name = self._names.find(entry) or name
            known = self._find(call, name)
            if known is None:
                continue
            product = known[0]
            self._learn_kind(call, product, entry.get(167) or (head.get(167, "") if name == head_name else ""))
            place = found.setdefault(name, Found(product, ts_event, [], []))
            if entry.get(269) == _TRADE and 270 in entry:
                place.trades.append(read_trade(product, message, entry, number, call.now))
            elif entry.get(269, "0") not in _OF_BOOK or is_old:
                self.counts["ignored"] += 1
            else:
                place.changes.append(entry)
        for symbol, place in found.items():
            if place.changes:
                self._change(call, self._states[symbol], place, request)
            self._tell(call, place.product, self._states[symbol], place.trades, again=again)

    def _change(self, call: Call, state: State, found: Found, request: str) -> None:
        """Make the changes of one message to a symbol's book, and keep them for the one that is on its way."""
        product, ts_event, changes, _ = found
        begins = not state.whole and state.coming is None and self._begins_book(state, changes, request)
        if begins:
            state.book, state.whole = FixBook(), True
            changes = changes[_last_empty(changes) :]
        state.can_begin = False
        levels: Touched = {}
        for entry in changes:
            if state.coming is not None:
                state.coming.keep(entry)
            if state.whole:
                state.book.apply(entry, levels)
            elif state.coming is None:
                self.counts["deltas_before_snapshot"] += 1
        state.book.trim(levels)
        if begins:
            self._asked.came(_BOOK, product.name)
        if begins and self._whole:
            self._publish(call, product, state.book, ts_event)
            self._account_trades(call, product, state)
        elif self._whole and levels and product.book_valid:
            books.update(call, product, ts_event, state.book.sizes(levels))

    def _begins_book(self, state: State, changes: list[Entry], request: str) -> bool:
        """Return whether these changes are a whole book, which no W brings (step 7)."""
        if any(entry.get(269) == EMPTY for entry in changes):
            return True
        return (
            state.can_begin
            and (self._is_recorded or (not self._sends_snapshots and request == state.request))
            and not (self._is_recorded and self._has_snapshots)
            and all(entry.get(279) == NEW and entry.get(269) in SIDES for entry in changes)
        )

    def _publish(self, call: Call, product: Product, book: FixBook, ts_event: int) -> None:
        if product.name in self._unsent:
            self._unsent.discard(product.name)
            call.status(product.symbol, "subscribed", channel=_BOOK)
        books.snapshot(call, product, ts_event, book.whole())
        self._ledger.account(call, product, _BOOK, call.now)

    def _tell(self, call: Call, product: Product, state: State, batch: list[Trade], *, again: bool) -> bool:
        """Publish the trades that are new; True if some were not."""
        good = trades.accepted(call, batch)
        if len(good) < len(batch):
            self._ledger.lose_trades(call, product, "bad_trade")
            trades.missing(call, product)
        batch = good
        fresh = [trade for trade in batch if state.told.is_new((trade.trade_id, trade.action))]
        self.counts["duplicates"] += len(batch) - len(fresh)
        if fresh:
            trades.send(call, product, fresh, origin="repair" if again else "live")
        return len(fresh) < len(batch)

    def _account_trades(self, call: Call, product: Product, state: State) -> None:
        """Close the gap of trades; trades that may never arrive stay on the ledger, and invalidate the stream."""
        missed, state.missed = state.missed, ""
        if not self._ledger.is_pending(product, _TRADES):
            return
        if missed:
            self._ledger.lose_trades(call, product, detail="the venue did not send it again")
            trades.missing(call, product)
        self._ledger.account(call, product, _TRADES, call.now)

    def _take_status(self, call: Call, message: Message) -> None:
        status = _STATES.get(message.get(326))
        found = self._find(call, self._names.find(message.before(0)))
        if status is None or found is None:
            self.counts["ignored"] += 1
        else:
            self._products.learn(call, found[0], status=status)

    def _learn_kind(self, call: Call, product: Product, security_type: str) -> None:
        """Learn the kind from the SecurityType of a message that is about this product, if it has one."""
        kind = kind_of(security_type)
        if kind is not None:
            self._products.learn(call, product, kind=kind)

    def _learn(self, call: Call, message: Message) -> None:
        by = 55 if any(tag == 55 for tag, _ in message.fields) else 48
        entries = message.entries(146, {by}, (893,)) if message.kind == "y" else [dict(reversed(message.fields))]
        for entry in entries:
            name = self._names.find(entry)
            self._products.know(call, name, **read_definition(entry, name))

    def _refused(self, call: Call, message: Message) -> None:
        """A reject of what we sent: of a request that we can do without, or a dead letter."""
        if message.kind != "Y" and message.get(372) in _OPTIONAL:
            self.counts["ignored"] += 1
            return
        text = message.get(58) or f"reason {message.get(281) or message.get(380) or message.get(373)}"
        call.dead("venue_error", text, field="text", value=text[:200])
        # A BusinessMessageReject (j) names what it rejects by BusinessRejectRefID.
        request = {"Y": message.get(262), "j": message.get(379)}.get(message.kind, "")
        name = self._requests.refused(request)
        if name is not None:
            self._asked.came(_BOOK, name)  # it would be refused again
            self._unsubscribed(call, name, "refused", text)

    def _unsubscribed(self, call: Call, name: str, reason: str, detail: str) -> None:
        """State that a symbol is not subscribed: nothing vouches for its trades, and its book is none."""
        product = self._products.find(call, name)
        if product is None or name in self._unsent:
            return
        self._unsent.add(name)
        call.status(product.symbol, "unsubscribed", reason=reason, channel=_BOOK, detail=detail)
        self._ledger.lose(call, product, UNSUBSCRIBED, {_BOOK, _TRADES}, detail=detail)
        trades.interrupted(call, product)


def _last_empty(changes: list[Entry]) -> int:
    """Return the place of the last entry that empties the book, 0 where none does."""
    return max((at for at, entry in enumerate(changes) if entry.get(269) == EMPTY), default=0)
