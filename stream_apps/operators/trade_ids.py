"""The ids of one symbol's trades that have passed: the memory of de-duplication, bounded by size and time.

Numeric ids are remembered as ranges, exactly and without expiry while they are consecutive. A venue that shares one
sequence between symbols leaves gaps, so there are at most `RANGES_MAX` ranges: beyond that the lowest is evicted, and
numbers below `floor` are older than the memory.

Other ids (UUIDs and venue-specific formats) are remembered as 16-byte keys: a UUID's own bytes, or a digest. Keys are
kept in two generations. When the young generation has `KEYS_MAX / 2` keys or is `KEYS_NS / 2` old in event time, it
becomes the old one, and the previous old one is evicted with all trades up to its newest time. So at least the last
2,048 trades or the last hour is remembered, and at most 4,096 trades.

Beyond these limits:

1. A live trade that is older than the memory, with an unknown id, may have passed. It is never published as new: it is
   counted and becomes a dead letter with reason `too_old`.
2. A trade from history or a repair that is older than the memory is new where no trade can have passed: before the
   first live trade, and within an interruption of the live stream (see `Coverage`). Elsewhere it is `too_old`. Trades
   that a job repeats are recognised by the last ids of history. A completed job states the span for which it is
   complete; from then on this span counts as passed too. The writer of history also skips trades that are stored.

In a checkpoint a symbol takes a few bytes if ids are consecutive numbers, and at most 64 KB each for ranges, keys, keys
of history, and amendments.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.events import Trade
from marketdata.keys import KEY_BYTES, KeySet

RANGES_MAX = 4_096
KEYS_MAX = 4_096
KEYS_NS = 2 * 3_600 * SECOND_NS
# Spans of time that have passed: the live stream between interruptions, and completed jobs of history.
SPANS_MAX = 256

_NO_KEY = bytes(KEY_BYTES)
_HEX = frozenset("0123456789abcdef")
# Longer numbers do not fit 64 bits.
_NUMBER_DIGITS_MAX = 18

Seen = Literal["new", "duplicate", "too_old", "id_reused"]


def as_number(identity: str) -> int:
    """Return a numeric id as an integer, -1 for any other id; "007" is not numeric, since it differs from "7"."""
    if (
        len(identity) <= _NUMBER_DIGITS_MAX
        and identity.isdigit()
        and identity.isascii()
        and (identity[0] != "0" or identity == "0")
    ):
        return int(identity)
    return -1


def key_of(identity: str) -> bytes:
    """Return the key of an id: the 16 bytes of a UUID in its usual notation, otherwise a 128-bit digest."""
    if len(identity) == 36 and identity[8] == identity[13] == identity[18] == identity[23] == "-":
        digits = identity.replace("-", "")
        if len(digits) == 32 and _HEX.issuperset(digits):
            key = bytes.fromhex(digits)
            if key != _NO_KEY:
                return key
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def amendment_key(trade: Trade) -> bytes:
    """Return the key by which a correction or a cancel is recognised; it differs from the key of any trade id."""
    parts = [trade.action, trade.trade_id]
    if trade.action != "cancel":  # a trade is cancelled once, but may be corrected repeatedly while keeping its id
        parts.append(trade.original_id)
        if not trade.original_id:
            parts += [str(trade.ts_event), trade.price, trade.size, trade.side]
    return key_of("\0".join(parts))


class NumberRanges:
    """A set of numbers below 2**63 as sorted ranges that do not touch, at most `RANGES_MAX`; packs into bytes."""

    __slots__ = ("ends", "floor", "starts")

    def __init__(self) -> None:
        self.starts = array("q")
        self.ends = array("q")
        self.floor = -1

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, n: int) -> Seen:
        """Remember a number and return whether it is new, a duplicate, or below the memory."""
        ends = self.ends
        if ends and n == ends[-1] + 1:  # nearly every trade
            ends[-1] = n
            return "new"
        if n < self.floor:
            return "too_old"
        starts = self.starts
        at = bisect_right(starts, n)
        if at and n <= ends[at - 1]:
            return "duplicate"
        touches_left = at > 0 and ends[at - 1] == n - 1
        touches_right = at < len(starts) and starts[at] == n + 1
        if touches_left and touches_right:
            ends[at - 1] = ends[at]
            del starts[at], ends[at]
        elif touches_left:
            ends[at - 1] = n
        elif touches_right:
            starts[at] = n
        else:
            starts.insert(at, n)
            ends.insert(at, n)
            if len(starts) > RANGES_MAX:
                self.floor = ends[0] + 1
                del starts[0], ends[0]
        return "new"

    def pack(self) -> list[Any]:
        """Return the floor, and starts and ends as little-endian integers of eight bytes."""
        return [self.floor, _little(self.starts).tobytes(), _little(self.ends).tobytes()]

    @classmethod
    def unpack(cls, packed: list[Any]) -> NumberRanges:
        """Return the ranges that `pack` encoded. Raises ValueError for anything else."""
        ranges = cls()
        ranges.floor, starts, ends = packed
        ranges.starts.frombytes(starts)
        ranges.ends.frombytes(ends)
        if len(ranges.starts) != len(ranges.ends):
            raise ValueError("ranges of ids have as many starts as ends")
        ranges.starts, ranges.ends = _little(ranges.starts), _little(ranges.ends)
        return ranges


def _little(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


class RecentKeys(msgspec.Struct):
    """The last keys in two generations, each with its newest trade time; `floor` is that of the evicted ones."""

    young: KeySet
    old: KeySet
    began: int = 0
    young_newest: int = 0
    old_newest: int = 0
    floor: int = 0

    def has(self, key: bytes) -> bool:
        """Return whether a key is remembered."""
        return (self.young.count > 0 and key in self.young) or (self.old.count > 0 and key in self.old)

    def add(self, key: bytes, ts: int, span_ns: int = 2**63) -> None:
        """Remember a new key of a trade at `ts`, for at most `span_ns` of event time."""
        if 2 * len(self.young) >= KEYS_MAX or ts - self.began > span_ns // 2:
            if len(self.old):
                self.floor = max(self.floor, self.old_newest)
            if len(self.young) or len(self.old):
                self.old, self.old_newest = self.young, self.young_newest
                self.young, self.young_newest = KeySet(), 0
            self.began = ts
        self.young.add(key)
        self.young_newest = max(self.young_newest, ts)


def no_keys() -> RecentKeys:
    """Return an empty memory of keys."""
    return RecentKeys(young=KeySet(), old=KeySet())


class SeenIds(msgspec.Struct):
    """The ids of one symbol's trades that have passed since the venue last reset its ids."""

    numbers: NumberRanges
    keys: RecentKeys
    history: RecentKeys

    def add(self, identity: str, ts: int) -> Seen:
        """Remember the id of a live trade at `ts`, and return whether it is new."""
        number = as_number(identity)
        if number >= 0:
            return self.numbers.add(number)
        key = key_of(identity)
        keys = self.keys
        if keys.has(key) or (self.history.young.count and self.history.has(key)):
            return "duplicate"
        if ts <= keys.floor or ts <= self.history.floor:
            return "too_old"
        keys.add(key, ts, KEYS_NS)
        return "new"

    def add_history(self, identity: str, ts: int, *, passed: bool) -> Seen:
        """Remember the id of a trade from history, and return whether it is new.

        `passed`: trades of its time have passed already, so it is new only if its id would still be remembered.
        """
        number = as_number(identity)
        if number >= 0:
            seen = self.numbers.add(number)
            if seen == "duplicate" or (seen == "new" and 2 * len(self.numbers) <= RANGES_MAX):
                return seen
            key = key_of(identity)
            if self.history.has(key):
                return "duplicate"
            if seen == "too_old" and passed:
                return "too_old"
        else:
            key = key_of(identity)
            if self.keys.has(key) or self.history.has(key):
                return "duplicate"
            if passed and ts <= self.keys.floor:
                return "too_old"
        self.history.add(key, ts)
        return "new"


