"""The compiled codec and fastavro read and write the same, for good and damaged records."""

from __future__ import annotations

import gc
import struct
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import compiled, schemas
from marketdata.codec import ITEMS, Codec
from marketdata.errors import CodecError, UnknownSchema
from marketdata.events import EVENTS, AnyEvent, Book, DeadLetter, Quote, Trade, Trades
from tests.marketdata.codec_fuzz import IDS, compare, event, fuzz, outcome

# Without a C compiler, both are fastavro.
FAST, PLAIN = Codec(IDS), Codec(IDS, plain=True)
BOTH = pytest.mark.parametrize("codec", [FAST, PLAIN], ids=["compiled", "fastavro"])

TRADES = Trades(
    venue="v", symbol="S", ts_event=1, ts_recv=2, line="v/0", sequence=3,
    trades=tuple(Trade(trade_id=str(n), ts_event=n, price="1.5", size="2", side="buy") for n in range(3)),
)  # fmt: skip


def zigzag(number: int) -> bytes:
    """Return an Avro long."""
    value = (number << 1) ^ (number >> 63)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.skipif(compiled.codec is None, reason="there is no compiler")
def test_every_record_of_ours_has_compiled_code() -> None:
    """None falls back to fastavro unnoticed."""
    for cls in EVENTS:
        assert compiled.codec.Program(schemas.load(cls.schema), {e.schema: e for e in EVENTS} | ITEMS)


@given(st.randoms(use_true_random=False))
def test_both_write_the_same_bytes_and_read_the_same_events(random: Random) -> None:
    """In both directions, for every schema."""
    made = event(random)
    data = PLAIN.encode(made)
    assert FAST.encode(made) == data
    assert FAST.decode(data) == PLAIN.decode(data) == made


@given(st.sampled_from(EVENTS), st.binary(max_size=200))
def test_both_agree_on_any_bytes(cls: type[AnyEvent], body: bytes) -> None:
    """The same event, or an error from both; the compiled codec also refuses a few values that no writer writes."""
    compare(FAST, PLAIN, struct.pack(">BI", 0, IDS[cls.schema]) + body)


@pytest.mark.parametrize("seed", range(4))
def test_both_agree_on_damaged_records(seed: int) -> None:
    """Truncated, lengthened, and with changed bytes."""
    counts = fuzz(Random(seed), 300)
    assert counts["read"] > 0
    assert counts["refused"] > 0


@BOTH
def test_every_cut_of_a_record_is_refused(codec: Codec) -> None:
    """No byte after the end is read: each truncation is a separate copy, so that AddressSanitizer would detect it."""
    data = codec.encode(TRADES)
    for size in range(5, len(data)):
        with pytest.raises(CodecError, match="Trades"):
            codec.decode(data[:size])
    with pytest.raises(CodecError, match=r"follow"):
        codec.decode(data + b"\0")


@BOTH
def test_arrays_and_maps_of_several_blocks_are_read(codec: Codec) -> None:
    """Writers may split them, and may give a block's size in bytes after a negative count."""
    data = PLAIN.encode(TRADES)
    items = [PLAIN.encode(msgspec.structs.replace(TRADES, trades=(one,)))[5:] for one in TRADES.trades]
    empty = PLAIN.encode(msgspec.structs.replace(TRADES, trades=()))
    head = empty[:-1]
    bodies = [item[len(head) - 5 + 1 : -1] for item in items]
    blocks = zigzag(2) + bodies[0] + bodies[1] + zigzag(-1) + zigzag(len(bodies[2])) + bodies[2] + zigzag(0)
    assert codec.decode(head + blocks) == codec.decode(data) == TRADES


@BOTH
@pytest.mark.parametrize("convert", [bytearray, memoryview, lambda data: memoryview(b"xx" + data + b"yy")[2:-2]])
def test_any_buffer_is_read(codec: Codec, convert: Callable[[bytes], Any]) -> None:
    """Also a part of a larger one."""
    assert codec.decode(convert(codec.encode(TRADES))) == TRADES


