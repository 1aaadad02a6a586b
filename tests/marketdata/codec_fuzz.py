"""Feeds damaged records to both codecs and compares the results.

`python -m tests.marketdata.codec_fuzz SECONDS [SEED]` runs it for longer, for example under AddressSanitizer:

    gcc -fsanitize=address ... (see `infra/local/setup`, step compiled)
    LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
        .venv/bin/python -m tests.marketdata.codec_fuzz 60
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, get_origin

import msgspec

from marketdata import compiled, schemas
from marketdata.codec import ITEMS, Codec
from marketdata.errors import CodecError
from marketdata.events import EVENTS, AnyEvent

IDS = {cls.schema: number for number, cls in enumerate(EVENTS, start=101)}
CLASSES: dict[str, type[Any]] = {cls.schema: cls for cls in EVENTS} | ITEMS

# Errors of values that only fastavro reads, and that no Avro writer writes.
STRICTER = ("is cut off", "has no such type", "is not one of its symbols")

_TEXTS = ("", "a", "BTC-USD", "64250.01", "0.00512", "\u00e9", "\u4e2d\u6587", "\U0001f600", "x" * 70, "y" * 200)
_LONGS = (0, 1, -1, 63, 64, -64, -65, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 1_780_000_000_123_456_789)


_PRIMITIVES: dict[str, Callable[[Random], Any]] = {
    "null": lambda _: None,
    "boolean": lambda random: random.random() < 0.5,
    "int": lambda random: random.choice(_LONGS[:9]),
    "long": lambda random: random.choice((*_LONGS, random.getrandbits(40))),
    "bytes": lambda random: random.randbytes(random.randrange(20)),
    "string": lambda random: random.choice(_TEXTS),
}


def sample(schema: Any, random: Random, hint: Any = None) -> Any:
    """Return a value of an Avro schema (parsed JSON), a record as an event; `hint` is the type of its field."""
    kind = schema["type"] if isinstance(schema, dict) else "union" if isinstance(schema, list) else schema
    made: Any
    match kind:
        case "union":
            made = sample(random.choice(schema), random)
        case "record":
            cls = CLASSES[schema["name"]]
            hints = {field.name: field.type for field in msgspec.structs.fields(cls)}
            made = cls(**{one["name"]: sample(one["type"], random, hints[one["name"]]) for one in schema["fields"]})
        case "array":
            items = [sample(schema["items"], random) for _ in range(random.randrange(5))]
            made = tuple(items) if get_origin(hint) is tuple else items
        case "map":
            made = {random.choice(_TEXTS): sample(schema["values"], random) for _ in range(random.randrange(4))}
        case "enum":
            made = random.choice(schema["symbols"])
        case _:
            made = _PRIMITIVES[kind](random)
    return made


def event(random: Random) -> AnyEvent:
    """Return a random event."""
    made: AnyEvent = sample(schemas.load(random.choice(EVENTS).schema), random)
    return made


def damaged(data: bytes, random: Random) -> bytes:
    """Return a record whose body is cut, lengthened, or changed in some bytes."""
    body = bytearray(data)
    for _ in range(random.randrange(4)):
        if len(body) <= 5:
            break
        at = random.randrange(5, len(body))
        match random.randrange(6):
            case 0:
                body[at] = random.randrange(256)
            case 1:
                body[at] ^= 1 << random.randrange(8)
            case 2:
                del body[at:]
            case 3:
                del body[at : at + random.randrange(1, 9)]
            case 4:
                body[at:at] = random.choice((b"\xff" * 9 + b"\x01", b"\x80" * 5, b"\xed\xa0\x80", random.randbytes(4)))
            case 5:
                body += random.randbytes(random.randrange(1, 5))
    return bytes(body)


def exact(data: bytes) -> memoryview:
    """Return the bytes in memory of exactly their size: a bytes object has one more, which would hide an over-read."""
    return memoryview((ctypes.c_char * len(data)).from_buffer_copy(data)).cast("B")


def outcome(codec: Codec, data: bytes | memoryview) -> AnyEvent | str:
    """Return the event in the bytes, or the error."""
    try:
        return codec.decode(data)
    except CodecError as error:
        return str(error)


def compare(fast: Codec, plain: Codec, data: bytes) -> str:
    """Return whether both read a record (`read`), both refuse it (`refused`) or only the compiled codec (`stricter`).

    Raises AssertionError where they differ in any other way.
    """
    ours, theirs = outcome(fast, exact(data)), outcome(plain, data)
    if isinstance(ours, str):
        if isinstance(theirs, str):
            return "refused"
        assert any(reason in ours for reason in STRICTER), (ours, theirs, data)
        # Nothing that a writer writes is refused.
        assert outcome_bytes(plain, theirs) != data, (ours, data)
        return "stricter"
    assert ours == theirs, (ours, theirs, data)
    return "read"


def outcome_bytes(codec: Codec, made: AnyEvent) -> bytes | None:
    """Return an event's bytes, None when it does not fit its schema."""
    try:
        return codec.encode(made)
    except CodecError:
        return None


def fuzz(random: Random, count: int) -> Counter[str]:
    """Return how many of so many records both codecs read and refuse; each is first written by both."""
    fast, plain = Codec(IDS), Codec(IDS, plain=True)
    counts: Counter[str] = Counter()
    for _ in range(count):
        made = event(random)
        data = plain.encode(made)
        assert fast.encode(made) == data, made
        assert fast.decode(data) == made, made
        for _ in range(8):
            counts[compare(fast, plain, damaged(data, random))] += 1
        random_bytes = data[:5] + random.randbytes(random.randrange(40))
        counts[compare(fast, plain, random_bytes)] += 1
    return counts


def main() -> None:
    """Fuzz for a number of seconds and print the counts."""
    assert compiled.codec is not None, "the codec is not compiled: run `make setup`"
    seconds = float(sys.argv[1])
    random = Random(int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        counts += fuzz(random, 200)
    sys.stdout.write(f"{compiled.codec.__file__}: {counts.total():,} damaged records: {dict(counts)}\n")


if __name__ == "__main__":
    main()
