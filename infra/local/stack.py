"""Starts, shows and stops a stack: what `tickstream up | status | logs | down` and the tests call."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from infra.local import components, docker, servers, table
from infra.local import state as written
from infra.local.errors import StackError
from infra.local.folders import PROJECT, Folders
from infra.local.passwords import passwords
from infra.local.port_check import require_free
from infra.local.process import Process
from infra.local.services import services as own_services
from infra.local.services import source_addresses
from infra.local.settings import StackSettings
from infra.local.state import State
from infra.local.supervisor import Supervisor, last_lines
from infra.local.table import Endpoints
from runtime.settings import PREFIX, load

Report = Callable[[str], None]

# The slowest part of a start is the registry, 6 s on two idle cores; a loaded machine may take far longer.
READY_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 120.0


def _quiet(_: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Shown:
    """A process as `tickstream status` prints it."""

    name: str
    state: str
    pid: int | None
    restarts: int
    seconds: float
    ports: tuple[int, ...]
    note: str


def folders_of(settings: StackSettings) -> Folders:
    """Return the folders that the settings ask for; of each simulated venue the data are separate."""
    source = f"sim-{settings.venue}" if settings.source == "sim" else settings.source
    return Folders(stack=settings.folder.resolve(), source=source)


def prepare(settings: StackSettings, *, services: bool, report: Report) -> tuple[list[Process], dict[str, str]]:
    """Fetch components, write configurations, and return the process table and the addresses for `state.json`.

    Raises StackError when a port is taken or something is missing.
    """
    folders = folders_of(settings)
    if settings.source == "replay":
        # A recording may be older than the previous one, and its trades would be late after newer events.
        erase_data(folders)
    folders.make()
    ports = settings.ports()
    if settings.stack == "docker":
        rows, where = docker.start(settings, folders, ports, report)
    else:
        if table.needs_components(settings):
            components.install(folders, report)
        rows = table.infrastructure(settings, folders, ports)
        where = table.endpoints(settings, ports, passwords(folders))
    addresses = vars(where) | {f"port_{name}": str(port) for name, port in vars(ports).items()}
    if services:
        rows += own_services(settings, folders, ports, where)
        more_workers = enumerate(settings.worker_ports(ports)[1:], 2)
        addresses |= {f"port_stream_apps_{number}": str(port) for number, port in more_workers}
        addresses |= source_addresses(settings, ports)
    # Servers that run elsewhere are not waited for.
    names = {row.name for row in rows}
    rows = [replace(row, after=tuple(name for name in row.after if name in names)) for row in rows]
    require_free(rows)
    return rows, addresses


@contextmanager
def running(settings: StackSettings, *, services: bool, report: Report) -> Iterator[Supervisor]:
    """Hold the stack's lock and run its processes under a supervisor in this program; stop all at the end."""
    folders = folders_of(settings)
    folders.make()
    lock = written.take_lock(folders)
    if lock is None:
        known = written.load(folders)
        who = f" (supervisor {known.supervisor.pid})" if known and known.supervisor else ""
        raise StackError(f"the stack in {folders.stack} runs already{who}. See `tickstream status`, `tickstream down`.")
    with lock:
        clean_up(folders, report)
        rows, where = prepare(settings, services=services, report=report)
        supervisor = Supervisor(rows, folders, where, report)
        try:
            supervisor.start()
            yield supervisor
        finally:
            _stop_whole(supervisor)


def _stop_whole(supervisor: Supervisor) -> None:
    """Stop everything, also when somebody asks for it again meanwhile."""
    while True:
        try:
            supervisor.stop()
        except KeyboardInterrupt:
            continue
        return


def clean_up(folders: Folders, report: Report) -> None:
    """Stop the processes that a killed supervisor left running; the caller holds the lock."""
    known = written.load(folders)
    if known is None:
        return
    for row in reversed(known.rows):
        if row.identity and written.group_alive(row.identity):
            report(f"{row.name}: left behind by a killed supervisor (process {row.identity.pid}); stopping it")
            written.end_group(row.identity, row.stop_signal, 10)
    (folders.run / "state.json").unlink()


def start_detached(settings: StackSettings, *, services: bool, report: Report) -> Endpoints:
    """Start a supervisor in the background and return when all is ready; raises StackError with the reason if not."""
    folders = folders_of(settings)
    folders.make()
    known = written.load(folders)
    if known and known.supervisor and known.supervisor.alive():
        raise StackError(f"the stack in {folders.stack} runs already. See `tickstream status`, `tickstream down`.")
    with (folders.log / "supervisor.log").open("wb") as log:
        child = subprocess.Popen(
            servers.python_module("infra.local.stack", *(["--services"] if services else [])),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(settings),
            cwd=PROJECT,
            start_new_session=True,
        )
    state = _await_start(folders, child, report)
    child.returncode = 0  # it outlives us on purpose; `subprocess` would warn of a child that nobody awaits
    return endpoints_of(state)


def is_of_this_version(state: State) -> bool:
    """Return whether a supervisor's state has every address that this version needs; an older one may lack some."""
    return all(field.name in state.endpoints for field in fields(Endpoints))


def endpoints_of(state: State) -> Endpoints:
    """Return the addresses that a supervisor wrote down."""
    return Endpoints(**{field.name: state.endpoints[field.name] for field in fields(Endpoints)})


