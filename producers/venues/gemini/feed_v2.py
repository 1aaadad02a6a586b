"""Gemini's archived market data v2, for recordings made before the present API; frames of that one are read as well.

DOCS is Gemini's "Market Data v2 (Archived)", https://developer.gemini.com/websocket/archived/v2.

1. The first `l2_updates` of a product on a connection is the whole book, with the last trades beside it; only that one
   has `trades` (DOCS). Later ones set absolute quantities, [side, price, quantity]; 0 removes the level.
2. They have no number, no checksum and no time: nothing but the connection proves them whole, and they get our own
   time. A frame that cannot be read, and a book that is crossed while orders match, is a loss.
3. `side` of a `trade` is the taker's (DOCS, "Level 2 Data": side of the taker in the trade), or `block`.
4. A `heartbeat` with a time came every 5 s (checked on a recording). It vouches for what happened up to a second
   before.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec

from marketdata.book import L2Book
from marketdata.errors import BadEvent
from marketdata.events import CROSSED, Trade
from producers.venues.gemini.feed import VOUCH_NS, GeminiFeed
from producers.venues.gemini.trades import fetch_trades, make_trade, number_of
from producers.venues.kit import books, listed_trades
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.values import Columns, Number, Text, check_trade, ms_ns, side_columns
from producers.venues.kit.venue import Signer


class _Level(msgspec.Struct, array_like=True, gc=False):
    side: Literal["buy", "sell"]
    price: Text
    size: Text


class _Trade(msgspec.Struct, gc=False):
    symbol: str
    price: Text
    quantity: Text
    side: str
    timestamp: Number
    tid: Number | None = None
    event: Number | None = msgspec.field(name="event_id", default=None)


class _Frame(msgspec.Struct):
    type: str = ""
    symbol: str = ""
    changes: list[_Level] | None = None
    trades: list[msgspec.Raw] | None = None
    result: str = ""
    reason: str = ""
    timestamp: Number = 0


_FRAME = msgspec.json.Decoder(_Frame)
_TRADE = msgspec.json.Decoder(_Trade)


class GeminiFeedV2(GeminiFeed):
    """One line of a recording."""

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        super().__init__(line=line, products=products, token=token)
        self._books: dict[str, L2Book] = {}

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to see it cross, by the venue's name; None without one."""
        return self._books.get(name)

    def _read(self, call: Call) -> None:
        sent = _FRAME.decode(call.payload)
        if not sent.type and not sent.result:
            super()._read(call)
        elif sent.type == "l2_updates":
            self._book(call, sent)
        elif sent.type == "trade":
            self._trade_v2(call, _TRADE.decode(call.payload))
        elif sent.type == "heartbeat":
            with call.refusing("bad_frame"):  # it may be wrong itself, but changes no book
                self._heartbeat(call, sent.timestamp)
        elif sent.result == "error":
            call.dead("venue_error", sent.reason, field="reason", value=sent.reason[:200])
        else:
            self.counts["ignored"] += 1

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        names, channels = super()._concerned(payload)
        is_trade = b'"trade"' in payload and b'"changes"' not in payload
        return names, (self.trades_channel,) if is_trade else channels

    def _heartbeat(self, call: Call, ms: int) -> None:
        self.counts["heartbeats"] += 1
        if not ms:
            return  # as an older interface sends it: it vouches for nothing
        ts = call.venue_time(ms_ns(ms, "timestamp"), "timestamp")
        self._vouch(call, ts - VOUCH_NS)

    def _book(self, call: Call, sent: _Frame) -> None:
        if sent.changes is None:
            raise BadEvent("bad_frame", "changes", "")
        columns = _columns(sent.changes)
        product = self._find(call, sent.symbol)
        if product is None:
            return
        book = self._books.setdefault(product.name, L2Book())
        if sent.trades is None:
            if not product.book_valid:
                self.counts["deltas_before_snapshot"] += 1
                return
            book.apply(columns)
        else:
            book.replace(columns)
        if book.is_crossed() and product.validity["valid"]:
            self._lose(call, (product,), (self.book_channel,), CROSSED, "crossed")
        elif sent.trades is None:
            books.update(call, product, call.ts, columns)
        else:
            self._snapshot(call, product, call.ts, columns)
            self._listed_beside(call, product, sent.trades)

    def _listed_beside(self, call: Call, product: Product, items: list[msgspec.Raw]) -> None:
        """Take the last trades, which are beside a whole book."""
        batches, whole = self._read_each(call, items, lambda raw: (product.name, _read_trade(_TRADE.decode(raw))))
        batch = sorted(batches.get(product.name, ()), key=number_of)
        if listed_trades.take(call, product, self._ledger, batch, again="repeats") and whole:
            self._ledger.account(call, product, self.trades_channel, call.ts)
        elif self._ledger.is_pending(product, self.trades_channel):
            call.out.append(fetch_trades(product))

    def _trade_v2(self, call: Call, sent: _Trade) -> None:
        trade = _read_trade(sent)
        product = self._find(call, sent.symbol)
        if product is not None:
            self._take_live(call, product, trade)


def _columns(changes: list[_Level]) -> Columns:
    sides, prices = [level.side for level in changes], [level.price for level in changes]
    return side_columns(sides, "buy", prices, [level.size for level in changes], "changes")


def _read_trade(sent: _Trade) -> Trade:
    check_trade(sent.price, sent.quantity, ("price", "quantity"))
    if sent.tid is not None:
        name = str(sent.tid)
    elif sent.event is not None:
        # Before there was a `tid`: one event may fill several orders, each at a price and size of its own.
        name = f"{sent.event}:{sent.price}:{sent.quantity}"
    else:
        raise BadEvent("bad_trade_id", "tid", "")
    return make_trade(name, ms_ns(sent.timestamp, "timestamp"), sent.price, sent.quantity, sent.side)
