"""The platform that a measurement runs on, the load of its processes, and the machine underneath."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from infra.local import stack
from infra.local import state as written
from infra.local.errors import StackError
from infra.local.folders import HOME
from infra.local.settings import StackSettings
from infra.local.state import State
from runtime.settings import load


@contextmanager
def running_platform() -> Iterator[State | None]:
    """Give the state of the platform that `make run` or `make up` started; None when there is none."""
    known = written.load(stack.folders_of(load(StackSettings)))
    alive = known is not None and known.ready and known.supervisor is not None and known.supervisor.alive()
    yield known if alive else None


@contextmanager
def own_platform(name: str, port_base: int, environment: Mapping[str, str]) -> Iterator[State]:
    """Start a platform with fresh data in a folder of its own, on ports of its own; stop and remove it at the end.

    `environment` is added to this program's own for that time. Raises StackError when it does not start, or when the
    same measurement is already running.
    """
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    own = load(StackSettings, folder=HOME / name, port_base=port_base, kafka_ui=False, source="sim")
    folders = stack.folders_of(own)
    with (HOME / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("the same measurement is running already; wait until it ends") from None
        try:
            stack.down(folders)
            stack.erase(folders)
            stack.start_detached(own, services=True, report=print)
            known = written.load(folders)
            if known is None:
                raise StackError("the platform stopped right after its start")
            yield known
        finally:
            stack.down(folders)
            stack.erase(folders)
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


def processes(known: State) -> dict[str, psutil.Process]:
    """Return the platform's living processes by name."""
    return {row.name: psutil.Process(row.identity.pid) for row in known.rows if row.identity and row.identity.alive()}


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and its children so far, in seconds."""
    total = 0.0
    for one in _family(process):
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def memory_bytes(process: psutil.Process) -> int:
    """Return the memory that a process and its children hold alone, in bytes; shared pages count for none of them."""
    total = 0
    for one in _family(process):
        try:
            total += one.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def busy_seconds() -> float:
    """Return the processor time of the whole machine so far, in seconds."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def machine() -> dict[str, Any]:
    """Return what the measurement ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "engine": os.environ.get("TICKSTREAM_ENGINE") or "default",
        "load_1m": round(os.getloadavg()[0], 1),
    }


def machine_text() -> str:
    """Return what the measurement ran on, as one line."""
    on = machine()
    return (
        f"{on['processor']}, {on['cores']} cores, {on['memory_gib']} GiB, {on['system']}, Python {on['python']}, "
        f"engine {on['engine']}, load {on['load_1m']} at the start"
    )


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
