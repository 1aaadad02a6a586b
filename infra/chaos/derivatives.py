"""Derivatives of its own, published beside the exchange during the faults, and compared with what came of them.

The simulated exchange has no derivatives. So numbered events are published to the topic that feeds write, at a steady
rate, by an idempotent producer: each has to pass exactly once, in order, with its values.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Self

from confluent_kafka import Producer

from infra.chaos.findings import Findings
from infra.chaos.published import Places, Published
from marketdata.errors import Unavailable
from marketdata.events import Derivative, Liquidation
from marketdata.headers import record_id
from marketdata.topics import INGEST_DERIVATIVES
from runtime.kafka import producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings

VENUE = "perpetuals"
SYMBOLS = tuple(f"PERP{number}-USD" for number in range(8))
PAUSE_SECONDS = 0.02
DELIVERY_SECONDS_MAX = 120.0


class Derivatives:
    """Publishes while the context lasts; afterwards `sent` counts what each symbol was sent."""

    def __init__(self, settings: CommonSettings) -> None:
        registry = Registry(settings.registry_url)
        self._codec = registry.codec()
        registry.close()
        self._producer = Producer(producer_config(settings, "chaos-derivatives"))
        self._topic = INGEST_DERIVATIVES.physical(settings.topic_prefix)
        self._run = secrets.token_hex(4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="derivatives", daemon=True)
        self.sent: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and wait until Kafka has all; raises Unavailable when that takes too long."""
        self._stop.set()
        self._thread.join()
        if self._producer.flush(DELIVERY_SECONDS_MAX):
            raise Unavailable(f"Kafka did not take all derivatives within {DELIVERY_SECONDS_MAX:.0f} s")

    def _publish(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE_SECONDS):
            symbol = SYMBOLS[number % len(SYMBOLS)]
            event = made(symbol, self.sent[symbol], time.time_ns())
            self.sent[symbol] += 1
            self._producer.produce(self._topic, self._codec.encode(event), event.key.encode(),
                                   headers=[("ce_id", record_id("chaos", self._run, number))])  # fmt: skip
            self._producer.poll(0)
            number += 1


def made(symbol: str, number: int, ts: int) -> Derivative:
    """Return a symbol's event of a number, which all its values depend on; `ts` is UTC nanoseconds."""
    forced = Liquidation(ts_event=ts, side="sell", price=f"{number + 1}.5", size="1", liquidation_id=str(number))
    return Derivative(
        venue=VENUE, symbol=symbol, ts_event=ts, ts_recv=ts, line=f"{VENUE}/0", sequence=number,
        mark_price=f"{number + 1}.25", funding_rate=f"0.{number + 1:012d}", open_interest=str(number),
        liquidations=(forced,) if number % 5 == 0 else (),
    )  # fmt: skip


def compare(published: Iterable[Published], sent: Counter[str], findings: Findings) -> Places:
    """Compare: every event once, in order, with its values. Return what the sink keeps: every event."""
    kept: Places = {}
    came: dict[str, list[Derivative]] = defaultdict(list)
    for record in published:
        event = record.event
        if isinstance(event, Derivative):
            kept[record.partition, record.offset] = 1
            came[event.symbol].append(event)
    wrong = 0
    for symbol in SYMBOLS:
        numbers = [event.sequence for event in came[symbol]]
        if numbers != list(range(sent[symbol])):
            counts = Counter(numbers)
            missing = [number for number in range(sent[symbol]) if number not in counts]
            doubled = [number for number, count in counts.items() if count > 1]
            detail = f"{symbol}: {len(numbers)} of {sent[symbol]}, missing {missing[:5]}, doubled {doubled[:5]}"
            findings.add("derivatives_not_as_sent", detail)
        for event in came[symbol]:
            if event != made(symbol, event.sequence or 0, event.ts_event):
                wrong += 1
                findings.add("derivative_wrong", f"{event}")
    findings.set("derivatives", sent=sent.total(), came=sum(map(len, came.values())), wrong=wrong)
    return kept
