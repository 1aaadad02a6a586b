"""Settings of the stream apps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runtime.settings import CommonSettings


class StreamSettings(CommonSettings):
    """What the stream apps need, whichever engine runs them."""

    metrics_port: int = Field(
        default=19102, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz of the stream apps."
    )
    engine: Literal["faust", "direct"] = Field(
        default="faust", description="What drives the operators: Faust, or the faster confluent-kafka loop."
    )
    worker: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Name of this worker in its consumer groups, no other's: a restart under the same name gets its "
        "partitions back at once. Without it the group waits for the session of the lost worker to end.",
    )
    checkpoint_inputs: int = Field(
        default=500, ge=1, le=1_000_000, description="Inputs of one key after which its state is checkpointed."
    )
    checkpoint_seconds: float = Field(
        default=5.0, gt=0, le=600, description="Seconds after which a changed state is checkpointed at the latest."
    )
    session_seconds: float = Field(
        default=10.0, ge=6, le=300, description="Silence after which Kafka gives a worker's partitions to others."
    )
    drain_seconds: float = Field(default=10.0, gt=0, le=300, description="Time to finish in when told to stop.")
