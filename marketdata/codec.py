"""Avro in the Confluent wire format: a zero byte, the schema id in four bytes (big-endian), the Avro body.

The codec is pure: schema ids are plain values (`Codec(ids)`). A record written with a schema that is not known yet
raises `UnknownSchema`; the caller then fetches that schema once, calls `learn` and tries again.

Records of our own schemas are read and written by compiled code (`_codec.pyx`) where it could be built. fastavro does
the rest: records of other schema versions, and everything on a machine without a C compiler.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import fastavro
import msgspec
from fastavro.schema import to_parsing_canonical_form
from fastavro.types import Schema

from marketdata import compiled, schemas
from marketdata.errors import CodecError, UnknownSchema
from marketdata.events import EVENTS, AnyEvent, Liquidation, Trade

MAGIC = 0
_PREFIX = struct.Struct(">BI")
_CLASSES: dict[str, type[AnyEvent]] = {cls.schema: cls for cls in EVENTS}
# The records inside of others.
ITEMS: dict[str, type[msgspec.Struct]] = {"Trade": Trade, "Liquidation": Liquidation}
_PARSED: dict[str, Schema] = {name: fastavro.parse_schema(schemas.load(name)) for name in _CLASSES}
_CANONICAL = {name: to_parsing_canonical_form(schemas.load(name)) for name in _CLASSES}

# The fields of type int.
_NARROW = {
    name: tuple(field["name"] for field in schemas.load(name)["fields"] if field["type"] in ("int", ["null", "int"]))
    for name in _CLASSES
}

# The values of Avro's primitive types in Python.
_KINDS: dict[str, type] = {
    "string": str, "bytes": bytes, "boolean": bool, "int": int, "long": int, "null": type(None),
}  # fmt: skip
_BITS = {"int": 32, "long": 64}
_VALUE_CHARS = 100


def as_record(event: AnyEvent) -> dict[str, Any]:
    """Return an event as the plain values that its schema describes."""
    return {name: _plain(value) for name, value in msgspec.structs.asdict(event).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(item) for name, item in msgspec.structs.asdict(value).items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _programs() -> dict[str, Any]:
    """Return the compiled code's program of each record, nothing where there is no compiled code."""
    if compiled.codec is None:
        return {}
    classes = {**_CLASSES, **ITEMS}
    return {name: compiled.codec.Program(schemas.load(name), classes) for name in _CLASSES}


_PROGRAMS = _programs()


