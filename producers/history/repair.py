"""The gap ledger's keeper: finds gaps in what is stored, repairs them over REST, and closes what is complete again.

Theory of operation.

1. `scan` looks at what the database holds: minutes that are missing, not valid or older than an amendment of one of
   their trades, and numbers that are missing between trades where a venue numbers them one by one. What no open entry
   covers yet becomes one. A minute that is marked as without trades is not missing, and neither is a halt.
2. `repair` asks the venue for each open entry of trades or candles: for the trades of that time, or where it has
   none for its candles. They use the same topics as a backfill, with `origin` repair. Where trades are complete that is
   published, which makes the candles that the stream app still keeps valid; older ones are made here.
3. An entry is closed, with what repaired it, when the database shows that nothing is missing. Otherwise it stays, and
   its job states why. Books have no history: their entries are closed by the feed's own snapshot or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from marketdata.clock import MINUTE_NS, format_rfc3339
from marketdata.errors import Refused, TickstreamError
from marketdata.events import GAP, FeedStatus
from producers.history.backfill import DAY_NS, Backfill, publish, wait_for
from producers.history.jobs import Database, Job, What
from producers.history.queries import MinuteGap, OpenGap, Tables
from producers.live.publisher import Publisher
from producers.venues import TRADES, VENUES, find_venue, is_of_trades

# Younger gaps may fill by themselves: candles are final two seconds after their end, and the sink takes a moment.
SETTLED_NS = 2 * MINUTE_NS
# A longer gap is filled with the venue's candles rather than with all of its trades.
TRADES_NS_MAX = DAY_NS

# Gaps with less time than this between them share one request.
APART_NS = 10 * MINUTE_NS
# What the venue does not have now it will hardly have later; it is asked again all the same, ever more rarely.
RETRY_HOURS_MAX = 24

CANDLES = "candles"


class Outcome(NamedTuple):
    """What became of one entry: `by` is what repaired it, empty when it stays, and `why` it stays."""

    gap: OpenGap
    by: str
    why: str = ""


class Keeper:
    """Scans and repairs. `history` gives a venue's backfill with origin repair, or None where it has no history."""

    def __init__(
        self, database: Database, publisher: Publisher, history: Callable[[str], Backfill | None], *,
        venue: str | None = None, symbol: str | None = None,
    ) -> None:  # fmt: skip
        self._tables = Tables(database)
        self._publisher = publisher
        self._history = history
        self._only = (venue, symbol)
        self._filled: list[tuple[OpenGap, MinuteGap, str]] = []

    # --- Finding ---

    async def scan(self, since: int, until: int | None = None) -> list[OpenGap]:
        """Enter every missing span of [since, until) that no open entry covers; return the new entries."""
        until = min(until or 2**63, time.time_ns() - SETTLED_NS)
        known = await self._tables.open_gaps(*self._only)
        found: list[OpenGap] = []
        for venue, symbol in await self._tables.symbols(since):
            if self._only[0] in {None, venue} and self._only[1] in {None, symbol}:
                mine = [gap for gap in known if (gap.venue, gap.symbol) == (venue, symbol)]
                found += await self._scan_symbol(venue, symbol, mine, (since, until))
        return found

    async def _scan_symbol(self, venue: str, symbol: str, known: list[OpenGap], span: tuple[int, int]) -> list[OpenGap]:
        now = time.time_ns()
        name = f"scan|{venue}:{symbol}"
        common: dict[str, Any] = {"venue": venue, "symbol": symbol, "line": f"{venue}/scan", "reason": GAP}
        found = [
            OpenGap(**common, gap_id=f"{name}|{CANDLES}|{one.start}|{now}", channel=CANDLES, ts_from_ns=one.start,
                    ts_to_ns=one.end, expected=None, received=None)
            for one in _beside(_joined(await self._tables.minute_gaps(venue, symbol, *span)), known)
        ]  # fmt: skip
        if venue in VENUES and find_venue(venue).numbers_trades:
            found += [
                OpenGap(**common, gap_id=f"{name}|{TRADES}|{ids.first}|{ids.end}", channel=TRADES,
                        ts_from_ns=ids.ts_from, ts_to_ns=ids.ts_to, expected=ids.first, received=ids.end)
                for ids in await self._tables.skipped_ids(venue, symbol, *span)
                if not any(_covers(gap, ids.first, ids.end) for gap in known)
            ]  # fmt: skip
        if found:
            await publish(self._publisher, f"{venue}/scan", [_opened(gap, now) for gap in found])
        return found

    # --- Repairing ---

    async def repair(
        self, new: Iterable[OpenGap] = (), report: Callable[[Outcome], None] = lambda _: None, *, patient: bool = False
    ) -> list[Outcome]:
        """Try every open entry, and the new ones that the ledger may not have yet; return what became of each.

        `patient` does not repeat a request that failed recently: two hours, then four, at most a day. Such an
        entry is only closed when it was filled meanwhile, and is not in the answer otherwise.
        """
        entries = {gap.gap_id: gap for gap in await self._tables.open_gaps(*self._only)}
        entries |= {gap.gap_id: gap for gap in new}
        outcomes = []
        # Trades make candles, not the other way round.
        for gap in sorted(entries.values(), key=lambda one: one.channel == CANDLES):
            asks = not patient or _is_due(gap, time.time())
            try:
                outcome = Outcome(gap, await self._repair(gap, asks=asks))
            except TickstreamError as error:
                outcome = Outcome(gap, "", str(error))
            if not asks and not outcome.by:
                continue
            if outcome.by:
                await publish(self._publisher, gap.line or f"{gap.venue}/scan", [_closed(gap, outcome.by)])
            outcomes.append(outcome)
            report(outcome)
        return outcomes

    async def roll_up(self, since: int) -> int:
        """Recalculate longer candles where repaired minutes changed them; return how many."""
        made = 0
        for venue, symbol in await self._tables.symbols(since):
            history = self._history(venue) if self._only[0] in {None, venue} else None
            if history is not None and self._only[1] in {None, symbol}:
                made += await history.roll_up(symbol, since, time.time_ns())
        return made

    async def _repair(self, gap: OpenGap, *, asks: bool) -> str:
        """Return what repaired an entry, nothing when only the venue could. Raises Refused that says why it stays."""
        span = await self._span(gap)
        numbered = gap.expected is not None and gap.received is not None
        if (gap.channel == CANDLES or numbered) and await self._is_whole(gap, span):
            return self._filled_by(gap, span)
        if not asks:
            return ""
        history = self._history(gap.venue)
        if history is None:
            raise Refused(f"{gap.venue} has no history here")
        what = What(gap.venue, gap.symbol, "repair", gap.channel or "")
        job = await history.jobs.open_repair(gap.gap_id, what, span.start, span.end)
        job.first_ns = job.start_ns  # an empty minute at the start gets its marker as well: what was before is known
        async with history.working(job):
            before = job.fetched
            by, complete = await self._fetch(history, job, gap)
            fetched = job.fetched - before
            self._filled.append((gap, span, by))

            async def look() -> bool:
                return await self._is_whole(gap, span, fetched)

            if not (complete and await wait_for(look)):
                raise Refused(_why(history, gap, complete=complete))
        return by

    def _filled_by(self, gap: OpenGap, span: MinuteGap) -> str:
        """Return what filled an entry that is complete already: another entry's repair, or data that came late."""
        for other, filled, by in self._filled:
            same = (other.venue, other.symbol) == (gap.venue, gap.symbol)
            if same and filled.start < span.end and span.start < filled.end:
                return by
        return "late_data"

    async def _fetch(self, history: Backfill, job: Job, gap: OpenGap) -> tuple[str, bool]:
        """Fetch what the venue has of a gap; return what it was, and whether it was all."""
        if history.has_trades and (gap.channel != CANDLES or job.end_ns - job.start_ns <= TRADES_NS_MAX):
            missing = await history.take_trades(job)
            if gap.expected is not None and gap.received is not None:
                return "rest_trades", job.published > 0 and not missing
            return "rest_trades", not missing
        if gap.channel != CANDLES:
            return "", False
        missing = await history.take_minutes(job)
        return "rest_candles", not missing

    async def _span(self, gap: OpenGap) -> MinuteGap:
        """Return the whole minutes that an entry is about. Raises Refused when they cannot be requested."""
        if gap.channel != CANDLES and not is_of_trades(gap.venue, gap.channel):
            raise Refused(f"{gap.channel or 'a connection'} has no history to repair it from")
        start, end = gap.ts_from_ns, gap.ts_to_ns
        if gap.expected is not None and gap.received is not None:
            around = await self._tables.times_around(
                gap.venue, gap.symbol, gap.expected, gap.received, (gap.ts_from_ns, gap.ts_to_ns)
            )
            start, end = around or (start, end)
        if start is None or end is None:
            raise Refused("its time is unknown")
        end += 1 if gap.channel != CANDLES else 0  # the trade at the end itself is a neighbour that is there
        if end > time.time_ns() - SETTLED_NS:
            raise Refused("it is too young, and may fill by itself")
        return MinuteGap(start - start % MINUTE_NS, -(-end // MINUTE_NS) * MINUTE_NS)

    async def _is_whole(self, gap: OpenGap, span: MinuteGap, fetched: int = 0) -> bool:
        """Return whether nothing is missing now; `fetched` is how many trades the venue has just sent of that time."""
        if gap.channel == CANDLES:
            good = await self._tables.good_minutes(gap.venue, gap.symbol, span.start, span.end)
            return good >= (span.end - span.start) // MINUTE_NS
        if gap.expected is not None and gap.received is not None:
            found = await self._tables.count_ids(gap.venue, gap.symbol, gap.expected, gap.received, span)
            return found >= gap.received - gap.expected
        # Without numbers, every trade that the venue sent of that time must be stored; more cannot be proven.
        return await self._tables.count_trades(gap.venue, gap.symbol, span.start, span.end) >= fetched


def _is_due(gap: OpenGap, now_s: float) -> bool:
    hours = min(1 << min(gap.attempts, 10), RETRY_HOURS_MAX)
    return gap.attempts == 0 or now_s - gap.tried_at_s >= hours * 3_600


def _why(history: Backfill, gap: OpenGap, *, complete: bool) -> str:
    if not complete:
        return f"{gap.venue}'s history does not have all of it"
    if gap.channel == CANDLES and not history.has_trades:
        return "its candles may still be revised by the stream app; a later scan replaces them"
    return "what the venue's history has did not fill it"


def _joined(gaps: list[MinuteGap]) -> list[MinuteGap]:
    """Return gaps with those that have little time between them joined: one entry and one request for all."""
    joined: list[MinuteGap] = []
    for one in gaps:
        if joined and one.start - joined[-1].end <= APART_NS:
            joined[-1] = MinuteGap(joined[-1].start, one.end)
        else:
            joined.append(one)
    return joined


def _beside(gaps: list[MinuteGap], known: list[OpenGap]) -> list[MinuteGap]:
    """Return what is left of gaps without what open entries cover."""
    left = gaps
    for gap in known:
        if gap.channel != CANDLES or gap.ts_from_ns is None or gap.ts_to_ns is None:
            continue
        parts = []
        for one in left:
            parts.append(MinuteGap(one.start, min(one.end, gap.ts_from_ns)))
            parts.append(MinuteGap(max(one.start, gap.ts_to_ns), one.end))
        left = [part for part in dict.fromkeys(parts) if part.start < part.end]
    return left


def _covers(gap: OpenGap, first: int, end: int) -> bool:
    if not is_of_trades(gap.venue, gap.channel) or gap.expected is None or gap.received is None:
        return False
    return gap.expected <= first and end <= gap.received


def _opened(gap: OpenGap, now: int) -> FeedStatus:
    missing = f"trades {gap.expected} to {(gap.received or 0) - 1}" if gap.expected is not None else "candles"
    times = " to ".join(format_rfc3339(ts) for ts in (gap.ts_from_ns, gap.ts_to_ns) if ts is not None)
    return FeedStatus(
        venue=gap.venue,
        symbol=gap.symbol,
        ts_event=now,
        ts_recv=now,
        line=gap.line,
        origin="repair",
        kind="gap",
        reason=gap.reason,
        detail=f"{missing} are missing or not valid: {times}",
        channel=gap.channel,
        gap_id=gap.gap_id,
        expected=gap.expected,
        received=gap.received,
        ts_from=gap.ts_from_ns,
        ts_to=gap.ts_to_ns,
    )


def _closed(gap: OpenGap, by: str) -> FeedStatus:
    now = time.time_ns()
    return msgspec.structs.replace(_opened(gap, now), kind="resynced", reason=by, detail="repaired from REST")
