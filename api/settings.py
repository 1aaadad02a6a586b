"""Settings of the query API."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from runtime.settings import DatabaseSettings


class ApiSettings(DatabaseSettings):
    """What the query API needs beside what every service does."""

    api_port: int = Field(
        default=8080, ge=0, le=65535, description="Port of REST, WebSocket and dashboard; 0 finds a free one."
    )
    api_database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL address of the API's own role; the common address when not given."
    )
    database_pool_max: int = Field(default=8, ge=1, le=64, description="Connections to the database at most.")
    query_timeout_ms: int = Field(default=5_000, ge=10, le=60_000, description="Time limit of one query.")
    recipes: Path | None = Field(
        default=None,
        description="File of recipes of the stream apps, so that bars can be requested by the name of their recipe "
        "before the first one arrives.",
    )
    stale_s: float = Field(
        default=10.0,
        gt=0,
        description="A value received longer ago is not valid; in a replay, by the recorder's clock.",
    )
    ws_clients_max: int = Field(default=2_000, ge=1, description="WebSocket connections at most.")
    ws_subscriptions_max: int = Field(default=1_000, ge=1, description="Streams of one WebSocket connection at most.")
    ws_conflate_bytes: int = Field(
        default=1024 * 1024, ge=16 * 1024, description="Unsent bytes from which a client gets only latest states."
    )
    ws_cut_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=32 * 1024,
        description="Unsent bytes at which a client of a channel without conflation is disconnected.",
    )
    ws_resume_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="Bytes of sent messages that are kept, so that clients that lost their connection can resume.",
    )
    ws_ping_s: float = Field(
        default=20.0, gt=0, description="Silence after which a client is pinged, and time to answer."
    )

    @property
    def dsn(self) -> str:
        """Return the PostgreSQL address to use."""
        return (self.api_database_url or self.database_url).get_secret_value()
