"""For consumers of the Kafka topics: reads the binary header `hops` of a message."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

_VERSION = 1
_TIMES = struct.Struct(">Bqqq")
_TIMES_AND_INPUT = struct.Struct(">Bqqqiqi")


@dataclass(frozen=True, slots=True)
class Hops:
    """When a message passed each stage, UTC nanoseconds, and the input record that it was computed from.

    `t_recv` is when the frame was received from the venue, `t_produced` when the producer sent it to Kafka,
    `t_processed` when the pipeline did; None where unknown. `index` counts the outputs of that input record. All four
    input fields are None for a message that was not computed from another.
    """

    t_recv: int | None = None
    t_produced: int | None = None
    t_processed: int | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    index: int | None = None


def decode_hops(value: bytes) -> Hops:
    """Return what the header `hops` of a Kafka message contains.

    With confluent-kafka: `decode_hops(dict(message.headers())["hops"])`. Raises ValueError for bytes of another form
    or a later version.
    """
    if not value or value[0] != _VERSION:
        raise ValueError(f"not a hops header of version {_VERSION}: {value[:100]!r}")
    if len(value) == _TIMES.size:
        return _hops(_TIMES.unpack(value))
    if len(value) <= _TIMES_AND_INPUT.size:
        raise ValueError(f"not a hops header: {value[:100]!r}")
    *times, partition, offset, index = _TIMES_AND_INPUT.unpack_from(value)
    topic = value[_TIMES_AND_INPUT.size :].decode()
    return replace(_hops(tuple(times)), topic=topic, partition=partition, offset=offset, index=index)


def _hops(times: tuple[int, ...]) -> Hops:
    _, t_recv, t_produced, t_processed = times
    return Hops(t_recv or None, t_produced or None, t_processed or None)
