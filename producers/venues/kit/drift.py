"""Notices when a venue changes its messages: fields that appear or vanish, and the pace of regular messages.

Such a change rarely breaks anything at once. It is reported, with what was before, so that a person reads the venue's
announcements before a book is wrong.

1. At most two JSON frames a second of a connection are sampled. Frames are of one kind when they have the same texts
   in the fields that venues use to name a message (`type`, `event`, `channel` and so on).
2. A kind is learned from its first `LEARNED_MIN` samples over at least `LEARNED_NS`. A field is a path with its JSON
   type, so that a number that becomes a text, or a checksum that is always 0, is one field that vanishes and one that
   appears.
3. A field that every sample of the kind had, and that `RUN_MIN` samples in a row over at least `RUN_NS` do not have,
   has vanished. One that no sample had, and that so many have, has appeared. It is then what is known.
4. A kind whose samples came at even intervals of at least `SLOW_NS` changes its pace when `RUN_MIN` intervals in a row
   are less than half or more than twice as long.

Everything is bounded: kinds, fields of a kind, and the size of a frame that is looked at. A field that comes only
sometimes never counts, and neither does one that a new kind of message has.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from marketdata.clock import MILLISECOND_NS, SECOND_NS

SAMPLE_NS = 500 * MILLISECOND_NS
FRAME_BYTES_MAX = 32 * 1024
LEARNED_MIN = 60
LEARNED_NS = 60 * SECOND_NS
RUN_MIN = 20
RUN_NS = 10 * SECOND_NS
SLOW_NS = 9 * SECOND_NS // 10  # well above SAMPLE_NS, whose own rhythm must not count; a heartbeat each second does
EVEN = 0.3
KINDS_MAX = 200
FIELDS_MAX = 300
DEPTH_MAX = 6
ITEMS_MAX = 4
PATHS_MAX = 4_096

_NAMING = ("type", "event", "channel", "feed", "method", "op", "action", "e", "T", "kind", "result")
_NAME_LENGTH_MAX = 40

# The JSON type of a value, by its class and whether it is empty. A zero and an empty text are types of their own, so
# that a checksum that falls silent shows.
_TYPES: dict[tuple[type, bool], str] = {
    (bool, False): "boolean", (bool, True): "boolean",
    (int, False): "number", (int, True): "zero", (float, False): "number", (float, True): "zero",
    (str, False): "text", (str, True): "empty text", (type(None), True): "null",
    (list, False): "list", (list, True): "list", (dict, False): "object", (dict, True): "object",
}  # fmt: skip

Field = tuple[str, str]
"""A path such as `data[].price`, and the JSON type that it has."""


class Change(NamedTuple):
    """A change of a venue's messages: `reason` is `field_vanished`, `field_appeared` or `pace`."""

    reason: str
    kind: str
    detail: str


class _Run:
    """Samples in a row that are not as learned."""

    __slots__ = ("length", "since")

    def __init__(self, ts: int) -> None:
        self.length = 0
        self.since = ts

    def is_long(self, ts: int) -> bool:
        """Take one more; return whether the run is long enough."""
        self.length += 1
        return self.length >= RUN_MIN and ts - self.since >= RUN_NS


class _Pace:
    """The intervals between the samples of a kind."""

    __slots__ = ("_last", "_longest", "_run", "_shortest", "_sum", "_total", "mean")

    def __init__(self) -> None:
        self._last: int | None = None
        self._total = 0
        self._sum = 0
        self._shortest = self._longest = 0
        self._run: _Run | None = None
        self.mean: int | None = None  # of a kind that comes evenly and slowly

    def take(self, ts: int, *, learning: bool) -> int | None:
        """Take a sample's time; return the interval before when the pace has changed."""
        last, self._last = self._last, ts
        if last is None:
            return None
        span = ts - last
        if learning:
            self._total += 1
            self._sum += span
            self._shortest = span if self._total == 1 else min(self._shortest, span)
            self._longest = max(self._longest, span)
            return None
        mean = self.mean
        if mean is None:
            return None
        if mean < 2 * span and span < 2 * mean:
            self._run = None
            return None
        self._run = self._run or _Run(ts)
        if not self._run.is_long(ts):
            return None
        self._run, self.mean = None, span
        return mean

    def learned(self) -> None:
        """Keep the mean when the intervals were even, and long enough not to be those of sampling."""
        mean = self._sum // max(1, self._total)
        even = self._shortest >= mean * (1 - EVEN) and self._longest <= mean * (1 + EVEN)
        self.mean = mean if even and mean >= SLOW_NS else None


