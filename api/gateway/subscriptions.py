"""What a WebSocket client asks for: its request as streams, or why it is refused."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import orjson

from api.core.consolidated import Product, choices
from api.core.market import Market
from api.core.positions import Position, read_position
from api.core.suggestions import suggestions
from api.core.symbol_state import INTERVALS
from api.gateway.stream_key import StreamKey
from marketdata.clock import parse_rfc3339
from marketdata.errors import BadEvent
from marketdata.events import ALL_SYMBOLS, ALL_VENUES
from marketdata.recipes import interval_of

CHANNELS = (
    "ticker", "trades", "book", "candles", "derivatives", "metrics", "consolidated", "anomalies", "status",
)  # fmt: skip
DEPTHS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
_RESUMABLE = frozenset(CHANNELS) - {"ticker", "consolidated"}
_SYMBOLS_PER_REQUEST_MAX = 200
_EXAMPLE = '{"op": "subscribe", "id": 1, "channels": ["book"], "symbols": ["BTC-USD"]}'


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may send."""

    op: Literal["subscribe", "unsubscribe", "ping"]
    id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str | None = None  # what JSON answers can contain
    channels: list[str] = []
    symbols: list[str] = []
    venue: str | None = None
    depth: int = 50
    interval: str = "1m"
    recipe: str | None = None
    kind: str | None = None
    since: str | dict[str, str] | None = None


class Refused(Exception):  # noqa: N818 - it is an answer, not a failure
    """A request that is answered by an error; `code` is for programs, the message for people, `identity` its id."""

    def __init__(self, code: str, message: str, identity: int | str | None = None) -> None:
        self.code = code
        self.identity = identity
        super().__init__(message)

    def to(self, identity: int | str | None) -> Refused:
        """Return the answer to the request with this id."""
        return self if identity is None else Refused(self.code, str(self), identity)


def read_request(text: bytes) -> Request:
    """Return what a client sent; refused when it is no request."""
    try:
        return msgspec.json.decode(text, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("bad_request", f"{error}; send for example {_EXAMPLE}", _identity(text)) from None


def since_of(request: Request, symbol: str) -> Position | int | None:
    """Return from where a client resumes the streams of a symbol: a position, a time (UTC nanoseconds), or None."""
    given = request.since.get(symbol) if isinstance(request.since, dict) else request.since
    if given is None:
        return None
    found = read_position(given)
    if found is not None:
        # One position is that of a symbol's stream, not of what concerns its whole connection.
        return found if symbol != ALL_SYMBOLS or isinstance(request.since, dict) else None
    try:
        return parse_rfc3339(given)
    except BadEvent:
        raise Refused(
            "bad_since",
            f"since is {given[:50]!r}; it is a message's position, or a time as in 2026-01-31T10:00:00Z",
        ) from None


def keys_of(market: Market, request: Request) -> list[StreamKey]:
    """Return the streams that a request names, or refuse it."""
    _check(request)
    interval = interval_named(market, request)
    found: dict[StreamKey, None] = {}
    for symbol in request.symbols:
        for channel in request.channels:
            if channel == "consolidated":
                found[StreamKey(channel, ALL_VENUES, symbol, _product(market, symbol, request.kind))] = None
                continue
            venue = _venue(market, symbol, request.venue)
            variant: int | str = 0
            if channel in {"book", "candles"}:
                variant = request.depth if channel == "book" else interval
            found[StreamKey(channel, venue, symbol, variant)] = None
            if channel in {"anomalies", "status"}:
                found[StreamKey(channel, venue, ALL_SYMBOLS)] = None
    return list(found)


def interval_named(market: Market, request: Request) -> str:
    """Return the interval of the candles that a request names, in its shortest notation."""
    recipes = market.recipes
    if request.recipe is not None:
        if request.recipe not in recipes:
            known = ", ".join(sorted(recipes)) or "none"
            raise Refused("unknown_recipe", f"recipe is {request.recipe[:50]!r}; there are: {known}")
        return recipes[request.recipe]
    name = interval_of(request.interval[:50])
    if name is None or (name not in INTERVALS and name not in recipes.values()):
        known = ", ".join([*INTERVALS, *sorted(recipes.values())])
        raise Refused("bad_interval", f"interval is {request.interval[:50]!r}; it may be {known}")
    return name


def _product(market: Market, symbol: str, kind: str | None) -> Product:
    found = choices(market, symbol, kind)
    if not found:
        if not market.named(symbol):
            _venue(market, symbol, None)
        if kind is None:
            raise Refused("unknown_symbol", f"{symbol[:50]!r} is of a kind that is not consolidated")
        raise Refused("unknown_symbol", f"kind is {kind[:50]!r}; {symbol[:50]} is not traded as this")
    if len(found) > 1:
        kinds = ", ".join(sorted({each.kind for each in found}))
        raise Refused("ambiguous_symbol", f"{symbol} is traded as {kinds}: say which with kind")
    return found[0]


def _venue(market: Market, symbol: str, venue: str | None) -> str:
    venues = market.venues_of(symbol)
    if venue is not None:
        if market.find(venue, symbol) is None:
            raise Refused("unknown_symbol", f"{venue[:50]!r} does not trade {symbol[:50]!r}")
        return venue
    if not venues:
        near = suggestions(symbol, market.symbols())
        hint = f"; do you mean {', '.join(near)}?" if near else ""
        raise Refused("unknown_symbol", f"no venue trades {symbol[:50]!r}{hint}")
    if len(venues) > 1:
        raise Refused("ambiguous_symbol", f"{symbol} is traded at {', '.join(venues)}: say which with venue")
    return venues[0]


def _check(request: Request) -> None:
    for name, values in (("channels", request.channels), ("symbols", request.symbols)):
        if not 0 < len(values) <= _SYMBOLS_PER_REQUEST_MAX:
            raise Refused("bad_request", f"{name} must name 1 to {_SYMBOLS_PER_REQUEST_MAX}, not {len(values)}")
    for channel in request.channels:
        if channel not in CHANNELS:
            raise Refused("unknown_channel", f"{channel[:50]!r} is not a channel; there are {', '.join(CHANNELS)}")
    if request.since is not None and _is_about_positions(request) and len(request.channels) > 1:
        raise Refused("bad_since", "a position belongs to one channel: send one request for each")
    if request.since is not None and not _RESUMABLE.issuperset(request.channels):
        raise Refused(
            "bad_since", f"only {', '.join(sorted(_RESUMABLE))} can be resumed: subscribe to others without since"
        )
    if request.depth not in DEPTHS:
        raise Refused("bad_depth", f"depth is {request.depth}; it may be {', '.join(map(str, DEPTHS))}")


def _is_about_positions(request: Request) -> bool:
    given = request.since.values() if isinstance(request.since, dict) else [request.since or ""]
    return any(read_position(text) is not None for text in given)


def _identity(text: bytes) -> int | str | None:
    """Return the id of a request that is otherwise wrong, so that the client knows which one it was."""
    try:
        identity = orjson.loads(text)["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    return identity if isinstance(identity, int | str) else None
