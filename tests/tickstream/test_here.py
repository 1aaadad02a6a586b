"""Commands find the embedded stack that runs here, and what is given goes before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.local import state
from infra.local.folders import Folders
from infra.local.services import source_addresses
from infra.local.settings import Ports, StackSettings
from marketdata.errors import SettingsError
from producers.history.settings import HistorySettings, find_history
from tickstream.here import load_here

WHERE = {
    "kafka_brokers": "127.0.0.1:1",
    "registry_url": "http://127.0.0.1:2",
    "database_url": "postgresql://owner",
    "history_database_url": "postgresql://history",
    "port_kafka": "1",
}


def addresses() -> tuple[str, str, str]:
    """Return what a command of history would work with."""
    settings = load_here(HistorySettings)
    return settings.kafka_brokers, settings.registry_url, settings.dsn


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Folders:
    """The folders of a stack of which nothing was ever started."""
    for name in list(os.environ):
        if name.startswith("TICKSTREAM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TICKSTREAM_FOLDER", str(tmp_path))
    made = Folders(stack=tmp_path, source="sim")
    made.make()
    return made


def test_a_command_works_on_the_stack_that_runs_here(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the role and the password that only its state tells; a database that is given is meant for every role."""
    before = addresses()
    assert before[0] != WHERE["kafka_brokers"]
    state.save(folders, state.State(state.Identity.of(os.getpid()), True, "", [], WHERE))
    assert addresses() == ("127.0.0.1:1", "http://127.0.0.1:2", "postgresql://history")
    monkeypatch.setenv("TICKSTREAM_DATABASE_URL", "")
    assert addresses() == ("127.0.0.1:1", "http://127.0.0.1:2", "postgresql://history")
    monkeypatch.setenv("TICKSTREAM_KAFKA_BROKERS", "elsewhere:9")
    monkeypatch.setenv("TICKSTREAM_DATABASE_URL", "postgresql://other")
    assert addresses() == ("elsewhere:9", "http://127.0.0.1:2", "postgresql://other")


def test_a_stack_that_runs_no_more_is_left_alone(folders: Folders) -> None:
    """What a killed supervisor wrote down is no address of anybody."""
    before = addresses()
    state.save(folders, state.State(state.Identity(2**22 + 1, 1, "no boot"), True, "", [], WHERE))
    assert addresses() == before


def test_the_past_of_simulated_prices_is_never_asked_of_the_real_venue(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulated exchange tells it; other venues' history is their own, and a recording has none.

    An address that is given serves any venue.
    """

    def at(source: str) -> HistorySettings:
        where = WHERE | source_addresses(StackSettings.model_validate({"source": source}), Ports())
        state.save(folders, state.State(state.Identity.of(os.getpid()), True, "", [], where))
        return load_here(HistorySettings)

    assert find_history(at("sim"), "coinbase").history.rest_url == "http://127.0.0.1:18766"
    assert find_history(at("sim"), "kraken").history.rest_url == "https://api.kraken.com"
    assert find_history(at("live"), "coinbase").history.rest_url == "https://api.coinbase.com"
    assert find_history(at("replay"), "kraken").history.rest_url == "https://api.kraken.com"
    with pytest.raises(SettingsError, match="coinbase here are not live"):
        find_history(at("replay"), "coinbase")
    monkeypatch.setenv("TICKSTREAM_HISTORY_URL", "http://elsewhere")
    for venue in ("coinbase", "kraken"):
        assert find_history(at("sim"), venue).history.rest_url == "http://elsewhere"
