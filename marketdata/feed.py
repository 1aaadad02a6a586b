"""The contract of a venue feed: pure code that turns frames into events, with the time as an argument.

A shell (the producer's connection, `tickstream pipe`, a test) owns the socket and the clock. It calls the feed and
performs the returned outputs in order:

1. `opened` when a connection is up: the feed returns the first messages to send.
2. `received` for each frame, and `fetched` for each REST response that the feed requested.
3. `ticked` about once a second, so that silence is detected.
4. `closed` when the connection is lost or about to be closed: books become invalid. A returned `Send` is a closing
   message, sent if the connection is still open.

One instance serves one line for its whole life, over any number of connections. A feed never raises on data from a
venue: what it cannot read becomes a `DeadLetter`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from marketdata.events import AnyEvent


class Send(msgspec.Struct, frozen=True):
    """Send this frame to the venue."""

    frame: bytes


class Fetch(msgspec.Struct, frozen=True):
    """Request the venue's REST API; the response is passed to `fetched` with this request.

    `path` is relative to the venue's REST URL. `purpose` is the feed's own name for the reason (for example
    `snapshot`). `weight` is the cost in the venue's rate limit.
    """

    path: str
    purpose: str
    symbol: str = ""
    weight: int = 1


class Reconnect(msgspec.Struct, frozen=True):
    """Close the connection and open a new one; `reason` is a short word, used as a metric label."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """The venue refuses us permanently: a retry is useless until the settings or the account change.

    The connection is closed and not reopened. The process keeps running and its health reports why. `reason` is a short
    word, used as a metric label (for example `auth_failed`); `advice` states for the operator what to do.
    """

    reason: str
    advice: str


Output = AnyEvent | Send | Fetch | Reconnect | Refused


class Feed(Protocol):
    """One venue's stream, pure. Times are integer UTC nanoseconds by our clock."""

    venue: str

    def opened(self, ts: int) -> list[Output]:
        """Return the first outputs of a new connection, such as subscriptions."""

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return the outputs of one frame."""

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Return the outputs of a REST response."""

    def ticked(self, ts: int) -> list[Output]:
        """Return the outputs of the passage of time: detected silence, renewed tokens."""

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Return the outputs of a lost connection: every book becomes invalid."""
