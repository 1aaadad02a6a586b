"""Compares published books with the venue's REST books at the same number or time: one score per symbol.

Theory of operation.

1. A few symbols at a time: their published books are restored (`published_books`), their REST books requested within
   the venue's budget, and the updates followed until each book has reached the mark of its REST book.
2. A REST book that is too old, or between two whole books, is requested again a little later, and so is one that
   differs where levels are not known for each moment: a wrong level differs again, a level that was changing does not.
3. What cannot be compared has a reason instead of a score (`book_states`), and is no difference.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

from marketdata.clock import SECOND_NS
from marketdata.codec import Codec
from marketdata.errors import BadEvent, Refused
from producers.history.book_states import BETWEEN, TOO_OLD, WHAT, BookStates, Result
from producers.history.published_books import PublishedBooks
from producers.history.rest import Rest
from producers.history.score import Score
from producers.venues.kit.history import RestBook, RestBooks
from runtime.settings import CommonSettings

TRIES_MAX = 4
SYMBOLS_AT_ONCE = 20
REACHED_WITHIN_S = 20.0
POLL_S = 0.2
AGAIN_AFTER_S = 0.5

NOT_REACHED = "the published book did not reach the REST book"


class BookReconciliation:
    """Compares books of one venue. Methods raise Unavailable when Kafka or the venue does not respond."""

    def __init__(self, rest: Rest, settings: CommonSettings, codec: Codec) -> None:
        self._rest = rest
        self._settings = settings
        self._codec = codec

    async def compare(self, symbols: Iterable[str]) -> dict[str, Score]:
        """Return the score of each symbol's book."""
        wanted = list(symbols)
        rule = self._rest.history.books
        if isinstance(rule, str):
            return {symbol: Score(WHAT, 0, 0, reason=rule) for symbol in wanted}
        found: dict[str, Score] = {}
        for at in range(0, len(wanted), SYMBOLS_AT_ONCE):
            found |= await self._compare(rule, wanted[at : at + SYMBOLS_AT_ONCE])
        return found

    async def _compare(self, rule: RestBooks, symbols: list[str]) -> dict[str, Score]:
        states = {symbol: BookStates(rule.by) for symbol in symbols}
        keys = {f"{self._rest.history.venue}:{symbol}": state for symbol, state in states.items()}
        found: dict[str, Score] = {}
        with PublishedBooks(self._settings, self._codec, keys) as books:
            await asyncio.to_thread(books.restore)
            left = symbols
            for tries in range(TRIES_MAX):
                if tries:
                    await asyncio.sleep(AGAIN_AFTER_S + rule.slack_ns / SECOND_NS)
                fetched: dict[str, RestBook] = {}
                for symbol in left:
                    try:
                        fetched[symbol] = await self._rest.fetch_book(rule, symbol)
                    except (BadEvent, Refused) as error:
                        found[symbol] = Score(WHAT, 0, 0, reason=str(error))
                results = await _reach(books, states, fetched, rule.slack_ns)
                found |= {symbol: result.score for symbol, result in results.items()}
                left = [symbol for symbol, result in results.items() if _is_doubtful(result)]
                if not left:
                    break
        return found


async def _reach(
    books: PublishedBooks, states: Mapping[str, BookStates], fetched: Mapping[str, RestBook], slack_ns: int
) -> dict[str, Result]:
    """Follow the updates until each book has reached its REST book, and return the results."""
    results: dict[str, Result] = {}
    deadline = time.monotonic() + REACHED_WITHIN_S
    while len(results) < len(fetched) and time.monotonic() < deadline:
        await asyncio.to_thread(books.follow, POLL_S)
        for symbol, rest in fetched.items():
            if symbol not in results:
                result = states[symbol].compare(rest, slack_ns)
                if result is not None:
                    results[symbol] = result
    not_reached = Result(Score(WHAT, 0, 0, reason=NOT_REACHED))
    return {symbol: results.get(symbol, not_reached) for symbol in fetched}


def _is_doubtful(result: Result) -> bool:
    """Return whether another REST book may give a clearer result."""
    score = result.score
    return score.reason in {TOO_OLD, BETWEEN} or (not result.is_exact and score.equal < score.compared)
