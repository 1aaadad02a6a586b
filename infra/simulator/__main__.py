"""`python -m infra.simulator`: the simulated exchange, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

import structlog
import uvloop

from infra.simulator import web
from infra.simulator.ends import asked_to_stop, first_of
from infra.simulator.settings import ExchangeSettings
from infra.simulator.venues.coinbase.control import create_app
from infra.simulator.venues.coinbase.server import Exchange
from marketdata.errors import SettingsError
from runtime import garbage, log
from runtime.settings import load


async def run(settings: ExchangeSettings) -> bool:
    """Serve until a stop signal or a failure of the exchange; return whether it stopped without a failure."""
    stopping = asked_to_stop()
    exchange = Exchange(
        settings.symbols,
        seed=settings.exchange_seed,
        rate=settings.exchange_rate,
        batch_ms=settings.exchange_batch_ms,
        book_batch_ms=settings.exchange_book_batch_ms,
        faults=settings.faults,
    )
    garbage.freeze()
    async with (
        exchange.serve(settings.host, settings.exchange_port),
        web.serve(create_app(exchange), settings.host, settings.exchange_control_port) as control_port,
    ):
        structlog.get_logger().info(
            "the exchange is open",
            url=f"ws://{settings.host}:{exchange.port}",
            control=f"http://{settings.host}:{control_port}",
            products=len(settings.symbols),
            rate=settings.exchange_rate,
        )
        await first_of(stopping, exchange.broken)
    return not exchange.broken.is_set()


def main() -> int:
    """Run, and return the process's exit code."""
    try:
        settings = load(ExchangeSettings)
        log.configure("exchange", settings.log_level)
        return 0 if uvloop.run(run(settings)) else 1
    except (SettingsError, ValueError) as error:
        print(f"exchange: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person looks for
        return 2


if __name__ == "__main__":
    sys.exit(main())
