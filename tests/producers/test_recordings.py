"""Recordings on disk come back as they were written, and a broken one says where."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import CodecError
from runtime import recordings
from runtime.recordings import Recorded

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


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    """The error tells the file and the line."""
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"t":"recv","ts_recv":1,"conn":null,"data":""}\n{"t":1}\n'))
    with pytest.raises(CodecError, match="line 2"):
        list(recordings.read(path))


def test_a_file_that_is_not_zstd_is_refused(tmp_path: Path) -> None:
    """A plain text file is no recording."""
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b'{"t":"recv","ts_recv":1,"conn":null,"data":""}\n')
    with pytest.raises(CodecError, match="zstd"):
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


def test_a_log_without_a_told_time_is_taken_as_utc_and_its_broken_line_is_named(tmp_path: Path) -> None:
    """What is no logged frame is not skipped."""
    path = tmp_path / "a.in.zst"
    path.write_bytes(zstandard.compress(b'2016-03-12 05:08:37,352 {"n": 1}\n2016-03-12 05:08:38 {"n": 2}\n'))
    lines = recordings.read(path)
    assert next(lines).ts_recv == 1_457_759_317_352_000_000
    with pytest.raises(CodecError, match="line 2"):
        next(lines)


def test_a_nameless_answer_is_for_who_asks_about_one_symbol() -> None:
    """Where only the connection's name was kept, the symbol may be in the query or in the path."""
    assert recordings.answers("products/BTC-USD/book?level=3", "COINBASE.rest.1")
    assert recordings.answers("api/v3/depth?symbol=BTCUSDT", "BINANCE.rest.1")
    assert not recordings.answers("products", "COINBASE.rest.1")
    assert recordings.answers("products/BTC-USD/book?level=3", "https://example.org/products/BTC-USD/book?level=3")
    assert not recordings.answers("products/BTC-USD/book?level=3", "https://example.org/products/ETH-USD/book?level=3")
