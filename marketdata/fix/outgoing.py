"""Our half of a FIX session: the numbers and frames of what is sent, and the messages kept for resend requests. Pure.

Source: FIX Session Layer (FIX 4.4 volume 2, FIXT 1.1). Every message has the next sequence number (34). A ResendRequest
is answered with the application's messages under their first numbers, marked with PossDupFlag (43) and OrigSendingTime
(122); session messages, and messages that are no longer stored, are skipped with SequenceReset-GapFill.
"""

from __future__ import annotations

from collections import OrderedDict

from marketdata.fix.codec import Fields, Message, encode, utc
from marketdata.fix.steps import Identity

LOGON, LOGOUT, HEARTBEAT, TEST, RESEND, REJECT, RESET = "A", "5", "0", "1", "2", "3", "4"
SESSION_KINDS = frozenset({LOGON, LOGOUT, HEARTBEAT, TEST, RESEND, REJECT, RESET})

STORED_MAX = 10_000


class Outgoing:
    """What one side sends. `next` is the next number; `ts_sent` is when the last frame was made, UTC nanoseconds."""

    __slots__ = ("_stored", "next", "ts_sent")

    def __init__(self) -> None:
        self.next = 1
        self.ts_sent = 0
        self._stored: OrderedDict[int, tuple[str, Fields, int]] = OrderedDict()

    def reset(self) -> None:
        """Restart the numbers at 1."""
        self.next = 1
        self._stored.clear()

    def forget(self) -> None:
        """Discard the stored messages: they are out of date and must not be resent."""
        self._stored.clear()

    def store(self, number: int, kind: str, fields: Fields, ts: int) -> None:
        """Keep an application message for resend requests."""
        self._stored[number] = (kind, fields, ts)
        if len(self._stored) > STORED_MAX:
            self._stored.popitem(last=False)

    def frame(
        self, identity: Identity, kind: str, fields: Fields, ts: int, *, number: int = 0, ts_first: int = 0
    ) -> bytes:  # fmt: skip
        """Return a message with the next number, or one again under its first number. Raises BadEvent."""
        head: Fields = [(35, kind), (49, identity.sender), (56, identity.target), (34, str(number or self.next))]
        if number:
            head += [(43, "Y"), (52, utc(ts)), (122, utc(ts_first))]
        else:
            head.append((52, utc(ts)))
        frame = encode(identity.begin, head + fields)
        self.next += not number
        self.ts_sent = ts
        return frame

    def logon(self, identity: Identity, heartbeat_s: int, *, reset: bool, is_acceptor: bool, ts: int) -> bytes:
        """Return a Logon."""
        fields: Fields = [(98, "0"), (108, str(heartbeat_s))]
        if reset:
            fields.append((141, "Y"))
        if not is_acceptor:
            fields += [(tag, value) for tag, value in ((553, identity.username), (554, identity.password)) if value]
        if identity.begin.startswith("FIXT"):
            fields.append((1137, identity.application))
        return self.frame(identity, LOGON, fields, ts)

    def again(self, identity: Identity, request: Message, ts: int) -> list[bytes]:
        """Return what a ResendRequest asks for: the stored messages, and GapFills over the others."""
        first, last = request.number(7) or 1, request.number(16) or 0
        last = min(last or self.next - 1, self.next - 1)
        frames: list[bytes] = []
        for number in [number for number in self._stored if first <= number <= last]:
            frames += self._fill(identity, first, number, ts)
            kind, fields, ts_first = self._stored[number]
            frames.append(self.frame(identity, kind, fields, ts, number=number, ts_first=ts_first))
            first = number + 1
        return frames + self._fill(identity, first, last + 1, ts)

    def _fill(self, identity: Identity, first: int, end: int, ts: int) -> list[bytes]:
        if first >= end:
            return []
        return [self.frame(identity, RESET, [(123, "Y"), (36, str(end))], ts, number=first, ts_first=ts)]
