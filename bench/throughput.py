"""The whole platform under load, beside nothing else: a replay as fast as it goes, or a steady rate for some minutes.

    python -m bench.throughput replay FILE        how long until every row is stored and the book is right
    python -m bench.throughput sustained          whether a rate holds: lag, memory, processor time, exact counts

Each starts a platform with its own ports and folder, ends by itself, prints a table, and as its last line one JSON
object. Exit status 1 when a count or a book is wrong. `make bench-platform` runs both for a few minutes.

A replay is timed from its first frame, on a platform that is up and idle: a second producer plays the recording beside
the simulated exchange, which stands still. Its rows and its book must be those of `tickstream pipe --summary`. A
sustained run reads Kafka's offsets, the exchange's counters and each process every few seconds, then stops the
exchange, waits until all is read, and compares every trade and the best levels of each book with the exchange's record.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer

from bench.counts import api_book, await_still, compare_trades, same_books, stored_rows
from bench.stack import busy_seconds, cpu_seconds, machine, machine_text, memory_bytes, own_platform, processes
from infra.local.errors import StackError
from infra.local.figures import Reader, scrape
from infra.local.folders import PROJECT
from infra.local.servers import python_module
from infra.local.state import State

PORT_BASE = 29_430
RECORDING = PROJECT.parent / "shared/recordings/binance_usdm_btcusdt.jsonl.zst"
SERVICES = ("producer", "stream_apps", "sink", "api")
# A sustained run waits this long for all to be read at its end, a replay this long for its last row.
DRAIN_S_MAX = 300.0
WARM_UP_S = 20.0
POLL_S = 0.05

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Recording; of one symbol that has a book.")] = RECORDING,
    *,
    venue: Annotated[str, typer.Option(help="Venue that was recorded.")] = "binance_usdm",
    seconds_max: Annotated[float, typer.Option(min=10, max=3600, help="Give up after this long.")] = 600.0,
) -> None:
    """Time a replay at full speed through a platform that is up."""
    try:
        expected = _summary(file, venue)
        with own_platform("bench-platform", PORT_BASE, {"TICKSTREAM_EXCHANGE_RATE": "0"}) as known:
            print(f"\n{machine_text()}\n{file.name}: {expected['frames']} frames of {venue}\n")
            result = _replayed(known, file, venue, expected, seconds_max)
    except (StackError, httpx.HTTPError, OSError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(1) from None
    print(f"  {'from the first frame until':<44}{'seconds':>10}")
    for name, seconds in result["seconds"].items():
        print(f"  {name:<44}{seconds:>10.2f}")
    print(f"\n  {'process':<44}{'cpu s':>10}")
    for name, seconds in sorted(result["cpu_s"].items(), key=lambda item: -item[1]):
        print(f"  {name:<44}{seconds:>10.2f}")
    print(f"\n  rows stored {result['rows']}, expected {result['rows_expected']}; same book: {result['same_book']}\n")
    _finish(result)


def _summary(file: Path, venue: str) -> dict[str, Any]:
    command = python_module("tickstream", "pipe", "--venue", venue, str(file), "--summary")
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)
    if done.returncode:
        raise StackError(f"{file} cannot be read: {done.stderr.decode()[-500:]}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def _replayed(known: State, file: Path, venue: str, expected: dict[str, Any], seconds_max: float) -> dict[str, Any]:
    ((symbol, book),) = expected["books"].items()
    rows_expected = {"trades": expected["trades"], "quotes": expected["quotes"]}
    api = f"127.0.0.1:{known.endpoints['port_api']}"
    progress = f"http://127.0.0.1:{PORT_BASE + 21}/progress"
    sink = f"http://127.0.0.1:{known.endpoints['port_sink']}/metrics"
    before = _rows_counted(sink)
    seconds: dict[str, float] = {}
    with _second_producer(known, file, venue) as extra:
        running = processes(known) | extra
        spent = {name: cpu_seconds(process) for name, process in running.items()}
        began = _first_frame(progress, seconds_max)
        deadline = began + seconds_max
        while len(seconds) < 4 and time.monotonic() < deadline:
            now = time.monotonic() - began
            if "the producer has it all" not in seconds and _client(progress).get("finished"):
                seconds["the producer has it all"] = now
            counted = {name: count - before.get(name, 0) for name, count in _rows_counted(sink).items()}
            if all(counted.get(name, 0) >= count for name, count in rows_expected.items()):
                # Quotes of our own books are counted as well, so the database decides.
                rows = stored_rows(known.endpoints["database_url"], venue)
                for name, count in rows_expected.items():
                    if rows[name] >= count:
                        seconds.setdefault(f"all {name} are stored", now)
            if "the API has the last book" not in seconds and same_books(
                api_book(api, symbol, venue, stale=True), book
            ):
                seconds["the API has the last book"] = now
            time.sleep(POLL_S)
        used = {name: cpu_seconds(process) - spent[name] for name, process in running.items()}
        rows = stored_rows(known.endpoints["database_url"], venue)
        same_book = same_books(api_book(api, symbol, venue, stale=True), book)
    is_right = rows == rows_expected and same_book
    return {"bench": "replay", **machine(), "frames": expected["frames"], "seconds": seconds, "cpu_s": used,
            "rows": rows, "rows_expected": rows_expected, "same_book": same_book, "right": is_right,
            "total_s": max(seconds.values(), default=None) if is_right else None}  # fmt: skip


@contextmanager
def _second_producer(known: State, file: Path, venue: str) -> Iterator[dict[str, psutil.Process]]:
    """Run a replay server and a producer that reads it, beside the platform."""
    stream, control, metrics = PORT_BASE + 20, PORT_BASE + 21, PORT_BASE + 22
    environment = os.environ | {
        "TICKSTREAM_KAFKA_BROKERS": known.endpoints["kafka_brokers"],
        "TICKSTREAM_REGISTRY_URL": known.endpoints["registry_url"],
        "TICKSTREAM_SOURCE": "replay",
        "TICKSTREAM_VENUE": venue,
        f"{venue.upper()}_WS_URL": f"ws://127.0.0.1:{stream}",
        f"{venue.upper()}_REST_URL": f"http://127.0.0.1:{control}",
        "TICKSTREAM_EXCHANGE_PORT": str(stream),
        "TICKSTREAM_EXCHANGE_CONTROL_PORT": str(control),
        "TICKSTREAM_METRICS_PORT": str(metrics),
    }
    commands = {
        "replay server": python_module(
            "infra.simulator.replay.server", str(file.resolve()), "--venue", venue, "--speed", "max"
        ),
        "its producer": python_module("producers"),
    }
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            started[name] = subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        yield {name: psutil.Process(process.pid) for name, process in started.items()}
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(timeout=60)


def _client(progress: str) -> dict[str, Any]:
    """Return how far the replay's client is; nothing while there is none."""
    try:
        answer = httpx.get(progress, timeout=5, trust_env=False).raise_for_status().json()
    except httpx.HTTPError:
        return {}
    return answer["clients"][0] if answer["clients"] else {"finished": bool(answer["finished"]), "sent": 0}


