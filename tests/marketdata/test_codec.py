"""Every event survives the wire format, and anything else is refused."""

from __future__ import annotations

import copy
from io import BytesIO
from typing import Any, get_origin

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import schemas
from marketdata.codec import ITEMS, Codec, as_record
from marketdata.errors import CodecError, UnknownSchema
from marketdata.events import EVENTS, AnyEvent, Book, Candle, Checkpoint, FeedStatus, RawFrame, Trade, Trades

IDS = {cls.schema: number for number, cls in enumerate(EVENTS, start=101)}

# Kafka and JSON hold Unicode text; a lone surrogate is not.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200),
    "string": TEXT,
    "bytes": st.binary(max_size=50),
}
CLASSES: dict[str, type[Any]] = {cls.schema: cls for cls in EVENTS} | ITEMS


def values(schema: Any, hint: Any = None) -> st.SearchStrategy[Any]:
    """Return every value that an Avro schema allows; `hint` is the type of the field that has it."""
    kind = schema["type"] if isinstance(schema, dict) else "union" if isinstance(schema, list) else schema
    if kind == "union":
        return st.one_of([values(branch) for branch in schema])
    if kind == "record":
        cls = CLASSES[schema["name"]]
        hints = {field.name: field.type for field in msgspec.structs.fields(cls)}
        return st.builds(cls, **{one["name"]: values(one["type"], hints[one["name"]]) for one in schema["fields"]})
    if kind == "array":
        items = st.lists(values(schema["items"]), max_size=5)
        return items.map(tuple) if get_origin(hint) is tuple else items
    if kind == "map":
        return st.dictionaries(TEXT, values(schema["values"]), max_size=5)
    return st.sampled_from(schema["symbols"]) if kind == "enum" else PRIMITIVES[kind]


EVENT = st.one_of([values(schemas.load(cls.schema)) for cls in EVENTS])


@given(event=EVENT)
def test_every_event_comes_back_as_it_was(event: AnyEvent) -> None:
    """Encoding and decoding is the identity, for every event class and any field values."""
    codec = Codec(IDS)
    data = codec.encode(event)
    assert data[0] == 0
    assert int.from_bytes(data[1:5], "big") == IDS[event.schema]
    assert codec.decode(data) == event


@given(event=EVENT)
def test_what_we_write_is_avro_that_others_read(event: AnyEvent) -> None:
    """Any Avro reader with the schema reads the same values."""
    codec = Codec(IDS)
    schema = fastavro.parse_schema(copy.deepcopy(schemas.load(event.schema)))
    record = fastavro.schemaless_reader(BytesIO(codec.encode(event)[5:]), schema, None)
    assert record == as_record(event)


def test_every_event_class_has_a_schema_with_the_same_fields() -> None:
    """A field in only one of them would be lost silently."""
    pairs: list[tuple[type[Any], dict[str, Any]]] = [(cls, schemas.load(cls.schema)) for cls in EVENTS]
    inner = [("Trades", "trades"), ("Derivative", "liquidations")]
    for name, field in inner:
        (items,) = [one["type"]["items"] for one in schemas.load(name)["fields"] if one["name"] == field]
        pairs.append((ITEMS[items["name"]], items))
    assert len(inner) == len(ITEMS)
    for cls, schema in pairs:
        assert {field["name"] for field in schema["fields"]} == set(cls.__struct_fields__)


@given(event=EVENT, schema_id=st.integers(1_000, 2**32 - 1))
def test_an_unknown_schema_id_is_learned_once_and_then_read(event: AnyEvent, schema_id: int) -> None:
    """The error contains the id; once its schema is learned, the record is read."""
    data = Codec({event.schema: schema_id}).encode(event)
    reader = Codec(IDS)
    with pytest.raises(UnknownSchema) as raised:
        reader.decode(data)
    assert raised.value.args[1] == schema_id
    reader.learn(schema_id, schemas.load(event.schema))
    assert reader.decode(data) == event


