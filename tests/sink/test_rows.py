"""Rows of every kind of event, as read by the real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.local.table import Endpoints
from marketdata.errors import BadEvent
from marketdata.events import AnyEvent, Book, Checkpoint, DeadLetter, FeedStatus, Quote, Trade, Trades
from sink import binary
from sink.batch import Batch, Source, Span, TableRows
from sink.binary import HEADER, TRAILER
from sink.rows import STAGE, refused, timestamp
from sink.rows import stored as records_of

SOURCE = Source("md.trades.v1", 2, 41, b"coinbase:BTC-USD", b"payload")


@pytest.fixture(scope="module")
def echo(endpoints: Endpoints) -> Iterator[Callable[[str, str], Any]]:
    """A function that sends one column of a type to PostgreSQL by COPY, and returns its values as text."""
    with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
        for kind in ("numeric", "numeric[]", "text", "timestamptz"):
            name = kind.replace("[]", "_list")
            connection.execute(f"CREATE TEMP TABLE echo_{name} (value {kind})")
        connection.execute("SET timezone = 'UTC'")

        def send(kind: str, value: str | bytes, *, binary: bool = False) -> Any:
            table = f"echo_{kind.replace('[]', '_list')}"
            with connection.cursor() as cursor:
                cursor.execute(f"TRUNCATE {table}")
                with cursor.copy(f"COPY {table} FROM STDIN {'(FORMAT BINARY)' if binary else ''}") as copy:
                    if isinstance(value, str):
                        copy.write(value + "\n")
                    else:
                        copy.write(HEADER + b"\x00\x01" + value + TRAILER)
                row = cursor.execute(f"SELECT value::text FROM {table}").fetchone()
            assert row is not None
            return row[0]

        yield send


digits = st.text("0123456789", min_size=1, max_size=20)
plain = st.builds(lambda sign, whole, part: f"{sign}{whole}.{part}", st.sampled_from(["", "-"]), digits, digits)
# Up to the maximum number of digits.
scientific = st.builds(lambda number, power: f"{number}e{power}", plain, st.integers(-20, 9))


def stored(event: AnyEvent, source: Source) -> TableRows:
    """Return the only record of an event."""
    (record,) = records_of(event, source, 0)
    return record


def column(text: str, number: int) -> str:
    """Return one column of the first line of COPY text."""
    return text.splitlines()[0].split("\t")[number]


def quote(**changes: Any) -> Quote:
    """Return a quote with only these prices."""
    return Quote(venue="coinbase", symbol="BTC-USD", ts_event=1, ts_recv=2, line="coinbase/0", **changes)


@given(number=st.one_of(digits, plain, scientific, st.sampled_from(["0", ".5", "5.", "0.00000000", "1E-8", "-0"])))
@settings(max_examples=200, deadline=None)
def test_a_decimal_string_keeps_its_exact_value(echo: Callable[[str, str], Any], number: str) -> None:
    """PostgreSQL's numeric preserves every digit that the venue sent."""
    text = stored(quote(bid=number), SOURCE).data.decode()
    assert column(text, 13) == number
    assert Decimal(echo("numeric", column(text, 13))) == Decimal(number)


def test_trailing_zeros_of_a_plain_price_stay(echo: Callable[[str, str], Any]) -> None:
    """A price keeps its number of decimal places."""
    assert echo("numeric", column(stored(quote(bid="64000.10"), SOURCE).data.decode(), 13)) == "64000.10"


@given(numbers=st.lists(st.one_of(digits, plain, scientific), max_size=6))
@settings(max_examples=100, deadline=None)
def test_levels_of_a_book_keep_their_exact_values(echo: Callable[[str, str], Any], numbers: list[str]) -> None:
    """The arrays contain each level's value at its index."""
    book = Book(
        venue="coinbase", symbol="BTC-USD", ts_event=1, ts_recv=2, line="l", valid=True, depth=10,
        bid_prices=numbers, bid_sizes=[], ask_prices=[], ask_sizes=[],
    )  # fmt: skip
    held = echo("numeric[]", column(stored(book, SOURCE).data.decode(), 14)).strip("{}")
    assert [Decimal(one) for one in held.split(",") if one] == [Decimal(one) for one in numbers]


@given(text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_as_it_was(echo: Callable[[str, str], Any], text: str) -> None:
    """Tabs, newlines, backslashes and COPY's own markers have no special meaning inside a value."""
    assert echo("text", stored(quote(reason=text), SOURCE).data.decode().split("\t")[6]) == text


@given(ts=st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=200, deadline=None)
def test_any_time_is_truncated_to_its_microsecond(echo: Callable[[str, str], Any], ts: int) -> None:
    """The partition time is the exact time without its last three digits, also before 1970."""
    held = datetime.fromisoformat(echo("timestamptz", timestamp(ts)))
    assert held == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts // 1000)


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-inf", "0x1F", "1_000", "", " 1", "1 ", "1,2", "٣", "1e9999", "9" * 65, "\\N"]
)
def test_what_is_no_decimal_is_refused_by_name(number: str) -> None:
    """PostgreSQL would accept some of these as numbers, but they are not prices."""
    with pytest.raises(BadEvent, match=r"not_a_decimal: bid = "):
        stored(quote(bid=number), SOURCE)


@pytest.mark.parametrize("number", ["NaN", "1,2", "", "NULL", "{1}", "1_0"])
def test_what_is_no_decimal_among_levels_is_refused(number: str) -> None:
    """One bad level makes the book unusable; two numbers cannot pass as one."""
    book = Book(
        venue="coinbase", symbol="BTC-USD", ts_event=1, ts_recv=2, line="l", valid=True, depth=10,
        bid_prices=["1", number], bid_sizes=["1", "1"], ask_prices=[], ask_sizes=[],
    )  # fmt: skip
    with pytest.raises(BadEvent, match=r"not_a_decimal: bid_prices = "):
        stored(book, SOURCE)