@BOTH
@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"ab\xe2\x82"])
def test_bytes_that_are_not_utf_8_are_refused(codec: Codec, text: bytes) -> None:
    """Lone surrogates, overlong forms and cut characters too."""
    made = Quote(venue="v", symbol="S", ts_event=1, ts_recv=2, line="MARK")
    data = codec.encode(made)
    broken = data.replace(zigzag(4) + b"MARK", zigzag(len(text)) + text)
    with pytest.raises(CodecError, match="Quote"):
        codec.decode(broken)


@BOTH
@pytest.mark.parametrize("field", ["venue", "reason", "bid"])
def test_a_lone_surrogate_is_not_written(codec: Codec, field: str) -> None:
    """It is not valid Unicode; the error names the field."""
    made = Quote(venue="v", symbol="S", ts_event=1, ts_recv=2, line="v/0")
    with pytest.raises(CodecError, match=f"Quote does not fit its schema: {field} is "):
        codec.encode(msgspec.structs.replace(made, **{field: "\ud800"}))
    assert codec.decode(codec.encode(made)) == made, "a refused record leaves no partial output"


@BOTH
@pytest.mark.parametrize("depth", [2**31, -(2**31) - 1])
def test_an_integer_that_does_not_fit_is_refused(codec: Codec, depth: int) -> None:
    """Avro's int has 32 bits, and readers in other languages rely on it."""
    made = Book(venue="v", symbol="S", ts_event=1, ts_recv=2, line="v/0", valid=True, depth=0,
                bid_prices=[], bid_sizes=[], ask_prices=[], ask_sizes=[])  # fmt: skip
    with pytest.raises(CodecError, match=r"depth is -?214748364[89], not an integer of 32 bits"):
        codec.encode(msgspec.structs.replace(made, depth=depth))
    data = codec.encode(msgspec.structs.replace(made, depth=77))
    broken = data.replace(zigzag(77) + bytes(5), zigzag(depth) + bytes(5))
    assert broken != data
    with pytest.raises(CodecError, match=r"depth is .*32 bits"):
        codec.decode(broken)


@BOTH
def test_a_record_with_another_id_is_not_decoded_as_ours(codec: Codec) -> None:
    """Ids are compared completely, also with one in the same cache slot."""
    data = codec.encode(TRADES)
    assert codec.decode(data) == TRADES
    for schema_id in (IDS["Trades"] + 64, IDS["Trades"] + 2**16, 2**32 - 1, 0):
        with pytest.raises(UnknownSchema):
            codec.decode(struct.pack(">BI", 0, schema_id) + data[5:])


def test_a_decoded_event_is_like_a_constructed_one() -> None:
    """Of its class, equal, with the same hash, and not tracked by the garbage collector."""
    made = FAST.decode(PLAIN.encode(TRADES))
    assert type(made) is Trades
    assert hash(made) == hash(TRADES)
    assert msgspec.structs.replace(made, line="w") == msgspec.structs.replace(TRADES, line="w")
    assert not gc.is_tracked(made)
    with pytest.raises(AttributeError):
        made.line = "x"  # type: ignore[misc]


def test_large_payloads_pass() -> None:
    """A frame of several megabytes, and small records before and after it."""
    large = DeadLetter(venue="v", symbol="S", ts_recv=1, stage="feed", reason="r", payload=bytes(8_000_000))
    for made in (TRADES, large, TRADES):
        assert FAST.decode(FAST.encode(made)) == made


def test_no_memory_is_lost_on_damaged_records() -> None:
    """Objects created before the damage are released."""
    data = FAST.encode(TRADES)
    cuts = [data[:size] for size in range(5, len(data))]

    def refuse_all() -> int:
        for cut in cuts:
            assert isinstance(outcome(FAST, cut), str)
        return sys.getallocatedblocks()

    before = [refuse_all() for _ in range(3)][-1]
    after = [refuse_all() for _ in range(10)][-1]
    assert after - before < len(cuts), "less than one block for each refused record in ten rounds"
