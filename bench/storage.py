"""The sink from Kafka to stored rows, beside COPY of the same rows prepared in advance and plain inserts of psycopg.

`make bench-storage` starts servers of its own and stops them at the end; it takes about three minutes. For messages of
eight trades and of one, several runs each, it fills the topic of trades with committed transactions, starts the sink,
and measures from the first to the last stored row. The last run of each kind is interrupted by kill -9 and counted:
no row may be missing or stored twice. Beside rows a second by the clock it prints processor time, which other load on
the machine does not change: of the sink, and of its session in the server. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import httpx
import psutil
import psycopg
import typer
from confluent_kafka import Producer
from psycopg import sql

from bench.stack import machine, machine_text
from infra.local.folders import HOME
from infra.local.settings import free_port
from infra.local.shared import shared_infrastructure
from infra.local.table import Endpoints
from marketdata.codec import Codec
from marketdata.events import EVENTS, Trade, Trades
from marketdata.topics import TRADES
from runtime.admin import TopicAdmin
from runtime.kafka import producer_config
from runtime.registry import Registry
from runtime.settings import CommonSettings
from sink import migrations
from sink.batch import Source
from sink.binary import HEADER, TRAILER
from sink.rows import COLUMNS, stored, timestamp
from sink.service import TOPICS

PORT_BASE = int(os.environ.get("TICKSTREAM_BENCH_PORT_BASE", "29200"))
START = 1_786_309_548_228_568_123
SYMBOLS = 40
TRANSACTION_MESSAGES = 1_000
BATCH_ROWS = 20_000
TARGET_ROWS = 150_000
LIMIT_S = 300.0


class Run(NamedTuple):
    """What one run measured: rows a second by the clock, and processor microseconds a row."""

    rows_per_s: float
    sink_us: float
    server_us: float


def message(number: int, trades: int) -> Trades:
    """Return one message of the load: some symbol's trades, a millisecond after those of the message before."""
    ts = START + number * 1_000_000
    return Trades(
        venue="bench", symbol=f"S{number % SYMBOLS}-USD", ts_event=ts, ts_recv=ts + 500_000, line="bench/0",
        sequence=number,
        trades=tuple(
            Trade(
                trade_id=str(7_000_000_000 + number * trades + item), ts_event=ts + item,
                price=f"{64_000 + number % 1_000}.{item:02}", size="0.12345678", side="buy" if item % 2 else "sell",
            )
            for item in range(trades)
        ),
    )  # fmt: skip


