"""Anomalies of book metrics: quote stuffing (see `anomaly`).

Quote stuffing is a flood of orders that are placed and cancelled without trading: the book changes far more often than
usual for the symbol, and hardly any change moves a best price. Trades are in another topic, whose order relative to the
book is unknown, so they are not part of it: a burst of trading moves the best prices, and so is none.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS
from marketdata.events import HALTED, AnyEvent, Metrics
from marketdata.windows import Window
from stream_apps.operators.anomaly import AFTER_HALT, Episodes, as_text, found
from stream_apps.operators.anomaly_limits import LimitsBySymbol

KIND, METRIC = "quote_stuffing", "book_changes_per_second"
# Rates of so many intervals, about five minutes at the usual cadence.
RATES = 300
RATES_MIN = 60
# An interval that a change of validity has cut short says little about a rate.
INTERVAL_NS_MIN = 500 * MILLISECOND_NS
# At most this share of the changes moves a best price, and at most so many in a second: a feed that joins all changes
# of 100 ms shows only ten moves in a second however fast the price moves.
MOVING_MAX = 0.01
MOVES_PER_SECOND_MAX = 2.0


class AnomaliesMetricsState(msgspec.Struct):
    """What is normal for one symbol's book, and which anomalies are open; `quiet` as in `anomalies_quotes`."""

    rates: Window
    episodes: Episodes
    quiet: int = 0


class AnomaliesMetrics:
    """The operator."""

    name = "anomalies_metrics"
    input = "md.metrics"
    outputs: tuple[str, ...] = ("md.anomalies",)
    state = AnomaliesMetricsState

    def __init__(self, limits: LimitsBySymbol | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits or LimitsBySymbol()

    def start(self, key: str) -> AnomaliesMetricsState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return AnomaliesMetricsState(rates=Window(RATES), episodes=Episodes())

    def step(self, state: AnomaliesMetricsState, event: AnyEvent) -> tuple[AnomaliesMetricsState, list[AnyEvent]]:
        """Return what begins, worsens or ends with an interval."""
        assert isinstance(event, Metrics)  # noqa: S101 - the topic's schema
        episodes = state.episodes
        out = episodes.settle(event)
        if event.reason == HALTED:
            state.quiet = AFTER_HALT
        if not event.valid:
            return state, out + episodes.interrupt(event, event.reason)
        interval = event.ts_event - event.ts_from
        if interval < INTERVAL_NS_MIN:
            return state, out
        rate = event.changes * SECOND_NS / interval
        limits = self._limits.of(event.venue, event.symbol)
        is_stuffed = False
        if rate > limits.stuffing_min and len(state.rates) >= RATES_MIN and not state.quiet:
            usual = state.rates.median()
            limit = max(limits.stuffing_min, limits.stuffing_times * usual)
            moves_max = min(MOVING_MAX * event.changes, MOVES_PER_SECOND_MAX * interval / SECOND_NS)
            is_stuffed = rate > limit and event.best_price_changes <= moves_max
            if is_stuffed:
                text = (
                    f"the book changed {as_text(rate)} times a second, {event.best_price_changes} of "
                    f"{event.changes} changes moved a best price; usual are {as_text(usual)}, the limit is "
                    f"{as_text(limit)}"
                )
                evidence = {
                    "changes": str(event.changes),
                    "best_price_changes": str(event.best_price_changes),
                    "values": str(len(state.rates)),
                }
                stuffed = found(KIND, METRIC, value=rate, limit=limit, usual=usual, text=text, evidence=evidence)
                out += episodes.exceeded(event, stuffed, self.counts)
        if not is_stuffed:
            out += episodes.within(event, KIND, METRIC)
        state.rates.push(rate)
        state.quiet = max(0, state.quiet - 1)
        return state, out
