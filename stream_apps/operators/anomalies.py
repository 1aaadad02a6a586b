"""Anomalies of the market and of its data, each with severity, evidence, and the value that crossed which limit.

| kind | from | when |
|---|---|---|
| `price_jump` | trades | a frame's price is further from the last frame's than a multiple of the usual distance |
| `volume_spike` | trades | a minute's volume is more than a multiple of the median minute's |
| `stale` | trades | no trade for long although heartbeats go on |
| `stale` | quotes | a quote says so itself, or one source of quotes is silent while the other goes on |
| `crossed` | quotes | the best bid is above the best ask |
| `spread_blowout` | quotes | the spread is more than a multiple of the median spread |
| `gap` | status | the feed lost data |
| `stale` | status | the feed hears nothing, or cannot connect |

Usual values are medians of a rolling window, which one outlier cannot move, with a floor so that a market that stands
still does not make every tick an alarm. Nothing is told while a symbol is halted, nor right after, nor before there are
enough values; and each kind at most once in `COOLDOWN_NS`. What is held back is counted. A trade that is taken back is
neither the price that the next one is compared with nor in the minute's volume; what it made us tell stays told. Values
that are measured, not traded, are floats: they are compared, never summed up into a price.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from math import log

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.decimals import plain
from marketdata.events import AMENDING, CROSSED, HALTED, STALE, Anomaly, AnyEvent, FeedStatus, Instrument, Quote, Trades
from stream_apps.operators import checkpoint

COOLDOWN_NS = 60 * SECOND_NS
MINUTE_NS = 60 * SECOND_NS
# Values after a halt that are taken in and not judged: an auction sets a new price.
AFTER_HALT = 20

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

SPREAD_TIMES = 8.0
SPREAD_FLOOR = 0.0005
SPREAD_FLOOR_TICKS = 10
SPREADS = 200
SPREADS_MIN = 50

STALE_NS_MIN = 60 * SECOND_NS
STALE_TIMES = 20.0
PAUSES = 50
PAUSES_MIN = 10

# Trades that a correction or a cancel can find.
RECENT = 256

# A value this many times its limit is critical.
CRITICAL_TIMES = 3.0


class Window(msgspec.Struct):
    """The last `size` values and their median."""

    size: int
    values: list[float] = []
    ordered: list[float] = []

    def push(self, value: float) -> None:
        """Take in a value and forget the one that is too many."""
        if len(self.values) >= self.size:
            del self.ordered[bisect_left(self.ordered, self.values.pop(0))]
        self.values.append(value)
        insort(self.ordered, value)

    def median(self) -> float:
        """Return the median; only for a window that is not empty."""
        middle = len(self.ordered) // 2
        if len(self.ordered) % 2:
            return self.ordered[middle]
        return (self.ordered[middle - 1] + self.ordered[middle]) / 2


class Told(msgspec.Struct):
    """When each kind was told last."""

    last: dict[str, int] = {}

    def may(self, kind: str, ts: int, counts: Counter[str]) -> bool:
        """Tell whether a kind may be told at `ts`, and note it."""
        last = self.last.get(kind)
        if last is not None and ts - last < COOLDOWN_NS:
            counts["held_back"] += 1
            return False
        self.last[kind] = ts
        counts[kind] += 1
        return True


def _decimal(value: float) -> str:
    return plain(Decimal(repr(round(value, 10))))


def _anomaly(
    event: Trades | Quote | FeedStatus,
    kind: str,
    severity: str,
    metric: str,
    *,
    value: str,
    limit: str,
    **evidence: str,
) -> Anomaly:
    return Anomaly(
        venue=event.venue,
        symbol=event.symbol,
        ts_event=event.ts_event,
        ts_recv=event.ts_recv,
        anomaly_id=f"{event.venue}:{event.symbol}:{kind}:{metric}:{event.ts_event}",
        kind=kind,
        severity=severity,
        metric=metric,
        value=value,
        limit=limit,
        evidence={"line": event.line} | evidence,
    )


def _severity(value: float, limit: float) -> str:
    return "critical" if value >= CRITICAL_TIMES * limit else "warning"


def _ticks(instruments: Mapping[str, Instrument], key: str, price: float, ticks: int) -> float:
    """Return so many ticks relative to a price, 0 when the tick size is unknown."""
    instrument = instruments.get(key)
    return ticks * float(instrument.tick_size) / price if instrument is not None and instrument.tick_size else 0.0


class Recent(msgspec.Struct, array_like=True, frozen=True):
    """A trade that may still be taken back."""

    ts: int
    price: str
    size: str


class TradesState(msgspec.Struct):
    """What is usual of one symbol's trades. `quiet` counts the frames after a halt that are still not judged."""

    returns: Window
    minutes: Window
    pauses: Window
    told: Told
    price: str | None = None
    ts: int | None = None
    minute: int | None = None
    volume: float = 0.0
    spiked: bool = False
    whole: bool = False
    stale: bool = False
    halted: bool = False
    quiet: int = 0
    ts_recv: int = 0
    recent: dict[str, Recent] = {}


