"""Starts the producer: settings, logs, health, Kafka, then one connection per line until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import product
from typing import TypeVar

import httpx
import msgspec
import structlog
import uvloop

from marketdata.codec import Codec
from marketdata.compiled import BOOKS, CODEC
from marketdata.errors import SettingsError, Unavailable, UnknownSchema
from producers.history import process as history_process
from producers.live.connection import Connection, Options, Sink
from producers.live.handover import Handover
from producers.live.orphaned_gaps import ClosingSink, OrphanedGaps
from producers.live.pacing import Gate, Pacer
from producers.live.previous_run import read_previous_run
from producers.live.publisher import Publisher
from producers.live.settings import ProducerSettings, Stream, find_handshake, find_tokens, load_for_venue
from producers.rest import Client
from producers.venues.kit.backoff import Backoff
from producers.venues.kit.idle import proof_of
from producers.venues.kit.limits import Limits
from producers.venues.kit.login import Tokens
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.venue import LiveFeed, Venue
from runtime import garbage, log
from runtime.health import HealthServer, Readiness
from runtime.registry import Registry
from runtime.tracing import Tracing

START_CAP_S = 5.0
REPLAY_S = 5.0
APART_S = 600.0

_LOG = structlog.get_logger()
T = TypeVar("T")


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """How many lines to make; in a replay as many as there are connections, and the time of the first frame."""

    lines: int
    began: int | None = None


class LineStates:
    """The states of the lines; the venue is ready while at least one line of each market is up."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._states: dict[str, str] = {}

    def report(self, line: str, state: str) -> None:
        """Record the state of a line: `ok`, why it is down, or an empty text once it has ended."""
        self._states[line] = state
        if not state:
            del self._states[line]
        up = {name.rpartition("/")[0] for name, each in self._states.items() if each == "ok"}
        if up and up.issuperset(name.rpartition("/")[0] for name in self._states):
            self._readiness.up("venue")
        else:
            self._readiness.down("venue", "; ".join(f"{name}: {why}" for name, why in sorted(self._states.items())))


def find_rest(settings: ProducerSettings, venue: Venue) -> str:
    """Return the address of the venue's REST interface."""
    return (settings.rest_url or venue.rest_url).rstrip("/")


async def find_recorded(settings: ProducerSettings, venue: Venue) -> Recorded:
    """Return what the replay server holds.

    Raises Unavailable until it answers.
    """
    url = f"{find_rest(settings, venue)}/progress"
    try:
        async with httpx.AsyncClient(timeout=REPLAY_S, trust_env=False) as http:
            answer = (await http.get(url)).raise_for_status().json()
        began = int(answer["began"]) if venue.transport == "websocket" else None
        return Recorded(lines=settings.lines or len(answer["recorded"]), began=began)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"the replay server does not answer: {url}: {error!r}") from error


def connections(
    settings: ProducerSettings, venue: Venue, recorded: Recorded, sink: Sink, lines: LineStates
) -> list[Connection | Handover]:
    """Return what keeps every line up, not yet running.

    Raises SettingsError when the key cannot be used.
    """
    tokens = find_tokens(settings, venue)
    limits = Limits() if settings.source == "replay" else venue.limits
    handshake = find_handshake(settings, venue)
    options = Options(
        ws_url=venue.ws_url,
        rest_url=find_rest(settings, venue),
        replay=settings.source == "replay",
        began=recorded.began,
        splitter=venue.splitter,
        proof=proof_of(venue),
        backoff=venue.backoff,
        ping_s=venue.ping_s,
        mute_s=venue.mute_s,
        limits=limits,
        connects=Gate(limits.connects),
        sends=Pacer(limits.address_messages),
        binary=handshake.binary,
        headers=handshake.headers,
        redact=tokens.redact if tokens is not None else bytes,
        on_state=lines.report,
    )
    made: list[Connection | Handover] = []
    # What a recording answers costs the venue nothing.
    rest = Client(venue.name, options.rest_url, None if options.replay else venue.budget)

    def connect(stream: Stream, line: str) -> Connection:
        own = msgspec.structs.replace(options, ws_url=stream.url)
        return Connection(make_feed(venue, stream, line, tokens), line, sink, own, rest)

    for stream, number in product(settings.streams_of(venue), range(recorded.lines)):
        line = f"{stream.name}/{number}"
        lines.report(line, "not reached yet")
        if venue.lifetime_s is None or options.replay:
            made.append(connect(stream, line))
        else:
            # Not all lines of a venue are replaced at once.
            made.append(Handover(line, partial(connect, stream), venue.lifetime_s - number * APART_S))
    return made


def make_feed(venue: Venue, stream: Stream, line: str, tokens: Tokens | None) -> LiveFeed:
    """Return the feed of one line of a stream. Raises SettingsError or BadEvent for products that it cannot have."""
    if stream.endpoint is not None:
        return stream.endpoint.make(line=line, products=stream.products, token=tokens)
    return venue.feed(line=line, products=stream.products, token=tokens, market=stream.market)


def names_of(venue: Venue, streams: Iterable[Stream]) -> list[str]:
    """Return the venue's names of all products, each once, with its market where that makes it another product."""
    apart = venue.make_of_market is not None
    names = (f"{one.market}:{name}" if apart and one.market else name for one in streams for name in one.products or ())
    return list(dict.fromkeys(names))


def restart(lines: Iterable[Connection | Handover], reason: str) -> None:
    """Replace the connections of these lines."""
    for line in lines:
        line.restart(reason)


