"""Positions: where in Kafka a message comes from, as text that outlives a restart of the API.

A position is `epoch:offset`, or `epoch:offset.item` for a later item of the same record. The epoch names a partition
of one life of a topic: it changes when the topic is made again under its name, and it differs between partitions. So a
position is never taken for that of another record. Clients give positions back (`since`) and read nothing else in them.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import NamedTuple

_TEXT = re.compile(r"([0-9a-f]{8}):(\d{1,18})(?:\.(\d{1,6}))?")


class Position(NamedTuple):
    """The place of an item of a record; most records have one item, with the number 0."""

    epoch: str
    offset: int
    item: int = 0


def epoch_of(topic_id: str, partition: int) -> str:
    """Return the epoch of a partition; `topic_id` is the id that Kafka gave the topic when it was made."""
    return blake2s(f"{topic_id}/{partition}".encode(), digest_size=4).hexdigest()


def position(epoch: str, offset: int, item: int = 0) -> str:
    """Return a position as text."""
    return f"{epoch}:{offset}.{item}" if item else f"{epoch}:{offset}"


def read_position(text: str) -> Position | None:
    """Return the position that a text names; None when it is none."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    epoch, offset, item = found.groups()
    return Position(epoch, int(offset), int(item or 0))
