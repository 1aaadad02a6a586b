"""Anomalies of trades: price jumps, volume spikes, cascades of liquidations, and silence (see `anomaly`).

A cancelled trade is not the price that the next trade is compared with, and is not in the minute's volume. An anomaly
that it caused is not withdrawn. Neither is a trade that is excluded from open_close or from volume; but any trade ends
a silence. Silence counts only while heartbeats continue, so that a symbol without trades differs from one without
data; in a halt nothing is expected to trade.
"""

from __future__ import annotations

from collections import Counter
from math import log

import msgspec

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.events import HALTED, OPEN_CLOSE, VOLUME, AnyEvent, Trades
from marketdata.prices import Survey, survey
from marketdata.windows import Window
from stream_apps.operators.anomaly import (
    AFTER_HALT,
    Episodes,
    as_text,
    decimal_places,
    found,
    percent,
    ticks,
)
from stream_apps.operators.anomaly_limits import LimitsBySymbol
from stream_apps.operators.cascades import Cascades

# A normal distribution's standard deviation is 1.4826 median absolute deviations.
SIGMA = 1.4826
RETURNS = 200
RETURNS_MIN = 50

MINUTES = 30
MINUTES_MIN = 10

PAUSES = 50
PAUSES_MIN = 10

# A jump or a spike has ended when there is no other for so long.
HOLD_NS = MINUTE_NS

# Trades that can still be corrected or cancelled.
RECENT = 256


class Recent(msgspec.Struct, array_like=True, frozen=True):
    """A trade that may still be corrected or cancelled; its price is None and its size 0 where it is excluded."""

    ts: int
    price: str | None
    size: str


class AnomaliesTradesState(msgspec.Struct):
    """What is normal for one symbol's trades.

    `places` is the largest number of decimal places in its prices so far, `quiet` how many more messages after a halt
    are not evaluated. `whole`: the current minute was observed from its start.
    """

    returns: Window
    minutes: Window
    pauses: Window
    episodes: Episodes
    cascades: Cascades
    price: str | None = None
    ts: int | None = None
    minute: int | None = None
    volume: float = 0.0
    whole: bool = False
    quiet: int = 0
    places: int = 0
    recent: dict[str, Recent] = {}