def _first_frame(progress: str, seconds_max: float) -> float:
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        client = _client(progress)
        if client.get("sent") or client.get("finished"):
            return time.monotonic()
        time.sleep(POLL_S / 5)
    raise StackError(f"no frame was replayed within {seconds_max:.0f} s")


def _rows_counted(metrics: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for family in scrape(metrics) or ():
        for sample in family.samples:
            if sample.name == "tickstream_rows_stored_total":
                counts[sample.labels["table"]] = counts.get(sample.labels["table"], 0) + int(sample.value)
    return counts


@app.command()
def sustained(
    *,
    rate: Annotated[float, typer.Option(min=1, max=100_000, help="Orders a second at the exchange.")] = 10_000.0,
    symbols: Annotated[int, typer.Option(min=1, max=500, help="Simulated products.")] = 100,
    minutes: Annotated[float, typer.Option(min=0.2, max=240, help="How long to measure, after the warm-up.")] = 10.0,
    sample_s: Annotated[float, typer.Option(min=1, max=60, help="Time between two readings.")] = 10.0,
    book_batch_ms: Annotated[int, typer.Option(min=0, help="Longest wait of a book change at the exchange.")] = 50,
) -> None:
    """Hold a rate for some minutes and compare everything with the exchange's record."""
    environment = {
        "TICKSTREAM_EXCHANGE_RATE": str(rate),
        "TICKSTREAM_EXCHANGE_SYMBOLS": str(symbols),
        "TICKSTREAM_EXCHANGE_BOOK_BATCH_MS": str(book_batch_ms),
    }
    try:
        with own_platform("bench-platform", PORT_BASE, environment) as known:
            print(f"\n{machine_text()}")
            print(f"{rate:g} orders/s over {symbols} products for {minutes:g} min; ", end="")
            print(f"book changes wait at most {book_batch_ms} ms for their frame\n")
            result = {"bench": "sustained", **machine(), "rate": rate, "symbols": symbols, "minutes": minutes}
            result |= _held(known, minutes * 60, sample_s)
            result |= _compared(known)
    except (StackError, httpx.HTTPError, OSError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(1) from None
    _print_held(result)
    _finish(result)


def _held(known: State, seconds: float, sample_s: float) -> dict[str, Any]:
    """Read everything every few seconds and return rates, lag over time, memory slopes and processor time."""
    metrics = {name: f"http://127.0.0.1:{known.endpoints[f'port_{name}']}/metrics" for name in SERVICES}
    reader = Reader(known.endpoints["kafka_brokers"], metrics)
    control = f"http://127.0.0.1:{known.endpoints['port_exchange_control']}/metrics"
    time.sleep(WARM_UP_S)
    reader.read()
    running = processes(known)
    spent, busy, counted = {n: cpu_seconds(p) for n, p in running.items()}, busy_seconds(), _exchange_counts(control)
    began = time.monotonic()
    lags: list[dict[str, Any]] = []
    memory: dict[str, list[tuple[float, int]]] = {name: [] for name in running}
    print(f"  {'s':>6}  {'events/s':>9}  lag by consumer group")
    last, last_at, figures = counted, began, None
    while (at := time.monotonic() - began) < seconds:
        time.sleep(min(sample_s, seconds - at))
        figures, now, current = reader.read(), time.monotonic(), _exchange_counts(control)
        rate = sum(current[name] - last[name] for name in ("book_changes", "trades")) / (now - last_at)
        last, last_at = current, now
        lags.append({"s": round(now - began, 1), "events_s": round(rate), **figures.lags})
        for name, process in running.items():
            memory[name].append((now - began, memory_bytes(process)))
        groups = "  ".join(f"{group.rpartition('tickstream-')[2]} {lag}" for group, lag in sorted(figures.lags.items()))
        print(f"  {now - began:>6.0f}  {rate:>9.0f}  {groups}", flush=True)
    elapsed = time.monotonic() - began
    cores = {name: (cpu_seconds(process) - spent[name]) / elapsed for name, process in running.items()}
    cores["everything else on this machine"] = (busy_seconds() - busy) / elapsed - sum(cores.values())
    current = _exchange_counts(control)
    return {
        "seconds": round(elapsed, 1),
        "exchange_per_s": {name: round((current[name] - counted[name]) / elapsed) for name in current},
        "topics_per_s": {}
        if figures is None
        else {n: round(r) for n, r in sorted(figures.topic_rates.items()) if r > 0},
        "lag": lags,
        "hops_ms": [] if figures is None else [vars(hop) for hop in sorted(figures.hops, key=lambda hop: hop.name)],
        "cores": {name: round(value, 3) for name, value in cores.items()},
        "memory_mib": {name: round(points[-1][1] / 2**20) for name, points in memory.items() if points},
        "memory_mib_per_min": {name: _slope(points) for name, points in memory.items()},
    }


def _exchange_counts(control: str) -> dict[str, float]:
    counts = {"orders": 0.0, "book_changes": 0.0, "trades": 0.0, "frames": 0.0, "skipped_seconds": 0.0}
    for family in scrape(control) or ():
        for sample in family.samples:
            name = sample.name.removeprefix("tickstream_exchange_").removesuffix("_total")
            if name in counts and sample.name.endswith("_total"):
                counts[name] += sample.value
    return counts


def _slope(points: list[tuple[float, int]]) -> float | None:
    """Return MiB a minute over the second half of (seconds, bytes) by least squares; None for too few."""
    half = points[len(points) // 2 :]
    if len(half) < 3:
        return None
    mean_x = sum(x for x, _ in half) / len(half)
    mean_y = sum(y for _, y in half) / len(half)
    over = sum((x - mean_x) ** 2 for x, _ in half)
    return round(sum((x - mean_x) * (y - mean_y) for x, y in half) / over * 60 / 2**20, 2)


def _compared(known: State) -> dict[str, Any]:
    """Stop the exchange, wait until all is read and stored, and compare with its record."""
    control = f"127.0.0.1:{known.endpoints['port_exchange_control']}"
    httpx.put(f"http://{control}/rate", json={"events_per_s": 0}, timeout=10, trust_env=False).raise_for_status()
    began = time.monotonic()
    database = known.endpoints["database_url"]
    while True:
        trades = compare_trades(database, control)
        missing = trades["expected"] - trades["stored"]
        if (not missing and not trades["different"]) or time.monotonic() - began > DRAIN_S_MAX:
            break
        time.sleep(1)
    drained_s = time.monotonic() - began
    wrong_books = await_still(f"127.0.0.1:{known.endpoints['port_api']}", control, 30)
    is_right = not trades["different"] and not wrong_books
    return {"trades": trades, "wrong_books": wrong_books, "drained_s": round(drained_s, 1), "right": is_right}


def _print_held(result: dict[str, Any]) -> None:
    print(f"\n  the exchange, per second: {result['exchange_per_s']}")
    print(f"  trades: {result['trades']}; stored after {result['drained_s']} s")
    print(f"  books that differ: {result['wrong_books']}\n")
    print(f"  {'process':<36}{'cores':>8}{'MiB':>8}{'MiB/min':>10}")
    for name, cores in sorted(result["cores"].items(), key=lambda item: -item[1]):
        slope = result["memory_mib_per_min"].get(name)
        print(f"  {name:<36}{cores:>8.2f}{result['memory_mib'].get(name, ''):>8}{'' if slope is None else slope:>10}")
    print(f"\n  {'hop':<36}{'messages':>10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}")
    for hop in result["hops_ms"]:
        print(
            f"  {hop['name']:<36}{hop['count']:>10}{hop['p50_ms']:>10.1f}{hop['p95_ms']:>10.1f}{hop['p99_ms']:>10.1f}"
        )
    print(f"\n  {'topic':<36}{'messages/s':>10}")
    for topic, rate in result["topics_per_s"].items():
        print(f"  {topic:<36}{rate:>10}")
    print()


def _finish(result: dict[str, Any]) -> None:
    print(json.dumps(result))
    if not result["right"]:
        raise typer.Exit(1)


def _end(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # The platform is stopped also when somebody ends the measurement.
    signal.signal(signal.SIGTERM, _end)
    app()
