"""Reads the running platform's figures from outside: Kafka's offsets and each service's /metrics."""

from __future__ import annotations

import math
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS = 2.0
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library leaves it untyped


@dataclass(frozen=True)
class Hop:
    """Latency of one hop over the last window, milliseconds; quantiles are read off histogram buckets."""

    name: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Figures:
    """One reading of the platform. Rates are per second since the reading before."""

    topic_rates: dict[str, float] = field(default_factory=dict)
    topic_ends: dict[str, int] = field(default_factory=dict)
    lags: dict[str, int] = field(default_factory=dict)
    hops: list[Hop] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    valid: dict[str, bool] = field(default_factory=dict)
    silent: tuple[str, ...] = ()


class Reader:
    """Reads figures repeatedly; rates are relative to the previous reading."""

    def __init__(self, brokers: str, metrics: dict[str, str]) -> None:
        self._admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
        self._metrics = metrics
        self._ends: dict[str, int] = {}
        self._read_at = time.monotonic()
        self._buckets: dict[str, dict[float, float]] = {}

    def read(self) -> Figures:
        """Return the platform's figures now; what does not answer is named in `silent`."""
        silent = []
        try:
            ends, lags = self._offsets()
        except KafkaException:
            silent.append("kafka")
            ends, lags = dict(self._ends), {}
        now = time.monotonic()
        seconds = max(now - self._read_at, 1e-3)
        rates = {topic: (end - self._ends[topic]) / seconds for topic, end in ends.items() if topic in self._ends}
        self._ends, self._read_at = ends, now
        buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
        rows: dict[str, int] = defaultdict(int)
        valid: dict[str, bool] = {}
        for service, url in self._metrics.items():
            families = scrape(url)
            if families is None:
                silent.append(service)
                continue
            _collect(families, buckets, rows, valid)
        hops = [hop for name in buckets if (hop := self._hop(name, buckets[name]))]
        self._buckets = {name: dict(of_hop) for name, of_hop in buckets.items()}
        return Figures(rates, ends, lags, hops, dict(rows), valid, tuple(silent))

    def _offsets(self) -> tuple[dict[str, int], dict[str, int]]:
        topics = self._admin.list_topics(timeout=TIMEOUT_SECONDS).topics
        partitions = [
            TopicPartition(name, partition)
            for name, topic in topics.items()
            if not name.startswith("__")
            for partition in topic.partitions
        ]
        if not partitions:
            return {}, {}
        asked = self._admin.list_offsets(dict.fromkeys(partitions, LATEST), request_timeout=TIMEOUT_SECONDS)
        end_of = {}
        for partition, future in asked.items():
            with suppress(KafkaException):  # its topic was deleted meanwhile
                end_of[partition.topic, partition.partition] = future.result().offset
        ends: dict[str, int] = defaultdict(int)
        for (topic, _), offset in end_of.items():
            ends[topic] += offset
        listed = self._admin.list_consumer_groups(request_timeout=TIMEOUT_SECONDS).result().valid
        lags = {}
        for group in sorted(one.group_id for one in listed):
            request = [ConsumerGroupTopicPartitions(group)]
            answer = self._admin.list_consumer_group_offsets(request, request_timeout=TIMEOUT_SECONDS)[group].result()
            committed = [one for one in answer.topic_partitions or () if one.offset >= 0]
            if committed:
                lags[group] = sum(
                    max(0, end_of.get((one.topic, one.partition), one.offset) - one.offset) for one in committed
                )
        return dict(ends), lags

    def _hop(self, name: str, buckets: dict[float, float]) -> Hop | None:
        """Return the hop's latency since the reading before; None when nothing passed."""
        before = self._buckets.get(name, {})
        recent = {bound: count - before.get(bound, 0.0) for bound, count in buckets.items()}
        count = recent.get(math.inf, 0.0)
        if count <= 0:
            return None
        p50, p95, p99 = (quantile(recent, share) for share in (0.50, 0.95, 0.99))
        return Hop(name, int(count), p50, p95, p99)


def quantile(buckets: dict[float, float], share: float) -> float:
    """Return a quantile of a cumulative histogram, straight between a bucket's bounds, as Prometheus does.

    Beyond the last bound nothing is known but that it is more: infinity.
    """
    bounds = sorted(buckets)
    wanted = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        inside = buckets[bound] - below
        if buckets[bound] >= wanted and inside > 0:
            return bound if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / inside
        lower, below = bound, buckets[bound]
    return lower


def scrape(url: str) -> list[Metric] | None:
    """Return a service's metrics; None when it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - our own loopback address
            return list(text_string_to_metric_families(answer.read().decode()))
    except (OSError, ValueError):
        return None


def _collect(
    families: Iterable[Metric],
    buckets: dict[str, dict[float, float]],
    rows: dict[str, int],
    valid: dict[str, bool],
) -> None:
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "tickstream_hop_latency_ms_bucket":
                buckets[labels["hop"]][float(labels["le"])] += sample.value
            elif sample.name == "tickstream_rows_stored_total":
                rows[labels["table"]] += int(sample.value)
            elif sample.name == "tickstream_book_valid":
                valid[f"{labels['venue']}:{labels['symbol']}"] = sample.value == 1
