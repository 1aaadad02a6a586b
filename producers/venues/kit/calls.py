"""One call of a feed while it is worked on: what it concerns, and what came of it so far."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

import msgspec

from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.errors import BadEvent
from marketdata.events import ALL_SYMBOLS, CONNECTION, DeadLetter, FeedStatus
from marketdata.feed import Output
from producers.venues.kit.products import Gap
from producers.venues.kit.values import UNREADABLE, escaped

T = TypeVar("T")

# What makes a frame a dead letter: it cannot be read, or holds a value that no event may hold.
REFUSED = (BadEvent, *UNREADABLE)

# Fields of a status that may hold a venue's own words.
_TEXTS = frozenset({"reason", "detail"})

_ERROR_PATH = re.compile(r"`\$(.*)`")


class Line:
    """What all calls of one feed share: its names, two facts of its venue, and the counts since it was made."""

    __slots__ = ("amends_trades", "counts", "name", "sequence_scope", "venue")

    def __init__(
        self, venue: str, name: str, *, sequence_scope: str = CONNECTION, amends_trades: bool = False
    ) -> None:  # fmt: skip
        self.venue = venue
        self.name = name
        self.sequence_scope = sequence_scope
        self.amends_trades = amends_trades
        self.counts: Counter[str] = Counter()


class Call:
    """One call of the feed.

    `ts` is our clock. `now` is the venue's newest, so that a replayed stream never jumps to our own time; but no
    event can bear a time far ahead of ours, as it is when our clock was set back.
    `payload` goes into dead letters, `sequence` into every event; `out` is what the feed returns.
    """

    __slots__ = ("line", "now", "out", "payload", "sequence", "ts")

    def __init__(self, line: Line, ts: int, now: int | None, payload: bytes = b"") -> None:
        self.line = line
        self.ts = ts
        self.now = ts if now is None or now > ts + AHEAD_NS_MAX else now
        self.payload = payload
        self.sequence: int | None = None
        self.out: list[Output] = []

    def venue_time(self, ts: int, field: str) -> int:
        """Return a time that the venue sent. Raises BadEvent for one of long ago, or far ahead of ours."""
        if not TS_MIN <= ts <= self.ts + AHEAD_NS_MAX:
            raise BadEvent("time_out_of_bounds", field, ts)
        return ts

    def advanced(self, ts: int, before: int | None) -> int:
        """Return the venue's clock after a time that it sent; it was `before` and never runs back. Raises BadEvent."""
        if not TS_MIN <= ts <= self.ts + AHEAD_NS_MAX:
            raise BadEvent("time_out_of_bounds", "ts_event", ts)
        if before is not None and ts <= before:
            return before
        self.now = ts
        return ts

    def status(self, symbol: str, kind: str, gap: Gap | None = None, **fields: Any) -> None:
        """Publish what happened to the feed; a `gap` gives its id and where it began."""
        if gap is not None:
            fields |= {"gap_id": gap.gap_id, "ts_from": gap.ts_from}
        for name in _TEXTS & fields.keys():
            fields[name] = escaped(fields[name])
        self.out.append(
            FeedStatus(venue=self.line.venue, symbol=symbol, ts_event=self.now, ts_recv=self.ts, line=self.line.name,
                       sequence=self.sequence, kind=kind, **fields)
        )  # fmt: skip

    def dead(self, reason: str, detail: str, *, field: str | None = None, value: str | None = None) -> None:
        """Keep the payload as a dead letter; without a `field`, msgspec's own message may name it."""
        self.line.counts["dead_letters"] += 1
        if field is None:
            path = _ERROR_PATH.search(detail)
            field = path.group(1).lstrip(".") if path else None
        self.out.append(
            DeadLetter(venue=self.line.venue, symbol=ALL_SYMBOLS, ts_recv=self.ts, stage="feed", reason=reason,
                       detail=escaped(detail[:1000]), field=None if field is None else escaped(field),
                       value=None if value is None else escaped(value), line=self.line.name, payload=self.payload)
        )  # fmt: skip

    def dead_value(self, error: BadEvent) -> None:
        """Keep the payload as a dead letter because of one value in it."""
        self.dead(error.reason, str(error), field=error.field, value=error.value)

    def dead_frame(self, error: Exception) -> None:
        """Keep the frame as a dead letter because of what makes it `REFUSED`."""
        if isinstance(error, BadEvent):
            self.dead_value(error)
        else:
            is_shape = isinstance(error, msgspec.ValidationError)
            self.dead("bad_frame" if is_shape else "malformed_json", str(error))

    def refusing(self, reason: str) -> Refusing:
        """Return a context in which what cannot be read becomes a dead letter; `failed` is set then."""
        return Refusing(self, reason)

    def each(self, items: Iterable[T], take: Callable[[T], object], reason: str = "bad_frame") -> bool:
        """Take each item of a list by itself; return whether none failed. A bad item is a dead letter of its own."""
        whole = True
        for item in items:
            try:
                take(item)
            except REFUSED as error:
                whole = False
                frame, self.payload = self.payload, _bytes_of(item)
                self.dead_item(error, reason)
                self.payload = frame
        return whole

    def dead_item(self, error: Exception, reason: str) -> None:
        """Keep the payload as a dead letter: for `reason`, or for that of the value in it that is wrong."""
        if isinstance(error, BadEvent):
            self.dead_value(error)
        else:
            self.dead(reason, str(error))


def _bytes_of(item: object) -> bytes:
    """Return an item of a list as it was sent, or written again where it was already decoded."""
    return bytes(item) if isinstance(item, bytes | msgspec.Raw) else msgspec.json.encode(item)


class Refusing:
    """What cannot be read inside this block becomes a dead letter of the call, with its payload."""

    __slots__ = ("_call", "_reason", "failed")

    def __init__(self, call: Call, reason: str) -> None:
        self._call = call
        self._reason = reason
        self.failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            return False
        if not isinstance(error, REFUSED):
            return False
        self._call.dead_item(error, self._reason)
        self.failed = True
        return True
