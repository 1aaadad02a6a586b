"""`python -m infra.simulator.venues.streams VENUE`: a simulated venue with many symbols, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
from typing import Annotated

import structlog
import typer
import uvloop

from infra.simulator.ends import asked_to_stop
from infra.simulator.venues.streams.binance import SpotSession, UsdmSession
from infra.simulator.venues.streams.bitfinex import BitfinexSession
from infra.simulator.venues.streams.bybit import BybitSession
from infra.simulator.venues.streams.coinbase_exchange import CoinbaseExchangeSession
from infra.simulator.venues.streams.deribit import DeribitSession
from infra.simulator.venues.streams.gemini import GeminiSession
from infra.simulator.venues.streams.hyperliquid import HyperliquidSession
from infra.simulator.venues.streams.kraken import KrakenSession
from infra.simulator.venues.streams.kraken_futures import KrakenFuturesSession
from infra.simulator.venues.streams.market import SYMBOLS_MAX
from infra.simulator.venues.streams.okx import OkxSession
from infra.simulator.venues.streams.server import Streams, serve
from infra.simulator.venues.streams.session import Session
from marketdata.errors import SettingsError
from runtime import log

SESSIONS: dict[str, type[Session]] = {
    "binance_spot": SpotSession,
    "binance_usdm": UsdmSession,
    "bitfinex": BitfinexSession,
    "bybit": BybitSession,
    "coinbase_exchange": CoinbaseExchangeSession,
    "deribit": DeribitSession,
    "gemini": GeminiSession,
    "hyperliquid": HyperliquidSession,
    "kraken": KrakenSession,
    "kraken_futures": KrakenFuturesSession,
    "okx": OkxSession,
}


def main(
    venue: Annotated[str, typer.Argument(help=f"One of {', '.join(SESSIONS)}.")],
    symbols: Annotated[int, typer.Option(min=1, max=SYMBOLS_MAX, help="Number of symbols.")] = 300,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the WebSocket; 0 takes a free one.")] = 18765,
    rest_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of REST and /connections.")] = 18766,
    every_s: Annotated[float, typer.Option(min=0.01, max=3_600, help="Seconds between changes of a market.")] = 1.0,
) -> None:
    """Simulate a venue's stream of many symbols, with the limits that it documents.

    Example: `python -m infra.simulator.venues.streams bitfinex --symbols 300`
    """
    session = SESSIONS.get(venue)
    if session is None:
        raise typer.BadParameter(f"{venue} is none of {', '.join(SESSIONS)}", param_hint="VENUE")
    log.configure("exchange", "INFO")

    async def run() -> None:
        stopping = asked_to_stop()
        streams = Streams(session, symbols, every_s=every_s)
        async with serve(streams, "127.0.0.1", port, rest_port) as rest:
            structlog.get_logger().info(
                "the venue is open", url=f"ws://127.0.0.1:{streams.port}", rest=f"http://127.0.0.1:{rest}",
                symbols=symbols, limits=str(session.limits),
            )  # fmt: skip
            await stopping.wait()

    try:
        uvloop.run(run())
    except SettingsError as error:
        print(f"exchange: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person looks for
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
