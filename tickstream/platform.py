"""`tickstream up | down | status | logs`: the whole platform on this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from infra.local import stack
from infra.local.settings import StackSettings
from marketdata.errors import CodecError
from runtime.settings import load

console = Console()
_COLOURS = {"ready": "green", "done": "dim", "starting": "yellow", "restarting": "yellow"}


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Start in the background and return when all is ready.")
    ] = False,
) -> None:
    """Start the whole platform, wait until each part is healthy, and show it live; Ctrl-C stops all in order.

    Prices come from the simulated exchange unless `TICKSTREAM_SOURCE` is `live` or `replay`.

    Example: `tickstream up`

    Example: `TICKSTREAM_SOURCE=replay TICKSTREAM_REPLAY_FILE=day.jsonl.zst tickstream up --detach`

    Example: `TICKSTREAM_SOURCE=live TICKSTREAM_VENUE=kraken KRAKEN_PRODUCTS=BTC/USD,ETH/EUR tickstream up`
    """
    from infra.local import screen
    from producers.venues import find_venue

    settings = load(StackSettings)
    find_venue(settings.venue)  # a mistyped name is an error before anything starts
    report = _report
    if settings.source == "replay" and not settings.replay_behind_s:
        settings = settings.model_copy(update={"replay_behind_s": replay_behind_s(settings)})
    if detach:
        stack.start_detached(settings, services=True, report=report)
        screen.print_addresses(stack.folders_of(settings))
        return
    screen.run(settings, report)


def replay_behind_s(settings: StackSettings) -> float:
    """Return by how many seconds the recorder's clock was behind; what cannot be read, the replay server names."""
    from marketdata.clock import SECOND_NS
    from tickstream.recorder_clock import behind_ns

    try:
        behind = max((behind_ns(path, settings.venue) for path in settings.replay_files), default=0) / SECOND_NS
    except (CodecError, OSError):
        return 0.0
    if behind:
        _report(f"the recorder's clock was {behind:.1f} s behind the venue's, and is set forward by that")
    return behind


def down() -> None:
    """Stop the platform that `tickstream up --detach` started, in order, and whatever a crash left running.

    Example: `tickstream down`
    """
    if stack.down(stack.folders_of(load(StackSettings)), _report):
        console.print("[green]✓[/] stopped")
    else:
        console.print("nothing was running")


def status() -> None:
    """Show each process: state, ports, how long, restarts. Exits with 1 when one is not as it should be.

    Example: `tickstream status`
    """
    rows = stack.status(stack.folders_of(load(StackSettings)))
    if not rows:
        console.print("not running; start it with `make run` or `tickstream up --detach`")
        raise typer.Exit(1)
    table = Table("process", "state", "pid", "ports", "for", "restarts", "note")
    for row in rows:
        colour = _COLOURS.get(row.state, "red")
        ports = " ".join(map(str, row.ports))
        pid = "" if row.pid is None else str(row.pid)
        table.add_row(
            row.name, f"[{colour}]{row.state}[/]", pid, ports, f"{row.seconds:.0f} s", str(row.restarts), row.note
        )
    console.print(table)
    if any(row.state not in {"ready", "done"} for row in rows):
        raise typer.Exit(1)


def logs(
    name: Annotated[str, typer.Argument(help="Process, as `tickstream status` names it, for example `producer`.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing what comes; stop with Ctrl-C.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many of the last lines.")] = 200,
) -> None:
    """Print the log of one process.

    Example: `tickstream logs producer -n 20`

    Example: `tickstream logs sink --follow | jq .event`
    """
    for line in stack.logs(stack.folders_of(load(StackSettings)), name, follow=follow, lines=lines):
        print(line, flush=follow)


def _report(line: str) -> None:
    console.print(line, highlight=False, markup=False)
