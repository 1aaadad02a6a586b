"""`tickstream backfill` and `tickstream gaps`: backfill a venue's history, and find and repair gaps."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from marketdata.clock import format_rfc3339, parse_rfc3339
from marketdata.errors import Refused

if TYPE_CHECKING:
    from producers.history.backfill import Backfill
    from producers.history.jobs import Job
    from producers.history.repair import Outcome
    from producers.history.settings import HistorySettings

gaps = typer.Typer(help="Find, repair and list what is missing.", no_args_is_help=True)
console = Console(highlight=False)

DAY_NS = 86_400 * 1_000_000_000
INTERRUPTED = 130


class _Shown:
    """Jobs on the terminal: a bar each where there is one, a line a job where there is none."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._began: dict[str, tuple[int, int]] = {}
        self._last: dict[str, str] = {}

    def report(self, job: Job) -> None:
        """Show how far a job is."""
        bar = self._bars.get(job.job_id)
        if bar is None:
            bar = self._progress.add_task(f"{job.symbol} {job.kind} {job.interval}".strip(), total=1, at="", rows="")
            self._bars[job.job_id] = bar
            self._began[job.job_id] = (job.start_ns, max(job.end_ns - job.start_ns, 1))
        start, length = self._began[job.job_id]
        done = 1.0 if job.state == "done" else (job.cursor_ns - start) / length
        at = format_rfc3339(job.cursor_ns)[:16]
        self._progress.update(bar, completed=done, at=at, rows=f"{job.fetched:,} fetched, {job.published:,} new")
        if job.state == "done" and not console.is_terminal:
            console.print(f"{job.symbol} {job.kind} {job.interval}: {job.fetched} fetched, {job.published} new")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %"),
        TextColumn("{task.fields[at]}"),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def backfill(
    venue: Annotated[str, typer.Argument(help="Venue, for example `coinbase`.")],
    symbols: Annotated[list[str], typer.Argument(help="Symbols, ours (`BTC-USD`) or the venue's own.")],
    *,
    days: Annotated[int, typer.Option("--days", min=1, max=3_650, help="Days back from now.")] = 365,
    interval: Annotated[
        str, typer.Option("--interval", help="Candles to request; longer ones are made of them: 1m 5m 15m 1h 4h 1d.")
    ] = "1m",
    start: Annotated[str, typer.Option("--start", help="Begin, RFC 3339 with zone, instead of --days.")] = "",
    end: Annotated[str, typer.Option("--end", help="End (exclusive), RFC 3339 with zone; now if not given.")] = "",
    trades: Annotated[bool, typer.Option("--trades", help="Backfill the trades too: much more to fetch.")] = False,
    candles: Annotated[bool, typer.Option("--candles/--no-candles", help="Backfill the candles.")] = True,
    rest_url: Annotated[str, typer.Option("--rest-url", help="REST address instead of the venue's own.")] = "",
) -> None:
    """Publish a venue's history to the topics of live data, with `origin` backfill, and so into the database.

    It keeps the venue's rate limits and resumes where it stopped: after Ctrl-C, a crash or an error run the same
    command again. What is there already is not stored twice, and live candles that are valid stay as they are.
    Needs Kafka, the registry, the database, the stream apps and the sink: those of the platform that runs here, or
    TICKSTREAM_KAFKA_BROKERS, TICKSTREAM_REGISTRY_URL and TICKSTREAM_DATABASE_URL.

    Example: `tickstream backfill coinbase BTC-USD ETH-USD --days 365`

    Example: `tickstream backfill binance_spot BTC-USDT --days 7 --trades`

    Example: `tickstream backfill kraken BTC-USD --interval 1h --start 2026-01-01T00:00:00Z --end 2026-02-01T00:00:00Z`
    """
    from producers.history.settings import HistorySettings
    from tickstream.here import load_here

    now = time.time_ns()
    until = parse_rfc3339(end, "--end") if end else now
    since = parse_rfc3339(start, "--start") if start else now - days * DAY_NS
    if since >= until:
        raise typer.BadParameter("the range is empty: --start must come before --end", param_hint="--start")
    wanted = {kind: interval for kind, yes in (("candles", candles), ("trades", trades)) if yes}
    if not wanted:
        raise typer.BadParameter("without candles, --trades is required", param_hint="--no-candles")
    settings = load_here(HistorySettings, **_given(rest_url))
    _run(_backfill(settings, venue, symbols, wanted, (since, until)))


