"""Settings of the sink."""

from __future__ import annotations

from pydantic import Field, SecretStr

from runtime.settings import DatabaseSettings


class SinkSettings(DatabaseSettings):
    """Settings of the sink, in addition to the common ones."""

    metrics_port: int = Field(
        default=19103, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz of the sink."
    )
    sink_database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL URL with the sink's own role; the common URL if not set."
    )
    sink_worker: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Name of this sink in its consumer group, unique there: a restart under the same name gets its "
        "partitions back at once. Without it the group waits for the session of the lost sink to end.",
    )
    sink_window_ms: int = Field(
        default=100, ge=1, le=10_000, description="Time for which rows are collected into one transaction."
    )
    sink_batch_rows: int = Field(
        default=5_000, ge=1, le=100_000, description="Rows that are written at once, before the window ends."
    )
    sink_queue_rows: int = Field(
        default=50_000, ge=10, le=1_000_000, description="Rows held while the database is slow; at 80 % reading pauses."
    )
    sink_queue_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Bytes held while the database is slow; at 80 % reading pauses."
    )
    sink_write_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Time limit of one transaction; then the connection is closed."
    )
    sink_session_seconds: float = Field(
        default=6.0, ge=6, le=300, description="Silence after which Kafka gives a sink's partitions to others."
    )
    sink_stall_seconds: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="Time without progress after which a partition with more records is "
        "reported and read again from its stored offset.",
    )
    sink_drain_seconds: float = Field(
        default=20.0, gt=0, le=300, description="Maximum seconds to finish work on shutdown."
    )

    @property
    def dsn(self) -> str:
        """Return the PostgreSQL URL to use."""
        return (self.sink_database_url or self.database_url).get_secret_value()
