"""The health of each symbol's data, and its summary by venue and reason, counted at most once a second."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator

from api.core import messages
from api.core.symbol_state import SymbolState, halted
from api.core.trust import TRUSTED, Trust
from api.service import Service
from marketdata.clock import MILLISECOND_NS, SECOND_NS, format_rfc3339
from marketdata.events import ALL_SYMBOLS

_COUNTED_EVERY_NS = SECOND_NS
# Symbols that are counted before others have their turn: about a millisecond.
_COUNTED_AT_ONCE = 500


def with_data(service: Service) -> Iterator[SymbolState]:
    """Return the states of symbols for which data came."""
    return (state for state in service.market.states() if state.symbol != ALL_SYMBOLS and state.has_data)


def trust_of(service: Service, state: SymbolState) -> Trust:
    """Return the first reason why a symbol's data may not be trusted now."""
    book = service.fresh(state.book.trust, state.venue, state.book.ts_recv)
    trades = service.fresh(state.trades_trust, state.venue, state.trades_ts_recv)
    # A venue may send only books, or only trades: what never came says nothing about the rest.
    trusts = [trust for trust, ts in ((book, state.book.ts_recv), (trades, state.trades_ts_recv)) if ts]
    if not trusts and state.ticker is not None:
        trusts = [service.fresh(state.ticker.trust, state.venue, state.ticker_ts_recv)]
    return next((trust for trust in trusts if not trust.valid), TRUSTED)


def health(service: Service, state: SymbolState) -> messages.Json:
    """Return the health of one symbol's data."""
    book = service.fresh(state.book.trust, state.venue, state.book.ts_recv)
    trades = service.fresh(state.trades_trust, state.venue, state.trades_ts_recv)
    trust = trust_of(service, state)
    return {
        "venue": state.venue,
        "symbol": state.symbol,
        "valid": trust.valid,
        "reason": trust.reason,
        "timestamp": format_rfc3339(state.ts_recv) if state.ts_recv else None,
        "age_ms": _age_ms(service, state.venue, state.ts_recv),
        "book_valid": book.valid,
        "book_reason": book.reason,
        "book_levels": len(state.book.book.bids) + len(state.book.book.asks),
        "trades_valid": trades.valid,
        "trades_reason": trades.reason,
        "halted": halted(state),
        "messages": state.messages,
        "line": state.book.line,
        "sequence": state.book.sequence,
    }


async def trusts_of(
    service: Service, states: Iterable[SymbolState]
) -> dict[tuple[str, str], tuple[Trust, SymbolState]]:
    """Return by symbol and venue whether the data of each may be trusted; others have their turn in between."""
    found = {}
    for number, state in enumerate(states):
        if number % _COUNTED_AT_ONCE == 0:
            await asyncio.sleep(0)
        found[state.symbol, state.venue] = (trust_of(service, state), state)
    return found


class StatusSummary:
    """The number of valid symbols of each venue, and of the others by reason; counted again after a second."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counted_ns = 0
        self._venues: list[messages.Json] = []
        self._counting = asyncio.Lock()

    async def venues(self) -> list[messages.Json]:
        """Return the counts of each venue, which are at most a second old."""
        async with self._counting:
            if self._service.clock() - self._counted_ns >= _COUNTED_EVERY_NS:
                self._venues = await self._count()
                self._counted_ns = self._service.clock()
        return self._venues

    async def _count(self) -> list[messages.Json]:
        found: dict[str, messages.Json] = {}
        reasons: dict[str, Counter[str]] = {}
        newest: Counter[str] = Counter()
        trusts = await trusts_of(self._service, list(with_data(self._service)))
        for (_, venue), (trust, state) in trusts.items():
            counts = found.setdefault(venue, {"venue": venue, "symbols": 0, "valid": 0, "halted": 0, "messages": 0})
            counts["symbols"] += 1
            counts["valid"] += trust.valid
            counts["halted"] += halted(state)
            counts["messages"] += state.messages
            newest[venue] = max(newest[venue], state.ts_recv)
            if not trust.valid:
                reasons.setdefault(venue, Counter())[trust.reason] += 1
        return [
            found[venue]
            | {
                "reasons": dict(sorted(reasons.get(venue, {}).items())),
                "timestamp": format_rfc3339(newest[venue]) if newest[venue] else None,
                "age_ms": _age_ms(self._service, venue, newest[venue]),
            }
            for venue in sorted(found)
        ]


def _age_ms(service: Service, venue: str, ts_recv: int) -> int | None:
    return max(0, service.clocks.now(venue, ts_recv) - ts_recv) // MILLISECOND_NS if ts_recv else None
