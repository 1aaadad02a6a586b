"""What a venue is to the shell: its addresses, what its feed can do, and how to make one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from marketdata.feed import Feed

# Signs one message: takes the time in UTC nanoseconds, gives the token that goes into the message.
Signer = Callable[[int], str]


class LiveFeed(Feed, Protocol):
    """A feed as the shell sees it: besides the events it keeps counts, and the venue's time of the last frame."""

    counts: Counter[str]
    ts_venue: int | None


class MakeFeed(Protocol):
    """Makes one feed. `products` are the venue's own names; None accepts every product that is seen."""

    def __call__(self, *, line: str, products: tuple[str, ...] | None, token: Signer | None) -> LiveFeed:
        """Return a new feed of this line."""


class Venue(msgspec.Struct, frozen=True, kw_only=True):
    """One venue. `sequence`, `checksum`: how its stream proves itself complete; `depth`: L1, L2 or L3."""

    name: str
    ws_url: str
    rest_url: str
    make: MakeFeed
    sequence: str = "none"
    checksum: bool = False
    depth: str = "L2"
    signed: bool = False
    """Whether it takes a token in each message; none is ever needed for public channels."""
