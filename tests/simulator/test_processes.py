"""The exchange and the replay server as processes: start, health, an orderly end, and clear errors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.recordings import Recorded, write
from tests.waiting import wait_for

LIMIT_S = 90.0


@pytest.fixture
def ports() -> dict[str, str]:
    """Settings with two free ports."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return {
            "TICKSTREAM_EXCHANGE_PORT": str(one.getsockname()[1]),
            "TICKSTREAM_EXCHANGE_CONTROL_PORT": str(two.getsockname()[1]),
        }


def _start(*command: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", *command], env=os.environ | env, stderr=subprocess.PIPE, text=True)


@pytest.fixture(params=["exchange", "replay"])
def process(request: pytest.FixtureRequest, ports: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A started server; killed at the end if it still runs."""
    file = tmp_path / "made.jsonl.zst"
    write(file, [Recorded("recv", 1, "one", "{}")])
    command = ["infra.simulator"] if request.param == "exchange" else ["infra.simulator.replay.server", str(file)]
    started = _start(*command, **ports)
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


def test_server_answers_and_ends_on_sigterm(process: subprocess.Popen[str], ports: dict[str, str]) -> None:
    """/healthz answers soon after the start, and SIGTERM ends the process with code 0."""
    url = f"http://127.0.0.1:{ports['TICKSTREAM_EXCHANGE_CONTROL_PORT']}/healthz"

    def is_alive() -> bool:
        if process.poll() is not None:
            pytest.fail("the exchange has ended")
        answer = httpx.get(url, trust_env=False, timeout=5).json()
        if answer["status"] != "alive":
            pytest.fail(f"an answer that is wrong: {answer}")
        return True

    wait_for("the exchange to answer", is_alive, LIMIT_S)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("command", "env", "message"),
    [
        (("infra.simulator",), {"COINBASE_PRODUCTS": "btc"}, "'btc' is no product"),
        (("infra.simulator",), {"TICKSTREAM_EXCHANGE_FAULTS": '[{"kind":"x"}]'}, "TICKSTREAM_EXCHANGE_FAULTS"),
        (("infra.simulator.replay.server", "nowhere.jsonl.zst"), {}, "there is no file nowhere.jsonl.zst"),
    ],
)
def test_what_cannot_start_says_why(command: tuple[str, ...], env: dict[str, str], message: str) -> None:
    """A wrong setting or file ends the process with code 2 and a line that names it, without a traceback."""
    process = _start(*command, **env)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert message in " ".join(errors.split())
    assert "Traceback" not in errors


def test_taken_port_is_named(ports: dict[str, str]) -> None:
    """A port that another process holds is in the message."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", int(ports["TICKSTREAM_EXCHANGE_CONTROL_PORT"])))
        holder.listen()
        process = _start("infra.simulator", **ports)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{ports['TICKSTREAM_EXCHANGE_CONTROL_PORT']}" in errors
    assert "Traceback" not in errors
