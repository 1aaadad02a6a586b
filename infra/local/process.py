"""A process as the supervisor starts it, as plain data, and the checks that decide when it is ready."""

from __future__ import annotations

import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answers:
    """An HTTP address that answers 200."""

    url: str

    def fault(self) -> str | None:
        """Return what is wrong, None when ready."""
        try:
            with urllib.request.urlopen(self.url, timeout=2):  # noqa: S310 - our own loopback address
                return None
        except urllib.error.HTTPError as error:
            body = error.read(300).decode(errors="replace")
            return f"{self.url} answers {error.code}: {body}"
        except OSError as error:
            return f"{self.url} does not answer: {error}"


@dataclass(frozen=True)
class KafkaAnswers:
    """A broker that gives its list of topics."""

    brokers: str

    def fault(self) -> str | None:
        """Return what is wrong, None when ready."""
        from confluent_kafka import KafkaException  # noqa: PLC0415 - slow to import
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - as above

        try:
            AdminClient({"bootstrap.servers": self.brokers, "log_level": 0}).list_topics(timeout=1)
        except KafkaException as error:
            return f"Kafka at {self.brokers} does not answer: {error.args[0].str()}"
        return None


@dataclass(frozen=True)
class PostgresAnswers:
    """A database that answers a query."""

    url: str

    def fault(self) -> str | None:
        """Return what is wrong, None when ready."""
        import psycopg  # noqa: PLC0415 - slow to import

        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return str(error).strip()
        return None


@dataclass(frozen=True)
class RedisAnswers:
    """A Redis that answers PING."""

    url: str

    def fault(self) -> str | None:
        """Return what is wrong, None when ready."""
        import redis  # noqa: PLC0415 - slow to import

        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                client.ping()
        except redis.RedisError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class Listens:
    """A loopback port that accepts connections."""

    port: int

    def fault(self) -> str | None:
        """Return what is wrong, None when ready."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return None
        except OSError as error:
            return f"port {self.port} does not accept: {error}"


Check = Answers | KafkaAnswers | PostgresAnswers | RedisAnswers | Listens


@dataclass(frozen=True)
class Process:
    """One row of the process table.

    `ports` maps the setting that chooses a port to the port; `after` names processes that must be ready first;
    `once` is a step that ends by itself and must succeed (it is tried again `tries` times).
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    check: Check | None = None
    after: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    once: bool = False
    tries: int = 3
    # Idle, the slowest server takes 6 s; a machine with all cores busy may need ten times that and more.
    ready_seconds_max: float = 180.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds_max: float = 10.0


def output_of(command: list[str], stdin: str | None = None) -> tuple[int, str]:
    """Run a short command; return its exit status and what it printed, both streams."""
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout
