"""Settings that every service has, read from the environment once and frozen."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from marketdata.errors import SettingsError
from marketdata.topics import PARTITIONS

PREFIX = "TICKSTREAM_"


class CommonSettings(BaseSettings):
    """What every service needs; each service adds its own in a subclass."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    kafka_brokers: str = Field(
        default="127.0.0.1:19092", description="Kafka's bootstrap addresses, host:port, by comma."
    )
    registry_url: str = Field(
        default="http://127.0.0.1:18081/apis/ccompat/v7", description="Confluent-compatible schema registry."
    )
    topic_prefix: str = Field(default="", description="Put before every topic's name, to keep environments apart.")
    group_prefix: str = Field(default="", description="Put before every consumer group's name.")
    partitions: int = Field(
        default=PARTITIONS,
        ge=1,
        le=1_000,
        description="Partitions of topics that `tickstream topics apply` creates.",
    )
    replication_factor: int = Field(
        default=-1, ge=-1, le=32, description="Replicas of each topic that it creates; -1 for the broker's own default."
    )
    min_insync_replicas: int | None = Field(
        default=None, ge=1, le=32, description="Replicas that must have a record; the broker's default when not given."
    )
    host: str = Field(default="127.0.0.1", description="Address to serve on; loopback unless told otherwise.")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OpenTelemetry collector (OTLP over HTTP); no traces leave without it.",
    )


class DatabaseSettings(CommonSettings):
    """Settings of a service that speaks to TimescaleDB."""

    database_url: SecretStr = Field(
        default=SecretStr("postgresql://tickstream@127.0.0.1:15432/tickstream"), description="PostgreSQL address."
    )
    database_schema: str = Field(
        default="tickstream", pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="Schema that holds the tables."
    )


Settings = TypeVar("Settings", bound=CommonSettings)


def load(cls: type[Settings], **overrides: Any) -> Settings:
    """Return the settings of a service from the environment, with overrides on top.

    Raises SettingsError that names each variable at fault and what it takes.
    """
    try:
        return cls(**overrides)
    except ValidationError as error:
        lines = [
            f"{_variable(cls, problem['loc'])}: {problem['msg']} (got {str(problem['input'])[:80]!r})"
            for problem in error.errors()
        ]
        raise SettingsError("cannot start, because of these settings:\n  " + "\n  ".join(lines)) from None


def _variable(cls: type[CommonSettings], location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "?"
    field = cls.model_fields.get(name)
    if field is not None and isinstance(field.validation_alias, str):
        return field.validation_alias
    return name if field is None else f"{PREFIX}{name}".upper()
