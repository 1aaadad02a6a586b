"""`python -m producers.history.process VENUE PRODUCT...`: the backfill at start and the periodic scan for gaps.

The producer runs it as a separate process, so that reading years of history does not delay live frames, and stops it
with itself. Unfinished work resumes at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import structlog
import uvloop

from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError, TickstreamError, Unavailable
from producers.history.backfill import DAY_NS, Backfill
from producers.history.reconcile import Reconciliation
from producers.history.reconcile_books import BookReconciliation
from producers.history.repair import Keeper
from producers.history.settings import (
    DEPENDENCIES,
    HistoryServices,
    HistorySettings,
    check_history,
    find_history,
    load_history_process,
    open_history_services,
)
from runtime import log
from runtime.health import HealthServer, Readiness

RETRY_S = 60.0
_PR_SET_PDEATHSIG = 1
# Argument before the venue: the process whose end also ends this one.
_PARENT = "--parent="

_LOG = structlog.get_logger()


async def backfill(settings: HistorySettings, services: HistoryServices, venue: str, products: list[str]) -> list[str]:
    """Backfill the configured days, one product after the other; return those to retry.

    A failed product does not stop the others; one that the venue refuses is not retried.
    """
    later: list[str] = []
    async with find_history(settings, venue) as rest:
        work = Backfill(rest, services.database, services.publisher)
        now = time.time_ns()
        start = now - settings.backfill_days * DAY_NS
        for product in products:
            try:
                symbol = await work.listed(product)
                await work.candles(symbol, settings.backfill_interval, start, now)
                if settings.backfill_trades and work.has_trades:
                    await work.trades(symbol, start, now)
            except Unavailable as error:
                later.append(product)
                _LOG.warning("backfill will resume later", venue=venue, product=product, reason=str(error))
            except TickstreamError as error:
                _LOG.error("backfill failed", venue=venue, product=product, reason=str(error))
            else:
                _LOG.info("backfill complete", venue=venue, product=product)
    return later


async def scan(
    settings: HistorySettings, services: HistoryServices, venue: str, products: list[str], done: set[tuple[str, int]]
) -> None:
    """Find gaps of this venue, repair what the venue still has, and compare the last hour with what the venue has."""
    async with find_history(settings, venue) as rest:
        history = Backfill(rest, services.database, services.publisher, origin="repair")
        keeper = Keeper(
            services.database, services.publisher, lambda name: history if name == venue else None, venue=venue
        )
        since = time.time_ns() - round(settings.gap_scan_hours * 3600) * SECOND_NS
        found = await keeper.scan(since)
        outcomes = await keeper.repair(found, patient=True)
        rolled = await keeper.roll_up(since)
        symbols = [rest.history.instrument(product).symbol for product in products]
        books = BookReconciliation(rest, settings, services.codec)
        scores = await Reconciliation(rest, services.database, services.publisher, done, books).last_hour(symbols)
    repaired = sum(bool(outcome.by) for outcome in outcomes)
    _LOG.info("scan complete", venue=venue, found=len(found), repaired=repaired, open=len(outcomes) - repaired,
              candles_recomputed=rolled, compared=len(scores))  # fmt: skip


async def keep(
    settings: HistorySettings, venue: str, products: list[str], readiness: Readiness | None = None
) -> None:  # fmt: skip
    """Backfill once, then scan periodically; retry when a service does not respond."""
    to_fill = products if settings.backfill_days else []
    minutes = settings.gap_scan_minutes or 0
    done: set[tuple[str, int]] = set()
    while to_fill or minutes:
        wait_s = minutes * 60.0
        try:
            async with open_history_services(settings, readiness) as services:
                if to_fill:
                    to_fill = await backfill(settings, services, venue, to_fill)
                if minutes:
                    await scan(settings, services, venue, products, done)
        except TickstreamError as error:
            _LOG.warning("history is waiting", venue=venue, reason=str(error), wait_s=RETRY_S)
            wait_s = RETRY_S
        if to_fill or minutes:
            await asyncio.sleep(RETRY_S if to_fill else wait_s)


def run_beside(venue: str, products: Iterable[str]) -> AbstractContextManager[None]:
    """Return a context in which this process runs next to the producer, if it is configured.

    Raises SettingsError if it is configured and the venue has no history.
    """
    settings = load_history_process(venue)
    if not settings.backfill_days and not settings.gap_scan_minutes:
        return contextlib.nullcontext()
    check_history(settings, venue)
    return _running([sys.executable, "-m", "producers.history.process", f"{_PARENT}{os.getpid()}", venue, *products])


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command) as process:  # noqa: S603 - ourselves
        try:
            yield
        finally:
            process.terminate()


def main() -> int:
    """Run until done or stopped; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # When the producer is killed, nothing else would end this process (Linux; elsewhere it finishes its work).
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith(_PARENT):
        parent = arguments.pop(0).removeprefix(_PARENT)
        if parent != str(os.getppid()):  # the producer was killed while this process started
            return 0
    try:
        venue, *products = arguments
        settings = load_history_process(venue)
        check_history(settings, venue)
    except (SettingsError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is not configured yet
        return 2
    log.configure("history", settings.log_level)
    try:
        readiness = Readiness(*DEPENDENCIES)
        with HealthServer(settings.host, settings.history_metrics_port, readiness) as health:
            _LOG.info("starting", venue=venue, port=health.port)
            uvloop.run(keep(settings, venue, products, readiness))
    except KeyboardInterrupt:
        _LOG.info("stopped", pid=os.getpid())
    except SettingsError as error:
        _LOG.error("stopped", reason=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
