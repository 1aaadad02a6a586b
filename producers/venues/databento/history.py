"""Databento's history: bars and trades of one symbol in its binary encoding (DBN), read as the live feed reads them.

Documents: "API reference - Historical (HTTP)", https://databento.com/docs/api-reference-historical, with
"timeseries.get_range", "metadata.get_dataset_range", "symbology.resolve" and "Authentication".

1. Every call is a POST of a form, with the key as the user name of HTTP basic authentication and no password.
2. A range that ends after the data do is refused, and without a live licence the data end some time ago. So the
   first request is `metadata.get_dataset_range`, and no page goes beyond its answer; `reached` is that time then.
3. Bars: schemas `ohlcv-1m`, `-1h`, `-1d`, labelled by their start; an interval without trades has none. The
   next page begins after the last bar.
4. Trades: `start` and `end` select by `ts_recv` ("Filters on ts_recv if it exists in the schema"), which is a
   moment later than `ts_event`. The range is therefore requested with some time after it, and rows outside of it are
   left out. The next page begins with the last record's `ts_recv`, so that the trades of one moment come together: the
   feed's ids count the trades that share time and sequence.
5. `feed` reads the rows as it reads those of a file, with the same ids, sides, symbols and prices. What would become a
   dead letter there is left out, with its reason.
6. The dataset is `Access.feed`, such as GLBX.MDP3. Where a dataset has several venues, `AAPL@XCIS` names one.
7. What is fetched is paid for by its size. A page asks for `LIMIT` records.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from marketdata import dbn
from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent, SettingsError
from marketdata.events import Candle, CandleHistory, DeadLetter, Instrument, Trade, Trades
from marketdata.feed import Output
from producers.venues.databento.feed import DatabentoFeed
from producers.venues.kit.history import Access, Asked, Budget, Page, RefusedItem, Request, RestBooks, Span
from producers.venues.kit.reading import candle, candle_span, check_time, decode, sift, trade_span, whole
from producers.venues.kit.values import iso_ns

DATASET = "GLBX.MDP3"
LIMIT = 100_000
# Longer than any feed handler keeps a packet, with room; what it costs is at most the trades of this time.
RECEIVED_WITHIN_NS = 5 * SECOND_NS

_SCHEMAS = {"1m": "ohlcv-1m", "1h": "ohlcv-1h", "1d": "ohlcv-1d"}
_NAME = re.compile(r"[A-Z0-9][A-Z0-9 .:/_+-]{0,69}(?:@[A-Z0-9]{1,8})?", re.ASCII)


class _Span(msgspec.Struct):
    end: str


class _DatasetRange(msgspec.Struct):
    end: str
    by_schema: dict[str, _Span] = msgspec.field(name="schema", default_factory=dict)


class _Resolved(msgspec.Struct):
    result: dict[str, list[dict[str, str]]]


_RANGE = msgspec.json.Decoder(_DatasetRange)
_RESOLVED = msgspec.json.Decoder(_Resolved)


class DatabentoHistory:
    """Databento's adapter; see `producers.venues.kit.history`. Raises SettingsError without a key."""

    venue = "databento"
    budget = Budget(burst=10, per_s=10)
    intervals = frozenset(_SCHEMAS)
    sparse = True
    candle_fields: frozenset[str] = frozenset()
    candles_kept: int | None = None
    books: RestBooks | str = "REST sends recorded data, and no book of now"

    def __init__(self, access: Access, limit: int = LIMIT) -> None:
        if not access.key:
            raise SettingsError("Databento's history needs a key (TICKSTREAM_HISTORY_KEY)")
        self.rest_url = access.rest_url
        self._key = access.key
        self._dataset = access.feed or DATASET
        self._limit = limit

    def headers(self) -> Mapping[str, str]:
        """Return the key as a user name without a password."""
        return {"Authorization": f"Basic {b64encode(f'{self._key}:'.encode()).decode()}"}

    def instrument(self, name: str) -> Instrument:
        """Return the instrument of `ESU4`, or of `AAPL@XCIS`: the names of both sides are one."""
        if _NAME.fullmatch(name) is None:
            raise BadEvent("bad_symbol", "symbol", name[:200])
        symbol = name.partition("@")[0]
        return Instrument(venue=self.venue, symbol=name, ts_recv=0, venue_symbol=symbol, base_currency=symbol,
                          quote_currency="", kind="future")  # fmt: skip

    def symbols(self, cursor: str | None) -> Request:
        """Ask until when the dataset reaches, then for the symbols of that day."""
        if cursor is None:
            return self._dataset_range()
        return self._post("symbology.resolve", symbols="ALL_SYMBOLS", stype_in="raw_symbol",
                          stype_out="instrument_id", start_date=cursor)  # fmt: skip

    def parse_symbols(self, cursor: str | None, body: bytes, ts: int) -> Page[Instrument]:
        """Read the day, then the symbols."""
        if cursor is None:
            return Page(cursor=decode(_RANGE, body).end[: len("2026-01-01")])
        names = sorted(name for name in decode(_RESOLVED, body).result if _NAME.fullmatch(name))
        return Page(items=tuple(msgspec.structs.replace(self.instrument(name), ts_recv=ts) for name in names))

    def candles(self, asked: Asked, cursor: str | None) -> Request:
        """Ask until when the dataset reaches, then for bars."""
        if asked.interval not in _SCHEMAS:
            raise BadEvent("bad_interval", "interval", asked.interval)
        if cursor is None:
            return self._dataset_range()
        start, end = _bounds(cursor)
        return self._records(asked, _SCHEMAS[asked.interval], start, end)

    def parse_candles(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Candle]:
        """Read the dataset's end, or bars; the next page begins where the last bar ends."""
        if cursor is None:
            return self._first(asked, body, _SCHEMAS[asked.interval])
        start, end = _bounds(cursor)
        rows: list[Candle | RefusedItem] = []
        for event in _events(asked, body, ts):
            if isinstance(event, RefusedItem):
                rows.append(event)
            elif isinstance(event, CandleHistory) and event.symbol == asked.instrument.symbol:
                prices = (event.opens[0], event.highs[0], event.lows[0], event.closes[0])
                rows.append(candle(asked, event.start, ts, prices, event.volumes[0]))
        found = sift(rows, candle_span, max(start, asked.start), min(end, asked.end))
        reached = found.items[-1].end if found.items else end
        following = None if reached >= end else f"{reached}:{end}"
        return Page(items=found.items, reached=min(reached, end), cursor=following, missing=found.missing,
                    refused=found.refused)  # fmt: skip

    def trades(self, asked: Asked, cursor: str | None) -> Request:
        """Ask until when the dataset reaches, then for trades."""
        if cursor is None:
            return self._dataset_range()
        start, end = _bounds(cursor)
        return self._records(asked, "trades", start, end)

    def parse_trades(self, asked: Asked, cursor: str | None, body: bytes, ts: int) -> Page[Trade]:
        """Read the dataset's end, or trades; the next page begins with the last record's moment."""
        if cursor is None:
            return self._first(asked, body, "trades", RECEIVED_WITHIN_NS)
        start, end = _bounds(cursor)
        rows: list[Trade | RefusedItem] = []
        for event in _events(asked, body, ts):
            if isinstance(event, RefusedItem):
                rows.append(event)
            elif isinstance(event, Trades) and event.symbol == asked.instrument.symbol:
                rows += event.trades
        found = sift(rows, trade_span, max(start, asked.start), min(end, asked.end))
        received = list(_received(body, ts))
        done = min(end, asked.end)
        if not received:
            return Page(items=found.items, reached=done, missing=found.missing, refused=found.refused)
        following = received[-1]
        missing = found.missing
        if following <= start:
            following = start + 1
            if len(received) >= self._limit:
                missing += (Span(start, following, "too_many"),)
        if following >= end:
            return Page(items=found.items, reached=done, missing=missing, refused=found.refused)
        # What was received before the last record happened before it too, but for the time that receiving takes.
        reached = max(asked.start, min(done, following - RECEIVED_WITHIN_NS))
        return Page(items=found.items, reached=reached, cursor=f"{following}:{end}", missing=missing,
                    refused=found.refused)  # fmt: skip

    def _first(self, asked: Asked, body: bytes, schema: str, behind_ns: int = 0) -> Page[Any]:
        """Return a page without rows: the range as far as the dataset has it."""
        found = decode(_RANGE, body)
        available = iso_ns(found.by_schema[schema].end if schema in found.by_schema else found.end, "end")
        end = min(asked.end + behind_ns, available)
        if end <= asked.start:
            return Page(reached=asked.start)
        return Page(reached=asked.start, cursor=f"{asked.start}:{end}")

    def _dataset_range(self) -> Request:
        return self._post("metadata.get_dataset_range")

    def _records(self, asked: Asked, schema: str, start: int, end: int) -> Request:
        return self._post("timeseries.get_range", symbols=asked.instrument.venue_symbol, schema=schema,
                          stype_in="raw_symbol", stype_out="instrument_id", start=str(start), end=str(end),
                          encoding="dbn", compression="none", limit=str(self._limit))  # fmt: skip

    def _post(self, method: str, **form: str) -> Request:
        return Request(path=f"v0/{method}", form=(("dataset", self._dataset), *form.items()))


