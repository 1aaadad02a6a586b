"""The sink as a process between the real Kafka and TimescaleDB: killed, cut off, doubled, poisoned, and still exact."""

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

from marketdata.events import Book, Candle, DeadLetter, FeedStatus, Instrument, Quote, Trades
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
    """Return messages of three trades, symbol after symbol."""
    return [
        trades(number, count=EACH, symbol=SYMBOLS[number % len(SYMBOLS)]) for number in range(start, start + messages)
    ]


def expected(messages: int = MESSAGES) -> list[str]:
    """Return every trade id of the stream, sorted."""
    return sorted(
        f"{SYMBOLS[number % len(SYMBOLS)]}/{number}/{item}" for number in range(messages) for item in range(EACH)
    )


def trade_ids(road: Any) -> list[str]:
    """Return every trade id stored, sorted; a row stored twice is there twice."""
    return sorted(row[0] for row in road.rows("SELECT trade_id FROM trades"))


def test_killed_again_and_again_it_stores_each_row_exactly_once(road: Any, trades: Callable[..., Trades]) -> None:
    """Kill -9 during a COMMIT, which then happens or does not, in turn: nothing is missing and nothing there twice."""
    messages, fates = 500, ("lost", "stored", "lost", "stored")
    for number, fate in enumerate(fates):
        road.start(TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
        road.produce(stream(trades, start=number * messages, messages=messages // 2))
        road.wait_rows("trades", number * messages * EACH + 60)
        with road.commits_held() as wait_for_commit:
            road.produce(stream(trades, start=number * messages + messages // 2, messages=messages // 2))
            session = wait_for_commit()
            before = road.count("trades")
            road.kill()
            if fate == "lost":
                road.end_session(session)
        assert (road.count("trades") > before) == (fate == "stored")
    road.start()
    road.wait_rows("trades", len(expected(len(fates) * messages)))
    assert road.stop() == 0
    assert trade_ids(road) == expected(len(fates) * messages)


def test_asked_to_stop_while_it_starts_it_leaves_in_order(road: Any) -> None:
    """A signal that arrives before settings, registry and Kafka are reached is not lost, and is no crash."""
    road.start()
    assert road.stop() == 0


def test_a_restart_goes_on_where_the_database_stands(road: Any, trades: Callable[..., Trades]) -> None:
    """What was stored is not read again, whatever Kafka believes was committed."""
    road.produce(stream(trades, messages=100))
    road.start()
    road.wait_rows("trades", 300)
    assert road.stop() == 0
    assert road.committed() == 100
    with psycopg.connect(road.endpoints.database_url, options=f"-c search_path={road.schema}") as owner:
        # As if an older state of the database had been restored: it decides, not Kafka.
        topic, partition, offset = owner.execute(
            "SELECT topic, partition, next_offset FROM kafka_offsets WHERE next_offset > 10 LIMIT 1"
        ).fetchone() or ("", 0, 0)
        owner.execute("DELETE FROM trades WHERE kafka_partition = %s AND kafka_offset >= %s", [partition, offset - 10])
        owner.execute(
            "UPDATE kafka_offsets SET next_offset = %s WHERE topic = %s AND partition = %s",
            [offset - 10, topic, partition],
        )
    road.produce(stream(trades, start=100, messages=10))
    road.start()
    road.wait_rows("trades", 330)
    assert road.stop() == 0
    assert trade_ids(road) == expected(110)


def test_connections_terminated_in_the_middle_lose_nothing(
    road: Any, gate: tuple[Any, str], trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """The server ends the sink's session again and again while it writes."""
    proxy, dsn = gate
    rounds, messages = 4, 1_000
    road.start(TICKSTREAM_SINK_DATABASE_URL=dsn, TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    for number in range(rounds):
        road.produce(stream(trades, start=number * messages, messages=messages))
        road.wait_rows("trades", road.count("trades") + 300)
        wait_for("a session to end", lambda: _terminate(road, proxy.ports()))
    road.wait_rows("trades", rounds * messages * EACH)
    # The last session may have ended with nothing left to store; then the sink notices when it asks.
    wait_for("each end", lambda: (road.metric('tickstream_sink_rewinds_total{reason="database"}') or 0) >= rounds)
    assert road.stop() == 0
    assert trade_ids(road) == expected(rounds * messages)


def _terminate(road: Any, ports: list[int]) -> bool:
    """Have the server end the sessions that come from these ports; tell whether there was one."""
    with psycopg.connect(road.endpoints.sink_database_url, autocommit=True) as same_role:
        ended = same_role.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE client_port = ANY(%s)", [ports]
        ).fetchall()
    return (True,) in ended


def test_a_database_that_goes_away_pauses_the_sink_until_it_is_back(
    road: Any, gate: tuple[Any, str], trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """While it is away /readyz says so with the reason and nothing is taken from Kafka; then all arrives, once."""
    proxy, dsn = gate
    road.produce(stream(trades, messages=1_000))
    road.start(TICKSTREAM_SINK_DATABASE_URL=dsn, TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    road.wait_rows("trades", 300)
    assert road.ready().status_code == 200
    proxy.close()
    wait_for("not ready", lambda: road.ready().status_code == 503)
    report = road.ready().json()
    assert {name for name, state in report["checks"].items() if state != "ok"} == {"database"}
    road.produce(stream(trades, start=1_000, messages=1_000))
    wait_for("three attempts", lambda: (road.metric('tickstream_sink_rewinds_total{reason="database"}') or 0) >= 3)
    assert road.metric("tickstream_sink_queue_rows") == 0
    assert road.processes["sink"].poll() is None
    proxy.open()
    road.wait_rows("trades", 6_000)
    wait_for("ready again", lambda: road.ready().status_code == 200)
    assert road.stop() == 0
    assert trade_ids(road) == expected(2_000)


def test_a_commit_cut_off_is_settled_without_loss(
    road: Any, gate: tuple[Any, str], trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """The connection breaks during COMMIT, with and without effect, in turn."""
    proxy, dsn = gate
    road.produce(stream(trades, messages=2_000))
    road.start(TICKSTREAM_SINK_DATABASE_URL=dsn, TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    for number, when in enumerate(("before", "after", "before", "after"), 1):
        road.wait_rows("trades", number * 300)
        proxy.cut_commit = when
        wait_for("the cut", lambda: proxy.cut_commit is None)
    road.wait_rows("trades", 6_000)
    assert road.stop() == 0
    assert trade_ids(road) == expected(2_000)


def test_a_sink_that_slept_through_a_rebalance_stores_nothing_twice(
    road: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """A zombie wakes up with a batch in its hands after another sink took over: the database refuses it."""
    road.produce(stream(trades))
    road.start("first", TICKSTREAM_SINK_WORKER="", TICKSTREAM_SINK_BATCH_ROWS="60", TICKSTREAM_SINK_WINDOW_MS="1")
    road.wait_rows("trades", 600)
    road.signal(signal.SIGSTOP, "first")
    # Its open transaction, if any, holds the rows of the offsets until the server ends it.
    road.start("second", TICKSTREAM_SINK_WORKER="", TICKSTREAM_SINK_WRITE_SECONDS="2")
    road.wait_rows("trades", 9_000)
    road.signal(signal.SIGCONT, "first")
    road.produce(stream(trades, start=MESSAGES, messages=1_000))
    road.wait_rows("trades", len(expected(MESSAGES + 1_000)))
    wait_for("both ready", lambda: road.ready("first").status_code == road.ready("second").status_code == 200)
    assert road.stop("first") == 0
    assert road.stop("second") == 0
    assert trade_ids(road) == expected(MESSAGES + 1_000)


def test_a_sink_whose_name_another_one_has_taken_ends(road: Any, trades: Callable[..., Trades]) -> None:
    """Kafka ends its membership for good; alive and without one, it would look ready and store nothing for ever."""
    road.produce(stream(trades))
    road.start("first", TICKSTREAM_SINK_WORKER="same")
    road.wait_rows("trades", 600)
    road.signal(signal.SIGSTOP, "first")
    road.start("second", TICKSTREAM_SINK_WORKER="same", TICKSTREAM_SINK_WRITE_SECONDS="2")
    road.wait_rows("trades", len(expected()))
    road.signal(signal.SIGCONT, "first")
    assert road.processes["first"].wait(60) not in {0, -signal.SIGKILL}
    road.produce(stream(trades, start=MESSAGES, messages=100))
    road.wait_rows("trades", len(expected(MESSAGES + 100)))
    assert road.stop("second") == 0
    assert trade_ids(road) == expected(MESSAGES + 100)


def test_poison_records_become_dead_letters_and_the_rest_goes_on(road: Any, trades: Callable[..., Trades]) -> None:
    """Bytes that are no Avro, an unknown schema, a wrong record, a bad number and a NUL, among good trades."""
    good = stream(trades, messages=40)
    road.produce(good[:20])
    a_quote = Quote(venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS, line="l", bid="1")
    bad = {
        "undecodable": (TRADES, b"no avro at all"),
        "schema": (TRADES, b"\x00\x7f\xff\xff\xffbody"),
        "wrong_schema": (TRADES, road.codec.encode(a_quote)),
        "not_a_decimal": (QUOTES, road.codec.encode(Quote(**{**_fields(a_quote), "bid": "NaN"}))),
        "control_character": (QUOTES, road.codec.encode(Quote(**{**_fields(a_quote), "line": "\x00"}))),
    }
    for topic, value in bad.values():
        road.produce_bytes(topic, b"coinbase:BTC-USD", value)
    # A broken record among the dead letters themselves must not breed more of them.
    road.produce_bytes(DEAD_LETTERS, b"coinbase:BTC-USD", b"broken")
    road.produce([*good[20:], a_quote])
    road.start()
    road.wait_rows("trades", 120)
    road.wait_rows("quotes", 1)
    road.wait_rows("dead_letters", 6)
    letters = road.letters(6)
    assert road.stop() == 0
    reasons = ["control_character", "not_a_decimal", "undecodable", "undecodable", "undecodable", "wrong_schema"]
    assert [row[0] for row in road.rows("SELECT reason FROM dead_letters ORDER BY 1")] == reasons
    assert sorted(letter.reason for letter, _ in letters) == reasons
    assert {(bytes(row[0]), row[1]) for row in road.rows("SELECT payload, stage FROM dead_letters")} == {
        (value, "sink") for _, value in bad.values()
    } | {(b"broken", "sink")}
    assert all(
        headers["ce_id"] == f"{letter.topic}|{letter.partition}|{letter.offset}".encode() for letter, headers in letters
    )
    assert trade_ids(road) == expected(40)
    road.start()
    road.produce(stream(trades, start=40, messages=1))
    road.wait_rows("trades", 123)
    assert road.stop() == 0
    assert road.count("dead_letters") == 6


def test_one_bad_trade_costs_its_message_nothing_else(road: Any, trades: Callable[..., Trades]) -> None:
    """A NUL in the id of one of three trades: two are stored, and the dead letter has that one alone."""
    good = trades(1, count=3)
    bad = msgspec.structs.replace(good.trades[1], trade_id="20f43950-\x0027")
    road.produce([trades(0), msgspec.structs.replace(good, trades=(good.trades[0], bad, good.trades[2])), trades(2)])
    road.start()
    road.wait_rows("trades", 4)
    road.wait_rows("dead_letters", 1)
    ((letter, headers),) = road.letters(1)
    assert road.stop() == 0
    assert road.rows("SELECT trade_id, item FROM trades WHERE sequence = 1 ORDER BY item") == [
        ("BTC-USD/1/0", 0), ("BTC-USD/1/2", 2),
    ]  # fmt: skip
    assert (letter.reason, letter.field, letter.offset) == ("control_character", "trade_id", 1)
    assert msgspec.json.decode(letter.payload, type=Trades) == msgspec.structs.replace(good, trades=(bad,))
    assert headers["ce_id"] == f"{letter.topic}|{letter.partition}|1|1".encode()
    assert road.rows("SELECT payload, reason FROM dead_letters") == [(letter.payload, "control_character")]


def _fields(quote: Quote) -> dict[str, Any]:
    return {name: getattr(quote, name) for name in quote.__struct_fields__}


class Hurried(threading.Event):
    """Waits for nothing, and is set after so many waits."""

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


def test_however_long_the_registry_is_away_it_is_asked_again() -> None:
    """After hours, as well: the pauses do not grow for ever."""
    stop, readiness = Hurried(1_100), Readiness("registry")
    assert connect_registry(Registry("http://127.0.0.1:9"), readiness, stop) is None
    assert stop.left == 0
    assert not readiness.is_up("registry")


def test_every_topic_lands_in_its_table(road: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]) -> None:
    """One of each, with deletion marks passed over, and the offsets of all counted."""
    source: dict[str, Any] = {"venue": "coinbase", "symbol": "BTC-USD", "ts_event": TS, "ts_recv": TS, "line": "l"}
    levels: dict[str, Any] = {"bid_prices": ["1"], "bid_sizes": ["2"], "ask_prices": ["3"], "ask_sizes": ["4"]}
    instrument = Instrument(
        venue="coinbase", symbol="BTC-USD", ts_recv=TS, venue_symbol="BTC-USD", base_currency="BTC",
        quote_currency="USD",
    )  # fmt: skip
    letter = DeadLetter(venue="v", symbol="*", ts_recv=TS, stage="feed", reason="malformed", payload=b"{")
    road.start()
    road.produce(
        [
            trades(0),
            trades(1, count=0),
            Quote(**source, bid="1"),
            Book(**source, valid=True, depth=10, **levels),
            FeedStatus(**source, kind="gap", gap_id="g", expected=1, received=3),
            instrument,
            letter,
        ]
    )
    bar = Candle(venue="alpaca", symbol="AAPL", interval="1m", start=0, end=60, ts_event=TS, ts_recv=TS, state="final")
    road.produce_bytes(VENUE_CANDLES, bar.key.encode(), road.codec.encode(bar))
    road.produce_bytes(BOOKS, b"coinbase:OLD-USD", None)
    road.producer.flush(10)
    for table in ("trades", "quotes", "books", "feed_status", "gaps", "instruments", "dead_letters", "venue_candles"):
        road.wait_rows(table, 1)
    wait_for("all offsets", lambda: road.rows("SELECT sum(next_offset) FROM kafka_offsets") == [(9,)])
    wait_for("the open gap shown", lambda: road.metric('tickstream_gaps_open{venue="coinbase"}') == 1)
    road.produce([FeedStatus(**source, kind="resynced", gap_id="g", reason="snapshot")])
    wait_for("the gap closed", lambda: road.metric('tickstream_gaps_open{venue="coinbase"}') == 0)
    assert road.rows("SELECT state, repaired_by FROM gaps") == [("repaired", "snapshot")]
    assert road.count("books") == 1
    wait_for("no lag", lambda: road.metric('tickstream_sink_lag{topic="%sd.books.v1"}' % (road.prefix + "m")) == 0)
    assert road.stop() == 0
    assert road.committed() == 10


def test_its_metrics_and_log_tell_what_it_does(
    road: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """Rows, latencies and hops in /metrics; the log is JSON and never holds the database's password."""
    now = time.time_ns()
    hops = {HOPS: Hops(now, now + 1, now + 2).to_header()}
    road.start()
    road.produce([trades(0, count=3)], hops)
    wait_for("rows counted", lambda: road.metric('tickstream_rows_stored_total{table="trades"}') == 3)
    assert road.metric("market_data_write_latency_ms_count") == road.metric("tickstream_sink_batch_rows_count")
    for hop in ("received_to_stored", "processed_to_stored"):
        assert road.metric(f'tickstream_hop_latency_ms_count{{hop="{hop}"}}') == 1
    assert road.stop() == 0
    lines = (road._folder / "sink.log").read_text().splitlines()
    assert {json.loads(line)["event"] for line in lines} >= {"assigned", "reading", "drained"}
    password = psycopg.conninfo.conninfo_to_dict(road.endpoints.sink_database_url)["password"]
    assert all(str(password) not in line for line in lines)


def test_told_to_stop_it_stores_what_it_has_read(
    road: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """SIGTERM in the middle of a window: the rows read are stored before it leaves."""
    road.start(TICKSTREAM_SINK_WINDOW_MS="10000")
    road.produce([trades(0)])
    wait_for("the row in its window of ten seconds", lambda: road.metric("tickstream_sink_queue_rows"))
    assert road.count("trades") == 0
    assert road.stop() == 0
    assert road.count("trades") == 1


def test_a_slow_database_pauses_reading_at_the_limit(
    road: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """With its table locked the sink holds no more than its limit, whatever waits in Kafka; then all is stored."""
    road.produce(stream(trades))
    with psycopg.connect(road.endpoints.database_url, options=f"-c search_path={road.schema}") as owner:
        owner.execute("LOCK TABLE trades IN EXCLUSIVE MODE")
        road.start(TICKSTREAM_SINK_QUEUE_ROWS="1000", TICKSTREAM_SINK_BATCH_ROWS="100")
        wait_for("a full queue", lambda: (road.metric("tickstream_sink_queue_rows") or 0) >= 800)
        lag = wait_for("lag shown", lambda: road.metric(f'tickstream_sink_lag{{topic="{road.prefix}md.trades.v1"}}'))
        assert lag > MESSAGES / 2
        # One batch in the writer's hands, one full in waiting, and what was on its way when reading paused.
        assert (road.metric("tickstream_sink_queue_rows") or 0) <= 100 + 800 + 2 * 1_000 * EACH
    road.wait_rows("trades", len(expected()))
    assert road.stop() == 0
    assert trade_ids(road) == expected()


def test_before_the_migrations_it_waits_and_says_what_to_run(
    road: Any, trades: Callable[..., Trades], wait_for: Callable[..., Any]
) -> None:
    """It does not crash; once the tables are there it goes on by itself."""
    migrations.downgrade(road.endpoints.database_url, road.schema, "base")
    road.produce([trades(0)])
    road.start()
    wait_for("the reason", lambda: "tickstream db migrate" in road.ready().json()["checks"]["database"])
    migrations.upgrade(road.endpoints.database_url, road.schema)
    road.wait_rows("trades", 1)
    assert road.stop() == 0


def test_a_bad_setting_is_named_before_anything_starts() -> None:
    """The exit status is 2 and the message names the variable."""
    done = subprocess.run(
        [sys.executable, "-m", "sink"],
        env=os.environ | {"TICKSTREAM_SINK_WINDOW_MS": "soon"},
        capture_output=True, text=True, cwd=ROOT, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "TICKSTREAM_SINK_WINDOW_MS" in done.stderr
