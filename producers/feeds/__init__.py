"""The venues' feeds, one pure module each; a module in this folder is a venue, found by its name."""

from __future__ import annotations

import importlib
import pkgutil

from marketdata.errors import SettingsError
from producers.venue import LiveFeed, Signer, Venue

# Venue name to module, which is imported only when the venue is asked for.
VENUES: dict[str, str] = {module.name: f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)}


def find_venue(name: str) -> Venue:
    """Return the venue of this name.

    Raises SettingsError that lists the venues when there is none.
    """
    if name not in VENUES:
        raise SettingsError(f"there is no venue {name!r}; the venues are: {', '.join(sorted(VENUES))}")
    venue: Venue = importlib.import_module(VENUES[name]).VENUE
    return venue


def make_feed(
    venue: str, *, line: str = "", products: tuple[str, ...] | None = None, token: Signer | None = None
) -> LiveFeed:
    """Return a new feed of a venue, for one line (`venue/0` unless named); `products` None accepts all that is seen.

    Raises SettingsError when there is no such venue.
    """
    return find_venue(venue).make(line=line or f"{venue}/0", products=products, token=token)
