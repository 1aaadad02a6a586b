"""What a FIX session is made for and what it reports: the identity of both sides, and the steps of its owner.

Source: FIX Session Layer (FIX 4.4 volume 2, FIXT 1.1); the session itself is `marketdata.fix.session`.
"""

from __future__ import annotations

import msgspec

from marketdata.fix.codec import Message

END_REASON = "end of recording"  # text of the Logout that ends a replay


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are and how we log on. `application` is DefaultApplVerID (1137), which FIXT needs."""

    sender: str
    target: str
    begin: str = "FIX.4.4"
    application: str = "9"
    heartbeat_s: int = 30
    reset: bool = True
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        """Return a text without secrets."""
        return f"<{self.begin} {self.sender} to {self.target}>"


class Sent(msgspec.Struct, frozen=True):
    """Send this frame."""

    frame: bytes


class LoggedOn(msgspec.Struct, frozen=True):
    """Both sides have logged on. `since` is the Logon's number if the numbers continue, otherwise 0."""

    since: int = 0


class LogonRecorded(msgspec.Struct, frozen=True):
    """A recording shows a Logon: a new session begins."""


class Received(msgspec.Struct, frozen=True):
    """The next application message (or reject) in order; `again`: it was resent."""

    message: Message
    again: bool


class Skipped(msgspec.Struct, frozen=True):
    """These numbers never arrive. `reset`: the numbers jumped or restarted, without a GapFill."""

    first: int
    last: int
    reset: bool = False


class Lost(msgspec.Struct, frozen=True):
    """Something is missing and was requested. `received` is 0 after bytes that are not a message."""

    expected: int
    received: int


class Recovered(msgspec.Struct, frozen=True):
    """Nothing is missing any longer."""


class Repeated(msgspec.Struct, frozen=True):
    """An application message that was processed before arrived again."""


class ResendConfirmed(msgspec.Struct, frozen=True):
    """The message requested as a check was resent, so the other side resends everything after it too."""

    message: Message


class HeartbeatReceived(msgspec.Struct, frozen=True):
    """A Heartbeat arrived in order."""

    message: Message


class Unreadable(msgspec.Struct, frozen=True):
    """A frame that is not a message, or that violates the session's rules."""

    reason: str


class Ended(msgspec.Struct, frozen=True):
    """The connection must be closed. `final`: a retry would end the same way."""

    reason: str
    text: str = ""
    final: bool = False


Step = (
    Sent
    | LoggedOn
    | LogonRecorded
    | Received
    | Skipped
    | Lost
    | Recovered
    | Repeated
    | ResendConfirmed
    | HeartbeatReceived
    | Unreadable
    | Ended
)
