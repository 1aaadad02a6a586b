"""The Kafka headers of every message: trace, CloudEvents attributes, hop times and the input position.

| header | value |
|---|---|
| `traceparent` | W3C trace context |
| `ce_specversion` `ce_id` `ce_type` `ce_source` | CloudEvents attributes |
| `t_recv` `t_produced` `t_ingested` `t_applied` | when a hop was passed, UTC nanoseconds as ASCII digits |
| `input` | `topic|partition|offset|index`: the input record that this output reflects, and its place among outputs |

An index of -1 marks a checkpoint: it reflects every input of the partition up to that offset.
"""

from __future__ import annotations

import msgspec

from marketdata.errors import CodecError

Headers = dict[str, bytes]

TRACEPARENT = "traceparent"
INPUT = "input"
T_RECV = "t_recv"
T_PRODUCED = "t_produced"
T_INGESTED = "t_ingested"
T_APPLIED = "t_applied"
HOPS = (T_RECV, T_PRODUCED, T_INGESTED, T_APPLIED)


class Position(msgspec.Struct, frozen=True, order=True):
    """Where an output comes from: input topic (physical name), partition, offset, and its place among the outputs."""

    topic: str
    partition: int
    offset: int
    index: int = 0

    def to_header(self) -> bytes:
        """Return the value of the header `input`."""
        return f"{self.topic}|{self.partition}|{self.offset}|{self.index}".encode()

    @classmethod
    def from_header(cls, value: bytes) -> Position:
        """Return the position that a header `input` holds.

        Raises CodecError when it holds none.
        """
        try:
            topic, partition, offset, index = value.decode().split("|")
            return cls(topic, int(partition), int(offset), int(index))
        except ValueError:
            raise CodecError(f"header {INPUT} is no position: {value[:100]!r}") from None


def cloudevent(schema: str, source: str, identity: str) -> Headers:
    """Return the CloudEvents attributes of a record of this schema, made by `source`, unique by `identity`."""
    return {
        "ce_specversion": b"1.0",
        "ce_id": identity.encode(),
        "ce_type": b"tickstream.md." + schema.encode() + b".v1",
        "ce_source": b"tickstream/" + source.encode(),
    }


def time_of(headers: Headers, hop: str) -> int | None:
    """Return when a hop was passed, UTC nanoseconds, or None when the message did not pass it."""
    value = headers.get(hop)
    return int(value) if value is not None and value.isdigit() else None
