"""OKX's history: candles of any time, and the book.

Documents: "OKX API guide", https://www.okx.com/docs-v5/en/, sections "GET / Candlesticks history", "GET / Order book",
"GET / Trades history", "GET / Instruments" and "Error Code".

1. Candles: `history-candles`, newest first, at most 100; `after` and `before` are times in ms, and those between them
   are sent. A row is texts: `[ms, open, high, low, close, volume, ...]`, the volume in contracts for derivatives; one
   without volume becomes the marker without prices. Days by UTC are `1Dutc`.
2. Trades are not read: the stream joins several trades of one order under the id of the last ("Trades channel",
   `count`), and REST has single ones, which would count twice.
3. `books` has the time at which the book was generated, as the stream's updates have.
4. `code` is 0 in a good answer; 50001, 50004, 50011, 50013 and 50026 mean later, all others that the request is wrong.
   An address may ask for candles 20 times in 2 seconds; half is used.
"""

from __future__ import annotations

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent, Refused, Unavailable
from marketdata.events import Candle, Instrument
from producers.venues.kit.history import Access, Asked, Budget, Page, Request, RestBook, RestBooks
from producers.venues.kit.pages import PublicHistory, instruments, request, window, window_candles
from producers.venues.kit.reading import candle, decode, read_each
from producers.venues.kit.values import Text, check_decimals, levels, ms_text_ns
from producers.venues.okx.feed import OkxFeed
from producers.venues.okx.names import LISTED, describe, listed_fields

CANDLES = 100
LEVELS = 50
_KINDS = ("SPOT", "SWAP", "FUTURES")
_BARS = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1H", "4h": "4H", "1d": "1Dutc"}
_LATER = frozenset({"50001", "50004", "50011", "50013", "50026"})


class _Row(msgspec.Struct, array_like=True):
    ms: Text
    open: Text
    high: Text
    low: Text
    close: Text
    volume: Text


class _Book(msgspec.Struct):
    bids: msgspec.Raw
    asks: msgspec.Raw
    ts: Text


class _Answer(msgspec.Struct):
    code: str
    msg: str = ""
    data: list[msgspec.Raw] = []


_ANSWER = msgspec.json.Decoder(_Answer)
_ROW = msgspec.json.Decoder(_Row)
_BOOK = msgspec.json.Decoder(_Book)


class OkxHistory(PublicHistory):
    """OKX's adapter; see `producers.venues.kit.history`."""

    venue = OkxFeed.venue
    budget = Budget(burst=10, per_s=5)
    intervals = frozenset(_BARS)
    rows_max = CANDLES
    sparse = False

    def __init__(self, access: Access, rows_max: int | None = None) -> None:
        super().__init__(access, rows_max)
        self.books = RestBooks(by="time", request=_request_book, read=_read_book, slack_ns=SECOND_NS)

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `BTC-USDT`, which is the venue's own name too."""
        return describe(name)

    def symbols(self, cursor: str | None) -> Request:
        """Ask for the products of one kind; options are left out."""
        return request("api/v5/public/instruments", instType=cursor or _KINDS[0])

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read them; the next page is the next kind."""

        def read(raw: bytes) -> Instrument:
            sent = decode(LISTED, raw)
            return msgspec.structs.replace(describe(sent.name), ts_recv=ts, **listed_fields(sent))

        following = _KINDS[_KINDS.index(cursor or _KINDS[0]) + 1 :]
        return instruments(read_each(_data(body), read), following[0] if following else None)

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask for one window of candles."""
        start, end = window(asked, cursor, self._limit)
        return request("api/v5/market/history-candles", instId=asked.instrument.venue_symbol, bar=_BARS[asked.interval],
                       before=start // MILLISECOND_NS - 1, after=end // MILLISECOND_NS, limit=self._limit)  # fmt: skip

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read a window."""
        rows = read_each(_data(body), lambda raw: _candle(asked, decode(_ROW, raw), ts))
        return window_candles(asked, window(asked, cursor, self._limit), reversed(rows))


def _data(body: bytes) -> list[msgspec.Raw]:
    answer = decode(_ANSWER, body)
    if answer.code != "0":
        text = f"okx: {answer.code} {answer.msg}"[:200]
        raise Unavailable(text) if answer.code in _LATER else Refused(text)
    return answer.data


def _request_book(instrument: Instrument) -> Request:
    return request("api/v5/market/books", instId=instrument.venue_symbol, sz=LEVELS)


def _read_book(body: bytes) -> RestBook:
    data = _data(body)
    if len(data) != 1:
        raise BadEvent("bad_answer", "data", str(len(data)))
    sent = decode(_BOOK, bytes(data[0]))
    return RestBook(ms_text_ns(sent.ts, "ts"), (*levels(sent.bids, "bids"), *levels(sent.asks, "asks")))


def _candle(asked: Asked, row: _Row, ts: int) -> Candle:
    prices = (row.open, row.high, row.low, row.close)
    check_decimals([*prices, row.volume], "candle")
    return candle(asked, ms_text_ns(row.ms, "ts"), ts, prices, row.volume, empty=is_zero(row.volume))
