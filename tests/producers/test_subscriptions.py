"""A channel counts as subscribed only once its venue says so or sends its data, whatever else is alive meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Trades
from marketdata.feed import Fetch, Output, Send
from producers.venues.kit.subscriptions import DUE_NS, RETRY_NS, RETRY_NS_MAX, Subscriptions
from producers.venues.okx.feed import OkxFeed

T0 = 1_790_000_000_000_000_000
MS = T0 // 1_000_000
SECOND = 1_000_000_000
NAMES = st.sampled_from(["A", "B", "C"])
CHANNELS = st.sampled_from(["book", "trades"])


# --- The state machine ---


@pytest.fixture
def both() -> Subscriptions:
    """A book and trades of one product that were just requested."""
    subscriptions = Subscriptions(starts_with_data=("book",))
    subscriptions.request("book", "A", T0)
    subscriptions.request("trades", "A", T0)
    return subscriptions


def test_nothing_is_live_before_an_answer(both: Subscriptions) -> None:
    """A request proves nothing; an acknowledgement does, of its own channel alone."""
    assert not both.is_live("trades", "A")
    assert not both.acknowledge("trades", "A", T0)
    assert both.is_live("trades", "A")
    assert not both.is_live("book", "A")
    assert not both.is_live("trades", "B")


def test_data_proves_a_subscription_without_an_answer(both: Subscriptions) -> None:
    """A mark that has changed since the request is data; so nothing is overdue."""
    assert both.is_live("trades", "A", mark=1)
    assert not both.flow("trades", "A", 1)
    assert both.state("trades", "A") == "flowing"
    assert [one.channel for one in both.take_overdue(T0 + DUE_NS)] == ["book"]


def test_answer_that_does_not_come_is_a_refusal(both: Subscriptions) -> None:
    """Without a word for ten seconds a channel is refused; a book that is acknowledged owes its snapshot too."""
    both.acknowledge("book", "A", T0 + SECOND)
    assert both.take_overdue(T0 + DUE_NS - 1) == []
    assert both.take_overdue(T0 + DUE_NS) == [("trades", "A", "unacknowledged")]
    assert both.take_overdue(T0 + SECOND + DUE_NS) == [("book", "A", "no_data")]
    assert both.take_overdue(T0 + 2 * DUE_NS) == []
    assert not both.is_live("book", "A")


def test_refused_channel_is_requested_again_at_growing_pauses(both: Subscriptions) -> None:
    """After ten seconds, twenty, up to a quarter of an hour; an acknowledgement ends the refusal."""
    assert both.refuse("trades", "A", T0)
    assert not both.refuse("trades", "B", T0 + 1) or both.state("trades", "B") == "refused"
    both.drop("trades", "B")
    times: list[int] = []
    ts = T0
    while len(times) < 9:
        ts += SECOND
        if ("trades", "A", "refused") in both.take_retries(ts):
            both.request("trades", "A", ts)
            times.append(ts)
    pauses = [b - a for a, b in zip([T0, *times], times, strict=False)]
    assert pauses[:2] == [RETRY_NS, 2 * RETRY_NS]
    assert max(pauses) == RETRY_NS_MAX
    assert both.acknowledge("trades", "A", ts)
    assert both.is_live("trades", "A")


def test_venue_that_confirms_nothing_owes_only_the_data_that_comes_at_once() -> None:
    """There a channel without a first message is neither live nor refused until its data comes."""
    subscriptions = Subscriptions(starts_with_data=("book",), acknowledges=False)
    for channel in ("book", "trades"):
        subscriptions.request(channel, "A", T0)
    assert subscriptions.take_overdue(T0 + 100 * DUE_NS) == [("book", "A", "no_data")]
    assert subscriptions.state("trades", "A") == "requested"
    assert not subscriptions.is_live("trades", "A")


class Machine(RuleBasedStateMachine):
    """Any order of requests, answers, data and time."""

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions = Subscriptions(starts_with_data=("book",))
        self.ts = T0
        self.marks: dict[tuple[str, str], int] = {}
        self.proven: set[tuple[str, str]] = set()

    def mark(self, channel: str, name: str) -> int:
        """Return what changes with the data."""
        return self.marks.get((channel, name), 0)

    @rule(channel=CHANNELS, name=NAMES)
    def request(self, channel: str, name: str) -> None:
        """Subscribe."""
        self.proven.discard((channel, name))
        self.subscriptions.request(channel, name, self.ts, self.mark(channel, name))

    @rule(channel=CHANNELS, name=NAMES)
    def acknowledge(self, channel: str, name: str) -> None:
        """The venue confirms."""
        self.proven.add((channel, name))
        self.subscriptions.acknowledge(channel, name, self.ts, self.mark(channel, name))

    @rule(channel=CHANNELS, name=NAMES)
    def refuse(self, channel: str, name: str) -> None:
        """The venue refuses."""
        self.proven.discard((channel, name))
        self.subscriptions.refuse(channel, name, self.ts, self.mark(channel, name))

    @rule(channel=CHANNELS, name=NAMES)
    def data(self, channel: str, name: str) -> None:
        """Data comes."""
        self.marks[channel, name] = self.mark(channel, name) + 1
        self.proven.add((channel, name))

    @rule(seconds=st.integers(1, 100))
    def pass_time(self, seconds: int) -> None:
        """Time passes, as in a feed."""
        self.ts += seconds * SECOND
        for channel, name in self.subscriptions.open():
            self.subscriptions.flow(channel, name, self.mark(channel, name))
        for refusal in self.subscriptions.take_overdue(self.ts):
            self.proven.discard((refusal.channel, refusal.name))
        for channel, name, _ in self.subscriptions.take_retries(self.ts):
            assert self.subscriptions.state(channel, name) == "refused"
            self.subscriptions.request(channel, name, self.ts, self.mark(channel, name))

    @rule()
    def reconnect(self) -> None:
        """The connection is new."""
        self.subscriptions.begin()
        self.proven.clear()

    @invariant()
    def nothing_is_live_that_is_not_proven(self) -> None:
        """Live needs an acknowledgement or data since the last request; a refusal takes it away."""
        for channel, name, state in self.subscriptions:
            live = self.subscriptions.is_live(channel, name, self.mark(channel, name))
            assert not live or (channel, name) in self.proven
            assert not (live and state == "refused")


TestMachine = Machine.TestCase


@given(st.lists(st.tuples(CHANNELS, NAMES), min_size=1, max_size=12))
def test_every_request_is_answered_or_refused_in_the_end(requests: list[tuple[str, str]]) -> None:
    """No entry waits for ever: with nothing from the venue each is refused once its time has passed."""
    subscriptions = Subscriptions(starts_with_data=("book",))
    for at, (channel, name) in enumerate(requests):
        subscriptions.request(channel, name, T0 + at)
    refused = subscriptions.take_overdue(T0 + len(requests) + DUE_NS)
    assert {(one.channel, one.name) for one in refused} == set(requests)


# --- In a feed ---


def frame(**values: Any) -> bytes:
    """Return a frame of OKX."""
    return json.dumps(values).encode()


def answer(event: str, channel: str) -> bytes:
    """Return OKX's acknowledgement of a subscription."""
    return frame(event=event, arg={"channel": channel, "instId": "BTC-USDT"}, connId="a")