class AnomaliesTrades:
    """Price jumps, volume spikes, and silence of the trades while heartbeats go on."""

    name = "anomalies_trades"
    inputs: tuple[str, ...] = ("md.trades",)
    outputs: tuple[str, ...] = ("md.anomalies",)
    checkpoints = checkpoint.TOPIC

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self.counts: Counter[str] = Counter()
        self._instruments = instruments

    def start(self, key: str) -> TradesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return TradesState(returns=Window(RETURNS), minutes=Window(MINUTES), pauses=Window(PAUSES), told=Told())

    def step(self, state: TradesState, event: AnyEvent) -> tuple[TradesState, list[AnyEvent]]:
        """Return what is not usual about some trades."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        state.ts_recv = event.ts_recv
        if event.origin != "live":  # history is not news
            return state, []
        if not event.valid:
            self._interrupt(state, halted=event.reason == HALTED)
            return state, []
        state.halted = False
        out: list[AnyEvent] = []
        self._minute(state, event.ts_event)
        if event.trades:
            self._jump(state, event, out)
            self._volume(state, event, out)
            if event.venue in AMENDING:
                self._amend(state, event)
            state.quiet = max(0, state.quiet - 1)
        else:
            self._silence(state, event, out)
        return state, out

    @staticmethod
    def _interrupt(state: TradesState, *, halted: bool) -> None:
        """Start anew after missing or halted trades: distances to what came before mean nothing."""
        state.price, state.ts, state.stale, state.whole = None, None, False, False
        state.recent.clear()
        if halted:
            state.halted, state.quiet = True, AFTER_HALT

    @staticmethod
    def _amend(state: TradesState, event: Trades) -> None:
        """Remember trades, and go back to what was before those that are taken back."""
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

    def _jump(self, state: TradesState, event: Trades, out: list[AnyEvent]) -> None:
        trades = [trade for trade in event.trades if trade.action == "new"]
        if not trades or (state.ts is not None and trades[-1].ts_event < state.ts):
            return
        if state.price is not None:
            before = float(state.price)
            furthest = max(trades, key=lambda trade: abs(float(trade.price) - before))
            price, last = float(furthest.price), float(trades[-1].price)
            if before > 0 and price > 0 and last > 0:
                distance = abs(log(price / before))
                enough = len(state.returns.values) >= RETURNS_MIN and not state.quiet
                if enough and distance > JUMP_FLOOR:
                    usual = state.returns.median()
                    floor = max(JUMP_FLOOR, _ticks(self._instruments, event.key, before, JUMP_FLOOR_TICKS))
                    limit = max(JUMP_SIGMAS * SIGMA * usual, floor)
                    if distance > limit and state.told.may("price_jump", event.ts_event, self.counts):
                        out.append(
                            _anomaly(
                                event,
                                "price_jump",
                                _severity(distance, limit),
                                "log_return",
                                value=_decimal(distance),
                                limit=_decimal(limit),
                                price_before=state.price,
                                price=furthest.price,
                                trade_id=furthest.trade_id,
                                median_return=_decimal(usual),
                                values=str(len(state.returns.values)),
                            )
                        )
                state.returns.push(abs(log(last / before)))
        if state.ts is not None:
            state.pauses.push(float(trades[-1].ts_event - state.ts))
        state.price, state.ts, state.stale = trades[-1].price, trades[-1].ts_event, False

    @staticmethod
    def _minute(state: TradesState, ts: int) -> None:
        """Close the minutes that are over. Only those seen from beginning to end tell what is usual."""
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

    def _volume(self, state: TradesState, event: Trades, out: list[AnyEvent]) -> None:
        for trade in event.trades:
            if trade.action == "new" and state.minute is not None and trade.ts_event >= state.minute:
                state.volume += float(trade.size)
        if state.spiked or state.quiet or len(state.minutes.values) < MINUTES_MIN:
            return
        usual = state.minutes.median()
        limit = VOLUME_TIMES * usual
        if usual > 0 and state.volume > limit:
            state.spiked = True
            if state.told.may("volume_spike", event.ts_event, self.counts):
                out.append(
                    _anomaly(
                        event,
                        "volume_spike",
                        _severity(state.volume, limit),
                        "minute_volume",
                        value=_decimal(state.volume),
                        limit=_decimal(limit),
                        median_volume=_decimal(usual),
                        minutes=str(len(state.minutes.values)),
                    )
                )

    def _silence(self, state: TradesState, event: Trades, out: list[AnyEvent]) -> None:
        if state.stale or state.ts is None or len(state.pauses.values) < PAUSES_MIN:
            return
        silent = event.ts_event - state.ts
        limit = max(STALE_NS_MIN, STALE_TIMES * state.pauses.median())
        if silent > limit:
            state.stale = True
            if state.told.may("stale", event.ts_event, self.counts):
                out.append(
                    _anomaly(
                        event,
                        "stale",
                        "warning",
                        "seconds_without_trade",
                        value=_decimal(silent / SECOND_NS),
                        limit=_decimal(limit / SECOND_NS),
                        median_pause_seconds=_decimal(state.pauses.median() / SECOND_NS),
                    )
                )

    def checkpoint(self, state: TradesState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> TradesState:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, TradesState)


class Source(msgspec.Struct):
    """What is usual of the quotes of one source, the venue's or our books'.

    `alone_since` is since when it has gone on without a long pause while no other source did.
    """

    spreads: Window
    told: Told
    ts: int = 0
    alone_since: int | None = None
    reason: str = ""
    crossed: bool = False
    stale: bool = False
    quiet: int = 0


class QuotesState(msgspec.Struct):
    """One symbol's quotes by source."""

    sources: dict[str, Source] = {}
    ts_recv: int = 0