def no_ids() -> SeenIds:
    """Return an empty memory of ids."""
    return SeenIds(numbers=NumberRanges(), keys=no_keys(), history=no_keys())


class Coverage(msgspec.Struct):
    """The times of trades that have passed, as spans [start, end] in UTC nanoseconds.

    The live span extends from `live_from` to the newest live trade. An interruption (a gap, lost records, a disconnect)
    ends it, and the next newer trade starts another one, so that a repair can fill the time between. Earlier spans are
    in `starts` and `ends`, sorted and disjoint. When there are too many, the two closest spans are merged: the time
    between them then counts as passed, so nothing is published twice for it.
    """

    live_from: int = 0
    newest: int = 0
    interrupted: bool = False
    starts: list[int] = []
    ends: list[int] = []

    def has(self, ts: int) -> bool:
        """Return whether trades of this time have passed."""
        if self.live_from and self.live_from <= ts <= self.newest:
            return True
        at = bisect_right(self.starts, ts)
        return at > 0 and ts <= self.ends[at - 1]

    def add_live(self, ts: int) -> None:
        """Record the time of a live trade."""
        if ts <= self.newest:
            if not self.has(ts):
                self.add(ts, ts)
            return
        if self.interrupted or not self.live_from:
            if self.live_from:
                self.add(self.live_from, self.newest)
            self.live_from = ts
            self.interrupted = False
        self.newest = ts

    def add(self, start: int, end: int) -> None:
        """Record that all trades of [start, end] have passed."""
        starts, ends = self.starts, self.ends
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        if first < last:
            start, end = min(start, starts[first]), max(end, ends[last - 1])
        starts[first:last], ends[first:last] = [start], [end]
        if len(starts) > SPANS_MAX:
            at = min(range(len(starts) - 1), key=lambda at: starts[at + 1] - ends[at])
            ends[at : at + 2] = [ends[at + 1]]
            del starts[at + 1]
