"""The state file of a supervisor, from which another program shows, stops or cleans up its processes.

A process is identified by its id and its start time together, because ids are reused.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import TextIOWrapper
from pathlib import Path

import psutil

from infra.local.folders import Folders


@dataclass(frozen=True)
class Identity:
    """Identifies one process; `started` is in clock ticks since boot `boot`."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the process that has this id now; None when there is none, or only one that has ended."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The fields after the name, which is in parentheses and may contain anything; the state comes first.
        fields = stat.rpartition(")")[2].split()
        if fields[0] in "ZX":
            return None
        return cls(pid, int(fields[19]), Path("/proc/sys/kernel/random/boot_id").read_text().strip())

    def alive(self) -> bool:
        """Return whether this process still runs."""
        return Identity.of(self.pid) == self


@dataclass
class Row:
    """One process as the supervisor sees it; times are Unix seconds."""

    name: str
    state: str = "waiting"  # waiting, starting, ready, restarting, done, failed, stopping, stopped
    identity: Identity | None = None
    restarts: int = 0
    since: float = field(default_factory=time.time)
    ports: dict[str, int] = field(default_factory=dict)
    note: str = ""
    stop_signal: int = signal.SIGTERM


@dataclass
class State:
    """The stack as `state.json` stores it; `rows` are in starting order."""

    supervisor: Identity | None
    ready: bool
    failure: str
    rows: list[Row]
    endpoints: dict[str, str]


def save(folders: Folders, state: State) -> None:
    """Write the state so that a reader sees the old or the new one, never part of one."""
    draft = folders.run / "state.draft"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(state), file)
    draft.replace(folders.run / "state.json")


def load(folders: Folders) -> State | None:
    """Return the state that the last supervisor of this stack wrote; None when there is none."""
    try:
        raw = json.loads((folders.run / "state.json").read_text())
    except FileNotFoundError:
        return None
    rows = [Row(**{**row, "identity": _identity(row["identity"])}) for row in raw["rows"]]
    return State(_identity(raw["supervisor"]), raw["ready"], raw["failure"], rows, raw["endpoints"])


def _identity(raw: dict[str, object] | None) -> Identity | None:
    return Identity(**raw) if raw else None  # type: ignore[arg-type]


def take_lock(folders: Folders) -> TextIOWrapper | None:
    """Return the stack's lock, held until closed; None when a living supervisor holds it."""
    lock = (folders.run / "lock").open("w")
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    lock.close()
    return None


def end_group(identity: Identity, stop_signal: int, seconds_max: float) -> bool:
    """Stop a process and its group: by the signal, then by SIGKILL. Return False when it had to be killed."""
    if not signal_group(identity, stop_signal):
        return True
    deadline = time.monotonic() + seconds_max
    orphans_asked = False
    while time.monotonic() < deadline:
        if not group_alive(identity):
            return True
        if not orphans_asked and not identity.alive():
            orphans_asked = signal_group(identity, stop_signal)
        time.sleep(0.02)
    signal_group(identity, signal.SIGKILL)
    while group_alive(identity):
        time.sleep(0.02)
    return False


def signal_group(identity: Identity, number: int) -> bool:
    """Send a signal to a process that we started and its group; False when none of them is left.

    Only the leader gets the signal, since it stops its own children. When the signal is SIGKILL, or the leader is gone,
    the whole group gets it.
    """
    if identity.alive() and number != signal.SIGKILL:
        with suppress(ProcessLookupError):
            os.kill(identity.pid, number)
            return True
    if not group_alive(identity):
        return False
    with suppress(ProcessLookupError):
        os.killpg(identity.pid, number)
    return True


def group_alive(identity: Identity) -> bool:
    """Return whether any process of the group that `identity` leads still runs.

    The system does not reuse a group's id while a member lives, so another process with that id means that the
    group is gone.
    """
    current = Identity.of(identity.pid)
    if current is not None:
        return current == identity
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == identity.pid:
                member = Identity.of(process.pid)
                if member and member.boot == identity.boot and member.started >= identity.started:
                    return True
    return False
