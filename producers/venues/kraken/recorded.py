"""Plays Kraken's recordings, which contain either version of the WebSocket API: the first frame shows which."""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.book import L2Book
from marketdata.feed import Fetch, Output
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.values import UNREADABLE
from producers.venues.kit.venue import Signer
from producers.venues.kraken.feed import KrakenFeed
from producers.venues.kraken.feed_v1 import KrakenV1Feed
from producers.venues.kraken.names import VENUE


class _Event(msgspec.Struct):
    event: str


_EVENT = msgspec.json.Decoder(_Event)


class RecordedKraken:
    """One recorded connection. Until its first frame nothing is known of it: what `opened` returns comes with it."""

    venue = VENUE
    silence_ns = KrakenFeed.silence_ns

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        del token  # nothing is signed
        self._line = line
        self._names = products
        self._ts_opened = 0
        self._feed: KrakenFeed | None = None
        self.counts: Counter[str] = Counter()
        self.ts_venue: int | None = None

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products that are read; None where all are."""
        return KrakenFeed(line=self._line, products=self._names).symbols()

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Return nothing: a recording continues no other process."""
        del previous, ts
        return []

    def opened(self, ts: int) -> list[Output]:
        """Wait for the first frame, unless it came on an earlier connection."""
        self._ts_opened = ts
        return [] if self._feed is None else self._feed.opened(ts)

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return the outputs of one frame."""
        if self._feed is None:
            first = self._start(KrakenV1Feed if is_v1(frame) else KrakenFeed, ts)
            return first + self.received(frame, ts)
        out = self._feed.received(frame, ts)
        self.ts_venue = self._feed.ts_venue
        return out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Return the outputs of a REST answer."""
        return [] if self._feed is None else self._feed.fetched(request, body, ts)

    def ticked(self, ts: int) -> list[Output]:
        """Return the outputs of the passage of time."""
        return [] if self._feed is None else self._feed.ticked(ts)

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """Return the outputs of a quiet market's time."""
        return [] if self._feed is None else self._feed.time_passed(ts, ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Return the outputs of the connection's end."""
        first = self._start(KrakenFeed, ts) if self._feed is None else []
        return first if self._feed is None else first + self._feed.closed(reason, ts)

    def kept_book(self, name: str) -> L2Book | None:
        """Return the book that is kept to check it, by the venue's name; None without one."""
        return None if self._feed is None else self._feed.kept_book(name)

    def _start(self, make: type[KrakenFeed], ts: int) -> list[Output]:
        self._feed = make(line=self._line, products=self._names)
        self.counts = self._feed.counts
        return self._feed.opened(self._ts_opened or ts)


def is_v1(frame: bytes) -> bool:
    """Return whether a frame is one of v1: an array, or an object with `event`."""
    if frame.lstrip().startswith(b"["):
        return True
    try:
        _EVENT.decode(frame)
    except UNREADABLE:
        return False
    return True