def _bounds(cursor: str) -> tuple[int, int]:
    start, _, end = cursor.partition(":")
    return whole(start, "cursor"), whole(end, "cursor")


def _events(asked: Asked, body: bytes, ts: int) -> Iterator[Output | RefusedItem]:
    """Yield what the feed makes of these records, and each record that it cannot read.

    Raises BadEvent for an answer that is no sequence of records, and for a symbol that was not requested.
    """
    if body[: len(dbn.MAGIC)] != dbn.MAGIC:
        raise BadEvent("bad_answer", "body", body[:200].decode("utf-8", "replace"))
    for event in DatabentoFeed(line="databento/history").received(body, ts):
        if isinstance(event, DeadLetter):
            error = BadEvent(event.reason, event.field or "record", event.value or event.detail)
            if event.reason == "bad_frame":
                raise error
            yield RefusedItem(event.payload, error)
            continue
        # The same of another venue of the dataset has that behind it.
        if isinstance(event, Instrument) and event.venue_symbol.partition("#")[0] != asked.instrument.venue_symbol:
            raise BadEvent("bad_symbol", "symbol", event.symbol)
        yield event


def _received(body: bytes, now: int) -> Iterator[int]:
    """Yield when each record was received; the feed has refused what cannot be walked."""
    at = dbn.metadata_size(body) or len(body)
    while at < len(body):
        ts = dbn.received_at(body, at)
        if ts is None:
            raise BadEvent("bad_time", "ts_recv", at)
        check_time(ts, now, "ts_recv")
        yield ts
        at += body[at] * dbn.WORD
