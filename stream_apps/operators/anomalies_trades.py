"""Anomalies of trades: price jumps, volume spikes, and silence while heartbeats continue (see `anomaly`).

A cancelled trade is not the price that the next trade is compared with, and is not in the minute's volume. An anomaly
that it caused is not withdrawn.
"""

from __future__ import annotations

from collections import Counter
from math import log

import msgspec

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.events import AMENDING, HALTED, AnyEvent, Trades
from marketdata.prices import Survey, survey
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

# A normal distribution's standard deviation is 1.4826 median absolute deviations.
SIGMA = 1.4826
JUMP_SIGMAS = 10.0
JUMP_FLOOR = 0.002
JUMP_FLOOR_TICKS = 20
RETURNS = 200
RETURNS_MIN = 50

VOLUME_TIMES = 10.0
MINUTES = 30
MINUTES_MIN = 10

STALE_NS_MIN = 60 * SECOND_NS
STALE_TIMES = 20.0
PAUSES = 50
PAUSES_MIN = 10

# Trades that can still be corrected or cancelled.
RECENT = 256


class Recent(msgspec.Struct, array_like=True, frozen=True):
    """A trade that may still be corrected or cancelled."""

    ts: int
    price: str
    size: str


class AnomaliesTradesState(msgspec.Struct):
    """What is normal for one symbol's trades.

    `places` is the largest number of decimal places in its prices so far, `quiet` how many more messages after a halt
    are not evaluated. `whole`: the current minute was observed from its start.
    """

    returns: Window
    minutes: Window
    pauses: Window
    reports: Reports
    price: str | None = None
    ts: int | None = None
    minute: int | None = None
    volume: float = 0.0
    spiked: bool = False
    whole: bool = False
    stale: bool = False
    halted: bool = False
    quiet: int = 0
    places: int = 0
    recent: dict[str, Recent] = {}