class AnomaliesQuotes:
    """Crossed and stale quotes, and spreads far beyond the usual."""

    name = "anomalies_quotes"
    inputs: tuple[str, ...] = ("md.quotes",)
    outputs: tuple[str, ...] = ("md.anomalies",)
    checkpoints = checkpoint.TOPIC

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self.counts: Counter[str] = Counter()
        self._instruments = instruments

    def start(self, key: str) -> QuotesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return QuotesState()

    def step(self, state: QuotesState, event: AnyEvent) -> tuple[QuotesState, list[AnyEvent]]:
        """Return what is not usual about a quote."""
        assert isinstance(event, Quote)  # noqa: S101 - the topic's schema
        state.ts_recv = event.ts_recv
        source = state.sources.get(event.source)
        if source is None:
            source = state.sources[event.source] = Source(spreads=Window(SPREADS), told=Told())
        # A market in which nothing happens is silent on both sources.
        if source.alone_since is None or event.ts_event - source.ts > STALE_NS_MIN // 2:
            source.alone_since = event.ts_event
        source.ts = event.ts_event
        for other in state.sources.values():
            if other is not source:
                other.alone_since = None
        source.reason = event.reason
        out: list[AnyEvent] = []
        if event.reason == HALTED:
            source.quiet, source.crossed = AFTER_HALT, False
            return state, out
        self._stale(state, source, event, out)
        if event.bid is not None and event.ask is not None:
            bid, ask = float(event.bid), float(event.ask)
            # Floats may call close prices equal; the exact ones decide.
            crossed = bid >= ask and Decimal(event.bid) > Decimal(event.ask)
            self._crossed(source, event, out, crossed=crossed)
            if event.valid and not crossed and bid + ask > 0:
                self._spread(source, event, bid, ask, out)
        source.quiet = max(0, source.quiet - 1)
        return state, out

    def _stale(self, state: QuotesState, source: Source, event: Quote, out: list[AnyEvent]) -> None:
        if event.reason == STALE:
            if not source.stale and source.told.may("stale", event.ts_event, self.counts):
                out.append(_anomaly(event, "stale", "warning", f"{event.source}_quote", value="1", limit="0"))
            source.stale = True
            return
        source.stale = False
        silent = event.ts_event - (source.alone_since or event.ts_event)
        if silent <= STALE_NS_MIN:
            return
        for name, other in state.sources.items():
            if other is source or other.stale or other.reason:
                continue
            other.stale = True
            if other.told.may("stale", event.ts_event, self.counts):
                out.append(
                    _anomaly(
                        event,
                        "stale",
                        "warning",
                        f"seconds_without_{name}_quote",
                        value=_decimal(silent / SECOND_NS),
                        limit=_decimal(STALE_NS_MIN / SECOND_NS),
                        source=name,
                    )
                )

    def _crossed(self, source: Source, event: Quote, out: list[AnyEvent], *, crossed: bool) -> None:
        crossed = crossed or event.reason == CROSSED
        if crossed and not source.crossed and source.told.may("crossed", event.ts_event, self.counts):
            bid, ask = event.bid or "0", event.ask or "0"
            out.append(
                _anomaly(
                    event,
                    "crossed",
                    "critical" if event.source == "book" else "warning",
                    f"{event.source}_bid_above_ask",
                    value=plain(Decimal(bid) - Decimal(ask)),
                    limit="0",
                    bid=bid,
                    ask=ask,
                )
            )
        source.crossed = crossed

    def _spread(self, source: Source, event: Quote, bid: float, ask: float, out: list[AnyEvent]) -> None:
        middle = (bid + ask) / 2
        spread = (ask - bid) / middle
        window = source.spreads
        if spread > SPREAD_FLOOR and len(window.values) >= SPREADS_MIN and not source.quiet:
            usual = window.median()
            floor = max(SPREAD_FLOOR, _ticks(self._instruments, event.key, middle, SPREAD_FLOOR_TICKS))
            limit = max(SPREAD_TIMES * usual, floor)
            if spread > limit and source.told.may("spread_blowout", event.ts_event, self.counts):
                out.append(
                    _anomaly(
                        event,
                        "spread_blowout",
                        _severity(spread, limit),
                        f"{event.source}_relative_spread",
                        value=_decimal(spread),
                        limit=_decimal(limit),
                        bid=event.bid or "",
                        ask=event.ask or "",
                        median_spread=_decimal(usual),
                        values=str(len(window.values)),
                    )
                )
        window.push(spread)

    def checkpoint(self, state: QuotesState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> QuotesState:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, QuotesState)


