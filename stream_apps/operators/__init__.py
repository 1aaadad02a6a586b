"""The stream operators: pure steps from a state and an event to a new state and what to publish.

`OPERATORS` makes each by its name; `APPS` says which of them make up an app. Adding an app is adding its module and a
line in each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from marketdata.events import Instrument
from marketdata.operator import Operator
from stream_apps.operators.anomalies import AnomaliesQuotes, AnomaliesStatus, AnomaliesTrades
from stream_apps.operators.arbitration import IngestBooks
from stream_apps.operators.books import Books
from stream_apps.operators.candles import Candles
from stream_apps.operators.history import IngestCandles
from stream_apps.operators.ingest import IngestQuotes, IngestStatus, IngestTrades

Instruments = Mapping[str, Instrument]

# Each takes the known instruments by `venue:symbol`, a mapping that its owner keeps up to date.
OPERATORS: dict[str, Callable[[Instruments], Operator[Any]]] = {
    "ingest_trades": IngestTrades,
    "ingest_books": IngestBooks,
    "ingest_quotes": IngestQuotes,
    "ingest_status": IngestStatus,
    "ingest_candles": IngestCandles,
    "books": lambda _: Books(),
    "candles": lambda _: Candles(),
    "anomalies_trades": AnomaliesTrades,
    "anomalies_quotes": AnomaliesQuotes,
    "anomalies_status": AnomaliesStatus,
}

APPS: dict[str, tuple[str, ...]] = {
    "ingest": ("ingest_trades", "ingest_books", "ingest_quotes", "ingest_status", "ingest_candles"),
    "books": ("books",),
    "candles": ("candles",),
    "anomalies": ("anomalies_trades", "anomalies_quotes", "anomalies_status"),
}


def make_operators(instruments: Instruments, app: str | None = None) -> list[Operator[Any]]:
    """Return the operators of an app, or of all apps."""
    names = OPERATORS if app is None else APPS[app]
    return [OPERATORS[name](instruments) for name in names]
