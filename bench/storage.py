"""The sink's write path against the plain ways to insert with psycopg: rows a second of the same trades, in one run.

Needs a running TimescaleDB (TICKSTREAM_DATABASE_URL); makes a schema of its own and removes it. Takes about 30 s:
`python bench/storage.py`. Each way stores the same events, batch by batch, one transaction each, with every index there
is. Beside the rows a second by the clock it prints processor time, which other load on the machine does not change:
of this process, and of the server's session where the server runs on this machine.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from marketdata.codec import Codec
from marketdata.errors import TickstreamError
from marketdata.events import EVENTS, Quote, Trade, Trades
from runtime.settings import DatabaseSettings, load
from sink import migrations
from sink.batch import Batch, Source
from sink.rows import COLUMNS, stored, timestamp
from sink.writer import Log, Writer

SECONDS_EACH = 4.0
BATCH_ROWS = 5_000
TRADES_EACH = 5
TOPIC = "bench"
START = 1_786_309_548_228_568_123
TYPES = (
    "timestamptz", "int8", "int8", "int8", "int4", "int4", "bool", "text", "bool", "numeric", "numeric", "text", "text",
    "text", "text", "text", "text", "text", "text", "int8",
)  # fmt: skip


def messages(number: int) -> Iterator[tuple[Trades, Source]]:
    """Yield the messages of the batch `number`, a millisecond apart."""
    for place in range(BATCH_ROWS // TRADES_EACH):
        offset = number * BATCH_ROWS // TRADES_EACH + place
        ts = START + offset * 1_000_000
        trades = tuple(
            Trade(
                trade_id=str(offset * TRADES_EACH + item),
                ts_event=ts + item,
                price=f"{64_000 + offset % 1_000}.{item:02}",
                size="0.12345678",
                side="buy" if item % 2 else "sell",
            )
            for item in range(TRADES_EACH)
        )
        event = Trades(
            venue="bench", symbol=f"S{offset % 8}-USD", ts_event=ts, ts_recv=ts, line="bench/0", trades=trades
        )
        yield event, Source(TOPIC, 0, offset, b"", b"")


def as_values(event: Trades, source: Source, *, exact: bool) -> list[tuple[Any, ...]]:
    """Return a message's rows as Python values, prices as Decimal when `exact`, else as text."""
    number, moment = (Decimal, as_datetime) if exact else (str, timestamp)
    return [
        (
            moment(trade.ts_event), trade.ts_event, event.ts_recv, source.offset, 0, item, event.valid, event.reason,
            trade.liquidation, number(trade.price), number(trade.size), trade.side, trade.action, trade.trade_id,
            trade.original_id, event.venue, event.symbol, event.line, event.origin, event.sequence,
        )
        for item, trade in enumerate(event.trades)
    ]  # fmt: skip


