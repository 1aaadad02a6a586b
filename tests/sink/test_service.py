"""The sink as a process between the real Kafka and TimescaleDB: killed, disconnected, duplicated, given bad records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from marketdata.events import (
    Book,
    Candle,
    DeadLetter,
    Derivative,
    FeedStatus,
    Instrument,
    Liquidation,
    Quote,
    Trades,
)
from marketdata.headers import HOPS, Hops
from marketdata.topics import BOOKS, DEAD_LETTERS, QUOTES, TRADES, VENUE_CANDLES
from runtime.health import Readiness
from runtime.registry import Registry
from sink import migrations
from sink.service import connect_registry

TS = 1_786_309_548_228_568_123
SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD", "DOGE-USD", "ADA-USD", "XRP-USD", "LTC-USD", "DOT-USD")
MESSAGES, EACH = 4_000, 3
ROOT = Path(__file__).parents[2]


def stream(trades: Callable[..., Trades], start: int = 0, messages: int = MESSAGES) -> list[Trades]:
    """Return messages of three trades for each symbol in turn."""
    return [
        trades(number, count=EACH, symbol=SYMBOLS[number % len(SYMBOLS)]) for number in range(start, start + messages)
    ]


def expected(messages: int = MESSAGES) -> list[str]:
    """Return every trade id of the stream, sorted."""
    return sorted(
        f"{SYMBOLS[number % len(SYMBOLS)]}/{number}/{item}" for number in range(messages) for item in range(EACH)
    )


def trade_ids(services: Any) -> list[str]:
    """Return every stored trade id, sorted; a row stored twice appears twice."""
    return sorted(row[0] for row in services.rows("SELECT trade_id FROM trades"))


def test_killed_repeatedly_it_stores_each_row_exactly_once(services: Any, trades: Callable[..., Trades]) -> None:
    """Kill -9 during a COMMIT, which alternately succeeds or fails: no row is missing or stored twice."""
    messages, fates = 500, ("lost", "stored", "lost", "stored")
    for number, fate in enumerate(fates):
        services.start(TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
        services.produce(stream(trades, start=number * messages, messages=messages // 2))
        services.wait_rows("trades", number * messages * EACH + 60)
        with services.commits_held() as wait_for_commit:
            services.produce(stream(trades, start=number * messages + messages // 2, messages=messages // 2))
            session = wait_for_commit()
            before = services.count("trades")
            services.kill()
            if fate == "lost":
                services.end_session(session)
        assert (services.count("trades") > before) == (fate == "stored")
    services.start()
    services.wait_rows("trades", len(expected(len(fates) * messages)))
    assert services.stop() == 0
    assert trade_ids(services) == expected(len(fates) * messages)


def test_stopped_during_start_up_it_exits_cleanly(services: Any) -> None:
    """A signal that arrives before the settings, the registry and Kafka are ready is neither lost nor a crash."""
    services.start()
    assert services.stop() == 0


def test_a_restart_resumes_at_the_stored_offsets(services: Any, trades: Callable[..., Trades]) -> None:
    """Stored records are not read again, whatever offsets are committed in Kafka."""
    services.produce(stream(trades, messages=100))
    services.start()
    services.wait_rows("trades", 300)
    assert services.stop() == 0
    assert services.committed() == 100
    with psycopg.connect(services.endpoints.database_url, options=f"-c search_path={services.schema}") as owner:
        # As after restoring an older backup of the database, which decides, not Kafka.
        topic, partition, offset = owner.execute(
            "SELECT topic, partition, next_offset FROM kafka_offsets WHERE next_offset > 10 LIMIT 1"
        ).fetchone() or ("", 0, 0)
        owner.execute("DELETE FROM trades WHERE kafka_partition = %s AND kafka_offset >= %s", [partition, offset - 10])
        owner.execute(
            "UPDATE kafka_offsets SET next_offset = %s WHERE topic = %s AND partition = %s",
            [offset - 10, topic, partition],
        )
    services.produce(stream(trades, start=100, messages=10))
    services.start()
    services.wait_rows("trades", 330)
    assert services.stop() == 0
    assert trade_ids(services) == expected(110)


def test_terminated_connections_lose_nothing(
    services: Any, gate: tuple[Any, str], trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """The server repeatedly terminates the sink's session while it writes."""
    proxy, dsn = gate
    rounds, messages = 4, 1_000
    services.start(TICKSTREAM_SINK_DATABASE_URL=dsn, TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    for number in range(rounds):
        services.produce(stream(trades, start=number * messages, messages=messages))
        services.wait_rows("trades", services.count("trades") + 300)
        wait_for("a session to end", lambda: _terminate(services, proxy.ports()))
    services.wait_rows("trades", rounds * messages * EACH)
    # If the last session ended with nothing left to store, the sink notices with its next query.
    wait_for("each end", lambda: (services.metric('tickstream_sink_rewinds_total{reason="database"}') or 0) >= rounds)
    assert services.stop() == 0
    assert trade_ids(services) == expected(rounds * messages)


def _terminate(services: Any, ports: list[int]) -> bool:
    """Terminate the sessions from these ports on the server; return whether there was one."""
    with psycopg.connect(services.endpoints.sink_database_url, autocommit=True) as same_role:
        ended = same_role.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE client_port = ANY(%s)", [ports]
        ).fetchall()
    return (True,) in ended


