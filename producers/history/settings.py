"""Settings of backfill and repair, and what they need around them: Kafka, registry, database, the venue's REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Literal, NamedTuple

from pydantic import Field, SecretStr

from marketdata.codec import Codec
from marketdata.errors import SettingsError, TickstreamError, Unavailable
from producers.history.jobs import Database
from producers.history.rest import Rest
from producers.live.publisher import Publisher
from producers.venues import HISTORIES, make_history
from producers.venues.kit.history import Access
from runtime.health import Readiness
from runtime.registry import Registry
from runtime.settings import PREFIX, DatabaseSettings, load
from runtime.tracing import Tracing

CLIENT = "history"
KAFKA, REGISTRY, DATABASE = DEPENDENCIES = ("kafka", "registry", "database")
SCAN_MINUTES = 60


class HistorySettings(DatabaseSettings):
    """What backfill and repair need besides what every service does."""

    history_database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL address of the role of backfill and repair; the common one if not given."
    )
    history_url: str = Field(
        default="",
        pattern=r"^(https?://.*)?$",
        description="REST address of history; the venue's own if not given.",
    )
    history_venue: str = Field(default="", description="Whose history that address serves; every venue's if empty.")
    history_key: SecretStr = Field(default=SecretStr(""), description="The venue's key, where its history needs one.")
    history_secret: SecretStr = Field(default=SecretStr(""), description="The secret of that key.")
    history_feed: str = Field(
        default="", description="Which of the venue's feeds: Alpaca's iex or sip, Databento's dataset."
    )
    source: Literal["sim", "live", "replay"] = Field(default="live", description="Where live prices come from.")
    backfill_days: int = Field(
        default=0, ge=0, le=3_650, description="Days of history that the producer backfills at its start; 0 for none."
    )
    backfill_interval: str = Field(
        default="1m", pattern=r"^(1m|5m|15m|1h|4h|1d)$", description="Interval of the candles that it requests."
    )
    backfill_trades: bool = Field(default=False, description="Whether it backfills the trades of those days too.")
    gap_scan_minutes: int | None = Field(
        default=None,
        ge=0,
        le=10_080,
        description="Minutes between two scans for gaps, 0 for none. If not set, 60 if prices are live, the "
        "history process has its own database URL and the venue's history needs no further key.",
    )
    history_metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of /metrics, /healthz and /readyz of the history process; 0 takes a free one and logs it.",
    )
    gap_scan_hours: float = Field(default=48.0, gt=0, le=87_600, description="How far back a scan looks.")

    @property
    def dsn(self) -> str:
        """Return the PostgreSQL URL to use."""
        return (self.history_database_url or self.database_url).get_secret_value()


class HistoryServices(NamedTuple):
    """The services that backfill and repair use."""

    database: Database
    publisher: Publisher
    codec: Codec


@asynccontextmanager
async def open_history_services(
    settings: HistorySettings, readiness: Readiness | None = None
) -> AsyncIterator[HistoryServices]:
    """Open the database and the publisher to Kafka; `readiness` shows which of `DEPENDENCIES` respond.

    Raises Unavailable or UnknownSchema when one of them does not respond or is not set up.
    """
    health = readiness or Readiness(*DEPENDENCIES)
    registry = Registry(settings.registry_url, timeout_s=5)
    try:
        with _noted(health, REGISTRY):
            codec = await asyncio.to_thread(registry.codec)
    finally:
        registry.close()
    with Tracing(CLIENT, settings.otlp_endpoint) as tracing:
        publisher = Publisher(settings, codec, tracing, health, name=CLIENT)
        with _noted(health, KAFKA):
            missing = await publisher.missing_topics()
            if missing:
                raise Unavailable(f"these topics do not exist, run `tickstream topics apply`: {', '.join(missing)}")
        async with AsyncExitStack() as stack:
            with _noted(health, DATABASE):
                database = await stack.enter_async_context(Database(settings.dsn, settings.database_schema))
            yield HistoryServices(database, publisher, codec)


@contextmanager
def _noted(readiness: Readiness, dependency: str) -> Iterator[None]:
    """Report whether a dependency responds."""
    try:
        yield
    except TickstreamError as error:
        readiness.down(dependency, str(error))
        raise
    readiness.up(dependency)


def find_history(settings: HistorySettings, venue: str) -> Rest:
    """Return the REST client of a venue's history.

    Raises SettingsError if it is not supported, needs a key that is not set, or is not that of the price source.
    """
    check_history(settings, venue)
    return Rest(make_history(venue, _access(settings, venue)))


def _access(settings: HistorySettings, venue: str) -> Access:
    return Access(
        rest_url=settings.history_url if settings.history_venue in {"", venue} else "",
        key=settings.history_key.get_secret_value(),
        secret=settings.history_secret.get_secret_value(),
        feed=settings.history_feed,
    )


def load_history_process(venue: str) -> HistorySettings:
    """Return the settings of a producer's history process, with an hourly scan for gaps if that is possible.

    Raises SettingsError as `load` does.
    """
    settings = load(HistorySettings)
    if settings.gap_scan_minutes is not None:
        return settings
    minutes = SCAN_MINUTES if _can_scan(settings, venue) else 0
    return settings.model_copy(update={"gap_scan_minutes": minutes})


def _can_scan(settings: HistorySettings, venue: str) -> bool:
    own = settings.history_database_url
    if settings.source != "live" or own is None or not own.get_secret_value() or venue not in HISTORIES:
        return False
    try:
        make_history(venue, _access(settings, venue))
    except SettingsError:  # a scan was not requested, so this is not an error
        return False
    return True


def check_history(settings: HistorySettings, venue: str) -> None:
    """Raise SettingsError when a venue has no history here, or has the history of another market."""
    if settings.source != "live" and settings.history_venue in {"", venue} and not settings.history_url:
        raise SettingsError(
            f"the prices of {venue} here are not live ({PREFIX}SOURCE={settings.source}), and the venue's history is "
            f"not theirs; set the address of one that is (--rest-url, {PREFIX}HISTORY_URL), or disable backfill and "
            f"scan ({PREFIX}BACKFILL_DAYS, {PREFIX}GAP_SCAN_MINUTES)"
        )
    if venue not in HISTORIES:
        raise SettingsError(f"there is no history of {venue!r}; there is of: {', '.join(sorted(HISTORIES))}")
