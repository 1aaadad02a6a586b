"""What is kept of a stream for clients that resume."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.core.positions import Position, epoch_of, position, read_position
from api.gateway.frames import Frame
from api.gateway.kept_frames import FRAMES_MAX, Budget, Kept, KeptFrames, Place

_PLACES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), unique=True, max_size=60).map(sorted)


def kept(place: Place, number: int = 0, size: int = 10) -> Kept:
    """Return a frame with this place."""
    return Kept(place, number, 0, Frame.of(b"x" * size))


@given(places=_PLACES, bytes_max=st.integers(0, 12_000), asked=st.tuples(st.integers(-1, 51), st.integers(0, 3)))
def test_since_gives_all_frames_after_a_place_or_nothing(places: list[Place], bytes_max: int, asked: Place) -> None:
    """Never a part of them, whatever was dropped; and what is kept stays within the budget."""
    budget = Budget(bytes_max)
    frames = KeptFrames(budget, "e", (-1, 0))
    for place in places:
        frames.add(kept(place))
        assert budget.used <= bytes_max
    found = frames.since(asked)
    after = [place for place in places if place > asked]
    assert found is None or [one.place for one in found] == after
    if sum(len(kept(place).frame.plain) + 200 for place in places) <= bytes_max and asked >= (-1, 0):
        assert found is not None


def test_streams_share_a_budget_and_give_it_back() -> None:
    """A stream that ends leaves room; the number of frames of one has a limit too."""
    budget = Budget(1 << 30)
    one, other = KeptFrames(budget, "e", (-1, 0)), KeptFrames(budget, "e", (-1, 0))
    for number in range(FRAMES_MAX + 1):
        one.add(kept((number, 0), number))
    other.add(kept((0, 0)))
    assert one.since((-1, 0)) is None
    assert len(one.since((0, 0)) or ()) == FRAMES_MAX
    one.clear()
    other.clear()
    assert budget.used == 0


def test_a_position_is_read_as_it_was_written() -> None:
    """Of a record, and of a later item of it; nothing else is a position."""
    epoch = epoch_of("dcThlkbOSROZ/Y5uHPagWw", 3)
    assert epoch != epoch_of("dcThlkbOSROZ/Y5uHPagWw", 2)
    assert read_position(position(epoch, 7)) == Position(epoch, 7)
    assert read_position(position(epoch, 7, 2)) == Position(epoch, 7, 2)
    for text in ("", "7", f"{epoch}:", f"{epoch}:-1", f"{epoch}:1.", "xyz:1", f"{epoch}:1\n"):
        assert read_position(text) is None
