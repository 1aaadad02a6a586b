"""Which trades were sent before, in bounded memory."""

from __future__ import annotations

from marketdata.events import Trade
from producers.venues.kit.trade_ids import RECENT_MAX, SKIPPED_MAX, Recent, TradeIds


def trade(number: int) -> tuple[int, Trade]:
    """Return a trade of this number."""
    return number, Trade(trade_id=str(number), ts_event=number, price="1", size="1", side="buy")


def test_many_holes_become_one_and_none_is_forgotten() -> None:
    """A venue that skips every other number costs no memory; a trade of an old gap is still new."""
    ids = TradeIds()
    for number in range(0, 4 * SKIPPED_MAX, 2):
        assert ids.unsent([trade(number)])
        assert len(ids.skipped) <= SKIPPED_MAX
    assert ids.skipped[0][0] == 1
    assert ids.skipped[-1] == (4 * SKIPPED_MAX - 3, 4 * SKIPPED_MAX - 3)
    assert ids.unsent([trade(1)])
    assert not ids.unsent([trade(1)])


def test_numbers_that_are_known_from_elsewhere_cost_no_memory_either() -> None:
    """A heartbeat names the last trade each second, whether any trade comes or not."""
    ids = TradeIds()
    ids.unsent([trade(1)])
    for number in range(3, 4 * SKIPPED_MAX):
        ids.skip_to(number)
    assert len(ids.skipped) == SKIPPED_MAX
    assert (ids.skipped[0][0], ids.skipped[-1]) == (2, (4 * SKIPPED_MAX - 1, 4 * SKIPPED_MAX - 1))
    for number in range(3, 3 * SKIPPED_MAX, 2):
        assert ids.unsent([trade(number)])  # each makes two gaps of one
        assert len(ids.skipped) <= SKIPPED_MAX


def test_ids_without_an_order_are_remembered_up_to_a_limit() -> None:
    """The oldest are forgotten first, and are new again then."""
    recent = Recent()
    assert all(recent.is_new(number) for number in range(RECENT_MAX + 1))
    assert not recent.is_new(RECENT_MAX)
    assert not recent.is_new(1)
    assert recent.is_new(0)


def test_ids_from_before_the_line_are_known_apart() -> None:
    """What was forgotten, never seen, or seen since, is not from before."""
    recent = Recent()
    recent.is_new("old")
    recent.mark()
    recent.is_new("new")
    assert [recent.was_before(name) for name in ("old", "new", "other")] == [True, False, False]
    for number in range(RECENT_MAX):
        recent.is_new(number)
    assert not recent.was_before("old")
