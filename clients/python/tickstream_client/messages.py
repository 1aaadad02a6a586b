"""What a live stream brings: messages of the market, and what happened to the stream itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

CHANNEL_OF = {
    "ticker": "ticker",
    "l2_snapshot": "book",
    "l2_update": "book",
    "trade": "trades",
    "candle": "candles",
    "derivative": "derivatives",
    "metrics": "metrics",
    "consolidated": "consolidated",
    "anomaly": "anomalies",
    "status": "status",
}

# The symbol of what concerns a whole connection to a venue.
ALL_SYMBOLS = "*"


@dataclass(frozen=True, slots=True)
class Message:
    """One live message; prices and sizes in `data` are the venue's decimal strings.

    `valid` says whether it may be trusted and `reason` why not. `snapshot` marks the state with which a stream begins,
    `conflated` the latest state in place of changes that were left out for a client that reads slowly. `position` is
    where the platform's log has what the message brings: a stream resumes after it.
    """

    type: str
    venue: str
    symbol: str
    timestamp: str
    sequence: int
    valid: bool
    reason: str
    data: dict[str, Any]
    snapshot: bool = False
    conflated: bool = False
    depth: int | None = None
    position: str | None = None
    ts_event: str = "0"

    @property
    def time_ns(self) -> int:
        """The venue's time, UTC nanoseconds."""
        return int(self.ts_event)

    @property
    def channel(self) -> str:
        """The channel that one subscribes to for this type."""
        return CHANNEL_OF[self.type]

    @property
    def time(self) -> datetime:
        """The venue's time, UTC, to the microsecond."""
        return datetime.fromisoformat(self.timestamp)


@dataclass(frozen=True, slots=True)
class SequenceGap:
    """Messages of a stream were missed.

    It is being subscribed again; do not trust what was built until its snapshot.
    """

    channel: str
    venue: str
    symbol: str
    expected: int
    received: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A stream goes on after a lost connection.

    When it is `recovered`, all messages that were missed follow, so many of them. When not, what was built of the
    stream is not to be trusted until its snapshot.
    """

    channel: str
    venue: str
    symbol: str
    recovered: bool
    messages: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost and is being opened again; every stream then resumes (`Resumed`), or starts again."""

    reason: str
    pause_s: float


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to follow: channels of symbols.

    `depth` is a book's; `interval` is a candle's unless `recipe` names bars; `kind` is a consolidated instrument's.
    """

    channels: tuple[str, ...]
    symbols: tuple[str, ...]
    venue: str | None = None
    depth: int = 50
    interval: str = "1m"
    recipe: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What one frame from the server means: events for the reader, and texts to send back."""

    events: list[Message | SequenceGap | Resumed] = field(default_factory=list)
    sends: list[str] = field(default_factory=list)
    retry_id: int | None = None
