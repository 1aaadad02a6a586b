"""Recordings are read back as written, and damage is reported with its position."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import CodecError
from marketdata.events import RawFrame
from runtime import recordings
from runtime.recordings import Recorded, RecordedBytes
from tickstream.reader import as_json

LINES = st.lists(
    st.builds(
        Recorded,
        t=st.sampled_from(["recv", "send", "http", "connect"]),
        ts_recv=st.integers(0, 2**62),
        conn=st.none() | st.text(max_size=20),
        data=st.text(max_size=200),
    ),
    max_size=20,
)


@given(lines=LINES)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, lines: list[Recorded]) -> None:
    """A recording holds any text, newlines among it, in order."""
    path = tmp_path_factory.mktemp("recording") / "a.jsonl.zst"
    assert recordings.write(path, lines) == len(lines)
    assert list(recordings.read(path)) == lines


def test_a_line_longer_than_the_read_buffer_is_one_line(tmp_path: Path) -> None:
    """A 5 MB frame crosses many reads."""
    line = Recorded("recv", 1, None, "x" * 5_000_000)
    recordings.write(tmp_path / "a.jsonl.zst", [line, line])
    assert list(recordings.read(tmp_path / "a.jsonl.zst")) == [line, line]


GOOD = b'{"t":"recv","ts_recv":1,"conn":null,"data":"one"}'
ONE = Recorded("recv", 1, None, "one")


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (b'{"t":"recv"}', "line 2: not a recorded frame: Object missing"),
        (GOOD[:20], "line 2: not a recorded frame: Input data was truncated"),
        (b'{"t":"recv","ts_recv":1,"conn":null,"data":"\xff"}', "line 2: not a recorded frame: 'utf-8'"),
        (b'{"t":"recv","ts_recv":-1,"conn":null,"data":""}', "line 2: not a recorded frame: bad_time: ts_recv = '-1'"),
        (b'{"t":"recv","ts_recv":1e30,"data":""}', "line 2: not a recorded frame: bad_time: ts_recv = '1e30'"),
        (b'{"t":"recv","ts_recv":1,"data":"a","encoding":"base64"}', "line 2: not a recorded frame: Invalid base64"),
        (b"\0" * 100, "line 2: not a recorded frame: JSON is malformed"),
    ],
)
def test_a_damaged_line_is_named_in_its_place_and_the_rest_is_read(tmp_path: Path, bad: bytes, what: str) -> None:
    """What may have been a frame is not passed over in silence."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([GOOD, bad, b"", GOOD]))
    lines = list(recordings.read(path))
    assert [lines[0], lines[2]] == [ONE, ONE]
    assert lines[1].t == recordings.DAMAGED
    assert lines[1].data.startswith(f"a.jsonl, {what}")


@pytest.mark.parametrize("limit", [1_000_000, 1_500_000])
def test_a_line_that_is_too_long_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """It is not held in memory, its beginning and end are not taken for a line, and the line after it is read."""
    monkeypatch.setattr(recordings, "LINE_BYTES_MAX", limit)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([GOOD, GOOD[:-2] + b"x" * 4_000_000 + b'"}', GOOD]))
    assert [line.t for line in recordings.read(path)] == ["recv", "damaged", "recv"]


LINES_PLAIN = [b'{"t":"recv","ts_recv":1,"conn":null,"data":"%d"}\n' % number for number in range(10_000)]
PLAIN, HALVES = b"".join(LINES_PLAIN), (b"".join(LINES_PLAIN[:5_000]), b"".join(LINES_PLAIN[5_000:]))


