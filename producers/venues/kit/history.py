"""What a venue's history is: pure code from a range of time to REST requests, and from their answers to rows.

Theory of operation.

1. An adapter knows one venue's REST interface. It owns no socket and no clock: it writes requests and reads answers.
   `producers.history.rest.Rest` performs them, under the adapter's `budget`.
2. A range is walked upwards in time, page by page. `candles(asked, cursor)` is the request of one page, with `cursor`
   None for the first; `parse_candles(asked, cursor, body, ts)` reads its answer into a `Page`, whose `cursor` is that
   of the next page, or None after the last. A cursor is the adapter's own text, which nothing else reads. Symbols go
   the same way, and so do trades of a venue that has them (`TradeHistory`).
3. A page holds what lies in [start, end), oldest first, whatever the venue's own order. Pages may overlap at their
   edges (venues page by the millisecond): the shell leaves out repeated rows, and candles that
   have not ended yet. A page may be empty and not the last, as where the venue had to be asked first for an id.
4. `Page.reached` is a time: everything in the range before it has been read. A job that stops there and resumes with
   `start=reached` misses nothing, and repeats at most trades of about that moment, which have the same ids. After the
   last page it is the end of the range, or an earlier time where the venue's history does not reach further yet.
5. `Page.missing` are spans of the range which the venue no longer has, or cannot send in full. Asking again does not
   help. A minute without a bar is not missing: see `sparse`.
   `Page.refused` are single items that cannot become events. They cost no other item: each is left out with its
   reason, and the time between its neighbours is `missing`, as `bad_item`, so that nothing there counts as complete.
6. Rows are those of the live feeds: `Candle` with `state="final"` and `origin="backfill"`; `Trade` with the id which
   the live feed gives to the same execution, so that de-duplication joins the two, and with the aggressor's side.
   Numbers are the venue's own digits. What the venue does not send of a candle is null (every venue sends `volume`;
   `quote_volume`, `buy_volume` and `trades` come only from venues whose adapters list them in `candle_fields`). An
   interval without trades is the marker that live candles use: no prices, zero sums.
7. `books` describes the venue's REST book where it can be compared with the stream's, because it has the number of an
   update or a time by the same clock. Otherwise it is the reason why not.

Errors. `instrument`, `candles` and `trades` raise BadEvent for a symbol (`bad_symbol`) or an interval
(`bad_interval`) that the venue does not have. The parsers raise BadEvent that names the field and the value for
an answer that is not of the documented form, or of which no item can be read. Where a venue reports a failure in the
body of a good answer they raise Unavailable (later: the shell tries again) or Refused. `producers.history.rest`
documents its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import Candle, Instrument, Trade
from producers.venues.kit.values import Columns

T = TypeVar("T")


class Left(NamedTuple):
    """How much weight a venue says is left, and after how many seconds it resets its count."""

    weight: float
    seconds: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a venue lets one address spend: `burst` at once, and `per_s` of new weight each second.

    `left` reads it from the headers of an answer (names in lower case) that arrived at a time (UTC seconds), because
    other processes may use the same address or account. None where the venue sends no such header.
    """

    burst: float
    per_s: float
    left: Callable[[Mapping[str, str], float], Left | None] | None = None


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How a venue is reached. Empty means the venue's own address, no key, the adapter's own default.

    `feed` is what Alpaca calls feed (`iex`, `sip`) and Databento dataset (`GLBX.MDP3`).
    """

    rest_url: str = ""
    key: str = ""
    secret: str = ""
    feed: str = ""

    def __repr__(self) -> str:
        return f"Access(rest_url={self.rest_url!r}, feed={self.feed!r})"  # keys stay out of logs


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request: `path` below the venue's REST address, or a whole address where the venue has several; its weight.

    A GET, or a POST of `form`, or of the JSON text `body`, where there is one.
    """

    path: str
    query: tuple[tuple[str, str], ...] = ()
    form: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    weight: float = 1


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A range of one instrument: [start, end) in UTC nanoseconds; `interval` for candles only.

    The shell rounds the range of candles inwards, so that both ends are multiples of the interval.
    """

    instrument: Instrument
    start: int
    end: int
    interval: str = ""


class Span(NamedTuple):
    """[start, end) in UTC nanoseconds, and why it is missing, for the ledger: `too_old`, `too_many` or `bad_item`."""

    start: int
    end: int
    reason: str


class RefusedItem(NamedTuple):
    """An item of an answer that cannot become an event: its bytes, and the error that names its field and value."""

    payload: bytes
    error: BadEvent


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """The contents of one answer: rows, oldest first; the next page's cursor; see the module for the others."""

    items: tuple[T, ...] = ()
    cursor: str | None = None
    reached: int = 0
    missing: tuple[Span, ...] = ()
    refused: tuple[RefusedItem, ...] = ()


class Chunk(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What the shell returns: events, oldest first, each once; `reached`, `missing` and `refused` as in `Page`.

    It may contain no events: then only time was covered, which a job keeps all the same.
    """

    events: tuple[T, ...] = ()
    reached: int = 0
    missing: tuple[Span, ...] = ()
    refused: tuple[RefusedItem, ...] = ()


class RestBook(NamedTuple):
    """A book as REST sends it. `mark` is its number, or its time in UTC nanoseconds (`RestBooks.by`).

    `columns` are the prices and sizes of bids and of asks, best level first.
    """

    mark: int
    columns: Columns


class RestBooks(msgspec.Struct, frozen=True, kw_only=True):
    """How a venue's REST book is compared with the updates of its stream, and how it is requested and read.

    `by` is what both have: the update's number, `BookUpdate.sequence`, or the time, `BookUpdate.ts_event`. For times,
    `slack_ns` is how far the two may differ for the same book; without slack, only equal times are the same book.
    """

    by: Literal["sequence", "time"]
    request: Callable[[Instrument], Request]
    read: Callable[[bytes], RestBook]
    slack_ns: int = 0


class History(Protocol):
    """One venue's history, pure. Times are integer UTC nanoseconds; `ts` is our clock when the answer came."""

    venue: str
    rest_url: str
    """Address that `Request.path` is below."""
    budget: Budget
    intervals: frozenset[str]
    """Which of INTERVALS its candles have."""
    sparse: bool
    """Whether an interval without a trade has no candle: then a missing candle is no gap."""
    candle_fields: frozenset[str]
    """Which of quote_volume, buy_volume and trades its candles have; the others are null."""
    candles_kept: int | None
    """How many candles of an interval, counted back from now, the venue keeps; None is all that there were."""
    books: RestBooks | str
    """How its REST book is compared with the stream, or why it cannot be."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers of each request, which may contain keys: never log them."""

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of our symbol (`BTC-USD`) or of the venue's own name, without asking the venue.

        Raises BadEvent when it can be neither. It may be a product that the venue does not trade.
        """

    def symbols(self, cursor: str | None) -> Request:
        """Return the request of one page of what the venue trades."""

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read that page. Raises BadEvent."""

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Return the request of one page of candles."""

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read that page. Raises BadEvent."""


@runtime_checkable
class TradeHistory(History, Protocol):
    """The history of a venue that also has trades of the past. `isinstance` distinguishes it from one without."""

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Return the request of one page of trades."""

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read that page. Raises BadEvent."""
