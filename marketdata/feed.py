"""What a venue feed is: pure code from frames to events, driven from outside with the time as an argument.

A shell (the producer's connection, `tickstream pipe`, a test) owns the socket and the clock. It calls the feed and
performs what comes back, in order:

1. `opened` when a connection is up: the feed says what to send first.
2. `received` for each frame and `fetched` for each REST answer that it asked for.
3. `ticked` about once a second, so that silence can be noticed.
4. `closed` when the connection is gone, or is about to be given up: books may not be trusted any more. A `Send` of
   it is a goodbye, performed where the connection still stands.

One instance serves one line for its whole life, over any number of connections. A feed never raises on what a venue
sends: what it cannot read becomes a `DeadLetter`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from marketdata.events import AnyEvent


class Send(msgspec.Struct, frozen=True):
    """Send this frame to the venue."""

    frame: bytes


class Fetch(msgspec.Struct, frozen=True):
    """Ask the venue's REST interface; the answer comes back through `fetched` with this very request.

    `path` is relative to the venue's REST address, `purpose` names why in the feed's own words (for example
    `snapshot`), `weight` is what the venue charges for it.
    """

    path: str
    purpose: str
    symbol: str = ""
    weight: int = 1


class Reconnect(msgspec.Struct, frozen=True):
    """Close the connection and open a new one; `reason` is a word fit for a metric label."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """The venue refuses us for good: trying again is useless until the settings or the account change.

    The connection is closed and none is made anew; the process stays, and its health says why. `reason` is a word fit
    for a metric label (for example `auth_failed`), `advice` tells a person what to do.
    """

    reason: str
    advice: str


Output = AnyEvent | Send | Fetch | Reconnect | Refused


class Feed(Protocol):
    """One venue's stream, pure. Times are integer UTC nanoseconds by our clock."""

    venue: str

    def opened(self, ts: int) -> list[Output]:
        """Return what to send first on a connection that is just up."""

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what one frame means."""

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Return what a REST answer means."""

    def ticked(self, ts: int) -> list[Output]:
        """Return what the passing of time means: silence, tokens to renew."""

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Return what the loss of the connection means: every book becomes invalid."""
