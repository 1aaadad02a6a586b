"""Validate, then de-duplicate, in one hop: md.ingest.* to the public topics. One operator for each kind of event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from marketdata.errors import BadEvent
from marketdata.events import AnyEvent, FeedStatus, Instrument, Quote, Trade, Trades
from stream_apps.operators import checkpoint
from stream_apps.operators.arbitration import SEQUENCE_SCOPES
from stream_apps.operators.dedup import Lines, SeenIds
from stream_apps.operators.validate import Validator, letter, part

# Quotes of a lagging line are told by their content among this many.
QUOTES_REMEMBERED = 256
STATUSES_REMEMBERED = 1_000


class TradesState(msgspec.Struct):
    """Which trades of one symbol have passed, and what was last said of the stream."""

    seen: SeenIds
    lines: Lines
    watermark: int = 0
    reason: str = ""
    ts_recv: int = 0


class IngestTrades:
    """Trades by id, once each; heartbeats only when they move time on; gaps and halts when no line knows better."""

    name = "ingest_trades"
    inputs: tuple[str, ...] = ("md.ingest.trades",)
    outputs: tuple[str, ...] = ("md.trades", "md.dead_letters")
    checkpoints = checkpoint.TOPIC

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self.counts: Counter[str] = Counter()
        self._validator = Validator(instruments, self.counts)

    def start(self, key: str) -> TradesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return TradesState(seen=SeenIds(), lines=Lines())

    def step(self, state: TradesState, event: AnyEvent) -> tuple[TradesState, list[AnyEvent]]:
        """Return what of an event is right and new, and dead letters for what is wrong."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        state.ts_recv = event.ts_recv
        good, letters = self._validator.trades(event)
        out: list[AnyEvent] = [*letters]
        for refused in letters:
            self.counts[refused.reason] += 1
        if good is not None:
            trades = self._new_trades(state, good, out)
            passed = self._arbitrated(state, good, trades)
            if passed is not None:
                out.insert(0, passed)
        return state, out

    def _new_trades(self, state: TradesState, event: Trades, out: list[AnyEvent]) -> tuple[Trade, ...]:
        seen = state.seen
        new: list[Trade] = []
        for trade in event.trades:
            if trade.action == "new":
                told = seen.add(trade.trade_id) if event.origin == "live" else seen.add_history(trade.trade_id)
            else:
                told = seen.add_amendment(trade)
            if told == "new":
                new.append(trade)
            elif told == "duplicate":
                self.counts["duplicates"] += 1
            else:
                self.counts[told] += 1
                error = BadEvent(told, "trade_id", trade.trade_id)
                out.append(letter(event, error, stage="dedup", payload=part(event, trade)))
        return event.trades if len(new) == len(event.trades) else tuple(new)

    def _arbitrated(self, state: TradesState, event: Trades, trades: tuple[Trade, ...]) -> Trades | None:
        if event.origin != "live":  # history says nothing about how the lines are now
            return msgspec.structs.replace(event, trades=trades) if trades or not event.trades else None
        reason = state.lines.hear(event.line, event.ts_event, valid=event.valid, reason=event.reason)
        moves = event.ts_event > state.watermark
        changes = reason != state.reason
        if not trades and not changes and (event.trades or not moves):
            if not event.trades:
                self.counts["heartbeats_not_newer"] += 1
            return None
        state.watermark = max(state.watermark, event.ts_event)
        state.reason = reason
        if trades is event.trades and event.valid == (not reason) and event.reason == reason:
            return event
        return msgspec.structs.replace(event, trades=trades, valid=not reason, reason=reason)

    def checkpoint(self, state: TradesState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> TradesState:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, TradesState)


class QuotesState(msgspec.Struct):
    """The last quotes of one symbol by content, and what was last said of the stream."""

    lines: Lines
    recent: dict[str, None] = {}
    line: str = ""
    ts: int = 0
    reason: str = ""
    ts_recv: int = 0


