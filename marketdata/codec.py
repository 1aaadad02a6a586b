"""Avro in the Confluent wire format: a zero byte, the schema id in four bytes (big-endian), the Avro body.

The codec is pure: schema ids come in as plain values (`Codec(ids)`), and a record written with a schema that is not
known yet raises `UnknownSchema`, on which the shell fetches that schema once, calls `learn` and tries again.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import fastavro
import msgspec
from fastavro.types import Schema

from marketdata import schemas
from marketdata.errors import CodecError, UnknownSchema
from marketdata.events import EVENTS, AnyEvent

MAGIC = 0
_PREFIX = struct.Struct(">BI")
_CLASSES: dict[str, type[AnyEvent]] = {cls.schema: cls for cls in EVENTS}
_PARSED: dict[str, Schema] = {name: fastavro.parse_schema(schemas.load(name)) for name in _CLASSES}


def as_record(event: AnyEvent) -> dict[str, Any]:
    """Return an event as the plain values that its schema describes."""
    record = msgspec.structs.asdict(event)
    if event.schema == "Trades":
        record["trades"] = [msgspec.structs.asdict(trade) for trade in record["trades"]]
    return record


class Codec:
    """Writes and reads events. `ids` maps a record's name to its schema's id in the registry."""

    def __init__(self, ids: dict[str, int]) -> None:
        self._prefixes = {name: _PREFIX.pack(MAGIC, schema_id) for name, schema_id in ids.items()}
        self._writers: dict[int, tuple[str, Schema]] = {
            schema_id: (name, _PARSED[name]) for name, schema_id in ids.items()
        }

    def learn(self, schema_id: int, schema: dict[str, Any]) -> None:
        """Remember the schema that an id stands for, as the registry gave it."""
        name = str(schema.get("name", "")).rpartition(".")[2]
        if name not in _CLASSES:
            raise CodecError(f"schema id {schema_id} is a {name or 'nameless schema'}, which is no record of ours")
        self._writers[schema_id] = (name, fastavro.parse_schema(schema))

    def encode(self, event: AnyEvent) -> bytes:
        """Return the event in the Confluent wire format.

        Raises CodecError when the event does not fit its schema, naming the field.
        """
        out = BytesIO()
        try:
            out.write(self._prefixes[event.schema])
            fastavro.schemaless_writer(out, _PARSED[event.schema], as_record(event))
        except KeyError:
            raise CodecError(f"no schema id is known for {event.schema}: run `tickstream schemas register`") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise CodecError(f"{event.schema} does not fit its schema: {error}") from error
        return out.getvalue()

    def decode(self, data: bytes) -> AnyEvent:
        """Return the event that the bytes hold.

        Raises UnknownSchema (its `args[1]` is the id) when the schema id was never learned, and CodecError for
        anything that is no record of ours.
        """
        if len(data) < _PREFIX.size or data[0] != MAGIC:
            raise CodecError(f"not in the Confluent wire format: starts with {data[:5]!r}")
        schema_id: int = _PREFIX.unpack_from(data)[1]
        try:
            name, writer = self._writers[schema_id]
        except KeyError:
            raise UnknownSchema(f"schema id {schema_id} is unknown", schema_id) from None
        reader = BytesIO(data)
        reader.seek(_PREFIX.size)
        try:
            record = fastavro.schemaless_reader(reader, writer, _PARSED[name])
            return msgspec.convert(record, _CLASSES[name])
        except (ValueError, TypeError, EOFError, IndexError, KeyError, StopIteration, msgspec.ValidationError) as error:
            raise CodecError(f"not a {name}: {error}") from error