def symbols_of(lines: Iterable[Connection | Handover]) -> frozenset[str] | None:
    """Return our symbols of all that these lines subscribe; None where only frames show those of one."""
    symbols: frozenset[str] = frozenset()
    for line in lines:
        if line.symbols is None:
            return None
        symbols |= line.symbols
    return symbols


async def until(
    attempt: Callable[[], Awaitable[T]], dependency: str, readiness: Readiness, stop: asyncio.Event
) -> T | None:
    """Try until it works and return what came of it; None when asked to stop meanwhile."""
    backoff = Backoff(cap_s=START_CAP_S)
    while not stop.is_set():
        try:
            made = await attempt()
        except (Unavailable, UnknownSchema) as error:
            wait_s = backoff.failed(random.random())  # noqa: S311 - jitter is no secret
            readiness.down(dependency, str(error))
            _LOG.warning("waiting", dependency=dependency, reason=str(error), wait_s=round(wait_s, 2))
            try:
                await asyncio.wait_for(stop.wait(), wait_s)
            except TimeoutError:
                continue
        else:
            readiness.up(dependency)
            return made
    return None


async def find_codec(settings: ProducerSettings) -> Codec:
    """Return a codec with the ids of every schema.

    Raises Unavailable or UnknownSchema.
    """
    registry = Registry(settings.registry_url, timeout_s=5)
    try:
        return await asyncio.to_thread(registry.codec)
    finally:
        registry.close()


async def find_previous_run(
    settings: ProducerSettings, venue: Venue, codec: Codec, publisher: Publisher, symbols: frozenset[str] | None
) -> PreviousRun:
    """Return what earlier producers of the venue published.

    Raises Unavailable until every topic exists.
    """
    missing = await publisher.missing_topics()
    if missing:
        raise Unavailable(f"these topics do not exist, run `tickstream topics apply`: {', '.join(missing)}")
    if settings.source == "replay":
        return PreviousRun()
    return await read_previous_run(settings, codec, venue, symbols)


async def find_lines(
    settings: ProducerSettings, venue: Venue, readiness: Readiness, stop: asyncio.Event
) -> Recorded | None:
    """Return how many lines there are to be; None when asked to stop meanwhile."""
    if settings.source != "replay":
        return Recorded(lines=settings.lines or 1)
    recorded = await until(lambda: find_recorded(settings, venue), "venue", readiness, stop)
    readiness.down("venue", "nothing was replayed yet")
    return recorded


def stop_event() -> asyncio.Event:
    """Return what SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def produce(settings: ProducerSettings, venue: Venue, readiness: Readiness, tracing: Tracing) -> int:
    """Run until asked to stop; return the exit status."""
    stop = stop_event()
    codec = await until(lambda: find_codec(settings), "registry", readiness, stop)
    recorded = await find_lines(settings, venue, readiness, stop) if codec is not None else None
    if codec is None or recorded is None:
        return 0
    publisher = Publisher(settings, codec, tracing, readiness)
    gaps = OrphanedGaps()
    running = connections(settings, venue, recorded, ClosingSink(publisher, gaps), LineStates(readiness))
    symbols = symbols_of(running)

    publisher.on_failure = partial(restart, running, "delivery_failed")
    previous = await until(
        lambda: find_previous_run(settings, venue, codec, publisher, symbols), "kafka", readiness, stop
    )
    if previous is None:
        return 0
    now = time.time_ns()
    left = gaps.start(previous, symbols, {line.line for line in running}, venue, now)
    await publisher.write(venue.name, left, now)
    for line in running:
        line.resume(previous)
    return await run_lines(settings, running, publisher, stop)


async def run_lines(
    settings: ProducerSettings, running: list[Connection | Handover], publisher: Publisher, stop: asyncio.Event
) -> int:
    """Run lines until asked to stop, or until one fails; return the exit status."""
    garbage.freeze()
    tasks = [asyncio.create_task(line.run(), name=line.line) for line in running]
    tasks.append(asyncio.create_task(publisher.serve(), name="publisher"))
    stopped = asyncio.create_task(stop.wait(), name="stop")
    done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    for line in running:
        line.stop()
    failed = next((task for task in done if task is not stopped and task.exception() is not None), None)
    if failed is not None:
        _LOG.error("stopped", task=failed.get_name(), reason=str(failed.exception()))
    else:
        await asyncio.wait(tasks[:-1], timeout=settings.drain_seconds / 2)
    for task in [*tasks, stopped]:
        task.cancel()
    await asyncio.gather(*tasks, stopped, return_exceptions=True)
    unsent = await publisher.close(settings.drain_seconds / 2)
    if unsent:
        _LOG.error("records were not acknowledged in time", records=unsent)
    return 1 if unsent or failed is not None else 0


def main() -> int:
    """Run the producer; return the exit status."""
    try:
        settings, venue = load_for_venue()
        # Feeds made here refuse wrong products before anything is started.
        streams = settings.streams_of(venue)
        for stream in streams:
            make_feed(venue, stream, "", find_tokens(settings, venue))
        beside = history_process.run_beside(venue.name, names_of(venue, streams))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    log.configure("producer", settings.log_level)
    structlog.get_logger().info("starting", books=BOOKS, codec=CODEC)
    readiness = Readiness("kafka", "registry", "venue")
    with (
        HealthServer(settings.host, settings.metrics_port, readiness),
        Tracing("producer", settings.otlp_endpoint) as tracing,
        beside,
    ):
        return uvloop.run(produce(settings, venue, readiness, tracing))


if __name__ == "__main__":
    sys.exit(main())
