"""The Kafka headers of every message: trace context, CloudEvents attributes, and the times of its hops.

| header | value |
|---|---|
| `traceparent` | W3C trace context |
| `ce_specversion` `ce_type` `ce_source` `ce_dataschema` `content-type` | CloudEvents, constant for a schema and source |
| `ce_id` | unique for each `ce_source`; a producer's ends in `/<run>/<number>`, see `record_id` |
| `ce_time` | when the data was received, RFC 3339 with nanoseconds |
| `ce_subject` | the message's key |
| `hops` | binary, see below |

`hops` is big-endian. The input position is absent where a message has no input record.

| bytes | content |
|---|---|
| 0 | version, 1 |
| 1-8, 9-16, 17-24 | `t_recv` (received from the venue), `t_produced` (handed to Kafka by the producer), `t_processed` (handed to Kafka by the pipeline): UTC nanoseconds, 0 where unknown |
| 25-28, 29-36, 37-40 | input partition, offset, and index among the outputs of that input (signed) |
| 41 to the end | input topic, UTF-8 |

CloudEvents: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""  # noqa: E501 - table rows

from __future__ import annotations

import struct
from datetime import UTC, datetime
from functools import cache, lru_cache

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import CodecError

Headers = dict[str, bytes]

TRACEPARENT = "traceparent"
HOPS = "hops"
CONTENT_TYPE = b"application/avro"

# Of a producer's run, ASCII letters and digits.
RUN_LENGTH_MAX = 16

_VERSION = 1
_DIGITS_MAX = 18
_TIMES = struct.Struct(">Bqqq")
_TIMES_AND_INPUT = struct.Struct(">Bqqqiqi")


class Position(msgspec.Struct, frozen=True, order=True):
    """An output's input record (physical topic name, partition, offset) and its index among that input's outputs."""

    topic: str
    partition: int
    offset: int
    index: int = 0

    def __str__(self) -> str:
        return f"{self.topic}|{self.partition}|{self.offset}|{self.index}"


class Hops(msgspec.Struct, frozen=True):
    """When a message passed each hop, UTC nanoseconds (0 where unknown), and its input record, if it has one."""

    t_recv: int = 0
    t_produced: int = 0
    t_processed: int = 0
    input: Position | None = None

    def to_header(self) -> bytes:
        """Return the value of the header `hops`."""
        if self.input is None:
            return encode_times(self.t_recv, self.t_produced, self.t_processed)
        position = self.input
        return _TIMES_AND_INPUT.pack(
            _VERSION, self.t_recv, self.t_produced, self.t_processed,
            position.partition, position.offset, position.index,
        ) + position.topic.encode()  # fmt: skip

    @classmethod
    def from_header(cls, value: bytes) -> Hops:
        """Return the hops in the value of a header `hops`.

        Raises CodecError for another version and for any other bytes.
        """
        if len(value) == _TIMES.size and value[0] == _VERSION:
            return cls(*_TIMES.unpack(value)[1:])
        if len(value) <= _TIMES_AND_INPUT.size or value[0] != _VERSION:
            raise CodecError(f"header {HOPS} is not readable: {value[:100]!r}")
        _, t_recv, t_produced, t_processed, *numbers = _TIMES_AND_INPUT.unpack_from(value)
        try:
            topic = value[_TIMES_AND_INPUT.size :].decode()
        except UnicodeDecodeError:
            raise CodecError(f"header {HOPS} is not readable: {value[:100]!r}") from None
        return cls(t_recv, t_produced, t_processed, Position(topic, *numbers))


def encode_times(t_recv: int, t_produced: int, t_processed: int = 0) -> bytes:
    """Return a header `hops` without an input record; times are UTC nanoseconds, 0 where unknown."""
    return _TIMES.pack(_VERSION, t_recv, t_produced, t_processed)


NO_HOPS = Hops()


def hops_of(headers: Headers) -> Hops:
    """Return the hops of a message, all unknown where it has no readable header `hops`."""
    value = headers.get(HOPS)
    if value is None:
        return NO_HOPS
    try:
        return Hops.from_header(value)
    except CodecError:
        return NO_HOPS


def received_at(headers: Headers) -> int:
    """Return when a message was received from the venue, UTC nanoseconds, by its `hops` alone; 0 where unknown."""
    value = headers.get(HOPS)
    if value is None or len(value) < _TIMES.size or value[0] != _VERSION:
        return 0
    return int.from_bytes(value[1:9], "big", signed=True)


@cache
def constants(schema: str, source: str) -> Headers:
    """Return the CloudEvents attributes that are the same for every record of a schema from one source.

    `source` is a component's name, for example `producer` or an operator's. Do not change the dict.
    """
    return {
        "ce_specversion": b"1.0",
        "ce_type": f"tickstream.md.{schema}.v1".encode(),
        "ce_source": f"tickstream/{source}".encode(),
        "ce_dataschema": f"urn:tickstream:schema:tickstream.md.{schema}:v1".encode(),
        "content-type": CONTENT_TYPE,
    }


def cloudevent(schema: str, source: str, *, identity: str, subject: bytes, ts: int) -> Headers:
    """Return the CloudEvents attributes of one record.

    `identity` is unique within `source`, `subject` is the message's key, `ts` when the data was received, UTC
    nanoseconds.
    """
    return constants(schema, source) | {
        "ce_id": identity.encode(),
        "ce_time": event_time(ts),
        "ce_subject": subject,
    }


def record_id(line: str, run: str, number: int) -> bytes:
    """Return the `ce_id` of record `number` of a producer's run; numbers rise, and no other run has the same name.

    Kafka's client may write a batch twice, where a broker fails after the first time. By this id the pipeline knows.
    """
    return f"{line}/{run}/{number}".encode()


def origin(identity: object) -> tuple[str, int] | None:
    """Return the run and the number in a producer's `ce_id`, None for any other header."""
    if not isinstance(identity, bytes):
        return None
    head, _, number = identity.rpartition(b"/")
    _, found, run = head.rpartition(b"/")
    if not found or not 0 < len(run) <= RUN_LENGTH_MAX or not number.isdigit() or len(number) > _DIGITS_MAX:
        return None
    return (run.decode(), int(number)) if run.isalnum() else None


def event_time(ts: int) -> bytes:
    """Return UTC nanoseconds in RFC 3339, as `ce_time` has it: `2026-01-31T23:59:59.123456789Z`."""
    seconds, rest = divmod(ts, SECOND_NS)
    return b"%s.%09dZ" % (_second(seconds), rest)


@lru_cache(maxsize=256)
def _second(seconds: int) -> bytes:
    # The years that RFC 3339 can express; no clock of ours is beyond them.
    seconds = min(max(seconds, 0), 253_402_300_799)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}".encode()
