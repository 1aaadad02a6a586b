"""The command line: complete help, clear errors, schemas held to their history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from marketdata import schemas
from marketdata.events import EVENTS, Trades
from producers.venues import HISTORIES, VENUES, find_venue
from tickstream.cli import app
from tickstream.replay import in_event_order
from tickstream.schemas import check_history, problems

RUN = CliRunner()


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def all_commands() -> list[tuple[tuple[str, ...], Any]]:
    """Return every command of `tickstream`."""
    return list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(
    ("words", "command"), all_commands(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_explains_itself_with_an_example(words: tuple[str, ...], command: Any) -> None:
    """Each command says what it does, gives an example, and describes each of its options."""
    assert command.help is not None
    assert "Example:" in command.help
    assert all(getattr(parameter, "help", None) for parameter in command.params if parameter.name != "help")
    assert RUN.invoke(app, [*words, "--help"]).exit_code == 0


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.schema)
def test_every_schema_is_compatible_with_each_published_version(event: type) -> None:
    """`schemas check` finds nothing wrong, with no registry at hand."""
    assert check_history(event.schema) == []  # type: ignore[attr-defined]


def test_the_reference_of_schemas_is_up_to_date() -> None:
    """`docs/reference/schemas.md` is what `tickstream schemas docs` writes."""
    assert RUN.invoke(app, ["schemas", "docs", "--check"]).exit_code == 0


def test_a_new_field_without_a_default_is_refused() -> None:
    """A schema that old records cannot fill is not FULL compatible, and the field is named."""
    changed = json.loads(json.dumps(schemas.load("Trades")))
    changed["fields"].append({"name": "session", "type": "string"})
    assert "session" in " ".join(problems(json.dumps(changed), json.dumps(schemas.load("Trades"))))


def test_a_new_field_with_a_default_is_accepted() -> None:
    """A schema that only adds a field with a default is FULL compatible."""
    changed = json.loads(json.dumps(schemas.load("Trades")))
    changed["fields"].append({"name": "session", "type": "string", "default": ""})
    assert problems(json.dumps(changed), json.dumps(schemas.load("Trades"))) == []


def test_what_is_not_compatible_is_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--registry` either; nobody answers there, which would be told otherwise."""
    monkeypatch.setattr("tickstream.schemas.HISTORY", tmp_path)  # where no version was ever published
    monkeypatch.setenv("TICKSTREAM_REGISTRY_URL", "http://127.0.0.1:9")
    result = RUN.invoke(app, ["schemas", "check", "--registry"])
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert "publish" in result.output


def test_schema_files_and_event_classes_have_the_same_fields() -> None:
    """Each event class has exactly the fields of its schema, in the same order, so nothing is lost on the way."""
    for event in EVENTS:
        wanted = [field["name"] for field in schemas.load(event.schema)["fields"]]
        assert sorted(event.__struct_fields__) == sorted(wanted), event.schema


@given(st.lists(st.integers(0, 50), max_size=60))
def test_a_replay_comes_in_event_order(times: list[int]) -> None:
    """Events within the window come out sorted by ts_event, none lost."""
    events = [Trades(venue="v", symbol="s", ts_event=ts, ts_recv=number, line="l") for number, ts in enumerate(times)]
    ordered = list(in_event_order(iter(events), window=100))
    assert [event.ts_event for event in ordered if isinstance(event, Trades)] == sorted(times)


def test_an_unknown_stage_is_named_with_the_choices() -> None:
    """A wrong --stage is refused with what it may be."""
    result = RUN.invoke(app, ["pipe", "--venue", "coinbase", "--stage", "ticks", "x.jsonl.zst"])
    assert result.exit_code == 2
    assert "candles" in result.output


def test_a_backfill_of_nothing_is_refused() -> None:
    """It would end at once as if all were there."""
    result = RUN.invoke(app, ["backfill", "coinbase", "BTC-USD", "--no-candles"])
    assert result.exit_code == 2
    assert "--trades" in result.output


def test_list_of_venues_tells_what_their_code_does() -> None:
    """Every feed is a row, with what its own module says of stream and history."""
    found = {row["venue"]: row for row in json.loads(RUN.invoke(app, ["venues", "--json"]).stdout)}
    assert set(found) == set(VENUES)
    for name, row in found.items():
        venue = find_venue(name)
        assert (row["address"], row["checksum"], row["depth"]) == (venue.ws_url, venue.checksum, venue.depth)
        assert row["key"] == venue.key
        assert (row["history"] is not None) == (name in HISTORIES)
    assert "1m" in found["kraken"]["history"]["intervals"]
    assert found["bybit"]["markets"]["linear"].endswith("/linear")
    table = RUN.invoke(app, ["venues"]).stdout
    assert all(name in table for name in VENUES)