def _await_start(folders: Folders, child: subprocess.Popen[bytes], report: Report) -> State:
    path = folders.log / "supervisor.log"
    deadline = time.monotonic() + READY_SECONDS_MAX
    with path.open() as progress:
        while True:
            for line in progress:
                report(line.rstrip())
            known = written.load(folders)
            if known and known.supervisor and known.supervisor.pid == child.pid and known.ready:
                return known
            if child.poll() is not None:
                reason = "\n".join(last_lines(path, 25)) or f"status {child.returncode}"
                raise StackError(f"the stack did not start:\n{reason}")
            if time.monotonic() > deadline:
                child.terminate()
                child.wait()
                raise StackError(f"the stack was not ready after {READY_SECONDS_MAX:.0f} s; see {path}")
            time.sleep(0.05)


def environment(settings: StackSettings) -> dict[str, str]:
    """Return this program's environment with the settings added, for a supervisor in the background.

    Settings of the services, such as the engine or the exchange's rate, are theirs to read and pass through.
    """
    ours = {f"{PREFIX}{name.upper()}" for name in StackSettings.model_fields}
    plain = {name: value for name, value in os.environ.items() if name not in ours}
    for name in StackSettings.model_fields:
        value = getattr(settings, name)
        if value is not None and name != "otlp_endpoint":
            secret = getattr(value, "get_secret_value", None)
            plain[f"{PREFIX}{name.upper()}"] = str(secret() if secret else value)
    return plain


def down(folders: Folders, report: Report = _quiet) -> bool:
    """Stop the stack and all that is left of it; False when nothing was running."""
    known = written.load(folders)
    if known is None:
        return False
    if known.supervisor and known.supervisor.alive():
        with suppress(ProcessLookupError):
            os.kill(known.supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while known.supervisor.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if known.supervisor.alive():
            report(f"the supervisor {known.supervisor.pid} does not end; killing it")
            with suppress(ProcessLookupError):
                os.kill(known.supervisor.pid, signal.SIGKILL)
    folders.make()
    lock = written.take_lock(folders)
    if lock is None:
        raise StackError(f"another program is starting or stopping the stack in {folders.stack}; try again.")
    with lock:
        clean_up(folders, report)
    return True


def status(folders: Folders) -> list[Shown]:
    """Return one row per process; empty when the stack is not running."""
    known = written.load(folders)
    if known is None:
        return []
    supervised = known.supervisor is not None and known.supervisor.alive()
    rows = []
    for row in known.rows:
        living = row.identity is not None and row.identity.alive()
        state, note = row.state, row.note
        if not supervised and state not in {"stopped", "done", "failed"}:
            state = "left behind" if living else "dead"
            note = "its supervisor was killed; run `tickstream down`"
        pid = row.identity.pid if row.identity and living else None
        seconds = time.time() - row.since
        rows.append(Shown(row.name, state, pid, row.restarts, seconds, tuple(row.ports.values()), note))
    return rows


def logs(folders: Folders, name: str, *, follow: bool, lines: int = 200) -> Iterator[str]:
    """Yield the last lines of a process's log, then, when asked to follow, those that come."""
    path = folders.log / f"{name}.log"
    if not path.exists():
        names = ", ".join(sorted(item.stem for item in folders.log.glob("*.log"))) or "none yet"
        raise StackError(f"there is no log of {name!r}; there are: {names}")
    with path.open("rb") as file:
        # A line is rarely longer than 500 bytes.
        position = max(0, path.stat().st_size - 500 * lines - 10_000)
        file.seek(position)
        found = file.read()
    if follow:
        found = found[: found.rfind(b"\n") + 1]  # the rest comes when its line is complete
    position += len(found)
    yield from found.decode(errors="replace").splitlines()[-lines:]
    while follow:
        size = path.stat().st_size
        if size < position:
            position = 0  # moved aside for its size
        if size > position:
            with path.open("rb") as file:
                file.seek(position)
                whole, newline, _ = file.read().rpartition(b"\n")
            if newline:
                position += len(whole) + 1
                yield from whole.decode(errors="replace").splitlines()
        time.sleep(0.2)


@contextmanager
def infrastructure(folder: Path, port_base: int, report: Report = _quiet) -> Iterator[Endpoints]:
    """Run Kafka, registry, database and Redis with fresh data in a folder; stop and remove them at the end."""
    settings = load(StackSettings, folder=folder, port_base=port_base)
    folders = folders_of(settings)
    down(folders)
    erase(folders)
    try:
        yield start_detached(settings, services=False, report=report)
    finally:
        down(folders)
        erase(folders)


def erase_data(folders: Folders) -> None:
    """Remove the data of a stopped stack's source."""
    servers.erase(folders, folders.rooted_data)
    shutil.rmtree(folders.data, ignore_errors=True)


def erase(folders: Folders) -> None:
    """Remove the data, logs and passwords of a stopped stack; downloads stay."""
    servers.erase(folders, folders.rooted_home)
    for path in (folders.data.parent, folders.log, folders.run):
        shutil.rmtree(path, ignore_errors=True)
    folders.passwords.unlink(missing_ok=True)


def _supervise() -> int:
    """Run the stack until SIGTERM: the program behind `start_detached`."""
    settings = load(StackSettings)

    def report(line: str) -> None:
        print(line, flush=True)  # noqa: T201 - its output is the progress that people see

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    try:
        with running(settings, services="--services" in sys.argv, report=report) as supervisor:
            supervisor.wait_ready()
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except StackError as error:
        report(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(_supervise())
