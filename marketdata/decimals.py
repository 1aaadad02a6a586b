"""Decimal strings: the form of prices and sizes from socket to client."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Context, Decimal

from marketdata.errors import BadEvent

# Longer than any venue sends; the limit bounds the cost of a hostile string.
LENGTH_MAX = 64
# Beyond any market; the limits bound the size of exact sums.
WHOLE_DIGITS_MAX = 30
FRACTION_DIGITS_MAX = 40

# Numbers have at most 70 digits, products of two 140, and sums of many products a few more, so nothing is rounded.
EXACT = Context(prec=200)

_DECIMAL = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def decimal(text: str, field: str) -> Decimal:
    """Return the exact value of a decimal string; `field` names it in the error.

    Raises BadEvent: `not_a_decimal` for anything else (NaN, infinities, spaces, underscores), `out_of_range` for more
    digits than any market has.
    """
    found = _DECIMAL.fullmatch(text) if len(text) <= LENGTH_MAX else None
    if found is None:
        raise BadEvent("not_a_decimal", field, text)
    value = Decimal(text)
    if len(text) > WHOLE_DIGITS_MAX or found[3] is not None:
        fraction = -int(value.as_tuple().exponent)
        if fraction > FRACTION_DIGITS_MAX or value.adjusted() >= WHOLE_DIGITS_MAX:
            raise BadEvent("out_of_range", field, text)
    return value


def plain(value: Decimal) -> str:
    """Return a decimal in plain notation: no exponent, no trailing zeros after the point."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"", "-0"} else text


def is_zero(size: str) -> bool:
    """Return whether a decimal string is zero in any notation, such as `0`, `0.00000000` or `0e-8`."""
    # A float would turn 1e-400 into zero.
    rest = size.strip("-0.")
    return rest[0] in "eE" if rest else bool(size)


def may_have_zero(sizes: Iterable[str]) -> bool:
    """Return whether any of many decimal strings may be zero; faster than checking each."""
    # A zero is empty once its zeros and points are removed; a number with an exponent must be checked.
    rest = b"," + ",".join(sizes).encode().translate(None, b"-0.") + b","
    return b",," in rest or b"e" in rest or b"E" in rest
