"""Databento's binary records (DBN): their boundaries, their fields and their instruments.

Theory of operation. Source: "Databento Binary Encoding", "Schemas" and "Symbology" in Databento's documentation
(https://databento.com/docs); `databento_dbn` is Databento's own codec.

1. A stream begins with metadata (`DBN`, a version, its length), followed by records. A record's first byte is its
   length in four-byte words, its second the kind (`rtype`), so records can be split without decoding them.
2. The frequent kinds have the same layout in every version, and are decoded here with one `unpack` each. Definitions,
   symbol mappings and gateway messages differ between versions, so `databento_dbn` decodes them.
3. Prices are integers in units of 1e-9; `UNDEF_PRICE` means no price. Times are UTC nanoseconds.
4. A record identifies its instrument by a number, which maps to a symbol for a range of dates. Files contain these
   mappings in their metadata; a live gateway sends them as records.
"""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_right
from collections.abc import Iterator
from struct import Struct

import databento_dbn

from marketdata.clock import SECOND_NS
from marketdata.orders import Scale

# The codec's type hints declare wrong types for its enums' members.
RAW_SYMBOL = databento_dbn.SType.from_str("raw_symbol")
INSTRUMENT_ID = databento_dbn.SType.from_str("instrument_id")
AS_IS = databento_dbn.VersionUpgradePolicy.from_int(1)
UPGRADED = databento_dbn.VersionUpgradePolicy.from_int(3)

MAGIC = b"DBN"
PREFIX = Struct("<3sBI")  # DBN, version, length of the rest
METADATA_BYTES_MAX = 256 * 1024 * 1024
WORD = 4

UNDEF_PRICE = 2**63 - 1
INT64_MAX = 2**63 - 1
DAY_NS = 86_400 * SECOND_NS

# --- The kinds of records ---

TRADE = 0x00
MBP_1 = 0x01
MBP_10 = 0x0A
STATUS = 0x12
DEFINITION = 0x13
IMBALANCE = 0x14
ERROR = 0x15
SYMBOL_MAPPING = 0x16
SYSTEM = 0x17
STATISTICS = 0x18
OHLCV_1S = 0x20
OHLCV_1M = 0x21
OHLCV_1H = 0x22
OHLCV_1D = 0x23
OHLCV_EOD = 0x24
MBO = 0xA0
CMBP_1 = 0xB1
CBBO_1S = 0xC0
CBBO_1M = 0xC1
TCBBO = 0xC2
BBO_1S = 0xC3
BBO_1M = 0xC4
TBBO = 0xC5

# Bars by their length.
BARS = {
    OHLCV_1S: ("1s", SECOND_NS),
    OHLCV_1M: ("1m", 60 * SECOND_NS),
    OHLCV_1H: ("1h", 3_600 * SECOND_NS),
    OHLCV_1D: ("1d", DAY_NS),
    OHLCV_EOD: ("1d", DAY_NS),
}

# --- Flags ---

LAST = 0x80  # the last record of one event of the venue, for this instrument
TOB = 0x40  # the best level of a side, not an order
SNAPSHOT = 0x20
MBP = 0x10  # a level, not an order
BAD_TS_RECV = 0x08
MAYBE_BAD_BOOK = 0x04  # an unrecoverable gap in the channel

# --- Layouts. Every record begins with length, kind, publisher, instrument and time of the event. ---

HEADER = Struct("<BBHIQ")
# order, price, size, flags, channel, action, side, ts_recv, ts_in_delta, sequence
ORDER = Struct("<BBHIQQqIBBBBQiI")
# price, size, action, side, flags, depth, ts_recv, ts_in_delta, sequence
TRADE_BODY = Struct("<BBHIQqIBBBBQiI")
# bid and ask price, bid and ask size; then the numbers of orders, or the publishers of the quotes
LEVEL = Struct("<qqII8x")
LEVELS_10 = Struct("<" + "qqII8x" * 10)
LEVEL_COUNTED = Struct("<qqIIII")
# ts_recv, action, reason, trading event, is trading, is quoting, short sales are restricted
STATUS_BODY = Struct("<BBHIQQHHHBBB7x")
# open, high, low, close, volume
BAR = Struct("<BBHIQqqqqQ")

_WITH_LEVEL = TRADE_BODY.size + LEVEL.size

# Sizes in bytes of the kinds decoded here. On request a gateway appends its own time to each record.
SIZES = {
    TRADE: TRADE_BODY.size,
    MBP_1: _WITH_LEVEL,
    MBP_10: TRADE_BODY.size + LEVELS_10.size,
    CMBP_1: _WITH_LEVEL,
    CBBO_1S: _WITH_LEVEL,
    CBBO_1M: _WITH_LEVEL,
    TCBBO: _WITH_LEVEL,
    TBBO: _WITH_LEVEL,
    BBO_1S: _WITH_LEVEL,
    BBO_1M: _WITH_LEVEL,
    STATUS: STATUS_BODY.size,
    MBO: ORDER.size,
    **dict.fromkeys(BARS, BAR.size),
}

_TIME = Struct("<Q")
# Offset of the time of receipt in each kind; other kinds contain only the time of the event.
_RECEIVED_AT = {
    MBO: 40,
    STATUS: 16,
    DEFINITION: 16,
    IMBALANCE: 16,
    STATISTICS: 16,
    **dict.fromkeys((TRADE, MBP_1, MBP_10, CMBP_1, CBBO_1S, CBBO_1M, TCBBO, TBBO, BBO_1S, BBO_1M), 32),
}