class AnomaliesTrades:
    """The operator."""

    name = "anomalies_trades"
    input = "md.trades"
    outputs: tuple[str, ...] = ("md.anomalies",)
    state = AnomaliesTradesState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> AnomaliesTradesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return AnomaliesTradesState(
            returns=Window(RETURNS), minutes=Window(MINUTES), pauses=Window(PAUSES), reports=Reports()
        )

    def step(self, state: AnomaliesTradesState, event: AnyEvent) -> tuple[AnomaliesTradesState, list[AnyEvent]]:
        """Return the anomalies of a message of trades."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        if event.origin != "live":  # anomalies are reported for live data only
            return state, []
        if not event.valid:
            self._interrupt(state, halted=event.reason == HALTED)
            return state, []
        state.halted = False
        out: list[AnyEvent] = []
        ts = event.ts_event
        if state.minute is None or ts - state.minute >= MINUTE_NS:
            _minute(state, ts)
        if event.trades:
            found = survey(event.trades, state.price, state.minute or 0, state.volume)
            state.volume = found[5]
            if found[0] >= 0:
                self._jump(state, event, found, out)
            if not (state.spiked or state.quiet or len(state.minutes) < MINUTES_MIN):
                self._volume(state, event, out)
            if event.venue in AMENDING:
                self._amend(state, event)
            state.quiet = max(0, state.quiet - 1)
        else:
            self._silence(state, event, out)
        return state, out

    @staticmethod
    def _interrupt(state: AnomaliesTradesState, *, halted: bool) -> None:
        """Start over after a gap or a halt: the change from the price before it is not meaningful."""
        state.price, state.ts, state.stale, state.whole = None, None, False, False
        state.recent.clear()
        if halted:
            state.halted, state.quiet = True, AFTER_HALT

    @staticmethod
    def _amend(state: AnomaliesTradesState, event: Trades) -> None:
        """Remember new trades, and undo the effect of those that are corrected or cancelled."""
        recent = state.recent
        for trade in event.trades:
            now = Recent(trade.ts_event, trade.price, trade.size)
            if trade.action == "new":
                recent[trade.trade_id] = now
                if len(recent) > RECENT:
                    del recent[next(iter(recent))]
                continue
            old = recent.pop(trade.original_id or trade.trade_id, None)
            if old is None:
                continue
            volume = -float(old.size)
            if trade.action == "correct":
                recent[trade.trade_id] = msgspec.structs.replace(now, ts=old.ts)
                volume += float(trade.size)
            if state.minute is not None and old.ts >= state.minute:
                state.volume += volume
            if state.price is not None:
                state.price = max(reversed(recent.values()), key=lambda one: one.ts).price if recent else None

    def _jump(self, state: AnomaliesTradesState, event: Trades, found: Survey, out: list[AnyEvent]) -> None:
        at_last, last, at_furthest, price, before, _, places = found
        trade = event.trades[at_last]
        if state.ts is not None and trade.ts_event < state.ts:
            return
        if places < 0:
            places = max(decimal_places(one.price) for one in event.trades if one.action == "new")
        state.places = max(state.places, places)
        if state.price is not None and before > 0 and price > 0 and last > 0:
            distance = abs(log(price / before))
            if distance > JUMP_FLOOR and len(state.returns) >= RETURNS_MIN and not state.quiet:
                usual = state.returns.median()
                floor = max(JUMP_FLOOR, ticks(state.places, before, JUMP_FLOOR_TICKS))
                limit = max(JUMP_SIGMAS * SIGMA * usual, floor)
                if distance > limit and state.reports.is_due("price_jump", event.ts_event, self.counts):
                    out.append(
                        make_anomaly(
                            event,
                            "price_jump",
                            severity(distance, limit),
                            "log_return",
                            value=as_text(distance),
                            limit=as_text(limit),
                            price_before=state.price,
                            price=event.trades[at_furthest].price,
                            trade_id=event.trades[at_furthest].trade_id,
                            median_return=as_text(usual),
                            values=str(len(state.returns)),
                        )
                    )
            state.returns.push(distance if at_last == at_furthest else abs(log(last / before)))
        if state.ts is not None:
            state.pauses.push(float(trade.ts_event - state.ts))
        state.price, state.ts, state.stale = trade.price, trade.ts_event, False

    def _volume(self, state: AnomaliesTradesState, event: Trades, out: list[AnyEvent]) -> None:
        usual = state.minutes.median()
        limit = VOLUME_TIMES * usual
        if usual > 0 and state.volume > limit:
            state.spiked = True
            if state.reports.is_due("volume_spike", event.ts_event, self.counts):
                out.append(
                    make_anomaly(
                        event,
                        "volume_spike",
                        severity(state.volume, limit),
                        "minute_volume",
                        value=as_text(state.volume),
                        limit=as_text(limit),
                        median_volume=as_text(usual),
                        minutes=str(len(state.minutes)),
                    )
                )

    def _silence(self, state: AnomaliesTradesState, event: Trades, out: list[AnyEvent]) -> None:
        if state.stale or state.ts is None or len(state.pauses) < PAUSES_MIN:
            return
        silent = event.ts_event - state.ts
        limit = max(STALE_NS_MIN, STALE_TIMES * state.pauses.median())
        if silent > limit:
            state.stale = True
            if state.reports.is_due("stale", event.ts_event, self.counts):
                out.append(
                    make_anomaly(
                        event,
                        "stale",
                        "warning",
                        "seconds_without_trade",
                        value=as_text(silent / SECOND_NS),
                        limit=as_text(limit / SECOND_NS),
                        median_pause_seconds=as_text(state.pauses.median() / SECOND_NS),
                    )
                )


def _minute(state: AnomaliesTradesState, ts: int) -> None:
    """Close the minutes that have ended. Only minutes observed from start to end enter the median."""
    minute = ts - ts % MINUTE_NS
    if state.minute is None:
        state.minute = minute
    if minute <= state.minute:
        return
    passed = (minute - state.minute) // MINUTE_NS
    if state.whole:
        state.minutes.push(state.volume)
        for _ in range(min(passed - 1, MINUTES)):
            state.minutes.push(0.0)
    state.minute, state.volume, state.spiked, state.whole = minute, 0.0, False, True
