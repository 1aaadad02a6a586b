"""`tickstream db`: the database's tables, brought to the version that this program needs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(help="Migrate and tend the TimescaleDB tables.", no_args_is_help=True)
console = Console()


@app.command()
def migrate() -> None:
    """Bring the tables to the newest version (online-safe) and grant each role what it needs.

    Example: `TICKSTREAM_DATABASE_URL=postgresql://owner@db/tickstream tickstream db migrate`
    """
    from runtime.settings import DatabaseSettings
    from sink import migrations
    from tickstream.here import load_here

    settings = load_here(DatabaseSettings)
    address, schema = settings.database_url.get_secret_value(), settings.database_schema
    migrations.upgrade(address, schema)
    console.print(f"[green]✓[/] schema {schema} is at version {migrations.current(address, schema)}")


@app.command()
def retention(
    days: Annotated[int, typer.Option("--days", min=1, max=36_500, help="Keep this many days.")] = 365,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only this table; may be given several times.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be dropped.")] = False,
) -> None:
    """Drop the days of the tables that are older than what is to be kept.

    Example: `tickstream db retention --days 30 --table books --dry-run`
    """
    from runtime.settings import DatabaseSettings
    from sink.retention import drop_older
    from tickstream.here import load_here

    settings = load_here(DatabaseSettings)
    address, schema = settings.database_url.get_secret_value(), settings.database_schema
    tables = {"tables": tuple(table)} if table else {}  # all of them unless named
    dropped = drop_older(address, schema, days, dry_run=dry_run, **tables)
    for one in dropped:
        console.print(f"{'would drop' if dry_run else 'dropped'} {one.table} {one.day}", highlight=False)
    if not dropped:
        console.print(f"[green]✓[/] nothing is older than {days} days")
