"""What is known of one derivative, pure: the newest value of each field with its time, and the last events.

A venue sends the fields of a derivative in several channels, so an event has only some of them. The state has the
newest value of each; which value is how old is stated beside it (`updated`).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from marketdata.clock import SECOND_NS, format_rfc3339
from marketdata.events import Derivative, Liquidation

EVENTS_MAX = 200
LIQUIDATIONS_SHOWN = 50
# OKX sends funding rates every 30 to 90 s, other venues send something every few seconds.
STALE_NS = 120 * SECOND_NS

_NUMBERS = (
    "mark_price", "index_price", "open_interest", "open_interest_value", "funding_rate", "predicted_funding_rate",
    "delta", "gamma", "vega", "theta", "rho", "bid_iv", "ask_iv", "mark_iv", "underlying_price",
)  # fmt: skip
FIELDS = (*_NUMBERS, "next_funding_ts", "funding_interval")
# By our name in the event, where JSON has another: a time there is text.
_JSON_NAMES = {"next_funding_ts": "next_funding_time"}

Json = dict[str, Any]


class NumberedDerivative(msgspec.Struct, frozen=True, gc=False):
    """An event with its count since the start and its place in its partition."""

    number: int
    offset: int
    event: Derivative


class DerivativeState:
    """One symbol's derivative data; `valid` and `reason` are those of the newest live event."""

    __slots__ = ("number", "reason", "recent", "ts_event", "ts_recv", "valid", "values")

    def __init__(self) -> None:
        self.values: dict[str, tuple[str | int, int]] = {}  # with the time of the event that had it
        self.recent: deque[NumberedDerivative] = deque(maxlen=EVENTS_MAX)
        self.number = 0
        self.valid = False
        self.reason = ""
        self.ts_event = 0
        self.ts_recv = 0

    def add(self, event: Derivative, offset: int) -> NumberedDerivative:
        """Take an event in and return it with its number, which only live events raise."""
        for field in FIELDS:
            value = getattr(event, field)
            if value is not None and event.ts_event >= self.values.get(field, (0, 0))[1]:
                self.values[field] = (value, event.ts_event)
        if event.origin == "live":
            self.number += 1
            self.valid, self.reason = event.valid, event.reason
            self.ts_event, self.ts_recv = max(self.ts_event, event.ts_event), max(self.ts_recv, event.ts_recv)
        numbered = NumberedDerivative(self.number, offset, event)
        self.recent.append(numbered)
        return numbered

    def latest(self) -> Json:
        """Return the newest value of each field, null where none was sent, and when each was valid."""
        data = _fields({field: value for field, (value, _) in self.values.items()})
        times = {_JSON_NAMES.get(field, field): format_rfc3339(ts) for field, (_, ts) in self.values.items()}
        return data | {"updated": times}

    def liquidations(self) -> tuple[Liquidation, ...]:
        """Return the last liquidations, oldest first."""
        found = [one for numbered in self.recent for one in numbered.event.liquidations]
        return tuple(found[-LIQUIDATIONS_SHOWN:])


def event_json(event: Derivative) -> Json:
    """Return one event: its fields, null where it has none, its liquidations, and its time and validity."""
    return {
        "timestamp": format_rfc3339(event.ts_event),
        **_fields({field: getattr(event, field) for field in FIELDS}),
        "liquidations": liquidations_json(event.liquidations),
        "origin": event.origin,
        "valid": event.valid,
        "reason": event.reason,
    }


def liquidations_json(found: tuple[Liquidation, ...]) -> list[Json]:
    """Return liquidations, oldest first."""
    return [
        {
            "timestamp": format_rfc3339(one.ts_event),
            "side": one.side,
            "price": one.price,
            "size": one.size,
            "liquidation_id": one.liquidation_id,
        }
        for one in found
    ]


def _fields(values: dict[str, Any]) -> Json:
    data: Json = {_JSON_NAMES.get(field, field): values.get(field) for field in FIELDS}
    time = data["next_funding_time"]
    return data if time is None else data | {"next_funding_time": format_rfc3339(time)}
