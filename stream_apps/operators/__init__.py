"""The stream operators: pure functions from a state and an event to a new state and what to publish.

`make_operators` returns them all. To add an operator, add its module and a line there; the pipeline connects operators
by their `input` and `outputs`.
"""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.operator import AnyOperator
from marketdata.recipes import Recipe
from stream_apps.operators.anomalies_derivatives import AnomaliesDerivatives
from stream_apps.operators.anomalies_metrics import AnomaliesMetrics
from stream_apps.operators.anomalies_prices import AnomaliesPrices
from stream_apps.operators.anomalies_quotes import AnomaliesQuotes
from stream_apps.operators.anomalies_status import AnomaliesStatus
from stream_apps.operators.anomalies_trades import AnomaliesTrades
from stream_apps.operators.anomaly_limits import LimitsBySymbol
from stream_apps.operators.books import Books
from stream_apps.operators.candles import Candles
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_candles import IngestCandles
from stream_apps.operators.ingest_derivatives import IngestDerivatives
from stream_apps.operators.ingest_quotes import IngestQuotes
from stream_apps.operators.ingest_status import IngestStatus
from stream_apps.operators.ingest_trades import IngestTrades
from stream_apps.operators.metrics import MetricsSettings
from stream_apps.operators.time_bars import TimeBars
from stream_apps.operators.trade_bars import TradeBars
from stream_apps.operators.venue_prices import VenuePrices


def make_operators(
    recipes: Sequence[Recipe] = (),
    *,
    metrics: MetricsSettings | None = None,
    limits: LimitsBySymbol | None = None,
) -> tuple[AnyOperator, ...]:
    """Return one of each operator: those that read an ingest topic first, then those that read public topics.

    Without recipes there are no operators of bars.
    """
    times = [recipe for recipe in recipes if recipe.kind == "time"]
    others = [recipe for recipe in recipes if recipe.kind != "time"]
    return (
        IngestTrades(),
        IngestBooks(),
        IngestQuotes(),
        IngestDerivatives(),
        IngestStatus(),
        IngestCandles(),
        Books(settings=metrics),
        Candles(),
        *([TimeBars(times)] if times else ()),
        *([TradeBars(others)] if others else ()),
        AnomaliesTrades(limits),
        AnomaliesQuotes(limits),
        AnomaliesMetrics(limits),
        VenuePrices(),
        AnomaliesDerivatives(limits),
        AnomaliesPrices(limits),
        AnomaliesStatus(),
    )
