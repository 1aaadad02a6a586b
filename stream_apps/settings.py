"""Settings of the stream workers."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, PrivateAttr, field_validator
from pydantic_settings import NoDecode

from marketdata.clock import MILLISECOND_NS
from marketdata.commit import PIPELINE_GROUP
from marketdata.operator import AnyOperator
from marketdata.recipes import Recipe, load_recipes
from runtime.settings import CommonSettings
from stream_apps.operators import make_operators
from stream_apps.operators.anomaly_limits import LimitsBySymbol
from stream_apps.operators.metrics import MetricsSettings

# The one consumer group of the pipeline, after the group prefix.
GROUP = PIPELINE_GROUP


class OperatorSettings(CommonSettings):
    """Settings of the operators, which `tickstream pipe` reads as well."""

    metrics_ms: int = Field(
        default=1_000, ge=10, le=3_600_000, description="Milliseconds of event time between two metrics of a book."
    )
    metrics_bps: Annotated[tuple[Decimal, ...], NoDecode] = Field(
        default=(Decimal(5), Decimal(10), Decimal(25)),
        description="Distances from the middle price, in basis points, of the depths; by comma, ascending.",
    )

    recipes: Path | None = Field(
        default=None,
        description="TOML or JSON file with the recipes of bars to make besides the candles of 1m to 1d; the same for "
        "all workers.",
    )
    _recipes: tuple[Recipe, ...] = PrivateAttr(default=())

    def model_post_init(self, context: Any, /) -> None:
        """Read the recipes, once: a change of the file takes effect at the next start. Raises SettingsError."""
        super().model_post_init(context)
        if self.recipes is not None:
            self._recipes = load_recipes(self.recipes)

    anomaly_limits: Annotated[dict[str, dict[str, float]], NoDecode] = Field(
        default={},
        description='Limits of anomalies by symbol, as JSON: {"*": {"volume_times": 20}, "coinbase:BTC-USD": {...}}; '
        "keys are venue:symbol, *:symbol, venue:* and *.",
    )

    @field_validator("anomaly_limits", mode="before")
    @classmethod
    def _read_limits(cls, value: Any) -> Any:
        return msgspec.json.decode(value) if isinstance(value, str) else value

    @field_validator("anomaly_limits")
    @classmethod
    def _check_limits(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        LimitsBySymbol(value)
        return value

    @field_validator("metrics_bps", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("metrics_bps")
    @classmethod
    def _check_distances(cls, value: tuple[Decimal, ...]) -> tuple[Decimal, ...]:
        MetricsSettings(depth_bps=value)
        return value

    def operators(self) -> tuple[AnyOperator, ...]:
        """Return one of each operator, with these settings."""
        metrics = MetricsSettings(every_ns=self.metrics_ms * MILLISECOND_NS, depth_bps=self.metrics_bps)
        return make_operators(self._recipes, metrics=metrics, limits=LimitsBySymbol(self.anomaly_limits))


class StreamSettings(OperatorSettings):
    """Settings of a stream worker, for either engine."""

    metrics_port: int = Field(
        default=19102, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz of the stream worker."
    )
    engine: Literal["faust", "direct"] = Field(
        default="faust", description="Client that reads Kafka and joins the group: Faust, or confluent-kafka (direct)."
    )
    worker: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Name of this worker in its consumer group, unique there: a restart under the same name gets its "
        "partitions back at once. Without it the group waits for the session of the lost worker to end.",
    )
    checkpoint_inputs: int = Field(
        default=20_000,
        ge=1,
        le=10_000_000,
        description="Records of an input partition after which a changed state is checkpointed; a restart replays "
        "about as many.",
    )
    checkpoint_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Maximum seconds until a changed state is checkpointed."
    )
    commit_ms: float = Field(
        default=1.0,
        ge=0,
        le=1_000,
        description="Least milliseconds between the starts of two transactions of one worker: less reduces latency, "
        "more reduces the load on Kafka.",
    )
    session_seconds: float = Field(
        default=10.0, ge=6, le=300, description="Silence after which Kafka gives a worker's partitions to others."
    )
    drain_seconds: float = Field(default=10.0, gt=0, le=300, description="Maximum seconds to finish work on shutdown.")
