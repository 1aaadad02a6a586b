"""How the stack starts source and producer for each venue: the venue's own variables, and the right source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.local import stack
from infra.local.errors import StackError
from infra.local.folders import Folders
from infra.local.process import Process
from infra.local.services import services
from infra.local.settings import Ports, StackSettings, free_port
from infra.local.state import State
from infra.local.table import Endpoints
from infra.simulator.settings import ExchangeSettings
from infra.simulator.settings import load_for_venue as load_exchange
from infra.simulator.venues import facts
from infra.simulator.venues.table import Setup, make
from producers.live.settings import find_tokens, load_for_venue
from producers.venues import VENUES

WHERE = Endpoints(
    kafka_brokers="kafka:1",
    registry_url="http://registry:2",
    database_url="postgresql://owner",
    sink_database_url="postgresql://sink",
    api_database_url="postgresql://api",
    history_database_url="postgresql://history",
    readonly_database_url="postgresql://reader",
    redis_url="redis://cache:3",
)


def started(**settings: Any) -> dict[str, Process]:
    """Return the processes of a stack by name."""
    chosen = StackSettings(kafka_ui=False, **settings)
    return {process.name: process for process in services(chosen, Folders(), Ports(), WHERE)}


@pytest.mark.parametrize(
    ("venue", "scheme"), [("binance_usdm", "ws"), ("coinbase", "ws"), ("databento", "tcp"), ("fix", "tcp")]
)
def test_replay_sends_the_producer_to_the_replay_server(tmp_path: Path, venue: str, scheme: str) -> None:
    """The file and the venue go to the replay server, its addresses to the producer."""
    file = tmp_path / "day.jsonl.zst"
    file.touch()
    found = started(source="replay", venue=venue, replay_file=str(file), replay_speed="max")
    assert found["source"].command[-5:] == (str(file), "--venue", venue, "--speed", "max")
    late = started(source="replay", venue=venue, replay_file=str(file), replay_behind_s=59.8)
    assert late["source"].command[-2:] == ("--behind", "59.8")
    published = found["producer"].environment
    assert (published["TICKSTREAM_SOURCE"], published["TICKSTREAM_VENUE"]) == ("replay", venue)
    assert published[f"{venue}_WS_URL".upper()] == f"{scheme}://127.0.0.1:{Ports().exchange}"
    assert published[f"{venue}_REST_URL".upper()] == f"http://127.0.0.1:{Ports().exchange_control}"


def test_each_simulated_venue_has_data_of_its_own_and_live_ones_share_theirs(tmp_path: Path) -> None:
    """After another venue was simulated, its symbols are not listed; those that were live are real at any time."""

    def data(source: str, venue: str) -> tuple[Path, str]:
        folders = stack.folders_of(StackSettings.model_validate({"folder": tmp_path, "source": source, "venue": venue}))
        return folders.data, folders.rooted_data

    simulated = [data("sim", venue) for venue in sorted(facts.VENUES)]
    assert len({folder for folder, _ in simulated}) == len({rooted for _, rooted in simulated}) == len(facts.VENUES)
    assert data("live", "kraken") == data("live", "okx")
    assert data("live", "kraken") not in simulated


def test_several_recordings_are_played_as_lines_of_one_feed(tmp_path: Path) -> None:
    """FILE takes a list by comma."""
    files = [tmp_path / f"line{number}.jsonl.zst" for number in range(3)]
    for file in files:
        file.touch()
    found = started(source="replay", venue="okx", replay_file=",".join(map(str, files)))
    assert set(map(str, files)) <= set(found["source"].command)


def test_live_venue_has_no_source_of_ours_and_its_own_addresses() -> None:
    """The producer is given the venue, and finds the rest itself or in the environment."""
    found = started(source="live", venue="kraken")
    assert "source" not in found
    published = found["producer"].environment
    assert published["TICKSTREAM_VENUE"] == "kraken"
    assert not [name for name in published if name.startswith("KRAKEN")]


def test_recording_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Each file of a replay has to be there, and there has to be one."""
    with pytest.raises(StackError, match=r"nowhere\.zst"):
        started(source="replay", replay_file=str(tmp_path / "nowhere.zst"))
    with pytest.raises(StackError, match="FILE=recording"):
        started(source="replay")


