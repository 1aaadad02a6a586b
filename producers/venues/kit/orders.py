"""The messages that we sent to subscribe, by the number under which the venue answers each."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

KEPT_MAX = 10_000  # a venue that never answers must not cost memory


class Order(NamedTuple):
    """One message: `verb` is subscribe or unsubscribe, `names` are the venue's names of the products."""

    verb: str
    channel: str
    names: tuple[str, ...]


class Orders:
    """The unanswered messages of one connection. Numbers count on over connections, so that none is used twice."""

    __slots__ = ("_last", "_sent")

    def __init__(self) -> None:
        self._last = 0
        self._sent: dict[int, Order] = {}

    def begin(self) -> None:
        """Forget what was sent: the connection is new, or gone."""
        self._sent.clear()

    def number(self, verb: str, channel: str, names: Collection[str]) -> int:
        """Return the number of a message that is sent now."""
        self._last += 1
        self._sent[self._last] = Order(verb, channel, tuple(names))
        if len(self._sent) > KEPT_MAX:
            del self._sent[next(iter(self._sent))]
        return self._last

    def answered(self, number: object) -> Order | None:
        """Return the message with a number that a venue's answer has; None where it is none of ours."""
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 20:
            number = int(number)
        return self._sent.pop(number, None) if type(number) is int else None

    def oldest(self) -> Order | None:
        """Return the oldest unanswered message, for an answer without a number: venues answer in order."""
        return self._sent.pop(next(iter(self._sent))) if self._sent else None
