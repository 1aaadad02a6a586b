"""`python -m producers.upkeep VENUE PRODUCT...`: the backfill at start and the scan for gaps every so often.

The producer starts it as a process of its own, so that reading years of history takes no time from live frames, and
ends it with itself. What it did not finish resumes at the next start.
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
from producers.backfill import DAY_NS, Backfill
from producers.history_settings import HistorySettings, Road, check_history, find_history, load_upkeep, open_road
from producers.repair import Keeper
from runtime import log

RETRY_S = 60.0
_PR_SET_PDEATHSIG = 1
# Before the venue: the process to end with.
_PARENT = "--parent="

_LOG = structlog.get_logger()


async def backfill(settings: HistorySettings, road: Road, venue: str, products: list[str]) -> list[str]:
    """Backfill the configured days, one product after the other; return those to try again later.

    A product that fails does not stop the rest; one that the venue refuses is not tried again.
    """
    later: list[str] = []
    async with find_history(settings, venue) as rest:
        work = Backfill(rest, road.database, road.publisher)
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
                _LOG.warning("backfill goes on later", venue=venue, product=product, reason=str(error))
            except TickstreamError as error:
                _LOG.error("backfill failed", venue=venue, product=product, reason=str(error))
            else:
                _LOG.info("backfill is done", venue=venue, product=product)
    return later


async def scan(settings: HistorySettings, road: Road, venue: str) -> None:
    """Find gaps of this venue, and repair what can be."""
    async with find_history(settings, venue) as rest:
        history = Backfill(rest, road.database, road.publisher, origin="repair")
        keeper = Keeper(road.database, road.publisher, lambda name: history if name == venue else None, venue=venue)
        since = time.time_ns() - round(settings.gap_scan_hours * 3600) * SECOND_NS
        found = await keeper.scan(since)
        outcomes = await keeper.repair(found, patient=True)
        rolled = await keeper.roll_up(since)
    repaired = sum(bool(outcome.by) for outcome in outcomes)
    _LOG.info("scan is done", venue=venue, found=len(found), repaired=repaired, open=len(outcomes) - repaired,
              candles_made_anew=rolled)  # fmt: skip


async def keep(settings: HistorySettings, venue: str, products: list[str]) -> None:
    """Backfill once, then scan for ever; what does not answer is tried again."""
    to_fill = products if settings.backfill_days else []
    minutes = settings.gap_scan_minutes or 0
    while to_fill or minutes:
        wait_s = minutes * 60.0
        try:
            async with open_road(settings) as road:
                if to_fill:
                    to_fill = await backfill(settings, road, venue, to_fill)
                if minutes:
                    await scan(settings, road, venue)
        except TickstreamError as error:
            _LOG.warning("history waits", venue=venue, reason=str(error), wait_s=RETRY_S)
            wait_s = RETRY_S
        if to_fill or minutes:
            await asyncio.sleep(RETRY_S if to_fill else wait_s)


def beside(venue: str, products: Iterable[str]) -> AbstractContextManager[None]:
    """Return the context in which the upkeep of a venue runs beside the producer, where it is configured.

    Raises SettingsError when it is and the venue has no history.
    """
    settings = load_upkeep(venue)
    if not settings.backfill_days and not settings.gap_scan_minutes:
        return contextlib.nullcontext()
    check_history(settings, venue)
    return _running([sys.executable, "-m", "producers.upkeep", f"{_PARENT}{os.getpid()}", venue, *products])


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command) as process:  # noqa: S603 - ourselves
        try:
            yield
        finally:
            process.terminate()


def main() -> int:
    """Run until it is done or asked to stop; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # When the producer is killed there is nobody left to end this process (Linux; elsewhere it finishes its work).
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith(_PARENT):
        parent = arguments.pop(0).removeprefix(_PARENT)
        if parent != str(os.getppid()):  # it was killed while this process started
            return 0
    try:
        venue, *products = arguments
        settings = load_upkeep(venue)
        check_history(settings, venue)
    except (SettingsError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    log.configure("upkeep", settings.log_level)
    try:
        uvloop.run(keep(settings, venue, products))
    except KeyboardInterrupt:
        _LOG.info("stopped", pid=os.getpid())
    except SettingsError as error:
        _LOG.error("stopped", reason=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
