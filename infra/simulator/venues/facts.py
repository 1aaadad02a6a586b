"""How a producer reaches each simulated venue: its address, its products, and keys that are valid only there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from infra.simulator.market import symbols_of
from infra.simulator.venues.streams.market import coins
from infra.simulator.venues.streams.sessions import SESSIONS
from marketdata.errors import SettingsError

# Default key pairs of accounts, with the paid plan and with the free one.
ALPACA_KEY, ALPACA_FREE_KEY, ALPACA_SECRET = "PKSIMULATED", "PKSIMULATEDFREE", "simulated-secret"
DATABENTO_KEY = "db-simulated0123456789abcdefghij"
FIX_CLIENT, FIX_VENUE, FIX_PASSWORD = "TICKSTREAM", "SIMULATED", "simulated-secret"

# Products without `<VENUE>_PRODUCTS`.
PRODUCTS = 2


class Facts(NamedTuple):
    """`names` returns a number of products by the venue's names; `path` ends the address of its stream.

    `environment` is what the producer needs to log in. `is_usual`: without a setting a producer subscribes to the same
    products as the venue has. `has_history`: REST serves old trades and candles.
    """

    names: Callable[[int], list[str]]
    scheme: str = "ws"
    path: str = ""
    environment: Mapping[str, str] = {}
    is_usual: bool = True
    has_history: bool = False


def find(venue: str) -> Facts:
    """Return the facts of a venue. Raises SettingsError for one that is not simulated."""
    if venue not in VENUES:
        raise SettingsError(f"TICKSTREAM_VENUE: {venue} is not simulated; there are {', '.join(sorted(VENUES))}")
    return VENUES[venue]


def _tickers(count: int) -> list[str]:
    return ["AAPL", "MSFT", "SPY", *coins(count)][:count]


_PATHS = {"bybit": "/v5/public/spot", "gemini": "/?snapshot=-1", "kraken": "/v2"}

VENUES: dict[str, Facts] = {
    **{name: Facts(session.names, path=_PATHS.get(name, "")) for name, session in SESSIONS.items()},
    "alpaca": Facts(
        _tickers,
        path="/v2/iex",
        environment={"APCA_API_KEY_ID": ALPACA_KEY, "APCA_API_SECRET_KEY": ALPACA_SECRET},
        has_history=True,
    ),
    "coinbase": Facts(lambda count: list(symbols_of(count)), has_history=True),
    "databento": Facts(
        lambda count: [f"{coin}Z6" for coin in coins(count)],
        scheme="tcp",
        environment={"DATABENTO_API_KEY": DATABENTO_KEY},
        is_usual=False,
    ),
    "fix": Facts(
        lambda count: [f"{coin}-USD" for coin in coins(count)],
        scheme="tcp",
        environment={
            "FIX_SENDER_COMP_ID": FIX_CLIENT,
            "FIX_TARGET_COMP_ID": FIX_VENUE,
            "FIX_USERNAME": FIX_CLIENT,
            "FIX_PASSWORD": FIX_PASSWORD,
        },
        is_usual=False,
    ),
}

# A venue that is not simulated, but may be replayed.
UNKNOWN = Facts(lambda _count: [])
