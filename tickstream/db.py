"""`tickstream db`: the database's tables, brought to the version that this program needs."""

from __future__ import annotations

import typer
from rich.console import Console

app = typer.Typer(help="Migrate and tend the TimescaleDB tables.", no_args_is_help=True)
console = Console()


@app.command()
def migrate() -> None:
    """Bring the tables to the newest version (online-safe) and grant each role what it needs.

    Example: `TICKSTREAM_DATABASE_URL=postgresql://owner@db/tickstream tickstream db migrate`
    """
    from runtime.settings import DatabaseSettings, load
    from sink import migrations

    settings = load(DatabaseSettings)
    address, schema = settings.database_url.get_secret_value(), settings.database_schema
    migrations.upgrade(address, schema)
    console.print(f"[green]✓[/] schema {schema} is at version {migrations.current(address, schema)}")
