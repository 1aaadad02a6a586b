"""Anomalies of quotes: crossed quotes, stale quotes and unusually wide spreads (see `anomaly`).

The operator runs on the venue's quotes and, with a separate state, on the quotes of our books.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import msgspec

from marketdata.decimals import EXACT, plain
from marketdata.events import CROSSED, HALTED, STALE, AnyEvent, Quote
from marketdata.windows import Window
from stream_apps.operators.anomaly import (
    AFTER_HALT,
    Reports,
    as_text,
    decimal_places,
    make_anomaly,
    severity,
    ticks,
)

SPREAD_TIMES = 8.0
SPREAD_FLOOR = 0.0005
SPREAD_FLOOR_TICKS = 10
SPREADS = 200
SPREADS_MIN = 50


class AnomaliesQuotesState(msgspec.Struct):
    """What is normal for one symbol's quotes.

    `places` is the largest number of decimal places in its prices so far, `quiet` how many more quotes after a halt are
    not evaluated.
    """

    spreads: Window
    reports: Reports
    places: int = 0
    crossed: bool = False
    stale: bool = False
    quiet: int = 0


class AnomaliesQuotes:
    """The operator."""

    name = "anomalies_quotes"
    input = "md.quotes"
    outputs: tuple[str, ...] = ("md.anomalies",)
    state = AnomaliesQuotesState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> AnomaliesQuotesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return AnomaliesQuotesState(spreads=Window(SPREADS), reports=Reports())

    def step(self, state: AnomaliesQuotesState, event: AnyEvent) -> tuple[AnomaliesQuotesState, list[AnyEvent]]:
        """Return the anomalies of a quote."""
        assert isinstance(event, Quote)  # noqa: S101 - the topic's schema
        out: list[AnyEvent] = []
        if event.origin != "live":  # anomalies are reported for live data only
            return state, out
        if event.reason == HALTED:
            state.quiet, state.crossed = AFTER_HALT, False
            return state, out
        self._stale(state, event, out)
        if event.bid is not None and event.ask is not None:
            state.places = max(state.places, decimal_places(event.bid), decimal_places(event.ask))
            bid, ask = float(event.bid), float(event.ask)
            # Prices that differ may be equal as floats, so the exact values decide.
            crossed = bid >= ask and Decimal(event.bid) > Decimal(event.ask)
            self._crossed(state, event, out, crossed=crossed)
            if event.valid and not crossed and bid + ask > 0:
                self._spread(state, event, bid, ask, out)
        state.quiet = max(0, state.quiet - 1)
        return state, out

    def _stale(self, state: AnomaliesQuotesState, event: Quote, out: list[AnyEvent]) -> None:
        stale = event.reason == STALE
        if stale and not state.stale and state.reports.is_due("stale", event.ts_event, self.counts):
            out.append(make_anomaly(event, "stale", "warning", f"{event.source}_quote", value="1", limit="0"))
        state.stale = stale

    def _crossed(self, state: AnomaliesQuotesState, event: Quote, out: list[AnyEvent], *, crossed: bool) -> None:
        crossed = crossed or event.reason == CROSSED
        if crossed and not state.crossed and state.reports.is_due("crossed", event.ts_event, self.counts):
            bid, ask = event.bid or "0", event.ask or "0"
            out.append(
                make_anomaly(
                    event,
                    "crossed",
                    "critical" if event.source == "book" else "warning",
                    f"{event.source}_bid_above_ask",
                    value=plain(EXACT.subtract(Decimal(bid), Decimal(ask))),
                    limit="0",
                    bid=bid,
                    ask=ask,
                )
            )
        state.crossed = crossed

    def _spread(self, state: AnomaliesQuotesState, event: Quote, bid: float, ask: float, out: list[AnyEvent]) -> None:
        middle = (bid + ask) / 2
        spread = (ask - bid) / middle
        window = state.spreads
        if spread > SPREAD_FLOOR and len(window) >= SPREADS_MIN and not state.quiet:
            usual = window.median()
            limit = max(SPREAD_TIMES * usual, SPREAD_FLOOR, ticks(state.places, middle, SPREAD_FLOOR_TICKS))
            if spread > limit and state.reports.is_due("spread_blowout", event.ts_event, self.counts):
                out.append(
                    make_anomaly(
                        event,
                        "spread_blowout",
                        severity(spread, limit),
                        f"{event.source}_relative_spread",
                        value=as_text(spread),
                        limit=as_text(limit),
                        bid=event.bid or "",
                        ask=event.ask or "",
                        median_spread=as_text(usual),
                        values=str(len(window)),
                    )
                )
        window.push(spread)
