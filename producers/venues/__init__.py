"""The venues, one folder each: a folder beside `kit` is a venue, or several markets of one, found by their names."""

from __future__ import annotations

import importlib
import pkgutil

import msgspec

from marketdata.errors import SettingsError
from producers.venues.kit.history import Access, History
from producers.venues.kit.venue import LiveFeed, Signer, Venue

# The channel of trades in entries that are no feed's own.
TRADES = "trades"

VENUES: dict[str, Venue] = {
    venue.name: venue
    for folder in pkgutil.iter_modules(__path__)
    if folder.name != "kit"
    for venue in importlib.import_module(f"{__name__}.{folder.name}").VENUES
}
HISTORIES = frozenset(name for name, venue in VENUES.items() if venue.history is not None)


def find_venue(name: str) -> Venue:
    """Return the venue of this name.

    Raises SettingsError that lists the venues when there is none.
    """
    if name not in VENUES:
        raise SettingsError(f"there is no venue {name!r}; the venues are: {', '.join(sorted(VENUES))}")
    return VENUES[name]


def is_of_trades(venue: str, channel: str | None) -> bool:
    """Return whether an entry of the ledger with this channel is about a venue's trades."""
    found = VENUES.get(venue)
    return channel in {TRADES, None if found is None else found.trades_channel} if channel else False


def make_feed(
    venue: str, *, line: str = "", products: tuple[str, ...] | None = None, token: Signer | None = None,
    market: str = "",
) -> LiveFeed:  # fmt: skip
    """Return a new feed of a venue, for one line (`venue/0` unless named); `products` None accepts all that is seen.

    Raises SettingsError when there is no such venue.
    """
    return find_venue(venue).feed(line=line or f"{venue}/0", products=products, token=token, market=market)


def make_history(name: str, access: Access | None = None) -> History:
    """Return the adapter of a venue's history.

    Raises SettingsError when it has no history here, or needs a key that is not given.
    """
    venue = VENUES.get(name)
    if venue is None or venue.history is None:
        raise SettingsError(f"there is no history of {name!r}; there is of: {', '.join(sorted(HISTORIES))}")
    access = access or Access()
    return venue.history(msgspec.structs.replace(access, rest_url=access.rest_url or venue.rest_url))
