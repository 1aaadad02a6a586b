"""What a FIX line knows: how it logs on, and of each symbol the book, its request and why trades may be missing."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from marketdata.events import Trade
from marketdata.fix.steps import Identity
from producers.venues.fix.book import Coming, Entry, FixBook
from producers.venues.kit.products import Product
from producers.venues.kit.trade_ids import Recent


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What the token of this venue is, as JSON: an identity, with one sender per redundant line.

    `recorded`: a recording is played, which answers no requests and starts over only after a disconnect.
    `snapshots`: the venue sends W. `security_id_source`: products are SecurityIDs of this source, not Symbols.
    """

    senders: tuple[str, ...]
    target: str
    begin: str
    heartbeat_s: int
    reset: bool
    recorded: bool = False
    snapshots: bool = True
    security_id_source: str = ""
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        """Name the session, and no secret."""
        return f"<{self.begin} {', '.join(self.senders)} to {self.target}>"


def identity_of(login: Login, line: str) -> Identity:
    """Return who logs on for a line; each redundant line has a name of its own."""
    number = line.rpartition("/")[2]
    sender = login.senders[int(number) % len(login.senders)] if number.isdigit() else login.senders[0]
    return Identity(sender=sender, target=login.target, begin=login.begin, heartbeat_s=login.heartbeat_s,
                    reset=login.reset, username=login.username, password=login.password)  # fmt: skip


class State:
    """What is known of one symbol besides its Product.

    The book, whether it is whole, the next one on its way, which request it answers, and why trades may be missing.
    `can_begin`: no change of the book came since the subscription, so that the first may be the whole book.
    """

    __slots__ = ("book", "can_begin", "coming", "missed", "request", "sent", "whole")

    def __init__(self, *, can_begin: bool) -> None:
        self.book = FixBook()
        self.can_begin = can_begin
        self.whole = False
        self.coming: Coming | None = None
        self.missed = ""
        self.request = ""
        self.sent = Recent()


class Found(NamedTuple):
    """What one message contains of one symbol: changes of its book, and trades."""

    product: Product
    ts_event: int
    changes: list[Entry]
    trades: list[Trade]