_PUBLISHER = re.compile(r"publisher_id=([A-Z0-9]+)\.([A-Z0-9]+)\.([A-Z0-9]+) ")


def metadata_size(data: bytes) -> int | None:
    """Return the size in bytes of the metadata at the beginning of a stream; None while it is unknown.

    Raises ValueError when the bytes are not metadata.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise ValueError("the stream does not begin with DBN")
    if len(data) < PREFIX.size:
        return None
    length: int = PREFIX.unpack_from(data)[2]
    if length > METADATA_BYTES_MAX:
        raise ValueError(f"metadata of {length} bytes")
    return PREFIX.size + length


def decode_metadata(data: bytes) -> databento_dbn.Metadata:
    """Return the metadata of a stream. Raises ValueError when they cannot be read."""
    try:
        decoder = databento_dbn.DBNDecoder(upgrade_policy=AS_IS)
        found = decoder.write_and_decode(data)
    except (databento_dbn.DBNError, ValueError, TypeError) as error:
        raise ValueError(str(error)) from None
    if not found or not isinstance(found[0], databento_dbn.Metadata):
        raise ValueError("the metadata are truncated")
    return found[0]


def whole_records(data: bytes) -> int:
    """Return the size in bytes of the complete valid records at the start of `data`, which begins with a record.

    Raises ValueError when the first record is shorter than a header.
    """
    at, end = 0, len(data)
    while at < end:
        size = data[at] * WORD
        if size < HEADER.size:
            if at:
                break
            raise ValueError(f"a record of {size} bytes")
        if at + size > end:
            break
        at += size
    return at


def received_at(data: bytes, at: int = 0) -> int | None:
    """Return a record's time of receipt, or else its event time; None if it has neither.

    For a bar this is the end of its interval.
    """
    kind, size = data[at + 1], data[at] * WORD
    offset = _RECEIVED_AT.get(kind)
    if offset is not None and size >= offset + _TIME.size:
        ts: int = _TIME.unpack_from(data, at + offset)[0]
        if ts <= INT64_MAX:
            return ts
    ts = HEADER.unpack_from(data, at)[4] + BARS.get(kind, ("", 0))[1]
    return ts if ts <= INT64_MAX else None


class Prices:
    """Converts prices to exact decimal strings without trailing zeros; cached, because few prices repeat often."""

    __slots__ = ("_known", "_scale")

    def __init__(self) -> None:
        self._scale = Scale(9)
        self._known: dict[int, str] = {}

    def text(self, price: int) -> str:
        """Return a defined price as a decimal string."""
        known = self._known.get(price)
        if known is None:
            if len(self._known) > 100_000:
                self._known.clear()
            known = self._known[price] = self._scale.text(price)
        return known


def publisher(number: int) -> tuple[str, str, str] | None:
    """Return dataset, feed and venue of a publisher's number, from Databento's codec: ("XNAS", "ITCH", "XNAS").

    The codec offers no lookup, but the text form of a record contains the name.
    """
    found = _PUBLISHER.search(str(databento_dbn.OHLCVMsg(OHLCV_1M, number, 0, 0, 0, 0, 0, 0, 0)))
    return None if found is None else (found[1], found[2], found[3])


class Symbols:
    """Maps instrument numbers to symbols, each for a range of time."""

    __slots__ = ("_starts", "_symbols")

    def __init__(self) -> None:
        # By instrument: the sorted starts of its intervals, and (end, symbol) of each.
        self._starts: dict[int, list[int]] = {}
        self._symbols: dict[int, list[tuple[int, str]]] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def learn(self, instrument: int, symbol: str, start: int = 0, end: int = INT64_MAX) -> None:
        """Add the symbol of a number for [start, end), UTC nanoseconds."""
        starts, symbols = self._starts.setdefault(instrument, []), self._symbols.setdefault(instrument, [])
        place = bisect_right(starts, start)
        if place and starts[place - 1] == start:
            symbols[place - 1] = (end, symbol)
        else:
            starts.insert(place, start)
            symbols.insert(place, (end, symbol))

    def find(self, instrument: int, ts: int) -> tuple[str, int] | None:
        """Return the symbol of a number at a time, and until when it applies; None for an unknown number.

        Outside of all intervals, the nearest earlier one applies, or else the first, until the next begins.
        """
        starts = self._starts.get(instrument)
        if not starts:
            return None
        place = bisect_right(starts, ts)
        end, symbol = self._symbols[instrument][max(place - 1, 0)]
        until = starts[place] if place < len(starts) else INT64_MAX
        return symbol, min(end, until) if place and ts < end else until

    def learn_metadata(self, metadata: databento_dbn.Metadata) -> None:
        """Add the mappings in a file's metadata."""
        for name, instrument, start, end in _intervals(metadata):
            self.learn(instrument, name, start, end)


def _intervals(metadata: databento_dbn.Metadata) -> Iterator[tuple[str, int, int, int]]:
    """Yield (symbol, instrument, start, end); either side of a mapping may be the number, depending on the request."""
    by_number = metadata.stype_in == INSTRUMENT_ID
    for asked, intervals in metadata.mappings.items():
        for interval in intervals:
            number, name = (asked, interval["symbol"]) if by_number else (interval["symbol"], asked)
            if number.isascii() and number.isdigit() and name:
                yield name, int(number), _day_ns(interval["start_date"]), _day_ns(interval["end_date"])


def _day_ns(day: dt.date) -> int:
    return min(day.toordinal() - dt.date(1970, 1, 1).toordinal(), INT64_MAX // DAY_NS) * DAY_NS
