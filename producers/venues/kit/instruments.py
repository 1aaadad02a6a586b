"""The products of a line: each announced by its Instrument on first sight, and again when something about it is new.

Where a venue can be asked for its products, that is done on connecting, every ten minutes, and, at most once a minute,
when a trade is off the tick that we know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import Instrument
from producers.venues.kit import books, published, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.products import MATCHING, Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.values import clean

PRODUCTS_MAX = 5_000  # the largest venue has about 3,000

# A venue changes its products a few times a day at most; it is asked sooner when a trade is off the tick.
OLD_NS = 600 * SECOND_NS
SOONEST_NS = 60 * SECOND_NS

_Sent = TypeVar("_Sent")


class Listing:
    """The products of one line, by the venue's own names.

    `accepted` None takes every product that is seen. `describe` makes an instrument from nothing but the venue's name
    (its `ts_recv` is 0), and raises BadEvent when it is none.
    """

    def __init__(
        self, accepted: Collection[str] | None, describe: Callable[[str], Instrument], *, limit: int = PRODUCTS_MAX
    ) -> None:
        self._limit = limit
        self._accepted = None if accepted is None else frozenset(accepted)
        self._describe = describe
        self._products: dict[str, Product] = {}
        self._known: dict[str, Instrument] = {}
        self._ts_asked: int | None = None
        self._resume: Callable[[Call, Product], None] | None = None

    def __len__(self) -> int:
        return len(self._products)

    def __iter__(self) -> Iterator[Product]:
        return iter(self._products.values())

    def __contains__(self, name: str) -> bool:
        return name in self._products

    def __getitem__(self, name: str) -> Product:
        return self._products[name]

    def get(self, name: str) -> Product | None:
        """Return a product that was seen before, or None."""
        return self._products.get(name)

    def names(self) -> tuple[str, ...]:
        """Return the venue's names of the products that were seen."""
        return tuple(self._products)

    def accepts(self, name: str) -> bool:
        """Return whether this product was asked for."""
        return self._accepted is None or name in self._accepted

    def symbols(self, names: Iterable[str]) -> frozenset[str]:
        """Return our symbols of these products. Raises BadEvent for a name that is none."""
        return frozenset(self._describe(name).symbol for name in names)

    def resume(
        self, call: Call, ledger: Ledger, previous: PreviousRun, names: Iterable[str], *, has_book: bool = True,
        by_sequence: bool = False, carried: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        """Continue what an earlier process published: of these products now, of others on first sight.

        `carried` are the channels of the ledger that the feed carries; None: both. Raises BadEvent for a name that is
        none.
        """
        has_book = has_book and (carried is None or ledger.book in carried)
        has_trades = carried is None or ledger.trades in carried

        def continue_one(on: Call, product: Product) -> None:
            found = previous.of(product.symbol)
            if found is not None:
                published.resume(on, product, ledger, found, has_book=has_book, has_trades=has_trades,
                                 by_sequence=by_sequence)  # fmt: skip

        self._resume = continue_one
        for name in names:
            if self._describe(name).symbol in previous.symbols:
                self.find(call, name)

    def asked(self, ts: int) -> None:
        """Note that the venue is asked for its products now."""
        self._ts_asked = ts
        for product in self._products.values():
            product.off_tick = False

    def is_due(self, ts: int) -> bool:
        """Return whether to ask the venue for its products again, which is noted."""
        if self._ts_asked is None or ts - self._ts_asked < SOONEST_NS:
            return False
        if ts - self._ts_asked < OLD_NS and not any(product.off_tick for product in self._products.values()):
            return False
        self.asked(ts)
        return True

    def find(self, call: Call, name: str) -> Product | None:
        """Return the product, announced on first sight; None, counted as `ignored`, when it was not asked for.

        Raises BadEvent for a name that is none, or one too many.
        """
        product = self._products.get(name)
        if product is not None:
            return product
        if not self.accepts(name):
            call.line.counts["ignored"] += 1
            return None
        if len(self._products) >= self._limit:
            raise BadEvent("too_many_symbols", "product", name[:200])
        known = self._known.get(name) or self._describe(clean(name, "product"))
        product = self._products[name] = Product(msgspec.structs.replace(known, ts_recv=call.ts))
        product.name = name  # a venue may list two products by one name, which differ for us
        product.is_played = self._accepted is None
        call.out.append(product.instrument)
        if known.status not in MATCHING:
            call.status(product.symbol, "halted", reason=known.status)
        if self._resume is not None:
            self._resume(call, product)
        return product

    def know(self, call: Call, name: str, **learned: Any) -> None:
        """Keep what REST lists of a product until it is seen, or publish it now where it was seen."""
        for field, value in learned.items():
            if isinstance(value, str):
                clean(value, field)
        product = self._products.get(name)
        if product is not None:
            self.learn(call, product, **learned)
        elif self.accepts(name):
            self._known[name] = msgspec.structs.replace(self._describe(name), ts_recv=call.ts, **learned)

    def learn(self, call: Call, product: Product, *, detail: str = "", **learned: Any) -> None:
        """Take what is new about a product; a change between matching and halted is stated in each stream.

        `detail` is what the venue says of such a change, for a person.
        """
        before = product.instrument
        if all(getattr(before, field) == value for field, value in learned.items()):
            return
        product.learn(msgspec.structs.replace(before, ts_recv=call.ts, **learned))
        call.out.append(product.instrument)
        tick = product.instrument.tick_size
        if (
            before.tick_size is not None
            and tick is not None
            and decimal(tick, "tick_size") != decimal(before.tick_size, "tick_size")
        ):
            call.status(product.symbol, "venue_changed", reason="precision",
                        detail=f"tick_size: {before.tick_size} before, {tick} now")  # fmt: skip
        status = product.instrument.status
        if (status in MATCHING) == (before.status in MATCHING):
            return
        call.status(product.symbol, "resumed" if status in MATCHING else "halted", reason=status, detail=detail)
        trades.heartbeat(call, product, call.now)
        if product.book_valid:
            books.heartbeat(call, product, call.now)


def learn_each(
    call: Call, listed: Iterable[msgspec.Raw], read: msgspec.json.Decoder[_Sent], learn: Callable[[Call, _Sent], None]
) -> None:  # fmt: skip
    """Learn each product of a venue's list by itself: one that cannot be read does not cost its neighbours."""
    call.each(islice(listed, PRODUCTS_MAX), lambda raw: learn(call, read.decode(raw)), "bad_product")
