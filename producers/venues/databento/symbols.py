"""The instruments of Databento's records: found by publisher and number, named by the mappings of the record's date.

A venue's data in a dataset of several venues has the venue behind the symbol (`AAPL@XCIS`). An instrument that no
mapping knows, where there are mappings, cannot be read.
"""

from __future__ import annotations

from marketdata import dbn
from marketdata.errors import BadEvent
from marketdata.events import GAP, Instrument
from producers.venues.databento.state import State
from producers.venues.kit import books
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.products import Product

# Kinds of instruments by what a dataset is, until its definition says so: only what is owned has no price below zero.
_EQUITIES = frozenset(
    {"XNAS", "XBOS", "XPSX", "XNYS", "XASE", "XCHI", "XCIS", "ARCX", "BATS", "BATY", "EDGA", "EDGX", "IEXG", "MEMX",
     "EPRL", "DBEQ", "EQUS"}
)  # fmt: skip


class Symbols:
    """The instruments of one line: `names` are the mappings, `instruments` what was seen, by publisher and number."""

    def __init__(self, products: Listing, ledger: Ledger) -> None:
        self.names = dbn.Symbols()
        self.instruments: dict[int, State] = {}
        self._products = products
        self._ledger = ledger
        self._kind = "future"
        self._venues: dict[int, str] = {}
        self._owners: dict[str, State] = {}

    def learn_dataset(self, dataset: str) -> None:
        """Take the kind of instruments that a dataset has, until their definitions come."""
        name = dataset.partition(".")[0]
        self._kind = "equity" if name in _EQUITIES else "option" if name == "OPRA" else "future"

    def map(self, call: Call, number: int, symbol: str, start: int, end: int) -> None:
        """Take which symbol a number means from `start` until `end`, UTC nanoseconds."""
        self.names.learn(number, symbol, start, end)
        for publisher in self._venues:  # far fewer than instruments, each of which is mapped on every connection
            instrument = self.instruments.get(publisher << 32 | number)
            if instrument is not None:
                instrument.until = min(instrument.until, max(start, call.now))  # look again

    def find(self, call: Call, publisher: int, number: int, ts: int) -> State:
        """Return an instrument, found by its symbol at this time. Raises BadEvent when it has none."""
        key = publisher << 32 | number
        instrument = self.instruments.get(key)
        if instrument is not None and ts < instrument.until:
            return instrument
        found = self.names.find(number, ts)
        if found is None and len(self.names):
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
            self.instruments[key] = owner
            return owner
        if product.book_valid:  # the name means another instrument from now on
            books.clear(call, product, GAP)
        made = self.instruments[key] = self._owners[name] = State(number, product, until)
        if product.trades_lost:  # an earlier process read it, and nobody knows how far
            self._ledger.give_up_trades(call, product, "an earlier process was reading it")
        return made

    def describe(self, name: str) -> Instrument:
        """Return what a name alone shows."""
        symbol = name.partition("@")[0]
        return Instrument(venue="databento", symbol=name, ts_recv=0, venue_symbol=symbol, base_currency=symbol,
                          quote_currency="", kind=self._kind)  # fmt: skip

    def owner_of(self, product: Product | None) -> State | None:
        """Return the instrument that has a product's name now; None for one of which no record was read."""
        return None if product is None else self._owners.get(product.name)

    def _venue_of(self, publisher: int) -> str:
        """Return what distinguishes the venues of a dataset; nothing if the dataset has a single venue."""
        known = self._venues.get(publisher)
        if known is None:
            parts = dbn.publisher(publisher) if publisher else ("", "", "")
            known = f"@{publisher}" if parts is None else "" if parts[0] == parts[2] else f"@{parts[2]}"
            self._venues[publisher] = known
        return known
