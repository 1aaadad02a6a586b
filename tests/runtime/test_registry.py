"""The registry client against a server that is not a schema registry."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from marketdata.errors import Unavailable
from runtime.registry import Registry

BODIES = [b"<html>Please log in</html>", b"[]", b'{"status": "ok"}']


@pytest.fixture(params=BODIES)
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that gives the same response to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(request.param)

        do_PUT = do_GET = do_POST  # noqa: N815 - the base class names them so

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_not_a_registry_counts_as_unavailable(stranger: str) -> None:
    """A proxy in front of it may respond instead; services then wait and do not exit."""
    registry = Registry(stranger)
    for ask in (registry.codec, lambda: registry.register("Trades"), lambda: registry.fetch(1)):
        with pytest.raises(Unavailable, match="not a schema registry"):
            ask()
    registry.close()
