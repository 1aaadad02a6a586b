"""The API's parts put together: Kafka's thread, the market, the WebSocket gateway, the database and the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from prometheus_client import Counter, Gauge

from api.auth.access import Access
from api.auth.sockets import Sockets
from api.core.book_validity import BookValidity
from api.core.checkpoints import RestoredBook
from api.core.clocks import Clocks
from api.core.consumer import (
    DATABASE,
    KAFKA,
    REGISTRY,
    BookInvalidated,
    Delivery,
    Item,
    MarketConsumer,
    Sources,
)
from api.core.market import Market
from api.core.records import RecordReader
from api.core.trust import Trust, fresh
from api.gateway.clients import Limits
from api.gateway.fan_out import FanOut
from api.gateway.streams import Streams
from api.gateway.workers import Workers
from api.rest.history import History
from api.settings import ApiSettings
from marketdata.clock import SECOND_NS
from marketdata.events import BookUpdate, Derivative, FeedStatus, Quote, Trades
from marketdata.headers import TRACEPARENT, Headers, hops_of, received_at
from marketdata.recipes import load_recipes
from runtime.health import Beat, Readiness
from runtime.metrics import observe_hop
from runtime.tracing import Tracing

_EXPIRE_S = 1.0
_CHECK_S = 1.0
_LOG = structlog.get_logger()
HANDLED = Counter("tickstream_api_events_total", "Events that the API took in, by schema.", ["schema"])
CAUGHT_UP = Gauge("tickstream_api_caught_up", "1 once the market is known after a start.")


class Service:
    """Everything that the routes and the WebSocket use; lives on one event loop."""

    def __init__(self, settings: ApiSettings, tracing: Tracing, clock: Callable[[], int] = time.time_ns) -> None:
        """Take the settings; raises SettingsError for a file that cannot be used, or when it is open who has access."""
        self.settings = settings
        # Live data flows on without the registry, once its schemas are known, and without the database.
        self.readiness = Readiness(KAFKA, REGISTRY, DATABASE, optional=(REGISTRY, DATABASE))
        self.beat = Beat()
        self.clock = clock
        self.stale_ns = int(settings.stale_s * SECOND_NS)
        self.market = Market(load_recipes(settings.recipes) if settings.recipes is not None else ())
        self.clocks = Clocks(clock)
        self.history = History(settings, self.readiness)
        self.access = Access(settings)
        self.sockets = Sockets(self.access)
        self._tracing = tracing
        self._consumer = MarketConsumer(settings, self.readiness, self._deliver)
        limits = Limits(
            clients_max=settings.ws_clients_max,
            subscriptions_max=settings.ws_subscriptions_max,
            conflate_bytes=settings.ws_conflate_bytes,
            cut_bytes=settings.ws_cut_bytes,
        )
        self._records = RecordReader(settings)
        self.streams = Streams(
            self.market,
            self.clocks,
            stale_ns=self.stale_ns,
            kept_bytes=settings.ws_resume_bytes,
            ready=lambda: self.known,
            records=self._records,
        )
        self.gateway = FanOut(self.streams, limits)
        self.streams.add(self.gateway)
        self.workers = Workers(self.streams, settings.api_workers) if settings.api_workers > 1 else None
        self.book_validity = BookValidity(self.streams.books)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.known = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read Kafka, watch the database and let values grow stale while the context lasts."""
        self._loop = asyncio.get_running_loop()
        await self.history.open()
        await self.access.open()
        tasks = [
            asyncio.create_task(self._every(_EXPIRE_S, self._expire)),
            asyncio.create_task(self._watch_database()),
            asyncio.create_task(self.access.run()),
        ]
        try:
            if self.workers is not None:
                await self.workers.start()
            with self._consumer:
                yield
        finally:
            self._loop = None
            if self.workers is not None:
                await self.workers.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.access.close()
            await self.history.close()
            self._records.close()

    def fresh(self, trust: Trust, venue: str, ts_recv: int) -> Trust:
        """Return the trust of a venue's value received at `ts_recv`, now."""
        return fresh(trust, ts_recv, self.clocks.now(venue, ts_recv), self.stale_ns)

    async def _every(self, seconds: float, act: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                act()
            except Exception:
                # Without this task values no longer expire, so the process shows itself as stuck, to be replaced.
                _LOG.exception("the loop's regular work failed")
                raise
            self.beat.beat()

    def _expire(self) -> None:
        self.streams.expire()
        if self.workers is None:
            self.gateway.measure()

    def _note_known(self) -> None:
        if self._consumer.caught_up and not self.known:
            self.known = True
            CAUGHT_UP.set(1)
            self.readiness.up(KAFKA)

    async def _watch_database(self) -> None:
        while True:
            await self.history.check()
            await asyncio.sleep(_CHECK_S)

    # From Kafka's thread to the loop

    def _deliver(self, batch: list[Item]) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._handle, batch, time.time_ns())

    def _handle(self, batch: list[Item], consumed_ns: int) -> None:
        sent: list[Delivery] = []
        try:
            for item in batch:
                if isinstance(item, RestoredBook):
                    self.market.restore(item.venue, item.symbol, item.state)
                elif isinstance(item, BookInvalidated):
                    self.market.invalidate(item.venue, item.symbol, item.reason)
                elif isinstance(item, Sources):
                    self.streams.assigned(item)
                else:
                    HANDLED.labels(item.event.schema).inc()
                    self._note_time(item)
                    if self.streams.handle(item.event, item.offset, item.epoch) and item.live:
                        sent.append(item)
            self.streams.flush()
        finally:
            self._consumer.handled()
        self._note_known()
        written_ns = time.time_ns()
        for delivery in sent:
            self._measure(delivery.headers, consumed_ns, written_ns)

    def _note_time(self, delivery: Delivery) -> None:
        """Note whose clock an event's time is from; old candles and instruments state nothing of the present."""
        event = delivery.event
        if isinstance(event, BookUpdate | Trades | Quote | Derivative | FeedStatus):
            self.clocks.note(event.venue, event.ts_recv, received_at(delivery.headers))
            if isinstance(event, FeedStatus):
                self.clocks.note_status(event)

    def _measure(self, headers: Headers, consumed_ns: int, written_ns: int) -> None:
        """Note how long each hop of an event took that was written to at least one client."""
        hops = hops_of(headers)
        observe_hop("recv_to_produced", hops.t_recv, hops.t_produced)
        observe_hop("produced_to_processed", hops.t_produced, hops.t_processed)
        if hops.t_processed:
            observe_hop("processed_to_client", hops.t_processed, written_ns)
        else:
            observe_hop("produced_to_client", hops.t_produced, written_ns)
        observe_hop("consumed_to_client", consumed_ns, written_ns)
        observe_hop("socket_to_client", hops.t_recv, written_ns)
        self._tracing.span("deliver", headers.get(TRACEPARENT), consumed_ns, written_ns)
