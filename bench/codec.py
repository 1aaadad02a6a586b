"""How long one record takes to encode and decode, with the compiled codec and with fastavro.

Times are microseconds of processor time, which other load on the machine disturbs least; the best of several rounds.
Needs nothing running: `python -m bench.codec`.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from timeit import repeat

from marketdata import compiled
from marketdata.codec import Codec
from marketdata.events import EVENTS, AnyEvent, BookUpdate, Candle, Trade, Trades

ROUNDS = 9
# Long enough that the processor clock's steps do not matter.
ROUND_SECONDS = 0.05

_NOW = 1_780_000_000_123_456_789
_TRADE = Trade(trade_id="6105632145", ts_event=_NOW, price="64250.01", size="0.00512", side="buy")


def _trades(count: int) -> Trades:
    return Trades(venue="binance_usdm", symbol="BTC-USDT", ts_event=_NOW, ts_recv=_NOW + 1_000_000,
                  line="binance_usdm/0", sequence=123_456_789, trades=(_TRADE,) * count)  # fmt: skip


def _levels(price: int, step: int) -> list[str]:
    return [f"{price + step * level}.{level}0" for level in range(5)]


_SIZES = ["0.512", "1.25000", "12", "0.00001", "3.5"]

RECORDS: dict[str, AnyEvent] = {
    "1 trade": _trades(1),
    "8 trades": _trades(8),
    "book update of 10 levels": BookUpdate(
        venue="binance_usdm", symbol="BTC-USDT", ts_event=_NOW, ts_recv=_NOW + 1_000_000, line="binance_usdm/0",
        sequence=123_456_789, kind="update", bid_prices=_levels(64_250, -1), bid_sizes=_SIZES,
        ask_prices=_levels(64_251, 1), ask_sizes=_SIZES,
    ),
    "candle": Candle(
        venue="binance_usdm", symbol="BTC-USDT", interval="1m", start=_NOW, end=_NOW, ts_event=_NOW, ts_recv=_NOW,
        open="64250.01", high="64251.50", low="64249.99", close="64250.02", volume="12.345", quote_volume="793171.26",
        buy_volume="6.1", trades=320, state="final",
    ),
}  # fmt: skip


def microseconds(call: Callable[[], object]) -> float:
    """Return how long one call takes, in processor time."""
    number = 1_000
    while True:
        spent = min(repeat(call, number=number, repeat=1, timer=time.process_time))
        if spent >= ROUND_SECONDS:
            break
        number *= 4
    return min(repeat(call, number=number, repeat=ROUNDS, timer=time.process_time)) / number * 1e6


def _hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores (one used), Python {platform.python_version()}, load {load:.1f} before"


def main() -> None:
    """Print the table."""
    ids = {cls.schema: number for number, cls in enumerate(EVENTS, start=1)}
    ours, fastavro = Codec(ids), Codec(ids, plain=True)
    print(f"{_hardware()}; codec: {compiled.CODEC}")
    print(
        f"{'us each':<26}{'bytes':>7}{'encode':>9}{'fastavro':>10}{'ratio':>7}{'decode':>9}{'fastavro':>10}{'ratio':>7}"
    )
    for name, event in RECORDS.items():
        data = fastavro.encode(event)
        encodes = [microseconds(lambda codec=codec, event=event: codec.encode(event)) for codec in (ours, fastavro)]  # type: ignore[misc]
        decodes = [microseconds(lambda codec=codec, data=data: codec.decode(data)) for codec in (ours, fastavro)]  # type: ignore[misc]
        columns = "".join(f"{one:>9.2f}{other:>10.2f}{other / one:>7.0f}" for one, other in (encodes, decodes))
        print(f"{name:<26}{len(data):>7}{columns}")


if __name__ == "__main__":
    main()
