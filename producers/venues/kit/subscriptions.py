"""What one connection has subscribed to, and what came of it: nothing is known of a channel that is not acknowledged.

Theory of operation. One entry per channel and product (an empty name where a channel has no products).

1. `request`: the message was sent. The venue's acknowledgement is due within `DUE_NS`; data proves the same.
2. `acknowledge`: the venue confirmed it. A channel that starts with data, such as a book with its snapshot, owes that
   by a deadline as well.
3. `refuse`, and a deadline that passes (`take_overdue`): the entry is refused, and is requested again after `RETRY_NS`
   (`take_retries`), twice as long each time. Its venue may have reached a limit, or may not list the product yet.
4. An acknowledgement or data of a refused entry ends the refusal.
5. `begin`: the connection is new, or gone, and so is every entry.

A `mark` is any value that changes with the data of a channel, as the time of a product's last trade: so data is noticed
when a deadline passes, without work for each frame.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from typing import Literal, NamedTuple

from marketdata.clock import MINUTE_NS, SECOND_NS

DUE_NS = 10 * SECOND_NS
RETRY_NS = 10 * SECOND_NS
RETRY_NS_MAX = 15 * MINUTE_NS
ENTRIES_MAX = 100_000  # 5,000 products with some channels each
_TRIES_MAX = 10  # the pause has reached its longest before

State = Literal["requested", "acknowledged", "flowing", "refused"]


class Refusal(NamedTuple):
    """An entry that is refused now; `reason` is `refused`, `unacknowledged` or `no_data`."""

    channel: str
    name: str
    reason: str


class _Entry:
    __slots__ = ("mark", "reason", "state", "tries", "ts_due")

    def __init__(self, mark: Hashable) -> None:
        self.state: State = "requested"
        self.mark = mark
        self.reason = ""
        self.ts_due: int | None = None
        self.tries = 0


class Subscriptions:
    """The subscriptions of one connection; `starts_with_data` are the channels that owe data at once.

    `acknowledges`: the venue confirms each subscription, so that a confirmation that does not come is a refusal.
    """

    __slots__ = ("_acknowledges", "_entries", "_open", "_starts_with_data")

    def __init__(self, *, starts_with_data: Collection[str] = (), acknowledges: bool = True) -> None:
        self._starts_with_data = frozenset(starts_with_data)
        self._acknowledges = acknowledges
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._open: dict[tuple[str, str], None] = {}  # those with a deadline

    def __iter__(self) -> Iterator[tuple[str, str, State]]:
        return iter([(*what, entry.state) for what, entry in self._entries.items()])

    def begin(self) -> None:
        """Forget every entry: the connection is new, or gone."""
        self._entries.clear()
        self._open.clear()

    def request(self, channel: str, name: str, ts: int, mark: Hashable = None) -> None:
        """Note that a subscription is sent at `ts`; a refused entry stays refused until the venue answers."""
        what = (channel, name)
        entry = self._entry(what, mark)
        entry.mark = mark
        if entry.state != "refused":
            entry.state = "requested"
            self._set_due(what, entry, ts + DUE_NS if self._owes(channel) else None)

    def acknowledge(self, channel: str, name: str, ts: int, mark: Hashable = None) -> bool:
        """Note the venue's confirmation; return whether that ends a refusal. It need not answer a request of ours."""
        what = (channel, name)
        entry = self._entry(what, mark)
        was_refused, is_ours = entry.state == "refused", entry.ts_due is not None
        if entry.state != "flowing":
            entry.state = "acknowledged" if entry.mark == mark else "flowing"
        owes = entry.state == "acknowledged" and channel in self._starts_with_data and is_ours
        self._set_due(what, entry, ts + DUE_NS if owes else None)
        entry.tries = 0
        return was_refused

    def refuse(self, channel: str, name: str, ts: int, mark: Hashable = None, reason: str = "refused") -> bool:
        """Note the venue's refusal; return whether it is new."""
        what = (channel, name)
        entry = self._entry(what, mark)
        is_new = entry.state != "refused"
        entry.state, entry.mark, entry.reason = "refused", mark, reason
        self._set_due(what, entry, ts + min(RETRY_NS << entry.tries, RETRY_NS_MAX))
        entry.tries = min(entry.tries + 1, _TRIES_MAX)
        return is_new

    def drop(self, channel: str, name: str) -> None:
        """Forget an entry: it was unsubscribed."""
        self._entries.pop((channel, name), None)
        self._open.pop((channel, name), None)

    def state(self, channel: str, name: str) -> State | None:
        """Return the state of an entry, None without one."""
        entry = self._entries.get((channel, name))
        return None if entry is None else entry.state

    def is_live(self, channel: str, name: str, mark: Hashable = None) -> bool:
        """Return whether a channel is known to be subscribed: acknowledged, or its data has come."""
        entry = self._entries.get((channel, name))
        if entry is None or entry.state == "refused":
            return False
        return entry.state != "requested" or entry.mark != mark

    def pending(self, channel: str | None = None) -> list[tuple[str, str]]:
        """Return the entries (of a channel) that were requested and not answered, oldest first."""
        return [what for what in self._open
                if self._entries[what].state == "requested" and channel in {None, what[0]}]  # fmt: skip

    def open(self) -> list[tuple[str, str]]:
        """Return the entries that have a deadline."""
        return list(self._open)

    def flow(self, channel: str, name: str, mark: Hashable) -> bool:
        """Note the mark of an entry with a deadline; return whether data has come since, which ends a refusal."""
        what = (channel, name)
        entry = self._entries[what]
        if entry.mark == mark:
            return False
        was_refused = entry.state == "refused"
        entry.state, entry.mark, entry.tries = "flowing", mark, 0
        self._set_due(what, entry, None)
        return was_refused

    def deliver(self, channel: str, name: str) -> bool:
        """Note a snapshot of an entry: it proves the subscription, however old what it contains. Return as `flow`."""
        entry = self._entries.get((channel, name))
        if entry is None:
            return False
        was_refused = entry.state == "refused"
        entry.state, entry.tries = "flowing", 0
        self._set_due((channel, name), entry, None)
        return was_refused

    def take_overdue(self, ts: int) -> list[Refusal]:
        """Refuse the entries whose deadline has passed, and return them."""
        overdue: list[Refusal] = []
        for what in list(self._open):
            entry = self._entries[what]
            if entry.state != "refused" and entry.ts_due is not None and ts >= entry.ts_due:
                reason = "no_data" if entry.state == "acknowledged" or not self._acknowledges else "unacknowledged"
                overdue.append(Refusal(*what, reason))
                self.refuse(*what, ts, entry.mark, reason)
        return overdue

    def take_retries(self, ts: int) -> list[Refusal]:
        """Return the refused entries to request again now; each waits twice as long before the next time."""
        due: list[Refusal] = []
        for what in list(self._open):
            entry = self._entries[what]
            if entry.state == "refused" and entry.ts_due is not None and ts >= entry.ts_due:
                due.append(Refusal(*what, entry.reason))
                self.refuse(*what, ts, entry.mark, entry.reason)
        return due

    def _entry(self, what: tuple[str, str], mark: Hashable) -> _Entry:
        """Return an entry, a new one where there is none; the oldest goes where there are too many."""
        entry = self._entries.get(what)
        if entry is None:
            if len(self._entries) >= ENTRIES_MAX:
                self.drop(*next(iter(self._entries)))
            entry = self._entries[what] = _Entry(mark)
        return entry

    def _owes(self, channel: str) -> bool:
        return self._acknowledges or channel in self._starts_with_data

    def _set_due(self, what: tuple[str, str], entry: _Entry, ts_due: int | None) -> None:
        entry.ts_due = ts_due
        if ts_due is None:
            self._open.pop(what, None)
        else:
            self._open[what] = None
