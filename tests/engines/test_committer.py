"""The committer: which batches share a transaction, and when a partition may recover."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.settings import load
from stream_apps.engines.committer import Committer
from stream_apps.engines.transactions import Failed, Member, Transactions
from stream_apps.pipeline import Batch
from stream_apps.settings import StreamSettings

MEMBER = Member("group", 1, "member", None)
PARTITIONS = 3


class Step:
    """A job that ends when the test says so."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        work.close()  # what Kafka would do is the test's choice
        self.outcome: Any = None
        self._calls: list[Callable[[Any], object]] = []

    def done(self) -> bool:
        """Return whether the test has ended it."""
        return self.outcome is not None

    def result(self) -> Any:
        """Return or raise what the test chose."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def add_done_callback(self, call: Callable[[Any], object], /) -> None:
        """Call this when it has ended."""
        self._calls.append(call)

    def end(self, outcome: Any) -> None:
        """End it."""
        self.outcome = outcome
        for call in self._calls:
            call(self)


class Numbered:
    """Stands for a partition: its batches are numbers in order, and what became of each is kept."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.batch_at = 0.0
        self.failures = 0
        self.made = 0
        self.taken: list[int] = []
        self.committed: list[int] = []
        self.failed: list[int] = []

    def batch(self) -> Batch | None:
        """Return what was made since the last batch."""
        if self.made == sum(self.taken):
            return None
        self.batch_at = time.monotonic()
        self.taken.append(self.made - sum(self.taken))
        return Batch(outputs=[], offsets={}, inputs=self.taken[-1])

    def written(self, batch: Batch) -> None:
        """Keep what was committed."""
        self.committed.append(batch.inputs)
        self.failures = 0

    def fail(self, _error: Exception) -> None:
        """Keep that the last batch failed, and start from what is committed."""
        self.failed.append(self.taken.pop())
        self.failures += 1


class Fake(Transactions):
    """Opened transactions; nothing of them is used."""

    def __init__(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        """Close."""


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, PARTITIONS - 1)),
        st.just(("work", 0)),
        st.just(("succeed", 0)),
        st.just(("fail", 0)),
    ),
    max_size=80,
)


@given(actions=ACTIONS)
def test_every_batch_is_committed_or_failed_and_none_is_held_twice(actions: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order; a partition may recover only while no transaction holds it."""
    steps: list[Step] = []

    def start(work: Coroutine[Any, Any, Any]) -> Step:
        steps.append(Step(work))
        return steps[-1]

    def end(outcome: Any) -> None:
        for step in [each for each in steps if each.outcome is None][-1:]:
            step.end(outcome)

    partitions: list[Any] = [Numbered(number) for number in range(PARTITIONS)]
    committer = Committer(load(StreamSettings, commit_ms=0), start, lambda: None)
    for action, number in actions:
        if action == "make":
            partitions[number].made += 1
        elif action == "work":
            committer.work(partitions, MEMBER)
        else:
            end(Fake() if action == "succeed" else Failed("the connection broke"))
        for each in partitions:
            under_way = len(each.taken) - len(each.committed)
            assert under_way in {0, 1}
            assert not under_way or committer.holds(each.number)
    # In the end everything works, and one after the other those that had failed.
    for _ in range(2 * (len(steps) + PARTITIONS) + 4):
        end(Fake())
        committer.work(partitions, MEMBER)
    for each in partitions:
        assert each.committed == each.taken
        assert sum(each.committed) == each.made


def test_a_partition_that_cannot_be_written_does_not_take_others_with_it() -> None:
    """After the first failure it is alone in its transactions, and the others are committed between them."""
    steps: list[Step] = []

    def start(work: Coroutine[Any, Any, Any]) -> Step:
        steps.append(Step(work))
        return steps[-1]

    bad, *good = partitions = [Numbered(number) for number in range(PARTITIONS)]
    committer = Committer(load(StreamSettings, commit_ms=0), start, lambda: None)
    for _ in range(40):
        for each in partitions:
            each.made += 1
        committer.work(partitions, MEMBER)  # type: ignore[arg-type]  # as much of a partition as it needs
        for step in steps:
            if step.outcome is None:
                step.end(Failed("too large") if len(bad.taken) > len(bad.committed) else Fake())
    assert not bad.committed
    for each in good:
        assert len(each.failed) <= 1
        assert len(each.committed) > 5
