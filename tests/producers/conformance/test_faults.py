"""Frames that are lost, doubled, swapped or spoilt never leave a wrong book valid."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from marketdata.events import DeadLetter, FeedStatus
from marketdata.feed import Reconnect
from tests.producers.conformance.cases import EACH, EACH_ORDERED, QUICK, SECOND, Case, frames_of, recorded
from tests.producers.conformance.player import Player, disturbed


@EACH
@QUICK
@given(data=st.data())
def test_lost_connection_leaves_no_book_valid(case: Case, data: st.DataObject) -> None:
    """Wherever the recording is cut, each book is cleared and each symbol on the ledger; then it begins again."""
    lines = recorded(case)
    cut = data.draw(st.integers(1, len(lines)))
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines[:cut]:
        player.play(line)
    ts = lines[cut - 1].ts_recv + SECOND
    held = {symbol for symbol, valid in player.valid.items() if valid}
    out = player.take(player.feed.closed("reset", ts), ts)
    assert not any(player.valid.values())
    assert any(isinstance(o, FeedStatus) and o.kind == "disconnected" for o in out)
    assert held <= {o.symbol for o in out if isinstance(o, FeedStatus) and o.kind == "gap"}
    player.open(ts + SECOND)
    for line in islice(lines, cut, None):
        player.play(line)


@EACH_ORDERED
@QUICK
@given(data=st.data())
def test_lost_frames_never_leave_a_wrong_book(case: Case, data: st.DataObject) -> None:
    """One to three frames in a row never arrive."""
    frames = frames_of(case)
    first = data.draw(st.integers(0, len(frames) - 1))
    lost = set(frames[first : first + data.draw(st.integers(1, 3))])
    disturbed(case, [place for place in range(len(recorded(case))) if place not in lost])


@EACH_ORDERED
@QUICK
@given(data=st.data())
def test_doubled_frame_never_leaves_a_wrong_book(case: Case, data: st.DataObject) -> None:
    """A frame comes again at once, or a few frames later."""
    frames = frames_of(case)
    place = data.draw(st.sampled_from(frames))
    again = min(place + data.draw(st.integers(0, 3)), frames[-1])
    order = list(range(len(recorded(case))))
    disturbed(case, [*order[: again + 1], place, *order[again + 1 :]])


@EACH_ORDERED
@QUICK
@given(data=st.data())
def test_swapped_frames_never_leave_a_wrong_book(case: Case, data: st.DataObject) -> None:
    """Two neighbouring frames arrive in the wrong order."""
    frames = frames_of(case)
    at = data.draw(st.integers(0, len(frames) - 2))
    order = list(range(len(recorded(case))))
    order[frames[at]], order[frames[at + 1]] = order[frames[at + 1]], order[frames[at]]
    disturbed(case, order)


@EACH
@QUICK
@given(data=st.data(), junk=st.binary(max_size=20))
def test_spoilt_frame_is_a_dead_letter_and_never_leaves_a_wrong_book(
    case: Case, data: st.DataObject, junk: bytes
) -> None:
    """The end of a frame is missing, and other bytes may stand there."""
    place = data.draw(st.sampled_from(frames_of(case)))
    frame = recorded(case)[place].frame
    broken = frame[: -data.draw(st.integers(1, min(400, len(frame))))] + junk
    player = disturbed(case, list(range(len(recorded(case)))), {place: broken})
    assert broken in [o.payload for o in player.out if isinstance(o, DeadLetter)]


@EACH
def test_silence_clears_the_books_and_reconnects(case: Case) -> None:
    """No frame for an hour means a dead connection, once."""
    lines = recorded(case)
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines:
        player.play(line)
    ts = lines[-1].ts_recv + 3600 * SECOND
    out = player.take(player.feed.ticked(ts), ts)
    assert any(isinstance(output, Reconnect) for output in out)
    assert not any(player.valid.values())
    assert not any(isinstance(output, Reconnect) for output in player.feed.ticked(ts + SECOND))
