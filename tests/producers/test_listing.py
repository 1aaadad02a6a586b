"""The products of a line: no more than there may be."""

from __future__ import annotations

import pytest

from marketdata.errors import BadEvent
from producers.feed_kit.calls import Call, Line
from producers.feed_kit.listing import Listing
from producers.feeds.kraken import describe


def test_names_without_end_cost_no_memory() -> None:
    """One too many is refused by name; those that are known go on."""
    call = Call(Line("kraken", "kraken/0"), 0, None)
    listing = Listing(None, describe, limit=2)
    for name in ("A/USD", "B/USD", "A/USD"):
        assert listing.find(call, name) is not None
    with pytest.raises(BadEvent, match="C/USD"):
        listing.find(call, "C/USD")
    assert listing.names() == ("A/USD", "B/USD")
