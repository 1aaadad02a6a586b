"""Our feeds beside cryptofeed 2.4.1 on the same recorded frames: how quick each is, and what each lets by.

Both keep each book and read its best bid and ask after every change, with every check of sequences and checksums that
they have switched on. Each measurement is a process of its own on one core; the two take turns, and the best of each
counts, in processor time, which other load on the machine disturbs least. Reading the recording is not part of it.

Then one frame that changes a book is left out, twenty frames one after the other: how many books are published as good
that the venue did not have by then, looking at the ten best levels? Needs the recordings beside the project.
`make bench-feeds` takes some minutes; `make bench-feeds ARGS='okx kraken'` measures some.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from bench.feed_task import Task
from marketdata.events import Instrument
from producers.venues import make_feed
from runtime import recordings

ROOT = Path(__file__).resolve().parents[1]
RECORDINGS = ROOT.parent / "shared" / "recordings"
OURS = [sys.executable, "-m", "bench.feed_player"]
THEIRS = [str(ROOT / ".local" / "cryptofeed" / "bin" / "python"), "-m", "bench.cryptofeed.player"]
FRAMES_MAX = 30_000
ROUNDS = 3
WITHHELD = 20
WATCHED_FRAMES = 1_500
PLAYER_S_MAX = 600


class Case(NamedTuple):
    """One line of the table; `only` is what the frames of a part have in them."""

    name: str
    venue: str
    recording: str
    only: str = ""


CASES = (
    Case("coinbase", "coinbase", "coinbase_advanced"),
    Case("binance_spot", "binance_spot", "binance_spot_btcusdt"),
    Case("binance_spot, depth", "binance_spot", "binance_spot_btcusdt", "@depth"),
    Case("binance_usdm", "binance_usdm", "binance_usdm_btcusdt"),
    Case("binance_usdm, depth", "binance_usdm", "binance_usdm_btcusdt", "@depth"),
    Case("okx", "okx", "okx"),
    Case("bitfinex", "bitfinex", "bitfinex"),
    Case("bybit", "bybit", "bybit"),
    Case("gemini", "gemini", "gemini"),
    Case("kraken", "kraken", "kraken_v1"),
    Case("kraken_futures", "kraken_futures", "kraken_futures"),
)


def read(case: Case) -> Task:
    """Return a case's frames with the names of its products, as cryptofeed writes them."""
    frames: list[tuple[str, int, str]] = []
    bodies: list[tuple[str, str]] = []
    for line in recordings.read(RECORDINGS / f"{case.recording}.jsonl.zst"):
        if line.t == "http":
            bodies.append((line.conn or "", line.data))
        elif line.t == "recv" and case.only in line.data and len(frames) < FRAMES_MAX:
            frames.append((line.conn or "", line.ts_recv, line.data))
    task = Task(case.venue, frames, bodies)
    for instrument, conn in instruments(task):
        name = instrument.venue_symbol
        if case.venue == "kraken_futures":
            name = name.lower()
        if case.venue == "bybit":
            task.markets[conn] = "spot" if instrument.kind == "spot" else "linear"
            name = f"{instrument.base_currency}/{instrument.quote_currency}" if instrument.kind == "spot" else name
        task.symbols[instrument.symbol] = name
    return task


def instruments(task: Task) -> list[tuple[Instrument, str]]:
    """Return the products of which the frames tell, and on which connection."""
    feeds = {conn: make_feed(task.venue, line=conn) for conn in dict.fromkeys(frame[0] for frame in task.frames)}
    return [
        (output, conn)
        for conn, ts, frame in task.frames
        for output in feeds[conn].received(frame.encode(), ts)
        if isinstance(output, Instrument)
    ]


def run(player: list[str], what: str, task: Path) -> Any:
    """Let a player do something in a process of its own."""
    done = subprocess.run(
        [*player, what, str(task)], cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=PLAYER_S_MAX
    )
    return json.loads(done.stdout)