def as_datetime(ts: int) -> datetime:
    """Return UTC nanoseconds as psycopg's binary format wants them."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts // 1_000)


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process of this machine, 0 when it runs elsewhere."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def measure(name: str, way: Callable[[list[tuple[Trades, Source]], int], None], session: int) -> float:
    """Run one way for some seconds; print and return its rows a second."""
    rows, spent, client, number = 0, 0.0, 0.0, 0
    server = processor_seconds(session)
    while spent < SECONDS_EACH:
        work = list(messages(number))
        clock, own = time.perf_counter(), time.process_time()
        way(work, number)
        spent += time.perf_counter() - clock
        client += time.process_time() - own
        rows += BATCH_ROWS
        number += 1
    server = processor_seconds(session) - server
    print(
        f"{name:44} {rows / spent:8,.0f} rows/s {spent / number * 1_000:8.1f} ms a batch; processor "
        f"{client / rows * 1e6:5.1f} us a row here, {server / rows * 1e6:5.1f} us in the server"
    )
    return rows / (client + server)


def newest_session(connection: psycopg.Connection[Any]) -> int:
    """Return the process id of the writer's session: the sink's newest."""
    with connection.transaction():
        row = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'tickstream-sink' "
            "ORDER BY backend_start DESC LIMIT 1"
        ).fetchone()
    return int(row[0]) if row else 0


def decode_and_build() -> None:
    """Print what decoding and building rows cost without a database."""
    codec = Codec({event.schema: number for number, event in enumerate(EVENTS, 1)})
    trades, source = next(messages(0))
    quote = Quote(
        venue="bench", symbol="S0-USD", ts_event=START, ts_recv=START, line="bench/0", bid="64000.01", bid_size="0.5",
        ask="64000.02", ask_size="1.5", last="64000.01",
    )  # fmt: skip
    for event, rows in ((trades, TRADES_EACH), (quote, 1)):
        data = codec.encode(event)
        for name, work in (
            ("decode", lambda d=data: codec.decode(d)),
            ("rows", lambda e=event: stored(e, source, START)),
        ):
            start, count = time.process_time(), 0
            while time.process_time() - start < 0.5:
                work()
                count += 1
            each_us = (time.process_time() - start) / count * 1e6
            print(
                f"{name} {event.schema:8} {each_us:8.1f} us a message, {rows / each_us * 1e6:10,.0f} rows/s on one core"
            )


def main() -> None:
    """Print the hardware, then each way's figures."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.processor()
    load_1 = os.getloadavg()[0]
    print(
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, load {load_1:.1f} before the run"
    )
    settings = load(DatabaseSettings)
    url = settings.database_url.get_secret_value()
    schema = f"bench_{uuid.uuid4().hex[:8]}"
    migrations.upgrade(url, schema)
    connection = psycopg.connect(url, options=f"-c search_path={schema} -c timezone=UTC")
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS["trades"]))
    copy_text = sql.SQL("COPY trades ({}) FROM STDIN").format(columns)
    copy_binary = sql.SQL("COPY trades ({}) FROM STDIN (FORMAT BINARY)").format(columns)
    insert = sql.SQL("INSERT INTO trades ({}) VALUES ({})").format(
        columns, sql.SQL(", ").join(sql.Placeholder() * len(COLUMNS["trades"]))
    )
    codec = Codec({event.schema: number for number, event in enumerate(EVENTS, 1)})
    writer = Writer(url, schema, publish=lambda _: None, decode=codec.decode, now=time.time_ns)
    writer.locate({(TOPIC, 0): Log("bench", 0, 1)})

    def ours(work: list[tuple[Trades, Source]], number: int) -> None:
        batch = Batch()
        for event, source in work:
            batch.add(stored(event, source, START)[0])
        batch.passed((TOPIC, 0), number * len(work), (number + 1) * len(work))
        writer.write(batch)

    def text_rows(work: list[tuple[Trades, Source]], _: int) -> None:
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(copy_text) as copy:
            for event, source in work:
                for row in as_values(event, source, exact=False):
                    copy.write_row(row)

    def binary_rows(work: list[tuple[Trades, Source]], _: int) -> None:
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(copy_binary) as copy:
            copy.set_types(TYPES)
            for event, source in work:
                for row in as_values(event, source, exact=True):
                    copy.write_row(row)

    def executemany(work: list[tuple[Trades, Source]], _: int) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(insert, [row for one in work for row in as_values(*one, exact=False)])

    try:
        decode_and_build()
        pid = connection.info.backend_pid
        sink = measure("sink: events to rows, offsets, commit", ours, newest_session(connection))
        measure("psycopg: COPY text, write_row", text_rows, pid)
        measure("psycopg: COPY binary, write_row, Decimal", binary_rows, pid)
        plain = measure("psycopg: executemany INSERT (pipelined)", executemany, pid)
        print(
            f"by processor time the sink stores {sink:,.0f} rows a second of one core, {sink / plain:.1f} times as "
            "many as executemany, with offsets and checks"
        )
    finally:
        writer.close()
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        connection.commit()
        connection.close()


if __name__ == "__main__":
    try:
        main()
    except TickstreamError as problem:
        sys.exit(str(problem))
