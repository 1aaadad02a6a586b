"""Latency of the whole platform, from the exchange's stamp to a WebSocket client, with the hops in between.

Uses the platform that runs (`make run`), or starts one of its own beside it and stops it at the end. Sets the simulated
exchange to the wanted rate for the time of the measurement. Takes about a minute: `make bench-latency`.

The client's figures compare a message's `timestamp` (the venue's clock, here this machine's) with the time of receipt.
Book updates leave the exchange at once; trades and tickers wait there for the batch (50 ms; 250 ms on the real
venue), which is part of their figure. The hops are the services' own histograms over the same seconds.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any

import httpx
import msgspec
import psutil
import typer
import websockets

from infra.local import stack
from infra.local import state as written
from infra.local.errors import StackError
from infra.local.figures import Figures, Reader
from infra.local.folders import HOME, Folders
from infra.local.settings import StackSettings
from infra.local.state import State
from marketdata.clock import parse_rfc3339
from runtime.settings import load

PORT_BASE = 29_400
SERVICES = ("producer", "stream_apps", "sink", "api")
CHANNELS = ("ticker", "trades", "book")
# Kafka's compiler needs some seconds of load before it is at its pace.
WARM_UP_S = 15.0
FIRST_MESSAGE_S = 60.0


class Message(msgspec.Struct):
    """What the measurement needs of a message."""

    type: str
    symbol: str = ""
    timestamp: str = ""
    sequence: int | None = None
    valid: bool = True


class Client:
    """One WebSocket client; notes each message's age at receipt, and holes in its numbering."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._decoder = msgspec.json.Decoder(Message)
        self.received: list[tuple[int, bytes]] = []
        self.ready = asyncio.Event()

    async def listen(self, symbols: list[str]) -> None:
        """Subscribe and take messages until cancelled; only the clock is read on the way, parsing comes later."""
        async with websockets.connect(self._url, max_size=None, proxy=None, compression=None) as socket:
            request = {"op": "subscribe", "id": 1, "channels": CHANNELS, "symbols": symbols}
            await socket.send(msgspec.json.encode(request).decode())
            while True:
                data = await socket.recv(decode=False)
                self.received.append((time.time_ns(), data))
                if not self.ready.is_set() and b'"l2_update"' in data:
                    self.ready.set()

    def ages_ms(self, since_ns: int) -> tuple[dict[str, list[float]], int]:
        """Return the ages by type of message received after a time, and how many messages the numbering misses."""
        ages: dict[str, list[float]] = defaultdict(list)
        last: dict[tuple[str, str], int] = {}
        holes = 0
        for at, data in self.received:
            message = self._decoder.decode(data)
            stream = (message.type.removesuffix("_snapshot").removesuffix("_update"), message.symbol)
            if message.sequence is not None:
                holes += max(0, message.sequence - last.get(stream, message.sequence - 1) - 1)
                last[stream] = message.sequence
            if at >= since_ns and message.timestamp and message.type in {"l2_update", "trade", "ticker"}:
                ages[message.type].append((at - parse_rfc3339(message.timestamp)) / 1e6)
        return ages, holes


