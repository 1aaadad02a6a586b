"""Prepares Kafka's and the registry's classes once, so that each later start takes a third of the work.

The JVM is run once with the work of a first minute and writes what it has loaded and linked into a file (its
"ahead-of-time cache"), which later starts map into memory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local import servers
from infra.local.errors import StackError
from infra.local.folders import Folders
from infra.local.process import Answers, KafkaAnswers
from infra.local.settings import free_port

READY_SECONDS_MAX = 180.0
# After its end the JVM assembles the file: 15 s alone on two cores.
ASSEMBLY_SECONDS_MAX = 300.0


def train(folders: Folders, report: Callable[[str], None]) -> None:
    """Prepare what is not prepared yet. A failure is reported and costs only speed."""
    for name, exercise in (("kafka", _exercise_kafka), ("registry", _exercise_registry)):
        file = servers.aot_file(folders, name)
        if file.exists():
            continue
        began = time.monotonic()
        report(f"{name}: preparing for quick starts")
        draft = file.with_suffix(".draft")
        with tempfile.TemporaryDirectory(dir=folders.cache, prefix=f"training-{name}-") as scratch:
            try:
                exercise(folders, Path(scratch), f"-XX:AOTCacheOutput={draft}")
                draft.replace(file)
            except (StackError, OSError, KafkaException, subprocess.TimeoutExpired) as error:
                log = Path(scratch) / "log"
                shutil.copy(log, folders.cache / f"training-{name}.log") if log.exists() else None
                report(f"{name}: not prepared, starts will be slower ({error}; log: .local/cache/training-{name}.log)")
                continue
        report(f"{name}: prepared in {time.monotonic() - began:.0f} s")


def _exercise_kafka(folders: Folders, scratch: Path, option: str) -> None:
    port = free_port()
    config = scratch / "kafka.properties"
    config.write_text(servers.kafka_config(scratch / "data", port, free_port()))
    servers.format_kafka(folders, config)
    brokers = f"127.0.0.1:{port}"
    with _running(servers.kafka_command(folders, config, option), {}, KafkaAnswers(brokers), scratch / "log"):
        # The clients outlive the broker by a moment, which they would report at length.
        client: dict[str, str | int | float | bool] = {"bootstrap.servers": brokers, "log_level": 0}
        admin = AdminClient(client)
        admin.create_topics([NewTopic("training", 3, 1, config={"cleanup.policy": "compact"})])["training"].result(30)
        producer = Producer(client | {"transactional.id": "training", "linger.ms": 5})
        producer.init_transactions(30)
        producer.begin_transaction()
        for number in range(1000):
            producer.produce("training", b"x" * 100, key=str(number))
        producer.commit_transaction(30)
        reading = {"group.id": "training", "auto.offset.reset": "earliest", "enable.auto.commit": False}
        consumer = Consumer(client | reading)
        consumer.subscribe(["training"])
        if not consumer.consume(1000, timeout=30):
            raise StackError("the broker in training delivered nothing")
        consumer.commit(asynchronous=False)
        consumer.close()


def _exercise_registry(folders: Folders, scratch: Path, option: str) -> None:
    port = free_port()
    environment = servers.registry_environment(
        port, free_port(), servers.registry_in_file(scratch / "schemas", "training")
    )
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    command = servers.registry_command(folders, option)
    with _running(command, environment, Answers(f"{url}/subjects"), scratch / "log"):
        schema = {"type": "record", "name": "Training", "fields": [{"name": "price", "type": "string"}]}
        body = json.dumps({"schema": json.dumps(schema)}).encode()
        for method, path, data in (
            ("PUT", "config/training-value", b'{"compatibility": "FULL_TRANSITIVE"}'),
            ("POST", "subjects/training-value/versions", body),
            ("POST", "subjects/training-value/versions", body),
            ("POST", "subjects/training-value", body),
            ("GET", "schemas/ids/1", None),
            ("GET", "subjects", None),
        ):
            request = urllib.request.Request(  # noqa: S310 - our own loopback address
                f"{url}/{path}", data=data, method=method, headers={"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - as above


@contextmanager
def _running(
    command: tuple[str, ...], environment: dict[str, str], check: Answers | KafkaAnswers, log: Path
) -> Iterator[None]:
    """Run a server until the block ends, then wait until it has written its file."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}
        ) as process,
    ):
        try:
            deadline = time.monotonic() + READY_SECONDS_MAX
            while (fault := check.fault()) is not None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StackError(fault)
                time.sleep(0.1)
            yield
            process.terminate()
            process.wait(ASSEMBLY_SECONDS_MAX)
        finally:
            process.kill()
