"""Serves kaskade to a browser: topics, partitions and groups, and each topic's messages decoded by the registry.

    serve.py PORT KAFKA_BROKERS REGISTRY_URL

Runs in the Kafka UI's own environment and so imports nothing of ours. The page lists the topics; behind each entry
textual-serve runs one kaskade per viewer.
"""

from __future__ import annotations

import html
import os
import re
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from textual_serve import server as textual_server  # type: ignore[import-not-found]

BIN = Path(sys.executable).parent
STATIC = Path(textual_server.__file__).parent / "static"
# Kafka's own rule for topic names; also what keeps a name harmless inside a command line.
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tickstream · Kafka</title><style>
  body {{ margin: 0; display: flex; height: 100vh; background: #0c181f; color: #cfd8dc;
         font: 14px/1.5 ui-sans-serif, system-ui, sans-serif; }}
  nav {{ width: 17rem; padding: 1rem 0; overflow-y: auto; border-right: 1px solid #22333d; flex: none; }}
  nav h1 {{ font-size: 1rem; margin: 0 1rem .75rem; color: #fff; }}
  nav h2 {{ font-size: .75rem; margin: 1rem 1rem .25rem; color: #78909c; text-transform: uppercase; }}
  nav a {{ display: block; padding: .2rem 1rem; color: inherit; text-decoration: none; overflow-wrap: anywhere; }}
  nav p {{ display: flex; margin: 0; }} nav p a:first-child {{ flex: 1; }} nav p a + a {{ color: #80cbc4; }}
  nav a:hover, nav a:focus-visible {{ background: #1b2d37; color: #fff; outline: none; }}
  iframe {{ border: 0; flex: 1; }}
</style></head><body>
<nav aria-label="Topics"><h1>Tickstream · Kafka</h1>
<a href="/admin" target="terminal">Topics, partitions, groups</a>
{lists}
</nav><iframe name="terminal" title="kaskade" src="/admin"></iframe>
</body></html>"""

TERMINAL = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="/static/css/xterm.css"><script src="/static/js/textual.js"></script>
<style>body {{ margin: 0; background: #0c181f; color: #cfd8dc; font: 14px ui-monospace, monospace; }}
  #ended {{ display: none; padding: 2rem; }} body.-closed #ended {{ display: block; }}
  body.-closed .textual-terminal {{ display: none; }} #ended a {{ color: #80cbc4; }}</style></head>
<body><p id="ended">This session has ended. <a href="">Start again</a></p>
<div id="terminal" class="textual-terminal" data-session-websocket-url="{websocket}" data-font-size="14"></div>
</body></html>"""


class KafkaUi:
    """The pages and the sessions; `origin` is the only site whose pages may open a session."""

    def __init__(self, port: int, brokers: str, registry: str) -> None:
        self._port = port
        self._brokers = brokers
        self._registry = registry
        self._admin = AdminClient({"bootstrap.servers": brokers})

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application(middlewares=[self._own_site_only])
        app.add_routes(
            [
                web.get("/", self._frame),
                web.get("/healthz", self._health),
                web.get("/admin", self._terminal),
                web.get("/topics/{topic}/{start:oldest|newest}", self._terminal),
                web.get("/sessions/admin", self._session),
                web.get("/sessions/topics/{topic}/{start:oldest|newest}", self._session),
                web.static("/static", STATIC),
            ]
        )
        return app

    @web.middleware
    async def _own_site_only(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # A session can delete topics, and any page that a browser shows may try to open a WebSocket to this port.
        own = {f"127.0.0.1:{self._port}", f"localhost:{self._port}"}
        origin = request.headers.get("Origin")
        if request.host not in own or (origin and origin.removeprefix("http://") not in own):
            raise web.HTTPForbidden(text="open this page at its own address")
        return await handler(request)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _frame(self, _: web.Request) -> web.Response:
        try:
            names = sorted(self._admin.list_topics(timeout=5).topics)
        except KafkaException as error:
            return web.Response(status=503, text=f"Kafka at {self._brokers} does not answer: {error}")
        groups = {
            "Messages": [name for name in names if not name.startswith("_")],
            "Internal": [name for name in names if name.startswith("_")],
        }
        lists = "\n".join(
            f"<h2>{title}</h2>" + "\n".join(_links(html.escape(topic)) for topic in topics)
            for title, topics in groups.items()
            if topics
        )
        return web.Response(text=FRAME.format(lists=lists), content_type="text/html")

    async def _terminal(self, request: web.Request) -> web.Response:
        title = html.escape(request.match_info.get("topic", "Kafka"))
        websocket = html.escape(f"ws://{request.host}/sessions{request.path}")
        return web.Response(text=TERMINAL.format(title=title, websocket=websocket), content_type="text/html")

    async def _session(self, request: web.Request) -> Any:
        command = [str(BIN / "kaskade")]
        topic = request.match_info.get("topic")
        if topic is None:
            command += ["admin", "-b", self._brokers, "--refresh-interval", "5"]
        elif TOPIC.fullmatch(topic):
            command += ["consumer", "-b", self._brokers, "-t", topic, "-k", "string", "-v", "registry"]
            command += ["--earliest"] if request.match_info["start"] == "oldest" else []
            command += ["--registry", f"url={self._registry}", "--fallback", "encoding=escaped"]
            command += ["--kafka", f"fetch.message.max.bytes={32 * 2**20}"]
        else:
            raise web.HTTPNotFound(text="there is no such topic")
        return await textual_server.Server(shlex.join(command), port=self._port).handle_websocket(request)


def _links(topic: str) -> str:
    oldest = f'<a href="/topics/{topic}/oldest" target="terminal">{topic}</a>'
    return f'<p>{oldest}<a href="/topics/{topic}/newest" target="terminal" title="only new messages">new</a></p>'


def main() -> None:
    """Serve until SIGTERM."""
    port, brokers, registry = sys.argv[1:]
    # kaskade keeps a log of its own there; the rest of the machine is not ours to write to.
    os.environ.setdefault("XDG_STATE_HOME", str(BIN.parent / "state"))
    web.run_app(KafkaUi(int(port), brokers, registry).app(), host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main()