def test_a_venue_that_is_not_simulated_is_named() -> None:
    """The message lists those that are."""
    with pytest.raises(StackError, match="nyse is not simulated; there are alpaca, binance_spot"):
        started(source="sim", venue="nyse")


@pytest.mark.parametrize("name", sorted(VENUES))
def test_every_venue_can_be_simulated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer reaches the simulated venue by its settings, logs in, and subscribes to what is listed there."""
    found = started(source="sim", venue=name)
    for process in ("source", "producer"):
        for variable, value in found[process].environment.items():
            monkeypatch.setenv(variable, value)
    listed = load_exchange().symbols
    settings, venue = load_for_venue()
    assert settings.products_of(venue) == listed
    assert {stream.url.partition("/stream")[0] for stream in settings.streams_of(venue)} <= {
        f"{facts.VENUES[name].scheme}://127.0.0.1:{Ports().exchange}{path}"
        for path in (facts.VENUES[name].path, "/public", "/market")
    }
    find_tokens(settings, venue)
    make(name, Setup(symbols=listed, rate=0))


@pytest.mark.parametrize(("name", "variable"), [("coinbase", "COINBASE_PRODUCTS"), ("okx", "OKX_PRODUCTS")])
def test_a_number_of_simulated_products_is_what_the_producer_subscribes(name: str, variable: str) -> None:
    """The venue lists the same products, because it reads the same settings."""
    environment = started(source="sim", venue=name, exchange_symbols=100)["producer"].environment
    symbols = ExchangeSettings(venue=name, exchange_symbols=100).symbols
    assert len(symbols) == 100
    assert environment[variable] == ",".join(symbols)
    assert variable not in started(source="sim", venue=name)["producer"].environment


def test_a_stack_that_another_version_started_is_not_taken_for_ours() -> None:
    """It lacks an address that this version asks for; who shares stacks starts a new one then."""
    ours = {name: str(value) for name, value in vars(WHERE).items()}
    assert stack.is_of_this_version(State(None, True, "", [], ours | {"port_kafka": "1"}))
    del ours["history_database_url"]
    assert not stack.is_of_this_version(State(None, True, "", [], ours))


def test_the_history_process_gets_its_own_role_and_port_and_never_the_owners_role() -> None:
    """Only where it is configured; the producer that starts it has no database of its own."""
    history = "postgresql://history"
    for process, wanted in (
        (started(gap_scan_minutes=60), history),
        (started(backfill_days=1), history),
        (started(), ""),
        (started(source="live"), history),
        (started(source="live", gap_scan_minutes=0), ""),
    ):
        environment = process["producer"].environment
        assert environment["TICKSTREAM_HISTORY_DATABASE_URL"] == wanted
        assert environment["TICKSTREAM_DATABASE_URL"] == ""
        assert environment.get("TICKSTREAM_HISTORY_METRICS_PORT", "") == (wanted and "19104")
        assert (19104 in process["producer"].ports.values()) == bool(wanted)


def test_each_stream_worker_has_a_name_and_a_port_of_its_own() -> None:
    """A worker that is restarted under its name gets its partitions back at once."""
    found = [process for name, process in started(workers=3).items() if name.startswith("stream-apps")]
    assert [process.name for process in found] == ["stream-apps", "stream-apps-2", "stream-apps-3"]
    for setting in ("TICKSTREAM_WORKER", "TICKSTREAM_METRICS_PORT"):
        assert len({process.environment[setting] for process in found}) == 3
    assert [list(process.ports.values()) for process in found] == [[19102], [19110], [19111]]
    assert {process.command[-1] for process in found} == {"stream_apps"}


def test_ports_of_more_workers_come_after_those_of_the_stack() -> None:
    """With a base, two stacks beside each other need only keep their bases apart."""
    settings = StackSettings(port_base=30_000, workers=3)
    ports = settings.ports()
    assert settings.worker_ports(ports) == (ports.stream_apps, *(max(vars(ports).values()) + at for at in (1, 2)))


def test_a_free_port_is_given_once() -> None:
    """The system may choose a port again before anything listens on it; two services with one port never start."""
    ports = [free_port() for _ in range(2_000)]
    assert len(set(ports)) == len(ports)
