"""The stream apps by name: which operators each runs, and how often those with heavy checkpoints are checkpointed."""

from __future__ import annotations

from stream_apps.engines.apps import App
from stream_apps.engines.task import Cadence
from stream_apps.operators import make_operators

# A full book has one to two megabytes, and the operator gives one itself every so many updates.
_BOOKS = Cadence(inputs=1_000_000, seconds=30.0)


def _app(name: str, cadence: Cadence | None = None) -> App:
    return App(name=name, build=lambda known: tuple(make_operators(known, name)), cadence=cadence)


_ALL = (
    _app("ingest"),
    _app("books", _BOOKS),
    _app("candles"),
    _app("anomalies"),
)

APPS: dict[str, App] = {app.name: app for app in _ALL}
