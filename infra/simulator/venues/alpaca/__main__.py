"""`python -m infra.simulator.venues.alpaca`: the simulated Alpaca with faults, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

import structlog
import uvloop

from infra.simulator import web
from infra.simulator.ends import asked_to_stop, first_of
from infra.simulator.settings import ExchangeSettings
from infra.simulator.venues.alpaca.rest import create_app
from infra.simulator.venues.alpaca.server import AlpacaExchange
from marketdata.errors import SettingsError
from runtime import log
from runtime.settings import load

_LOG = structlog.get_logger()


async def run(settings: ExchangeSettings, symbols: tuple[str, ...]) -> bool:
    """Serve until a stop signal or a failure of the exchange; return whether it stopped without a failure."""
    stopping = asked_to_stop()
    exchange = AlpacaExchange(symbols, seed=settings.exchange_seed, rate=settings.exchange_rate, faults=settings.faults)
    async with (
        exchange.serve(settings.host, settings.exchange_port),
        web.serve(create_app(exchange), settings.host, settings.exchange_control_port) as control_port,
    ):
        _LOG.info(
            "the exchange is open",
            url=f"ws://{settings.host}:{exchange.port}/v2/iex",
            control=f"http://{settings.host}:{control_port}",
            symbols=symbols,
            keys=list(exchange.keys),
        )
        await first_of(stopping, exchange.broken)
    return not exchange.broken.is_set()


def main() -> int:
    """Run, and return the process's exit code."""
    try:
        settings = load(ExchangeSettings)
        log.configure("exchange", settings.log_level)
        return 0 if uvloop.run(run(settings, settings.tickers)) else 1
    except (SettingsError, ValueError) as error:
        print(f"exchange: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person looks for
        return 2


if __name__ == "__main__":
    sys.exit(main())
