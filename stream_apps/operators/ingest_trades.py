"""Trades: validated, de-duplicated by id, with the validity of the whole stream.

1. A trade whose id has passed is a duplicate, whichever line sent it (see `trade_ids`).
2. A trade whose id has passed, but which is newer than every trade that has, is not a duplicate: the id was reused. A
   single reused id is ambiguous, so the trade becomes a dead letter and its message invalid. `REUSED_MAX` in a row mean
   that the venue reset its ids: from then on they are treated as new.
3. A heartbeat passes when it advances time or when validity changes.
4. When input records are lost, the stream is invalid from the last valid time until the next valid event. The gap on
   the ledger stays open until a repair has filled it.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import GAP, HALTED, AnyEvent, DeadLetter, Trade, Trades
from marketdata.operator import Lost
from marketdata.prices import add_consecutive
from stream_apps.operators import losses
from stream_apps.operators.arbitration import LineReports
from stream_apps.operators.trade_ids import Coverage, RecentKeys, Seen, SeenIds, amendment_key, no_ids, no_keys
from stream_apps.operators.validation import check_trades, letter, part

# After this many reused ids in a row, each on a trade newer than all before, the venue has reset its ids.
REUSED_MAX = 8
# Times in a venue's history may be less precise than in its stream.
SAME_NS = MILLISECOND_NS


class IngestTradesState(msgspec.Struct):
    """The trades of one symbol that have passed, and the time and validity of the stream.

    `newest` is the time of the newest trade. `before` has the ids of trades up to `reset_at`, when the venue reset its
    ids; `reused` counts consecutive reused ids. `line` is the line of the last message that passed.
    """

    seen: SeenIds
    amendments: RecentKeys
    lines: LineReports
    coverage: Coverage
    before: SeenIds | None = None
    reset_at: int = 0
    newest: int = 0
    reused: int = 0
    watermark: int = 0
    reason: str = ""
    line: str = ""


class IngestTrades:
    """The operator."""

    name = "ingest_trades"
    input = "md.ingest.trades"
    outputs: tuple[str, ...] = ("md.trades", "md.status", "md.dead_letters")
    state = IngestTradesState

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> IngestTradesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return IngestTradesState(seen=no_ids(), amendments=no_keys(), lines=LineReports(), coverage=Coverage())

    def step(self, state: IngestTradesState, event: AnyEvent) -> tuple[IngestTradesState, list[AnyEvent]]:
        """Return the event with its valid new trades, and dead letters for invalid ones."""
        assert isinstance(event, Trades)  # noqa: S101 - the topic's schema
        if _add_fast(state, event):
            return state, [event]
        good, letters = check_trades(event)
        out: list[AnyEvent] = [*letters]
        for refused in letters:
            self.counts[refused.reason] += 1
        if good is None:
            return state, out
        if good.origin == "live" and not good.valid and good.reason != HALTED:
            state.coverage.interrupted = True
        unsure: list[DeadLetter] = []
        trades = self._new_trades(state, good, unsure)
        if any(refused.reason == "id_reused" for refused in unsure):  # such a trade is missing
            good = msgspec.structs.replace(good, valid=False, reason=GAP)
        passed = self._arbitrated(state, good, trades)
        return state, [*out, *unsure] if passed is None else [passed, *out, *unsure]

    def _new_trades(self, state: IngestTradesState, event: Trades, unsure: list[DeadLetter]) -> tuple[Trade, ...]:
        """Return the new trades; a trade that may or may not be new adds a dead letter to `unsure`."""
        new: list[Trade] = []
        for trade in event.trades:
            seen = _seen_trade(state, trade, event.origin) if trade.action == "new" else _seen_amendment(state, trade)
            if seen == "new":
                new.append(trade)
            elif seen == "duplicate":
                self.counts["duplicates"] += 1
            else:
                self.counts[seen] += 1
                error = BadEvent(seen, "trade_id", trade.trade_id)
                unsure.append(letter(event, error, stage="dedup", payload=part(event, (trade,))))
        return event.trades if len(new) == len(event.trades) else tuple(new)

    def _arbitrated(self, state: IngestTradesState, event: Trades, trades: tuple[Trade, ...]) -> Trades | None:
        if event.origin != "live":  # history does not affect the state of the lines
            if event.complete_from is not None and event.complete_from < event.ts_event:
                state.coverage.add(event.complete_from, event.ts_event - 1)
            return msgspec.structs.replace(event, trades=trades) if trades or not event.trades else None
        reason = state.lines.update(event.line, event.ts_event, valid=event.valid, reason=event.reason)
        moves = event.ts_event > state.watermark
        changes = reason != state.reason
        if not trades and not changes and (event.trades or not moves):
            if not event.trades:
                self.counts["heartbeats_not_newer"] += 1
            return None
        state.watermark = max(state.watermark, event.ts_event)
        state.reason = reason
        state.line = event.line
        if trades is event.trades and event.valid == (not reason) and event.reason == reason:
            return event
        return msgspec.structs.replace(event, trades=trades, valid=not reason, reason=reason)

    def lost(self, state: IngestTradesState, key: str, loss: Lost) -> tuple[IngestTradesState, list[AnyEvent]]:
        """Return the gap, and an empty invalid message, which invalidates the candles since the last valid time."""
        self.counts["lost"] += 1
        since = state.watermark or None
        out: list[AnyEvent] = []
        if since is not None:
            venue, _, symbol = key.partition(":")
            out.append(
                Trades(
                    venue=venue,
                    symbol=symbol,
                    ts_event=since,
                    ts_recv=loss.ts,
                    line=state.line,
                    valid=False,
                    reason=GAP,
                )
            )
            state.reason = GAP
        state.coverage.interrupted = True
        out.append(losses.gap(loss, key, "trades", ts_from=since, ts_to=max(loss.ts, since or 0)))
        return state, out


def _add_fast(state: IngestTradesState, event: Trades) -> bool:
    """Apply an event unchanged on the fast path, with the same result as the general path.

    The fast path takes a valid message of the only line, with new valid trades of consecutive ids. False, with nothing
    changed, for anything else. The key's and the line's names were validated when the line first passed.
    """
    line, sequence, coverage, ends = event.line, event.sequence, state.coverage, state.seen.numbers.ends
    if (
        line != state.line
        or state.reason
        or event.reason
        or not event.valid
        or event.origin != "live"
        or event.complete_from is not None
        or coverage.interrupted
        or not ends
        or state.before is not None
        or not coverage.live_from
    ):
        return False
    times = state.lines.ts
    if len(times) != 1 or not (sequence is None or (type(sequence) is int and -(2**63) <= sequence < 2**63)):
        return False
    ts = event.ts_event
    newest = add_consecutive(event.trades, ts, event.ts_recv, coverage.live_from, ends)
    if newest < 0:
        return False
    state.reused = 0
    state.newest = max(state.newest, newest)
    coverage.newest = max(coverage.newest, newest)
    state.watermark = max(state.watermark, ts)
    times[line] = max(times[line], ts)
    return True


def _seen_trade(state: IngestTradesState, trade: Trade, origin: str) -> Seen:
    """Remember a trade, and return whether it is new."""
    ts = trade.ts_event
    ids = state.seen if state.before is None or ts > state.reset_at else state.before
    if origin != "live":
        seen = ids.add_history(trade.trade_id, ts, passed=state.coverage.has(ts))
    else:
        seen = ids.add(trade.trade_id, ts)
    if seen == "new":
        state.newest = max(state.newest, ts)
        state.reused = 0
        if origin == "live":
            state.coverage.add_live(ts)
    elif seen == "duplicate" and origin == "live" and 0 < state.newest < ts - SAME_NS:
        state.reused += 1
        if state.reused < REUSED_MAX:
            return "id_reused"
        state.before, state.reset_at = state.seen, state.newest
        state.seen = no_ids()
        state.reused = 0
        return _seen_trade(state, trade, origin)
    return seen


def _seen_amendment(state: IngestTradesState, trade: Trade) -> Seen:
    """Remember a correction or a cancel, and return whether it is new."""
    key = amendment_key(trade)
    if state.amendments.has(key):
        return "duplicate"
    state.amendments.add(key, 0)
    return "new"
