"""A worker process for the tests: a small operator whose outputs show its whole state, on either engine."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import msgspec

from marketdata.events import GAP, AnyEvent, Candle, DeadLetter, Trades
from marketdata.operator import Lost, Operator
from runtime.settings import load
from stream_apps.__main__ import configure_logs, run
from stream_apps.settings import StreamSettings


class Count(msgspec.Struct):
    """How many events came, and a hash over all their trades' ids in order."""

    events: int = 0
    chain: str = ""


class Counting:
    """Returns the chain so far for each event; two candles for each third, a dead letter for each seventh."""

    name = "counting"
    input = "md.ingest.trades"
    outputs: tuple[str, ...] = ("md.trades", "md.candles", "md.dead_letters")
    state = Count

    def __init__(self) -> None:
        """Count nothing yet."""
        self.counts: Counter[str] = Counter()

    def start(self, key: str) -> Count:
        """Return the state of a new key."""
        return Count()

    def step(self, state: Count, event: AnyEvent) -> tuple[Count, list[AnyEvent]]:
        """Add an event's trades to the chain."""
        assert isinstance(event, Trades)
        state.events += 1
        for trade in event.trades:
            if trade.trade_id == "boom":
                raise ValueError("boom")
            state.chain = hashlib.sha1((state.chain + trade.trade_id).encode()).hexdigest()
        out: list[AnyEvent] = [msgspec.structs.replace(event, line=state.chain, sequence=state.events)]
        if state.events % 3 == 0:
            out += [self._candle(event, state, interval) for interval in ("1m", "5m")]
        if state.events % 7 == 0:
            self.counts["seventh"] += 1
            out.append(self._letter(event, state))
        return state, out

    def lost(self, state: Count, key: str, loss: Lost) -> tuple[Count, list[AnyEvent]]:
        """Say so with an empty invalid event."""
        venue, _, symbol = key.partition(":")
        state.chain = f"lost {loss.reason} {loss.offset}"
        event = Trades(venue=venue, symbol=symbol, ts_event=loss.ts, ts_recv=loss.ts, line=state.chain, valid=False,
                       reason=GAP, sequence=state.events)  # fmt: skip
        return state, [event]

    def _candle(self, event: Trades, state: Count, interval: str) -> Candle:
        return Candle(
            venue=event.venue,
            symbol=event.symbol,
            interval=interval,
            start=0,
            end=60,
            ts_event=event.ts_event,
            ts_recv=event.ts_recv,
            volume=str(state.events),
        )

    def _letter(self, event: Trades, state: Count) -> DeadLetter:
        return DeadLetter(
            venue=event.venue,
            symbol=event.symbol,
            ts_recv=event.ts_recv,
            stage=self.name,
            reason="seventh",
            detail=state.chain,
            payload=b"",
        )


def make_operators() -> tuple[Operator[Any], ...]:
    """Return the one operator."""
    return (Counting(),)


if __name__ == "__main__":
    settings = load(StreamSettings)
    configure_logs(settings)
    run(settings, make_operators)
