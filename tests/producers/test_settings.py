"""The producer's settings: those of the chosen venue carry its name, and a wrong one is told by it."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata.errors import SettingsError
from producers.live.settings import find_tokens, load_for_venue
from producers.venues import VENUES, find_venue


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for venue in VENUES:
        for name in ("WS_URL", "URL", "REST_URL", "PRODUCTS", "SYMBOLS", "MARKET", "DATASET"):
            monkeypatch.delenv(f"{venue}_{name}".upper(), raising=False)
    for name in ("VENUE", "SOURCE", "LINES"):
        monkeypatch.delenv(f"TICKSTREAM_{name}", raising=False)
    for name in ("COINBASE_API_KEY", "COINBASE_EXCHANGE_API_KEY", "APCA_API_KEY_ID", "DATABENTO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def loaded(monkeypatch: pytest.MonkeyPatch, venue: str, **env: str) -> Any:
    """Return the settings that these variables give."""
    monkeypatch.setenv("TICKSTREAM_VENUE", venue)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings, found = load_for_venue()
    assert found is find_venue(venue)
    return settings


def test_each_venue_reads_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses and products are taken by the venue's name; another venue's are left alone."""
    settings = loaded(
        monkeypatch, "binance_spot", BINANCE_SPOT_WS_URL="ws://127.0.0.1:1", BINANCE_SPOT_REST_URL="http://127.0.0.1:2",
        BINANCE_SPOT_PRODUCTS=" solusdt,BTCUSDT, solusdt", KRAKEN_PRODUCTS="BTC/USD",
    )  # fmt: skip
    venue = find_venue("binance_spot")
    assert settings.address_of(venue) == "ws://127.0.0.1:1"
    assert settings.rest_url == "http://127.0.0.1:2"
    assert settings.products_of(venue) == ("SOLUSDT", "BTCUSDT")


@pytest.mark.parametrize("name", sorted(set(VENUES) - {"fix", "databento"}))
def test_venue_has_an_address_and_products_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing but the venue's name is needed; a replay takes every product that was recorded."""
    settings, venue = loaded(monkeypatch, name), find_venue(name)
    assert settings.address_of(venue) == venue.ws_url
    assert settings.products_of(venue) == venue.products
    replayed = loaded(monkeypatch, name, TICKSTREAM_SOURCE="replay")
    assert replayed.products_of(venue) is None


