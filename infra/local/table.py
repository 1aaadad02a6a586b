"""The process table: every process of the platform, in the order in which data passes them, as plain data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

from infra.local import servers
from infra.local.folders import Folders
from infra.local.passwords import Passwords, passwords
from infra.local.process import Process
from infra.local.settings import Ports, StackSettings
from runtime.settings import PREFIX


@dataclass(frozen=True)
class Endpoints:
    """Where the servers are; the database's addresses differ by role."""

    kafka_brokers: str
    registry_url: str
    database_url: str
    sink_database_url: str
    api_database_url: str
    history_database_url: str
    readonly_database_url: str
    redis_url: str

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which our services find these servers."""
        return {f"{PREFIX}{name.upper()}": value for name, value in vars(self).items()}


def endpoints(settings: StackSettings, ports: Ports, secret: Passwords) -> Endpoints:
    """Return the configured address of each server, or that of the embedded one."""

    def database(role: str, password: str) -> str:
        if settings.database_url is not None:
            return settings.database_url.get_secret_value()
        return f"postgresql://{role}:{quote(password)}@127.0.0.1:{ports.database}/tickstream"

    sink, api, redis = settings.sink_database_url, settings.api_database_url, settings.redis_url
    history = settings.history_database_url
    return Endpoints(
        kafka_brokers=settings.kafka_brokers or f"127.0.0.1:{ports.kafka}",
        registry_url=settings.registry_url or f"http://127.0.0.1:{ports.registry}/apis/ccompat/v7",
        database_url=database("tickstream", secret.tickstream),
        sink_database_url=sink.get_secret_value() if sink else database("tickstream_sink", secret.tickstream_sink),
        api_database_url=api.get_secret_value() if api else database("tickstream_api", secret.tickstream_api),
        history_database_url=history.get_secret_value()
        if history
        else database("tickstream_history", secret.tickstream_history),
        readonly_database_url=database("tickstream_readonly", secret.tickstream_readonly),
        redis_url=redis.get_secret_value() if redis else f"redis://:{secret.redis}@127.0.0.1:{ports.redis}/0",
    )


def infrastructure(settings: StackSettings, folders: Folders, ports: Ports) -> list[Process]:
    """Configure the servers that have no configured address, create their data folders, and return them."""
    secret = passwords(folders)
    own_database = settings.database_url is None
    # Formatting Kafka and making the database take a second each, the first time.
    with ThreadPoolExecutor(2) as pool:
        kafka = None if settings.kafka_brokers else pool.submit(servers.kafka, folders, ports)
        database = pool.submit(servers.database, folders, ports, secret) if own_database else None
        table = list(database.result()) if database else []
        if kafka:
            table.append(kafka.result())
    if settings.redis_url is None:
        table.append(servers.redis(folders, ports, secret))
    if not settings.registry_url:
        table.append(servers.registry(folders, ports, secret, database=own_database))
    return table


def needs_components(settings: StackSettings) -> bool:
    """Return whether we run any of the servers."""
    given = (settings.kafka_brokers, settings.registry_url, settings.database_url, settings.redis_url)
    return not all(given)
