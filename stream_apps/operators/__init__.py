"""The stream operators: pure functions from a state and an event to a new state and what to publish.

`make_operators` returns them all. To add an operator, add its module and a line there; the pipeline connects operators
by their `input` and `outputs`.
"""

from __future__ import annotations

from marketdata.operator import AnyOperator
from stream_apps.operators.anomalies_quotes import AnomaliesQuotes
from stream_apps.operators.anomalies_status import AnomaliesStatus
from stream_apps.operators.anomalies_trades import AnomaliesTrades
from stream_apps.operators.books import Books
from stream_apps.operators.candles import Candles
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_candles import IngestCandles
from stream_apps.operators.ingest_derivatives import IngestDerivatives
from stream_apps.operators.ingest_quotes import IngestQuotes
from stream_apps.operators.ingest_status import IngestStatus
from stream_apps.operators.ingest_trades import IngestTrades
from stream_apps.operators.metrics import MetricsSettings


def make_operators(*, metrics: MetricsSettings | None = None) -> tuple[AnyOperator, ...]:
    """Return one of each operator: those that read an ingest topic first, then those that read public topics."""
    return (
        IngestTrades(),
        IngestBooks(),
        IngestQuotes(),
        IngestDerivatives(),
        IngestStatus(),
        IngestCandles(),
        Books(settings=metrics),
        Candles(),
        AnomaliesTrades(),
        AnomaliesQuotes(),
        AnomaliesStatus(),
    )