class _Kind:
    __slots__ = ("_always", "_runs", "_samples", "_seen", "_since", "known", "pace")

    def __init__(self, ts: int) -> None:
        self._since = ts
        self._samples = 0
        self._seen: dict[Field, int] = {}
        self._runs: dict[Field, _Run] = {}
        self.known: set[Field] | None = None  # None while the kind is learned
        self._always: set[Field] = set()  # those of the known fields that each sample had
        self.pace = _Pace()

    def take(self, fields: set[Field], ts: int) -> Iterator[tuple[str, Field]]:
        """Take a sample's fields; yield those that have changed."""
        known = self.known
        if known is None:
            self._learn(fields, ts)
            return
        new, gone = fields - known, self._always - fields
        for field in self._runs.keys() - new - gone:
            del self._runs[field]
        for field in sorted(new):
            if self._is_long(field, ts):
                known.add(field)
                self._always.add(field)
                yield "field_appeared", field
        for field in sorted(gone):
            if self._is_long(field, ts):
                self._always.remove(field)
                yield "field_vanished", field

    def _learn(self, fields: set[Field], ts: int) -> None:
        self._samples += 1
        for field in fields:
            if field in self._seen or len(self._seen) < FIELDS_MAX:
                self._seen[field] = self._seen.get(field, 0) + 1
        if self._samples >= LEARNED_MIN and ts - self._since >= LEARNED_NS:
            self.known = set(self._seen)
            self._always = {field for field, count in self._seen.items() if count == self._samples}
            self._seen = {}
            self.pace.learned()

    def _is_long(self, field: Field, ts: int) -> bool:
        run = self._runs.get(field)
        if run is None:
            if len(self._runs) >= FIELDS_MAX:
                return False
            run = self._runs[field] = _Run(ts)
        if not run.is_long(ts):
            return False
        del self._runs[field]
        return True


class Drift:
    """What is known of one connection's messages; `ts_due` is when the next frame is to be sampled."""

    __slots__ = ("_kinds", "ts_due")

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self.ts_due = 0

    def take(self, frame: bytes, ts: int) -> list[Change]:
        """Sample a frame received at `ts` (UTC nanoseconds); return what has changed."""
        self.ts_due = ts + SAMPLE_NS
        if len(frame) > FRAME_BYTES_MAX:
            return []
        try:
            value = msgspec.json.decode(frame)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return []
        name = _kind_of(value)
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= KINDS_MAX:
                return []
            kind = self._kinds[name] = _Kind(ts)
        learning = kind.known is None
        before = kind.pace.take(ts, learning=learning)
        changes = [Change(reason, name, _describe(*field)) for reason, field in kind.take(_fields(value), ts)]
        if before is not None:
            after = kind.pace.mean or 0
            detail = f"every {before / SECOND_NS:.1f} s before, {after / SECOND_NS:.1f} s now"
            changes.append(Change("pace", name, detail))
        return changes


def _describe(path: str, kind: str) -> str:
    return f"{path or '(the message)'}: {kind}"


def _kind_of(value: Any) -> str:
    """Return the texts that name a message."""
    if isinstance(value, list):
        names = [one for one in value[:3] if isinstance(one, str) and len(one) <= _NAME_LENGTH_MAX]
        nested = "+".join(sorted({_kind_of(one) for one in value[:ITEMS_MAX] if isinstance(one, dict)}))
        return "/".join(["[]", *names, nested] if nested else ["[]", *names])
    if not isinstance(value, dict):
        return type(value).__name__
    found = [f"{name}={value[name]}" for name in _NAMING
             if name in value and isinstance(value[name], str) and len(value[name]) <= _NAME_LENGTH_MAX]  # fmt: skip
    inner = value.get("data")
    if isinstance(inner, dict):
        found += [f"data.{name}={inner[name]}" for name in ("e", "type") if isinstance(inner.get(name), str)]
    return " ".join(found) or "(no name)"


def _fields(value: Any) -> set[Field]:
    """Return the paths of a value with their JSON types; a list's first items stand for all."""
    found: set[Field] = set()
    _collect(found, "", value, DEPTH_MAX)
    return found


def _collect(found: set[Field], path: str, value: Any, depth: int) -> None:
    """Add the fields of `value`; at depth 0 a container counts as a plain value."""
    kind = type(value)
    if depth and kind is dict:
        for name, inner in value.items():
            below, inner_kind = _below(path, name), type(inner)
            if inner_kind is dict or inner_kind is list:
                _collect(found, below, inner, depth - 1)
            else:
                found.add((below, _TYPES[inner_kind, not inner]))
    elif depth and kind is list:
        below = f"{path}[]"
        for inner in value[:ITEMS_MAX]:
            _collect(found, below, inner, depth - 1)
            if type(inner) is list:  # a level, or another row of a table: all are alike
                break
    else:
        found.add((path, _TYPES[kind, not value]))


@lru_cache(maxsize=PATHS_MAX)
def _below(path: str, name: str) -> str:
    """Return the path of a field; a name with a digit is data: a symbol, a price or a number."""
    shown = "*" if any(map(str.isdigit, name)) else name
    return f"{path}.{shown}" if path else shown
