"""Backfills a venue's history: candles and trades over REST to Kafka, with `origin` backfill, resumable.

Theory of operation.

1. Trades go to md.ingest.trades like live ones: validated, and distinguished from live ones and from a job's
   own repetitions by their ids. Those that the database holds already are not sent again.
2. Candles go to md.ingest.candles. The stream app `candles` owns the candles that it can still revise; history only
   publishes older ones, of those before the first live one, and of those that an amendment made it give up. Trades that
   come with a backfill are added up to candles here, minute by minute, since the app has forgotten the others of that
   minute.
3. Each candle gets the revision after the one that is stored. What is stored and valid stays, unless more trades than
   it has are known now, or some of them were amended after it was made (`bars.next_revision`). An interval without
   trades gets a marker, it is never left out.
4. A step of a job is: fetch, write, wait for Kafka's acknowledgement, move the cursor. A job that is killed repeats at
   most the step; every candle and trade of it has the same identity, so nothing is there twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from difflib import get_close_matches

import msgspec

from marketdata.clock import MINUTE_NS
from marketdata.errors import Refused, TickstreamError, Unavailable
from marketdata.events import AnyEvent, Candle, DeadLetter, FeedStatus, Trades
from marketdata.intervals import INTERVALS
from producers.history.candles import Minutes, Name, Stored, filled, next_revision, records, roll_up
from producers.history.jobs import Database, Job, Jobs, What
from producers.history.queries import Tables, as_values
from producers.history.rest import Rest
from producers.live.publisher import Publisher
from producers.venues import VENUES
from producers.venues.kit.history import RefusedItem, Span, TradeHistory
from producers.venues.kit.values import escaped

DAY_NS = INTERVALS["1d"]
# How long the stream app keeps candles that it may revise: its `keep_ns`.
KEPT_NS = 120 * MINUTE_NS
ACKNOWLEDGED_WITHIN_S = 60.0
STORED_WITHIN_S = 15.0
LOOK_S = 0.1

Report = Callable[[Job], None]


async def publish(publisher: Publisher, line: str, events: Iterable[AnyEvent]) -> None:
    """Write events and wait until Kafka has acknowledged them. Raises Unavailable."""
    failures = publisher.failures
    await publisher.write(line, events, time.time_ns())
    left = await publisher.close(ACKNOWLEDGED_WITHIN_S)
    if left or publisher.failures != failures:
        raise Unavailable(f"Kafka did not take {left or 'some'} records; the job resumes at its last step")


class Backfill:
    """Publishes one venue's history to Kafka. `report` is called with a job each time it has advanced."""

    def __init__(
        self,
        rest: Rest,
        database: Database,
        publisher: Publisher,
        *,
        report: Report = lambda _: None,
        origin: str = "backfill",
    ) -> None:
        self.venue = rest.history.venue
        self.has_trades = isinstance(rest.history, TradeHistory)
        self.tables = Tables(database)
        self.jobs = Jobs(database)
        self.origin = origin
        self._rest = rest
        self._publisher = publisher
        self._report = report
        self.line = f"{self.venue}/history"
        self._on_ledger: set[tuple[str, str, Span]] = set()

    async def listed(self, name: str) -> str:
        """Return our symbol of a name, ours or the venue's; publish the instrument if it is unknown.

        Raises Refused when the venue does not list it.
        """
        symbol = self._rest.history.instrument(name).symbol
        if await self.tables.knows(self.venue, symbol):
            return symbol
        listed = {instrument.symbol: instrument for instrument in await self._rest.get_symbols()}
        if symbol not in listed:
            near = ", ".join(get_close_matches(symbol, listed, 3)) or "nothing like it"
            raise Refused(f"{self.venue} does not list {name}; it has {near}")
        await self.publish([msgspec.structs.replace(listed[symbol], ts_recv=time.time_ns())])
        return symbol

    async def publish(self, events: Iterable[AnyEvent]) -> None:
        """Write events and wait until Kafka has acknowledged them. Raises Unavailable."""
        await publish(self._publisher, self.line, events)

    @asynccontextmanager
    async def working(self, job: Job) -> AsyncIterator[None]:
        """Keep the row of a job true to what happens to it."""
        try:
            yield
        except (asyncio.CancelledError, KeyboardInterrupt):
            await asyncio.shield(self.jobs.pause(job))
            raise
        except TickstreamError as error:
            await self.jobs.fail(job, str(error))
            raise
        await self.jobs.finish(job)
        self._report(job)

    # --- Candles ---

    async def candles(self, symbol: str, interval: str, start: int, end: int) -> Job:
        """Fetch the candles of [start, end), by whole days (UTC), and roll them up to every longer interval."""
        job = await self.jobs.open(What(self.venue, symbol, "candles", interval), start - start % DAY_NS, end)
        async with self.working(job):
            at = reached = job.cursor_ns
            waiting: dict[int, Candle] = {}
            missing: list[Span] = []
            published: list[Candle] = []
            async for chunk in self._rest.fetch_candles(symbol, interval, at, job.end_ns):
                await self._publish_refused(symbol, chunk.refused)
                waiting |= {candle.start: candle for candle in chunk.events}
                missing += chunk.missing
                reached = chunk.reached
                if reached - at >= DAY_NS:
                    until = reached - reached % DAY_NS
                    published = await self._take_candles(job, waiting, at, until, missing) or published
                    at = until
            published = await self._take_candles(job, waiting, at, reached, missing) or published
            if published:  # a scan right after this must find what is still on its way to the database
                await self.stored(symbol, max(published, key=lambda one: (one.interval, one.start)))
        return job

    async def _take_candles(
        self, job: Job, waiting: dict[int, Candle], start: int, end: int, missing: list[Span]
    ) -> list[Candle]:
        """Publish the candles of [start, end) and move the cursor; return those that were new or better."""
        found = {label: waiting.pop(label) for label in sorted(waiting) if label < end}
        if job.first_ns is None and found:
            job.first_ns = min(found)
        chosen: list[Candle] = []
        if job.first_ns is not None:
            since = max(start, job.first_ns - job.first_ns % DAY_NS)  # nothing is known of the time before
            name = Name(self.venue, job.symbol, self.origin)
            sparse = self._rest.history.sparse
            base = filled(name, job.interval, found, (since, end), missing) if sparse else found
            made = list(base.values())
            for longer, length in INTERVALS.items():
                if length > INTERVALS[job.interval]:
                    made += roll_up(base, job.interval, longer).values()
            chosen = await self.settle(job.symbol, made)
        await self.tell_missing(job.symbol, "candles", missing)
        # A day that is not over is published again by the job's next run, which then has all of it.
        await self.jobs.advance(job, end - end % DAY_NS, len(found), len(chosen))
        self._report(job)
        return chosen

    async def take_minutes(self, job: Job) -> list[Span]:
        """Fetch the minutes of a job's short range; return the spans that the venue does not have."""
        found: dict[int, Candle] = {}
        missing: list[Span] = []
        reached = job.start_ns
        async for chunk in self._rest.fetch_candles(job.symbol, "1m", job.start_ns, job.end_ns):
            await self._publish_refused(job.symbol, chunk.refused)
            found |= {candle.start: candle for candle in chunk.events}
            missing += chunk.missing
            reached = chunk.reached
        name = Name(self.venue, job.symbol, self.origin)
        minutes = filled(name, "1m", found, (job.start_ns, reached), missing) if self._rest.history.sparse else found
        chosen = await self.settle(job.symbol, minutes.values())
        await self.jobs.advance(job, reached, len(found), len(chosen))
        if chosen:
            await self.stored(job.symbol, chosen[-1])
            await self.roll_up(job.symbol, job.start_ns, reached)
        return missing

    async def settle(self, symbol: str, candles: Iterable[Candle]) -> list[Candle]:
        """Publish those candles that are history's and that are new, or better than what is stored; return those."""
        made = list(candles)
        if not made:
            return []
        now = time.time_ns()
        ours = await self._of_history(symbol, made, now)
        if not ours:
            return []
        start, end = min(one.start for one in ours), max(one.end for one in ours)
        stored = await self.tables.candles(self.venue, symbol, start, end)
        changes = await self.tables.changes(self.venue, symbol, start, end)
        chosen = []
        for candle in ours:
            known = stored.get((candle.interval, candle.start))
            revision = next_revision(candle, known, changed=known is not None and _is_older(candle, known, changes))
            if revision is not None:
                chosen.append(msgspec.structs.replace(candle, revision=revision, origin=self.origin))
        await self.publish(records(chosen, self.line, now))
        return chosen

    async def _of_history(self, symbol: str, candles: list[Candle], now: int) -> list[Candle]:
        """Return the candles that belong to history: the stream app has evicted them or left them to history."""
        before = await self._history_ends(symbol, now)
        young = [one for one in candles if one.end > before]
        if not young:
            return candles
        span = (min(one.start for one in young), max(one.end for one in young))
        left_to_history = await self.tables.left_to_history(self.venue, symbol, *span)
        return [one for one in candles if one.end <= before or (one.interval, one.start) in left_to_history]

    async def _history_ends(self, symbol: str, now: int) -> int:
        """Return the time up to which candles are history's: the others are kept by the stream app, or will be.

        The stream app's time in the database is a little old, so the app has forgotten at least this much.
        """
        live = await self.tables.live_span(self.venue, symbol, now - DAY_NS)
        if live is None:
            return now
        first, newest = live
        kept_from = newest - KEPT_NS
        return max(first, kept_from - kept_from % MINUTE_NS)

    async def roll_up(self, symbol: str, start: int, end: int) -> int:
        """Recalculate the longer candles of [start, end) from the stored minutes, where that changes them."""
        published = 0
        for day in range(start - start % DAY_NS, end, DAY_NS):
            stored = await self.tables.candles(self.venue, symbol, day, day + DAY_NS, "1m")
            changes = await self.tables.changes(self.venue, symbol, day, day + DAY_NS)
            minutes = {
                label: Candle(
                    venue=self.venue, symbol=symbol, interval="1m", start=label, end=label + MINUTE_NS, ts_event=label,
                    ts_recv=label, **as_values(row),
                )
                for (_, label), row in stored.items()
                if row.valid and row.state != "open" and changes.get(label, 0) <= row.ts_recv_ns
            }  # fmt: skip
            touched = [one for to in INTERVALS if to != "1m" for one in roll_up(minutes, "1m", to).values()]
            within = [one for one in touched if one.end > start and one.start < end]
            published += len(await self.settle(symbol, within))
        return published

    # --- Trades ---

    async def trades(self, symbol: str, start: int, end: int) -> Job:
        """Fetch the trades of [start, end), and make the candles that they change."""
        job = await self.jobs.open(What(self.venue, symbol, "trades"), start - start % MINUTE_NS, end)
        async with self.working(job):
            await self.take_trades(job)
        return job

    async def take_trades(self, job: Job) -> list[Span]:
        """Fetch the trades of a job from its cursor on; return the spans that the venue does not have."""
        minutes = Minutes(self.venue, job.symbol, self.origin)
        begin = at = job.cursor_ns
        missing: list[Span] = []
        last: Candle | None = None
        async for chunk in self._rest.fetch_trades(job.symbol, at, job.end_ns):
            await self._publish_refused(job.symbol, chunk.refused)
            missing += chunk.missing
            fetched = 0
            for event in chunk.events:
                fetched += len(event.trades)
                minutes.add(event.trades)
                if job.first_ns is None and event.trades:
                    job.first_ns = event.trades[0].ts_event
            new = [one for event in chunk.events for one in await self._unknown(event)]
            if new:
                await self.publish(new)
            until = chunk.reached - chunk.reached % MINUTE_NS
            published = sum(len(event.trades) for event in new)
            if until > at and job.first_ns is not None:
                since = max(at, job.first_ns - job.first_ns % MINUTE_NS)
                made = [one for one in minutes.take(since, until).values() if not _touches(one, missing)]
                chosen = await self.settle(job.symbol, made)
                last = chosen[-1] if chosen else last
            at = max(at, until)
            await self.tell_missing(job.symbol, "trades", missing)
            await self.jobs.advance(job, at, fetched, published)
            self._report(job)
        if at > begin and job.first_ns is not None:
            await self.publish([self._complete(job, max([begin, job.first_ns, *(span.end for span in missing)]), at)])
        if last is not None:
            await self.stored(job.symbol, last)
        if last is not None or job.resumed:  # a run that was cut short may have left the longer candles undone
            await self.roll_up(job.symbol, job.start_ns if job.resumed else begin, at)
        return missing

    async def _unknown(self, event: Trades) -> list[Trades]:
        """Return the event without the trades that are stored; nothing when all are."""
        ids = [trade.trade_id for trade in event.trades]
        times = [trade.ts_event for trade in event.trades]
        known = await self.tables.known_ids(self.venue, event.symbol, ids, min(times), max(times))
        new = tuple(trade for trade in event.trades if (trade.action, trade.trade_id) not in known)
        if not new:
            return []
        amendable = VENUES[self.venue].amends_trades
        return [msgspec.structs.replace(event, trades=new, origin=self.origin, line=self.line, amendable=amendable)]

    def _complete(self, job: Job, start: int, end: int) -> Trades:
        """Return the event which states that every trade of [start, end) is in the stream."""
        return Trades(
            venue=self.venue,
            symbol=job.symbol,
            ts_event=end,
            ts_recv=time.time_ns(),
            line=self.line,
            origin=self.origin,
            complete_from=min(start, end),
        )

    async def stored(self, symbol: str, candle: Candle) -> bool:
        """Wait, for a limited time, until this revision of a candle is stored; return whether it is."""

        async def look() -> bool:
            found = await self.tables.candles(self.venue, symbol, candle.start, candle.end, candle.interval)
            return any(row.revision >= candle.revision and row.state != "open" for row in found.values())

        return await wait_for(look)

    async def _publish_refused(self, symbol: str, refused: Iterable[RefusedItem]) -> None:
        """Publish a dead letter for each item that was left out."""
        letters = [
            DeadLetter(venue=self.venue, symbol=symbol, ts_recv=time.time_ns(), stage="history",
                       reason=item.error.reason, detail=escaped(str(item.error)), field=item.error.field,
                       value=escaped(item.error.value), line=self.line, payload=item.payload)
            for item in refused
        ]  # fmt: skip
        if letters:
            await self.publish(letters)

    async def tell_missing(self, symbol: str, channel: str, missing: list[Span]) -> None:
        """Enter what the venue does not have in the ledger, each span once. A repair's entry is there already."""
        if self.origin != "backfill":
            return
        now = time.time_ns()
        gaps = [
            FeedStatus(
                venue=self.venue,
                symbol=symbol,
                ts_event=now,
                ts_recv=now,
                line=self.line,
                origin=self.origin,
                kind="gap",
                reason=span.reason,
                detail=f"{self.venue}'s history has no {channel} of this time",
                channel=channel,
                gap_id=f"{self.line}|{symbol}|{channel}|{span.start}|{span.end}",
                ts_from=span.start,
                ts_to=span.end,
            )
            for span in missing
            if (symbol, channel, span) not in self._on_ledger
        ]
        if gaps:
            await self.publish(gaps)
            self._on_ledger |= {(symbol, channel, span) for span in missing}


async def wait_for(look: Callable[[], Awaitable[bool]], limit_s: float = STORED_WITHIN_S) -> bool:
    """Ask until the answer is yes, for a limited time; return the last answer."""
    deadline = time.monotonic() + limit_s
    while True:
        if await look():
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_S)


def _is_older(candle: Candle, stored: Stored, changes: Mapping[int, int]) -> bool:
    """Return whether trades of a stored candle came, or were amended, after it was made."""
    minutes = range(candle.start, candle.end, MINUTE_NS)
    return bool(changes) and any(changes.get(minute, 0) > stored.ts_recv_ns for minute in minutes)


def _touches(candle: Candle, spans: Iterable[Span]) -> bool:
    return any(span.start < candle.end and candle.start < span.end for span in spans)
