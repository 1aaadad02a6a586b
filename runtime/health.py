"""A service's health over HTTP: /healthz (alive), /readyz (each dependency) and /metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import orjson
from prometheus_client import Gauge, make_wsgi_app

from runtime.redaction import redacted

_DEPENDENCY_UP = Gauge("tickstream_dependency_up", "1 while a dependency answers, else 0.", ["dependency"])

# An unavailable dependency is noticed within this time: checks come every second and have a time limit.
NOTICED_SECONDS = 4.0
STUCK_SECONDS = 10.0


class Readiness:
    """What a service depends on, and whether each answers now. Safe from any thread.

    Without one of the `optional` dependencies the service is degraded, but ready.
    """

    def __init__(self, *dependencies: str, optional: Iterable[str] = ()) -> None:
        self._optional = frozenset(optional)
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._up_since: dict[str, float] = {}
        for dependency in dependencies:
            self.down(dependency, "not reached yet")

    def up(self, dependency: str) -> None:
        """Note that a dependency answers."""
        with self._lock:
            self._states[dependency] = "ok"
            self._up_since.setdefault(dependency, time.monotonic())
        _DEPENDENCY_UP.labels(dependency).set(1)

    def down(self, dependency: str, why: str) -> None:
        """Note that a dependency does not answer, and why; secrets in the reason are left out."""
        with self._lock:
            self._states[dependency] = redacted(why)
            self._up_since.pop(dependency, None)
        _DEPENDENCY_UP.labels(dependency).set(0)

    def is_up(self, dependency: str) -> bool:
        """Tell whether a dependency answered when last asked."""
        with self._lock:
            return self._states.get(dependency) == "ok"

    def up_since(self, dependency: str) -> float | None:
        """Return since when (monotonic seconds) a dependency has answered each time, None when it does not now."""
        with self._lock:
            return self._up_since.get(dependency)

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether all that are not optional answer, and the body of /readyz."""
        with self._lock:
            checks = dict(self._states)
        missing = {name for name, state in checks.items() if state != "ok"}
        is_ready = missing <= self._optional
        status = "not ready" if not is_ready else "degraded" if missing else "ready"
        return is_ready, {"status": status, "checks": checks}


class Beat:
    """Shows that a loop turns: it beats about once a second, and is stuck when it has not for `STUCK_SECONDS`."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def beat(self) -> None:
        """Note that the loop turns."""
        self._last = time.monotonic()

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the loop turns, and the body of /healthz."""
        age = time.monotonic() - self._last
        is_alive = age < STUCK_SECONDS
        return is_alive, {"status": "alive" if is_alive else "stuck", "beat_age_ms": round(age * 1000)}


class Dependent:
    """A dependency that needs another one and fails with it: while the other is unavailable, only that one is reported.

    So its failures count once they have lasted for `NOTICED_SECONDS` during which the other one answered each time:
    long enough for the other's own check to notice that it is unavailable. Safe from any thread.
    """

    def __init__(self, readiness: Readiness, name: str, *, needs: str) -> None:
        self._readiness = readiness
        self._name = name
        self._needs = needs
        self._failing_since: float | None = None

    def up(self) -> None:
        """Note that it answers."""
        self._failing_since = None
        self._readiness.up(self._name)

    def failed(self, began: float, why: str) -> None:
        """Note that a request which began then (monotonic seconds) failed as it does while the other is unavailable."""
        up_since = self._readiness.up_since(self._needs)
        if up_since is None or began < up_since:
            self._failing_since = None
            return
        since = self._failing_since
        if since is None or since < up_since:
            self._failing_since = since = began
        if time.monotonic() - since >= NOTICED_SECONDS:
            self._readiness.down(self._name, why)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: probes every second are no news."""


class HealthServer:
    """Serves a service's health on its own thread, as a context manager."""

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        self._readiness = readiness
        self._metrics = make_wsgi_app()
        self._server = make_server(host, port, self._answer, server_class=_Server, handler_class=_Quiet)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path == "/healthz":
            status, body = "200 OK", {"status": "alive"}
        elif path == "/readyz":
            ready, body = self._readiness.report()
            status = "200 OK" if ready else "503 Service Unavailable"
        else:
            status, body = "404 Not Found", {"error": "there are /healthz, /readyz and /metrics"}
        start_response(status, [("Content-Type", "application/json")])
        return [orjson.dumps(body)]
