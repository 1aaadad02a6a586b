"""`tickstream schemas`: the Avro schemas, checked against their history and registered."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from marketdata import schemas
from marketdata.events import EVENTS
from marketdata.topics import TOPICS

app = typer.Typer(help="Check, document and register the Avro schemas of `schemas/`.", no_args_is_help=True)
console = Console()

# Every version that was ever published, one file each: what `check` compares with when no registry is at hand.
HISTORY = schemas.FOLDER / "history"
REFERENCE = schemas.FOLDER.parent / "docs" / "reference" / "schemas.md"

_INTRODUCTION = """# Schemas

<!-- Generated from schemas/*.avsc by `tickstream schemas docs`. -->

Values are Avro in the Confluent wire format: a zero byte, the schema id (four bytes, big-endian), the Avro body. Keys
are plain UTF-8 strings. The registry has each schema under two kinds of subject, with the same id and the rule
FULL_TRANSITIVE: the record's name (`tickstream.md.Trades`) and `<topic>-value` of each topic (`md.trades.v1-value`).

- Prices, sizes and volumes are the venue's own decimal strings. Parse them as decimals, not as floating point.
- `timestamp-nanos` is a long: UTC nanoseconds since 1970. Libraries that do not know this logical type return the
  plain integer.
- A value outside an enum is never written. Where an enum has a default symbol, readers with an older schema see that
  symbol in place of a new one.
- null means unknown; zero means zero.

Every message has the headers `traceparent`, the CloudEvents attributes (`ce_specversion`, `ce_id`, `ce_type`,
`ce_source`, `ce_time`, `ce_subject`, `ce_dataschema`, `content-type`) and `hops`: binary, big-endian, a version byte
(1), then the times `t_recv`, `t_produced` and `t_processed` (8 bytes each, UTC nanoseconds, 0 where unknown), and for a
record that was computed from another, that record's partition (4 bytes), offset (8), the index among its outputs (4)
and its topic (UTF-8, to the end). `tickstream_client.decode_hops` reads it.
"""


def versions(name: str) -> list[Path]:
    """Return the files of a record's published versions, oldest first."""
    stem = schemas.file_name(name).removesuffix(".avsc")
    return sorted((HISTORY / stem).glob("v*.avsc"), key=lambda path: int(path.stem[1:]))


def problems(current: str, earlier: str) -> list[str]:
    """Return why two schemas (as JSON text) are not FULL compatible; nothing when they are."""
    import avro.schema
    from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
    from avro.errors import IgnoredLogicalType

    with warnings.catch_warnings():
        # It does not know timestamp-nanos and takes the long, as the specification asks.
        warnings.simplefilter("ignore", IgnoredLogicalType)
        new, old = avro.schema.parse(current), avro.schema.parse(earlier)
    found = []
    for reader, writer, what in ((new, old, "reading old records"), (old, new, "old readers of new records")):
        result = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)  # type: ignore[no-untyped-call]
        if result.compatibility is not SchemaCompatibilityType.compatible:
            found += [
                f"{what}: {message} (at {place})"
                for message, place in zip(result.messages, result.locations, strict=False)
            ]
    return found


def check_history(name: str) -> list[str]:
    """Return what is wrong with a record's schema against its published versions (FULL_TRANSITIVE)."""
    published = versions(name)
    if not published:
        return ["was never published: run `tickstream schemas publish`"]
    current = json.dumps(schemas.load(name))
    found = [f"{path.stem}: {problem}" for path in published for problem in problems(current, path.read_text())]
    if not found and json.loads(published[-1].read_text()) != schemas.load(name):
        found.append(f"differs from {published[-1].stem}: run `tickstream schemas publish` and commit the new version")
    return found


def reference() -> str:
    """Return the reference page of all schemas, as Markdown."""
    parts = [_INTRODUCTION]
    for event in EVENTS:
        schema = schemas.load(event.schema)
        names = [f"`{topic.physical()}`" for topic in TOPICS if topic.schema == event.schema]
        parts.append(f"## {event.schema}\n\n{schema['doc']}\n\nTopics: {', '.join(names)}.\n")
        parts.append(_field_table(schema))
        for field in schema["fields"]:
            items = field["type"].get("items") if isinstance(field["type"], dict) else None
            if isinstance(items, dict):
                parts.append(f"### {items['name']}\n\n{items['doc']}\n")
                parts.append(_field_table(items))
    return "\n".join(parts)


def _field_table(schema: dict[str, Any]) -> str:
    rows = [
        f"| `{field['name']}` | {_type_name(field['type'])} | "
        f"{_default(field['default']) if 'default' in field else ''} | {field['doc']} |"
        for field in schema["fields"]
    ]
    return "\n".join(["| field | type | default | description |", "|---|---|---|---|", *rows, ""])


def _type_name(schema: Any) -> str:
    if isinstance(schema, list):
        return " or ".join(_type_name(branch) for branch in schema)
    if isinstance(schema, str):
        return schema
    names = {
        "array": lambda: f"array of {_type_name(schema['items'])}",
        "map": lambda: f"map of {_type_name(schema['values'])}",
        "enum": lambda: f"enum {schema['name']}: " + ", ".join(schema["symbols"]),
        "record": lambda: f"[{schema['name']}](#{schema['name'].lower()})",
    }
    return names[schema["type"]]() if schema["type"] in names else f"{schema['type']} ({schema['logicalType']})"


def _default(value: Any) -> str:
    return f"`{json.dumps(value)}`"


@app.command()
def check(
    registry: bool = typer.Option(
        False, "--registry", help="Register them with the running registry, too, which checks again."
    ),
) -> None:
    """Check that every schema is FULL_TRANSITIVE compatible with its published versions.

    Needs no registry, so it works in CI: the published versions are in `schemas/history/`.

    Example: `tickstream schemas check`

    Example: `tickstream schemas check --registry`
    """
    failed = False
    for event in EVENTS:
        found = check_history(event.schema)
        failed |= bool(found)
        for problem in found:
            console.print(f"[red]✗[/] {schemas.file_name(event.schema)}: {problem}")
    if failed:
        raise typer.Exit(1)
    if registry:
        register()
    console.print(f"[green]✓[/] {len(EVENTS)} schemas are compatible with every published version")


@app.command()
def publish() -> None:
    """Keep the present schemas as the next published version, where they changed and are compatible.

    Example: `tickstream schemas publish && git add schemas/history`
    """
    for event in EVENTS:
        current = json.dumps(schemas.load(event.schema), indent=2) + "\n"
        published = versions(event.schema)
        found = [problem for path in published for problem in problems(current, path.read_text())]
        if found:
            console.print(f"[red]✗[/] {schemas.file_name(event.schema)}: " + "; ".join(found))
            raise typer.Exit(1)
        if published and json.loads(published[-1].read_text()) == schemas.load(event.schema):
            continue
        folder = HISTORY / schemas.file_name(event.schema).removesuffix(".avsc")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"v{len(published) + 1}.avsc"
        path.write_text(current)
        console.print(f"[green]✓[/] {path.relative_to(schemas.FOLDER.parent)}")


@app.command()
def docs(
    check_only: bool = typer.Option(False, "--check", help="Write nothing; fail when the page is not up to date."),
) -> None:
    """Write `docs/reference/schemas.md` from the schemas.

    Example: `tickstream schemas docs`
    """
    text = reference()
    if check_only:
        if not REFERENCE.exists() or REFERENCE.read_text() != text:
            console.print("[red]✗[/] docs/reference/schemas.md is not up to date: run `tickstream schemas docs`")
            raise typer.Exit(1)
        return
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    REFERENCE.write_text(text)


@app.command()
def register() -> None:
    """Register every schema under its subjects, FULL_TRANSITIVE, and print the ids.

    The subjects are the record's name and `<topic>-value` of each of its topics.

    Example: `TICKSTREAM_REGISTRY_URL=http://127.0.0.1:18081/apis/ccompat/v7 tickstream schemas register`
    """
    from runtime.registry import Registry
    from runtime.settings import CommonSettings
    from tickstream.here import load_here

    client = Registry(load_here(CommonSettings).registry_url)
    table = Table("record", "subject", "id")
    for event in EVENTS:
        schema_id = str(client.register(event.schema))
        for subject in schemas.subjects(event.schema):
            table.add_row(event.schema, subject, schema_id)
    client.close()
    console.print(table)
