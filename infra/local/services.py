"""How our own services start: one row each, with the addresses and database role that it needs and no others."""

from __future__ import annotations

from dataclasses import replace

from infra.local.errors import StackError
from infra.local.folders import PROJECT, Folders
from infra.local.process import Answers, Process
from infra.local.servers import python_module
from infra.local.settings import Ports, StackSettings
from infra.local.table import Endpoints
from infra.simulator.venues import facts
from marketdata.errors import SettingsError
from runtime.settings import PREFIX

# The steps are quick; a server that answers but is not yet ready for work is the usual reason to try again.
STEP_TRIES = 5


def services(settings: StackSettings, folders: Folders, ports: Ports, where: Endpoints) -> list[Process]:
    """Return the steps and the services in the order in which data passes them.

    Raises StackError when the source of prices is not usable.
    """
    common = _common(where)

    def database(role: str, url: str) -> dict[str, str]:
        return {**common, f"{PREFIX}DATABASE_URL": url, f"{PREFIX}{role}DATABASE_URL": url}

    def step(name: str, *command: str, after: str, environment: dict[str, str]) -> Process:
        return Process(
            name=name,
            command=python_module("tickstream", *command),
            environment=environment,
            after=(after,),
            once=True,
            tries=STEP_TRIES,
        )

    def service(name: str, port: int, *after: str, environment: dict[str, str], module: str = "") -> Process:
        return Process(
            name=name,
            command=python_module(module or name.replace("-", "_")),
            environment={f"{PREFIX}METRICS_PORT": str(port), **environment},
            check=Answers(f"http://127.0.0.1:{port}/readyz"),
            after=("topics", "schemas", *after),
            ports={f"{PREFIX}{name.replace('-', '_').upper()}_PORT": port},
        )

    def worker(number: int, port: int) -> Process:
        environment = worker_environment(where, number, port)
        made = service(worker_name(number), port, environment=environment, module="stream_apps")
        # The ports of further workers have no settings of their own; they follow this one.
        return made if number == 1 else replace(made, ports={f"{PREFIX}PORT_BASE": port})

    history = _history(settings, ports, where)
    producer = service(
        "producer",
        ports.producer,
        "source",
        environment={**common, **_producer(settings, ports), **history},
        module="producers.live",
    )
    if history:
        producer = replace(producer, ports={**producer.ports, f"{PREFIX}HISTORY_METRICS_PORT": ports.history_metrics})
    rows = [
        step("topics", "topics", "apply", after="kafka", environment=common),
        step("schemas", "schemas", "register", after="registry", environment=common),
        step("migrations", "db", "migrate", after="database-roles", environment=database("", where.database_url)),
        service(
            "sink",
            ports.sink,
            "migrations",
            environment={**database("SINK_", where.sink_database_url), f"{PREFIX}SINK_WORKER": "embedded"},
        ),
        *(worker(number, port) for number, port in enumerate(settings.worker_ports(ports), 1)),
        service(
            "api",
            ports.api,
            "migrations",
            "redis",
            environment={
                **database("API_", where.api_database_url),
                f"{PREFIX}REDIS_URL": where.redis_url,
                f"{PREFIX}API_PORT": str(ports.api),
            },
        ),
        *_source(settings, ports),
        producer,
    ]
    if settings.kafka_ui and settings.stack == "embedded":
        rows.append(_kafka_ui(folders, ports, where))
    return rows


def worker_name(number: int) -> str:
    """Return the name of a stream worker in the process table; workers are numbered from 1."""
    return "stream-apps" if number == 1 else f"stream-apps-{number}"


def worker_environment(where: Endpoints, number: int, port: int) -> dict[str, str]:
    """Return the settings of a stream worker that serves its metrics on `port`.

    A worker keeps its name when it is restarted after a crash, so that the group gives its partitions back at once.
    """
    name = "embedded" if number == 1 else f"embedded-{number}"
    return {**_common(where), f"{PREFIX}WORKER": name, f"{PREFIX}METRICS_PORT": str(port)}


def _common(where: Endpoints) -> dict[str, str]:
    kafka = {f"{PREFIX}KAFKA_BROKERS": where.kafka_brokers, f"{PREFIX}REGISTRY_URL": where.registry_url}
    # Empty means not configured: no service inherits the database role of another.
    no_database = {f"{PREFIX}{role}DATABASE_URL": "" for role in ("", "SINK_", "API_", "HISTORY_")}
    return {**kafka, **no_database, f"{PREFIX}REDIS_URL": ""}


