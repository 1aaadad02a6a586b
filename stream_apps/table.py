"""The stream apps by name: which operators each runs, and how often those with heavy checkpoints are checkpointed."""

from __future__ import annotations

from marketdata.headers import T_APPLIED, T_INGESTED
from stream_apps.engines.apps import App
from stream_apps.engines.task import Cadence
from stream_apps.operators.arbitration import IngestBooks
from stream_apps.operators.books import Books
from stream_apps.operators.candles import Candles
from stream_apps.operators.ingest import IngestQuotes, IngestStatus, IngestTrades

# A full book has one to two megabytes, and the operator gives one itself every so many updates.
_BOOKS = Cadence(inputs=1_000_000, seconds=30.0)

_ALL = (
    App(
        name="ingest",
        hop=T_INGESTED,
        build=lambda known: (IngestTrades(known), IngestBooks(known), IngestQuotes(known), IngestStatus(known)),
    ),
    App(name="books", hop=T_APPLIED, build=lambda _: (Books(),), cadence=_BOOKS),
    App(name="candles", hop=T_APPLIED, build=lambda _: (Candles(),)),
)

APPS: dict[str, App] = {app.name: app for app in _ALL}
