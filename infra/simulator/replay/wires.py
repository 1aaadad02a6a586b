"""The clients of a replay, and the connections that carry frames to them in any protocol."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Protocol

from infra.simulator.replay.recording import RecordedConnection
from runtime import recordings

AGAIN_REASON = "recording starts again"
WRITE_BUFFER_BYTES_MAX = 1024 * 1024


class Wire(ABC):
    """Carries frames to a client, and makes the replay wait while the client reads more slowly than we write.

    The transport calls `pause_writing` when it holds more than its limit, and `resume_writing` when it was written out.
    """

    client: Client | None = None

    def pause_writing(self) -> None:
        """Wait."""
        if self.client is not None:
            self.client.writable.clear()

    def resume_writing(self) -> None:
        """Continue."""
        if self.client is not None:
            self.client.writable.set()

    @abstractmethod
    def send(self, line: recordings.Recorded) -> None:
        """Send a recorded frame."""

    def ask_whether_caught_up(self) -> bool:
        """Ask the client whether it has processed everything sent; return False if the protocol has no such question.

        Other clients ignore the question.
        """
        return False

    @abstractmethod
    def end(self, *, again: bool) -> None:
        """Close because the recording is over, or because it starts again for a client that reconnects."""

    @abstractmethod
    def leave(self) -> None:
        """Close because the server stops."""

    @abstractmethod
    def drop(self) -> None:
        """Close without a close frame."""


class Client:
    """One client: its request, and the progress of its replay."""

    def __init__(self, number: int, wire: Wire, asked: str, silence_s: float | None) -> None:
        self.wire = wire
        self.id = number
        self.asked = asked
        self.silence_s = silence_s
        self.recorded: RecordedConnection | None = None
        self.at: int | None = None
        self.sent = 0
        self.finished = False
        self.caught_up = False
        self.began = asyncio.Event()
        self.gone = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def send(self, line: recordings.Recorded) -> None:
        """Send a recorded frame."""
        self.wire.send(line)
        self.sent += 1

    def view(self) -> dict[str, Any]:
        """Return the client's progress."""
        recorded = self.recorded
        return {
            "client": self.id,
            "recorded_connection": recorded.name if recorded else None,
            "sent": self.sent,
            "frames": recorded.frames if recorded else None,
            "finished": self.finished,
        }


class Player(Protocol):
    """Plays a recording to clients."""

    def joined(self, wire: Wire, asked: str = "", *, silence_s: float | None = None) -> Client:
        """Start playing to a new client, after its first message or after `silence_s` seconds."""

    def left(self, client: Client) -> None:
        """Remove a disconnected client."""

    def caught_up(self, client: Client) -> None:
        """Record that a client has processed all frames sent, and has made its requests."""