class Codec:
    """Writes and reads events. `ids` maps a record's name to its schema's id in the registry.

    `encode(event)` returns the event in the Confluent wire format. It raises CodecError when the event does not fit its
    schema, naming the field.

    `decode(data)` returns the event in bytes or another buffer, which is not copied. It raises UnknownSchema (its
    `args[1]` is the id) when the schema id was never learned, and CodecError for bytes that are not one of our records.

    `plain` uses fastavro alone.
    """

    encode: Callable[[AnyEvent], bytes]
    decode: Callable[[bytes | bytearray | memoryview], AnyEvent]

    def __init__(self, ids: dict[str, int], *, plain: bool = False) -> None:
        self._prefixes = {name: _PREFIX.pack(MAGIC, schema_id) for name, schema_id in ids.items()}
        self._writers: dict[int, tuple[str, Schema]] = {
            schema_id: (name, _PARSED[name]) for name, schema_id in ids.items()
        }
        self._compiled: Any = None
        self.encode, self.decode = self._encode, self._decode
        if _PROGRAMS and not plain:
            programs = {schema_id: _PROGRAMS[name] for name, schema_id in ids.items()}
            # Bound once: a record then passes no Python code.
            self._compiled = compiled.codec.Codec(programs, self._encode, self._decode)
            self.encode, self.decode = self._compiled.encode, self._compiled.decode

    def learn(self, schema_id: int, schema: dict[str, Any]) -> None:
        """Remember the schema of an id, as the registry returned it."""
        name = str(schema.get("name", "")).rpartition(".")[2]
        if name not in _CLASSES:
            raise CodecError(f"schema id {schema_id} is not a Tickstream record: {name or 'it has no name'}")
        self._writers[schema_id] = (name, fastavro.parse_schema(schema))
        if self._compiled is not None and to_parsing_canonical_form(schema) == _CANONICAL[name]:
            self._compiled.read(schema_id, _PROGRAMS[name])

    def _encode(self, event: AnyEvent) -> bytes:
        try:
            prefix = self._prefixes[event.schema]
        except KeyError:
            raise CodecError(f"no schema id is known for {event.schema}: run `tickstream schemas register`") from None
        out = BytesIO()
        out.write(prefix)
        try:
            record = as_record(event)
            fastavro.schemaless_writer(out, _PARSED[event.schema], record)
            _check_narrow(event)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            detail = misfit(schemas.load(event.schema), record) or str(error)
            raise CodecError(f"{event.schema} does not fit its schema: {detail}") from error
        return out.getvalue()

    def _decode(self, data: bytes | bytearray | memoryview) -> AnyEvent:
        if len(data) < _PREFIX.size or data[0] != MAGIC:
            raise CodecError(f"not in the Confluent wire format: starts with {bytes(data[:5])!r}")
        schema_id: int = _PREFIX.unpack_from(data)[1]
        try:
            name, writer = self._writers[schema_id]
        except KeyError:
            raise UnknownSchema(f"schema id {schema_id} is unknown", schema_id) from None
        reader = BytesIO(data)
        reader.seek(_PREFIX.size)
        try:
            record = fastavro.schemaless_reader(reader, writer, _PARSED[name])
            if reader.tell() != len(data):
                raise ValueError(f"{len(data) - reader.tell()} bytes follow the record")  # noqa: TRY301
            return _check_narrow(msgspec.convert(record, _CLASSES[name]))
        except (ValueError, TypeError, EOFError, IndexError, KeyError, StopIteration, msgspec.ValidationError) as error:
            raise CodecError(f"not a {name}: {error}") from error


def _check_narrow(event: AnyEvent) -> AnyEvent:
    """Return the event. Raises ValueError for an int beyond 32 bits, which fastavro writes and reads like a long."""
    for name in _NARROW[event.schema]:
        value = getattr(event, name)
        if value is not None and not _fits("int", "int", value):
            raise ValueError(f"{name} is {value}, not {_expected('int', 'int')}")
    return event


def misfit(schema: Any, record: dict[str, Any]) -> str | None:
    """Return which field of a record does not fit its schema (parsed JSON), and why; None when all fit."""
    return next(_misfits(schema, record, ""), None)


def _misfits(schema: Any, value: Any, field: str) -> Iterator[str]:
    kind = schema["type"] if isinstance(schema, dict) else "union" if isinstance(schema, list) else schema
    if kind == "union":
        problems = [next(_misfits(branch, value, field), "") for branch in schema]
        yield from problems[-1:] if all(problems) else ()
    elif kind == "record":
        for each in schema["fields"]:
            yield from _misfits(each["type"], value[each["name"]], f"{field}.{each['name']}")
    elif kind == "array" and isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from _misfits(schema["items"], item, f"{field}[{at}]")
    elif kind == "map" and isinstance(value, dict):
        for key, item in value.items():
            yield from _misfits("string", key, field)
            yield from _misfits(schema["values"], item, f"{field}[{key!r}]")
    else:
        expected = "" if _fits(kind, schema, value) else _expected(kind, schema)
        if expected:
            yield f"{field.removeprefix('.')} is {repr(value)[:_VALUE_CHARS]}, not {expected}"


def _fits(kind: str, schema: Any, value: Any) -> bool:
    if kind == "enum":
        return value in schema["symbols"]
    if type(value) is not _KINDS.get(kind):
        return False
    if kind in _BITS:
        return bool(-(2 ** (_BITS[kind] - 1)) <= value < 2 ** (_BITS[kind] - 1))
    return kind != "string" or _is_unicode(str(value))


def _expected(kind: str, schema: Any) -> str:
    if kind == "enum":
        return " or ".join(schema["symbols"])
    return f"an integer of {_BITS[kind]} bits" if kind in _BITS else f"of type {kind}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
