"""Settings of the producer: those of every venue alike, and those that carry the name of the venue that is read."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, create_model

from marketdata.errors import SettingsError
from producers.venues import find_venue
from producers.venues.kit.login import Handshake, Names, Start, Tokens
from producers.venues.kit.venue import Endpoint, Venue
from runtime.settings import CommonSettings, load

PRODUCTS_MAX = 2_000


class Stream(NamedTuple):
    """What one set of redundant lines reads: `name` begins their names, `products` None takes all that come.

    `market` is empty where the venue has one market, or a recording may have several; `endpoint` is one of several
    addresses.
    """

    name: str
    url: str
    products: tuple[str, ...] | None
    market: str = ""
    endpoint: Endpoint | None = None


class ProducerSettings(CommonSettings):
    """What the producer needs beside what every service does.

    `ws_url`, `rest_url`, `market` and `products` are read from variables that begin with the venue's name, for example
    `BINANCE_SPOT_PRODUCTS`; see `load_for_venue`.
    """

    metrics_port: int = Field(
        default=19101, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz of the producer."
    )
    venue: str = Field(default="coinbase", description="Venue to take market data from.")
    source: Literal["sim", "live", "replay"] = Field(
        default="live", description="Where the venue's protocol comes from; a replay ends, and then nothing reconnects."
    )
    lines: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Redundant connections of the same feed; 1, or in a replay as many as were recorded.",
    )
    drain_seconds: float = Field(default=10.0, gt=0, le=300, description="Time to finish in after a request to stop.")
    ws_url: str | None = Field(
        default=None, pattern=r"^(wss?|tcp|tls)://", description="Address of the stream; the venue's own if not given."
    )
    rest_url: str | None = Field(
        default=None, pattern=r"^https?://", description="REST address; the venue's own when not given."
    )
    market: str = Field(default="", description="Which of the venue's markets, where each has an address of its own.")
    products: Names | None = Field(
        default=None,
        min_length=1,
        max_length=PRODUCTS_MAX,
        description="Products by the venue's names, by comma; in a replay all that were recorded if not given.",
    )

    def products_of(self, venue: Venue) -> tuple[str, ...] | None:
        """Return the products that a venue's lines subscribe; None in a replay takes all that come.

        Raises SettingsError when none are given and the venue has no usual ones.
        """
        if self.products is not None:
            return self.products if venue.cased else tuple(dict.fromkeys(name.upper() for name in self.products))
        if self.source == "replay":
            return None
        if not venue.products:
            raise SettingsError(f"{_prefix(venue)}PRODUCTS: name at least one product of {venue.name}, by comma")
        return venue.products

    def streams_of(self, venue: Venue) -> list[Stream]:
        """Return what to read: one stream of each market and endpoint, in parts where the venue limits a connection.

        Raises SettingsError as `products_of` and `address_of` do, and for markets that cannot be read together.
        """
        markets = self._markets_of(venue)
        if self.source == "replay":
            return markets
        streams = []
        for stream in markets:
            for part in _by_endpoint(venue, stream):
                streams += _in_parts(venue, part)
        return streams

    def _markets_of(self, venue: Venue) -> list[Stream]:
        """Return one stream, or one of each market that the products are named with."""
        products, url = self.products_of(venue), self.address_of(venue)
        if products is None or venue.make_of_market is None:
            return [Stream(venue.name, url, products, self.market)]
        usual = self.market or _market_at(venue, url)
        named: dict[str, list[str]] = {}
        for product in products:
            market, colon, name = product.rpartition(":")
            if not name or (colon and self.source == "replay"):
                why = "a replay has the markets that were recorded" if name else "that names no product"
                raise SettingsError(f"{_prefix(venue)}PRODUCTS: {product}: {why}")
            named.setdefault(market.lower() or usual, []).append(name)
        if self.ws_url and len(named) > 1:
            raise SettingsError(f"{_prefix(venue)}WS_URL: one address is not that of {' and '.join(sorted(named))}")
        return [
            Stream(f"{venue.name}/{market}" if len(named) > 1 else venue.name, self.address_of(venue, market),
                   tuple(dict.fromkeys(names)), market if self.source != "replay" else self.market)
            for market, names in named.items()
        ]  # fmt: skip

    def address_of(self, venue: Venue, market: str = "") -> str:
        """Return where the lines go, of the market that is chosen unless a product names another.

        Raises SettingsError when there is no such market, or when the venue is not reached by such an address.
        """
        variable = f"{_prefix(venue)}{'PRODUCTS' if market else 'MARKET'}"
        market = market or self.market
        if market and market not in venue.markets:
            choice = f"choose one of {', '.join(sorted(venue.markets))}" if venue.markets else "it has one market only"
            raise SettingsError(f"{variable}: {venue.name} has no market {market!r}; {choice}")
        url = self.ws_url or venue.markets.get(market, venue.ws_url)
        refusal = venue.refusal(url)
        if refusal is not None:
            raise SettingsError(f"{_prefix(venue)}WS_URL: {refusal}")
        return url


def _market_at(venue: Venue, url: str) -> str:
    """Return the market that an address names at its end, or the venue's usual one."""
    named = urlsplit(url).path.rpartition("/")[2]
    usual = next((name for name, address in venue.markets.items() if address == venue.ws_url), "")
    return named if named in venue.markets else usual


