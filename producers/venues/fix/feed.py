"""FIX 4.4 and 5.0SP2 market data: messages in, events out, over a session that repairs itself.

Theory of operation. Source: FIX 4.4 volume 3 and FIX 5.0SP2 "Market Data"; the session is `marketdata.fix.session`,
and the messages of books and trades are read in `producers.venues.fix.market_data`.

1. After Logon, for each symbol: SecurityListRequest (x), SecurityStatusRequest (e), and MarketDataRequest (V) for the
   full book and the trades, snapshot and updates. The venue may reject unsupported requests, and we continue without
   them.
2. Messages are processed in order of MsgSeqNum. When one is missing, the books are cleared at once. The session
   requests it, the resent messages are processed in order, and then each book is published again as a snapshot. A
   message that the venue does not resend (GapFill) may have been an update: then the book is requested again, and the
   trades stay on the ledger as missing. This does not apply after a resent W or X: the venue still has its messages, so
   it skips only session messages.
3. A book acknowledges its request. One that is rejected (Y, j), or that brings no book in time, is not subscribed: that
   is a status, on the ledger, and nothing vouches for the symbol until a book comes. SecurityStatus (f) halts and
   resumes.
4. SecurityID may name an instrument, see `producers.venues.fix.instruments`.
5. Prices may be zero or below: the FIX data type Price "may be negative" for certain asset classes (forwards, spreads).
   SecurityType (167), in any message that names the instrument, shows what it is. Without it, a name that is a pair is
   spot, and any other is unknown. Prices of spot and equity must be above zero.
6. A refused Logon is final. Silence or mismatched sequence numbers cause a new connection, which restarts or continues
   the numbers, depending on the settings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import ALL_SYMBOLS, DISCONNECTED, GAP, STALE, Instrument
from marketdata.feed import Output, Reconnect, Refused, Send
from marketdata.fix import steps
from marketdata.fix.codec import Fields, Message, utc_ns
from marketdata.fix.session import LOGON_NS, Session
from producers.venues.fix.instruments import Names, describe, read_definition
from producers.venues.fix.market_data import AWAY, SKIPPED, UNREAD, MarketData
from producers.venues.fix.requests import market_data
from producers.venues.fix.state import Login, identity_of
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.products import Product
from producers.venues.kit.venue import Signer

_BOOK, _TRADES = "book", "trades"
_MARKET_DATA = "market_data"
# SecurityTradingStatus (326); what is not named says nothing about whether orders match.
_STATES = {"2": "halted", "3": "online", "4": "halted", "5": "auction", "17": "online", "18": "halted",
           "21": "auction", "22": "auction"}  # fmt: skip
# Of these we can do without an answer: SecurityListRequest, SecurityStatusRequest.
_OPTIONAL = frozenset({"x", "e"})


class FixFeed(VenueFeed):
    """One line of a FIX venue. `products` None accepts every symbol that is seen, and requests none.

    `counts` has, besides what every feed counts: unknown_deletes (of entries that are not in the book).
    """

    venue = "fix"
    amends_trades = True
    book_channel, trades_channel = _BOOK, _TRADES
    channels = (_MARKET_DATA,)
    book_subscription = trades_subscription = _MARKET_DATA
    acknowledges = False
    awaited: Collection[str] = (_BOOK,)
    silence_ns = None  # the session ends a silent connection
    login_ns = LOGON_NS

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        login = None if token is None else msgspec.json.decode(token(0), type=Login)
        self._is_recorded = login is None or login.recorded
        if self._is_recorded:  # nobody answers what is requested
            self.starts_with_data = self.awaited = ()
        super().__init__(line=line, products=products, token=token)
        self._session = Session(None if login is None else identity_of(login, line))
        self.silence_ns = self._session.silence_ns
        self._names = Names("" if login is None else login.security_id_source)
        self._data = MarketData(
            counts=self.counts, products=self._products, ledger=self._ledger, names=self._names,
            publish=self._snapshot, came=self._came, is_recorded=self._is_recorded,
            sends_snapshots=login is None or login.snapshots,
        )  # fmt: skip
        self._is_skipped = False
        self._is_resent = False  # what is missing now, as far as the venue has sent it
        self._is_up = False
        self._ts_closed = 0  # when the last connection ended on which we were logged on
        self._since = 0  # the number of the Logon, where numbers go on

    # --- Hooks of the base ---

    def _describe(self, name: str) -> Instrument:
        return describe(name)

    def _begin(self) -> None:
        super()._begin()
        self._data.begin()
        self._is_skipped, self._since = False, 0
        self._session.forget_sent()

    def _log_in(self, call: Call) -> None:
        self._follow(call, self._session.opened(call.ts))

    def _introduce(self, call: Call) -> Iterator[Output]:
        requests = self._data.requests
        for name in self._wanted or ():
            named = self._names.named(name)
            yield from self._messages(call, "x", [(320, requests.number(call.ts)), (559, "0"), *named])
            yield from self._messages(call, "e", [(324, requests.number(call.ts)), *named, (263, "1")])

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterator[Output]:
        """Return the requests of books with trades, or what ends those that are open."""
        del channel
        requests = self._data.requests
        for name in names:
            state, named = self._data.state_of(name), self._names.named(name)
            if verb == "subscribe":
                state.request = requests.open(name, call.ts)
                state.whole, state.coming, state.can_begin = False, None, True
                yield from self._messages(call, "V", market_data(state.request, named, "1"))
            elif state.request in requests:
                yield from self._messages(call, "V", market_data(state.request, named, "2"))
                requests.retire(state.request)

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterable[Output]:
        """Request books with trades again; a request that is on its way brings both."""
        if channel == _TRADES:
            names = [name for name in names if (_BOOK, name) not in self._repairs]
        return super()._again(call, channel, names)

    def _channels_of(self, product: Product) -> set[str]:
        known = {_BOOK} if product.book_seen or self._wanted else set()
        return known | {_TRADES} if product.book_seen or product.ts_trade is not None else known

    def _read(self, call: Call) -> None:
        self._follow(call, self._session.received(call.payload, call.ts))

    def _tick(self, call: Call) -> None:
        self._follow(call, self._session.ticked(call.ts))

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Log out where that can still be said, and declare every book invalid."""
        call = self._call(ts)
        self._follow(call, self._session.leave(reason, ts))
        self._session.closed()
        self._ts_closed = ts if self._is_up else self._ts_closed
        self._is_up = False
        return call.out + super().closed(reason, ts)

    # --- What the session reports ---

    def _follow(self, call: Call, reported: Iterable[steps.Step]) -> None:
        for step in reported:
            if isinstance(step, steps.Received):
                self._message(call, step.message, again=step.again)
            elif isinstance(step, steps.Sent):
                call.out.append(Send(step.frame))
            elif isinstance(step, steps.HeartbeatReceived):
                self._take_heartbeat(call, step.message)
            elif isinstance(step, steps.Repeated):
                self.counts["duplicates"] += 1
            elif isinstance(step, steps.ResendConfirmed):
                self._is_resent = step.message.kind in {"W", "X"}
            elif isinstance(step, steps.LoggedOn | steps.LogonRecorded):
                self._logged_on(call, step)
            elif isinstance(step, steps.Unreadable):
                call.dead(step.reason, "no FIX message, or none of this session")
            elif isinstance(step, steps.Ended):
                self._end(call, step)
            else:
                self._take_loss(call, step)

    def _logged_on(self, call: Call, step: steps.LoggedOn | steps.LogonRecorded) -> None:
        """Subscribe; in a recording the venue sends each book again, by X where it never sends W."""
        if isinstance(step, steps.LoggedOn):
            self._since, self._is_up = step.since, True
            self.silence_ns = self._session.silence_ns
            self._subscribe(call)
            return
        if not self._data.has_snapshots:
            self._lose_books(call, DISCONNECTED)
            self._data.distrust(self._data.states, AWAY)
        self._data.follow_recording()

    def _take_loss(self, call: Call, step: steps.Lost | steps.Skipped | steps.Recovered) -> None:
        if isinstance(step, steps.Lost):
            self.counts["gaps"] += len(self._products) > 0
            self._data.is_whole = self._is_resent = self._data.is_followed = False
            self._lose_books(call, GAP, expected=step.expected, received=step.received or None)
        elif isinstance(step, steps.Skipped):
            if step.reset or not self._is_resent:
                self._is_skipped = True
                self._data.distrust(self._data.states, SKIPPED)
        else:
            self._recover(call)

    def _lose_books(self, call: Call, reason: str, **fields: object) -> None:
        """Lose every symbol, without requesting it again: the session, or the next one, brings what is missing."""
        for product in self._products:
            self._ledger.lose(call, product, reason, self._channels_of(product), **fields)

    def _recover(self, call: Call) -> None:
        """Publish the books that are right now that nothing is missing any longer, and request the others."""
        is_skipped, self._is_skipped = self._is_skipped, False
        refused = self._data.recover(call)
        torn = [name for name in self._products.names()
                if not self._data.state_of(name).whole and (_BOOK, name) not in self._repairs]  # fmt: skip
        if is_skipped and torn:
            self._repairs.lost(call, torn, (_BOOK,), "gap_fill")
        elif refused:
            self._repairs.lost(call, refused, (_BOOK,), "bad_message")

    def _end(self, call: Call, ended: steps.Ended) -> None:
        if ended.text == steps.END_REASON:
            call.out.append(Reconnect(steps.END_REASON))  # a replay recognises this reason
            return
        if ended.reason == "heartbeat_missed":
            call.status(ALL_SYMBOLS, "heartbeat_missed", reason=STALE, detail=ended.text)
            self._lose_books(call, STALE)
        else:
            self._lose_books(call, DISCONNECTED, detail=ended.text or ended.reason)
        if ended.final:
            advice = f"the venue refused the Logon: {ended.text[:500]}; check FIX_SENDER_COMP_ID, FIX_TARGET_COMP_ID, "
            call.out.append(Refused(ended.reason, advice + "FIX_USERNAME and FIX_PASSWORD"))
        else:
            self._give_up(call, ended.reason)

    def _take_heartbeat(self, call: Call, message: Message) -> None:
        """Handle a Heartbeat in order: everything before it has been received."""
        self.counts["heartbeats"] += 1
        with call.refusing("bad_time"):
            self._note(call, message)
        if self._data.is_whole:
            self._vouch(call, call.now)

    def _note(self, call: Call, message: Message) -> None:
        call.sequence = message.number(34)
        ts = call.venue_time(utc_ns(message.get(52), "52"), "52")
        self._advance(call, ts)
        call.now = ts

    def _messages(self, call: Call, kind: str, fields: Fields) -> list[Output]:
        """Return an application message as the session sends it; a value that none can contain is a dead letter."""
        try:
            reported = self._session.send(kind, fields, call.ts)
        except BadEvent as error:
            call.dead_value(error)
            return []
        return [Send(step.frame) for step in reported if isinstance(step, steps.Sent)]

    # --- Messages ---

    def _message(self, call: Call, message: Message, *, again: bool) -> None:
        payload, call.payload = call.payload, message.frame
        try:
            self._note(call, message)
            if again and message.kind in {"W", "X"}:
                self._take_resent(message)
            if message.kind == "W":
                self._data.take_snapshot(call, message, again=again)
            elif message.kind == "X":
                self._data.take_changes(call, message, again=again)
            elif message.kind == "f":
                self._take_status(call, message)
            elif message.kind in {"y", "d"}:
                self._take_definitions(call, message)
            elif message.kind in {"Y", "j", "3"}:
                self._take_reject(call, message)
            else:
                self.counts["ignored"] += 1
        except BadEvent as error:
            call.dead_value(error)
            if message.kind in {"W", "X"}:
                missed = self._data.named_by(message)
                self._data.distrust((product.name for product in missed), UNREAD)
                self._lose(call, missed, (_BOOK, _TRADES), GAP, "bad_message")
        call.payload = payload

    def _take_resent(self, message: Message) -> None:
        """Process a resent W or X, which shows that the venue stores them, and when it was first sent."""
        self._is_resent = True
        first, number = message.get(122), message.number(34) or 0
        if number < self._since and first and utc_ns(first, "122") > self._ts_closed:
            self._since = 0
            for state in self._data.states.values():
                state.missed = "" if state.missed == AWAY else state.missed

    def _take_status(self, call: Call, message: Message) -> None:
        status = _STATES.get(message.get(326))
        product = None if status is None else self._products.find(call, self._names.find(message.before(0)))
        if product is None:
            self.counts["ignored"] += 1
        else:
            self._products.learn(call, product, status=status)

    def _take_definitions(self, call: Call, message: Message) -> None:
        by = 55 if any(tag == 55 for tag, _ in message.fields) else 48
        entries = message.entries(146, {by}, (893,)) if message.kind == "y" else [dict(reversed(message.fields))]
        for entry in entries:
            name = self._names.find(entry)
            self._products.know(call, name, **read_definition(entry, name))

    def _take_reject(self, call: Call, message: Message) -> None:
        """Take a reject of what we sent: of a request that we can do without, or a dead letter."""
        if message.kind != "Y" and message.get(372) in _OPTIONAL:
            self.counts["ignored"] += 1
            return
        text = message.get(58) or f"reason {message.get(281) or message.get(380) or message.get(373)}"
        call.dead("venue_error", text, field="text", value=text[:200])
        # A BusinessMessageReject (j) names what it rejects by BusinessRejectRefID.
        request = {"Y": message.get(262), "j": message.get(379)}.get(message.kind, "")
        name = self._data.requests.refused(request)
        if name is not None:
            self._refused(call, _MARKET_DATA, name, detail=text)