class StatusState(msgspec.Struct):
    """What each line of one symbol, or of a venue's connections, was told of."""

    told: dict[str, Told] = {}
    halted: bool = False
    ts_recv: int = 0


class AnomaliesStatus:
    """Gaps of a feed, and feeds that hear nothing or cannot connect."""

    name = "anomalies_status"
    inputs: tuple[str, ...] = ("md.status",)
    outputs: tuple[str, ...] = ("md.anomalies",)
    checkpoints = checkpoint.TOPIC

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:  # noqa: ARG002 - made like the others
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> StatusState:  # noqa: ARG002 - the protocol's
        """Return the state of a key that was never seen."""
        return StatusState()

    def step(self, state: StatusState, event: AnyEvent) -> tuple[StatusState, list[AnyEvent]]:
        """Return the anomaly that a status tells of."""
        assert isinstance(event, FeedStatus)  # noqa: S101 - the topic's schema
        state.ts_recv = event.ts_recv
        if event.kind in {"halted", "resumed"}:
            state.halted = event.kind == "halted"
        found = _of_status(event)
        if found is None or (state.halted and found.kind == "stale"):
            return state, []
        told = state.told.get(event.line)
        if told is None:
            told = state.told[event.line] = Told()
        return state, [found] if told.may(found.kind, event.ts_event, self.counts) else []

    def checkpoint(self, state: StatusState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> StatusState:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, StatusState)


def _of_status(event: FeedStatus) -> Anomaly | None:
    evidence = {
        name: str(value)
        for name, value in (
            ("reason", event.reason),
            ("detail", event.detail),
            ("channel", event.channel),
            ("gap_id", event.gap_id),
            ("expected", event.expected),
            ("received", event.received),
        )
        if value not in {None, ""}
    }
    if event.kind == "gap":
        missing = 1
        if event.expected is not None and event.received is not None:
            missing = max(1, event.received - event.expected)
        return _anomaly(event, "gap", "warning", f"missing:{event.line}", value=str(missing), limit="0", **evidence)
    if event.kind == "heartbeat_missed":
        return _anomaly(event, "stale", "warning", f"heartbeats:{event.line}", value="1", limit="0", **evidence)
    if event.kind in {"breaker_open", "refused", "given_up"}:
        return _anomaly(event, "stale", "critical", f"connect:{event.line}", value="1", limit="0", **evidence)
    return None
