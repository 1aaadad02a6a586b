"""The base of every WebSocket feed: what all venues repeat is here, and a venue fills in small hooks.

A venue's feed derives from `VenueFeed`, states its facts as class attributes and implements `_describe`, `_order` and
`_read`; the other hooks have defaults. A venue's feed is itself derived from only where a dated version of its
protocol differs. Books, trades, quotes and the ledger stay functions and objects of the kit that a feed calls.

1. `opened`: forget the last connection (`_begin`), subscribe to each channel, wait for the books' snapshots, request
   the trades that may be missing since before, and the venue's list of products. Where a login comes first
   (`login_ns`), the feed calls `_subscribe` once it is let in; a login that takes too long is tried again.
2. `received`: `_read` does everything. What it raises becomes a dead letter, and `_unreadable` decides what the frame
   may have cost: the channels and products that `_concerned` names are lost and requested again.
3. `fetched`: the list of products is learned; other answers go to `_answered`.
4. `ticked`: silence of the connection and of single products (`kit.activity`), pings, overdue snapshots and
   subscriptions, the list of products when it is due, then `_tick`.
5. Subscriptions: `_read` reports what the venue answers (`_acknowledged`, `_refused`, `_take_list`), see
   `kit.subscriber`. Its hooks are the venue's too: `_order`, `_forget`, `_recover_trades`.
6. `time_passed`: products without trades are stated to be complete, but for those whose trades are not subscribed;
   on a live line, books without changes are stated to stand.
7. `closed`: every book and the trades are lost, until the next connection accounts for them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from marketdata.errors import BadEvent
from marketdata.events import ALL_SYMBOLS, CHECKSUM, CONNECTION, GAP, STALE, Instrument
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.kit import books, idle, trades
from producers.venues.kit.activity import Activity
from producers.venues.kit.calls import REFUSED, Call, Line
from producers.venues.kit.drift import Drift
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import PRODUCTS_MAX, Listing
from producers.venues.kit.limits import Limits
from producers.venues.kit.liveness import Liveness
from producers.venues.kit.products import MATCHING, Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.repairs import Repairs
from producers.venues.kit.subscriber import Subscriber
from producers.venues.kit.subscriptions import Subscriptions
from producers.venues.kit.values import Columns
from producers.venues.kit.venue import Signer

T = TypeVar("T")
T_READ = TypeVar("T_READ")


class VenueFeed(Subscriber):
    """One line of a venue. `products` None accepts every product that is seen, and subscribes to none.

    `counts` counts what happened since the feed was made: frames, snapshots, book_updates, trades, quotes, heartbeats,
    gaps, resyncs, duplicates, deltas_before_snapshot, ignored (channels and products that were not requested),
    subscriptions, dead_letters, checksums_right, checksums_wrong, off_tick. `ts_venue` is the venue's newest time.
    """

    venue: str
    book_channel: str
    """The venue's name of the channel of books, as the ledger shows it; also that of trades."""
    trades_channel: str
    silence_ns: int | None
    """After this long without a frame the connection is dead; None where silence proves nothing."""
    login_ns: int = 0
    """How long a login may take, before anything can be subscribed; 0: there is none."""
    ping: bytes = b""
    """What to send after `ping_ns` without a frame, where the venue answers it; empty sends nothing."""
    ping_ns: int = idle.CONFIRM_NS
    awaited: Collection[str] | None = None
    """The channels whose new snapshots have a deadline; None: books and trades."""
    channels: tuple[str, ...] = ()
    """The channels that each product is subscribed to."""
    book_subscription: str = ""
    """The channel that carries books, where the ledger has another name for it; also that of trades."""
    trades_subscription: str = ""
    acknowledges: bool = True
    """Whether the venue confirms each subscription, so that one without an answer counts as refused."""
    starts_with_data: Collection[str] | None = None
    """The channels that begin with data at once; None: books."""
    limits: Limits = Limits()
    sequence_scope: str = CONNECTION
    """`SYMBOL` where the numbers of books and quotes belong to the symbol, and are the same on every connection."""
    amends_trades: bool = False
    """Whether the venue corrects or cancels trades."""
    carries: Collection[str] | None = None
    """Which of books and trades this feed carries, where the venue has them on several endpoints; None: both."""
    products_max: int = PRODUCTS_MAX
    """How many products are published at most."""

    def __init__(
        self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None,
        accepted: Collection[str] | None = None, takes_all: bool = False,
    ) -> None:  # fmt: skip
        """Make a feed; `accepted` are more names that frames may use for the same products.

        `takes_all`: one subscription brings products under names of their own, which are all published.
        """
        self._line = Line(self.venue, line, sequence_scope=self.sequence_scope, amends_trades=self.amends_trades)
        self.counts = self._line.counts
        self.ts_venue: int | None = None
        self._wanted = products
        self._token = token
        self._takes_all = takes_all
        taken = None if products is None or takes_all else {*products, *(accepted or ())}
        self._products = Listing(taken, self._describe, limit=self.products_max)
        self._ledger = Ledger(book=self.book_channel, trades=self.trades_channel)
        self._repairs = Repairs(self._products, self._ledger, self._again, awaited=self.awaited)
        self._drift = Drift()
        self._liveness = Liveness(self.silence_ns, self._lose_all)
        self._activity = Activity()
        self._carried = {self.book_channel, self.trades_channel} if self.carries is None else set(self.carries)
        self._carriers = (self.book_subscription or self.book_channel, self.trades_subscription or self.trades_channel)
        starts = self._carriers[:1] if self.starts_with_data is None else self.starts_with_data
        self._subscriptions = Subscriptions(starts_with_data=starts, acknowledges=self.acknowledges)
        self._ts_login_due: int | None = None

    # --- The contract of marketdata.feed.Feed ---

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""
        return None if self._wanted is None or self._takes_all else self._products.symbols(self._wanted)

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published."""
        call = self._call(ts)
        names = () if self._takes_all else self._wanted or ()
        self._products.resume(call, self._ledger, previous, names, carried=self._carried)
        return call.out

    def opened(self, ts: int) -> list[Output]:
        """Subscribe, and request what may be missing and the list of products."""
        self._begin()
        call = self._call(ts)
        self._liveness.opened(call)
        if not self.login_ns:
            self._subscribe(call)
        else:
            self._log_in(call)
        self._products.asked(ts)
        call.out += self._fetch_products()
        return call.out

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return the outputs of one frame."""
        self.counts["frames"] += 1
        self._liveness.ts_heard = ts
        call = self._call(ts, frame)
        try:
            self._read(call)
        except REFUSED as error:
            call.dead_frame(error)
            self._unreadable(call)
        if ts >= self._drift.ts_due:
            for change in self._drift.take(frame, ts):
                call.status(ALL_SYMBOLS, "venue_changed", reason=change.reason, channel=change.kind[:200],
                            detail=change.detail)  # fmt: skip
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Learn the venue's products, or take another REST answer that was requested."""
        call = self._call(ts, body)
        with call.refusing(f"bad_{request.purpose}"):
            if request.purpose == "products":
                self._learn_products(call)
            elif not self._answered(call, request):
                self.counts["ignored"] += 1
        return call.out

    def ticked(self, ts: int) -> list[Output]:
        """Detect silence and overdue snapshots; ping, and request the list of products when it is due."""
        call = self._call(ts)
        if self._ts_login_due is not None and ts >= self._ts_login_due:
            self._give_up(call, "no_login")
        if self._liveness.ticked(call):
            if self.ping and self._liveness.ping_due(ts, self.ping_ns):
                call.out.append(Send(self.ping))
            self._check_subscriptions(call)
            self._check_activity(call)
            self._repairs.ticked(call)
            if self._products.is_due(ts):
                call.out += self._fetch_products()
            self._tick(call)
        return call.out

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        known = [product for product in self._products if product.trades_lost or not self._trades_wait(product)]
        return idle.time_passed(self._call(ts), known, ts_event, skipped=skipped, books_of=self._products)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Invalidate every book and open a gap per product, until the next connection's snapshots."""
        self._begin()
        call = self._call(ts)
        self._liveness.closed(call, reason)
        return call.out

    # --- Hooks: what a venue must supply ---

    @abstractmethod
    def _describe(self, name: str) -> Instrument:
        """Return the instrument of the venue's name (its `ts_recv` is 0). Raises BadEvent for what is no name."""

    @abstractmethod
    def _read(self, call: Call) -> None:
        """Read the frame `call.payload`. Raises BadEvent, or what msgspec raises."""

    # --- Hooks with a default ---

    def _begin(self) -> None:
        """Forget what belonged to a connection: it is new, or gone."""
        self._repairs.begin()
        self._subscriptions.begin()
        self._ts_login_due = None

    def _log_in(self, call: Call) -> None:
        """Begin to log in, or wait for the venue's greeting."""
        if self._wanted and self._token is not None:
            self._ts_login_due = call.ts + self.login_ns

    def _subscribe(self, call: Call) -> None:
        """Subscribe to each channel, wait for the books' snapshots, request the trades that may be missing."""
        self._ts_login_due = None
        if self._wanted:
            call.out += self._introduce(call)
            for channel in self.channels:
                call.out += self._request(call, channel, self._wanted)
            is_awaited = self.awaited is None or self.book_channel in self.awaited
            # From when the last message is sent, so that a subscription without an answer is stated before.
            ts_sent = call.ts + len(call.out) * self.limits.message_pause_ns
            for name in self._wanted if is_awaited and self.book_channel in self._carried else ():
                self._repairs.wait(self.book_channel, name, ts_sent)
        for product in self._products:
            if self._ledger.is_pending(product, self.trades_channel):
                self._recover_trades(call, product)

    def _introduce(self, call: Call) -> Iterable[Output]:
        """Return what is sent before the products are subscribed."""
        del call
        return ()

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterable[Output]:
        """Return what brings new snapshots of a channel of the ledger; nothing where the venue has none."""
        carrier = self._carriers[channel == self.trades_channel]
        yield from self._unsubscribe(call, carrier, names)
        yield from self._request(call, carrier, names)

    def _channels_of(self, product: Product) -> set[str]:
        """Return the channels by which consumers know a product, which a lost connection touches."""
        return self._ledger.channels(product, subscribed=bool(self._wanted)) & self._carried

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        """Return the products (None: any) and channels of which an unreadable frame may have been a change."""
        del payload
        return None, (self.book_channel, self.trades_channel)

    def _fetch_products(self) -> Iterable[Fetch]:
        """Return the requests of purpose `products` that list the venue's products."""
        return ()

    def _learn_products(self, call: Call) -> None:
        """Learn the products of the answer `call.payload`."""

    def _answered(self, call: Call, request: Fetch) -> bool:
        """Take another REST answer; return False when it is of no use."""
        del call, request
        return False

    def _tick(self, call: Call) -> None:
        """Do what else is due about once a second on a connection that is alive."""

    # --- What feeds use ---

    def _call(self, ts: int, payload: bytes = b"") -> Call:
        return Call(self._line, ts, self.ts_venue, payload)

    def _give_up(self, call: Call, reason: str) -> None:
        """Leave this connection for a new one."""
        self._liveness.is_open = False
        self._ts_login_due = None
        call.out.append(Reconnect(reason))

    def _advance(self, call: Call, ts: int) -> None:
        """Note a time of the venue's, in UTC nanoseconds; its clock never runs back. Raises BadEvent."""
        self.ts_venue = call.advanced(ts, self.ts_venue)

    def _event_time(self, call: Call, value: T, read: Callable[[T, str], int], field: str) -> int:
        """Return the venue's time of a message, which is noted.

        An impossible time says nothing about the message's values: it is counted, and the time of receipt is used.
        Only a trade is refused for its own time, since candles need it.
        """
        try:
            ts = read(value, field)
            self._advance(call, ts)
        except BadEvent:
            self.counts["bad_times"] += 1
            return call.ts
        return ts

    def _snapshot(self, call: Call, product: Product, ts_event: int, columns: Columns) -> None:
        """Publish a whole book, which closes the gap of the book. Raises BadEvent."""
        books.snapshot(call, product, ts_event, columns)
        self._came(call, self.book_channel, product.name)
        self._ledger.account(call, product, self.book_channel, ts_event)

    def _came(self, call: Call, channel: str, name: str) -> None:
        """Note that a snapshot of a channel of the ledger is here: it is waited for no more, and proves the channel."""
        self._repairs.came(channel, name)
        carrier = self._carriers[channel == self.trades_channel]
        if self._subscriptions.deliver(carrier, name):
            self._recovered(call, carrier, name)

    def _is_proven(self, call: Call, product: Product, sent: int, own: int) -> bool:
        """Return whether the venue's checksum is that of our book; a book with a wrong one is lost."""
        if sent == own:
            self.counts["checksums_right"] += 1
            return True
        self.counts["checksums_wrong"] += 1
        detail = f"the venue's checksum is {sent}, the book's {own}"
        self._lose(call, (product,), (self.book_channel,), CHECKSUM, detail)
        return False

    def _read_each(
        self, call: Call, items: Iterable[T], read: Callable[[T], tuple[str, T_READ]]
    ) -> tuple[dict[str, list[T_READ]], bool]:  # fmt: skip
        """Return what `read` makes of a list's items, by the venue's name of the product, and whether all were good.

        Each item that cannot be read is a dead letter by itself; other products are left out.
        """
        batches: dict[str, list[T_READ]] = {}

        def take(item: T) -> None:
            name, value = read(item)
            batch = batches.get(name)
            if batch is not None:
                batch.append(value)
            elif self._products.find(call, name) is not None:
                batches[name] = [value]

        whole = call.each(items, take)
        return batches, whole

    def _vouch(self, call: Call, ts: int) -> None:
        """State that nothing else happened until `ts`, of each product of which that is known."""
        for product in self._products:
            if not self._trades_wait(product):
                trades.heartbeat(call, product, ts)
            if product.book_valid:
                books.heartbeat(call, product, ts)

    def _trades_wait(self, product: Product) -> bool:
        """Return whether trades of the product may be unsubscribed, or may still come late."""
        channel, carrier = self.trades_channel, self._carriers[1]
        if self._ledger.is_pending(product, channel) or (channel, product.name) in self._repairs:
            return True
        name = self._subscription_of(product)
        if self._wanted is None and product.ts_trade is not None:  # a recording need not have the subscription
            return self._subscriptions.state(carrier, name) == "refused"
        return not self._is_subscribed(carrier, name)

    # --- Losses ---

    def _check_activity(self, call: Call) -> None:
        """Lose and request again what fell silent by itself while the rest of the connection goes on."""
        if not self._wanted:
            return  # nobody answers what is requested of a recording
        marks: dict[tuple[str, str], int | None] = {}
        for product in self._products:
            if product.instrument.status not in MATCHING:
                continue
            if product.book_valid:
                marks[self.book_channel, product.name] = product.ts_book
            if product.ts_trade is not None and not self._trades_wait(product):
                marks[self.trades_channel, product.name] = product.ts_trade
        for silent in self._activity.observe(call.ts, marks):
            product = self._products[silent.name]
            self.counts["silent"] += 1
            call.status(product.symbol, "silent", reason=STALE, channel=silent.channel, detail=silent.text())
            self._lose(call, (product,), (silent.channel,), STALE, silent.text())

    def _unreadable(self, call: Call) -> None:
        """Lose what a frame may have changed that cannot be read."""
        names, channels = self._concerned(call.payload)
        products = self._products if names is None else filter(None, map(self._products.get, names))
        self._lose(call, tuple(products), channels, GAP, "bad_frame")

    def _lose(
        self, call: Call, products: Iterable[Product], channels: Collection[str], reason: str, detail: str,
        *, expected: int | None = None, received: int | None = None,
    ) -> None:  # fmt: skip
        """Lose these channels of these products as far as they are subscribed or known, and request them again."""
        lost: list[str] = []
        lost_channels: set[str] = set()
        for product in products:
            touched = self._channels_of(product).intersection(channels)
            if not touched:
                continue
            lost.append(product.name)
            lost_channels |= touched
            if self.book_channel in touched:
                self._forget(product)
            self._ledger.lose(call, product, reason, touched, detail=detail, expected=expected, received=received,
                              channel=next(iter(touched)) if len(touched) == 1 else None)  # fmt: skip
        if lost:
            self.counts["gaps"] += 1
            self._repairs.lost(call, lost, sorted(lost_channels), detail if reason == GAP else reason)

    def _lose_all(self, call: Call, reason: str) -> None:
        """Lose every channel of every product: the connection is gone."""
        for product in self._products:
            self._forget(product)
            self._ledger.lose(call, product, reason, self._channels_of(product))
