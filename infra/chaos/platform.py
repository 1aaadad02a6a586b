"""The platform under test: a stack in a folder of its own, its processes by name, and workers that come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from infra.local import stack
from infra.local import state as written
from infra.local.errors import StackError
from infra.local.folders import HOME, PROJECT
from infra.local.services import worker_environment
from infra.local.settings import StackSettings
from infra.local.state import Identity, Row
from infra.local.table import Endpoints
from infra.simulator.venues.coinbase import VENUE
from runtime.settings import PREFIX, CommonSettings, load

Report = Callable[[str], None]

# Two of these share each of the four partitions, by Kafka's own hash of their keys.
# Bars by recipe of each kind that the platform makes.
RECIPES = """
[recipes.five_seconds]
time = "5s"
[recipes.ninety_seconds]
time = "90s"
[recipes.twenty_trades]
trades = 20
[recipes.volume]
volume = "50"
[recipes.value]
value = "100000"
"""
PRODUCTS = ("BTC-USD", "XRP-USD", "ETH-USD", "ATOM-USD", "SOL-USD", "ADA-USD", "LTC-USD", "LINK-USD")
_PRODUCTS = f"{VENUE.upper()}_PRODUCTS"
JOINED = "joined-worker"
JOINED_NUMBER = 99
BURN = "import os, time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
STOP_SECONDS_MAX = 15.0


class Platform:
    """One platform, started with fresh data. Use as a context: it is stopped at the end, whatever happened to it."""

    def __init__(self, *, engine: str, workers: int, rate: float, seed: int, port_base: int, report: Report) -> None:
        """Choose what to start; nothing of the caller's environment reaches the platform, so neither do its servers."""
        folder = HOME / "chaos" / str(port_base)
        self.recipes = folder / "recipes.toml"
        for name in [name for name in os.environ if name.startswith((PREFIX, f"{VENUE.upper()}_"))]:
            del os.environ[name]
        os.environ |= {
            f"{PREFIX}ENGINE": engine,
            f"{PREFIX}EXCHANGE_RATE": str(rate),
            f"{PREFIX}EXCHANGE_SEED": str(seed),
            _PRODUCTS: ",".join(PRODUCTS),
            f"{PREFIX}RECIPES": str(self.recipes),
        }
        self._settings = load(
            StackSettings,
            folder=folder,
            port_base=port_base,
            workers=workers,
            source="sim",
            kafka_ui=False,
        )
        self._folders = stack.folders_of(self._settings)
        self._report = report
        self._joined: subprocess.Popen[bytes] | None = None
        self._stopped: set[Identity] = set()
        self._burners: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self.keeps_data = False
        self.endpoints: Endpoints
        self.ports: dict[str, int] = {}

    @property
    def log_folder(self) -> Path:
        """Where the processes' logs are; they stay until the next run."""
        return self._folders.log

    def __enter__(self) -> Self:
        """Start everything with fresh data and return when all is ready; raises StackError when it cannot be."""
        self._end_left_behind()
        stack.down(self._folders, self._report)
        stack.erase(self._folders)
        self.recipes.parent.mkdir(parents=True, exist_ok=True)
        self.recipes.write_text(RECIPES)
        try:
            self.endpoints = stack.start_detached(self._settings, services=True, report=self._report)
        except BaseException:
            self.__exit__()
            raise
        known = written.load(self._folders)
        if known is None:
            raise StackError(f"{self._folders.run}/state.json is gone")
        self.ports = {
            name.removeprefix("port_"): int(port) for name, port in known.endpoints.items() if name.startswith("port_")
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything that was started, and remove its data unless `keeps_data`; logs stay."""
        self.release()
        stack.down(self._folders, self._report)
        if not self.keeps_data:
            stack.erase_data(self._folders)

    @property
    def _joined_file(self) -> Path:
        """The worker that joined, for the next run: the supervisor cannot end it when this run is killed."""
        return self._folders.run / "joined.json"

    def _end_left_behind(self) -> None:
        if self._joined_file.exists():
            identity = Identity(**json.loads(self._joined_file.read_text()))
            written.end_group(identity, signal.SIGTERM, STOP_SECONDS_MAX)

    def kafka(self) -> CommonSettings:
        """Return the settings of a client of this platform's Kafka and registry."""
        return load(
            CommonSettings, kafka_brokers=self.endpoints.kafka_brokers, registry_url=self.endpoints.registry_url
        )

    def rows(self) -> dict[str, Row]:
        """Return the supervisor's processes by name, and the worker that joined."""
        known = written.load(self._folders)
        rows = {row.name: row for row in known.rows if row.state != "done"} if known else {}
        joined = self._joined
        if joined is not None:
            identity = Identity.of(joined.pid)
            rows[JOINED] = Row(JOINED, state="ready" if identity else "stopped", identity=identity)
        return rows

    def identity(self, name: str) -> Identity | None:
        """Return the living process of this name; None while there is none."""
        row = self.rows().get(name)
        return row.identity if row and row.identity and row.identity.alive() else None

    # --- what can be done to it

    def kill(self, name: str) -> bool:
        """End a process at once; False when there is none now."""
        identity = self.identity(name)
        if identity is None:
            return False
        # The leader alone, as a person would; what it leaves behind is the supervisor's to end.
        with suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGKILL)
        return True

    def term(self, name: str) -> bool:
        """Ask a process to end, by the signal that its supervisor uses; False when there is none now."""
        row = self.rows().get(name)
        return bool(row and row.identity and written.signal_group(row.identity, row.stop_signal))

    def freeze(self, name: str) -> Identity | None:
        """Stop a process and its children where they are; None when there is no such process now."""
        identity = self.identity(name)
        if identity is not None:
            with self._lock:
                self._stopped.add(identity)
            with suppress(ProcessLookupError):
                os.killpg(identity.pid, signal.SIGSTOP)
        return identity

    def resume(self, identity: Identity) -> None:
        """Let a frozen process continue."""
        with self._lock:
            self._stopped.discard(identity)
        if written.group_alive(identity):
            with suppress(ProcessLookupError):
                os.killpg(identity.pid, signal.SIGCONT)

    def join(self) -> None:
        """Start one more stream worker, which the supervisor knows nothing of."""
        port = max(self.ports.values()) + 1
        environment = worker_environment(self.endpoints, JOINED_NUMBER, port)
        with (self.log_folder / f"{JOINED}.log").open("ab") as log:
            self._joined = subprocess.Popen(
                [sys.executable, "-m", "stream_apps"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                cwd=PROJECT,
                start_new_session=True,
            )
        identity = Identity.of(self._joined.pid)
        if identity is not None:
            self._joined_file.write_text(json.dumps(asdict(identity)))

    def leave(self) -> bool:
        """Ask the worker that joined to end, and see that it does; False when it has ended already."""
        joined = self._joined
        if joined is None:
            return False
        was_running = joined.poll() is None
        if was_running:
            joined.terminate()
            try:
                joined.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                joined.kill()
                joined.wait()
        self._joined = None
        self._joined_file.unlink(missing_ok=True)
        return was_running

    def burn(self, seconds: float) -> None:
        """Keep every core of the machine busy for some seconds."""
        for _ in range(os.cpu_count() or 1):
            self._burners.append(subprocess.Popen([sys.executable, "-c", BURN.format(seconds=seconds)]))

    def release(self) -> None:
        """Let everything that is frozen continue, and end what was started beside the stack."""
        for identity in list(self._stopped):
            self.resume(identity)
        self.leave()
        for burner in self._burners:
            burner.kill()
            burner.wait()
        self._burners.clear()
