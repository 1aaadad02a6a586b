"""What a line asks its venue for again, on the open connection: new snapshots after a loss, each with a deadline.

1. A loss asks for new snapshots of the products and channels that it touched; the third within a minute gives the
   connection up instead, since a snapshot costs both sides a lot. But where other books are good the connection is not
   what is wrong: one product that the venue sends wrongly must not cost them theirs. Then its own third loss is
   repaired ten seconds later.
2. A snapshot that does not come in time is asked for once more. After that a book's gives the connection up, unless
   the product never had one: it may not exist, and must not cost the others their connection. Missing trades then stay
   on the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from marketdata.feed import Output, Reconnect
from producers.venues.kit import numbered_trades
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.losses import Losses
from producers.venues.kit.outstanding import Outstanding

# Returns what brings new snapshots of a channel's products; nothing where the venue has none.
Order = Callable[[Call, str, Collection[str]], Iterable[Output]]


class Repairs:
    """The repairs of one line. `awaited` are the channels whose snapshots have a deadline; None: all."""

    __slots__ = ("_asked", "_awaited", "_ledger", "_losses", "_losses_of", "_order", "_products")

    def __init__(
        self, products: Listing, ledger: Ledger, order: Order, *, awaited: Collection[str] | None = None
    ) -> None:  # fmt: skip
        self._products = products
        self._ledger = ledger
        self._order = order
        self._awaited = {ledger.book, ledger.trades} if awaited is None else set(awaited)
        self._asked = Outstanding()
        self._losses = Losses()
        self._losses_of: dict[str, Losses] = {}

    def __contains__(self, what: tuple[str, str]) -> bool:
        """Return whether a snapshot, as (channel, name), is waited for."""
        return what in self._asked

    def begin(self) -> None:
        """Start over: the connection is new, or gone."""
        self._asked.clear()
        self._losses.clear()
        self._losses_of.clear()

    def wait(self, channel: str, name: str, ts: int, *, tries: int = 0) -> None:
        """Wait for a snapshot that a subscription (or REST) brings; after `tries` it is not asked for again."""
        self._asked.ask(channel, name, ts, tries=tries)

    def came(self, channel: str, name: str) -> None:
        """Stop waiting: it is here."""
        self._asked.came(channel, name)

    def lost(self, call: Call, names: Collection[str], channels: Iterable[str], reason: str) -> None:
        """Ask for new snapshots in place, or, when that was needed too often, later or on a new connection."""
        many = self._losses.too_many(call.ts)
        often = [name for name in names if self._losses_of.setdefault(name, Losses()).too_many(call.ts)]
        if not any(product.book_valid for product in self._products):
            if many:
                call.out.append(Reconnect("gaps"))
                return
            often = []
        for channel in channels:
            self.again(call, channel, [name for name in names if name not in often], reason)
            for name in often if channel in self._awaited else ():
                self._asked.ask(channel, name, call.ts)

    def again(self, call: Call, channel: str, names: Collection[str], reason: str, *, tries: int = 0) -> None:
        """Ask for new snapshots of one channel, and report it where a gap is open."""
        orders = list(self._order(call, channel, names)) if names else []
        if not orders:
            return
        call.out += orders
        call.line.counts["resyncs"] += 1
        for name in names:
            if channel in self._awaited:
                self._asked.ask(channel, name, call.ts, tries=tries)
            product = self._products.get(name)
            if product is None:
                continue
            skipped = product.trade_gaps[-1:] if channel == self._ledger.trades else []
            gap = skipped[0] if skipped else product.gap
            if gap is not None:
                call.status(product.symbol, "resync", gap, reason=reason, channel=channel)

    def ticked(self, call: Call) -> None:
        """Handle the snapshots that did not come in time."""
        for channel, name, tries in self._asked.take_overdue(call.ts):
            product = self._products.get(name)
            if channel == self._ledger.trades and (tries or product is None):
                if product is not None:
                    numbered_trades.give_up(call, product, self._ledger, answered=False)
            elif tries and product is not None and product.book_seen:
                call.out.append(Reconnect("no_snapshot"))
            else:
                self.again(call, channel, (name,), "no_snapshot", tries=tries + 1)
