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
    Episodes,
    Finding,
    decimal_places,
    found,
    percent,
    ticks,
)
from stream_apps.operators.anomaly_limits import LimitsBySymbol

SPREADS = 200
SPREADS_MIN = 50


class AnomaliesQuotesState(msgspec.Struct):
    """What is normal for one symbol's quotes, and which anomalies are open.

    `places` is the largest number of decimal places in its prices so far, `quiet` how many more quotes after a halt are
    not evaluated.
    """

    spreads: Window
    episodes: Episodes
    places: int = 0
    quiet: int = 0


class AnomaliesQuotes:
    """The operator."""

    name = "anomalies_quotes"
    input = "md.quotes"
    outputs: tuple[str, ...] = ("md.anomalies",)
    state = AnomaliesQuotesState

    def __init__(self, limits: LimitsBySymbol | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits or LimitsBySymbol()

    def start(self, key: str) -> AnomaliesQuotesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return AnomaliesQuotesState(spreads=Window(SPREADS), episodes=Episodes())

    def step(self, state: AnomaliesQuotesState, event: AnyEvent) -> tuple[AnomaliesQuotesState, list[AnyEvent]]:
        """Return what begins, worsens or ends with a quote."""
        assert isinstance(event, Quote)  # noqa: S101 - the topic's schema
        if event.origin != "live":  # anomalies are reported for live data only
            return state, []
        episodes = state.episodes
        out = episodes.settle(event)
        if event.reason == HALTED:
            state.quiet = AFTER_HALT
        if not event.valid and event.reason not in {STALE, CROSSED}:
            return state, out + episodes.interrupt(event, event.reason)
        if event.reason == STALE:
            out += episodes.exceeded(event, _stale(event), self.counts)
        elif episodes.open:
            out += episodes.within(event, "stale", f"{event.source}_quote")
        if event.bid is not None and event.ask is not None:
            state.places = max(state.places, decimal_places(event.bid), decimal_places(event.ask))
            bid, ask = float(event.bid), float(event.ask)
            # Prices that differ may be equal as floats, so the exact values decide.
            crossed = bid >= ask and Decimal(event.bid) > Decimal(event.ask)
            if crossed:
                out += episodes.exceeded(event, _crossed(event, event.bid, event.ask), self.counts)
            elif episodes.open:
                out += episodes.within(event, "crossed", f"{event.source}_bid_above_ask")
            if event.valid and not crossed and bid + ask > 0:
                self._spread(state, event, bid, ask, out)
        state.quiet = max(0, state.quiet - 1)
        return state, out

    def _spread(self, state: AnomaliesQuotesState, event: Quote, bid: float, ask: float, out: list[AnyEvent]) -> None:
        middle = (bid + ask) / 2
        spread = (ask - bid) / middle
        window, limits = state.spreads, self._limits.of(event.venue, event.symbol)
        is_wide = False
        if spread > limits.spread_min and len(window) >= SPREADS_MIN and not state.quiet:
            usual = window.median()
            floor = ticks(state.places, middle, limits.spread_ticks)
            limit = max(limits.spread_times * usual, limits.spread_min, floor)
            is_wide = spread > limit
            if is_wide:
                text = f"the spread is {percent(spread)}; usual are {percent(usual)}, the limit is {percent(limit)}"
                evidence = {"bid": event.bid or "", "ask": event.ask or "", "values": str(len(window))}
                metric = f"{event.source}_relative_spread"
                wide = found(
                    "spread_blowout", metric, value=spread, limit=limit, usual=usual, text=text, evidence=evidence
                )
                out += state.episodes.exceeded(event, wide, self.counts)
        if not is_wide and state.episodes.open:
            out += state.episodes.within(event, "spread_blowout", f"{event.source}_relative_spread")
        window.push(spread)


def _stale(event: Quote) -> Finding:
    whose = "our book" if event.source == "book" else "the venue"
    return Finding(
        kind="stale",
        metric=f"{event.source}_quote",
        severity="warning",
        size=1.0,
        value="1",
        limit="0",
        usual="0",
        text=f"the quote of {whose} is stale",
    )


def _crossed(event: Quote, bid: str, ask: str) -> Finding:
    over = EXACT.subtract(Decimal(bid), Decimal(ask))
    return Finding(
        kind="crossed",
        metric=f"{event.source}_bid_above_ask",
        severity="critical" if event.source == "book" else "warning",
        size=float(over),
        value=plain(over),
        limit="0",
        usual="0",
        text=f"the best bid {bid} is above the best ask {ask}",
        evidence={"bid": bid, "ask": ask},
    )
