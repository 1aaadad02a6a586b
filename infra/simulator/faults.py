"""Injected faults: which frames to drop, repeat, swap, corrupt or delay; pure, called by the shell for every frame.

Every frame uses a sequence number, even if it is not sent, so that a client can detect the loss.

- `drop`: the frame is not sent. `duplicate`: it is sent twice. `reorder`: it is sent after the connection's next one.
- `corrupt`: it is corrupted, by the given variant or each in turn: `truncated` (half of the bytes), `type` (an object
  instead of a decimal), `number` (`NaN` instead of a decimal), `side` (an unknown side).
- `mute`: the socket stays open and nothing is sent for `seconds`.
- `refuse`: a subscription of the channel and symbol is refused in the venue's own way.
- `disconnect`: the connection is reset, without a close frame.
- `halt` and `resume`: a product stops and resumes trading.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import msgspec
import orjson

from marketdata.clock import SECOND_NS

Kind = Literal["drop", "duplicate", "reorder", "corrupt", "mute", "refuse", "disconnect", "halt", "resume"]
Variant = Literal["truncated", "type", "number", "side"]

# Faults that stay active until they are complete; the others are over at once.
LASTING: frozenset[Kind] = frozenset({"drop", "duplicate", "reorder", "corrupt", "mute", "refuse"})
VARIANTS: tuple[Variant, ...] = ("truncated", "type", "number", "side")
HITS_MAX = 10_000
KEPT_MAX = 200

_DECIMALS = ("new_quantity", "size", "price", "best_bid", "volume")


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault to inject. Empty `channel`, `symbol` and `connection` mean any.

    `count` frames or subscriptions are affected, each with `probability`; with a `count` of 0 it stays active until
    it is removed. `seconds` is the duration of a mute, and the time after which a halt ends (0: when resumed).
    """

    kind: Kind
    channel: str | None = None
    symbol: str | None = None
    connection: int | None = None
    count: int = 1
    seconds: float = 0.0
    probability: float = 1.0
    variant: Variant | None = None


class Hit(msgspec.Struct, frozen=True):
    """One affected frame or subscription, or for other kinds the connection and the last sequence sent on it."""

    connection: int
    sequence: int
    channel: str
    symbol: str
    ts: int


@dataclass
class Injection:
    """An active fault with the last 10,000 affected frames; `on_done` is called when it is complete."""

    id: int
    fault: Fault
    ts: int
    done: bool = False
    total: int = 0
    hits: deque[Hit] = field(default_factory=lambda: deque(maxlen=HITS_MAX))
    on_done: Callable[[], None] | None = None

    def hit(self, hit: Hit) -> None:
        """Record an affected frame; the fault ends after `count` of them."""
        self.hits.append(hit)
        self.total += 1
        if self.fault.kind != "mute" and self.fault.count and self.total >= self.fault.count:
            self.end()

    def end(self) -> None:
        """End the fault."""
        self.done = True
        if self.on_done is not None:
            self.on_done()


