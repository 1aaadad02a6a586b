"""What the parameters of a request mean: times, cursors and symbols, each refused with its field and value."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from http import HTTPStatus

import msgspec

from api.core.market import Market
from api.core.suggestions import suggestions
from api.core.symbol_state import SymbolState
from api.rest.codes import Code
from api.rest.problems import Problem, bad_value
from marketdata.clock import SECOND_NS, parse_rfc3339
from marketdata.errors import BadEvent

# The last whole second that a signed 64-bit count of nanoseconds holds (in 2262).
_TIME_NS_MAX = (1 << 63) // SECOND_NS * SECOND_NS
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
_CURSOR_CHARACTERS_MAX = 1_000
_INTEGER_MAX = 1 << 63


class Range(msgspec.Struct, frozen=True):
    """From `start` (inclusive) to `end` (exclusive), UTC nanoseconds; None leaves that side open."""

    start: int | None
    end: int | None

    @property
    def open(self) -> bool:
        """Return whether every time is in the range."""
        return self.start is None and self.end is None

    def holds(self, ts: int) -> bool:
        """Return whether a time is in the range."""
        return (self.start is None or ts >= self.start) and (self.end is None or ts < self.end)


def time_ns(field: str, value: str | None) -> int | None:
    """Return an RFC 3339 time with a zone as UTC nanoseconds."""
    if value is None:
        return None
    try:
        ts = parse_rfc3339(value, field)
    except BadEvent:
        hint = "; a + in an address must be written %2B" if " " in value.strip() else ""
        message = f"must be an RFC 3339 time with a zone, such as 2026-08-09T21:05:48Z{hint}"
        raise bad_value(field, value, message) from None
    if not 0 <= ts < _TIME_NS_MAX:
        raise bad_value(field, value, "must be in the years 1970 to 2261")
    return ts


def time_range(start: str | None, end: str | None) -> Range:
    """Return the range that two parameters ask for."""
    found = Range(time_ns("start", start), time_ns("end", end))
    if found.start is not None and found.end is not None and found.end <= found.start:
        raise bad_value("end", end, "must be later than start")
    return found


def moment(ts: int) -> datetime:
    """Return UTC nanoseconds as what the database takes; what is finer than microseconds is cut off.

    Times beyond the calendar, which a made-up cursor may name, are its last second: nothing is stored after it.
    """
    seconds, rest = divmod(min(ts, _LAST_SECOND * SECOND_NS), SECOND_NS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


def nanoseconds(ts: int | None) -> str | None:
    """Return UTC nanoseconds as clients read them: text, because a number of JSON loses digits in many languages."""
    return None if ts is None else str(ts)


def microseconds(value: datetime) -> int:
    """Return a time of the database as UTC microseconds, exactly."""
    since = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def write_cursor(*parts: int | str) -> str:
    """Return a place in an answer of many pages as text that goes into an address."""
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


def read_cursor(value: str | None, kinds: type[tuple[int | str, ...]]) -> tuple[int | str, ...] | None:
    """Return the place that a cursor names."""
    if value is None:
        return None
    try:
        text = base64.urlsafe_b64decode(value[:_CURSOR_CHARACTERS_MAX] + "=" * (-len(value) % 4))
        parts: tuple[int | str, ...] | None = msgspec.json.decode(text, type=kinds)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        parts = None
    if parts is None or not all(_is_place(part) for part in parts) or (isinstance(parts[0], int) and parts[0] < 0):
        raise bad_value("cursor", value, "is not a next_cursor of this API") from None
    return parts


def _is_place(part: int | str) -> bool:
    """Return whether the database could hold such a number or name."""
    return "\0" not in part if isinstance(part, str) else -1 <= part < _INTEGER_MAX


def canonical(market: Market, symbol: str, venue: str | None) -> str:
    """Return the symbol that a name means in any notation; the name itself where it is none that is known.

    Raises Problem when it may mean several.
    """
    if market.named(symbol):
        return symbol
    found = market.notations.symbols(symbol, venue) or market.notations.symbols(symbol)
    if len(found) > 1:
        detail = f"{symbol!r} may mean {', '.join(found)}: name one of these"
        raise Problem(HTTPStatus.CONFLICT, detail, code=Code.AMBIGUOUS_SYMBOL, near=found)
    return found[0] if found else symbol


def find(market: Market, symbol: str, venue: str | None, *, known: bool) -> SymbolState:
    """Return the state of a symbol, in any notation, at a venue or at the only one that trades it."""
    symbol = canonical(market, symbol, venue)
    if venue is not None:
        state = market.find(venue, symbol)
        if state is not None:
            return state
    venues = market.venues_of(symbol)
    if not venues and not known:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the market is still being read; ask again in a second",
            code=Code.MARKET_LOADING,
        )
    if not venues:
        near = suggestions(symbol, market.symbols(), 5)
        hint = f"; do you mean {', '.join(near)}?" if near else ""
        raise Problem(HTTPStatus.NOT_FOUND, f"no venue trades {symbol!r}{hint}", code=Code.UNKNOWN_SYMBOL, near=near)
    if venue is not None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"{venue!r} does not trade {symbol}, which is traded at {', '.join(venues)}",
            code=Code.SYMBOL_NOT_AT_VENUE,
            venues=venues,
        )
    if len(venues) > 1:
        raise Problem(
            HTTPStatus.CONFLICT,
            f"{symbol} is traded at {', '.join(venues)}: say which, with ?venue=",
            code=Code.AMBIGUOUS_SYMBOL,
            venues=venues,
        )
    state = market.find(venues[0], symbol)
    assert state is not None  # noqa: S101 - for the type checker: the market listed it
    return state
