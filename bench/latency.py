"""Latency of the whole platform, from the exchange's stamp to a WebSocket client, and of each hop on the way.

Measures the platform that runs (`make run`), or starts one of its own and stops it at the end. Sets the simulated
exchange to the wanted rate, and lets it send each book change at once, for the time of the measurement. Several runs
follow one another, and every figure is the median of the runs, so that a busy moment of the machine does not decide.
`make bench-latency` takes about two minutes. The last line is one JSON object.

`socket_to_client` is the way through our platform: from the receipt of the venue's frame to the write to the client's
socket. The client's figures compare a message's `timestamp` (the venue's clock, here this machine's) with the time of
receipt; trades and tickers wait at the exchange for the batch (50 ms; 250 ms at the real venue), which is part of
theirs. The hops are the services' own histograms over the same seconds.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median, quantiles
from typing import Annotated, Any

import httpx
import msgspec
import typer
import websockets

from bench.stack import (
    busy_seconds,
    cpu_seconds,
    machine,
    machine_text,
    own_platform,
    processes,
    running_platform,
)
from infra.local.errors import StackError
from infra.local.figures import Figures, Hop, Reader
from infra.local.state import State
from marketdata.clock import parse_rfc3339

PORT_BASE = 29_400
SERVICES = ("producer", "stream_apps", "sink", "api")
CHANNELS = ("ticker", "trades", "book")
KINDS = {"l2_update": "book updates", "trade": "trades (with the batch)", "ticker": "tickers (with the batch)"}
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
    """One WebSocket client; notes each message's age at receipt, and gaps in its sequences."""

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
        """Return the ages by type of message received after a time, and how many messages the sequences lack."""
        ages: dict[str, list[float]] = defaultdict(list)
        last: dict[tuple[str, str], int] = {}
        missing = 0
        for at, data in self.received:
            message = self._decoder.decode(data)
            stream = (message.type.removesuffix("_snapshot").removesuffix("_update"), message.symbol)
            if message.sequence is not None:
                missing += max(0, message.sequence - last.get(stream, message.sequence - 1) - 1)
                last[stream] = message.sequence
            if at >= since_ns and message.timestamp and message.type in {"l2_update", "trade", "ticker"}:
                ages[message.type].append((at - parse_rfc3339(message.timestamp)) / 1e6)
        return ages, missing


@contextmanager
def exchange_settings(known: State, rate: float) -> Iterator[str]:
    """Set the exchange's rate, and book changes to leave at once; give a line on where prices come from."""
    url = f"http://127.0.0.1:{known.endpoints['port_exchange_control']}"
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as http:
        try:
            usual = {path: http.get(path).raise_for_status().json() for path in ("/rate", "/book_batch")}
        except httpx.HTTPError:
            yield "not the simulated exchange, at its own rate"
            return
        wanted = {"/rate": {"events_per_s": rate}, "/book_batch": {"book_batch_ms": 0}}
        for path, body in wanted.items():
            http.put(path, json=body).raise_for_status()
        try:
            yield f"simulated exchange, {rate:g} orders/s"
        finally:
            for path, body in usual.items():
                http.put(path, json=body)


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


