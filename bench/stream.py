"""The stream path from Kafka to Kafka: throughput and latency of the pipeline, a bare copy and Quix Streams.

Starts a Kafka and a registry of its own and stops them at the end. For each way it sends a backlog, starts one worker
on one core, and takes the time from the first to the last output; then it sends at a pace and measures each message's
way. Every way is run several times in turn, and the best and the median are printed; a copy before that warms Kafka up.
Takes about ten minutes: `make bench-stream ARGS='--help'`.

- pipeline: md.ingest.trades to md.trades and md.candles (and whatever else the operators publish), exactly once.
- copy: a bare librdkafka loop that copies the same messages in transactions. It decodes nothing.
- quix: Quix Streams, de-duplication by trade id and one-minute candles, at least once, without our guarantees.

Processor time is the worker's own, which other load on the machine changes little.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import psutil
import typer
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bench import stream_load
from infra.local.folders import HOME, PROJECT
from infra.local.shared import shared_infrastructure
from marketdata import topics
from marketdata.codec import Codec
from marketdata.events import EVENTS, AnyEvent
from marketdata.headers import HOPS, Hops, encode_times
from runtime.admin import TopicAdmin
from runtime.kafka import producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings, load

PORT_BASE = 30_400
LIMIT_S = 120.0
START_NS = 1_780_000_000_000_000_000
STEP_NS = 100_000
PACED_S = 10
# Before them, unmeasured.
WARM_S = 5
TRACE = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00"
Way = Literal["direct", "faust", "copy", "quix"]
ALL: tuple[Way, ...] = ("direct", "faust", "copy", "quix")
QUIX = HOME / "quix" / "bin" / "python"


class Load(msgspec.Struct, frozen=True):
    """One kind of backlog: its input and output topic (logical), and how many events each message carries."""

    name: str
    source: str
    target: str
    messages: int
    each: int

    def events(self) -> Iterable[AnyEvent]:
        """Return the messages' events."""
        if self.source == topics.INGEST_BOOKS.name:
            return stream_load.books(self.messages, START_NS, STEP_NS)
        return stream_load.trades(self.messages, self.each, START_NS, STEP_NS)


LOADS = (
    Load("one trade a message", topics.INGEST_TRADES.name, topics.TRADES.name, 200_000, 1),
    Load("eight trades a message", topics.INGEST_TRADES.name, topics.TRADES.name, 60_000, 8),
    Load("book updates of ten levels", topics.INGEST_BOOKS.name, topics.BOOK_UPDATES.name, 100_000, 1),
)


class Rate(msgspec.Struct, frozen=True):
    """Messages a second by the clock, and the worker's processor time for each message, microseconds."""

    per_second: float
    cpu_us: float


