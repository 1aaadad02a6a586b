"""Validate, then de-duplicate, in one hop: md.ingest.* to the public topics. One operator for each kind of event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import GAP, AnyEvent, FeedStatus, Instrument, Quote, Trade, Trades
from stream_apps.operators import checkpoint
from stream_apps.operators.arbitration import SEQUENCE_SCOPES
from stream_apps.operators.dedup import Lines, Seen, SeenIds
from stream_apps.operators.validate import Validator, letter, part

# Quotes of a lagging line are told by their content among this many.
QUOTES_REMEMBERED = 256
STATUSES_REMEMBERED = 1_000
# Used ids on so many trades in a row, each newer than all before it, mean that the venue began to number anew.
REUSED_MAX = 8
# A venue's history may tell times less exactly than its stream.
SAME_NS = MILLISECOND_NS


class TradesState(msgspec.Struct):
    """Which trades of one symbol have passed, and what was last said of the stream.

    `newest` is when the newest of them was made. `before` has the ids of trades until `anew`, when the venue began to
    number anew; `reused` counts the ids in a row that were used before.
    """

    seen: SeenIds
    lines: Lines
    before: SeenIds | None = None
    anew: int = 0
    newest: int = 0
    reused: int = 0
    watermark: int = 0
    reason: str = ""
    ts_recv: int = 0


class IngestTrades:
    """Trades by id, once each; heartbeats only when they move time on; gaps and halts when no line knows better.

    A trade whose id has passed but that was made after all which have is no duplicate: its id was used again. Whose it
    is cannot be told from one of them, so it is a dead letter and its frame not valid; many in a row are new numbers.
    """

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
            reused = self.counts["id_reused"]
            trades = self._new_trades(state, good, out)
            if self.counts["id_reused"] > reused:  # what was traded is not all told
                good = msgspec.structs.replace(good, valid=False, reason=GAP)
            passed = self._arbitrated(state, good, trades)
            if passed is not None:
                out.insert(0, passed)
        return state, out

    def _new_trades(self, state: TradesState, event: Trades, out: list[AnyEvent]) -> tuple[Trade, ...]:
        seen = state.seen
        new: list[Trade] = []
        for trade in event.trades:
            told = self._seen(state, trade, event.origin) if trade.action == "new" else seen.add_amendment(trade)
            if told == "new":
                new.append(trade)
            elif told == "duplicate":
                self.counts["duplicates"] += 1
            else:
                self.counts[told] += 1
                error = BadEvent(told, "trade_id", trade.trade_id)
                out.append(letter(event, error, stage="dedup", payload=part(event, trade)))
        return event.trades if len(new) == len(event.trades) else tuple(new)

    @staticmethod
    def _seen(state: TradesState, trade: Trade, origin: str) -> Seen:
        """Remember a trade, and tell whether it is new."""
        ts = trade.ts_event
        seen = state.seen if state.before is None or ts > state.anew else state.before
        told = seen.add(trade.trade_id) if origin == "live" else seen.add_history(trade.trade_id)
        if told == "new":
            state.newest = max(state.newest, ts)
            state.reused = 0
        elif told == "duplicate" and origin == "live" and 0 < state.newest < ts - SAME_NS:
            state.reused += 1
            if state.reused < REUSED_MAX:
                return "id_reused"
            state.before, state.anew = msgspec.structs.replace(state.seen, amendments={}), state.newest
            state.seen = SeenIds(amendments=state.seen.amendments)
            return IngestTrades._seen(state, trade, origin)
        return told

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
