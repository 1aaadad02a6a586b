"""One client's connection to a simulated venue, pure: what it sends, and what the venue answers or refuses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec

from infra.simulator.limits import Limits
from infra.simulator.venues.streams.market import Market, Step, coins

R = TypeVar("R")
Subscription = tuple[str, str]
"""A channel and a symbol, by the venue's own names."""


class Ended(Exception):  # noqa: N818 - it is no error of ours
    """The venue closes the connection; `code` is that of the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Frame(NamedTuple):
    """What the venue sends; `channel` and `symbol` are empty where it belongs to none."""

    channel: str
    symbol: str
    payload: bytes


class Session(ABC):
    """The venue's side of one connection; `markets` has the symbols that the venue lists, by its own names.

    `path` is that of the address, with its query. `is_refused` takes a channel and a symbol, and returns whether a
    fault refuses that subscription.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(
        self,
        markets: Mapping[str, Market],
        path: str,
        is_refused: Callable[[str, str], bool] = lambda _channel, _symbol: False,
    ) -> None:
        self.markets = markets
        self.path, _, self.query = path.partition("?")
        self._is_refused = is_refused
        self.subscribed: dict[Subscription, None] = {}
        self.refused: list[str] = []

    def opened(self, ts: int) -> list[bytes]:  # noqa: ARG002 - most venues greet nobody
        """Return what the venue sends to a new client."""
        return []

    @abstractmethod
    def received(self, message: bytes, ts: int) -> list[bytes]:
        """Answer one message of the client. Raises Ended."""

    def stepped(self, steps: Mapping[str, Step], ts: int) -> list[Frame]:
        """Return the frames of what changed, for what is subscribed."""
        frames = [
            Frame(channel, name, payload)
            for channel, name in self.subscribed
            if name in steps
            for payload in self.changed(channel, name, steps[name], ts)
        ]
        return frames + [Frame("", "", payload) for payload in self.beats(ts)]

    @abstractmethod
    def changed(self, channel: str, name: str, step: Step, ts: int) -> list[bytes]:
        """Return the frames of what changed in one channel of one symbol."""

    def beats(self, ts: int) -> list[bytes]:  # noqa: ARG002 - most venues send none
        """Return the heartbeats that come with every change of the markets."""
        return []

    @classmethod
    def answer(cls, markets: Mapping[str, Market], path: str, query: Mapping[str, str]) -> Any:  # noqa: ARG003 - a venue without REST knows no path
        """Return what the venue's REST interface answers, or None for an unknown path."""
        return None

    @classmethod
    def names(cls, count: int) -> list[str]:
        """Return this many symbols, by the venue's own names."""
        return [cls.name_of(coin) for coin in coins(count)]

    @classmethod
    @abstractmethod
    def name_of(cls, coin: str) -> str:
        """Return the venue's name of what a coin is traded as, for dollars."""

    def lists(self, channel: str, name: str) -> bool:
        """Return whether a channel of a symbol can be subscribed to."""
        return name in self.markets and not self._is_refused(channel, name)

    def is_full(self, wanted: Iterable[Subscription]) -> bool:
        """Return whether the connection may not have these subscriptions as well."""
        new = {one for one in wanted if one not in self.subscribed}
        return self.limits.streams is not None and len(self.subscribed) + len(new) > self.limits.streams

    def refuse(self, reason: str) -> None:
        """Record a refusal, for the server's metrics and for tests."""
        self.refused.append(reason)


def read(message: bytes, kind: type[R]) -> R:
    """Return a client's request. Raises Ended for what is none."""
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Ended(1008, "not a request") from None


def write(value: Any) -> bytes:
    """Return a frame."""
    return msgspec.json.encode(value)