class Lab:
    """Topics of one run, what is sent to them and what comes out."""

    def __init__(self, brokers: str, registry: str) -> None:
        self.prefix = f"bench{uuid.uuid4().hex[:6]}."
        self.settings = load(CommonSettings, topic_prefix=self.prefix, kafka_brokers=brokers, registry_url=registry)
        client = Registry(registry)
        self.codec = Codec({event.schema: client.register(event.schema) for event in EVENTS})
        client.close()
        TopicAdmin(self.settings).apply()
        self.producer = Producer(producer_config(self.settings, "bench") | {"queue.buffering.max.messages": 1_000_000})
        self._partitions: dict[str, int] = {}

    def physical(self, name: str) -> str:
        """Return Kafka's name of a topic."""
        return topics.topic(name).physical(self.prefix)

    def send(self, topic: str, event: AnyEvent, now_ns: int) -> None:
        """Send one event as a producer does: each symbol to one partition."""
        number = self._partitions.setdefault(event.symbol, len(self._partitions) % topics.PARTITIONS)  # type: ignore[union-attr]
        self.producer.produce(
            topic,
            key=event.key.encode(),
            value=self.codec.encode(event),
            partition=number,
            headers=[("traceparent", TRACE), (HOPS, encode_times(now_ns, now_ns))],
        )

    def send_backlog(self, what: Load) -> None:
        """Send all of a load."""
        topic = self.physical(what.source)
        for number, event in enumerate(what.events()):
            self.send(topic, event, START_NS)
            if number % 1_000 == 0:
                self.producer.poll(0)
        self.producer.flush(60)

    def arrivals(self, topic: str, count: int) -> Iterator[tuple[int, Any]]:
        """Yield when each committed record of a topic arrived here, and the record, until there are so many."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.kafka_brokers,
                "group.id": f"{self.prefix}bench",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 5,
            }
        )
        consumer.assign([TopicPartition(topic, number, 0) for number in range(topics.PARTITIONS)])
        deadline = time.monotonic() + LIMIT_S
        found = 0
        while found < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found} of {count} records in {topic} after {LIMIT_S:.0f} s")
            # Not `consume` with a time-out, which waits for that long where less than all that it may return is there.
            first = consumer.poll(0.02)
            for message in [] if first is None else [first, *consumer.consume(1_000, 0.0)]:
                if message.error() is None:
                    found += 1
                    yield time.time_ns(), message
        consumer.close()

    def await_written(self, topic: str, count: int) -> None:
        """Wait until a topic has so many records, or marks of transactions; reads none, which takes much of a core."""
        consumer = Consumer({"bootstrap.servers": self.settings.kafka_brokers, "group.id": f"{self.prefix}ends"})
        deadline = time.monotonic() + LIMIT_S
        partitions = [TopicPartition(topic, number) for number in range(topics.PARTITIONS)]

        def written() -> int:
            try:
                return sum(consumer.get_watermark_offsets(each, 10)[1] for each in partitions)
            except KafkaException:  # new partitions have no leader for a moment
                return 0

        while written() < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} has less than {count} records after {LIMIT_S:.0f} s")
            time.sleep(0.02)
        consumer.close()

    def remove(self) -> None:
        """Delete the topics."""
        admin = AdminClient({"bootstrap.servers": self.settings.kafka_brokers})
        for removed in admin.delete_topics([topic.physical(self.prefix) for topic in topics.TOPICS]).values():
            removed.result(30)


def command(way: Way, lab: Lab, what: Load) -> tuple[list[str], dict[str, str]]:
    """Return how a way's worker starts, and its environment."""
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "TICKSTREAM_KAFKA_BROKERS": lab.settings.kafka_brokers,
        "TICKSTREAM_REGISTRY_URL": lab.settings.registry_url,
        "TICKSTREAM_TOPIC_PREFIX": lab.prefix,
        "TICKSTREAM_GROUP_PREFIX": lab.prefix,
        "TICKSTREAM_METRICS_PORT": "0",
    }
    if way == "copy":
        script = str(Path(__file__).with_name("stream_copy.py"))
        copied = (lab.physical(what.source), lab.physical(what.target))
        return [sys.executable, script, lab.settings.kafka_brokers, *copied], environment
    if way == "quix":
        script = str(Path(__file__).parent / "quix" / "candles.py")
        schema = str(PROJECT / "schemas/trades.avsc")
        names = (lab.physical(what.source), lab.physical(what.target), lab.physical(topics.CANDLES.name))
        return [str(QUIX), script, lab.settings.kafka_brokers, *names, schema], environment
    return [sys.executable, "-m", "stream_apps"], environment | {"TICKSTREAM_ENGINE": way}


def started(way: Way, lab: Lab, what: Load, core: int) -> subprocess.Popen[bytes]:
    """Start a way's worker on one core."""
    words, environment = command(way, lab, what)
    log = (HOME / "log" / f"bench-stream-{way}.log").open("wb")
    worker = subprocess.Popen(words, env=environment, stderr=log, stdout=log)
    psutil.Process(worker.pid).cpu_affinity([core])
    return worker


def stop(worker: subprocess.Popen[bytes]) -> None:
    """End a worker."""
    worker.terminate()
    try:
        worker.wait(20)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait(10)


def backlog(way: Way, brokers: str, registry: str, what: Load, core: int) -> Rate:
    """Return how fast a way works off a backlog."""
    lab = Lab(brokers, registry)
    lab.send_backlog(what)
    target = lab.physical(what.target)
    worker: subprocess.Popen[bytes] | None = None
    try:
        worker = started(way, lab, what, core)
        process = psutil.Process(worker.pid)
        lab.await_written(target, 1)
        before, began = process.cpu_times(), time.monotonic()
        lab.await_written(target, what.messages)
        after, ended = process.cpu_times(), time.monotonic()
        for _ in lab.arrivals(target, what.messages):
            pass  # all of them are committed, and none is a mark
    finally:
        if worker is not None:
            stop(worker)
        lab.remove()
    used = after.user + after.system - before.user - before.system
    return Rate(what.messages / (ended - began), used / what.messages * 1e6)


