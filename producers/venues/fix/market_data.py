"""The market data messages of FIX: snapshots (W), changes (X), and the trades in both, for the books of one line.

Theory of operation. Source: FIX 4.4 volume 3 and FIX 5.0SP2 "Market Data"; how a book changes is in
`producers.venues.fix.book`.

1. MarketDataSnapshotFullRefresh (W) is the whole book, or a part of it; MarketDataIncrementalRefresh (X) changes it.
2. AggressorSide (FIX 5.0SP2, tag 2446) is used if present. Trades in a snapshot without an id may be known already, and
   are ignored; other trades without an id get one from their time and number.
3. Trades may be missing from the time without a connection. They are not if a list of trades repeats a known one, or if
   the sequence continues and the resent messages were first sent in that time, since the venue then kept publishing.
   Otherwise the gap is on the ledger.
4. Some venues never send W ("X-only"): the X messages that follow a subscription are the book. It begins, and is
   valid, with an X that
   - empties the book (MDEntryType J): what follows in that message is all of it; or
   - is the first change since the subscription and contains only New, where the setting FIX_SNAPSHOTS=false states
     that the venue sends no W, and it answers our newest request (MDReqID). In a recording, which has no settings, it
     is enough that it follows a recorded Logon without a loss, and that no W was recorded before.
   A loss ends it: it is requested again, and in a recording it begins again with the next Logon or J.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from marketdata.events import Trade
from marketdata.fix.codec import Message
from producers.venues.fix.book import EMPTY, NEW, SIDES, Coming, Entry, FixBook, Touched, whole_number
from producers.venues.fix.instruments import Names, kind_of
from producers.venues.fix.requests import Requests
from producers.venues.fix.state import Found, State
from producers.venues.fix.trades import read_time, read_trade, trade_id
from producers.venues.kit import books, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.products import Product
from producers.venues.kit.values import Columns

# Why trades of a symbol may be missing: the connection was lost, a message was not sent again, or cannot be read.
AWAY, SKIPPED, UNREAD = "away", "skipped", "unread"

_TRADE = "2"
_OF_BOOK = frozenset({*SIDES, EMPTY})
# What may come after the entries: depth of the application's queue, routing, the trailer; and, from engines that sort
# the body by tag, TotNumReports and LastFragment.
_AFTER = frozenset({813, 814, 215, 893, 911, 89, 93})


class MarketData:
    """The books and trades of one line.

    `is_recorded`: a recording is played. `sends_snapshots`: the venue sends W. `has_snapshots`: a W came.
    `is_followed`: a recording is known from its Logon on, without a loss. `is_whole`: no message is known to be
    missing.
    """

    def __init__(
        self, *, counts: Counter[str], products: Listing, ledger: Ledger, names: Names,
        publish: Callable[[Call, Product, int, Columns], None], came: Callable[[Call, str, str], None],
        is_recorded: bool, sends_snapshots: bool,
    ) -> None:  # fmt: skip
        """Make the books; `publish` publishes a whole one, `came` notes a snapshot that may be published later."""
        self.requests = Requests()
        self.states: dict[str, State] = {}
        self.has_snapshots = self.is_followed = False
        self.is_whole = True
        self._counts = counts
        self._products = products
        self._ledger = ledger
        self._names = names
        self._publish = publish
        self._came = came
        self._is_recorded = is_recorded
        self._sends_snapshots = sends_snapshots

    def state_of(self, name: str) -> State:
        """Return what is known of a symbol."""
        state = self.states.get(name)
        if state is None:
            state = self.states[name] = State(can_begin=self.is_followed)
            product = self._products.get(name)
            if product is not None and self._ledger.is_pending(product, self._ledger.trades):
                state.missed = AWAY  # since an earlier process
        return state

    def begin(self) -> None:
        """Forget what belonged to a connection: it is new, or gone."""
        self.is_whole, self.is_followed = True, False
        self.requests.retire_all()
        self.distrust(self.states, AWAY)

    def follow_recording(self) -> None:
        """Follow a recording from its Logon on: the first changes of a symbol may be its book."""
        self.is_followed = True
        for state in self.states.values():
            state.can_begin = True

    def distrust(self, names: Iterable[str], why: str) -> None:
        """Invalidate these books until their next snapshot, ignoring pending ones; trades may be missing."""
        for name in names:
            state = self.state_of(name)
            state.whole, state.coming, state.missed = False, None, state.missed or why
            state.can_begin = False

    def recover(self, call: Call) -> list[str]:
        """Publish the books that were kept up to date while messages were missing; return those that cannot be."""
        self.is_whole = True
        refused: list[str] = []
        for product in self._products:
            state = self.state_of(product.name)
            if state.whole and not product.book_valid:
                with call.refusing("bad_message") as refusing:
                    self._publish(call, product, call.now, state.book.whole())
                if refusing.failed:
                    self.distrust((product.name,), UNREAD)
                    refused.append(product.name)
            if state.whole or state.missed in {"", SKIPPED}:  # otherwise its snapshot may still prove them
                self._account_trades(call, product, state)
        return refused

    def named_by(self, message: Message) -> list[Product]:
        """Return the products of which a message may have been a change that cannot be read; all, if it names none."""
        request = message.get(262)
        named = {self._names.find({tag: value}) for tag, value in message.fields if tag in {48, 55}}
        named.add(self.requests.name_of(request))
        if request:  # it may be the last part of several books
            named.update(self._awaiting(request))
        return [self._products[name] for name in sorted(named) if name in self._products] or list(self._products)

    def take_snapshot(self, call: Call, message: Message, *, again: bool) -> None:
        """Take a W; `again`: it was resent. Raises BadEvent."""
        self.has_snapshots = True
        head = message.before(268)
        name = self._names.find(head) or self.requests.name_of(head.get(262, ""))
        entries = message.entries(268, {269}, _AFTER)
        product = self._products.find(call, name)
        if product is None:
            return
        state = self.state_of(name)
        self._learn_kind(call, product, head.get(167, ""))
        if self.requests.is_retired(head.get(262)):
            self._counts["ignored"] += 1
        else:
            if not entries or not _OF_BOOK.isdisjoint(entry[269] for entry in entries):
                if state.coming is None or state.coming.request != head.get(262, ""):
                    state.coming = Coming(head.get(262, ""), whole_number(head, 264))
                state.coming.add(entries)
            for complete in self._complete(message, name):
                self._replace_book(call, complete, read_time(message, {}, call.now))
        batch = [read_trade(product, message, entry, n, call.now) for n, entry in enumerate(entries)
                 if entry[269] == _TRADE and trade_id(entry)]  # fmt: skip
        repeats = self._send_trades(call, product, state, batch, again=again)
        if self.is_whole and state.whole:
            state.missed = "" if repeats else state.missed
            self._account_trades(call, product, state)

    def take_changes(self, call: Call, message: Message, *, again: bool) -> None:
        """Take an X; `again`: it was resent. Raises BadEvent."""
        head = message.before(268)
        request = head.get(262, "")
        is_old = self.requests.is_retired(request)
        head_name = name = self._names.find(head) or self.requests.name_of(request)
        ts_event = read_time(message, {}, call.now)
        found: dict[str, Found] = {}
        for number, entry in enumerate(message.entries(268, {279}, _AFTER)):
            name = self._names.find(entry) or name
            product = self._products.find(call, name)
            if product is None:
                continue
            self._learn_kind(call, product, entry.get(167) or (head.get(167, "") if name == head_name else ""))
            place = found.setdefault(name, Found(product, ts_event, [], []))
            if entry.get(269) == _TRADE and 270 in entry:
                place.trades.append(read_trade(product, message, entry, number, call.now))
            elif entry.get(269, "0") not in _OF_BOOK or is_old:
                self._counts["ignored"] += 1
            else:
                place.changes.append(entry)
        for symbol, place in found.items():
            state = self.state_of(symbol)
            if place.changes:
                self._change(call, state, place, request)
            self._send_trades(call, place.product, state, place.trades, again=again)

    # --- Books ---

    def _awaiting(self, request: str) -> list[str]:
        """Return the symbols of which a part of the answer to a request is here."""
        return [name for name, state in self.states.items() if state.coming and state.coming.request == request]

    def _complete(self, message: Message, name: str) -> list[str]:
        """Return the symbols whose snapshots are complete with this message, which is a part of them."""
        request, total = message.get(262), whole_number({911: message.get(911, "0")}, 911)
        if message.get(893) or not request or total <= 1:
            return [name] if message.get(893, "Y") == "Y" else []
        return self._awaiting(request) if self.requests.is_last(request, total) else []

    def _replace_book(self, call: Call, name: str, ts_event: int) -> None:
        """Start a symbol's book over with a received snapshot."""
        state = self.states[name]
        if state.coming is None:
            return
        state.whole = False
        book = state.coming.finished()
        if self.is_whole:
            self._publish(call, self._products[name], ts_event, book.whole())
        state.book, state.coming, state.whole = book, None, True
        self._came(call, self._ledger.book, name)

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
                if not state.book.apply(entry, levels):
                    self._counts["unknown_deletes"] += 1
            elif state.coming is None:
                self._counts["deltas_before_snapshot"] += 1
        state.book.trim(levels)
        if begins:
            self._came(call, self._ledger.book, product.name)
        if begins and self.is_whole:
            self._publish(call, product, ts_event, state.book.whole())
            self._account_trades(call, product, state)
        elif self.is_whole and levels and product.book_valid:
            books.update(call, product, ts_event, state.book.sizes(levels))

    def _begins_book(self, state: State, changes: list[Entry], request: str) -> bool:
        """Return whether these changes are a whole book, which no W brings (step 4)."""
        if any(entry.get(269) == EMPTY for entry in changes):
            return True
        return (
            state.can_begin
            and (self._is_recorded or (not self._sends_snapshots and request == state.request))
            and not (self._is_recorded and self.has_snapshots)
            and all(entry.get(279) == NEW and entry.get(269) in SIDES for entry in changes)
        )

    def _learn_kind(self, call: Call, product: Product, security_type: str) -> None:
        """Learn the kind from the SecurityType of a message that is about this product, if it has one."""
        kind = kind_of(security_type)
        if kind is not None:
            self._products.learn(call, product, kind=kind)

    # --- Trades ---

    def _send_trades(self, call: Call, product: Product, state: State, batch: list[Trade], *, again: bool) -> bool:
        """Publish the trades that are new; return whether some were not."""
        good = trades.accepted(call, batch)
        if len(good) < len(batch):
            self._ledger.lose_trades(call, product, "bad_trade")
            trades.missing(call, product)
        fresh = [trade for trade in good if state.sent.is_new((trade.trade_id, trade.action))]
        self._counts["duplicates"] += len(good) - len(fresh)
        if fresh:
            trades.send(call, product, fresh, origin="repair" if again else "live")
        return len(fresh) < len(good)

    def _account_trades(self, call: Call, product: Product, state: State) -> None:
        """Close the gap of trades; trades that may never arrive stay on the ledger, and invalidate the stream."""
        missed, state.missed = state.missed, ""
        if not self._ledger.is_pending(product, self._ledger.trades):
            return
        if missed:
            self._ledger.give_up_trades(call, product, "the venue did not send it again")
        else:
            self._ledger.account(call, product, self._ledger.trades, call.now)


def _last_empty(changes: list[Entry]) -> int:
    """Return the place of the last entry that empties the book, 0 where none does."""
    return max((at for at, entry in enumerate(changes) if entry.get(269) == EMPTY), default=0)