@pytest.mark.parametrize("name", sorted(VENUES))
def test_venue_tells_whether_it_needs_a_key(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One that says so is not begun without; any other is, and a replay needs none of any venue."""
    settings, venue = loaded(monkeypatch, name), find_venue(name)
    if venue.key == "required":
        with pytest.raises(SettingsError, match=r"KEY|COMP_ID"):
            find_tokens(settings, venue)
    else:
        assert find_tokens(settings, venue) is None
    find_tokens(loaded(monkeypatch, name, TICKSTREAM_SOURCE="replay"), venue)


@pytest.mark.parametrize("name", sorted(set(VENUES) - {"databento", "fix"}))
def test_venue_names_its_channel_of_trades_as_its_ledger_does(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By that name history finds the gaps of trades that it may fill."""
    settings, venue = loaded(monkeypatch, name, TICKSTREAM_SOURCE="replay"), find_venue(name)
    feed = venue.make(line="", products=venue.products, token=find_tokens(settings, venue))
    assert getattr(feed, "_ledger").trades == venue.trades_channel  # noqa: B009 - each feed has one, and no type says so


def test_market_chooses_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where markets have streams of their own, the market's name is enough; an unknown one is told with the choice."""
    settings, venue = loaded(monkeypatch, "bybit", BYBIT_MARKET="linear"), find_venue("bybit")
    assert settings.address_of(venue) == "wss://stream.bybit.com/v5/public/linear"
    wrong = loaded(monkeypatch, "bybit", BYBIT_MARKET="options")
    with pytest.raises(SettingsError, match=r"BYBIT_MARKET.*inverse, linear, spot"):
        wrong.address_of(venue)


def test_products_may_name_their_market_where_a_name_is_another_product_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """One producer reads several markets, each over lines of its own; a name without a market is of the usual one."""
    venue = find_venue("bybit")
    both = loaded(monkeypatch, "bybit", BYBIT_PRODUCTS="btcusdt,linear:BTCUSDT,Linear:ETHUSDT,spot:BTCUSDT")
    assert both.streams_of(venue) == [
        ("bybit/spot", venue.markets["spot"], ("BTCUSDT",), "spot", None),
        ("bybit/linear", venue.markets["linear"], ("BTCUSDT", "ETHUSDT"), "linear", None),
    ]
    one = loaded(monkeypatch, "bybit", BYBIT_PRODUCTS="inverse:BTCUSD,ETHUSD", BYBIT_MARKET="inverse")
    assert one.streams_of(venue) == [("bybit", venue.markets["inverse"], ("BTCUSD", "ETHUSD"), "inverse", None)]
    monkeypatch.delenv("BYBIT_MARKET")
    testnet = {"BYBIT_WS_URL": "wss://stream-testnet.bybit.com/v5/public/linear", "BYBIT_PRODUCTS": "BTCUSDT"}
    elsewhere = loaded(monkeypatch, "bybit", **testnet)
    assert [stream.market for stream in elsewhere.streams_of(venue)] == ["linear"]
    replay = {"TICKSTREAM_SOURCE": "replay", "BYBIT_PRODUCTS": "BTCUSDT"}
    assert [stream.market for stream in loaded(monkeypatch, "bybit", **replay).streams_of(venue)] == [""]
    unnamed = loaded(monkeypatch, "bitfinex", BITFINEX_PRODUCTS="BTCF0:USTF0")
    assert [stream.products for stream in unnamed.streams_of(find_venue("bitfinex"))] == [("BTCF0:USTF0",)]


@pytest.mark.parametrize(
    ("variable", "given"),
    [
        ("BYBIT_PRODUCTS: bybit has no market 'options'", {"BYBIT_PRODUCTS": "options:BTCUSDT"}),
        ("BYBIT_PRODUCTS: LINEAR:", {"BYBIT_PRODUCTS": "linear:"}),
        ("BYBIT_PRODUCTS: SPOT:BTCUSDT: a replay", {"BYBIT_PRODUCTS": "spot:BTCUSDT", "TICKSTREAM_SOURCE": "replay"}),
        ("BYBIT_WS_URL", {"BYBIT_PRODUCTS": "spot:BTCUSDT,linear:BTCUSDT", "BYBIT_WS_URL": "ws://127.0.0.1:1"}),
    ],
)
def test_markets_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, given: dict[str, str]
) -> None:
    """An unknown market, a market without a product, one in a replay, and one address for two of them."""
    with pytest.raises(SettingsError, match=variable):
        loaded(monkeypatch, "bybit", **given).streams_of(find_venue("bybit"))


@pytest.mark.parametrize(
    ("venue", "variable", "value"),
    [("kraken", "KRAKEN_WS_URL", "kraken"), ("okx", "OKX_REST_URL", "ftp://x"), ("gemini", "GEMINI_PRODUCTS", " , ")],
)
def test_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, venue: str, variable: str, value: str) -> None:
    """The variable at fault stands in the message."""
    with pytest.raises(SettingsError, match=variable):
        loaded(monkeypatch, venue, **{variable: value})


def test_address_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket venue is not reached over plain TCP."""
    settings = loaded(monkeypatch, "kraken", KRAKEN_WS_URL="tcp://127.0.0.1:1")
    with pytest.raises(SettingsError, match="KRAKEN_WS_URL"):
        settings.address_of(find_venue("kraken"))


def test_unknown_venue_is_told_with_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped venue lists the venues."""
    with pytest.raises(SettingsError, match="binance_spot"):
        loaded(monkeypatch, "binance")
