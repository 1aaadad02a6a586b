"""The writer with the real TimescaleDB: every kind of event, exactly once, despite connection failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest

from infra.local.table import Endpoints
from marketdata.codec import Codec
from marketdata.errors import Unavailable
from marketdata.events import (
    EVENTS,
    Anomaly,
    AnyEvent,
    Book,
    Candle,
    DeadLetter,
    FeedStatus,
    Instrument,
    Metrics,
    Quote,
    Trade,
    Trades,
)
from sink import migrations
from sink.batch import Batch, Source, TableRows
from sink.rows import stored
from sink.writer import Log, Superseded, Writer

TS = 1_786_309_548_228_568_123
TOPIC = "md.any.v1"
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, 1)})
LOG = {(TOPIC, 0): Log("id", 0, 1_000)}


class Table:
    """One schema, its rows, and writers to it."""

    def __init__(self, endpoints: Endpoints, schema: str) -> None:
        migrations.upgrade(endpoints.database_url, schema)
        self.endpoints = endpoints
        self.schema = schema
        self.letters: list[DeadLetter] = []
        self._writers: list[Writer] = []

    def writer(
        self, dsn: str | None = None, publish: Callable[..., None] | None = None, write_seconds: float = 30
    ) -> Writer:
        """Return a new writer with the sink's own role."""
        where, letters = dsn or self.endpoints.sink_database_url, publish or self._take
        one = Writer(
            where, self.schema, publish=letters, decode=CODEC.decode, now=time.time_ns, write_seconds=write_seconds
        )
        self._writers.append(one)
        return one

    def _take(self, records: Sequence[TableRows]) -> None:
        self.letters += [record.dead_letter for record in records if record.dead_letter is not None]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, in UTC."""
        options = f"-c search_path={self.schema},public -c timezone=UTC"
        with psycopg.connect(self.endpoints.database_url, options=options) as connection:
            return connection.execute(query).fetchall()

    def close(self) -> None:
        """Close every writer."""
        for one in self._writers:
            one.close()


@pytest.fixture
def table(endpoints: Endpoints, database_schema: str) -> Iterator[Table]:
    """Every table, empty."""
    one = Table(endpoints, database_schema)
    yield one
    one.close()


def batch_of(events: Sequence[AnyEvent], start: int = 0, source: str = TOPIC) -> Batch:
    """Return a batch of events at consecutive offsets of one partition."""
    batch = Batch()
    for offset, event in enumerate(events, start):
        for record in stored(event, Source(source, 0, offset, event.key.encode(), CODEC.encode(event)), TS):
            batch.add(record)
        batch.passed((TOPIC, 0), offset, offset + 1)
    return batch


def status(kind: str, gap_id: str | None = "g1", **changes: Any) -> FeedStatus:
    """Return a feed status."""
    fields = {"ts_recv": TS + 5, "symbol": "BTC-USD", **changes}
    return FeedStatus(venue="coinbase", ts_event=TS, line="coinbase/0", kind=kind, gap_id=gap_id, **fields)


def candle(state: str, close: str, revision: int = 0, start: int = 60_000_000_000) -> Candle:
    """Return a candle of one minute."""
    return Candle(
        venue="coinbase", symbol="BTC-USD", interval="1m", start=start, end=start + 60_000_000_000, ts_event=TS,
        ts_recv=TS + 5, open="1", high="3", low="0.5", close=close, volume="2.50", quote_volume="5", buy_volume="1",
        trades=3, state=state, revision=revision,
    )  # fmt: skip


def test_trades_are_stored_with_all_fields(table: Table) -> None:
    """Each trade is an exact row with both times and its position in Kafka."""
    event = Trades(
        venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS + 5, line="coinbase/0", sequence=17,
        origin="backfill", valid=False, reason="gap",
        trades=(
            Trade(trade_id="a", ts_event=TS + 1, price="64000.10", size="1e-8", side="buy"),
            Trade(trade_id="b\t\\", ts_event=TS + 999_000, price="0.000000000000000000001", size="3", side="sell",
                  liquidation=True, action="correct", original_id="a\t"),
        ),
    )  # fmt: skip
    writer = table.writer()
    assert writer.locate(LOG) == {(TOPIC, 0): 0}
    assert writer.write(batch_of([event])).rows == {"trades": 2}
    common = (False, "gap", "coinbase", "BTC-USD", "coinbase/0", "backfill", 17, 0, 0, TS + 5)
    columns = "valid, reason, venue, symbol, line, origin, sequence, kafka_partition, kafka_offset, ts_recv_ns"
    assert table.rows(
        "SELECT ts::text, ts_event_ns, item, trade_id, price, size, side, liquidation, action, original_id, "
        f"{columns} FROM trades ORDER BY item"
    ) == [
        ("2026-08-09 21:05:48.228568+00", TS + 1, 0, "a", Decimal("64000.10"), Decimal("1e-8"), "buy", False, "new",
         "", *common),
        ("2026-08-09 21:05:48.229567+00", TS + 999_000, 1, "b\t\\", Decimal("1e-21"), Decimal(3), "sell", True,
         "correct", "a\t", *common),
    ]  # fmt: skip
    assert table.rows("SELECT price::text FROM trades ORDER BY item") == [("64000.10",), ("0.000000000000000000001",)]


def test_quotes_are_stored_with_all_fields(table: Table) -> None:
    """What the venue did not send is NULL, never zero."""
    event = Quote(
        venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS + 5, line="l", source="book", bid="1.10",
        bid_size="2", last="1.2", volume_24h="3", high_24h="4", low_24h="0.5", change_24h="-12.5",
    )  # fmt: skip
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([event]))
    assert table.rows(
        "SELECT ts_event_ns, ts_recv_ns, venue, symbol, line, origin, sequence, valid, reason, source, bid, bid_size, "
        "ask, ask_size, last, volume_24h, high_24h, low_24h, change_24h FROM quotes"
    ) == [
        (TS, TS + 5, "coinbase", "BTC-USD", "l", "live", None, True, "", "book", Decimal("1.10"), Decimal(2), None,
         None, Decimal("1.2"), Decimal(3), Decimal(4), Decimal("0.5"), Decimal("-12.5"))
    ]  # fmt: skip


def test_books_are_stored_level_by_level(table: Table) -> None:
    """Both sides have their levels in order; one side may be empty."""
    event = Book(
        venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS + 5, line="l", sequence=9, valid=False,
        reason="crossed", depth=2, updates=77, bid_prices=["2.50", "2"], bid_sizes=["1", "0.10"],
        ask_prices=[], ask_sizes=[],
    )  # fmt: skip
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([event]))
    assert table.rows(
        "SELECT ts_event_ns, valid, reason, sequence, depth, updates, bid_prices, bid_sizes, ask_prices, ask_sizes "
        "FROM books"
    ) == [(TS, False, "crossed", 9, 2, 77, [Decimal("2.50"), Decimal(2)], [Decimal(1), Decimal("0.10")], [], [])]


def test_metrics_are_stored_with_all_fields(table: Table) -> None:
    """What is unknown is NULL; depths keep their order."""
    event = Metrics(
        venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS + 5, line="l", sequence=9, valid=True,
        ts_from=TS - 1, bid="99", bid_size="1.50", ask="101", ask_size="2", mid="100", microprice="99.9", spread="2",
        spread_bps="200", imbalance="-0.142857142857142857", depth_bps=["5", "10"], bid_depths=["0", "1.5"],
        ask_depths=["0", "2"], bid_reach_bps="100", ask_reach_bps="1e3", order_flow=None, changes=7,
        best_price_changes=2,
    )  # fmt: skip
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([event]))
    assert table.rows(
        "SELECT ts_event_ns, ts_recv_ns, line, sequence, valid, ts_from_ns, bid, bid_size, ask, ask_size, mid, "
        "microprice, spread, spread_bps, imbalance, depth_bps, bid_depths, ask_depths, bid_reach_bps, ask_reach_bps, "
        "order_flow, changes, best_price_changes FROM metrics"
    ) == [
        (TS, TS + 5, "l", 9, True, TS - 1, 99, Decimal("1.50"), 101, 2, 100, Decimal("99.9"), 2, 200,
         Decimal("-0.142857142857142857"), [5, 10], [0, Decimal("1.5")], [0, 2], 100, 1000, None, 7, 2)
    ]  # fmt: skip


def test_anomalies_and_statuses_are_stored_with_all_fields(table: Table) -> None:
    """Evidence is JSON that can be queried."""
    anomaly = Anomaly(
        venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS + 5, anomaly_id="x1", kind="price_jump",
        severity="critical", metric="move", value="12.5", limit="10", evidence={"from": "1", "quote'\"": "t\tab"},
        phase="start", ts_start=TS, ts_peak=TS, usual="0.5", text="two\nlines",
    )  # fmt: skip
    end = msgspec.structs.replace(anomaly, ts_event=TS + 2 * 10**9, phase="end", ts_end=TS + 10**9)
    happened = status("halted", None, sequence=4, reason="r", detail="two\nlines", channel="level2")
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([anomaly, happened, end]))
    assert table.rows(
        "SELECT ts_event_ns, ts_recv_ns, venue, symbol, anomaly_id, kind, severity, metric, value, limit_value, "
        "evidence FROM anomalies WHERE phase = 'start'"
    ) == [
        (TS, TS + 5, "coinbase", "BTC-USD", "x1", "price_jump", "critical", "move", Decimal("12.5"), Decimal(10),
         {"from": "1", "quote'\"": "t\tab"})
    ]  # fmt: skip
    assert table.rows(
        "SELECT phase, ts = to_timestamp(0) + ts_start_ns / 1000 * interval '1 microsecond', ts_start_ns, ts_peak_ns, "
        "ts_end_ns, usual, text FROM anomalies_latest"
    ) == [("end", True, TS, TS, TS + 10**9, Decimal("0.5"), "two\nlines")]
    assert table.rows(
        "SELECT ts_event_ns, ts_recv_ns, kind, reason, detail, line, sequence, channel, gap_id, expected, received, "
        "ts_from_ns, ts_to_ns FROM feed_status"
    ) == [(TS, TS + 5, "halted", "r", "two\nlines", "coinbase/0", 4, "level2", None, None, None, None, None)]


def test_instruments_keep_their_last_state(table: Table) -> None:
    """An instrument is one row, replaced when it is published again."""
    first = Instrument(
        venue="coinbase", symbol="BTC-USD", ts_recv=TS, venue_symbol="BTC-USD", base_currency="BTC",
        quote_currency="USD", tick_size="0.01", size_increment="0.00000001", min_order_size=None, status="online",
    )  # fmt: skip
    second = Instrument(
        venue="coinbase", symbol="BTC-USD", ts_recv=TS + 1, venue_symbol="BTC-USD", base_currency="BTC",
        quote_currency="USD", tick_size="0.1", status="halted", kind="option", expiry=TS, strike="60000.50",
        contract_multiplier="0.01", settlement_currency="BTC", inverse=True,
    )  # fmt: skip
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([first]))
    assert table.rows("SELECT tick_size, size_increment, min_order_size, status, kind FROM instruments") == [
        (Decimal("0.01"), Decimal("0.00000001"), None, "online", "spot")
    ]
    writer.write(batch_of([first, second], start=1))
    assert table.rows("SELECT tick_size, size_increment, status, ts_recv_ns FROM instruments") == [
        (Decimal("0.1"), None, "halted", TS + 1)
    ]
    contract = "SELECT kind, expiry_ns, strike, contract_multiplier, settlement_currency, inverse FROM instruments"
    assert table.rows(contract) == [("option", TS, Decimal("60000.50"), Decimal("0.01"), "BTC", True)]


def test_dead_letters_of_other_services_are_stored_with_their_bytes(table: Table) -> None:
    """Even with a NUL in their texts they are not lost; the bytes are unchanged."""
    letter = DeadLetter(
        venue="coinbase", symbol="*", ts_recv=TS, stage="feed", reason="malformed", detail="a\x00b", field="price",
        value="\x00", line="coinbase/0", topic="md.raw.v1", partition=3, offset=9, payload=b"\x00\xff\\t\n",
    )  # fmt: skip
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([letter]))
    assert table.rows(
        'SELECT ts_recv_ns, venue, symbol, stage, reason, detail, field, value, line, topic, "partition", "offset", '
        "payload FROM dead_letters"
    ) == [
        (TS, "coinbase", "*", "feed", "malformed", "a\ufffdb", "price", "\ufffd", "coinbase/0", "md.raw.v1", 3, 9,
         b"\x00\xff\\t\n")
    ]  # fmt: skip


def test_an_open_candle_is_replaced_until_it_is_final_and_then_revised(table: Table) -> None:
    """The view shows one row per candle, its latest; the table keeps every final value and revision."""
    latest = "SELECT state, revision, close FROM candles_latest"
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([candle("open", "1"), candle("open", "1.5")]))
    assert table.rows(latest) == [("open", 0, Decimal("1.5"))]
    writer.write(batch_of([candle("open", "1.7")], start=2))
    assert table.rows(latest) == [("open", 0, Decimal("1.7"))]
    writer.write(batch_of([candle("open", "1.9"), candle("final", "2")], start=3))
    assert table.rows(latest) == [("final", 0, Decimal(2))]
    writer.write(batch_of([candle("revised", "2.5", revision=1), candle("open", "9", start=120_000_000_000)], start=5))
    assert table.rows(latest + " ORDER BY ts") == [("revised", 1, Decimal("2.5")), ("open", 0, Decimal(9))]
    assert table.rows(
        "SELECT ts::text, ts_end::text, start_ns, end_ns, interval, open, high, low, close, volume, quote_volume, "
        "buy_volume, trades, state, revision, origin, valid, reason, ts_event_ns, ts_recv_ns "
        "FROM candles ORDER BY revision"
    ) == [
        ("1970-01-01 00:01:00+00", "1970-01-01 00:02:00+00", 60_000_000_000, 120_000_000_000, "1m", Decimal(1),
         Decimal(3), Decimal("0.5"), Decimal(close), Decimal("2.50"), Decimal(5), Decimal(1), 3, state, revision,
         "live", True, "", TS, TS + 5)
        for close, state, revision in (("2", "final", 0), ("2.5", "revised", 1))
    ]  # fmt: skip


def test_a_candle_of_the_venue_is_separate_from_ours(table: Table) -> None:
    """It neither closes our open candle nor revises a final one; its view shows its newest revision."""
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([candle("open", "1.5"), candle("final", "3", start=120_000_000_000)]))
    theirs = [candle("final", "2"), candle("final", "2"), candle("revised", "2.5", 1), candle("final", "4", start=0)]
    writer.write(batch_of(theirs, start=2, source="x.md.venue_candles.v1"))
    latest = "SELECT start_ns / 60000000000, state, revision, close FROM {}candles_latest ORDER BY ts"
    assert table.rows(latest.format("")) == [(1, "open", 0, Decimal("1.5")), (2, "final", 0, Decimal(3))]
    assert table.rows(latest.format("venue_")) == [(0, "final", 0, Decimal(4)), (1, "revised", 1, Decimal("2.5"))]


def test_a_gap_is_opened_and_then_closed_by_its_id(table: Table) -> None:
    """The ledger contains what is missing, how it was found, and how and when it was repaired."""
    gap = status("gap", reason="sequence", detail="missed 3", channel="l2_data", expected=5, received=8, ts_from=TS)
    writer = table.writer()
    writer.locate(LOG)
    assert writer.write(batch_of([gap])).gaps_open == {"coinbase": 1}
    whole = (
        "SELECT gap_id, venue, symbol, channel, line, reason, detail, state, ts_from_ns, ts_to_ns, expected, received, "
        "found_by, detected_at::text, repaired_at::text, repaired_by FROM gaps"
    )
    opened = ("g1", "coinbase", "BTC-USD", "l2_data", "coinbase/0", "sequence", "missed 3")
    assert table.rows(whole) == [(*opened, "open", TS, None, 5, 8, "feed", "2026-08-09 21:05:48.228568+00", None, None)]
    resynced = status("resynced", reason="snapshot", ts_to=TS + 9, ts_recv=TS + 1_000_000)
    assert writer.write(batch_of([resynced], start=1)).gaps_open == {"coinbase": 0}
    assert table.rows(whole) == [
        (*opened, "repaired", TS, TS + 9, 5, 8, "feed", "2026-08-09 21:05:48.228568+00",
         "2026-08-09 21:05:48.229568+00", "snapshot")
    ]  # fmt: skip


def test_a_gap_closed_by_its_feed_is_repaired_by_resync(table: Table) -> None:
    """The feed gives no reason: it has resynchronised."""
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([status("gap"), status("resynced")]))
    assert table.rows("SELECT state, repaired_by FROM gaps") == [("repaired", "resync")]


def test_a_gap_that_arrives_after_its_repair_is_closed(table: Table) -> None:
    """Gap and repair may arrive from different partitions; the ledger is the same in either order."""
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([status("resynced", reason="snapshot", ts_to=TS + 9)]))
    written = writer.write(batch_of([status("gap", symbol="*", reason="sequence", expected=5, received=8)], start=1))
    assert written.gaps_open == {"coinbase": 0}
    assert table.rows("SELECT state, reason, expected, received, ts_to_ns, repaired_by FROM gaps") == [
        ("repaired", "sequence", 5, 8, TS + 9, "snapshot")
    ]


def test_a_gap_without_an_id_is_on_the_ledger_too(table: Table) -> None:
    """Its position in Kafka is its id."""
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([status("gap", None), status("resynced", None)]))
    assert table.rows("SELECT gap_id, state FROM gaps") == [(f"{TOPIC}|0|0", "open")]


def test_a_second_writer_at_the_same_offset_is_refused(table: Table, trades: Callable[..., Trades]) -> None:
    """A sink that lost its partitions without noticing stores nothing, and gets an error."""
    frozen, successor = table.writer(), table.writer()
    frozen.locate(LOG)
    successor.locate(LOG)
    successor.write(batch_of([trades(0), trades(1)]))
    with pytest.raises(Superseded):
        frozen.write(batch_of([trades(0)]))
    assert table.rows("SELECT trade_id FROM trades ORDER BY 1") == [("BTC-USD/0/0",), ("BTC-USD/1/0",)]
    assert frozen.locate(LOG) == {(TOPIC, 0): 2}
    frozen.write(batch_of([trades(2)], start=2))
    assert table.rows("SELECT count(*) FROM trades") == [(3,)]


def test_a_batch_is_refused_as_a_whole_when_one_of_its_partitions_moved(
    table: Table, trades: Callable[..., Trades]
) -> None:
    """Rows of the other partitions are not stored either: they are read again."""
    logs = LOG | {(TOPIC, 1): Log("id", 0, 1_000)}
    one, other = table.writer(), table.writer()
    one.locate(logs)
    other.locate(logs)
    moved = Batch()
    moved.passed((TOPIC, 1), 0, 5)
    other.write(moved)
    batch = batch_of([trades(0)])
    batch.passed((TOPIC, 1), 0, 3)
    with pytest.raises(Superseded):
        one.write(batch)
    assert table.rows("SELECT count(*) FROM trades") == [(0,)]
    assert one.locate(logs) == {(TOPIC, 0): 0, (TOPIC, 1): 5}


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_offsets_show_the_outcome_of_a_commit_without_a_response(
    table: Table, gate: tuple[Any, str], trades: Callable[..., Trades], when: str
) -> None:
    """The connection breaks before or after COMMIT reached the server; offsets show which. Each row is stored once."""
    proxy, dsn = gate
    writer = table.writer(dsn)
    events = [trades(number) for number in range(5)]
    at = writer.locate(LOG)[TOPIC, 0]
    proxy.cut_commit = when
    with pytest.raises(Unavailable):
        writer.write(batch_of(events))
    at = writer.locate(LOG)[TOPIC, 0]
    assert at == (0 if when == "before" else 5)
    writer.write(batch_of([*events[at:], trades(5)], start=at))
    assert table.rows("SELECT kafka_offset, trade_id FROM trades ORDER BY 1") == [
        (number, f"BTC-USD/{number}/0") for number in range(6)
    ]


def test_a_terminated_connection_loses_nothing(
    table: Table, endpoints: Endpoints, trades: Callable[..., Trades]
) -> None:
    """The server terminates our session: the write fails, and the next attempt succeeds."""
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([trades(0)]))
    assert writer._connection is not None
    with psycopg.connect(endpoints.sink_database_url, autocommit=True) as same_role:
        same_role.execute("SELECT pg_terminate_backend(%s, 5000)", [writer._connection.info.backend_pid])
    with pytest.raises(Unavailable):
        writer.write(batch_of([trades(1)], start=1))
    assert writer.locate(LOG) == {(TOPIC, 0): 1}
    writer.write(batch_of([trades(1)], start=1))
    assert table.rows("SELECT kafka_offset FROM trades ORDER BY 1") == [(0,), (1,)]


def test_a_sink_that_froze_in_the_middle_of_a_copy_does_not_hold_up_the_next(
    table: Table, endpoints: Endpoints, trades: Callable[..., Trades]
) -> None:
    """No server timeout ends a session that waits for the rest of a COPY, so the next sink terminates it."""
    first, second = table.writer(), table.writer(write_seconds=0.5)
    first.locate(LOG)
    frozen = first._connected()
    with pytest.raises(psycopg.OperationalError), frozen.cursor() as cursor:  # noqa: PT012 - the block ends with the COPY
        cursor.execute("BEGIN")
        first._advance(cursor, batch_of([trades(0)]))
        with cursor.copy("COPY trades FROM STDIN") as copy:
            copy.write(b"half a row")
            with pytest.raises(Unavailable):
                second.locate(LOG)  # the other may still be running
            assert second.locate(LOG) == {(TOPIC, 0): 0}
    second.write(batch_of([trades(0)]))
    assert table.rows("SELECT kafka_offset FROM trades ORDER BY 1") == [(0,)]


def test_a_write_to_a_hanging_server_can_be_aborted(
    table: Table, gate: tuple[Any, str], trades: Callable[..., Trades]
) -> None:
    """Another thread aborts a write that takes too long; it fails like a lost connection."""
    proxy, dsn = gate
    writer = table.writer(dsn)
    writer.locate(LOG)
    proxy.freeze()
    giving_up = threading.Timer(0.5, writer.abandon)
    giving_up.start()
    with pytest.raises(Unavailable):
        writer.write(batch_of([trades(0)]))
    giving_up.join()
    proxy.close()
    proxy.open()
    assert writer.locate(LOG) == {(TOPIC, 0): 0}


def message(*ids: str) -> Trades:
    """Return a message with trades of these ids."""
    return Trades(
        venue="coinbase", symbol="BTC-USD", ts_event=TS, ts_recv=TS, line="l",
        trades=tuple(Trade(trade_id=one, ts_event=TS, price="1", size="1", side="buy") for one in ids),
    )  # fmt: skip


def forbid(table: Table) -> None:
    """Make the database refuse trades whose id begins with `bad`, by a constraint that an owner may add."""
    with psycopg.connect(table.endpoints.database_url, options=f"-c search_path={table.schema}") as owner:
        owner.execute("ALTER TABLE trades ADD CONSTRAINT good CHECK (trade_id NOT LIKE 'bad%')")


def test_a_trade_that_postgresql_refuses_does_not_affect_others(table: Table, trades: Callable[..., Trades]) -> None:
    """The row is found among many; others of its message are stored, and the dead letter contains only this trade."""
    forbid(table)
    bad = message("nul\x00", "x", "bad", "y")
    events = [trades(number, count=2) for number in range(50)]
    writer = table.writer()
    writer.locate(LOG)
    written = writer.write(batch_of([*events[:17], bad, *events[17:]]))
    assert written.rows == {"trades": 102, "dead_letters": 2}
    nul, letter = written.refused
    assert table.letters == [nul, letter]
    assert msgspec.json.decode(nul.payload, type=Trades).trades == bad.trades[:1]
    assert (letter.stage, letter.reason, letter.topic, letter.partition, letter.offset) == (
        "sink", "refused_by_database", TOPIC, 0, 17,
    )  # fmt: skip
    assert 'violates check constraint "good"' in letter.detail
    payload = msgspec.json.decode(letter.payload, type=Trades)
    assert payload == msgspec.structs.replace(bad, trades=bad.trades[2:3])
    assert table.rows("SELECT trade_id, item FROM trades WHERE kafka_offset = 17 ORDER BY item") == [("x", 1), ("y", 3)]
    assert table.rows("SELECT count(*), count(DISTINCT trade_id) FROM trades") == [(102, 102)]
    assert table.rows("SELECT \"offset\", payload FROM dead_letters WHERE reason = 'refused_by_database'") == [
        (17, letter.payload)
    ]
    assert writer.locate(LOG) == {(TOPIC, 0): 51}


def test_a_batch_of_refused_rows_makes_progress_in_parts(table: Table) -> None:
    """5,000 refused rows: each transaction has only a part of them, so that none reaches its time limit."""
    forbid(table)
    commits: list[int] = []
    writer = table.writer(publish=lambda records: commits.append(len(records)))
    writer.locate(LOG)
    writer.write(batch_of([message("x")]))  # creates the chunk of the day
    events = [message(*(f"bad{number}/{item}" for item in range(2))) for number in range(2_500)]
    written = writer.write(batch_of(events, start=1))
    assert written.rows == {"dead_letters": 5_000}
    assert commits == [200] * 25
    assert table.rows('SELECT count(DISTINCT ("offset", payload)) FROM dead_letters') == [(5_000,)]
    assert writer.locate({(TOPIC, 0): Log("id", 0, 5_000)}) == {(TOPIC, 0): 2_501}


def test_a_crash_amid_refused_rows_loses_and_duplicates_nothing(table: Table) -> None:
    """After the first part the dead letters cannot be delivered: the rest is written after the next start."""
    forbid(table)
    events = [message(f"{'bad' if number % 2 else 'x'}{number}") for number in range(600)]
    left = [1]

    def publish(records: Sequence[TableRows]) -> None:
        if not left:
            raise Unavailable("Kafka takes no dead letters")
        left.pop()

    writer = table.writer(publish=publish)
    writer.locate(LOG)
    with pytest.raises(Unavailable, match="Kafka"):
        writer.write(batch_of(events))
    again = table.writer()
    at = again.locate(LOG)[TOPIC, 0]
    assert at == 200
    again.write(batch_of(events[at:], start=at))
    assert table.rows("SELECT count(*), count(DISTINCT kafka_offset) FROM trades") == [(300, 300)]
    assert table.rows('SELECT count(*), count(DISTINCT "offset") FROM dead_letters') == [(300, 300)]


def test_refused_rows_do_not_affect_ledger_candles_and_instruments(table: Table, trades: Callable[..., Trades]) -> None:
    """Everything else is stored once, in order."""
    forbid(table)
    bad = message("bad")
    events: list[AnyEvent] = [
        trades(0), bad, status("gap"), bad, candle("open", "1"), bad, candle("final", "2"), trades(1),
    ]  # fmt: skip
    writer = table.writer()
    writer.locate(LOG)
    written = writer.write(batch_of(events))
    assert [letter.offset for letter in written.refused] == [1, 3, 5]
    assert table.rows('SELECT "offset" FROM dead_letters ORDER BY 1') == [(1,), (3,), (5,)]
    assert table.rows("SELECT count(*) FROM trades") == [(2,)]
    assert table.rows("SELECT state FROM gaps") == [("open",)]
    assert table.rows("SELECT state, close FROM candles_latest") == [("final", Decimal(2))]


def test_nothing_is_stored_when_the_dead_letter_cannot_be_delivered(
    table: Table, trades: Callable[..., Trades]
) -> None:
    """Kafka does not accept it: the batch is rolled back and read again, so that topic and table agree."""

    def refuse(_: Sequence[TableRows]) -> None:
        raise Unavailable("Kafka takes no dead letters")

    bad = message("x", "nul\x00")
    writer = table.writer(publish=refuse)
    writer.locate(LOG)
    with pytest.raises(Unavailable, match="Kafka"):
        writer.write(batch_of([trades(0), bad]))
    assert writer.locate(LOG) == {(TOPIC, 0): 0}
    assert table.rows("SELECT (SELECT count(*) FROM trades), (SELECT count(*) FROM dead_letters)") == [(0, 0)]


@pytest.mark.parametrize(
    ("log", "reason", "resume_at"),
    [
        (Log("id", 30, 90), "retention", 30),
        (Log("id", 0, 4), "log_truncated", 4),
        (Log("other", 0, 90), "topic_recreated", 0),
    ],
)
def test_what_kafka_lost_is_on_the_ledger(
    table: Table, trades: Callable[..., Trades], log: Log, reason: str, resume_at: int
) -> None:
    """Records deleted before they were stored are a gap in the ledger, and reading continues with available records."""
    writer = table.writer()
    writer.locate(LOG)
    writer.write(batch_of([trades(number) for number in range(10)]))
    assert writer.locate({(TOPIC, 0): log}) == {(TOPIC, 0): resume_at}
    assert table.rows("SELECT venue, channel, reason, expected, received, found_by, state FROM gaps") == [
        ("*", f"{TOPIC}[0]", reason, 10, resume_at, "sink", "open")
    ]
    assert writer.locate({(TOPIC, 0): log}) == {(TOPIC, 0): resume_at}
    assert writer.gaps_open() == {"*": 1}


def test_a_new_partition_starts_at_the_first_available_record(table: Table) -> None:
    """Records deleted before the sink's first start are no gap."""
    writer = table.writer()
    assert writer.locate({(TOPIC, 0): Log("id", 30, 90)}) == {(TOPIC, 0): 30}
    assert table.rows("SELECT count(*) FROM gaps") == [(0,)]


def test_the_error_of_missing_tables_names_the_command_to_run(endpoints: Endpoints, database_schema: str) -> None:
    """A sink that starts before the migrations waits and reports the reason."""
    writer = Writer(
        endpoints.sink_database_url, database_schema, publish=lambda _: None, decode=CODEC.decode, now=time.time_ns
    )
    with pytest.raises(Unavailable, match="tickstream db migrate"):
        writer.locate(LOG)
    writer.close()
