"""A worker process for the tests: a small operator whose outputs show its whole state, on either engine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from marketdata.events import AnyEvent, Candle, DeadLetter, Instrument, Trades
from marketdata.operator import Operator
from runtime.settings import load
from stream_apps.__main__ import configure_logs, run
from stream_apps.engines.apps import App
from stream_apps.operators import checkpoint
from stream_apps.settings import StreamSettings


class Count(msgspec.Struct):
    """How many trades came, and a hash over all their ids in order."""

    events: int = 0
    chain: str = ""
    ts_recv: int = 0


class Counting:
    """Gives the chain so far for each event; a candle for each third, a dead letter for each seventh."""

    name = "counting"
    inputs: tuple[str, ...] = ("md.ingest.trades",)
    outputs: tuple[str, ...] = ("md.trades", "md.candles", "md.dead_letters")
    checkpoints = "md.state"

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
        state.ts_recv = event.ts_recv
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

    def checkpoint(self, state: Count, key: str, positions: dict[str, int]) -> AnyEvent:
        """Return the state as JSON."""
        return checkpoint.save(self.name, key, state.ts_recv, positions, msgspec.json.encode(state))

    def restore(self, saved: AnyEvent) -> Count:
        """Return the state that a checkpoint holds."""
        return checkpoint.load(saved, Count)


def build(_instruments: Mapping[str, Instrument]) -> tuple[Operator[Any], ...]:
    """Return the one operator."""
    return (Counting(),)


APP = App(name="counting", build=build)


if __name__ == "__main__":
    settings = load(StreamSettings)
    configure_logs(settings)
    run(settings, (APP,))