def write(folder: Path, task: Task) -> Path:
    """Return a file that holds the task."""
    path = folder / "task.json"
    path.write_text(json.dumps(asdict(task)))
    return path


def speed(task: Task, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the best of some rounds, ours and theirs."""
    path = write(folder, task)
    rounds = [(run(OURS, "measure", path), run(THEIRS, "measure", path)) for _ in range(ROUNDS)]
    ours, theirs = zip(*rounds, strict=True)
    return min(ours, key=lambda one: one["seconds"]), min(theirs, key=lambda one: one["seconds"])


def wrong_books(task: Task, folder: Path) -> tuple[list[int], list[int], list[int]]:
    """Return the wrong books after each frame left out: ours, theirs with all checks, and theirs as it comes."""
    task = replace(task, frames=task.frames[:WATCHED_FRAMES])
    places = run(OURS, "changing", write(folder, task))
    task.withheld = places[len(places) // 10 :: max(1, len(places) // WITHHELD)][:WITHHELD]
    path = write(folder, task)
    ours, checked = run(OURS, "withhold", path), run(THEIRS, "withhold", path)
    return ours, checked, run(THEIRS, "withhold", write(folder, replace(task, checked=False)))


def report(case: Case, task: Task, folder: Path) -> list[str]:
    """Print a line of the table, and return what else is to be said of it."""
    ours, theirs = speed(task, folder)
    lost = wrong_books(task, folder)
    frames = len(task.frames)
    print(
        f"{case.name:20} {frames:6,} {frames / ours['seconds']:9,.0f} {ours['events'] / ours['seconds']:9,.0f} "
        f"{frames / theirs['seconds']:9,.0f} {theirs['events'] / theirs['seconds']:9,.0f} "
        f"{theirs['seconds'] / ours['seconds']:6.2f}   " + " ".join(f"{_errors(wrong):>16}" for wrong in lost),
        flush=True,
    )
    notes = []
    for name, played in (("ours", ours), ("cryptofeed", theirs)):
        if played["one_sided"]:
            notes.append(f"{case.name}, {name}: {played['one_sided']:,} of {played['books']:,} books lack a side")
        if played["given_up"]:
            notes.append(f"{case.name}, {name}: {played['given_up']:,} frames ended in an exception")
    both = ours["sides"].keys() & theirs["sides"].keys()
    differ = sum(ours["sides"][number] != theirs["sides"][number] for number in both)
    if differ:
        notes.append(f"{case.name}: cryptofeed publishes the other side of {differ:,} of {len(both):,} trades")
    return notes


def _errors(wrong: list[int]) -> str:
    return f"{sum(count > 0 for count in wrong)}/{len(wrong)}, most {max(wrong, default=0)}"


def _hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores (one used), Python {platform.python_version()}, load {load:.1f} before"


def main(names: Annotated[list[str] | None, typer.Argument(help="Which venues; all without any.")] = None) -> None:
    """Measure the feeds beside cryptofeed."""
    cases = [case for case in CASES if not names or case.venue in names]
    if not cases:
        raise typer.BadParameter(f"none of {', '.join(dict.fromkeys(case.venue for case in CASES))}")
    if not RECORDINGS.is_dir():
        raise typer.BadParameter(f"the recordings are absent: no {RECORDINGS}")
    print(_hardware())
    print(
        f"\n{'':20} {'':6} {'ours':>19} {'cryptofeed 2.4.1':>19} {'':6}   one frame left out: cases with wrong books, "
        f"and most in one\n{'':20} {'frames':>6} {'frames/s':>9} {'events/s':>9} {'frames/s':>9} {'events/s':>9} "
        f"{'ratio':>6}   {'ours':>16} {'cryptofeed':>16} {'by its defaults':>16}"
    )
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            notes += report(case, read(case), Path(folder))
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    typer.run(main)