REFUSAL = frame(event="error", code="60018", connId="a",
                msg="Wrong URL or channel:trades,instId:BTC-USDT doesn't exist. Use the correct URL.")  # fmt: skip
SNAPSHOT = frame(arg={"channel": "books", "instId": "BTC-USDT"}, action="snapshot", data=[
    {"asks": [["11", "1", "0", "1"]], "bids": [["9", "1", "0", "1"]], "ts": str(MS), "seqId": 10, "prevSeqId": -1},
])  # fmt: skip
TRADE = frame(arg={"channel": "trades", "instId": "BTC-USDT"}, data=[
    {"instId": "BTC-USDT", "tradeId": "7", "px": "10", "sz": "1", "side": "buy", "ts": str(MS), "count": "1"},
])  # fmt: skip


@pytest.fixture
def feed() -> OkxFeed:
    """A feed of one product that has subscribed."""
    feed = OkxFeed(line="okx/0", products=("BTC-USDT",))
    feed.opened(T0)
    return feed


def statuses(out: list[Output]) -> list[tuple[str, str, str | None]]:
    """Return kind, reason and channel of what happened to the feed."""
    return [(o.kind, o.reason, o.channel) for o in out if isinstance(o, FeedStatus)]


def test_refused_channel_is_on_the_ledger_and_invalid(feed: OkxFeed) -> None:
    """Its trades are stated to be invalid, with the venue's own words; the book of the same product is as it was."""
    feed.received(SNAPSHOT, T0)
    out = feed.received(REFUSAL, T0)
    assert statuses(out) == [("unsubscribed", "refused", "trades"), ("gap", "unsubscribed", "trades")]
    assert [(o.valid, o.reason, o.trades) for o in out if isinstance(o, Trades)] == [(False, "gap", ())]
    assert not [o for o in out if isinstance(o, BookUpdate)]
    assert next(o.detail for o in out if isinstance(o, FeedStatus)).startswith("60018")
    assert len([o for o in out if isinstance(o, DeadLetter)]) == 1