class Load:
    """The topics and tables of one run, and the sink between them."""

    def __init__(self, where: Endpoints, folder: Path) -> None:
        self._where = where
        self._log = folder / "sink.log"
        self.prefix = f"b{uuid.uuid4().hex[:6]}."
        self.schema = f"b_{uuid.uuid4().hex[:6]}"
        self._port = free_port()
        self._kafka = CommonSettings(
            kafka_brokers=where.kafka_brokers, registry_url=where.registry_url, topic_prefix=self.prefix
        )
        TopicAdmin(self._kafka).apply(TOPICS)
        migrations.upgrade(where.database_url, self.schema)

    def fill(self, codec: Codec, messages: int, trades: int) -> None:
        """Write the load in transactions, as the stream workers do."""
        producer = Producer(producer_config(self._kafka, "bench") | {"transactional.id": self.prefix})
        producer.init_transactions(30)
        topic = TRADES.physical(self.prefix)
        for start in range(0, messages, TRANSACTION_MESSAGES):
            producer.begin_transaction()
            for number in range(start, min(start + TRANSACTION_MESSAGES, messages)):
                event = message(number, trades)
                producer.produce(topic, codec.encode(event), event.key.encode())
            producer.commit_transaction(60)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the sink with its usual settings."""
        environment = os.environ | self._where.environment() | {
            "TICKSTREAM_TOPIC_PREFIX": self.prefix,
            "TICKSTREAM_GROUP_PREFIX": self.prefix,
            "TICKSTREAM_DATABASE_SCHEMA": self.schema,
            "TICKSTREAM_METRICS_PORT": str(self._port),
            "TICKSTREAM_SINK_WORKER": "bench",
        }  # fmt: skip
        with self._log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "sink"], env=environment, stdout=log, stderr=log)

    def stored(self) -> int:
        """Return how many rows the running sink has stored."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self._port}/metrics", timeout=5, trust_env=False).text
        except httpx.HTTPError:
            return 0
        line = 'tickstream_rows_stored_total{table="trades"}'
        return sum(int(float(found.split()[-1])) for found in text.splitlines() if found.startswith(line))

    def wait(self, rows: int) -> int:
        """Wait until the running sink has stored so many rows; return how many it has."""
        deadline = time.monotonic() + LIMIT_S
        while (found := self.stored()) < rows:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found} of {rows} rows after {LIMIT_S:.0f} s; see {self._log}")
            time.sleep(0.1)  # each answer costs the sink some milliseconds
        return found

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the tables of this run."""
        with psycopg.connect(self._where.database_url, options=f"-c search_path={self.schema}") as connection:
            return connection.execute(sql.SQL(text)).fetchall()

    def drop(self) -> None:
        """Remove the tables."""
        with psycopg.connect(self._where.database_url) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(self.schema)))


@contextmanager
def running(load: Load) -> Iterator[subprocess.Popen[bytes]]:
    """A sink that ends with the context."""
    process = load.start()
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def processor_s(pids: list[int]) -> float:
    """Return the processor time that processes of this machine have used."""
    total = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        total += times.user + times.system
    return total


def sessions(load: Load) -> list[int]:
    """Return the process ids of the sink's sessions in the server."""
    return [pid for (pid,) in load.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'tickstream-sink'")]


def measure(load: Load, rows: int) -> Run:
    """Start the sink on a full topic and measure it from the first stored row to the last."""
    with running(load) as process:
        first = load.wait(1)
        clock, pids = time.perf_counter(), sessions(load)
        sink, server = processor_s([process.pid]), processor_s(pids)
        load.wait(rows)
        spent = time.perf_counter() - clock
        sink, server = processor_s([process.pid]) - sink, processor_s(pids) - server
    left = rows - first
    return Run(left / spent, sink / left * 1e6, server / left * 1e6)


def interrupt(load: Load, rows: int) -> float:
    """Kill the sink in the middle and start it again; return the seconds until it stores again, checking every row."""
    process = load.start()
    load.wait(rows // 4)
    process.kill()
    process.wait(10)
    clock = time.perf_counter()
    with running(load):
        load.wait(1)
        restart = time.perf_counter() - clock
        ((before,),) = load.query("SELECT count(*) FROM trades")
        while before < rows:
            time.sleep(0.2)
            ((before,),) = load.query("SELECT count(*) FROM trades")
    found = load.query("SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset, item)) FROM trades")
    if found != [(rows, rows)]:
        raise RuntimeError(f"{found[0][0]} rows, {found[0][1]} of them distinct, of {rows}")
    return restart


def prepared(where: Endpoints, rows: int, trades: int) -> Run:
    """Return the figures of COPY alone: the same rows, prepared, in transactions of the same size."""
    schema = f"b_{uuid.uuid4().hex[:6]}"
    migrations.upgrade(where.database_url, schema)
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS["trades"]))
    copy_in = sql.SQL("COPY trades ({}) FROM STDIN (FORMAT BINARY)").format(columns)
    batches, each = [], BATCH_ROWS // trades
    for start in range(0, rows // trades, each):
        lines = [
            record.data
            for number in range(start, start + each)
            for record in stored(message(number, trades), Source("t", number % 4, number // 4, b"", b""), 0)
        ]
        batches.append(HEADER + b"".join(lines) + TRAILER)
    with psycopg.connect(where.database_url, options=f"-c search_path={schema}") as connection:
        pids = [connection.info.backend_pid]
        connection.commit()
        clock, sink, server = time.perf_counter(), time.process_time(), processor_s(pids)
        for batch in batches:
            with connection.transaction(), connection.cursor() as cursor, cursor.copy(copy_in) as copy:
                copy.write(batch)
        spent = time.perf_counter() - clock
        sink, server = time.process_time() - sink, processor_s(pids) - server
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    return Run(rows / spent, sink / rows * 1e6, server / rows * 1e6)


def executemany(where: Endpoints, rows: int) -> Run:
    """Return the figures of psycopg's executemany, which sends inserts without waiting for each."""
    schema = f"b_{uuid.uuid4().hex[:6]}"
    migrations.upgrade(where.database_url, schema)
    insert = sql.SQL("INSERT INTO trades ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, COLUMNS["trades"])),
        sql.SQL(", ").join(sql.Placeholder() * len(COLUMNS["trades"])),
    )
    values = []
    for number in range(rows):
        event = message(number, 1)
        trade = event.trades[0]
        values.append((
            timestamp(trade.ts_event), trade.ts_event, event.ts_recv, number, 0, 0, event.valid, event.reason,
            trade.liquidation, trade.price, trade.size, trade.side, trade.action, trade.trade_id, trade.original_id,
            event.venue, event.symbol, event.line, event.origin, event.sequence, None, None,
        ))  # fmt: skip
    with psycopg.connect(where.database_url, options=f"-c search_path={schema} -c timezone=UTC") as connection:
        pids = [connection.info.backend_pid]
        connection.commit()
        clock, sink, server = time.perf_counter(), time.process_time(), processor_s(pids)
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(insert, values)
        spent = time.perf_counter() - clock
        sink, server = time.process_time() - sink, processor_s(pids) - server
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    return Run(rows / spent, sink / rows * 1e6, server / rows * 1e6)


def show(name: str, run: Run) -> None:
    """Print one line of figures."""
    print(
        f"{name:44} {run.rows_per_s:9,.0f} rows/s by the clock; processor {run.sink_us:5.2f} us a row here, "
        f"{run.server_us:5.2f} us in the server",
        flush=True,
    )


def main(
    rows: Annotated[int, typer.Option(help="Rows of each run.")] = 1_000_000,
    runs: Annotated[int, typer.Option(help="Runs of each kind; the median counts.")] = 3,
) -> None:
    """Measure how many rows a second the sink stores, from Kafka."""
    print(machine_text())
    with (
        tempfile.TemporaryDirectory() as folder,
        shared_infrastructure(HOME / "bench-storage", PORT_BASE, keep=False, report=print) as where,
    ):
        registry = Registry(where.registry_url)
        for event in EVENTS:
            registry.register(event.schema)
        codec = registry.codec()
        registry.close()
        figures: dict[str, Any] = {"machine": machine(), "rows": rows}
        for trades in (8, 1):
            found = []
            for number in range(runs):
                load = Load(where, Path(folder))
                load.fill(codec, rows // trades, trades)
                found.append(measure(load, rows // trades * trades))
                load.drop()
                show(f"sink, {trades} trades a message, run {number + 1}", found[-1])
            load = Load(where, Path(folder))
            load.fill(codec, rows // trades, trades)
            restart = interrupt(load, rows // trades * trades)
            load.drop()
            print(f"after kill -9 it stores again after {restart:.2f} s; every row is there once", flush=True)
            copies = [prepared(where, rows // 2, trades) for _ in range(runs)]
            for one in copies:
                show("COPY of prepared bytes", one)
            best, middle = max(one.rows_per_s for one in found), median(one.rows_per_s for one in found)
            copied = median(one.rows_per_s for one in copies)
            print(f"median {middle:,.0f} rows/s, best {best:,.0f}: {middle / copied:.2f} of COPY of prepared bytes")
            figures[f"trades_{trades}"] = {
                "median": round(middle), "best": round(best), "ratio_to_copy": round(middle / copied, 2),
                "copy": round(copied), "restart_s": round(restart, 2),
                "sink_us": round(median(one.sink_us for one in found), 2),
                "server_us": round(median(one.server_us for one in found), 2),
            }  # fmt: skip
        plain = executemany(where, rows // 20)
        show("psycopg: executemany INSERT", plain)
        figures["executemany"] = round(plain.rows_per_s)
    print(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
