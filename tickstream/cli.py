"""The command `tickstream`: one module of commands per subject, each imported only when used."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from marketdata.errors import TickstreamError
from tickstream import db, explain, history, keys, platform, schemas, topics

app = typer.Typer(
    name="tickstream",
    help="Tickstream: market data on Kafka, exact to the last decimal and never silently wrong.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (platform.up, platform.down, platform.status, platform.logs, history.backfill, history.reconcile):
    app.command()(command)
app.add_typer(topics.app, name="topics")
app.add_typer(schemas.app, name="schemas")
app.add_typer(db.app, name="db")
app.add_typer(history.gaps, name="gaps")
app.add_typer(explain.app, name="explain")
app.add_typer(keys.app, name="keys")


@app.command()
def pipe(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Recording (`.jsonl`, Databento's `.dbn` or `.csv`, also packed); several are lines of one feed."
        ),
    ],
    venue: Annotated[str, typer.Option("--venue", help="Venue that was recorded, as in `tickstream venues`.")],
    stage: Annotated[
        str,
        typer.Option(
            "--stage", help="What to print: events, trades, quotes, derivatives, books, metrics, candles or anomalies."
        ),
    ] = "events",
    summary: Annotated[
        bool, typer.Option("--summary", help="Print one JSON object of counts and final books instead.")
    ] = False,
    recipes: Annotated[
        Path | None,
        typer.Option("--recipes", help="TOML or JSON file of recipes: bars to make besides the candles of 1m to 1d."),
    ] = None,
) -> None:
    """Run recorded frames through feed and operators, without Kafka, and print the events as JSON lines.

    Example: `tickstream pipe --venue coinbase recording.jsonl.zst --stage candles | jq -c .`

    Example: `tickstream pipe --venue coinbase recording.jsonl.zst --summary`

    Example: `tickstream pipe --venue coinbase recording.jsonl.zst --stage candles --recipes bars.toml`
    """
    import orjson

    from tickstream import pipe as piping
    from tickstream.reader import as_json

    if stage not in piping.STAGES:
        raise typer.BadParameter(f"{stage!r} is none of {', '.join(piping.STAGES)}", param_hint="--stage")
    for path in files:
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {path}", param_hint="FILE")
    pipeline = piping.Pipeline(recipes)
    connections, counted = piping.Connections(venue, piping.survey(files, venue)), piping.Summary()
    wanted = piping.STAGES[stage]
    for topic, event in piping.run(files, connections, pipeline):
        if summary:
            counted.take(topic, event)
        elif topic == wanted or (wanted is None and (topic.startswith("md.ingest") or topic == "md.instruments")):
            sys.stdout.buffer.write(as_json(event) + b"\n")
        elif event.schema == "DeadLetter":
            sys.stderr.buffer.write(as_json(event) + b"\n")
    if summary:
        sys.stdout.buffer.write(
            orjson.dumps(counted.as_dict(connections, pipeline), option=orjson.OPT_INDENT_2) + b"\n"
        )
    for remark in [*connections.remarks(), *(counted.remarks() if summary else ())]:
        typer.echo(f"tickstream: {remark}", err=True)


@app.command()
def venues(
    *, as_json: Annotated[bool, typer.Option("--json", help="One JSON array with all that is known.")] = False
) -> None:
    """List the venues: how each is reached, how deep its book is and how it is proven, its replay and its history.

    Example: `tickstream venues`

    Example: `tickstream venues --json | jq -r '.[] | select(.checksum) | .venue'`
    """
    from tickstream import venues as listing

    if as_json:
        listing.print_json()
    else:
        listing.print_table()


@app.command()
def replay(
    topic: Annotated[
        list[str] | None, typer.Option("--topic", help="Topic to replay; may be given several times.")
    ] = None,
    start: Annotated[
        str, typer.Option("--from", help="Begin, RFC 3339 with zone, by the time written to Kafka.")
    ] = "1970-01-01T00:00:00Z",
    end: Annotated[str, typer.Option("--to", help="End (exclusive), RFC 3339 with zone; now when not given.")] = "",
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="Factor of the events' own pace; 0 is as fast as possible.")
    ] = 0,
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", help="Only this `venue:symbol`; may be given several times.")
    ] = None,
) -> None:
    """Print the records of public topics again, merged in event order, for a backtest.

    Example: `tickstream replay --topic md.trades --topic md.book_updates --symbol coinbase:BTC-USD > day.jsonl`

    Example: `tickstream replay --topic md.trades --from 2026-08-09T21:00:00Z --speed 10`
    """
    from marketdata.clock import parse_rfc3339
    from marketdata.topics import topic as by_name
    from runtime.settings import CommonSettings
    from tickstream.here import load_here
    from tickstream.replay import replay as run

    printed = run(
        load_here(CommonSettings),
        [by_name(name) for name in topic or ["md.trades"]],
        start=parse_rfc3339(start, "--from"),
        end=parse_rfc3339(end, "--to") if end else None,
        speed=speed,
        keys=frozenset(symbol or ()),
    )
    typer.echo(f"{printed} records", err=True)


def main() -> None:
    """Run the command line; an error of ours is one clear line, not a traceback."""
    try:
        app()
    except TickstreamError as error:
        typer.secho(f"tickstream: {error}", fg="red", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output (such as `head`) has gone; leave quietly, also at interpreter shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