def test_refused_channel_is_requested_again_and_recovers(feed: OkxFeed) -> None:
    """Ten seconds later; the acknowledgement is stated, and REST is asked for the trades meanwhile."""
    feed.received(SNAPSHOT, T0)
    feed.received(TRADE, T0)
    feed.received(REFUSAL, T0)
    sent = []
    for second in range(1, 12):
        feed.received(b"pong", T0 + second * SECOND)
        sent += [json.loads(o.frame) for o in feed.ticked(T0 + second * SECOND) if isinstance(o, Send)]
    assert {"op": "subscribe", "args": [{"channel": "trades", "instId": "BTC-USDT"}]} in sent
    out = feed.received(answer("subscribe", "trades"), T0 + 12 * SECOND)
    assert statuses(out) == [("subscribed", "", "trades")]
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["trades"]


def test_subscription_without_an_answer_is_stated(feed: OkxFeed) -> None:
    """Ten seconds after the request, though the connection is alive, and once."""
    feed.received(SNAPSHOT, T0)
    out = []
    for second in range(1, 40):
        out += feed.received(b"pong", T0 + second * SECOND)
        out += feed.ticked(T0 + second * SECOND)
    assert ("unsubscribed", "unacknowledged", "trades") in statuses(out)
    assert ("unsubscribed", "unacknowledged", "tickers") in statuses(out)
    assert [kind for kind, _, channel in statuses(out) if channel == "trades"] == ["unsubscribed", "gap"]
    assert not [o for o in out if isinstance(o, BookUpdate) and not o.valid]


def test_trades_prove_their_subscription(feed: OkxFeed) -> None:
    """No answer, but data: nothing is lost."""
    feed.received(SNAPSHOT, T0)
    feed.received(TRADE, T0)
    out = [o for second in range(1, 20) for o in feed.ticked(T0 + second * SECOND)]
    assert [one for one in statuses(out) if one[2] == "trades"] == []


def test_book_that_never_comes_is_stated(feed: OkxFeed) -> None:
    """It is acknowledged and no snapshot follows: `no_data`."""
    for channel in ("books", "trades", "tickers"):
        feed.received(answer("subscribe", channel), T0)
    out = []
    for second in range(1, 15):
        out += feed.received(b"pong", T0 + second * SECOND)
        out += feed.ticked(T0 + second * SECOND)
    assert [one for one in statuses(out) if one[0] == "unsubscribed"] == [("unsubscribed", "no_data", "books")]


def test_refusal_of_a_product_that_was_not_requested_costs_nothing(feed: OkxFeed) -> None:
    """It is a dead letter, and no more."""
    out = feed.received(REFUSAL.replace(b"BTC-USDT", b"ETH-USDT"), T0)
    assert [type(o) for o in out] == [DeadLetter]