async def measure(known: State, seconds: float, runs: int, warm: float) -> dict[str, Any]:
    """Listen for several runs and return each one's figures: the client's ages, the services' hops, and the load."""
    api = f"127.0.0.1:{known.endpoints['port_api']}"
    symbols = await known_symbols(api)
    metrics = {name: f"http://127.0.0.1:{known.endpoints[f'port_{name}']}/metrics" for name in SERVICES}
    reader = Reader(known.endpoints["kafka_brokers"], metrics)
    client = Client(f"ws://{api}/ws")
    listening = asyncio.create_task(client.listen(symbols))
    ready = asyncio.create_task(client.ready.wait())
    measured: list[dict[str, Any]] = []
    try:
        await asyncio.wait({listening, ready}, timeout=FIRST_MESSAGE_S, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            await listening
        if not ready.done():
            raise StackError(f"no book update reached the client within {FIRST_MESSAGE_S:.0f} s")
        await asyncio.sleep(WARM_UP_S)
        running = processes(known)
        await asyncio.sleep(warm)
        for _ in range(runs):
            client.received.clear()
            await asyncio.to_thread(reader.read)
            spent = {name: cpu_seconds(process) for name, process in running.items()}
            busy, start_ns = busy_seconds(), time.time_ns()
            await asyncio.sleep(seconds)
            elapsed_s = (time.time_ns() - start_ns) / 1e9
            cores = {name: (cpu_seconds(process) - spent[name]) / elapsed_s for name, process in running.items()}
            cores["everything else on this machine"] = (busy_seconds() - busy) / elapsed_s - sum(cores.values())
            figures = await asyncio.to_thread(reader.read)
            ages, missing = client.ages_ms(start_ns)
            measured.append({"ages": ages, "missing": missing, "figures": figures, "cores": cores})
    finally:
        listening.cancel()
        ready.cancel()
    return {"symbols": symbols, "runs": measured, "seconds": seconds}


def summary(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over the runs: quantiles in milliseconds, messages and cores per run."""
    client: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        of_runs = [_quantiles(one["ages"].get(kind, [])) for one in measured]
        if all(of_runs):
            client[kind] = {
                name: median(one[name] for one in of_runs if one) for name in ("n", "p50", "p95", "p99", "max")
            }
    hops: dict[str, list[Hop]] = defaultdict(list)
    for one in measured:
        for hop in one["figures"].hops:
            hops[hop.name].append(hop)
    return {
        "client_ms": client,
        "hops_ms": {
            name: {
                "n": median(hop.count for hop in of_runs),
                "p50": round(median(hop.p50_ms for hop in of_runs), 2),
                "p95": round(median(hop.p95_ms for hop in of_runs), 2),
                "p99": round(median(hop.p99_ms for hop in of_runs), 2),
            }
            for name, of_runs in sorted(hops.items())
        },
        "cores": {name: round(median(one["cores"][name] for one in measured), 3) for name in measured[0]["cores"]},
        "missing": sum(one["missing"] for one in measured),
    }


def _quantiles(ages: list[float]) -> dict[str, float]:
    if len(ages) < 2:
        return {}
    cuts = quantiles(ages, n=100, method="inclusive")
    values = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(ages)}
    return {"n": len(ages)} | {name: round(value, 2) for name, value in values.items()}


def _line(name: str, values: dict[str, float]) -> str:
    rest = "".join(f"{values[key]:>10.1f}" for key in ("p50", "p95", "p99", "max") if key in values)
    return f"  {name:<34}{values['n']:>10.0f}{rest}"


def print_result(source: str, result: dict[str, Any], medians: dict[str, Any]) -> None:
    """Print what was measured."""
    runs: list[dict[str, Any]] = result["runs"]
    print(f"{source}; {', '.join(result['symbols'][:5])}; median of {len(runs)} runs of {result['seconds']:.0f} s\n")
    head = f"{'messages':>10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}"
    print(f"  {'exchange -> WebSocket client':<34}{head}{'max ms':>10}")
    for kind, values in medians["client_ms"].items():
        print(_line(KINDS[kind], values))
    print(f"  messages that the client missed: {medians['missing']}\n")
    print(f"  {'hop':<34}{head}")
    for name, values in medians["hops_ms"].items():
        print(_line(name, values))
    figures: Figures = runs[-1]["figures"]
    print("\n  topic                              messages/s")
    for topic, rate in sorted(figures.topic_rates.items()):
        if rate > 0:
            print(f"  {topic:<34}{rate:>10.0f}")
    print("\n  process                            cores used")
    for name, cores in sorted(medians["cores"].items(), key=lambda item: -item[1]):
        print(f"  {name:<34}{cores:>10.2f}")
    if figures.silent:
        print(f"\n  did not answer: {', '.join(figures.silent)}")
    print()


def main(
    *,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long each run measures.")] = 20.0,
    runs: Annotated[int, typer.Option(min=1, max=20, help="Runs, of which every figure is the median.")] = 3,
    warm: Annotated[float, typer.Option(min=0, help="Seconds before, for Kafka's JVM to compile itself.")] = 60.0,
    rate: Annotated[float, typer.Option(min=1, max=100_000, help="Orders a second at the exchange.")] = 500.0,
    products: Annotated[str, typer.Option(help="Products of a platform of its own, by comma.")] = "BTC-USD,ETH-USD",
) -> None:
    """Measure the latency from the exchange's stamp to a WebSocket client, and of each hop in between."""
    try:
        with ExitStack() as context:
            known = context.enter_context(running_platform())
            if known is None:
                print("no platform runs (`make run` starts one): starting one for the measurement")
                known = context.enter_context(own_platform("bench", PORT_BASE, {"COINBASE_PRODUCTS": products}))
            else:
                print("measuring the running platform")
            source = context.enter_context(exchange_settings(known, rate))
            print(f"\n{machine_text()}")
            result = asyncio.run(measure(known, seconds, runs, warm))
            medians = summary(result["runs"])
            print_result(source, result, medians)
            print(json.dumps({"bench": "latency", **machine(), "rate": rate, "runs": runs, **medians}))
    except (StackError, httpx.HTTPError, OSError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(1) from None


def _end(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # The platform is stopped also when somebody ends the measurement.
    signal.signal(signal.SIGTERM, _end)
    typer.run(main)
