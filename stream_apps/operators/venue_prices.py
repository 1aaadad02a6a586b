"""Middle prices under the key of their symbol alone, so that one partition has the prices of all venues.

An operator has the state of one key and reads one partition; keys are `venue:symbol`, so venues can be compared only
behind a topic with another key. Its order is fixed once it is written, so what reads it is deterministic.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.events import ALL_VENUES, AnyEvent, Metrics, VenuePrice


class VenuePricesState(msgspec.Struct):
    """Nothing: each event stands for itself."""


class VenuePrices:
    """The operator."""

    name = "venue_prices"
    input = "md.metrics"
    outputs: tuple[str, ...] = ("md.venue_prices",)
    state = VenuePricesState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> VenuePricesState:  # noqa: ARG002 - the protocol's
        """Return the state of any symbol."""
        return VenuePricesState()

    def step(self, state: VenuePricesState, event: AnyEvent) -> tuple[VenuePricesState, list[AnyEvent]]:
        """Return the middle price of a book."""
        assert isinstance(event, Metrics)  # noqa: S101 - the topic's schema
        return state, [
            VenuePrice(
                venue=ALL_VENUES,
                symbol=event.symbol,
                ts_event=event.ts_event,
                ts_recv=event.ts_recv,
                line=event.line,
                of_venue=event.venue,
                price=event.mid,
                valid=event.valid,
                reason=event.reason,
            )
        ]
