"""The venues' history over REST: pure adapters in `venues`, found by name, and one shell, `rest`, to perform them."""

from __future__ import annotations

import importlib
import pkgutil

from marketdata.errors import SettingsError
from producers.history import venues
from producers.history.contract import Access, History

# Venue name to module, which is imported only when the venue is asked for.
VENUES: dict[str, str] = {
    module.name: f"{venues.__name__}.{module.name}" for module in pkgutil.iter_modules(venues.__path__)
}


def make_history(venue: str, access: Access | None = None) -> History:
    """Return the adapter of a venue.

    Raises SettingsError when it has no history here, or needs a key that is not given.
    """
    if venue not in VENUES:
        raise SettingsError(f"there is no history of {venue!r}; there is of: {', '.join(sorted(VENUES))}")
    made: History = importlib.import_module(VENUES[venue]).make(access or Access())
    return made
