"""FIX messages as bytes: what is written is read again, and what is broken is never read as something else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.errors import BadEvent
from marketdata.fix.codec import DATA, SOH, Fields, Garbled, decode, encode, framed, utc, utc_ns
from marketdata.fix.split import FRAME_BYTES_MAX, FixSplitter

QUICK = settings(max_examples=25, deadline=None)
LATIN = st.characters(max_codepoint=255)
TAGS = st.integers(1, 9999).filter(lambda tag: tag not in {8, 9, 10, 35, *DATA, *DATA.values()})
PLAIN = st.tuples(TAGS, st.text(LATIN.filter(lambda char: char != SOH), min_size=1, max_size=12))
RAW = st.tuples(st.sampled_from(sorted(DATA.values())), st.text(LATIN, min_size=1, max_size=12))
FIELDS = st.lists(PLAIN | RAW, max_size=12)


def whole(fields: Fields) -> Fields:
    """Return the fields as they are read: with the length before each data field."""
    lengths = {data: length for length, data in DATA.items()}
    read: Fields = [(35, "W")]
    for tag, value in fields:
        read += [(lengths[tag], str(len(value)))] if tag in lengths else []
        read.append((tag, value))
    return read


def test_a_message_is_written_as_the_standard_says() -> None:
    """A published example, with the length and the checksum that it was published with, is read and written."""
    text = (
        "8=FIX.4.2|9=178|35=8|49=PHLX|56=PERS|52=20071123-05:30:00.000|11=ATOMNOCCC9990900|20=3|150=E|39=E|55=MSFT|"
        "167=CS|54=1|38=15|40=2|44=15|58=PHLX EQUITY TESTING|59=0|47=C|32=0|31=0|151=15|14=0|6=0|10=128|"
    )
    frame = text.replace("|", SOH).encode()
    message = decode(frame)
    assert (message.kind, message.get(58), message.number(151), len(message.fields)) == (
        "8", "PHLX EQUITY TESTING", 15, 22)  # fmt: skip
    assert encode("FIX.4.2", message.fields) == frame


@QUICK
@given(fields=FIELDS)
def test_what_is_written_is_read_again(fields: Fields) -> None:
    """Any values, also data that holds delimiters, equals signs, and things that look like fields."""
    message = decode(encode("FIXT.1.1", [(35, "W"), *fields]))
    assert (message.begin, message.kind, message.fields) == ("FIXT.1.1", "W", whole(fields))


@QUICK
@given(fields=FIELDS, data=st.data())
def test_a_byte_that_changed_is_noticed(fields: Fields, data: st.DataObject) -> None:
    """One byte that is another never gives a message."""
    frame = bytearray(encode("FIX.4.4", [(35, "W"), *fields]))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != frame[place]))
    with pytest.raises(Garbled):
        decode(bytes(frame))


@QUICK
@given(frame=st.binary(max_size=60))
def test_any_bytes_are_garbled_and_nothing_worse(frame: bytes) -> None:
    """Bytes from elsewhere raise nothing but Garbled."""
    with pytest.raises(Garbled):
        decode(frame)


@pytest.mark.parametrize("length", ["x", "3", "9" * 5_000])
def test_a_data_field_that_is_not_as_long_as_it_says_is_garbled(length: str) -> None:
    """However many digits its length has."""
    frame = framed("FIX.4.4", f"35=B{SOH}95={length}{SOH}96=ab{SOH}".encode())
    with pytest.raises(Garbled, match="bad_data_field"):
        decode(frame)


@QUICK
@given(messages=st.lists(FIELDS, min_size=1, max_size=3), junk=st.binary(max_size=30), size=st.integers(1, 60))
def test_messages_are_found_in_any_pieces_and_after_junk(messages: list[Fields], junk: bytes, size: int) -> None:
    """However TCP cuts the bytes the messages come out whole; junk before them comes out as junk, no byte is lost."""
    frames = [encode("FIX.4.4", [(35, "X"), *fields]) for fields in messages]
    junk = junk.replace(b"8=FIX", b"").rstrip(b"8=FIX")
    stream = junk + b"".join(frames)
    splitter, found, place = FixSplitter(), [], 0
    while place < len(stream):
        found += splitter.split(stream[place : place + size])
        place += size
    assert found[-len(frames) :] == frames
    assert b"".join(found) == stream


@pytest.mark.parametrize(
    "broken",
    [
        b"8=FIX.4.4\x019=2\x0135=0\x0134=1\x0110=000\x01",
        b"8=FIX.4.4\x019=900\x0135=0\x0134=1\x0110=000\x01",
        b"8=FIX.4.4\x019=999999999\x0135=0\x0134=1\x0110=000\x01",
        b"8=FIX.4.4\x01nonsense",
        b"8=FIX.4.4\x019=",
    ],
)
def test_a_broken_message_does_not_swallow_the_next_ones_for_good(broken: bytes) -> None:
    """Whatever length it claims, what follows is found as soon as the claim can be seen to be wrong."""
    frame = encode("FIX.4.4", [(35, "0"), (34, "2"), (58, "x" * 300)])
    splitter = FixSplitter()
    found = splitter.split(broken + 4 * frame)
    assert found[-2:] == [frame, frame]
    assert b"".join(found) == broken + 4 * frame


def test_a_message_without_an_end_is_given_up() -> None:
    """What is kept has a limit."""
    splitter = FixSplitter()
    found = splitter.split(b"8=FIX.4.4\x019=999999999\x0135=0\x01" + b"x" * (FRAME_BYTES_MAX + 1))
    assert len(found) == 1


def test_values_that_would_break_a_message_are_refused() -> None:
    """A delimiter in a value would begin a field of its own."""
    for value in ("", f"BTC{SOH}10=000", "BTC\u20ac"):
        with pytest.raises(BadEvent):
            encode("FIX.4.4", [(35, "V"), (55, value)])


def test_groups_are_what_their_count_says() -> None:
    """Entries by their first tag, up to what comes after the group; a count that lies is refused."""
    fields: Fields = [(35, "W"), (55, "BTC-USD"), (268, "2"), (269, "0"), (270, "1.50"), (269, "1"), (270, "2"),
                      (813, "7")]  # fmt: skip
    message = decode(encode("FIX.4.4", fields))
    assert message.entries(268, {269}, {813}) == [{269: "0", 270: "1.50"}, {269: "1", 270: "2"}]
    assert message.before(268) == {35: "W", 55: "BTC-USD"}
    assert message.entries(146, {55}, ()) == []
    for wrong in ((268, "3"), (268, "1"), (268, "x")):
        with pytest.raises(BadEvent):
            decode(encode("FIX.4.4", [*fields[:2], wrong, *fields[3:]])).entries(268, {269}, {813})
    with pytest.raises(BadEvent):
        message.entries(268, {279}, {813})


@QUICK
@given(ts=st.integers(0, 4_000_000_000_000).map(lambda ms: ms * 1_000_000))
def test_times_are_read_as_written(ts: int) -> None:
    """Milliseconds survive; finer fractions are read too."""
    assert utc_ns(utc(ts), "52") == ts
    assert utc_ns(utc(ts) + "456789", "52") == ts + 456_789


def test_times_that_are_none_are_refused() -> None:
    """A leap second is the next minute's first; other impossible times are no times."""
    assert utc_ns("20161231-23:59:60", "52") == utc_ns("20170101-00:00:00", "52")
    for text in ("", "20261332-00:00:00", "20260809-24:00:00", "20260809-00:00:61", "2026-08-09T00:00:00Z"):
        with pytest.raises(BadEvent):
            utc_ns(text, "52")