def _source(settings: StackSettings, ports: Ports) -> list[Process]:
    """Return the process that prices come from, unless they are live: a simulated venue or a replay."""
    if settings.source == "live":
        return []
    command = python_module("infra.simulator")
    if settings.source == "replay":
        files = [file.resolve() for file in settings.replay_files]
        if not files:
            raise StackError("source=replay needs a recording: make run SOURCE=replay FILE=recording.jsonl.zst")
        for file in files:
            if not file.is_file():
                raise StackError(f"there is no recording {file}; check FILE (or {PREFIX}REPLAY_FILE).")
        options = ("--venue", settings.venue, "--speed", settings.replay_speed)
        behind = ("--behind", str(settings.replay_behind_s)) if settings.replay_behind_s else ()
        command = python_module("infra.simulator.replay.server", *map(str, files), *options, *behind)
    else:
        _simulated(settings)
    return [
        Process(
            name="source",
            command=command,
            environment={
                f"{PREFIX}VENUE": settings.venue,
                f"{PREFIX}EXCHANGE_PORT": str(ports.exchange),
                f"{PREFIX}EXCHANGE_CONTROL_PORT": str(ports.exchange_control),
            },
            check=Answers(f"http://127.0.0.1:{ports.exchange_control}/readyz"),
            ports={f"{PREFIX}EXCHANGE_PORT": ports.exchange, f"{PREFIX}EXCHANGE_CONTROL_PORT": ports.exchange_control},
        )
    ]


def _simulated(settings: StackSettings) -> facts.Facts:
    try:
        return facts.find(settings.venue)
    except SettingsError as error:
        raise StackError(str(error)) from None


def _producer(settings: StackSettings, ports: Ports) -> dict[str, str]:
    """Return the producer's settings: the addresses of our own server in place of the venue's, unless it is live."""
    environment = {f"{PREFIX}SOURCE": settings.source, f"{PREFIX}VENUE": settings.venue}
    if settings.source == "live":
        return environment
    prefix, here = settings.venue.upper(), facts.VENUES.get(settings.venue, facts.UNKNOWN)
    path = here.path if settings.source == "sim" else ""
    environment[f"{prefix}_WS_URL"] = f"{here.scheme}://127.0.0.1:{ports.exchange}{path}"
    environment[f"{prefix}_REST_URL"] = f"http://127.0.0.1:{ports.exchange_control}"
    if settings.source == "sim":
        environment |= here.environment
        if settings.exchange_symbols is not None or not here.is_usual:
            environment[f"{prefix}_PRODUCTS"] = ",".join(here.names(settings.exchange_symbols or facts.PRODUCTS))
    return environment


def source_addresses(settings: StackSettings, ports: Ports) -> dict[str, str]:
    """Return the settings of history commands: the source of prices, and the address and venue of its REST history."""
    if settings.source == "live":
        return {"source": "live"}
    # A recording has no history besides itself.
    serves = settings.source == "sim" and _simulated(settings).has_history
    url = f"http://127.0.0.1:{ports.exchange_control}" if serves else ""
    return {"source": settings.source, "history_venue": settings.venue, "history_url": url}


def _history(settings: StackSettings, ports: Ports, where: Endpoints) -> dict[str, str]:
    """Return the database of the producer's history process and the port of its metrics; nothing when none runs."""
    scans = settings.source == "live" if settings.gap_scan_minutes is None else settings.gap_scan_minutes > 0
    wanted = scans or settings.backfill_days
    if not wanted:
        return {}
    return {
        f"{PREFIX}HISTORY_DATABASE_URL": where.history_database_url,
        f"{PREFIX}HISTORY_METRICS_PORT": str(ports.history_metrics),
    }


def _kafka_ui(folders: Folders, ports: Ports, where: Endpoints) -> Process:
    python = folders.kafka_ui / "bin/python"
    if not python.exists():
        raise StackError("the Kafka UI is not installed: run `make setup`, or set TICKSTREAM_KAFKA_UI=false.")
    script = PROJECT / "infra/local/kafka_ui/serve.py"
    return Process(
        name="kafka-ui",
        command=(str(python), str(script), str(ports.kafka_ui), where.kafka_brokers, where.registry_url),
        check=Answers(f"http://127.0.0.1:{ports.kafka_ui}/healthz"),
        after=("kafka", "registry"),
        ports={f"{PREFIX}KAFKA_UI_PORT": ports.kafka_ui},
    )
