"""The metric of which books may be trusted, made when it is read: to keep it up to date costs with every change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Books = Callable[[], Iterator[tuple[str, str, bool]]]


class BookValidity(Collector):
    """`tickstream_book_valid`; `books` yields venue and symbol of each book, and whether it may be trusted now."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metric."""
        family = GaugeMetricFamily(
            "tickstream_book_valid", "1 while a book may be trusted, else 0.", labels=["venue", "symbol"]
        )
        for venue, symbol, valid in self._books():
            family.add_metric([venue, symbol], int(valid))
        yield family