def test_a_newer_schema_with_another_field_is_read_without_it() -> None:
    """A newer producer may write an additional field with a default."""
    newer = copy.deepcopy(schemas.load("FeedStatus"))
    newer["fields"].append({"name": "added_later", "type": "string", "default": ""})
    event = FeedStatus(venue="v", symbol="S", ts_event=1, ts_recv=2, line="v/0", kind="gap")
    writer = fastavro.parse_schema(newer)
    out = BytesIO()
    out.write(b"\x00" + (7_777).to_bytes(4, "big"))
    fastavro.schemaless_writer(out, writer, as_record(event) | {"added_later": "x"})
    reader = Codec(IDS)
    reader.learn(7_777, newer)
    assert reader.decode(out.getvalue()) == event


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x00", b"{}", b"\x01\x00\x00\x00\x65abc"])
def test_bytes_without_the_wire_format_are_refused(data: bytes) -> None:
    """Too short, or not starting with the zero byte."""
    with pytest.raises(CodecError, match="wire format"):
        Codec(IDS).decode(data)


@given(event=EVENT, data=st.data())
def test_a_cut_or_corrupted_record_is_refused_or_an_event_but_never_a_crash(
    event: AnyEvent, data: st.DataObject
) -> None:
    """Whatever bytes follow the prefix, decoding gives an event or a CodecError."""
    codec = Codec(IDS)
    good = codec.encode(event)
    body = bytearray(good[5:])
    if body:
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    bad = good[:5] + bytes(body)[: data.draw(st.integers(0, len(body)))]
    try:
        decoded = codec.decode(bad)
    except CodecError:
        return
    assert isinstance(decoded, EVENTS)


def test_an_event_that_does_not_fit_its_schema_is_refused() -> None:
    """A field of the wrong type is our bug and must not reach Kafka."""
    wrong: Any = Trades(venue="v", symbol="S", ts_event="noon", ts_recv=1, line="v/0")  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="Trades does not fit its schema: ts_event is 'noon', not an integer"):
        Codec(IDS).encode(wrong)


TRADES = Trades(venue="v", symbol="S", ts_event=1, ts_recv=1, line="v/0", trades=(
    Trade(trade_id="1", ts_event=1, price="1", size="1", side="buy"),
))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"side": "bid"}, r"trades\[0\].side is 'bid', not buy or sell or unknown"),
        ({"action": "busted"}, r"trades\[0\].action is 'busted', not new or correct or cancel"),
        ({"price": "\ud800"}, r"trades\[0\].price is '.ud800', not of type string"),
        ({"ts_event": 2**63}, r"trades\[0\].ts_event is 9223372036854775808, not an integer of 64 bits"),
        (
            {"excluded_from": ("price",)},
            r"trades\[0\].excluded_from\[0\] is 'price', not volume or high_low or open_close",
        ),
        ({"conditions": ("@", 4)}, r"trades\[0\].conditions\[1\] is 4, not of type string"),
        ({"size": None}, r"trades\[0\].size is None, not of type string"),
    ],
)
def test_a_value_outside_its_type_is_refused_by_field(changes: dict[str, Any], problem: str) -> None:
    """The error states the field and item, its value, and what the schema allows."""
    wrong = msgspec.structs.replace(TRADES, trades=(msgspec.structs.replace(TRADES.trades[0], **changes),))
    with pytest.raises(CodecError, match=problem):
        Codec(IDS).encode(wrong)


def test_an_event_without_a_registered_schema_is_refused_with_advice() -> None:
    """The error names the command that registers schemas."""
    with pytest.raises(CodecError, match="schemas register"):
        Codec({}).encode(Trades(venue="v", symbol="S", ts_event=1, ts_recv=1, line="v/0"))


def test_a_foreign_schema_is_not_learned() -> None:
    """An id of another record is refused with its name."""
    with pytest.raises(CodecError, match="Payment"):
        Codec(IDS).learn(9, {"type": "record", "name": "Payment", "fields": []})


def test_keys_name_what_compaction_keeps() -> None:
    """A key is venue and symbol; candles add interval and start, checkpoints their chain."""
    common: dict[str, Any] = {"venue": "v", "symbol": "S", "ts_event": 1, "ts_recv": 2}
    sides: dict[str, Any] = {"bid_prices": [], "bid_sizes": [], "ask_prices": [], "ask_sizes": []}
    book = Book(**common, **sides, line="v/0", valid=True, depth=50)
    candle = Candle(**common, interval="1m", start=60, end=120)
    state = Checkpoint(
        venue="v", symbol="S", chain="md.ingest.trades", partition=0, offset=1, topic_id="", ts_recv=1, states={}
    )
    raw = RawFrame(venue="v", line="v/0", number=1, ts_recv=1, kind="recv", data=b"")
    keys = [event.key for event in (Trades(**common, line="v/0"), book, candle, state, raw)]
    assert keys == ["v:S", "v:S", "v:S|1m|60", "md.ingest.trades|v:S", "v/0"]
