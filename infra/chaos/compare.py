"""Compares everything that was published, stored and answered with the exchange's record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from infra.chaos import bars, books, candles, derivatives, ledger, trades
from infra.chaos.findings import Findings
from infra.chaos.ledger import Happened
from infra.chaos.published import Places, Published, query
from infra.chaos.published import ledger as read_ledger
from infra.chaos.record import ProductRecord
from infra.chaos.settle import Live, until
from marketdata.events import DeadLetter
from marketdata.recipes import load_recipes
from marketdata.topics import (
    BOOK_UPDATES,
    BOOKS,
    CANDLES,
    DEAD_LETTERS,
    DERIVATIVES,
    METRICS,
    QUOTES,
    STATUS,
    TRADES,
    Topic,
)

# What the sink keeps of these topics in these tables, one row for each place.
TABLES: dict[str, Topic] = {
    "trades": TRADES,
    "candles": CANDLES,
    "books": BOOKS,
    "quotes": QUOTES,
    "feed_status": STATUS,
    "metrics": METRICS,
    "derivatives": DERIVATIVES,
}
TOPICS = (*TABLES.values(), BOOK_UPDATES, DEAD_LETTERS)


def compare(
    live: Live, records: Mapping[str, ProductRecord], happened: list[Happened], settled_ns: int, sink_limit_s: float
) -> None:
    """Compare what there was at `settled_ns`; the tables are waited for until they hold what the topics held then."""
    findings, url = live.findings, live.platform.endpoints.database_url
    topic_trades, kept = _compare_topics(live, records)
    books.compare_shown(live.watch.shown, records, findings)
    kept["trades"] = topic_trades.rows
    deadline = time.monotonic() + sink_limit_s
    for table in TABLES:
        _compare_table(url, table, kept[table], max(1.0, deadline - time.monotonic()), findings)
    twice = query(url, "SELECT symbol, trade_id, count(*) FROM trades GROUP BY 1, 2 HAVING count(*) > 1")
    for symbol, number, count in twice:
        findings.add("trade_doubled_in_table", f"{symbol} {number}: {count} rows")
    findings.set("trades", doubled_table=len(twice))
    gaps = [gap for gap in read_ledger(url) if gap.detected <= settled_ns]
    trades.compare(topic_trades, records, gaps, findings)
    ledger.compare(gaps, happened, findings)


def _compare_topics(
    live: Live, records: Mapping[str, ProductRecord]
) -> tuple[trades.TopicTrades, dict[str, Places]]:  # fmt: skip
    """Compare the topics; return the trades, and the rows that the sink must have by table and place."""
    topics, findings = live.topics, live.findings
    topic_trades = trades.TopicTrades(topics.read(TRADES))
    made = list(topics.read(CANDLES))
    kept = {"candles": candles.compare(made, topic_trades, records, findings)}
    bars.compare(made, topic_trades, load_recipes(live.platform.recipes), findings)
    books.compare_updates(topics.read(BOOK_UPDATES), records, findings)
    kept["books"] = books.compare_tops(topics.read(BOOKS), records, findings)
    kept["metrics"] = books.compare_metrics(topics.read(METRICS), records, findings)
    kept["derivatives"] = derivatives.compare(topics.read(DERIVATIVES), live.derivatives.sent, findings)
    kept["quotes"] = books.compare_quotes(topics.read(QUOTES), records, findings)
    kept["feed_status"] = {(one.partition, one.offset): 1 for one in topics.read(STATUS) if one.event is not None}
    _count_dead_letters(topics.read(DEAD_LETTERS), findings)
    return topic_trades, kept


def _compare_table(url: str, table: str, kept: Places, limit_s: float, findings: Findings) -> None:
    """Wait until the sink has passed the last kept record of each partition; then compare row counts by place."""
    ends: dict[int, int] = {}
    for partition, offset in kept:
        ends[partition] = max(ends.get(partition, 0), offset + 1)
    name = TABLES[table].physical()

    def is_behind() -> dict[int, int]:
        rows = query(url, f"SELECT partition, next_offset FROM kafka_offsets WHERE topic = '{name}'")  # noqa: S608
        offsets = dict(rows)
        return {partition: end - offsets.get(partition, 0) for partition, end in ends.items()}

    if not until(lambda: not any(behind > 0 for behind in is_behind().values()), limit_s):
        findings.add("sink_behind", f"table {table}: records of {name} not stored, by partition: {is_behind()}")
    rows = query(url, f"SELECT kafka_partition, kafka_offset, count(*) FROM {table} GROUP BY 1, 2")  # noqa: S608
    stored = {(partition, offset): count for partition, offset, count in rows if offset < ends.get(partition, 0)}
    for place in kept.keys() | stored.keys():
        if kept.get(place, 0) != stored.get(place, 0):
            text = f"{table} of {name}[{place[0]}]@{place[1]}: {stored.get(place, 0)} rows, not {kept.get(place, 0)}"
            findings.add("table_differs_from_topic", text)
    findings.set("tables", **{table: sum(stored.values())})


def _count_dead_letters(published: Iterable[Published], findings: Findings) -> None:
    """Count what was refused; no fault of the schedule spoils a record, so each is a violation."""
    count = 0
    for record in published:
        letter = record.event
        if isinstance(letter, DeadLetter):
            count += 1
            findings.add("dead_letter", f"{letter.symbol} {letter.stage} {letter.reason} {letter.detail[:200]}")
    findings.set("dead_letters", all=count)
