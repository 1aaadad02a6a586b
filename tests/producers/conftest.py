"""Fixtures of the producers' tests: the Coinbase recording, frames made by hand, topics of a test's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local.table import Endpoints
from marketdata.codec import Codec
from marketdata.events import EVENTS
from marketdata.topics import INGEST, PARTITIONS
from runtime import recordings
from runtime.recordings import Recorded
from runtime.registry import Registry
from runtime.settings import CommonSettings

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"


@pytest.fixture(scope="session")
def recording() -> list[Recorded]:
    """The Coinbase Advanced Trade recording, as its lines."""
    path = RECORDINGS / "coinbase_advanced.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return list(recordings.read(path))


class Frames:
    """Writes Coinbase frames, numbered on as a connection does; `at` is seconds after a fixed moment."""

    def __init__(self, sequence: int = 0) -> None:
        self.sequence = sequence
        self.at = 0.0

    def time(self, at: float | None = None) -> str:
        """Return a time as Coinbase writes it."""
        return f"2026-08-09T21:00:{self.at if at is None else at:09.6f}Z"

    def frame(self, channel: str, events: list[Any], **envelope: Any) -> bytes:
        """Return one frame and go on to the next number."""
        sent = {"channel": channel, "timestamp": self.time(), "sequence_num": self.sequence, "events": events}
        self.sequence += 1
        return json.dumps(sent | envelope, separators=(",", ":")).encode()

    def lost(self, count: int = 1) -> None:
        """Number frames that never arrive."""
        self.sequence += count

    def book(self, kind: str, *levels: tuple[str, str, str], product: str = "BTC-USD", **event: Any) -> bytes:
        """Return an l2_data frame of levels (side, price, quantity)."""
        updates = [
            {"side": side, "event_time": self.time(), "price_level": price, "new_quantity": size}
            for side, price, size in levels
        ]
        return self.frame("l2_data", [{"type": kind, "product_id": product, "updates": updates} | event])

    def snapshot(self, product: str = "BTC-USD") -> bytes:
        """Return a small book."""
        return self.book("snapshot", ("bid", "100", "1"), ("bid", "99", "2"), ("offer", "101", "3"), product=product)

    def update(self, product: str = "BTC-USD") -> bytes:
        """Return one change of that book."""
        return self.book("update", ("bid", "100", "5"), product=product)

    def trades(self, *ids: int, kind: str = "update", product: str = "BTC-USD", side: str = "BUY") -> bytes:
        """Return a market_trades frame of these ids, newest first as Coinbase sends them."""
        trades = [
            {"product_id": product, "trade_id": str(i), "price": "100.5", "size": "0.1", "time": self.time(),
             "side": side}
            for i in sorted(ids, reverse=True)
        ]  # fmt: skip
        return self.frame("market_trades", [{"type": kind, "trades": trades}])

    def heartbeat(self) -> bytes:
        """Return a heartbeat, with the time in Go's own form."""
        now = f"2026-08-09 21:00:{self.at:09.6f} +0000 UTC m=+41691.260485341"
        return self.frame("heartbeats", [{"current_time": now, "heartbeat_counter": 41691}])

    def status(self, status: str = "online", product: str = "BTC-USD", **flags: bool) -> bytes:
        """Return a status frame of one product."""
        sent = {
            "product_type": "SPOT", "id": product, "base_currency": "BTC", "quote_currency": "USD",
            "base_increment": "0.00000001", "quote_increment": "0.01", "display_name": product, "status": status,
            "status_message": "", "min_market_funds": "1",
        }  # fmt: skip
        return self.frame("status", [{"type": "snapshot", "products": [sent | flags]}])


@pytest.fixture
def frames() -> Frames:
    """A writer of frames that begins at sequence 0."""
    return Frames()


@pytest.fixture(scope="session")
def make_frames() -> type[Frames]:
    """The writer's class, for property tests that need a new one for every example."""
    return Frames


@pytest.fixture(scope="module")
def codec(endpoints: Endpoints) -> Codec:
    """A codec whose schemas are registered."""
    registry = Registry(endpoints.registry_url)
    ids = {event.schema: registry.register(event.schema) for event in EVENTS}
    registry.close()
    return Codec(ids)


@pytest.fixture
def settings(endpoints: Endpoints, topic_prefix: str) -> CommonSettings:
    """Settings of this test's own topics, which exist."""
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_brokers})
    topics = {topic.physical(topic_prefix): topic for topic in INGEST.values()}
    created = admin.create_topics([NewTopic(name, num_partitions=PARTITIONS, replication_factor=1,
                                            config=topic.config()) for name, topic in topics.items()])  # fmt: skip
    for future in created.values():
        future.result(timeout=60)
    return CommonSettings(
        kafka_brokers=endpoints.kafka_brokers, registry_url=endpoints.registry_url, topic_prefix=topic_prefix
    )
