"""`tickstream schemas`: the Avro schemas, checked against their history and registered."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from marketdata import schemas
from marketdata.events import EVENTS

app = typer.Typer(help="Check and register the Avro schemas of `schemas/`.", no_args_is_help=True)
console = Console()

# Every version that was ever published, one file each: what `check` compares with when no registry is at hand.
HISTORY = schemas.FOLDER / "history"


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
def register() -> None:
    """Register every schema with the registry, FULL_TRANSITIVE, and print the ids.

    Example: `TICKSTREAM_REGISTRY_URL=http://127.0.0.1:18081/apis/ccompat/v7 tickstream schemas register`
    """
    from runtime.registry import Registry
    from runtime.settings import CommonSettings
    from tickstream.here import load_here

    client = Registry(load_here(CommonSettings).registry_url)
    table = Table("record", "subject", "id")
    for event in EVENTS:
        table.add_row(event.schema, schemas.subject(event.schema), str(client.register(event.schema)))
    client.close()
    console.print(table)
