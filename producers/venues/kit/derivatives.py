"""The event of what a venue sends about a derivative besides trades and books: prices, funding, greeks, liquidations.

A feed passes the fields that one message had, as the venue's own decimal strings. A field that the message did not
have, or that the venue left empty, is None. A value that no event may hold becomes a dead letter of its own; the other
fields are published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from marketdata.clock import SECOND_NS, TS_MIN
from marketdata.decimals import EXACT, LENGTH_MAX, decimal
from marketdata.errors import BadEvent
from marketdata.events import TRADE_ID_LENGTH_MAX, Derivative, Liquidation
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.values import check_trade, clean

# No venue pays funding less often, or announces it earlier.
FUNDING_S_MAX = 366 * 24 * 3_600

_SIDES = frozenset({"buy", "sell", "unknown"})
# What cannot be below zero. Prices of futures can, and so can rates and greeks.
_NOT_NEGATIVE = frozenset({"open_interest", "open_interest_value", "bid_iv", "ask_iv", "mark_iv"})


def send(
    call: Call, product: Product, ts_event: int, *, liquidations: Iterable[Liquidation | None] = (), **fields: Any
) -> None:
    """Publish what a message had, at the venue's time `ts_event`; nothing when that is nothing.

    `fields` are those of Derivative: decimals as texts, `next_funding_ts` in UTC nanoseconds (0 is unknown),
    `funding_interval` in seconds. They may name another validity than the product's. Raises BadEvent for a `ts_event`
    that no event may have.
    """
    call.venue_time(ts_event, "ts_event")
    validity = {name: fields.pop(name) for name in ("valid", "reason") if name in fields}
    known: dict[str, Any] = {}
    for name, value in fields.items():
        if value is not None and value != "":
            try:
                if _is_known(call, name, value):
                    known[name] = value
            except BadEvent as error:
                call.dead_value(error)
    forced = tuple(one for one in liquidations if one is not None)
    if not known and not forced:
        return
    call.line.counts["derivatives"] += 1
    call.line.counts["liquidations"] += len(forced)
    call.out.append(
        Derivative(venue=call.line.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts,
                   line=call.line.name, sequence=call.sequence, liquidations=forced,
                   **(product.validity | validity | known))
    )  # fmt: skip


def read(call: Call, reader: Callable[[Any, str], Any], **values: Any) -> dict[str, Any]:
    """Return what `reader` makes of each value, by field; one that it cannot read is a dead letter, and unknown."""
    found: dict[str, Any] = dict.fromkeys(values)
    for name, value in values.items():
        if value is not None:
            try:
                found[name] = reader(value, name)
            except BadEvent as error:
                call.dead_value(error)
    return found


def liquidation(
    call: Call, *, ts_event: int, side: str, price: str, size: str, liquidation_id: str | None = None
) -> Liquidation | None:
    """Return a liquidation for `send`; None, with a dead letter of its own, when no event may hold it.

    `side` is that of the liquidation order: `sell` closes a long position. Price and size are above zero, as a trade's.
    """
    frame = call.payload
    item = {"ts_event": ts_event, "side": side, "price": price, "size": size, "liquidation_id": liquidation_id}
    call.payload = json.dumps(item).encode()
    with call.refusing("bad_liquidation") as checking:
        call.venue_time(ts_event, "ts_event")
        if side not in _SIDES:
            raise BadEvent("unknown_side", "side", side)
        check_trade(price, size)
        if liquidation_id is not None and not 0 < len(clean(liquidation_id, "liquidation_id")) <= TRADE_ID_LENGTH_MAX:
            raise BadEvent("bad_liquidation_id", "liquidation_id", liquidation_id)
    call.payload = frame
    if checking.failed:
        return None
    return Liquidation(ts_event=ts_event, side=side, price=price, size=size, liquidation_id=liquidation_id)


def from_percent(text: str, field: str) -> str:
    """Return a percentage as a fraction, exactly: `57.31` is `0.5731`; an empty text stays empty. Raises BadEvent."""
    if not text:
        return text
    fraction = f"{EXACT.scaleb(decimal(text, field), -2):f}"
    if len(fraction) > LENGTH_MAX:
        raise BadEvent("out_of_range", field, text)
    return fraction


def _is_known(call: Call, name: str, value: Any) -> bool:
    """Return whether a value that the venue sent says anything. Raises BadEvent for one that no event may hold."""
    check = _INTEGERS.get(name)
    if check is not None:
        return check(call, value)
    if decimal(value, name) < 0 and name in _NOT_NEGATIVE:
        raise BadEvent("negative", name, value)
    return True


def _is_funding_time(call: Call, value: int) -> bool:
    if value and not TS_MIN <= value <= call.ts + FUNDING_S_MAX * SECOND_NS:
        raise BadEvent("time_out_of_bounds", "next_funding_ts", value)
    return bool(value)


def _is_funding_interval(call: Call, value: int) -> bool:  # noqa: ARG001 - one type for both checks
    if not 0 < value <= FUNDING_S_MAX:
        raise BadEvent("out_of_range", "funding_interval", value)
    return True


_INTEGERS: dict[str, Callable[[Call, int], bool]] = {
    "next_funding_ts": _is_funding_time,
    "funding_interval": _is_funding_interval,
}