def test_an_unavailable_database_pauses_the_sink_until_it_is_back(
    services: Any, gate: tuple[Any, str], trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """Meanwhile /readyz states the reason and nothing is read from Kafka; then every row is stored once."""
    proxy, dsn = gate
    services.produce(stream(trades, messages=1_000))
    services.start(TICKSTREAM_SINK_DATABASE_URL=dsn, TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    services.wait_rows("trades", 300)
    assert services.ready().status_code == 200
    proxy.close()
    wait_for("not ready", lambda: services.ready().status_code == 503)
    report = services.ready().json()
    assert {name for name, state in report["checks"].items() if state != "ok"} == {"database"}
    services.produce(stream(trades, start=1_000, messages=1_000))
    wait_for("three attempts", lambda: (services.metric('tickstream_sink_rewinds_total{reason="database"}') or 0) >= 3)
    assert services.metric("tickstream_sink_queue_rows") == 0
    assert services.processes["sink"].poll() is None
    proxy.open()
    services.wait_rows("trades", 6_000)
    wait_for("ready again", lambda: services.ready().status_code == 200)
    assert services.stop() == 0
    assert trade_ids(services) == expected(2_000)


def test_an_interrupted_commit_loses_nothing(
    services: Any, gate: tuple[Any, str], trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """The connection breaks during COMMIT, alternately before and after it takes effect."""
    proxy, dsn = gate
    services.produce(stream(trades, messages=2_000))
    services.start(TICKSTREAM_SINK_DATABASE_URL=dsn, TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    for number, when in enumerate(("before", "after", "before", "after"), 1):
        services.wait_rows("trades", number * 300)
        proxy.cut_commit = when
        wait_for("the cut", lambda: proxy.cut_commit is None)
    services.wait_rows("trades", 6_000)
    assert services.stop() == 0
    assert trade_ids(services) == expected(2_000)


def test_a_sink_that_was_frozen_during_a_rebalance_stores_nothing_twice(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """It continues with a batch after another sink took over its partitions: the database refuses the batch."""
    services.produce(stream(trades))
    services.start("first", TICKSTREAM_SINK_WORKER="", TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    services.wait_rows("trades", 600)
    services.signal(signal.SIGSTOP, "first")
    # Its open transaction, if any, locks the offsets until the server terminates it.
    services.start("second", TICKSTREAM_SINK_WORKER="", TICKSTREAM_SINK_WRITE_SECONDS="2")
    services.wait_rows("trades", 9_000)
    services.signal(signal.SIGCONT, "first")
    services.produce(stream(trades, start=MESSAGES, messages=1_000))
    services.wait_rows("trades", len(expected(MESSAGES + 1_000)))
    wait_for("both ready", lambda: services.ready("first").status_code == services.ready("second").status_code == 200)
    assert services.stop("first") == 0
    assert services.stop("second") == 0
    assert trade_ids(services) == expected(MESSAGES + 1_000)


def test_a_sink_exits_when_another_one_takes_its_name(services: Any, trades: Callable[..., Trades]) -> None:
    """Kafka ends its membership permanently; if it kept running, it would seem ready and never store anything."""
    services.produce(stream(trades))
    services.start("first", TICKSTREAM_SINK_WORKER="same")
    services.wait_rows("trades", 600)
    services.signal(signal.SIGSTOP, "first")
    services.start("second", TICKSTREAM_SINK_WORKER="same", TICKSTREAM_SINK_WRITE_SECONDS="2")
    services.wait_rows("trades", len(expected()))
    services.signal(signal.SIGCONT, "first")
    assert services.processes["first"].wait(60) not in {0, -signal.SIGKILL}
    services.produce(stream(trades, start=MESSAGES, messages=100))
    services.wait_rows("trades", len(expected(MESSAGES + 100)))
    assert services.stop("second") == 0
    assert trade_ids(services) == expected(MESSAGES + 100)


def test_several_sinks_write_in_parallel_and_share_the_partitions(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """Both store rows at the same time; one is killed, the other takes over, and each row is stored once."""
    services.start("first", TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    services.start("second", TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    count, line = 0, 'tickstream_rows_stored_total{table="trades"}'

    def both_store() -> bool:
        nonlocal count
        services.produce(stream(trades, start=count, messages=200))
        count += 200
        return all((services.metric(line, name) or 0) > 0 for name in ("first", "second"))

    wait_for("both to store", both_store)
    services.kill("first")
    services.produce(stream(trades, start=count, messages=1_000))
    services.wait_rows("trades", len(expected(count + 1_000)))
    assert services.stop("second") == 0
    assert trade_ids(services) == expected(count + 1_000)


def test_bad_records_become_dead_letters_and_the_rest_is_stored(services: Any, trades: Callable[..., Trades]) -> None:
    """Bytes that are not Avro, an unknown schema, a wrong record, a bad number and a NUL, among good trades."""
    good = stream(trades, messages=40)
    services.produce(good[:20])
    a_quote = Quote(venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS, line="l", bid="1")
    bad = {
        "undecodable": (TRADES, b"no avro at all"),
        "schema": (TRADES, b"\x00\x7f\xff\xff\xffbody"),
        "wrong_schema": (TRADES, services.codec.encode(a_quote)),
        "not_a_decimal": (QUOTES, services.codec.encode(Quote(**{**_fields(a_quote), "bid": "NaN"}))),
        "control_character": (QUOTES, services.codec.encode(Quote(**{**_fields(a_quote), "line": "\x00"}))),
    }
    for topic, value in bad.values():
        services.produce_bytes(topic, b"coinbase:BTC-USD", value)
    # A bad record in the topic of dead letters must not cause another dead letter.
    services.produce_bytes(DEAD_LETTERS, b"coinbase:BTC-USD", b"broken")
    services.produce([*good[20:], a_quote])
    services.start()
    services.wait_rows("trades", 120)
    services.wait_rows("quotes", 1)
    services.wait_rows("dead_letters", 6)
    letters = services.letters(6)
    assert services.stop() == 0
    reasons = ["control_character", "not_a_decimal", "undecodable", "undecodable", "undecodable", "wrong_schema"]
    assert [row[0] for row in services.rows("SELECT reason FROM dead_letters ORDER BY 1")] == reasons
    assert sorted(letter.reason for letter, _ in letters) == reasons
    assert {(bytes(row[0]), row[1]) for row in services.rows("SELECT payload, stage FROM dead_letters")} == {
        (value, "sink") for _, value in bad.values()
    } | {(b"broken", "sink")}
    assert all(
        headers["ce_id"] == f"{letter.topic}|{letter.partition}|{letter.offset}".encode() for letter, headers in letters
    )
    assert trade_ids(services) == expected(40)
    services.start()
    services.produce(stream(trades, start=40, messages=1))
    services.wait_rows("trades", 123)
    assert services.stop() == 0
    assert services.count("dead_letters") == 6


def test_one_bad_trade_does_not_affect_the_rest_of_its_message(services: Any, trades: Callable[..., Trades]) -> None:
    """A NUL in the id of one of three trades: two are stored, and the dead letter contains only that one."""
    good = trades(1, count=3)
    bad = msgspec.structs.replace(good.trades[1], trade_id="20f43950-\x0027")
    services.produce(
        [trades(0), msgspec.structs.replace(good, trades=(good.trades[0], bad, good.trades[2])), trades(2)]
    )
    services.start()
    services.wait_rows("trades", 4)
    services.wait_rows("dead_letters", 1)
    ((letter, headers),) = services.letters(1)
    assert services.stop() == 0
    assert services.rows("SELECT trade_id, item FROM trades WHERE sequence = 1 ORDER BY item") == [
        ("BTC-USD/1/0", 0), ("BTC-USD/1/2", 2),
    ]  # fmt: skip
    assert (letter.reason, letter.field, letter.offset) == ("control_character", "trade_id", 1)
    assert msgspec.json.decode(letter.payload, type=Trades) == msgspec.structs.replace(good, trades=(bad,))
    assert headers["ce_id"] == f"{letter.topic}|{letter.partition}|1|1".encode()
    assert services.rows("SELECT payload, reason FROM dead_letters") == [(letter.payload, "control_character")]


def _fields(quote: Quote) -> dict[str, Any]:
    return {name: getattr(quote, name) for name in quote.__struct_fields__}


class Hurried(threading.Event):
    """An event whose waits return at once, and which is set after a number of them."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.left = waits

    def wait(self, timeout: float | None = None) -> bool:
        """Count."""
        assert timeout is not None
        self.left -= 1
        if not self.left:
            self.set()
        return self.is_set()


def test_however_long_the_registry_is_unavailable_it_is_tried_again() -> None:
    """Even after hours: the delay between attempts is bounded."""
    stop, readiness = Hurried(1_100), Readiness("registry")
    assert connect_registry(Registry("http://127.0.0.1:9"), readiness, stop) is None
    assert stop.left == 0
    assert not readiness.is_up("registry")


def test_every_topic_is_stored_in_its_table(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """One event of each, with tombstones skipped and all offsets counted."""
    source: dict[str, Any] = {"venue": "coinbase", "symbol": "BTC-USD", "ts_event": TS, "ts_recv": TS, "line": "l"}
    levels: dict[str, Any] = {"bid_prices": ["1"], "bid_sizes": ["2"], "ask_prices": ["3"], "ask_sizes": ["4"]}
    instrument = Instrument(
        venue="coinbase", symbol="BTC-USD", ts_recv=TS, venue_symbol="BTC-USD", base_currency="BTC",
        quote_currency="USD",
    )  # fmt: skip
    letter = DeadLetter(venue="v", symbol="*", ts_recv=TS, stage="feed", reason="malformed", payload=b"{")
    forced = Liquidation(ts_event=TS, side="sell", price="64000.10", size="0.50")
    services.start()
    services.produce(
        [
            trades(0),
            trades(1, count=0),
            Quote(**source, bid="1"),
            Derivative(**source, mark_price="1.50", liquidations=(forced,)),
            Book(**source, valid=True, depth=10, **levels),
            FeedStatus(**source, kind="gap", gap_id="g", expected=1, received=3),
            instrument,
            letter,
        ]
    )
    bar = Candle(venue="alpaca", symbol="AAPL", interval="1m", start=0, end=60, ts_event=TS, ts_recv=TS, state="final")
    services.produce_bytes(VENUE_CANDLES, bar.key.encode(), services.codec.encode(bar))
    services.produce_bytes(BOOKS, b"coinbase:OLD-USD", None)
    services.producer.flush(10)
    for table in (
        "trades", "quotes", "derivatives", "books", "feed_status", "gaps", "instruments", "dead_letters",
        "venue_candles",
    ):  # fmt: skip
        services.wait_rows(table, 1)
    assert services.rows("SELECT mark_price::text, index_price FROM derivatives") == [("1.50", None)]
    assert services.rows("SELECT liquidations->0->>'price', liquidations->0->>'size' FROM derivatives") == [
        ("64000.10", "0.50")
    ]
    wait_for("all offsets", lambda: services.rows("SELECT sum(next_offset) FROM kafka_offsets") == [(10,)])
    wait_for("the open gap shown", lambda: services.metric('tickstream_gaps_open{venue="coinbase"}') == 1)
    services.produce([FeedStatus(**source, kind="resynced", gap_id="g", reason="snapshot")])
    wait_for("the gap closed", lambda: services.metric('tickstream_gaps_open{venue="coinbase"}') == 0)
    assert services.rows("SELECT state, repaired_by FROM gaps") == [("repaired", "snapshot")]
    assert services.count("books") == 1
    wait_for(
        "no lag", lambda: services.metric('tickstream_sink_lag{topic="%sd.books.v1"}' % (services.prefix + "m")) == 0
    )
    assert services.stop() == 0
    assert services.committed() == 11


def test_its_metrics_and_log_are_complete(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """Rows and latencies in /metrics; the log is JSON and never contains the database's password."""
    now = time.time_ns()
    hops = {HOPS: Hops(now, now + 1, now + 2).to_header()}
    services.start()
    services.produce([trades(0, count=3)], hops)
    wait_for("rows counted", lambda: services.metric('tickstream_rows_stored_total{table="trades"}') == 3)
    assert services.metric("market_data_write_latency_ms_count") == services.metric("tickstream_sink_batch_rows_count")
    for hop in ("received_to_stored", "processed_to_stored"):
        assert services.metric(f'tickstream_hop_latency_ms_count{{hop="{hop}"}}') == 1
    assert services.stop() == 0
    lines = (services._folder / "sink.log").read_text().splitlines()
    assert {json.loads(line)["event"] for line in lines} >= {"assigned", "reading", "drained"}
    password = psycopg.conninfo.conninfo_to_dict(services.endpoints.sink_database_url)["password"]
    assert all(str(password) not in line for line in lines)


def test_on_sigterm_it_stores_what_it_has_read(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """SIGTERM during a window: the rows read are stored before it exits."""
    services.start(TICKSTREAM_SINK_WINDOW_MS="10000")
    services.produce([trades(0)])
    wait_for("the row in its window of ten seconds", lambda: services.metric("tickstream_sink_queue_rows"))
    assert services.count("trades") == 0
    assert services.stop() == 0
    assert services.count("trades") == 1


def test_a_slow_database_pauses_reading_at_the_limit(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """With a locked table the sink holds at most its limit of rows, however many wait in Kafka; then all are stored."""
    services.produce(stream(trades))
    with psycopg.connect(services.endpoints.database_url, options=f"-c search_path={services.schema}") as owner:
        owner.execute("LOCK TABLE trades IN EXCLUSIVE MODE")
        services.start(TICKSTREAM_SINK_QUEUE_ROWS="1000", TICKSTREAM_SINK_BATCH_ROWS="100")
        wait_for("a full queue", lambda: (services.metric("tickstream_sink_queue_rows") or 0) >= 800)
        lag = wait_for(
            "lag shown", lambda: services.metric(f'tickstream_sink_lag{{topic="{services.prefix}md.trades.v1"}}')
        )
        assert lag > MESSAGES / 2
        # One batch being written, one full batch waiting, and records in transit when reading paused.
        assert (services.metric("tickstream_sink_queue_rows") or 0) <= 100 + 800 + 2 * 1_000 * EACH
    services.wait_rows("trades", len(expected()))
    assert services.stop() == 0
    assert trade_ids(services) == expected()


def test_before_the_migrations_it_waits_and_names_the_command_to_run(
    services: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """It does not crash, and continues by itself once the tables exist."""
    migrations.downgrade(services.endpoints.database_url, services.schema, "base")
    services.produce([trades(0)])
    services.start()
    wait_for("the reason", lambda: "tickstream db migrate" in services.ready().json()["checks"]["database"])
    migrations.upgrade(services.endpoints.database_url, services.schema)
    services.wait_rows("trades", 1)
    assert services.stop() == 0


def test_a_bad_setting_is_named_before_anything_starts() -> None:
    """The exit status is 2 and the message names the variable."""
    done = subprocess.run(
        [sys.executable, "-m", "sink"],
        env=os.environ | {"TICKSTREAM_SINK_WINDOW_MS": "soon"},
        capture_output=True, text=True, cwd=ROOT, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "TICKSTREAM_SINK_WINDOW_MS" in done.stderr