@contextmanager
def platform_running(products: str) -> Iterator[State]:
    """Give the running platform's state, starting one of its own for the time when there is none."""
    settings = load(StackSettings)
    folders = stack.folders_of(settings)
    known = written.load(folders)
    if known is not None and known.ready and known.supervisor is not None and known.supervisor.alive():
        print(f"measuring the running platform ({folders.stack.name}/)")
        yield known
        return
    os.environ.setdefault("COINBASE_PRODUCTS", products)
    own = load(StackSettings, folder=HOME / "bench", port_base=PORT_BASE, kafka_ui=False, source="sim")
    folders = stack.folders_of(own)
    with (HOME / "bench.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("another measurement is running with a platform of its own; wait for its end") from None
        yield from _own_platform(own, folders)


def _own_platform(own: StackSettings, folders: Folders) -> Iterator[State]:
    stack.down(folders)
    stack.erase(folders)
    try:
        print("no platform runs (`make run` starts one): starting one for the measurement")
        stack.start_detached(own, services=True, report=print)
        known = written.load(folders)
        if known is None:
            raise StackError("the platform stopped right after its start")
        yield known
    finally:
        stack.down(folders)
        stack.erase(folders)


@contextmanager
def exchange_rate(known: State, rate: float) -> Iterator[str]:
    """Set the exchange's rate for the time of the measurement; give a word about what prices come from."""
    url = f"http://127.0.0.1:{known.endpoints['port_exchange_control']}/rate"
    try:
        usual = httpx.get(url, timeout=5, trust_env=False).raise_for_status().json()
    except httpx.HTTPError:
        yield "not the simulated exchange, at its own rate"
        return
    httpx.put(url, json={"events_per_s": rate}, timeout=5, trust_env=False).raise_for_status()
    try:
        yield f"simulated exchange, {rate:g} orders/s"
    finally:
        httpx.put(url, json=usual, timeout=5, trust_env=False)


def processes(known: State) -> dict[str, psutil.Process]:
    """Return the platform's living processes by name."""
    return {row.name: psutil.Process(row.identity.pid) for row in known.rows if row.identity and row.identity.alive()}


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and its children so far."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def busy_seconds() -> float:
    """Return the processor time of the whole machine so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


async def known_symbols(api: str) -> list[str]:
    """Return the symbols that the API knows, waiting for the first ones."""
    async with httpx.AsyncClient(base_url=f"http://{api}", timeout=10, trust_env=False) as http:
        deadline = time.monotonic() + FIRST_MESSAGE_S
        while time.monotonic() < deadline:
            answer = (await http.get("/api/v1/market/symbols")).raise_for_status().json()
            if answer["data"]:
                return sorted(one["symbol"] for one in answer["data"])
            await asyncio.sleep(0.5)
    raise StackError(f"the API knew no symbol within {FIRST_MESSAGE_S:.0f} s")


async def measure(known: State, seconds: float) -> dict[str, Any]:
    """Listen for some seconds and return the client's ages, the platform's figures and each process's load."""
    api = f"127.0.0.1:{known.endpoints['port_api']}"
    symbols = await known_symbols(api)
    metrics = {name: f"http://127.0.0.1:{known.endpoints[f'port_{name}']}/metrics" for name in SERVICES}
    reader = Reader(known.endpoints["kafka_brokers"], metrics)
    client = Client(f"ws://{api}/ws")
    listening = asyncio.create_task(client.listen(symbols))
    ready = asyncio.create_task(client.ready.wait())
    try:
        await asyncio.wait({listening, ready}, timeout=FIRST_MESSAGE_S, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            await listening
        if not ready.done():
            raise StackError(f"no book update reached the client within {FIRST_MESSAGE_S:.0f} s")
        await asyncio.sleep(WARM_UP_S)
        await asyncio.to_thread(reader.read)
        running = processes(known)
        spent = {name: cpu_seconds(process) for name, process in running.items()}
        busy = busy_seconds()
        start_ns = time.time_ns()
        await asyncio.sleep(seconds)
        elapsed_s = (time.time_ns() - start_ns) / 1e9
        cores = {name: (cpu_seconds(process) - spent[name]) / elapsed_s for name, process in running.items()}
        cores["everything else on this machine"] = (busy_seconds() - busy) / elapsed_s - sum(cores.values())
        figures = await asyncio.to_thread(reader.read)
    finally:
        listening.cancel()
        ready.cancel()
    ages, holes = client.ages_ms(start_ns)
    return {
        "symbols": symbols,
        "ages": ages,
        "holes": holes,
        "figures": figures,
        "cores": cores,
        "seconds": elapsed_s,
    }


def _line(name: str, count: float, *values: float) -> str:
    return f"  {name:<34}{count:>10.0f}" + "".join(f"{value:>10.1f}" for value in values)


def print_result(source: str, result: dict[str, Any]) -> None:
    """Print what was measured."""
    figures: Figures = result["figures"]
    memory = psutil.virtual_memory().total / 2**30
    print(f"\n{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.platform(terse=True)}, ", end="")
    print(f"Python {platform.python_version()}, engine {os.environ.get('TICKSTREAM_ENGINE') or 'faust'}")
    print(f"{source}; {', '.join(result['symbols'])}; {result['seconds']:.0f} s\n")
    head = f"{'messages':>10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}"
    print(f"  {'exchange -> WebSocket client':<34}{head}{'max ms':>10}")
    names = {"l2_update": "book updates", "trade": "trades (with the batch)", "ticker": "tickers (with the batch)"}
    for kind, name in names.items():
        ages = result["ages"].get(kind, [])
        if len(ages) > 1:
            cuts = quantiles(ages, n=100, method="inclusive")
            print(_line(name, len(ages), cuts[49], cuts[94], cuts[98], max(ages)))
        else:
            print(f"  {name:<34}{len(ages):>10}")
    print(f"  messages that the client missed: {result['holes']}\n")
    print(f"  {'hop':<34}{head}")
    for hop in sorted(figures.hops, key=lambda hop: hop.name):
        print(_line(hop.name, hop.count, hop.p50_ms, hop.p95_ms, hop.p99_ms))
    print("\n  topic                              messages/s")
    for topic, rate in sorted(figures.topic_rates.items()):
        if rate > 0:
            print(f"  {topic:<34}{rate:>10.0f}")
    print("\n  process                            cores used")
    for name, cores in sorted(result["cores"].items(), key=lambda item: -item[1]):
        print(f"  {name:<34}{cores:>10.2f}")
    if figures.silent:
        print(f"\n  did not answer: {', '.join(figures.silent)}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(
    *,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long to measure.")] = 30.0,
    rate: Annotated[float, typer.Option(min=1, max=20_000, help="Orders a second at the exchange.")] = 500.0,
    products: Annotated[str, typer.Option(help="Products of a platform of its own, by comma.")] = "BTC-USD,ETH-USD",
) -> None:
    """Measure the latency from the exchange's stamp to a WebSocket client, and of each hop in between."""
    try:
        with platform_running(products) as known, exchange_rate(known, rate) as source:
            print_result(source, asyncio.run(measure(known, seconds)))
    except (StackError, httpx.HTTPError, OSError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
