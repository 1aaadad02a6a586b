"""Settings common to all services, read once from the environment and frozen."""

from __future__ import annotations

import textwrap
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from marketdata.errors import SettingsError
from marketdata.topics import PARTITIONS
from runtime.redaction import redacted

PREFIX = "TICKSTREAM_"


class CommonSettings(BaseSettings):
    """Settings common to all services; each service adds its own in a subclass."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    kafka_brokers: str = Field(
        default="127.0.0.1:19092", description="Kafka's bootstrap addresses, host:port, separated by commas."
    )
    registry_url: str = Field(
        default="http://127.0.0.1:18081/apis/ccompat/v7", description="Confluent-compatible schema registry."
    )
    topic_prefix: str = Field(default="", description="Prefix of every topic's name, to separate environments.")
    group_prefix: str = Field(default="", description="Prefix of every consumer group's name.")
    partitions: int = Field(
        default=PARTITIONS,
        ge=1,
        le=1_000,
        description="Partitions of topics that `tickstream topics apply` creates.",
    )
    replication_factor: int = Field(
        default=-1, ge=-1, le=32, description="Replicas of each topic that it creates; -1 for the broker's default."
    )
    min_insync_replicas: int | None = Field(
        default=None, ge=1, le=32, description="min.insync.replicas of the topics; the broker's default if not set."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback by default.")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Minimum severity of log lines."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OpenTelemetry collector (OTLP over HTTP); no traces are exported without it.",
    )


class DatabaseSettings(CommonSettings):
    """Settings of a service that uses TimescaleDB."""

    database_url: SecretStr = Field(
        default=SecretStr("postgresql://tickstream@127.0.0.1:15432/tickstream"),
        description="PostgreSQL connection URL.",
    )
    database_schema: str = Field(
        default="tickstream", pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="Schema of the tables."
    )


Settings = TypeVar("Settings", bound=CommonSettings)


def load(cls: type[Settings], **overrides: Any) -> Settings:
    """Return the settings of a service from the environment, with overrides on top.

    Raises SettingsError that names each invalid variable and the accepted values.
    """
    try:
        return cls(**overrides)
    except ValidationError as error:
        lines = [_problem(cls, problem) for problem in error.errors()]
        raise SettingsError("cannot start because of invalid settings:\n  " + "\n  ".join(lines)) from None


def describe(cls: type[CommonSettings]) -> str:
    """Return the help of a service's settings: each environment variable with its meaning and its default."""
    lines = ["Settings, from the environment:"]
    for name, field in cls.model_fields.items():
        default = "" if field.default is None or isinstance(field.default, SecretStr) else str(field.default)
        lines.append(f"  {_variable(cls, (name,))}{f' (default {default})' if default else ''}")
        lines += textwrap.wrap(field.description or "", 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _problem(cls: type[CommonSettings], problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message  # of several settings together: their values are not shown
    return f"{_variable(cls, problem['loc'])}: {message} (got {redacted(str(problem['input']))[:80]!r})"


def _variable(cls: type[CommonSettings], location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "?"
    field = cls.model_fields.get(name)
    if field is not None and isinstance(field.validation_alias, str):
        return field.validation_alias
    return name if field is None else f"{PREFIX}{name}".upper()
