"""Follows what a feed publishes without a recording, and checks every output as its consumers would."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from hypothesis import settings

from marketdata.codec import Codec
from marketdata.events import EVENTS, BookUpdate, DeadLetter, FeedStatus, Instrument, Trades
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_trades import IngestTrades

SECOND = 1_000_000_000
TS = 1_786_309_200 * SECOND  # 2026-08-09T21:00:00Z
MS = TS // 1_000_000
TIME = "2026-08-09T21:00:00.000001Z"
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
FEW = settings(max_examples=40, deadline=None)

# What no event may have, of every kind that the venues write.
WRONG: list[Any] = [
    None, True, -1, 0, Decimal("-0.5"), 5, 2**63 - 1, 4_000_000_000_000, "", "-1", "0", "0.00", "1e35", "1e-45",
    "9" * 30, "9" * 33, f"0.{'1' * 45}", "NaN", "Infinity", "x" * 300, "4000000000000", "4000000000.5", [], {}, [[]],
    "2096-10-02T07:06:40.5Z", "1996-10-02T07:06:40.5Z", "2026-08-09T21:05:48",
]  # fmt: skip


class Follower:
    """Follows what a feed publishes, and checks every output; `is_file`: nothing can be requested."""

    def __init__(self, *, is_file: bool = False) -> None:
        self.is_file = is_file
        self.asked: list[Fetch] = []
        self.due: set[str] = set()
        self.valid: dict[str, bool] = {}
        self._instruments: dict[str, Instrument] = {}
        self._books, self._trades = IngestBooks(), IngestTrades()

    def take(self, out: Sequence[Output]) -> Sequence[Output]:
        """Follow the outputs of one call."""
        for output in out:
            if isinstance(output, EVENTS):
                assert CODEC.decode(CODEC.encode(output)) == output
            if isinstance(output, Instrument):
                self._instruments[output.key] = output
            elif isinstance(output, BookUpdate):
                self._follow(output)
            elif isinstance(output, FeedStatus) and output.kind == "gap" and self.is_file:
                self.due.discard(output.symbol)
            elif isinstance(output, Fetch):
                self.asked.append(output)
            self._ingested(output)
        if any(isinstance(output, Send | Fetch | Reconnect | Refused) for output in out):
            self.due.clear()
        return out

    def _ingested(self, output: Output) -> None:
        if isinstance(output, BookUpdate):
            _, published = self._books.step(self._books.start(output.key), output)
            assert not any(isinstance(event, DeadLetter) for event in published)
        elif isinstance(output, Trades):
            _, published = self._trades.step(self._trades.start(output.key), output)
            # Behind a trade there is no book that would stay lost.
            reasons = {event.reason for event in published if isinstance(event, DeadLetter)}
            assert reasons <= {"time_out_of_bounds"}

    def _follow(self, book: BookUpdate) -> None:
        if book.kind == "clear" and book.symbol in self.valid:  # what was never there cannot be lost
            self.due.add(book.symbol)
        elif book.kind == "snapshot":
            self.due.discard(book.symbol)
        else:
            assert book.kind == "clear" or self.valid.get(book.symbol), "a change of a book that nobody may trust"
        self.valid[book.symbol] = book.kind != "clear"