@pytest.mark.parametrize(
    "packed",
    [PLAIN, zstandard.compress(PLAIN), gzip.compress(PLAIN), b"".join(map(zstandard.compress, HALVES))],
    ids=["plain", "zstd", "gzip", "zstd of several frames"],
)
def test_a_file_may_be_packed_in_any_way_and_be_cut_off(tmp_path: Path, packed: bytes) -> None:
    """Every complete line before the truncation is read, and the truncation is reported once."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(packed)
    assert [line.data for line in recordings.read(path)] == [str(number) for number in range(len(LINES_PLAIN))]
    path.write_bytes(packed[:-7])
    *lines, last = recordings.read(path)
    assert len(lines) > 1_000
    assert [(line.t, line.data) for line in lines] == [("recv", str(number)) for number in range(len(lines))]
    assert last.t == recordings.DAMAGED


def test_what_follows_a_compressed_stream_and_is_none_is_told(tmp_path: Path) -> None:
    """All that came before is read."""
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(GOOD) + b"no frame of zstd")
    assert [(line.t, line.data[:30]) for line in recordings.read(path)] == [
        ("recv", "one"),
        ("damaged", "a.jsonl.zst, the compressed st"),
    ]


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        (b'\xef\xbb\xbf{"t":"recv","ts_recv":1,"conn":null,"data":"one"}\r\n\r\n', b"one"),
        (b'{"t":"recv","ts_recv":1,"data":"one","more":{"a":[1]}}', b"one"),
        (b'{"t":"recv","ts_recv":"1","conn":7,"data":"one"}', b"one"),
        (b'{"t":"recv","ts_recv":1e-9,"data":{"price": 1.10}}', b'{"price": 1.10}'),
        (b'{"t":"recv","ts_recv":"1970-01-01T00:00:00.000000001Z","data":"AAH/","encoding":"base64"}', b"\0\1\xff"),
    ],
)
def test_other_recorders_may_write_the_same_in_other_ways(tmp_path: Path, text: bytes, frame: bytes) -> None:
    """A mark at the beginning, other line ends, more keys, no connection, a fraction of seconds, a frame as JSON."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    assert [(line.t, line.ts_recv, line.frame) for line in recordings.read(path)] == [("recv", 1, frame)]


@pytest.mark.parametrize(
    "text",
    ["1786309548.026294", "1786309548026.294", "1786309548026294.0", "1786309548026294000", "1.786309548026294e9"],
)
def test_the_size_of_a_time_tells_its_unit(tmp_path: Path, text: str) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds are of different sizes since 1973."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"t":"recv","ts_recv":{text},"data":""}}\n{{"t":"recv","ts_recv":"{text}","data":""}}')
    assert [line.ts_recv for line in recordings.read(path)] == [1_786_309_548_026_294_000] * 2


def test_frames_that_are_no_text_are_written_and_read_again(tmp_path: Path) -> None:
    """The bytes are kept as base64."""
    line = RecordedBytes("recv", 1, "one", "", b"\0\xff")
    recordings.write(tmp_path / "a.jsonl.zst", [line])
    assert list(recordings.read(tmp_path / "a.jsonl.zst")) == [line]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n" + bytes(range(256)) * 50, b"no recording\n" * 1000, GOOD[:30]])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    """The error names the file and its first line."""
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(CodecError, match="is not a recording: line 1"):
        list(recordings.read(path))


def test_a_damaged_row_of_a_table_is_reported_in_its_place(tmp_path: Path) -> None:
    """The rows before and after it are read."""
    path = tmp_path / "a.csv"
    head = (
        "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,price,size,channel_id,order_id,flags,"
        "ts_in_delta,sequence,symbol"
    )
    row = "2025-01-01T00:00:00Z,2025-01-01T00:00:00Z,160,2,7,A,B,1.00,5,0,{},0,0,{},X"
    for damage in ("x", "1\r0", "1" * 200_000, "1,1"):
        path.write_text("\n".join([head, row.format(1, 1), row.format(damage, 2), row.format(3, 3)]) + "\n")
        lines = list(recordings.read(path))
        assert [line.t for line in lines] == ["recv", "damaged", "recv"]
        assert "row 3" in lines[1].data


def test_table_of_another_schema_is_refused_by_its_type(tmp_path: Path) -> None:
    """It is no damage: the error says which tables are read."""
    path = tmp_path / "a.csv"
    path.write_text("ts_event,rtype,publisher_id,instrument_id,open\n1790000000000000000,33,2,7,1\n")
    with pytest.raises(CodecError, match=r"row 2: rtype 33 is supported in DBN only; CSV may contain mbo, .* mbp-10"):
        list(recordings.read(path))


def test_logged_frames_are_read_with_their_log_in_utc(tmp_path: Path) -> None:
    """A log's clock has no zone: the first frame that tells its own time shows how far from UTC it runs."""
    path = tmp_path / "a.in.zst"
    frames = ['{"time": ""}', '{"time":"2016-03-12T05:08:36.803603Z"}', '{"n": 1}']
    times = ["2016-03-12 00:08:37,352", "2016-03-12 00:08:51,403", "2016-03-12 00:08:51,403"]
    path.write_bytes(zstandard.compress("\n".join(map(" ".join, zip(times, frames, strict=True))).encode()))
    lines = list(recordings.read(path))
    assert [line.data for line in lines] == frames
    assert {(line.t, line.conn) for line in lines} == {("recv", None)}
    assert [line.ts_recv for line in lines] == [
        1_457_759_317_352_000_000, 1_457_759_331_403_000_000, 1_457_759_331_403_000_000,
    ]  # fmt: skip


