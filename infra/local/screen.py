"""The live screen of `make run`: rates, lags, latencies, rows, validity and addresses, about once a second."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.local import stack
from infra.local import state as written
from infra.local.errors import StackError
from infra.local.figures import Figures, Hop, Reader
from infra.local.folders import Folders
from infra.local.settings import StackSettings
from infra.local.state import Row, State

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 5.0
SERVICES = ("producer", "stream_apps", "sink", "api")

# Roughly the order in which data passes them, so that the eye can follow it.
STAGES = ("producer", "recv", "ingest", "valid", "dedup", "book", "candle", "anomal", "sink", "store", "api", "client")


def service_ports(known: State) -> dict[str, str]:
    """Return the metrics port of each service, of every stream worker too (`stream_apps`, `stream_apps_2`, ...)."""
    ports: dict[str, str] = {}
    for name in SERVICES:
        ports[name] = known.endpoints[f"port_{name}"]
        if name == "stream_apps":
            found = {key.removeprefix("port_"): port for key, port in known.endpoints.items()}
            ports |= {key: port for key, port in found.items() if key.startswith("stream_apps_")}
    return ports


def addresses(known: State) -> dict[str, str]:
    """Return the addresses that a person can open, by what is shown there."""
    port = service_ports(known)
    metrics = " ".join(f"{name.replace('_', '-')}:{port[name]}" for name in port)
    has_ui = any(row.name == "kafka-ui" for row in known.rows)
    return {
        "Dashboard": f"http://127.0.0.1:{port['api']}",
        "API docs": f"http://127.0.0.1:{port['api']}/docs",
        **({"Kafka UI": f"http://127.0.0.1:{known.endpoints['port_kafka_ui']}"} if has_ui else {}),
        "Metrics": f"http://127.0.0.1:PORT/metrics with PORT of {metrics}",
        "Kafka": known.endpoints["kafka_brokers"],
        "Registry": known.endpoints["registry_url"],
    }


def print_addresses(folders: Folders) -> None:
    """Print where a person can look at the running stack."""
    known = written.load(folders)
    if known is not None:
        for name, address in addresses(known).items():
            print(f"{name + ':':<11}{address}", flush=True)  # noqa: T201 - its purpose


def run(settings: StackSettings, report: Callable[[str], None]) -> None:
    """Start everything, show it until Ctrl-C (or SIGTERM, or the terminal goes), then stop everything in order."""
    stopped = threading.Event()

    def ask_to_stop(*_: object) -> None:
        # A second Ctrl-C changes nothing: processes must stop in order, so that no data is lost.
        if not stopped.is_set():
            stopped.set()
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_stop)
    folders = stack.folders_of(settings)
    began = time.monotonic()
    with suppress(KeyboardInterrupt), stack.running(settings, services=True, report=report) as supervisor:
        try:
            supervisor.wait_ready()
            known = written.load(folders)
            if known is None:
                raise StackError(f"{folders.run}/state.json is gone; did somebody remove it? Start again.")
            report(f"everything is ready after {time.monotonic() - began:.1f} s")
            print_addresses(folders)
            _show(known, supervisor.rows)
        except KeyboardInterrupt:
            report("stopping everything, in order")


def _show(known: State, rows: Callable[[], list[Row]]) -> None:
    metrics = {name: f"http://127.0.0.1:{port}/metrics" for name, port in service_ports(known).items()}
    reader = Reader(known.endpoints["kafka_brokers"], metrics)
    reader.read()
    if not sys.stdout.isatty():
        while True:
            time.sleep(PLAIN_SECONDS)
            print(summary(reader.read(), rows()), flush=True)  # noqa: T201 - its purpose
    with Live(console=Console(), auto_refresh=False, screen=True) as live:
        while True:
            drawn = time.monotonic()
            live.update(draw(reader.read(), rows(), addresses(known)), refresh=True)
            time.sleep(max(0.1, REFRESH_SECONDS - (time.monotonic() - drawn)))


def summary(figures: Figures, rows: list[Row]) -> str:
    """Return the figures in one line."""
    rate = sum(rate for topic, rate in figures.topic_rates.items() if "md.ingest." in topic)
    stored = sum(figures.rows.values())
    good = sum(figures.valid.values())
    hops = " ".join(f"{hop.name}={_ms(hop.p50_ms)}/{_ms(hop.p95_ms)}/{_ms(hop.p99_ms)}ms" for hop in _in_order(figures))
    restarts = sum(row.restarts for row in rows)
    return (
        f"ingest {rate:.0f}/s, lag {sum(figures.lags.values())}, stored {stored} rows, "
        f"books valid {good}/{len(figures.valid)}, restarts {restarts}, p50/p95/p99 {hops or 'none yet'}"
        + (f", no answer from {', '.join(figures.silent)}" if figures.silent else "")
    )


def draw(figures: Figures, rows: list[Row], where: dict[str, str]) -> Group:
    """Return the screen as a value."""
    processes = Table("process", "state", "restarts", box=None)
    for row in rows:
        if row.state != "done":
            colour = {"ready": "green", "starting": "yellow"}.get(row.state, "red")
            processes.add_row(row.name, Text(row.state, style=colour), str(row.restarts or ""))
    topics = Table("topic", "msg/s", "total", box=None)
    for topic in sorted(figures.topic_ends):
        topics.add_row(topic, f"{figures.topic_rates.get(topic, 0):.0f}", f"{figures.topic_ends[topic]:,}")
    lags = Table("consumer group", "lag", box=None)
    for group, lag in sorted(figures.lags.items()):
        lags.add_row(group, Text(f"{lag:,}", style="red" if lag > 10_000 else ""))
    hops = Table("hop", "p50 ms", "p95 ms", "p99 ms", "events", box=None)
    for hop in _in_order(figures):
        hops.add_row(hop.name, _ms(hop.p50_ms), _ms(hop.p95_ms), _ms(hop.p99_ms), f"{hop.count:,}")
    stored = Table("table", "rows stored", box=None)
    for table, count in sorted(figures.rows.items()):
        stored.add_row(table, f"{count:,}")
    books = Table("book", "validity", box=None)
    for symbol, valid in sorted(figures.valid.items()):
        books.add_row(symbol, Text("valid" if valid else "not valid", style="green" if valid else "bold red"))
    links = Table(box=None, show_header=False)
    for name, address in where.items():
        links.add_row(Text(name, style="bold"), address)
    parts = [processes, topics, lags, hops, stored, books]
    titles = ["Processes", "Topics", "Lag", "Latency per hop, last second", "Stored", "Books"]
    panels = [Panel(part, title=title, expand=False) for part, title in zip(parts, titles, strict=True)]
    silent = Text(f"no answer from {', '.join(figures.silent)}", style="red") if figures.silent else Text()
    return Group(Text("Tickstream - Ctrl-C stops everything in order", style="bold"), links, Columns(panels), silent)


def _ms(value: float) -> str:
    # The last bucket of our histograms ends at ten seconds.
    return ">10000" if math.isinf(value) else f"{value:.1f}"


def _in_order(figures: Figures) -> list[Hop]:
    def place(name: str) -> int:
        return next((index for index, stage in enumerate(STAGES) if stage in name), len(STAGES))

    return sorted(figures.hops, key=lambda hop: (place(hop.name), hop.name))