class IngestQuotes:
    """Quotes once each: a later line's copy is told by its content and time, and none goes back in time."""

    name = "ingest_quotes"
    inputs: tuple[str, ...] = ("md.ingest.quotes",)
    outputs: tuple[str, ...] = ("md.quotes", "md.dead_letters")
    checkpoints = checkpoint.TOPIC

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self.counts: Counter[str] = Counter()
        self._validator = Validator(instruments, self.counts)

    def start(self, key: str) -> QuotesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return QuotesState(lines=Lines())

    def step(self, state: QuotesState, event: AnyEvent) -> tuple[QuotesState, list[AnyEvent]]:
        """Return the quote when it is right and new, or its dead letter."""
        assert isinstance(event, Quote)  # noqa: S101 - the topic's schema
        state.ts_recv = event.ts_recv
        error = self._validator.quote(event)
        if error is not None:
            self.counts[error.reason] += 1
            return state, [letter(event, error)]
        passed = self._new(state, event)
        return state, [] if passed is None else [passed]

    def _new(self, state: QuotesState, event: Quote) -> Quote | None:
        if event.origin != "live":  # history says nothing about how the lines are now
            return event
        reason = state.lines.hear(event.line, event.ts_event, valid=event.valid, reason=event.reason)
        if not event.valid and not reason:
            self.counts["line_down"] += 1
            return None
        if event.line != state.line and event.ts_event < state.ts:
            self.counts["duplicates" if _content(event) in state.recent else "older_than_last"] += 1
            return None
        content = _content(event)
        if content in state.recent:
            self.counts["duplicates"] += 1
            return None
        state.recent[content] = None
        if len(state.recent) > QUOTES_REMEMBERED:
            del state.recent[next(iter(state.recent))]
        state.line, state.ts = event.line, max(state.ts, event.ts_event)
        if event.valid == (not reason) and event.reason == reason:
            return event
        return msgspec.structs.replace(event, valid=not reason, reason=reason)

    def checkpoint(self, state: QuotesState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> QuotesState:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, QuotesState)


def _content(event: Quote) -> str:
    # Several quotes may have one time, and the last may repeat the first: where the symbol numbers them, that tells.
    number = event.sequence if SEQUENCE_SCOPES.get(event.venue) == "symbol" else None
    return (
        f"{number}|{event.ts_event}|{event.reason}|{event.bid}|{event.bid_size}|{event.ask}|{event.ask_size}|{event.last}"
        f"|{event.volume_24h}|{event.high_24h}|{event.low_24h}|{event.change_24h}"
    )


class StatusState(msgspec.Struct):
    """The last statuses of one symbol, or of a venue's connections, by what tells them apart."""

    recent: dict[str, None] = {}
    ts_recv: int = 0


class IngestStatus:
    """Feed statuses once each; every line's own, because each line's history belongs on the ledger."""

    name = "ingest_status"
    inputs: tuple[str, ...] = ("md.ingest.status",)
    outputs: tuple[str, ...] = ("md.status", "md.dead_letters")
    checkpoints = checkpoint.TOPIC

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self.counts: Counter[str] = Counter()
        self._validator = Validator(instruments, self.counts)

    def start(self, key: str) -> StatusState:  # noqa: ARG002 - the protocol's
        """Return the state of a key that was never seen."""
        return StatusState()

    def step(self, state: StatusState, event: AnyEvent) -> tuple[StatusState, list[AnyEvent]]:
        """Return the status when it is right and new, or its dead letter."""
        assert isinstance(event, FeedStatus)  # noqa: S101 - the topic's schema
        state.ts_recv = event.ts_recv
        error = self._validator.status(event)
        if error is not None:
            self.counts[error.reason] += 1
            return state, [letter(event, error)]
        # A gap opens once and closes once; what has no gap_id is the same only when all of it is.
        same = f"{event.line}|{event.kind}|{event.gap_id}"
        if event.gap_id is None:
            same += f"|{event.ts_event}|{event.sequence}|{event.channel}|{event.reason}|{event.detail}"
        if same in state.recent:
            self.counts["duplicates"] += 1
            return state, []
        state.recent[same] = None
        if len(state.recent) > STATUSES_REMEMBERED:
            del state.recent[next(iter(state.recent))]
        return state, [event]

    def checkpoint(self, state: StatusState, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> StatusState:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, StatusState)
