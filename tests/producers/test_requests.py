"""One budget of REST requests for all symbols of a line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketdata.clock import MINUTE_NS
from marketdata.feed import Fetch
from producers.venues.kit.requests import ANSWER_NS, TRIES_MAX, Requests

SECOND = 1_000_000_000


def snapshot(symbol: str, weight: int = 50) -> Fetch:
    """Return a request for one symbol's snapshot."""
    return Fetch(f"depth?symbol={symbol}", "snapshot", symbol, weight)


def test_requests_go_out_in_order_a_few_at_once() -> None:
    """An answer makes room for the next in the queue."""
    requests = Requests(under_way_max=2, weight_per_minute=None)
    for symbol in "ABCA":
        requests.ask(snapshot(symbol))
    assert [request.symbol for request in requests.due(0)] == ["A", "B"]
    assert requests.due(1) == []
    requests.came(snapshot("B"))
    assert [request.symbol for request in requests.due(2)] == ["C"]
    assert not requests.waiting


def test_same_request_is_not_made_twice_while_it_is_under_way() -> None:
    """Every change of a book without a snapshot asks for one."""
    requests = Requests(under_way_max=None, weight_per_minute=None)
    requests.ask(snapshot("A"))
    assert len(requests.due(0)) == 1
    requests.ask(snapshot("A"))
    assert ("snapshot", "A") in requests
    assert requests.due(1) == []
    requests.came(snapshot("A"))
    requests.ask(snapshot("A"))
    assert len(requests.due(2)) == 1


@given(asks=st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(1, 300)), max_size=60))
def test_no_minute_weighs_more_than_the_budget(asks: list[tuple[int, int]]) -> None:
    """Whatever is asked for and when, within any 60 s at most 300 is spent, and in the end everything was made."""
    requests = Requests(under_way_max=None, weight_per_minute=300)
    ts, made = 0, []
    for number, (wait, weight) in enumerate(asks):
        ts += wait
        requests.ask(snapshot(str(number), weight))
        for request in requests.due(ts):
            made.append((ts, request.weight))
            requests.came(request)
    while requests.waiting:
        ts += MINUTE_NS
        for request in requests.due(ts):
            made.append((ts, request.weight))
            requests.came(request)
    assert len(made) == len(asks)
    for at, _ in made:
        assert sum(weight for when, weight in made if at <= when < at + MINUTE_NS) <= 300


def test_what_was_spent_is_free_again_after_a_minute() -> None:
    """And not sooner."""
    requests = Requests(under_way_max=None, weight_per_minute=100)
    for symbol in "ABC":
        requests.ask(snapshot(symbol))
    for request in requests.due(0):
        requests.came(request)
    assert [request.symbol for request in requests.due(MINUTE_NS - 1)] == []
    assert [request.symbol for request in requests.due(MINUTE_NS)] == ["C"]


def test_answer_that_was_of_no_use_is_asked_for_again_ever_more_rarely() -> None:
    """Every change of a book asks too, meanwhile; other symbols go on, and a while later all starts again."""
    requests = Requests(under_way_max=2, weight_per_minute=None)
    requests.ask(snapshot("A"))
    assert requests.due(0)
    ts, pauses = 0, []
    for _ in range(8):
        requests.came(snapshot("A"))
        requests.again(snapshot("A"), ts)
        requests.ask(snapshot("A"))
        requests.ask(snapshot("B"))
        assert [request.symbol for request in requests.due(ts)] == ["B"]
        requests.came(snapshot("B"))
        pauses.append(next(second for second in range(60) if requests.due(ts + second * SECOND)))
        ts += pauses[-1] * SECOND
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    requests.came(snapshot("A"))
    requests.again(snapshot("A"), ts + MINUTE_NS)
    assert requests.due(ts + MINUTE_NS + SECOND)
    played = Requests(under_way_max=None, weight_per_minute=None)
    played.again(snapshot("A"), ts)
    assert played.due(ts)  # a recording answers


def test_request_without_an_answer_is_made_again_and_then_dropped() -> None:
    """Each time it waits twice as long, and what is behind it in the queue goes first."""
    requests = Requests(under_way_max=1, weight_per_minute=None)
    requests.ask(snapshot("NONE"))
    ts, made = 0, []
    for tries in range(TRIES_MAX):
        made += requests.due(ts)
        assert requests.due(ts + (ANSWER_NS << tries) - 1) == []
        ts += ANSWER_NS << tries
    assert len(made) == TRIES_MAX
    requests.ask(snapshot("A"))
    assert [request.symbol for request in requests.due(ts)] == ["A"]
    requests.forget()
    assert ("snapshot", "A") not in requests
