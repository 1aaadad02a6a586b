"""The metric of which books may be trusted."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from api.core.book_validity import NAME, PIECE, BookValidity

NAMES = st.text(st.characters(blacklist_categories=["Cs"]), max_size=5)


@given(books=st.dictionaries(st.tuples(NAMES, NAMES), st.booleans(), max_size=20))
def test_every_book_has_its_value_whatever_its_name(books: dict[tuple[str, str], bool]) -> None:
    """As Prometheus' own parser reads it, at the first reading and at the next one."""
    validity = BookValidity(lambda: iter([(*name, valid) for name, valid in books.items()]))
    for _ in range(2):
        (family,) = text_string_to_metric_families(asyncio.run(validity.text()).decode())
        found = {(each.labels["venue"], each.labels["symbol"]): each.value for each in family.samples}
        assert family.name == NAME
        assert found == {name: float(valid) for name, valid in books.items()}


def test_the_loop_has_its_turns_while_many_books_are_written() -> None:
    """One after each piece: 20,000 symbols delay nobody for long."""
    count = 20 * PIECE
    validity = BookValidity(lambda: iter(("venue", f"{number}", True) for number in range(count)))

    async def read() -> int:
        turns = 0
        reading = asyncio.create_task(validity.text())
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert reading.result().count(b"\n") == count + 2
        return turns

    assert asyncio.run(read()) >= count // PIECE


def test_the_metric_is_part_of_the_answer(shared: object) -> None:
    """With its type, after the metrics of the process."""
    text = shared.client.get("/metrics").text  # type: ignore[attr-defined] # a fixture of this folder
    assert f"# TYPE {NAME} gauge" in text
    assert "process_cpu_seconds_total" in text
