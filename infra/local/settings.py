"""Settings of the stack: ports, servers that run elsewhere, number of stream workers, and the source of prices."""

from __future__ import annotations

import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from infra.local.errors import StackError
from infra.local.folders import HOME
from infra.simulator.market import SYMBOLS_MAX
from infra.simulator.venues.coinbase import VENUE as SIMULATED
from runtime.settings import PREFIX, CommonSettings

# A worker without a partition has nothing to do, and topics have fewer partitions than this.
WORKERS_MAX = 64
# Metrics port of the second stream worker; the others follow it.
MORE_WORKERS_PORT = 19110


@dataclass(frozen=True)
class Ports:
    """The port of each process, always on loopback; with `TICKSTREAM_PORT_BASE` they are consecutive in this order."""

    kafka: int = 19092
    controller: int = 19093
    registry: int = 18081
    registry_health: int = 18082
    database: int = 15432
    redis: int = 16379
    exchange: int = 18765
    exchange_control: int = 18766
    producer: int = 19101
    stream_apps: int = 19102
    sink: int = 19103
    api: int = 8080
    kafka_ui: int = 8082
    history_metrics: int = 19104

    @classmethod
    def from_base(cls, base: int) -> Ports:
        """Return consecutive ports from `base` on, for a second stack on one machine."""
        return cls(**{field.name: base + index for index, field in enumerate(fields(cls))})


class StackSettings(CommonSettings):
    """Settings of the supervisor; it starts each server whose address is empty."""

    kafka_brokers: str = Field(default="", description="Use this Kafka instead of starting one.")
    registry_url: str = Field(default="", description="Use this Confluent-compatible registry instead.")
    database_url: SecretStr | None = Field(default=None, description="Use this TimescaleDB (owner's role) instead.")
    sink_database_url: SecretStr | None = Field(default=None, description="The same for the sink's role.")
    api_database_url: SecretStr | None = Field(default=None, description="The same for the API's role.")
    history_database_url: SecretStr | None = Field(
        default=None, description="The same for the role of backfill and repair."
    )
    redis_url: SecretStr | None = Field(default=None, description="Use this Redis instead.")

    stack: Literal["embedded", "docker"] = Field(default="embedded", description="What runs the servers.")
    folder: Path = Field(default=HOME, description="Where this stack keeps data, logs and state.")
    port_base: int | None = Field(
        default=None, ge=1024, le=65400, description="First of the consecutive ports that all processes get."
    )
    workers: int = Field(
        default=1, ge=1, le=WORKERS_MAX, description="Stream workers to start; they share the partitions."
    )
    kafka_port: int | None = Field(default=None, ge=0, le=65535)
    controller_port: int | None = Field(default=None, ge=0, le=65535)
    registry_port: int | None = Field(default=None, ge=0, le=65535)
    registry_health_port: int | None = Field(default=None, ge=0, le=65535)
    database_port: int | None = Field(default=None, ge=0, le=65535)
    redis_port: int | None = Field(default=None, ge=0, le=65535)
    exchange_port: int | None = Field(default=None, ge=0, le=65535)
    exchange_control_port: int | None = Field(default=None, ge=0, le=65535)
    producer_port: int | None = Field(default=None, ge=0, le=65535)
    stream_apps_port: int | None = Field(default=None, ge=0, le=65535)
    sink_port: int | None = Field(default=None, ge=0, le=65535)
    api_port: int | None = Field(default=None, ge=0, le=65535)
    kafka_ui_port: int | None = Field(default=None, ge=0, le=65535)
    history_metrics_port: int | None = Field(default=None, ge=0, le=65535)

    source: Literal["sim", "live", "replay"] = Field(default="sim", description="Where prices come from.")
    venue: str = Field(default=SIMULATED, description="Venue to simulate, read or replay.")
    exchange_symbols: int | None = Field(
        default=None, ge=1, le=SYMBOLS_MAX, description="Number of products of the simulated exchange."
    )
    replay_file: str = Field(
        default="", description="Recording for source=replay; several, by comma, are redundant lines of one feed."
    )
    replay_speed: Literal["1", "10", "max"] = Field(default="1", description="Pace of a replay.")
    replay_behind_s: float = Field(
        default=0,
        ge=0,
        description="Seconds by which the recorder's clock was behind the venue's; `tickstream up` measures it.",
    )
    backfill_days: int = Field(default=0, ge=0, description="Days of history that the producer backfills at its start.")
    gap_scan_minutes: int | None = Field(
        default=None, ge=0, description="Minutes between scans for gaps, 0 for none; 60 when prices are live."
    )
    kafka_ui: bool = Field(default=True, description="Start the Kafka UI.")

    @property
    def replay_files(self) -> tuple[Path, ...]:
        """The recordings to play."""
        return tuple(Path(name.strip()) for name in self.replay_file.split(",") if name.strip())

    def ports(self) -> Ports:
        """Return every port: the configured one, else one from the base, else the default; 0 becomes a free one.

        Raises StackError when two processes have the same port.
        """
        usual = Ports() if self.port_base is None else Ports.from_base(self.port_base)
        chosen = {}
        for field in fields(Ports):
            given = getattr(self, f"{field.name}_port")
            port = getattr(usual, field.name) if given is None else given
            chosen[field.name] = port or free_port()
        twice = {port for port in chosen.values() if list(chosen.values()).count(port) > 1}
        if twice:
            names = ", ".join(f"{PREFIX}{name.upper()}_PORT" for name, port in chosen.items() if port in twice)
            raise StackError(f"several processes have the same port: {names}. Choose different ones.")
        return Ports(**chosen)

    def worker_ports(self, ports: Ports) -> tuple[int, ...]:
        """Return the metrics port of each stream worker; `ports` are those of `ports()`."""
        more = range(self.workers - 1)
        if self.port_base is not None:
            first = self.port_base + len(fields(Ports))
            return (ports.stream_apps, *(first + number for number in more))
        if self.stream_apps_port == 0:
            return (ports.stream_apps, *(free_port() for _ in more))
        return (ports.stream_apps, *(MORE_WORKERS_PORT + number for number in more))


# Ports that were given out here: what is to listen on one may not do so yet, and the system may choose it again.
_GIVEN: set[int] = set()


def free_port() -> int:
    """Return a loopback port that nothing listens on now, another one at each call of this process."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port