async def _backfill(
    settings: HistorySettings, venue: str, symbols: list[str], wanted: dict[str, str], span: tuple[int, int]
) -> None:
    from producers.history.backfill import Backfill
    from producers.history.settings import find_history, open_history_services

    with _progress() as progress:
        async with find_history(settings, venue) as rest, open_history_services(settings) as services:
            work = Backfill(rest, services.database, services.publisher, report=_Shown(progress).report)
            if "trades" in wanted and not work.has_trades:
                raise Refused(f"{venue} has no trades of the past; leave --trades out")
            for name in symbols:
                symbol = await work.listed(name)
                if "candles" in wanted:
                    await work.candles(symbol, wanted["candles"], *span)
                if "trades" in wanted:
                    await work.trades(symbol, *span)


def _given(rest_url: str) -> dict[str, str]:
    return {"history_url": rest_url, "history_venue": ""} if rest_url else {}


def _run(work: Any) -> None:
    import uvloop

    try:
        uvloop.run(work)
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]; the same command resumes here")
        sys.exit(INTERRUPTED)


@gaps.command()
def scan(
    venue: Annotated[str | None, typer.Option("--venue", help="Only this venue.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only this symbol, for example `BTC-USD`.")] = None,
    hours: Annotated[float, typer.Option("--hours", min=0.1, max=87_600, help="How far back to look.")] = 48.0,
    repair: Annotated[bool, typer.Option("--repair/--no-repair", help="Repair what the venue's history has.")] = True,
    rest_url: Annotated[str, typer.Option("--rest-url", help="REST address instead of the venue's own.")] = "",
) -> None:
    """Look for gaps in stored candles and trade ids, enter them in the ledger, and repair what can be.

    Exits with 1 when something stays open. A minute without trades is no gap, and neither is a halt.

    Example: `tickstream gaps scan`

    Example: `tickstream gaps scan --venue coinbase --symbol BTC-USD --hours 168`

    Example: `tickstream gaps scan --no-repair`
    """
    from producers.history.settings import HistorySettings
    from tickstream.here import load_here

    settings = load_here(HistorySettings, **_given(rest_url))
    _run(_scan(settings, (venue, symbol), round(hours * 3600) * 1_000_000_000, repair=repair))


async def _scan(settings: HistorySettings, only: tuple[str | None, str | None], length: int, *, repair: bool) -> None:
    from contextlib import AsyncExitStack

    from producers.history.backfill import Backfill
    from producers.history.repair import Keeper
    from producers.history.settings import find_history, open_history_services
    from producers.venues import HISTORIES

    async with open_history_services(settings) as services, AsyncExitStack() as stack:
        ways: dict[str, Backfill] = {}

        def history(venue: str) -> Backfill | None:
            if venue not in ways and venue in HISTORIES:
                rest = find_history(settings, venue)
                stack.push_async_callback(rest.close)
                ways[venue] = Backfill(rest, services.database, services.publisher, origin="repair")
            return ways.get(venue)

        keeper = Keeper(services.database, services.publisher, history, venue=only[0], symbol=only[1])
        since = time.time_ns() - length
        found = await keeper.scan(since)
        console.print(f"{len(found)} new gaps")
        if not repair:
            for gap in found:
                console.print(f"  {gap.venue} {gap.symbol} {gap.channel}: {_times(gap.ts_from_ns, gap.ts_to_ns)}")
            return
        outcomes = await keeper.repair(found, _print_outcome)
        made = await keeper.roll_up(since)
    left = [outcome for outcome in outcomes if not outcome.by]
    console.print(f"{len(outcomes) - len(left)} repaired, {len(left)} open, {made} longer candles recalculated")
    if left:
        sys.exit(1)


def reconcile(
    venue: Annotated[str, typer.Argument(help="Venue, for example `coinbase`.")],
    symbols: Annotated[list[str], typer.Argument(help="Symbols, ours (`BTC-USD`) or the venue's own.")],
    *,
    at: Annotated[str, typer.Option("--at", help="Compare the full hour before this time, RFC 3339 with zone.")] = "",
    rest_url: Annotated[str, typer.Option("--rest-url", help="REST address instead of the venue's own.")] = "",
) -> None:
    """Compare stored candles and trades of one hour with the venue's own, and the published book with its REST book.

    Exits with 1 when something differs. The result is also an event of md.status, kind `reconciled`. A running producer
    does the same each hour. Books are compared as they are now, so not with --at.

    Example: `tickstream reconcile coinbase BTC-USD ETH-USD`

    Example: `tickstream reconcile binance_spot BTC-USDT --at 2026-11-30T12:10:00Z`
    """
    from producers.history.settings import HistorySettings
    from tickstream.here import load_here

    now = parse_rfc3339(at, "--at") if at else None
    _run(_reconcile(load_here(HistorySettings, **_given(rest_url)), venue, symbols, now))


async def _reconcile(settings: HistorySettings, venue: str, names: list[str], now: int | None) -> None:
    from producers.history.reconcile import Reconciliation
    from producers.history.reconcile_books import BookReconciliation
    from producers.history.settings import find_history, open_history_services

    async with find_history(settings, venue) as rest, open_history_services(settings) as services:
        symbols = [rest.history.instrument(name).symbol for name in names]
        books = BookReconciliation(rest, settings, services.codec) if now is None else None
        work = Reconciliation(rest, services.database, services.publisher, set(), books)
        found = await work.last_hour(symbols, now)
    for symbol in symbols:
        if symbol not in found:
            console.print(f"[yellow]-[/] {symbol}: nothing of that hour is stored, or the venue has none of it")
        for score in found.get(symbol, ()):
            mark = "[yellow]-[/]" if score.reason else "[green]✓[/]" if score.equal == score.compared else "[red]✗[/]"
            console.print(f"{mark} {symbol}: {score}")
    if any(score.equal != score.compared for scores in found.values() for score in scores):
        sys.exit(1)


def _print_outcome(outcome: Outcome) -> None:
    gap = outcome.gap
    mark = "[green]✓[/]" if outcome.by else "[yellow]-[/]"
    what = f"repaired by {outcome.by}" if outcome.by else outcome.why
    times = _times(gap.ts_from_ns, gap.ts_to_ns)
    console.print(f"{mark} {gap.venue} {gap.symbol} {gap.channel or ''} {times}: {what}")


def _times(start: int | None, end: int | None) -> str:
    return " to ".join("?" if ts is None else format_rfc3339(ts)[:19] + "Z" for ts in (start, end))


@gaps.command("list")
def list_(
    state: Annotated[str, typer.Option("--state", help="open, repaired or all.")] = "open",
    venue: Annotated[str | None, typer.Option("--venue", help="Only this venue.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only this symbol.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many of the latest.")] = 50,
) -> None:
    """List the ledger of gaps: what was missing, how it was found, what repaired it, and why the rest stays.

    Example: `tickstream gaps list`

    Example: `tickstream gaps list --state all --venue coinbase --limit 200`
    """
    from producers.history.settings import HistorySettings
    from tickstream.here import load_here

    if state not in {"open", "repaired", "all"}:
        raise typer.BadParameter(f"{state!r} is none of open, repaired, all", param_hint="--state")
    rows = asyncio.run(_ledger(load_here(HistorySettings), state, venue, symbol, limit))
    table = Table("venue", "symbol", "channel", "from", "to", "found by", "state", "how, or why not")
    for row in rows:
        times = ["" if row[name] is None else format_rfc3339(row[name])[:19] for name in ("ts_from_ns", "ts_to_ns")]
        how = row["repaired_by"] or row["last_error"] or row["detail"]
        table.add_row(row["venue"], row["symbol"], row["channel"] or "", *times, row["found_by"], row["state"], how)
    console.print(table if rows else "[green]✓[/] the ledger has none")


async def _ledger(
    settings: HistorySettings, state: str, venue: str | None, symbol: str | None, limit: int
) -> list[Any]:
    from producers.history.jobs import Database

    async with Database(settings.dsn, settings.database_schema) as database:
        return await database.rows(
            "SELECT g.*, j.last_error FROM gaps AS g LEFT JOIN ingestion_jobs AS j ON j.job_id = 'repair|' || g.gap_id "
            "WHERE (%s = 'all' OR g.state = %s) AND (%s::text IS NULL OR g.venue = %s) "
            "AND (%s::text IS NULL OR g.symbol = %s) ORDER BY g.detected_at DESC LIMIT %s",
            *(state, state, venue, venue, symbol, symbol, limit),
        )
