"""`python -m infra.chaos` as a person runs it: a short run of a fixed seed, and one that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.chaos.__main__ import INTERRUPTED, VIOLATED, main
from infra.local.folders import HOME
from infra.local.port_check import require_free
from infra.local.process import Process
from tests.conftest import PORT_BASE

ROOT = Path(__file__).parents[2]
# Beside the test stack's own ports.
CHAOS_PORT_BASE = PORT_BASE + 25

# A backlog of both workers, one of which is killed or frozen amid it, and a killed producer.
RUNS = [("direct", 7), ("faust", 26)]


def chaos(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a run whose outputs go to the folder."""
    command = [sys.executable, "-m", "infra.chaos", "--port-base", str(CHAOS_PORT_BASE), *options]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)


@pytest.mark.timeout(290)
@pytest.mark.parametrize(("engine", "seed"), RUNS)
def test_every_value_is_right_after_kills_and_freezes(tmp_path: Path, engine: str, seed: int) -> None:
    """Trades, candles, books and tables are exactly the exchange's, or the ledger says what is missing."""
    running = chaos(
        tmp_path, "--engine", engine, "--seed", str(seed), "--seconds", "25", "--rate", "60", "--settle-s", "150"
    )
    try:
        status = running.wait(280)
    finally:
        running.terminate()
        running.wait(60)
    progress = (tmp_path / "err").read_text()
    assert status in {0, VIOLATED}, progress
    result = json.loads((tmp_path / "out").read_bytes())
    # A machine that is too slow for a feed's heartbeats causes gaps of its own.
    found = {kind: count for kind, count in result["violations"].items() if kind != "gap_unexplained"}
    assert not found, f"{result['examples']}\n{progress}"
    assert result["trades"]["made"] > 0
    assert result["books"]["book_update"]["compared"] > 0
    assert result["books"]["metrics"]["compared"] > 0
    assert result["bars"]["wanted"] > 0
    assert result["candles"]["by_recipe"] > 0
    assert result["derivatives"]["sent"] > 0


@pytest.mark.timeout(280)
def test_an_interrupted_run_stops_everything_that_it_started(tmp_path: Path, wait_for: Callable[..., Any]) -> None:
    """After Ctrl-C, while a process is frozen: no process is left, every port is free, and the data is removed."""
    folder = HOME / "chaos" / str(CHAOS_PORT_BASE)
    running = chaos(tmp_path, "--seed", "3", "--seconds", "600", "--workers", "1", "--rate", "20")

    def frozen() -> bool:
        report = (tmp_path / "err").read_bytes()
        if running.poll() is not None:
            pytest.fail(f"it ended by itself:\n{report.decode()}")
        return b" s  freeze " in report

    try:
        wait_for("a frozen process", frozen, 240)
        mine = str(folder).encode()
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == INTERRUPTED
    finally:
        running.kill()
        running.wait()
    assert (tmp_path / "out").read_bytes() == b""
    ports = {f"port {number}": number for number in range(CHAOS_PORT_BASE, CHAOS_PORT_BASE + 15)}
    require_free([Process("chaos", (), ports=ports)])
    left = [one.pid for one in psutil.process_iter() if _reads(one.pid, mine)]
    assert not left
    assert not list((folder / "data").rglob("*.log"))
    assert (folder / "log" / "chaos.log").read_text()


def _reads(pid: int, text: bytes) -> bool:
    try:
        return pid != os.getpid() and text in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_the_schedule_of_a_seed_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a run can be understood, and repeated."""
    assert main(["--seed", "7", "--seconds", "120", "--schedule"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("kill stream-apps" in line for line in lines)
    assert any(line.endswith(" s") and " s  freeze " in line for line in lines)


@pytest.mark.parametrize("options", [["--seconds", "1"], ["--workers", "0"], ["--rate", "0"], ["--engine", "none"]])
def test_a_run_that_cannot_be_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With a line that names the option, before anything is started."""
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err
