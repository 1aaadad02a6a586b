"""Which trades of one symbol have passed, by id: the memory of de-duplication."""

from __future__ import annotations

from bisect import bisect_right
from typing import Literal

import msgspec

from marketdata.events import Trade

# Ids are remembered as ranges; a venue that numbers all symbols together leaves holes, so there is a limit.
RANGES_MAX = 20_000
# Ids that are no numbers are remembered one by one.
OTHERS_MAX = 20_000
AMENDMENTS_MAX = 5_000
# Longer numbers do not fit the 64 bits of a checkpoint.
_NUMBER_DIGITS_MAX = 18

Seen = Literal["new", "duplicate", "too_old", "id_reused"]


class SeenIds(msgspec.Struct):
    """Ids that have passed: numbers as merged ranges, exactly and for ever; others the last `OTHERS_MAX`.

    When there are more than `RANGES_MAX` ranges, the lowest is given up, and numbers below `floor` can no longer be
    told to be new.
    """

    starts: list[int] = []
    ends: list[int] = []
    floor: int = -1
    others: dict[str, None] = {}
    amendments: dict[str, None] = {}

    def add(self, identity: str) -> Seen:
        """Remember an id and tell whether it is new."""
        # "007" is another id than "7".
        if (
            len(identity) <= _NUMBER_DIGITS_MAX
            and identity.isascii()
            and identity.isdigit()
            and (identity[0] != "0" or identity == "0")
        ):
            return self._add_number(int(identity))
        return self.add_other(identity)

    def _add_number(self, n: int) -> Seen:
        starts, ends = self.starts, self.ends
        if ends and n == ends[-1] + 1:  # what nearly every trade is
            ends[-1] = n
            return "new"
        if n < self.floor:
            return "too_old"
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

    def add_history(self, identity: str) -> Seen:
        """Remember the id of an old trade: it may lie below `floor`, where only the last ones can be told apart.

        Ids that leave holes are remembered one by one as well, before their ranges are given up.
        """
        told = self.add(identity)
        if told == "too_old" or (told == "new" and len(self.starts) > RANGES_MAX // 2):
            other = self.add_other(f"history|{identity}")
            return other if told == "too_old" else told
        return told

    def add_other(self, identity: str) -> Seen:
        """Remember an id that is no number, and tell whether it is new."""
        if identity in self.others:
            return "duplicate"
        self.others[identity] = None
        if len(self.others) > OTHERS_MAX:
            del self.others[next(iter(self.others))]
        return "new"

    def add_amendment(self, trade: Trade) -> Seen:
        """Remember a correction or a cancel and tell whether it is new; apart from the ids of what they amend."""
        same = f"{trade.action}|{trade.trade_id}"
        if trade.action != "cancel":  # which comes once; a trade that keeps its id may be corrected more than once
            same += f"|{trade.original_id}"
            if not trade.original_id:
                same += f"|{trade.ts_event}|{trade.price}|{trade.size}|{trade.side}"
        if same in self.amendments:
            return "duplicate"
        self.amendments[same] = None
        if len(self.amendments) > AMENDMENTS_MAX:
            del self.amendments[next(iter(self.amendments))]
        return "new"
