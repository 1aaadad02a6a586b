"""What a venue is to the shell: its addresses, what its feed can do, and how to make one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from marketdata.events import CONNECTION
from marketdata.feed import Feed, Output
from producers.venues.kit.backoff import Policy
from producers.venues.kit.history import Access, Budget, History
from producers.venues.kit.limits import Limits
from producers.venues.kit.login import Handshake, Start, Tokens, VenueSettings
from producers.venues.kit.published import PreviousRun

# Signs one message: takes the time in UTC nanoseconds, gives the token that goes into the message.
Signer = Callable[[int], str]


class LiveFeed(Feed, Protocol):
    """A feed as the shell sees it: it keeps counts and the venue's time of the last frame, and continues others."""

    counts: Counter[str]
    ts_venue: int | None

    @property
    def silence_ns(self) -> int | None:
        """How long the venue may send nothing in health, in ns; None where silence alone means nothing."""

    def symbols(self) -> frozenset[str] | None:
        """Return our symbols of the products to subscribe; None where only frames show them."""

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """Return what states that time has passed until `ts_event` (the venue's clock) for products without trades.

        `skipped`: frames may be missing before `ts` (our clock), because a recorder stopped (see `kit.idle`).
        """

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Return what to publish at once of what may be missing since earlier processes; called before `opened`."""


class FrameError(Exception):
    """Bytes that no frame can begin with, or too many without an end; `reason` fits a metric label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Splitter(Protocol):
    """Cuts the bytes of one connection into frames; keeps what is not complete yet, up to a limit of its own."""

    def split(self, data: bytes) -> Iterable[bytes]:
        """Return the frames that are complete now.

        Raises FrameError, which ends the connection, when the bytes cannot be followed any further.
        """


class MakeFeed(Protocol):
    """Makes one feed. `products` are the venue's own names; None accepts every product that is seen."""

    def __call__(self, *, line: str, products: tuple[str, ...] | None, token: Signer | None) -> LiveFeed:
        """Return a new feed of this line."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One of several addresses of a venue: `path` below its `ws_url`, and the channels that only this one carries.

    Each has lines and feeds of its own, so that what one loses touches its own channels alone.
    """

    name: str
    path: str
    channels: tuple[str, ...]
    make: MakeFeed


class MakeFeedOfMarket(Protocol):
    """Makes one feed of one of a venue's markets."""

    def __call__(
        self, *, line: str, products: tuple[str, ...] | None, token: Signer | None, market: str
    ) -> LiveFeed:  # fmt: skip
        """Return a new feed of this line."""


class Venue(msgspec.Struct, frozen=True, kw_only=True):
    """One venue. `sequence`, `checksum`: how its stream proves itself complete.

    `depth` is the finest that can be had of its books: L1 the best bid and offer, L2 levels, L3 single orders.
    """

    name: str
    ws_url: str
    rest_url: str
    make: MakeFeed
    make_recorded: MakeFeed | None = None
    """Makes the feed that plays recordings, where older ones differ from what the venue sends today; else `make`."""
    history: Callable[[Access], History] | None = None
    """Makes what reads its history over REST; None where that is not read."""
    products: tuple[str, ...] = ()
    """What is subscribed when nobody says otherwise, by the venue's names."""
    cased: bool = False
    """Whether upper and lower case make different names; if not, names are taken in upper case."""
    markets: Mapping[str, str] = {}
    """Addresses by market, where the markets have streams of their own; `ws_url` is that of the usual one."""
    make_of_market: MakeFeedOfMarket | None = None
    """Makes a feed of one market, where a name is another product on each: then products may be named with it,
    `linear:BTCUSDT`, and one producer reads several markets."""
    sequence: str = "none"
    trades_channel: str = "trades"
    """Its name of the channel of trades, which the ledger's entries have; what these miss, history may fill."""
    numbers_trades: bool = False
    """Whether trade ids rise by one per product, so that those which are stored show which are missing."""
    sequence_scope: str = CONNECTION
    """As the feed's: with `SYMBOL`, lines of one symbol are merged by their numbers."""
    amends_trades: bool = False
    """As the feed's: trades may be corrected or cancelled."""
    checksum: bool = False
    depth: str = "L2"
    transport: Literal["websocket", "tcp"] = "websocket"
    """What carries the frames; over tcp, `ws_url` is tcp://host:port or tls://host:port."""
    splitter: Callable[[], Splitter] | None = None
    """Makes what cuts a tcp connection's bytes into frames; without one the feed gets the bytes as they come."""
    key: Literal["none", "optional", "required"] = "none"
    """Whether it takes a key, or a login, and whether anything is had without one; a replay never needs it."""
    settings: type[VenueSettings] | None = None
    """The settings that only this venue has."""
    login: Callable[[Any, Start], Tokens | None] | None = None
    """Makes what signs its messages, from its settings; raises SettingsError where a key is missing or wrong."""
    handshake: Callable[[Any], Handshake] | None = None
    """Returns how its WebSocket is opened, from its settings."""
    budget: Budget | None = None
    """What its REST interface lets all lines of one address spend, by the weights of `Fetch`; None is no limit."""
    endpoints: tuple[Endpoint, ...] = ()
    """The addresses that carry different channels of one product; empty where `ws_url` carries all of them."""
    channels: tuple[str, ...] = ()
    """The channels that each product is subscribed to, which `limits.subscriptions` counts."""
    limits: Limits = Limits()
    """What the venue allows one connection and one address."""
    marks_trades: bool = False
    """Whether its documents mark trades that are no ordinary ones, so that they have `Trade.conditions`."""
    derivatives: tuple[str, ...] = ()
    """The fields of `Derivative` that it sends; empty where it has no derivatives, or sends nothing about them."""
    lifetime_s: float | None = None
    """Where the venue ends each connection after some time: when a successor is started beside it, well before."""
    mute_s: float | None = 60.0
    """After this long without market data, of any product, a connection is replaced; None where markets close."""
    ping_s: float | None = None
    """After this long without a message a WebSocket is pinged, where silence is no sign of death by itself."""
    backoff: Policy = Policy()
    """How it is tried again."""

    def feed(
        self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None, market: str = ""
    ) -> LiveFeed:  # fmt: skip
        """Return a new feed of this line; `products` None accepts every product that a recording has.

        Where names differ by `market`, only a recording may come without one: its feed finds out which one each frame
        is from.
        """
        if market and self.make_of_market is not None:
            return self.make_of_market(line=line, products=products, token=token, market=market)
        is_recorded = products is None or self.make_of_market is not None
        make = self.make if self.make_recorded is None or not is_recorded else self.make_recorded
        return make(line=line, products=products, token=token)

    def refusal(self, url: str) -> str | None:
        """Return why this line cannot go to this address, or None."""
        schemes = ("ws", "wss") if self.transport == "websocket" else ("tcp", "tls")
        try:
            address = urlsplit(url)
            port = address.port
        except ValueError as error:
            return f"{url} is no address: {error}"
        if address.scheme not in schemes or not address.hostname:
            return f"{self.name} is reached over {self.transport}, by an address such as {schemes[1]}://host:port"
        if port is None and self.transport == "tcp":
            return f"{url} names no port"
        return None
