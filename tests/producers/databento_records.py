"""Records of Databento as tests make them, by its own codec, and what a feed makes of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import databento_dbn as codec

from marketdata import dbn
from marketdata.book import L2Book
from marketdata.events import (
    AnyEvent,
    BookUpdate,
)
from marketdata.feed import Send
from producers.venues.databento.feed import DatabentoFeed
from producers.venues.databento.gateway import Login, Session

TS = 1_700_000_000_000_000_000
DAY = dt.date(2023, 11, 14)
NONE = dbn.UNDEF_PRICE
NANO = 10**9
KEY = "db-0123456789abcdefghijklmnopqrs"


def metadata(
    mappings: dict[str, list[tuple[int, int, str]]] | None = None,
    *,
    schema: str | None = None,
    dataset: str = "GLBX.MDP3",
    version: int = 3,
) -> bytes:
    """Return metadata; a mapping is (from, to, number), in days after the first."""
    made = [
        SimpleNamespace(
            raw_symbol=name,
            intervals=[
                SimpleNamespace(start_date=DAY + dt.timedelta(start), end_date=DAY + dt.timedelta(end), symbol=number)
                for start, end, number in intervals
            ],
        )
        for name, intervals in (mappings or {}).items()
    ]
    return bytes(
        codec.Metadata(
            dataset=dataset, start=TS, stype_in=dbn.RAW_SYMBOL, stype_out=dbn.INSTRUMENT_ID, mappings=made,
            schema=None if schema is None else codec.Schema.from_str(schema), version=version,
        )
    )  # fmt: skip


ESM4 = {"ESM4": [(0, 9, "7")]}


def order(
    action: str, number: int = 0, price: int | None = None, size: int = 0, *, side: str = "N",
    flags: int = dbn.LAST, ts: int = TS, instrument: int = 7, publisher: int = 1, sequence: int = 5,
    ts_recv: int | None = None,
) -> bytes:  # fmt: skip
    """Return one record of orders; prices are whole."""
    nano = NONE if price is None else price * NANO
    return dbn.ORDER.pack(14, dbn.MBO, publisher, instrument, ts, number, nano, size, flags, 0, ord(action),
                          ord(side), ts if ts_recv is None else ts_recv, 0, sequence)  # fmt: skip


def trade(
    kind: int = dbn.TRADE, *, price: int = NANO, size: int = 1, action: str = "T", side: str = "B", flags: int = 0,
    ts: int = TS, sequence: int = 5, publisher: int = 1, levels: bytes = b"",
) -> bytes:  # fmt: skip
    """Return one record of the kinds that begin with a trade."""
    length = (dbn.TRADE_BODY.size + len(levels)) // 4
    return dbn.TRADE_BODY.pack(length, kind, publisher, 7, ts, price, size, ord(action), ord(side), flags, 0, ts, 0,
                               sequence) + levels  # fmt: skip


def feed_of(begin: bytes = b"") -> DatabentoFeed:
    """Return a feed that has read metadata."""
    feed = DatabentoFeed(line="databento/0")
    feed.opened(TS)
    feed.received(begin or metadata(ESM4), TS)
    return feed


def play(feed: DatabentoFeed, *records: bytes, ts: int = TS) -> list[AnyEvent]:
    """Return the events of records, each a frame."""
    return [out for record in records for out in feed.received(record, ts) if isinstance(out, AnyEvent)]


def books(events: Iterable[AnyEvent]) -> list[BookUpdate]:
    """Return the changes of books."""
    return [event for event in events if isinstance(event, BookUpdate)]


def fold(events: Iterable[AnyEvent]) -> tuple[L2Book, bool]:
    """Return the book that these events make, and whether it is good."""
    book, valid = L2Book(), False
    for event in books(events):
        if event.kind == "snapshot":
            book.bids.replace(event.bid_prices, event.bid_sizes)
            book.asks.replace(event.ask_prices, event.ask_sizes)
        elif event.kind == "update":
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
        else:
            book.clear()
        valid = event.valid
    return book, valid


MIDNIGHT = TS // dbn.DAY_NS * dbn.DAY_NS
PART = dbn.SNAPSHOT | dbn.BAD_TS_RECV


def part(number: int, price: int, size: int, side: str, **more: Any) -> bytes:
    """Return an order of the snapshot of midnight, older than it."""
    return order("A", number, price, size, side=side, **{"flags": PART, "ts": MIDNIGHT - 9, "ts_recv": MIDNIGHT} | more)


def laid_out(layout: list[tuple[str, str]], **values: int | bytes) -> bytes:
    """Return a record of a layout as Databento's codec describes it, with zeros where nothing is given."""
    parts = []
    for name, kind in layout:
        value, size = values.get(name, 0), int(kind[1:])
        parts.append(value.ljust(size, b"\0") if isinstance(value, bytes) else value.to_bytes(size, "little"))
    record = b"".join(part[: int(kind[1:])] for part, (_, kind) in zip(parts, layout, strict=True))
    return bytes([len(record) // 4]) + record[1:]


def definition(made: Any) -> bytes:
    """Return a future's definition, of the version of this class."""
    return laid_out(
        made._dtypes, rtype=dbn.DEFINITION, publisher_id=1, instrument_id=9, ts_event=TS, ts_recv=TS,
        min_price_increment=NANO // 4, raw_symbol=b"ESU4", asset=b"ES", currency=b"USD", instrument_class=b"F",
        expiration=TS + dbn.DAY_NS, unit_of_measure_qty=50 * NANO, strike_price=dbn.UNDEF_PRICE, settl_currency=b"USD",
        security_update_action=b"A", match_algorithm=b"F", user_defined_instrument=b"N", tick_rule=255,
    )  # fmt: skip


def bar(kind: int, *, start: int = TS // (60 * NANO) * 60 * NANO, low: int = NANO // 2) -> bytes:
    """Return a record of a bar."""
    return dbn.BAR.pack(14, kind, 1, 7, start, NANO, 3 * NANO, low, 2 * NANO, 12)


def live(schemas: tuple[str, ...] = ("mbo",)) -> DatabentoFeed:
    """Return a feed that was let in by the gateway."""
    feed = DatabentoFeed(line="databento/0", products=("ESM4",), token=Login(KEY, Session(schemas=schemas)))
    connect(feed)
    return feed


def acknowledged(schema: str, number: int = 1) -> bytes:
    """Return the gateway's acknowledgement of a subscription."""
    text = f"Subscription request {number} for {schema} data succeeded"
    return bytes(codec.SystemMsg(TS, text, codec.SystemCode(1)))


def connect(feed: DatabentoFeed, *, refused: str = "") -> list[str]:
    """Let a feed in, acknowledge its schemas but for one, and return what it sent."""
    feed.opened(TS)
    sent = [*feed.received(b"lsg_version=0.7\n", TS), *feed.received(b"cram=abc\n", TS)]
    sent += feed.received(b"success=1|session_id=5\n", TS)
    feed.received(metadata(ESM4), TS)
    lines = [out.frame.decode() for out in sent if isinstance(out, Send)]
    for number, schema in enumerate(feed.channels, start=1):
        if schema != refused:
            feed.received(acknowledged(schema, number), TS)
    return lines
