"""`tickstream topics`: the declared topics, applied to Kafka and read."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from marketdata.topics import DAY_MS, TOPICS, topic

app = typer.Typer(help="Declare, compare and read the Kafka topics.", no_args_is_help=True)
console = Console()

_COLOURS = {"create": "green", "set": "yellow", "refuse": "red"}


def _show(changes: list[object], done: str) -> None:
    from runtime.admin import Change

    for change in changes:
        assert isinstance(change, Change)  # noqa: S101 - for the type checker only
        console.print(f"[{_COLOURS[change.action]}]{change.action:7}[/] {change.topic}: {change.detail}")
    if not changes:
        console.print("[green]✓[/] Kafka has every topic as declared")
    else:
        console.print(done)


@app.command("list")
def list_() -> None:
    """List the topics that Tickstream declares: schema, retention and what each is for.

    Example: `tickstream topics list`
    """
    table = Table("topic", "schema", "kept", "public", "about")
    for one in TOPICS:
        kept = f"{one.retention_ms // DAY_MS} d{', compacted' if one.compacted else ''}"
        table.add_row(one.physical(), one.schema, kept, "yes" if one.public else "no", one.about)
    console.print(table)


@app.command()
def diff() -> None:
    """Show what `apply` would change; exits with 1 when there is something.

    Example: `tickstream topics diff`
    """
    from runtime.admin import TopicAdmin
    from runtime.settings import CommonSettings
    from tickstream.here import load_here

    changes = TopicAdmin(load_here(CommonSettings)).diff()
    _show(list(changes), f"{len(changes)} differences; `tickstream topics apply` makes Kafka as declared")
    if changes:
        raise typer.Exit(1)


@app.command()
def apply() -> None:
    """Create the topics that are missing and set what differs. Never deletes, never moves keys.

    Example: `tickstream topics apply`
    """
    from runtime.admin import TopicAdmin
    from runtime.settings import CommonSettings
    from tickstream.here import load_here

    changes = TopicAdmin(load_here(CommonSettings)).apply()
    refused = [change for change in changes if change.action == "refuse"]
    _show(list(changes), f"{len(changes) - len(refused)} changes done, {len(refused)} need your decision")
    if refused:
        raise typer.Exit(1)


@app.command()
def tail(
    name: str = typer.Argument(help="Topic, for example `md.trades`."),
    count: int = typer.Option(10, "--count", "-n", min=1, max=100_000, help="How many of the last records to print."),
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on printing what comes; stop with Ctrl-C."),
    key: str = typer.Option("", "--key", help="Only records of this key, for example `coinbase:BTC-USD`."),
    headers: bool = typer.Option(False, "--headers", help="Print the Kafka headers too."),
) -> None:
    """Print records of a topic, decoded from Avro, one JSON object a line.

    Example: `tickstream topics tail md.trades -n 5`

    Example: `tickstream topics tail md.books --follow --key coinbase:BTC-USD | jq .valid`
    """
    from runtime.settings import CommonSettings
    from tickstream.here import load_here
    from tickstream.reader import print_tail

    print_tail(load_here(CommonSettings), topic(name), count=count, follow=follow, key=key, headers=headers)