def test_an_empty_message_has_no_rows(trades: Callable[..., Trades]) -> None:
    """A heartbeat advances the offset and stores nothing."""
    record = stored(trades(1, count=0), SOURCE)
    assert (record.rows, record.data) == (0, b"")


def test_an_event_without_a_table_is_refused() -> None:
    """There is no table for an operator's state."""
    with pytest.raises(BadEvent, match="wrong_schema"):
        stored(
            Checkpoint(
                venue="v", symbol="s", chain="md.ingest.books", partition=0, offset=1, topic_id="", ts_recv=1, states={}
            ),
            SOURCE,
        )


def test_a_refused_record_keeps_its_bytes_and_position() -> None:
    """A dead letter contains the record's position, key, reason and bytes."""
    letter = refused(SOURCE, "undecodable", "because", ts=5, field="price", value="x").dead_letter
    assert letter == DeadLetter(
        venue="coinbase", symbol="BTC-USD", ts_recv=5, stage=STAGE, reason="undecodable", detail="because",
        field="price", value="x", topic="md.trades.v1", partition=2, offset=41, payload=b"payload",
    )  # fmt: skip


def trade(**changes: Any) -> Trade:
    """Return a valid trade with these changes."""
    fields: dict[str, Any] = {"trade_id": "1", "ts_event": 1, "price": "1", "size": "1", "side": "buy"} | changes
    return Trade(**fields)


def message(*trades: Trade, **changes: Any) -> Trades:
    """Return a message with these trades."""
    fields: dict[str, Any] = {"venue": "v", "symbol": "s", "ts_event": 1, "ts_recv": 2, "line": "l"} | changes
    return Trades(**fields, trades=trades)


@given(
    number=st.one_of(digits, plain, scientific, st.sampled_from(["0", ".5", "5.", "-0.00", "1E-8", "-0", "00012.5"]))
)
@settings(max_examples=300, deadline=None)
def test_a_binary_decimal_equals_postgresqls_conversion_of_its_text(echo: Callable[..., Any], number: str) -> None:
    """Digits, sign, and the number of digits after the point."""
    assert echo("numeric", binary.numeric(number, "price"), binary=True) == echo("numeric", number)


@given(text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_binary_text_comes_back_as_it_was(echo: Callable[..., Any], text: str) -> None:
    """No character has a special meaning."""
    assert echo("text", binary.text(text, "trade_id"), binary=True) == text


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"trade_id": "nul\x00"}, "control_character"),
        ({"original_id": "\ud800"}, "not_unicode"),
        ({"price": "NaN"}, "not_a_decimal"),
        ({"size": "1e-41"}, "out_of_range"),
        ({"side": "x" * 513}, "too_long"),
    ],
)
def test_one_bad_trade_becomes_a_dead_letter_and_its_neighbours_are_stored(bad: dict[str, str], reason: str) -> None:
    """They keep their indexes; the dead letter contains the message with only that trade, as JSON."""
    one, other, wrong = trade(trade_id="1"), trade(trade_id="3"), trade(**bad)
    rows, letter = records_of(message(one, wrong, other), SOURCE, 7)
    assert rows.data == binary.trade_row(message(), 0, one, 2, 41) + binary.trade_row(message(), 2, other, 2, 41)
    assert (rows.rows, letter.rows, letter.table, letter.item) == (2, 1, "dead_letters", 1)
    found = letter.dead_letter
    assert found is not None
    assert (found.reason, found.field, found.ts_recv, found.offset) == (reason, next(iter(bad)), 7, 41)
    if reason != "not_unicode":  # JSON cannot contain it either
        assert msgspec.json.decode(found.payload, type=Trades) == message(wrong)


def test_a_bad_value_of_the_message_makes_all_of_it_unusable() -> None:
    """A message with an invalid symbol cannot be stored."""
    with pytest.raises(BadEvent, match="control_character: symbol = "):
        records_of(message(trade(), symbol="a\x00"), SOURCE, 7)
    with pytest.raises(BadEvent, match="too_long: venue = "):
        records_of(message(venue="é" * 257), SOURCE, 7)


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (quote(reason="\x00"), "control_character: reason"),
        (quote(origin="\ud800"), "not_unicode: origin"),
        (quote(source="x" * 513), "too_long: source"),
        (
            FeedStatus(venue="v", symbol="s", ts_event=1, ts_recv=1, line="l", kind="gap", gap_id="x" * 2_001),
            "too_long: gap_id",
        ),
        (
            FeedStatus(venue="v", symbol="s", ts_event=1, ts_recv=1, line="l", kind="gap", detail="\x00"),
            "control_character: detail",
        ),
    ],
)
def test_a_value_too_long_for_a_column_or_its_index_is_refused_by_name(event: AnyEvent, problem: str) -> None:
    """It is refused before PostgreSQL refuses the whole batch."""
    with pytest.raises(BadEvent, match=problem):
        records_of(event, SOURCE, 7)


def test_a_batch_spans_from_the_first_expected_offset_to_the_last_next() -> None:
    """Offsets without rows are in the span too."""
    batch = Batch()
    assert not batch
    batch.passed(("t", 0), 10, 11)
    batch.passed(("t", 0), 11, 15)
    batch.passed(("t", 1), 3, 4)
    assert batch
    assert batch.spans == {("t", 0): Span(10, 15), ("t", 1): Span(3, 4)}
