"""Plays Kraken's recordings, which contain either version of the WebSocket API: the first frame shows which."""

from __future__ import annotations

import msgspec

from marketdata.feed import Output
from producers.venues.kit.values import UNREADABLE
from producers.venues.kraken.feed import KrakenFeed
from producers.venues.kraken.feed_v1 import KrakenV1Feed
from producers.venues.kraken.names import legacy, modern


class _Head(msgspec.Struct):
    event: str | None = None
    channel: str | None = None
    method: str | None = None


_HEAD = msgspec.json.Decoder(_Head | list[msgspec.Raw])


class RecordedKraken(KrakenV1Feed):
    """One recorded connection of v1, which becomes a feed of v2 where its first readable frame shows that."""

    _is_known = False

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return the outputs of one frame."""
        if not self._is_known:
            version = version_of(frame)
            self._is_known = version is not None
            if version is KrakenFeed:
                # v2 needs no state that v1 lacks, and nothing of a version was used before this frame.
                self.__class__ = version  # type: ignore[assignment]
                return self.received(frame, ts)
        return super().received(frame, ts)

    def _rest_names(self, name: str) -> tuple[str, ...]:
        # REST may answer before the first frame.
        return tuple(dict.fromkeys((legacy(name), modern(name))))


def version_of(frame: bytes) -> type[KrakenFeed] | None:
    """Return the feed of a frame's version: v1 sends arrays and objects with `event`; None where neither shows."""
    try:
        head = _HEAD.decode(frame)
    except UNREADABLE:
        return None
    if isinstance(head, list) or head.event is not None:
        return KrakenV1Feed
    return None if head.channel is None and head.method is None else KrakenFeed
