"""Builds the headers of the pipeline's outputs, in Python: `marketdata/_headers.pyx` does the same, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marketdata.clock import MILLISECOND_NS
from marketdata.errors import CodecError
from marketdata.headers import HOPS, NO_HOPS, TRACEPARENT, Hops, Position, constants, event_time, origin

Header = tuple[str, str | bytes | None]


class OutputHeaders:
    """The headers of what the records of one input partition lead to. `begin` with a record, then `build` each output.

    `trace` is the record's trace context, None where it has none: set one then. `t_produced` is when the record was
    handed to Kafka, UTC nanoseconds, 0 where that is unknown. `run` and `number` are those of its producer's `ce_id`;
    `run` is empty where it has none.
    """

    trace: bytes | None
    t_produced: int
    run: str
    number: int

    def __init__(self, topic: str, partition: int, source: str) -> None:
        """Take the input's physical topic and partition number, and the name of the outputs' source."""
        self.trace = None
        self.t_produced = 0
        self.run = ""
        self.number = 0
        self._topic = topic
        self._partition = partition
        self._source = source
        self._hops = NO_HOPS
        self._received = b""
        self._identity = ""
        self._offset = 0
        self._now = 0

    def begin(
        self, headers: Sequence[tuple[str, Any]] | None, offset: int, timestamp_ms: int, now: int, about: str
    ) -> None:
        """Take a record's headers, offset and Kafka's timestamp; `now` is UTC nanoseconds.

        `about` is part of the outputs' ids, which must differ where one record has outputs of several calls.
        """
        found = dict(headers or ())
        value = found.get(HOPS)
        try:
            self._hops = NO_HOPS if value is None else Hops.from_header(value)
        except CodecError:
            self._hops = NO_HOPS
        self.t_produced = self._hops.t_produced
        self.trace = found.get(TRACEPARENT)
        self.run, self.number = origin(found.get("ce_id")) or ("", 0)
        self._received = found.get("ce_time") or event_time(self._hops.t_recv or timestamp_ms * MILLISECOND_NS)
        self._identity = f"{self._topic}|{self._partition}|{offset}|{about}"
        self._offset = offset
        self._now = now

    def build(self, schema: str, key: bytes, index: int) -> list[Header]:
        """Return the headers of the record's output `index`, of a schema and with a key."""
        position = Position(self._topic, self._partition, self._offset, index)
        hops = Hops(self._hops.t_recv, self._hops.t_produced, self._now, position)
        return [
            *constants(schema, self._source).items(),
            ("ce_id", f"{self._identity}{index}".encode()),
            ("ce_time", self._received),
            ("ce_subject", key),
            (TRACEPARENT, self.trace),
            (HOPS, hops.to_header()),
        ]