def _by_endpoint(venue: Venue, stream: Stream) -> list[Stream]:
    """Return a stream once for each endpoint of its venue."""
    if not venue.endpoints:
        return [stream]
    base = stream.url.rstrip("/")
    return [
        stream._replace(name=f"{stream.name}/{endpoint.name}", url=base + endpoint.path, endpoint=endpoint)
        for endpoint in venue.endpoints
    ]


def _in_parts(venue: Venue, stream: Stream) -> list[Stream]:
    """Return a stream in parts, none with more products than a connection may carry."""
    channels = venue.channels if stream.endpoint is None else stream.endpoint.channels
    most = venue.limits.products_max(len(channels))
    if stream.products is None or most is None or len(stream.products) <= most:
        return [stream]
    parts = [stream.products[at : at + most] for at in range(0, len(stream.products), most)]
    return [stream._replace(name=f"{stream.name}/part{number}", products=part) for number, part in enumerate(parts)]


def _prefix(venue: Venue) -> str:
    return f"{venue.name}_".upper()


def load_for_venue(**overrides: Any) -> tuple[ProducerSettings, Venue]:
    """Return the settings from the environment, the venue's own among them, and the venue that they choose.

    Raises SettingsError that names each variable at fault and what it takes.
    """
    venue = find_venue(load(ProducerSettings, **overrides).venue)
    fields, prefix = ProducerSettings.model_fields, _prefix(venue)
    own: dict[str, Any] = {
        name: (fields[name].annotation, fields[name].merge_field_infos(fields[name], validation_alias=alias))
        for name, alias in {
            "ws_url": AliasChoices(f"{prefix}WS_URL", f"{prefix}URL"),
            "rest_url": f"{prefix}REST_URL",
            "market": AliasChoices(f"{prefix}MARKET", f"{prefix}DATASET"),
            "products": AliasChoices(f"{prefix}PRODUCTS", f"{prefix}SYMBOLS"),
        }.items()
    }
    own |= {name: (field.annotation, field) for name, field in _fields_of(venue).items()}
    return load(create_model("VenueSettings", __base__=ProducerSettings, **own), **overrides), venue


def find_tokens(settings: ProducerSettings, venue: Venue) -> Tokens | None:
    """Return what signs the messages of a venue, or None where nothing needs to.

    Raises SettingsError when the key cannot be used, or is missing where nothing is had without one.
    """
    if venue.login is None:
        return None
    start = Start(is_replay=settings.source == "replay", lines=settings.lines or 1, market=settings.market)
    return venue.login(_own(settings, venue), start)


def find_handshake(settings: ProducerSettings, venue: Venue) -> Handshake:
    """Return how the venue's WebSocket is opened."""
    return Handshake() if venue.handshake is None else venue.handshake(_own(settings, venue))


def _fields_of(venue: Venue) -> dict[str, Any]:
    return {} if venue.settings is None else dict(venue.settings.model_fields)


def _own(settings: ProducerSettings, venue: Venue) -> Any:
    """Return the settings of the venue alone."""
    if venue.settings is None:
        return None
    return venue.settings.model_construct(**{name: getattr(settings, name) for name in _fields_of(venue)})