class AnomaliesTrades:
    """The operator."""

    name = "anomalies_trades"
    input = "md.trades"
    outputs: tuple[str, ...] = ("md.anomalies",)
    state = AnomaliesTradesState

    def __init__(self, limits: LimitsBySymbol | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits or LimitsBySymbol()

    def start(self, key: str) -> AnomaliesTradesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return AnomaliesTradesState(
            returns=Window(RETURNS),
            minutes=Window(MINUTES),
            pauses=Window(PAUSES),
            episodes=Episodes(),
            cascades=Cascades.start(),
        )

    def step(self, state: AnomaliesTradesState, event: AnyEvent) -> tuple[AnomaliesTradesState, list[AnyEvent]]:
        """Return what begins, worsens or ends with a message of trades."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        if event.origin != "live":  # anomalies are reported for live data only
            return state, []
        episodes = state.episodes
        out = episodes.settle(event)
        if not event.valid:
            _interrupt(state, halted=event.reason == HALTED)
            return state, out + episodes.interrupt(event, event.reason)
        ts = event.ts_event
        if state.minute is None or ts - state.minute >= MINUTE_NS:
            _minute(state, ts)
        if event.trades:
            self._evaluate(state, event, out)
        else:
            self._silence(state, event, out)
        if state.cascades.is_active:
            limits = self._limits.of(event.venue, event.symbol)
            out += state.cascades.judge(event, "liquidation_trades", episodes, limits, self.counts)
        return state, out

    def _evaluate(self, state: AnomaliesTradesState, event: Trades, out: list[AnyEvent]) -> None:
        seen = survey(event.trades, state.price, state.minute or 0, state.volume)
        state.volume = seen[5]
        if seen[0] >= 0:
            self._jump(state, event, seen, out)
        else:
            _end_silence(state, event)
        if not state.quiet and len(state.minutes) >= MINUTES_MIN:
            self._volume(state, event, out)
        if event.amendable:
            self._amend(state, event)
        state.quiet = max(0, state.quiet - 1)
        if state.episodes.open:
            out += state.episodes.within(event, "silent", "seconds_without_trade")
        for trade in event.trades:
            if trade.liquidation and trade.action == "new":
                state.cascades.add(state.episodes.now, trade.side, trade.price, trade.size)

    @staticmethod
    def _amend(state: AnomaliesTradesState, event: Trades) -> None:
        """Remember new trades, and undo the effect of those that are corrected or cancelled."""
        recent = state.recent
        for trade in event.trades:
            excluded = trade.excluded_from
            price = None if OPEN_CLOSE in excluded else trade.price
            now = Recent(trade.ts_event, price, "0" if VOLUME in excluded else trade.size)
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
                volume += float(now.size)
            if state.minute is not None and old.ts >= state.minute:
                state.volume += volume
            if state.price is not None:
                priced = [one for one in reversed(recent.values()) if one.price is not None]
                state.price = max(priced, key=lambda one: one.ts).price if priced else None

    def _jump(self, state: AnomaliesTradesState, event: Trades, seen: Survey, out: list[AnyEvent]) -> None:
        at_last, last, at_furthest, price, before, _, places = seen
        trade = event.trades[at_last]
        if state.ts is not None and trade.ts_event < state.ts:
            return
        if places < 0:
            places = max(decimal_places(one.price) for one in event.trades if one.action == "new")
        state.places = max(state.places, places)
        if state.price is not None and before > 0 and price > 0 and last > 0:
            distance = abs(log(price / before))
            limits = self._limits.of(event.venue, event.symbol)
            if distance > limits.jump_min and len(state.returns) >= RETURNS_MIN and not state.quiet:
                usual = state.returns.median()
                floor = max(limits.jump_min, ticks(state.places, before, limits.jump_ticks))
                limit = max(limits.jump_sigmas * SIGMA * usual, floor)
                if distance > limit:
                    furthest = event.trades[at_furthest]
                    text = (
                        f"the price moved by {percent(distance)} from {state.price} to {furthest.price}; usual are "
                        f"{percent(usual)}, the limit is {percent(limit)}"
                    )
                    evidence = {
                        "price_before": state.price,
                        "price": furthest.price,
                        "trade_id": furthest.trade_id,
                        "values": str(len(state.returns)),
                    }
                    jump = found(
                        "price_jump",
                        "log_return",
                        value=distance,
                        limit=limit,
                        usual=usual,
                        text=text,
                        evidence=evidence,
                    )
                    out += state.episodes.exceeded(event, jump, self.counts, HOLD_NS, instant=True)
            state.returns.push(distance if at_last == at_furthest else abs(log(last / before)))
        if state.ts is not None:
            state.pauses.push(float(trade.ts_event - state.ts))
        state.price, state.ts = trade.price, trade.ts_event

    def _volume(self, state: AnomaliesTradesState, event: Trades, out: list[AnyEvent]) -> None:
        usual = state.minutes.median()
        limit = self._limits.of(event.venue, event.symbol).volume_times * usual
        if usual > 0 and state.volume > limit:
            text = (
                f"the minute's volume is {as_text(state.volume)}; usual are {as_text(usual)}, the limit is "
                f"{as_text(limit)}"
            )
            evidence = {"minutes": str(len(state.minutes))}
            spike = found(
                "volume_spike",
                "minute_volume",
                value=state.volume,
                limit=limit,
                usual=usual,
                text=text,
                evidence=evidence,
            )
            out += state.episodes.exceeded(event, spike, self.counts, HOLD_NS)
        elif state.episodes.open:
            out += state.episodes.within(event, "volume_spike", "minute_volume")

    def _silence(self, state: AnomaliesTradesState, event: Trades, out: list[AnyEvent]) -> None:
        if state.ts is None or len(state.pauses) < PAUSES_MIN:
            return
        limits = self._limits.of(event.venue, event.symbol)
        silent, usual = (event.ts_event - state.ts) / SECOND_NS, state.pauses.median() / SECOND_NS
        limit = max(limits.silent_seconds, limits.silent_times * usual)
        if silent > limit:
            text = (
                f"no trade for {as_text(silent)} s although heartbeats continue; usual are pauses of "
                f"{as_text(usual)} s, the limit is {as_text(limit)} s"
            )
            quiet = found("silent", "seconds_without_trade", value=silent, limit=limit, usual=usual, text=text)
            out += state.episodes.exceeded(event, quiet, self.counts, 0)


def _interrupt(state: AnomaliesTradesState, *, halted: bool) -> None:
    """Start over after a gap or a halt: the change from the price before it is not meaningful."""
    state.price, state.ts, state.whole = None, None, False
    state.recent.clear()
    state.cascades.forget()
    if halted:
        state.quiet = AFTER_HALT


def _end_silence(state: AnomaliesTradesState, event: Trades) -> None:
    """Take in new trades of which none sets a price."""
    newest = max((trade.ts_event for trade in event.trades if trade.action == "new"), default=None)
    if newest is None or (state.ts is not None and newest < state.ts):
        return
    if state.ts is not None:
        state.pauses.push(float(newest - state.ts))
    state.ts = newest


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
    state.minute, state.volume, state.whole = minute, 0.0, True
