"""Starts the processes of a table in order, restarts each one that dies, and stops all in reverse order.

Theory of operation. Each process has a thread that walks one row through these states:

1. `waiting` until every process named in `after` is ready (a step: done).
2. `starting`: spawned in a session of its own, output to its log, until its check passes.
3. `ready` until it dies; then `restarting` after a pause of 0.5 s, doubled up to 10 s, and again from 2.
   Thirty seconds without a death reset the pause. A step that succeeds is `done`; one that fails is retried, and
   when its retries are exhausted the start has failed.
4. `stopping`, once everything that needs it has stopped: its stop signal, ten seconds, then SIGKILL to its group.

Each change is written to `state.json` before anyone is notified.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from infra.local import state as written
from infra.local.errors import StackError
from infra.local.folders import PROJECT, Folders
from infra.local.process import Process
from infra.local.state import Identity, Row, State

PAUSE_SECONDS_MIN = 0.5
PAUSE_SECONDS_MAX = 10.0
HEALTHY_SECONDS = 30.0
POLL_SECONDS = 0.05
LOG_BYTES_MAX = 8 * 2**20
DEATHS_BEFORE_READY_MAX = 5


class Supervisor:
    """Runs one process table; the caller holds the stack's lock."""

    def __init__(
        self,
        table: Sequence[Process],
        folders: Folders,
        endpoints: Mapping[str, str],
        report: Callable[[str], None],
    ) -> None:
        self._table = {process.name: process for process in table}
        self._folders = folders
        self._report = report
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._changed = threading.Condition(self._lock)
        rows = [Row(p.name, ports=dict(p.ports), stop_signal=int(p.stop_signal)) for p in table]
        self._state = State(Identity.of(os.getpid()), ready=False, failure="", rows=rows, endpoints=dict(endpoints))
        self._rows = {row.name: row for row in rows}
        self._threads = [threading.Thread(target=self._care, args=(p,), name=p.name, daemon=True) for p in table]
        self._began = time.monotonic()
        with self._lock:
            written.save(folders, self._state)

    def start(self) -> None:
        """Start caring for the processes; returns at once."""
        for thread in (*self._threads, threading.Thread(target=self._bound_logs, name="logs", daemon=True)):
            thread.start()

    def wait_ready(self) -> None:
        """Return when every process is ready; raises StackError when one cannot be."""
        with self._changed:
            while not self._state.failure and not self._stopping.is_set():
                if all(row.state in {"ready", "done"} for row in self._state.rows):
                    self._state.ready = True
                    written.save(self._folders, self._state)
                    return
                self._changed.wait(1)
        if self._state.failure:
            raise StackError(self._state.failure)

    def rows(self) -> list[Row]:
        """Return the rows as they are now."""
        with self._lock:
            return [Row(**vars(row)) for row in self._state.rows]

    def stop(self) -> None:
        """Stop everything in reverse order; returns when nothing is left."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        with self._lock:
            self._state.ready = False
            written.save(self._folders, self._state)

    def _care(self, process: Process) -> None:
        try:
            if self._wait_for(process.after, ("ready", "done")):
                self._keep(process)
        except (OSError, StackError) as error:
            self._fail(process, f"{process.name} could not be started: {error}")
        finally:
            self._set(process, state="stopped" if self._row(process).state not in {"failed", "done"} else None)

    def _keep(self, process: Process) -> None:
        pause = PAUSE_SECONDS_MIN
        deaths = 0
        was_ready = False
        while not self._stopping.is_set():
            child = self._spawn(process)
            began = time.monotonic()
            ready = self._until_ready(process, child)
            was_ready = was_ready or ready
            status = self._until_end(child)
            if status is None:
                self._end(process, child)
                return
            if process.once and status == 0:
                self._set(process, state="done", identity=None, note="")
                self._report(f"{process.name}: done in {time.monotonic() - began:.1f} s")
                return
            # Children of the dead process would keep its ports and files.
            self._sweep(process)
            deaths += 1
            if deaths >= (process.tries if process.once else DEATHS_BEFORE_READY_MAX) and not was_ready:
                self._fail(process, self._why(process, status, deaths))
                return
            if time.monotonic() - began > HEALTHY_SECONDS:
                pause = PAUSE_SECONDS_MIN
            row = self._row(process)
            self._set(process, state="restarting", identity=None, restarts=row.restarts + 1, note=_ended(status))
            self._report(f"{process.name}: {_ended(status)}; starting it again in {pause:.1f} s")
            self._stopping.wait(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    def _spawn(self, process: Process) -> subprocess.Popen[bytes]:
        path = self._folders.log / f"{process.name}.log"
        with path.open("ab") as log:
            child = subprocess.Popen(
                process.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **process.environment},
                cwd=PROJECT,
                start_new_session=True,
            )
        self._set(process, state="starting", identity=Identity.of(child.pid))
        return child

    def _until_ready(self, process: Process, child: subprocess.Popen[bytes]) -> bool:
        if process.once:
            return False
        began = time.monotonic()
        fault = "no check yet"
        while not self._stopping.is_set() and child.poll() is None:
            found = process.check.fault() if process.check else None
            if found is None:
                self._set(process, state="ready", note="")
                self._report(f"{process.name}: ready after {time.monotonic() - began:.1f} s")
                return True
            fault = found
            if time.monotonic() - began > process.ready_seconds_max:
                self._report(f"{process.name}: not ready after {process.ready_seconds_max:.0f} s ({fault})")
                self._set(process, note=fault)
                written.end_group(Identity.of(child.pid) or _gone(child), process.stop_signal, process.stop_seconds_max)
                break
            self._stopping.wait(POLL_SECONDS)
        return False

    def _until_end(self, child: subprocess.Popen[bytes]) -> int | None:
        """Wait for the child's end; None when the stack is stopping first."""
        while child.poll() is None:
            if self._stopping.wait(POLL_SECONDS):
                return None
        return child.returncode

    def _end(self, process: Process, child: subprocess.Popen[bytes]) -> None:
        self._wait_for(self._users(process.name), ("stopped", "done", "failed"), while_stopping=True)
        self._set(process, state="stopping")
        began = time.monotonic()
        identity = self._row(process).identity
        # Reap in the background, else the ended child stays a zombie that its group's id keeps alive.
        reaper = threading.Thread(target=child.wait, daemon=True)
        reaper.start()
        polite = written.end_group(identity, process.stop_signal, process.stop_seconds_max) if identity else True
        reaper.join()
        self._sweep(process)
        how = "stopped" if polite else "killed, it did not stop by itself"
        self._set(process, state="stopped", identity=None)
        self._report(f"{process.name}: {how} after {time.monotonic() - began:.1f} s")

    def _users(self, name: str) -> set[str]:
        """Return who needs a process, directly or through others."""
        direct = {other.name for other in self._table.values() if name in other.after}
        return direct.union(*(self._users(user) for user in direct))

    def _sweep(self, process: Process) -> None:
        identity = self._row(process).identity
        if identity:
            written.end_group(identity, process.stop_signal, process.stop_seconds_max)

    def _wait_for(self, names: Iterable[str], states: Sequence[str], *, while_stopping: bool = False) -> bool:
        with self._changed:
            while not all(self._rows[name].state in states for name in names):
                if not while_stopping and (self._stopping.is_set() or self._state.failure):
                    return False
                self._changed.wait(POLL_SECONDS)
        return not self._stopping.is_set() or while_stopping

    def _row(self, process: Process) -> Row:
        return self._rows[process.name]

    def _set(self, process: Process, **values: object) -> None:
        with self._changed:
            row = self._row(process)
            for name, value in values.items():
                if name == "state" and value is None:
                    continue
                if name == "state" and value != row.state:
                    row.since = time.time()
                setattr(row, name, value)
            written.save(self._folders, self._state)
            self._changed.notify_all()

    def _fail(self, process: Process, message: str) -> None:
        with self._changed:
            self._state.failure = self._state.failure or message
        self._set(process, state="failed", identity=None)

    def _why(self, process: Process, status: int, deaths: int) -> str:
        tail = "\n  ".join(last_lines(self._folders.log / f"{process.name}.log", 15))
        return (
            f"{process.name} {_ended(status)} {deaths} times in a row. The end of its log:\n  {tail}\n"
            f"The whole log: tickstream logs {process.name}"
        )

    def _bound_logs(self) -> None:
        while not self._stopping.wait(1):
            for path in self._folders.log.glob("*.log"):
                bound_log(path)


def bound_log(path: Path) -> None:
    """Move a log that has grown too large aside, keeping one old one; its writer appends, so it goes on at zero."""
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)
    except FileNotFoundError:
        return


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def _ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _gone(child: subprocess.Popen[bytes]) -> Identity:
    return Identity(child.pid, 0, "")
