"""Reading what a venue sends: decimals, times and book sides, checked, and kept as the venue's own text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from marketdata import compiled
from marketdata.clock import MILLISECOND_NS, parse_rfc3339
from marketdata.decimals import LENGTH_MAX, WHOLE_DIGITS_MAX, decimal, is_zero, may_have_zero
from marketdata.errors import BadEvent
from marketdata.plain_side import float_keys

INT64_MAX = 2**63 - 1
EXPONENT_MAX = 32
INTEGER_CHARS_MAX = 19  # so many digits may be above INT64_MAX

# Types for the fields of a venue's messages: a decimal string, a whole number that events can hold, and the next one.
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=LENGTH_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=INT64_MAX)]

# What msgspec raises on bytes from outside: no JSON, the wrong shape, no UTF-8, nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

# No longer than what needs no look at its digits.
_PLAIN_DECIMALS = re.compile(r"\d{1,15}(?:\.\d{1,15})?(?:,\d{1,15}(?:\.\d{1,15})?)*", re.ASCII)
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_UNCLEAN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_FEW = 8  # up to here the expression is quicker than counting


class _Level(msgspec.Struct, array_like=True, gc=False):
    price: Text
    size: Text


_LEVELS = msgspec.json.Decoder(list[_Level])

# bid prices, bid sizes, ask prices, ask sizes
Columns = tuple[list[str], list[str], list[str], list[str]]


def is_clean(text: str) -> bool:
    """Return whether a text has no control character and no lone surrogate, which databases and UTF-8 refuse."""
    return text.isprintable() or _UNCLEAN.search(text) is None


def clean(text: str, field: str) -> str:
    """Return a text that `is_clean`. Raises BadEvent (`control_character`)."""
    if not is_clean(text):
        raise BadEvent("control_character", field, escaped(text))
    return text


def escaped(text: str) -> str:
    """Return a text with its control characters and lone surrogates written as Python escapes."""
    return text if text.isprintable() else _UNCLEAN.sub(lambda found: repr(found[0])[1:-1], text)


def check_decimals(values: list[str], field: str) -> None:
    """Raise BadEvent unless every value is a decimal."""
    if not _are_plain_decimals(values):
        for value in values:
            decimal(value, field)


def check_trade(price: str, size: str, fields: tuple[str, str] = ("price", "size")) -> None:
    """Raise BadEvent unless a trade may have this price and size, which both are above zero."""
    # Without zeros and points at its ends, only a plain decimal above zero begins with a digit.
    if _are_plain_decimals([price, size]) and price.strip("0.") > "0" and size.strip("0.") > "0":
        return
    for value, field in zip((price, size), fields, strict=True):
        if decimal(value, field) <= 0:
            raise BadEvent("not_positive", field, value)


def _look_plain(values: list[str]) -> bool:
    """Tell whether all are plain decimals; a snapshot has 60,000, so the usual case takes no loop.

    Without its digits, a list of plain decimals is commas and single points.
    """
    if len(max(values, key=len, default="")) > WHOLE_DIGITS_MAX:
        return False
    text = ",".join(values)
    if len(values) <= _FEW:
        return _PLAIN_DECIMALS.fullmatch(text) is not None and len(values) == text.count(",") + 1
    if not text.isascii():
        return False
    rest = text.encode().translate(None, b"0123456789")
    commas = rest.count(b",")
    usual = commas == len(values) - 1 and commas + rest.count(b".") == len(rest)
    whole = f",{text},"
    return usual and b".." not in rest and ",.," not in whole and ",," not in whole


def levels(raw: msgspec.Raw, field: str) -> tuple[list[str], list[str]]:
    """Read a side of a book that is sent as `[["price","size",...],...]`: prices and sizes. Raises BadEvent."""
    read: tuple[list[str], list[str]] | None = None if _read_levels is None else _read_levels(raw)
    if read is not None:
        return read
    try:
        sent = _LEVELS.decode(raw)
    except UNREADABLE as error:
        raise BadEvent("bad_frame", field, f"{error}: {bytes(raw)[:100]!r}") from error
    prices, sizes = [level.price for level in sent], [level.size for level in sent]
    check_decimals(prices + sizes, field)
    return prices, sizes


def pair_columns(bids: Sequence[tuple[str, str]], asks: Sequence[tuple[str, str]], field: str = "level") -> Columns:
    """Return the columns of two lists of (price, size), all checked to be decimals. Raises BadEvent."""
    # Many changes have one side only: a test is quicker than a loop over nothing.
    columns: Columns = (
        [price for price, _ in bids] if bids else [], [size for _, size in bids] if bids else [],
        [price for price, _ in asks] if asks else [], [size for _, size in asks] if asks else [],
    )  # fmt: skip
    check_decimals(columns[0] + columns[1] + columns[2] + columns[3], field)
    return columns


def side_columns(
    sides: Sequence[str], bid: str, prices: list[str], sizes: list[str], field: str = "level"
) -> Columns:  # fmt: skip
    """Return the columns of a list of levels that each name their side, all checked to be decimals. Raises BadEvent.

    `bid` is the venue's name of that side.
    """
    check_decimals(prices, field)
    check_decimals(sizes, field)
    bids = sides.count(bid)
    if sides[:bids].count(bid) == bids:  # bids first, as most venues send them
        return prices[:bids], sizes[:bids], prices[bids:], sizes[bids:]
    levels = list(zip(sides, prices, sizes, strict=True))
    return (
        [price for side, price, _ in levels if side == bid],
        [size for side, _, size in levels if side == bid],
        [price for side, price, _ in levels if side != bid],
        [size for side, _, size in levels if side != bid],
    )


# What of this is compiled code, where that was built.
_are_plain_decimals = _look_plain if compiled.code is None else compiled.code.are_plain_decimals
_read_levels = None if compiled.code is None else compiled.code.read_levels


def best_first(prices: list[str], sizes: list[str], *, descending: bool) -> tuple[list[str], list[str]]:
    """Return a side of a snapshot with the best level first and no empty level, as BookUpdate promises."""
    if may_have_zero(sizes):
        kept = [(price, size) for price, size in zip(prices, sizes, strict=True) if not is_zero(size)]
        prices, sizes = [price for price, _ in kept], [size for _, size in kept]
    values = float_keys(prices)
    if values == sorted(values, reverse=descending):
        return prices, sizes
    pairs = sorted(zip(prices, sizes, strict=True), key=lambda level: Decimal(level[0]), reverse=descending)
    return [price for price, _ in pairs], [size for _, size in pairs]


def given(text: str, field: str) -> str | None:
    """Return a decimal string, or None where the venue left it empty."""
    if not text:
        return None
    check_decimals([text], field)
    return text


def price(text: str, field: str) -> str | None:
    """Return a price, or None where there is none: the venue leaves it empty or writes 0."""
    value = given(text, field)
    return None if value is None or is_zero(value) else value


def numbers(values: list[Any], field: str) -> list[str]:
    """Return JSON numbers in fixed-point form, digit for digit, from a decoder with `float_hook=str` and `Any` fields.

    Raises BadEvent for what is no number, or has more digits than any venue means.
    """
    texts = list(map(str, values))
    check_decimals(texts, field)
    if len(max(texts, key=len, default="")) > WHOLE_DIGITS_MAX or "e" in (joined := "".join(texts)) or "E" in joined:
        return [_fixed(text, field) for text in texts]
    return texts


def number(value: Any, field: str) -> str:
    """Return one JSON number as `numbers` does."""
    text = str(value)
    if len(text) <= WHOLE_DIGITS_MAX and _PLAIN_NUMBER.fullmatch(text) is not None:
        return text
    return numbers([text], field)[0]


def _fixed(text: str, field: str) -> str:
    value = decimal(text, field)
    if abs(value.adjusted()) > EXPONENT_MAX or len(text) > LENGTH_MAX:
        raise BadEvent("not_a_decimal", field, text[:200])
    return format(value, "f")


def iso_ns(text: str, field: str) -> int:
    """Return UTC nanoseconds of an RFC 3339 time. Raises BadEvent, also for one that no event can hold."""
    return in_range(parse_rfc3339(text, field), text, field)


def ms_ns(value: int, field: str) -> int:
    """Return UTC nanoseconds of a time in milliseconds. Raises BadEvent for one that no event can hold."""
    ns = value * MILLISECOND_NS
    return ns if 0 <= ns <= INT64_MAX else in_range(ns, value, field)


def sent_ms_ns(value: Any, field: str) -> int:
    """Return UTC nanoseconds of a time in milliseconds, as a JSON number of any type. Raises BadEvent."""
    if type(value) is not int:
        raise BadEvent("bad_time", field, str(value)[:200])
    return ms_ns(value, field)


def expiry_ns(ms: str, field: str) -> int | None:
    """Return UTC nanoseconds of an expiry in milliseconds as text, None for an empty text or 0. Raises BadEvent."""
    return None if not ms or ms == "0" else ms_text_ns(ms, field)


def integer(text: str, field: str, reason: str = "bad_number") -> int:
    """Return a whole number that events can hold, from its digits. Raises BadEvent (`reason`)."""
    if not (text.isascii() and text.isdigit() and len(text) < INTEGER_CHARS_MAX):
        raise BadEvent(reason, field, text[:200])
    return int(text)


def ms_text_ns(text: str, field: str) -> int:
    """Return UTC nanoseconds of a time in milliseconds as text. Raises BadEvent."""
    return ms_ns(integer(text, field, "bad_time"), field)


def seconds_ns(text: str, field: str) -> int:
    """Return UTC nanoseconds of a time in decimal seconds, exactly. Raises BadEvent."""
    return in_range(int(decimal(text, field).scaleb(9)), text, field)


def in_range(ns: int, value: object, field: str) -> int:
    """Return a time that was read from `value`. Raises BadEvent for one that no event can hold."""
    if not 0 <= ns <= INT64_MAX:
        raise BadEvent("bad_time", field, str(value)[:200])
    return ns
