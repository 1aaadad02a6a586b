"""`python -m infra.simulator [VENUE]`: a simulated venue, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import structlog
import typer
import uvloop

from infra.simulator.ends import asked_to_stop, first_of
from infra.simulator.market import SYMBOLS_MAX
from infra.simulator.settings import ExchangeSettings, load_for_venue
from infra.simulator.venues.facts import VENUES
from infra.simulator.venues.table import Setup, make, serve
from marketdata.errors import SettingsError
from runtime import garbage, log


async def run(settings: ExchangeSettings) -> bool:
    """Serve until a stop signal or a failure of the venue; return whether it stopped without a failure."""
    stopping = asked_to_stop()
    setup = Setup(
        symbols=settings.symbols,
        rate=settings.exchange_rate,
        seed=settings.exchange_seed,
        batch_ms=settings.exchange_batch_ms,
        book_batch_ms=settings.exchange_book_batch_ms,
        faults=settings.faults,
    )
    venue, app = make(settings.venue, setup)
    facts = VENUES[settings.venue]
    garbage.freeze()
    async with serve(venue, app, settings.host, settings.exchange_port, settings.exchange_control_port) as control:
        structlog.get_logger().info(
            "the venue is open",
            venue=settings.venue,
            url=f"{facts.scheme}://{settings.host}:{venue.port}{facts.path}",
            control=f"http://{settings.host}:{control}",
            products=len(setup.symbols),
            rate=setup.rate,
            login=dict(facts.environment),
        )
        await first_of(stopping, venue.broken)
    return not venue.broken.is_set()


def main(
    venue: Annotated[str | None, typer.Argument(help=f"One of {', '.join(sorted(VENUES))}.")] = None,
    symbols: Annotated[int | None, typer.Option(min=1, max=SYMBOLS_MAX, help="Number of products.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the stream; 0 takes a free one.")] = None,
    control_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of REST, faults and health.")] = None,
    rate: Annotated[float | None, typer.Option(min=0, help="Orders a second over all products.")] = None,
) -> None:
    """Simulate a venue with the limits that it documents; what is not given is read from TICKSTREAM_VENUE and so on.

    Example: `python -m infra.simulator bitfinex --symbols 300`
    """
    given: dict[str, Any] = {
        "venue": venue,
        "exchange_symbols": symbols,
        "exchange_port": port,
        "exchange_control_port": control_port,
        "exchange_rate": rate,
    }
    try:
        settings = load_for_venue(**{name: value for name, value in given.items() if value is not None})
        log.configure("exchange", settings.log_level)
        code = 0 if uvloop.run(run(settings)) else 1
    except (SettingsError, ValueError) as error:
        print(f"exchange: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person looks for
        code = 2
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