def test_a_log_without_times_in_frames_is_read_as_utc_and_its_damaged_line_is_named(tmp_path: Path) -> None:
    """A line that is not a logged frame is reported."""
    path = tmp_path / "a.in.zst"
    path.write_bytes(zstandard.compress(b'2016-03-12 05:08:37,352 {"n": 1}\n2016-03-12 05:08:38 {"n": 2}\n'))
    good, damaged = recordings.read(path)
    assert good.ts_recv == 1_457_759_317_352_000_000
    assert (damaged.t, damaged.data[:14]) == ("damaged", "a.in.zst, line")


STAMPED = (
    (b'1723161255030314 {"n": 1}', ("recv", 1_723_161_255_030_314_000, None, '{"n": 1}')),
    (b'1723161255030314667 {"n": 1}', ("recv", 1_723_161_255_030_314_667, None, '{"n": 1}')),
    (b"1605024028.86: [1, 2]", ("recv", 1_605_024_028_860_000_000, None, "[1, 2]")),
    (b"wss://example.org/ws <-> 1605024028.5", ("connect", 1_605_024_028_500_000_000, None, "")),
    (b'wss://example.org/ws <- 1605024028.5: {"op": 1}', ("send", 1_605_024_028_500_000_000, None, '{"op": 1}')),
    (b'https://example.org/depth?symbol=A -> 1605024028.5: {"a": 1} header: {"b": "2"}',
     ("http", 1_605_024_028_500_000_000, "https://example.org/depth?symbol=A", '{"a": 1}')),
)  # fmt: skip


@pytest.mark.parametrize(("text", "line"), STAMPED, ids=range(len(STAMPED)))
def test_frames_behind_their_time_are_read(tmp_path: Path, text: bytes, line: tuple[object, ...]) -> None:
    """As other recorders write them; what is none of these is told in its place."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"%b\nno frame\n%b\n" % (text, text)))
    first, damaged, last = recordings.read(path)
    assert [(one.t, one.ts_recv, one.conn, one.data) for one in (first, last)] == [line] * 2
    assert (damaged.t, damaged.data[:12]) == ("damaged", "a.gz, line 2")


def test_a_nameless_answer_is_for_who_asks_about_one_symbol() -> None:
    """Where only the connection's name was kept, the symbol may be in the query or in the path."""
    assert recordings.answers("products/BTC-USD/book?level=3", "COINBASE.rest.1")
    assert recordings.answers("api/v3/depth?symbol=BTCUSDT", "BINANCE.rest.1")
    assert not recordings.answers("products", "COINBASE.rest.1")
    assert recordings.answers("products/BTC-USD/book?level=3", "https://example.org/products/BTC-USD/book?level=3")
    assert not recordings.answers("products/BTC-USD/book?level=3", "https://example.org/products/ETH-USD/book?level=3")


def test_printed_raw_frames_are_a_recording(tmp_path: Path) -> None:
    """As `tickstream replay --topic md.raw` prints them: every kind, binary frames exactly, answers with their URL."""
    sent = [("connect", b"", "wss://v"), ("send", b"{}", None), ("recv", b'{"p": "1.0"}', None),
            ("recv", b"\xff\x00", None), ("http", b"[]", "https://v/depth?symbol=A")]  # fmt: skip
    frames = [RawFrame(venue="v", line="v/0", number=number, ts_recv=number + 1, kind=kind, data=data, url=url)
              for number, (kind, data, url) in enumerate(sent)]  # fmt: skip
    file = tmp_path / "raw.jsonl"
    file.write_bytes(b"".join(as_json(frame) + b"\n" for frame in frames) + b'{"ts_recv": 9, "data": "no kind"}\n')
    *read, damaged = recordings.read(file)
    assert [(line.t, line.ts_recv, line.frame) for line in read] == [(f.kind, f.ts_recv, f.data) for f in frames]
    assert [line.conn for line in read] == ["v/0"] * 4 + ["https://v/depth?symbol=A"]
    assert damaged.t == recordings.DAMAGED
