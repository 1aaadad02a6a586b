"""Shared by the operators' tests: event factories, and a runner that restarts an operator between events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from marketdata.clock import parse_rfc3339
from marketdata.codec import Codec
from marketdata.events import EVENTS, AnyEvent, BookUpdate, Quote, Trade, Trades
from marketdata.operator import Lost, Operator, RootOperator
from marketdata.state import pack_state, unpack_state

T0 = parse_rfc3339("2026-08-09T12:00:00Z")
SECOND = 1_000_000_000
KEY = "coinbase:BTC-USD"
CODEC = Codec({cls.schema: number for number, cls in enumerate(EVENTS, start=1)})


class Make:
    """Makes events of one symbol; times are seconds after noon."""

    t0 = T0

    @staticmethod
    def ts(seconds: float) -> int:
        """Return a time."""
        return T0 + round(seconds * 1000) * 1_000_000

    def trade(self, identity: object, seconds: float, price: str = "100", size: str = "1", **more: Any) -> Trade:
        """Return a trade."""
        fields: dict[str, Any] = {"side": "buy"} | more
        return Trade(trade_id=str(identity), ts_event=self.ts(seconds), price=price, size=size, **fields)

    def trades(self, *trades: Trade, seconds: float | None = None, **more: Any) -> Trades:
        """Return a frame of trades, by default at the time of the newest; without trades it is a heartbeat."""
        ts = self.ts(seconds) if seconds is not None else max(trade.ts_event for trade in trades)
        fields = self._common(ts) | more
        return Trades(**fields, trades=trades)

    def heartbeat(self, seconds: float, **more: Any) -> Trades:
        """Return a heartbeat of the trades stream."""
        return self.trades(seconds=seconds, **more)

    def book(
        self,
        kind: str,
        seconds: float,
        bids: Iterable[tuple[str, str]] = (),
        asks: Iterable[tuple[str, str]] = (),
        **more: Any,
    ) -> BookUpdate:
        """Return a book update from (price, size) pairs."""
        bids, asks = list(bids), list(asks)
        fields = self._common(self.ts(seconds)) | more
        return BookUpdate(
            **fields,
            kind=kind,
            bid_prices=[price for price, _ in bids],
            bid_sizes=[size for _, size in bids],
            ask_prices=[price for price, _ in asks],
            ask_sizes=[size for _, size in asks],
        )

    def clear(self, seconds: float, reason: str = "gap", **more: Any) -> BookUpdate:
        """Return the loss of a book."""
        return self.book("clear", seconds, valid=False, reason=reason, **more)

    def quote(self, seconds: float, bid: str | None = "99", ask: str | None = "101", **more: Any) -> Quote:
        """Return a quote."""
        fields = self._common(self.ts(seconds)) | {"bid_size": "1", "ask_size": "1"} | more
        return Quote(**fields, bid=bid, ask=ask)

    @staticmethod
    def _common(ts: int) -> dict[str, Any]:
        return {"venue": "coinbase", "symbol": "BTC-USD", "ts_event": ts, "ts_recv": ts, "line": "coinbase/0"}


@pytest.fixture(scope="session")
def make() -> Make:
    """The maker of events."""
    return Make()


def run(
    factory: Callable[[], Operator[Any]], events: Iterable[AnyEvent | Lost], restarts: Iterable[int] = ()
) -> list[list[AnyEvent]]:
    """Return an operator's outputs for each event or loss, restarting it from a checkpoint before some of them.

    A restart uses the bytes that Kafka would store. Every output must match its schema.
    """
    operator, restarts = factory(), set(restarts)
    state = operator.start(KEY)
    published = []
    for number, event in enumerate(events):
        if number in restarts:
            saved = pack_state(state)
            operator = factory()
            state = unpack_state(saved, operator.state)
            assert pack_state(state) == saved
        if isinstance(event, Lost):
            assert isinstance(operator, RootOperator)
            state, outputs = operator.lost(state, KEY, event)
        else:
            state, outputs = operator.step(state, event)
        for output in outputs[:10]:
            # msgspec builds structs unchecked; decoding checks every field's type.
            assert CODEC.decode(CODEC.encode(output)) == output
        published.append(outputs)
    return published


@pytest.fixture(scope="session", name="run")
def run_fixture() -> Callable[..., list[list[AnyEvent]]]:
    """Run an operator; see `run`."""
    return run
