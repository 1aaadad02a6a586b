"""One stream: its state, who follows it, and what is kept of it."""

from __future__ import annotations

from typing import Protocol

from api.core.symbol_state import SymbolState
from api.core.trust import Trust
from api.gateway.kept_frames import Kept, KeptFrames, Place
from api.gateway.stream_key import StreamKey
from api.gateway.subscriptions import Refused, Request

Named = tuple[int, StreamKey]
"""A stream as a follower knows it: by a number, and what it is about."""


class Follower(Protocol):
    """The fan-out of one process."""

    def changed(self, identity: int, kept: list[Kept]) -> None:
        """Take the frames of a change of a stream."""

    def flush(self) -> None:
        """Send what was collected since the last call."""

    def refused(self, client: int, refused: Refused) -> None:
        """Take the answer to a request that was refused."""

    def subscribed(self, client: int, request: Request, interval: str, streams: list[Named]) -> None:
        """Take the streams that a client subscribes to."""

    def unsubscribed(self, client: int, request: Request, keys: list[StreamKey]) -> None:
        """Take the streams that a client does not want any more."""

    def present(self, identity: int, kept: list[Kept], *, conflated: bool) -> None:
        """Take what was asked for with `Streams.present`."""

    def missed(self, client: int, identity: int, kept: list[Kept], *, recovered: bool) -> None:
        """Take what a client that resumes has missed; nothing where it cannot be `recovered`."""


class Stream:
    """One stream and who follows it."""

    __slots__ = (
        "followers", "identity", "kept", "key", "last", "left_at", "prepared", "sequence", "state", "trust",
    )  # fmt: skip

    def __init__(self, identity: int, key: StreamKey, state: SymbolState) -> None:
        self.identity = identity
        self.key = key
        self.state = state
        self.followers: dict[Follower, int] = {}  # how often each has followed it
        self.sequence = 0  # books and consolidated only; the others count in the market's state
        self.trust: Trust | None = None  # as last sent; books, tickers and derivatives only
        self.last: Place | None = None  # of the newest message
        self.kept: KeptFrames | None = None  # None where messages have no position
        self.left_at: float | None = None
        self.prepared: dict[bool, tuple[object, list[Kept]]] = {}  # `present` as last made, by whether it is conflated
