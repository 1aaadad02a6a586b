"""Venues that use FIX: each has its own address and limits, which the standard leaves to the two parties."""

from __future__ import annotations

from marketdata.fix.split import FixSplitter
from producers.venues.fix.feed import FixFeed
from producers.venues.fix.login import FixSettings, login
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="fix",
        ws_url="",  # every FIX venue has its own address, given by FIX_URL
        rest_url="http://127.0.0.1",
        make=FixFeed,
        amends_trades=FixFeed.amends_trades,
        transport="tcp",
        splitter=FixSplitter,
        marks_trades=True,
        sequence="connection",
        depth="L3",  # where entries have an MDEntryID each
        key="required",
        cased=True,
        channels=FixFeed.channels,
        mute_s=None,
        settings=FixSettings,
        login=login,
    ),
)
