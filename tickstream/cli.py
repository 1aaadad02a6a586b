"""The command `tickstream`: one module of commands per subject, imported only when used."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="tickstream",
    help="Tickstream: market data on Kafka, never silently wrong.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.callback()
def main() -> None:
    """Run and operate the platform."""
