"""Settings of the stream workers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from marketdata.commit import PIPELINE_GROUP
from runtime.settings import CommonSettings

# The one consumer group of the pipeline, after the group prefix.
GROUP = PIPELINE_GROUP


class StreamSettings(CommonSettings):
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
