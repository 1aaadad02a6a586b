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
