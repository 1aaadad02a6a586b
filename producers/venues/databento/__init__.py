"""Databento: its addresses and limits, and what makes its feed and its history.

A user may have 10 live sessions a dataset on the usual plans, 50 on larger ones ("Changes to live connection limits",
https://databento.com/blog/changes-to-live-connection-limits); one session takes any number of symbols, so that one
connection is enough.
"""

from __future__ import annotations

from producers.venues.databento import gateway
from producers.venues.databento.feed import DatabentoFeed
from producers.venues.databento.history import DatabentoHistory
from producers.venues.databento.login import DatabentoSettings, login
from producers.venues.kit.venue import Venue

VENUES = (
    Venue(
        name="databento",
        ws_url=gateway.address("GLBX.MDP3"),
        rest_url="https://hist.databento.com",
        make=DatabentoFeed,
        cased=True,
        markets={dataset: gateway.address(dataset) for dataset in gateway.DATASETS},
        sequence="none",
        key="required",
        depth="L3",
        transport="tcp",
        splitter=gateway.Splitter,
        marks_trades=True,
        history=DatabentoHistory,
        mute_s=None,
        settings=DatabentoSettings,
        login=login,
    ),
)