class Injector:
    """All active faults and the last completed ones."""

    def __init__(self, seed: int = 0) -> None:
        self.active: list[Injection] = []
        self.past: deque[Injection] = deque(maxlen=KEPT_MAX)
        self._ids = count(1)
        self._random = random.Random(seed)
        self._held: dict[int, bytes] = {}
        self._spoilt = 0

    def add(self, fault: Fault, ts: int) -> Injection:
        """Activate a fault; the caller performs `disconnect`, `halt` and `resume`, which complete at once."""
        injection = Injection(next(self._ids), fault, ts)
        if fault.kind in LASTING:
            self.active.append(injection)
        else:
            injection.end()
            self.past.append(injection)
        return injection

    def clear(self) -> int:
        """Remove all active faults and return their number."""
        ended = len(self.active)
        for injection in self.active:
            injection.end()
        self._tidy()
        return ended

    def frames(self, sent: Hit, frame: bytes) -> list[bytes]:
        """Return what to send in a frame's place, in order; `sent` describes the frame."""
        injection = self._matching(sent) if self.active else None
        out = [frame]
        if injection is not None:
            injection.hit(sent)
            self._tidy()
            match injection.fault.kind:
                case "duplicate":
                    out = [frame, frame]
                case "corrupt":
                    out = [self._spoil(frame, injection.fault.variant)]
                case "reorder":
                    self._held[sent.connection] = frame
                    return []
                case "drop":
                    return self._dropped(sent)
                case _:
                    return []
        if self._held and (held := self._held.pop(sent.connection, None)) is not None:
            out.append(held)
        return out

    def refuses(self, asked: Hit) -> bool:
        """Return whether a subscription is refused; `asked` describes it."""
        injection = self._matching(asked, refused=True) if self.active else None
        if injection is None:
            return False
        injection.hit(asked)
        self._tidy()
        return True

    def is_mute(self, connection: int, ts: int) -> bool:
        """Return whether nothing at all is sent on a connection now."""
        return any(
            one.fault.kind == "mute"
            and (one.fault.channel, one.fault.symbol) == (None, None)
            and one.fault.connection in {None, connection}
            and ts < one.ts + int(one.fault.seconds * SECOND_NS)
            for one in self.active
        )

    def forget(self, connection: int) -> None:
        """Discard frames held for a closed connection."""
        self._held.pop(connection, None)

    def _matching(self, sent: Hit, *, refused: bool = False) -> Injection | None:
        for injection in self.active:
            fault = injection.fault
            if fault.kind == "mute" and sent.ts >= injection.ts + int(fault.seconds * SECOND_NS):
                injection.end()
            elif (
                (fault.kind == "refuse") == refused
                and fault.channel in {None, sent.channel}
                and fault.symbol in {None, sent.symbol}
                and fault.connection in {None, sent.connection}
                and not (fault.kind == "reorder" and sent.connection in self._held)
                and (fault.probability >= 1 or self._random.random() < fault.probability)
            ):
                return injection
        self._tidy()
        return None

    def _tidy(self) -> None:
        if any(injection.done for injection in self.active):
            self.past.extend(injection for injection in self.active if injection.done)
            self.active = [injection for injection in self.active if not injection.done]

    def _dropped(self, sent: Hit) -> list[bytes]:  # noqa: ARG002 - a number is missing, as a rule
        """Return what the venue sends where it reports a loss."""
        return []

    def _spoil(self, frame: bytes, variant: Variant | None) -> bytes:
        if variant is None:
            variant = VARIANTS[self._spoilt % len(VARIANTS)]
            self._spoilt += 1
        return spoil(frame, variant)


def check(fault: Fault, symbols: Collection[str], connections: Collection[int]) -> None:
    """Raise ValueError when a fault names a symbol or a connection that does not exist, or a mute without an end."""
    if fault.symbol is not None and fault.symbol not in symbols:
        raise ValueError(f"{fault.symbol} is not listed here: {', '.join(list(symbols)[:20])} are")
    if fault.connection is not None and fault.connection not in connections:
        raise ValueError(f"connection {fault.connection} is not open: {sorted(connections)} are")
    if fault.kind == "mute" and fault.seconds <= 0:
        raise ValueError("a mute takes `seconds`")


def spoil(frame: bytes, variant: Variant) -> bytes:
    """Return a corrupted frame; half of the bytes if the variant does not apply to it."""
    message = orjson.loads(frame) if variant != "truncated" else None
    if variant == "type":
        done = _replace(message, _DECIMALS, {"unexpected": True})
    elif variant == "number":
        done = _replace(message, _DECIMALS, "NaN")
    elif variant == "side":
        done = _replace(message, ("side",), "sideways")
    else:
        done = False
    return orjson.dumps(message) if done else frame[: len(frame) // 2]


def _replace(value: object, names: tuple[str, ...], new: object) -> bool:
    """Replace the first field with one of the names, at any depth; return whether there was one."""
    if isinstance(value, dict):
        for name in names:
            if name in value:
                value[name] = new
                return True
        return any(_replace(inner, names, new) for inner in value.values())
    if isinstance(value, list):
        return any(_replace(inner, names, new) for inner in value)
    return False
