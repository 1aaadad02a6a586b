"""Derivatives: each value and each liquidation passes once, whichever line sent it; losses are on the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from marketdata.events import AnyEvent, DeadLetter, Derivative, FeedStatus, Liquidation
from marketdata.operator import Lost
from stream_apps.operators.ingest_derivatives import IngestDerivatives

Run = Callable[..., list[list[AnyEvent]]]
TOPIC = "md.ingest.derivatives"


def derivative(make: Any, seconds: float, line: int = 0, **fields: Any) -> Derivative:
    """Return an event of a line."""
    ts = make.ts(seconds)
    common: dict[str, Any] = {"venue": "coinbase", "symbol": "BTC-USD", "ts_event": ts, "ts_recv": ts}
    return Derivative(**common, line=f"coinbase/{line}", **fields)


def liquidation(make: Any, seconds: float, price: str = "100", identity: str | None = None) -> Liquidation:
    """Return a liquidation."""
    return Liquidation(ts_event=make.ts(seconds), side="sell", price=price, size="2", liquidation_id=identity)


def passed(published: list[list[AnyEvent]]) -> list[Derivative]:
    """Return the derivatives that were published."""
    return [event for out in published for event in out if isinstance(event, Derivative)]


def test_two_lines_make_one_stream(run: Run, make: Any) -> None:
    """The second arrival of an event passes nothing."""
    first = derivative(make, 1, mark_price="10", liquidations=(liquidation(make, 1),))
    again = msgspec.structs.replace(first, line="coinbase/1")
    later = derivative(make, 2, 1, mark_price="11")
    published = run(IngestDerivatives, [first, again, later, msgspec.structs.replace(later, line="coinbase/0")])
    assert passed(published) == [first, later]


def test_channels_need_not_be_in_order_of_time(run: Run, make: Any) -> None:
    """Open interest with an older time than the last mark price passes; an older mark price of a slow line does not."""
    events = [
        derivative(make, 10, mark_price="10"),
        derivative(make, 5, open_interest="7"),
        derivative(make, 4, 1, open_interest="6", mark_price="9", index_price="8"),
    ]
    found = passed(run(IngestDerivatives, events))
    assert [(one.mark_price, one.open_interest, one.index_price) for one in found] == [
        ("10", None, None), (None, "7", None), (None, None, "8")
    ]  # fmt: skip


def test_liquidations_without_ids_pass_once_and_equal_ones_of_one_message_all_pass(run: Run, make: Any) -> None:
    """A slower line sends them in a message of its own."""
    same = liquidation(make, 1)
    both = derivative(make, 1, liquidations=(same, same))
    single = derivative(make, 2, 1, liquidations=(same, liquidation(make, 2, identity="7")))
    repeated = derivative(make, 3, liquidations=(liquidation(make, 3, "999", identity="7"),))
    assert [one.liquidations for one in passed(run(IngestDerivatives, [both, single, repeated]))] == [
        (same, same), (liquidation(make, 2, identity="7"),)
    ]  # fmt: skip


def test_a_bad_field_and_a_bad_liquidation_cost_only_themselves(run: Run, make: Any) -> None:
    """Each is a dead letter that names its field and value."""
    event = derivative(
        make, 1, mark_price="NaN", index_price="5", open_interest="-1",
        liquidations=(liquidation(make, 1), liquidation(make, 1, "0")),
    )  # fmt: skip
    (out,) = run(IngestDerivatives, [event])
    good, *letters = out
    assert isinstance(good, Derivative)
    assert (good.mark_price, good.index_price, good.open_interest) == (None, "5", None)
    assert good.liquidations == (liquidation(make, 1),)
    assert [(one.reason, one.field, one.value) for one in letters if isinstance(one, DeadLetter)] == [
        ("not_a_decimal", "mark_price", "NaN"), ("negative", "open_interest", "-1"), ("not_positive", "price", "0")
    ]  # fmt: skip


def test_a_loss_is_invalid_until_the_next_event_which_closes_the_gap(run: Run, make: Any) -> None:
    """Even if the next event repeats the last."""
    event = derivative(make, 1, mark_price="10")
    lost = Lost(topic=TOPIC, partition=2, offset=41, count=1, ts=make.ts(2), reason="undecodable")
    published = run(IngestDerivatives, [event, lost, event])
    assert [(one.valid, one.reason, one.mark_price) for one in passed(published)] == [
        (True, "", "10"), (False, "gap", None), (True, "", "10")
    ]  # fmt: skip
    entries = [one for out in published for one in out if isinstance(one, FeedStatus)]
    assert [(one.kind, one.channel, one.gap_id) for one in entries] == [
        ("gap", "derivatives", f"{TOPIC}|2|41|coinbase:BTC-USD"),
        ("resynced", "derivatives", f"{TOPIC}|2|41|coinbase:BTC-USD"),
    ]


@given(data=st.data())
def test_a_restart_at_any_point_changes_nothing(run: Run, make: Any, data: st.DataObject) -> None:
    """With any events of two lines."""
    numbers = st.none() | st.sampled_from(["1", "2", "bad"])
    events = [
        derivative(
            make, data.draw(st.integers(0, 9)), data.draw(st.integers(0, 1)), mark_price=data.draw(numbers),
            funding_rate=data.draw(numbers),
            liquidations=tuple(liquidation(make, at) for at in data.draw(st.lists(st.integers(0, 3), max_size=3))),
        )
        for _ in range(data.draw(st.integers(1, 12)))
    ]  # fmt: skip
    restarts = data.draw(st.sets(st.integers(0, len(events) - 1), max_size=3))
    assert run(IngestDerivatives, events, restarts) == run(IngestDerivatives, events)