def paced(way: Way, brokers: str, registry: str, rate: int, core: int) -> list[float]:
    """Return milliseconds from the hand-over to Kafka to the arrival at a consumer, at so many messages a second."""
    lab = Lab(brokers, registry)
    count = rate * PACED_S
    what = LOADS[0]
    topic = lab.physical(what.source)
    warm = rate * WARM_S
    worker = started(way, lab, what, core)
    delays: list[float] = []

    def send() -> None:
        # Event time is the clock's: candles open and close as they do live.
        events = stream_load.trades(1 + warm + count, 1, time.time_ns(), int(1e9 / rate))
        lab.send(topic, next(events), time.time_ns())
        lab.await_written(lab.physical(what.target), 1)  # the worker has started
        began = time.monotonic()
        for number, event in enumerate(events):
            # Those of one millisecond at once, as from a socket: to sleep for each would take much of a core.
            ahead = began + int(number / rate * 1e3) / 1e3 - time.monotonic()
            if ahead > 0:
                lab.producer.poll(0)
                time.sleep(ahead)
            lab.send(topic, event, time.time_ns())
        lab.producer.flush(30)

    sender = threading.Thread(target=send, daemon=True)
    try:
        arrivals = lab.arrivals(lab.physical(what.target), 1 + warm + count)
        sender.start()
        for number, (at, message) in enumerate(arrivals):
            # Not each of many: to read the headers of all would take much of a core.
            if number > warm and number % max(1, rate // 1_000) == 0:
                headers = dict(message.headers() or ())
                delays.append((at - Hops.from_header(headers[HOPS]).t_produced) / 1e6)
    finally:
        stop(worker)
        sender.join(30)
        lab.remove()
    return delays


def show_rates(what: Load, rates: dict[Way, list[Rate]]) -> None:
    """Print best and median of each way, with the ratio to the others."""
    best = {way: max(rate.per_second for rate in found) for way, found in rates.items() if found}
    print(f"\n{what.name}: {what.messages:,} messages")
    for way, found in rates.items():
        if not found:
            continue
        median = statistics.median(rate.per_second for rate in found)
        cpu = statistics.median(rate.cpu_us for rate in found)
        events = f", {best[way] * what.each:,.0f} trades/s" if what.each > 1 else ""
        ratios = ", ".join(
            f"{best[way] / best[other]:.2f} of {other}" for other in ("copy", "quix") if other in best and other != way
        )
        print(f"  {way:7} best {best[way]:>10,.0f}/s, median {median:>10,.0f}/s{events}")
        print(f"          {cpu:.1f} us of its core a message{'; ' + ratios if ratios else ''}")


def compare(ways: list[Way], runs: int, what: Load, brokers: str, registry: str, core: int) -> None:  # noqa: PLR0917 - one call each
    """Run a backlog through every way in turn, so many times, and print the rates."""
    found: dict[Way, list[Rate]] = {way: [] for way in ways if way != "quix" or what.source == LOADS[0].source}
    for _ in range(runs):
        for way, results in found.items():
            results.append(backlog(way, brokers, registry, what, core))
            print(f"  {way} {results[-1].per_second:,.0f}/s, {results[-1].cpu_us:.1f} us", flush=True)
    show_rates(what, found)


def delay(way: Way, runs: int, rate: int, brokers: str, registry: str, core: int) -> None:  # noqa: PLR0917 - one call each
    """Measure a way's latency at a rate, so many times, and print it."""
    found = []
    for _ in range(runs):
        cuts = statistics.quantiles(paced(way, brokers, registry, rate, core), n=100)
        found.append((cuts[49], cuts[98]))
    p50, p99 = min(found)
    median = statistics.median(each for each, _ in found)
    print(f"{way} at {rate:,}/s: best p50 {p50:.2f} ms, p99 {p99:.2f} ms; median p50 {median:.2f} ms", flush=True)


def main(  # noqa: PLR0917 - options of the command line
    ways: Annotated[str, typer.Option(help="Which ways to run, by comma.")] = "direct,faust,copy,quix",
    runs: Annotated[int, typer.Option(min=1, help="How many times each.")] = 3,
    scale: Annotated[float, typer.Option(min=0.01, help="Size of the backlogs, as a factor.")] = 1.0,
    loads: Annotated[str, typer.Option(help="Which backlogs, by number from 1, by comma.")] = "1,2,3",
    rates: Annotated[str, typer.Option(help="Messages a second of the latency runs; empty for none.")] = "500,10000",
    core: Annotated[int, typer.Option(help="The core that the worker gets; the last one by default.")] = -1,
) -> None:
    """Measure the stream path: backlog and latency of each way. Example: --ways direct,copy --runs 1 --rates ''."""
    core = core if core >= 0 else (psutil.cpu_count() or 1) - 1
    chosen: list[Way] = [way for way in ALL if way in ways.split(",")]
    if "quix" in chosen and not QUIX.exists():
        print("quix is not installed (make bench-stream installs it): left out")
        chosen.remove("quix")
    machine = f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; the worker has core {core}, Kafka and the rest all")
    with shared_infrastructure(HOME / "bench-stream", PORT_BASE, keep=False, report=print) as where:
        warm = backlog("copy", where.kafka_brokers, where.registry_url, LOADS[0], core)
        print(f"  to warm Kafka up: copy {warm.per_second:,.0f}/s", flush=True)
        for number in [int(each) for each in loads.split(",") if each]:
            one = LOADS[number - 1]
            what = msgspec.structs.replace(one, messages=int(one.messages * scale))
            compare(chosen, runs, what, where.kafka_brokers, where.registry_url, core)
        for rate in [int(each) for each in rates.split(",") if each]:
            for way in chosen:
                if way != "quix":
                    delay(way, runs, rate, where.kafka_brokers, where.registry_url, core)


if __name__ == "__main__":
    typer.run(main)
