"""The dashboard in a real Chromium, driven by the DevTools protocol, against the running platform."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from websockets.sync.client import ClientConnection, connect

from marketdata.events import Derivative, Liquidation
from marketdata.topics import DERIVATIVES
from runtime.kafka import producer_config
from runtime.registry import Registry

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / ".local" / "screenshots"
WAIT_S = 60.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


class Browser:
    """One page of a headless Chromium, with cookies and storage of its own; what the page logs is kept."""

    def __init__(self, tools: ClientConnection) -> None:
        self._socket = tools
        self._ids = itertools.count(1)
        self._session: str | None = None
        self.complaints: list[str] = []
        self._context = self._call("Target.createBrowserContext")["browserContextId"]
        page = self._call("Target.createTarget", url="about:blank", browserContextId=self._context, newWindow=True)
        self._session = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """Close the page and forget what it stored."""
        self._session = None
        self._call("Target.disposeBrowserContext", browserContextId=self._context)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        request = {"id": number, "method": method, "params": params}
        if self._session:
            request["sessionId"] = self._session
        self._socket.send(json.dumps(request))
        while True:
            answer = json.loads(self._socket.recv(timeout=WAIT_S))
            self._listen(answer)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _listen(self, event: dict[str, Any]) -> None:
        if event.get("sessionId") != self._session:
            return  # of a page that is closed
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"])[:500])
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str, width: int = 1600, height: int = 900) -> None:
        """Open an address in a window of this size."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, name: str) -> Path:
        """Save what the page shows."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        file = SCREENSHOTS / f"{name}.png"
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
        return file

    def wait(self, what: str, script: str, limit_s: float = WAIT_S) -> Any:
        """Return the value of an expression in the page as soon as it is true."""
        deadline = time.monotonic() + limit_s
        found: Any = None
        while time.monotonic() < deadline:
            found = self.run(script)
            if found:
                return found
            threading.Event().wait(0.1)
        self.screenshot("failed")
        raise AssertionError(f"waited {limit_s:.0f} s in vain for: {what} (last: {found!r}; {self.complaints[:3]})")


def tools_of(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Return the address of a starting Chromium's DevTools."""
    file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        threading.Event().wait(0.05)
    raise AssertionError("chromium did not start")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientConnection]:
    """The DevTools of a Chromium with an empty profile."""
    program = next((path for path in map(shutil.which, BROWSERS) if path), None)
    assert program, "the tests look at the dashboard in a real browser: run `make test`, or install chromium"
    folder = tmp_path_factory.mktemp("chromium")
    profile = folder / "profile"
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log
        )
    try:
        with connect(tools_of(process, profile), max_size=None, open_timeout=WAIT_S) as tools:
            yield tools
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture
def browser(chromium: ClientConnection) -> Iterator[Browser]:
    """A page that knows nothing of the other tests' pages."""
    page = Browser(chromium)
    yield page
    page.close()


def shown(test_id: str) -> str:
    """Return the script that reads what an element shows."""
    return f"(document.querySelector('[data-testid={test_id}]')?.innerText ?? '').trim()"


LEVELS = """[...document.querySelectorAll('[data-testid=book] .level')]
    .map(row => [...row.querySelectorAll('span')].map(cell => cell.textContent.trim())).filter(row => row[0])"""
BOOK_IS_VALID = f"{shown('book-validity')} === 'VALID' && {LEVELS}.length >= 20"


def changes(browser: Browser, what: str, script: str) -> tuple[Any, Any]:
    """Return two different values of an expression, one after the other."""
    before = browser.wait(what, script)
    known = json.dumps(json.dumps(before, separators=(",", ":"), ensure_ascii=False))
    browser.wait(f"{what} to change", f"JSON.stringify({script}) !== {known}")
    return before, browser.run(script)


@pytest.fixture
def page(platform: Any, browser: Browser) -> Browser:
    """The dashboard, open and with a valid book."""
    browser.open(f"{platform.api_url}/?symbol=BTC-USD&interval=1m")
    browser.wait("the page", "document.readyState === 'complete' && !!document.querySelector('[data-testid=book]')")
    browser.wait("a valid book of 10 levels a side", BOOK_IS_VALID, 120)
    return browser


# The pixels of the candles' canvas, as a number to compare; null while only one colour is drawn.
CANDLES = """(() => {
    const canvas = document.querySelector('[data-testid=chart] canvas');
    if (!canvas?.width) return null;
    const pixels = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return new Set(pixels).size < 3 ? null : pixels.reduce((sum, pixel) => (sum * 31 + pixel) >>> 0, 7);
})()"""


def test_candles_book_and_tape_move(page: Browser) -> None:
    """What the page shows is drawn, differs a moment later, and nothing on it was refused or failed."""
    browser = page
    before, after = changes(browser, "the book", LEVELS)
    assert before != after
    assert browser.run(f"{LEVELS}.every(([price, size]) => /^[0-9.]+$/.test(price) && Number(size) > 0)")
    changes(browser, "the tape", "document.querySelector('[data-testid=tape] li')?.textContent")
    changes(browser, "the open candle", shown("legend"))
    changes(browser, "the last price", shown("last"))
    changes(browser, "the drawn candles", CANDLES)
    browser.wait("the feeds' health", "document.querySelectorAll('[data-testid=health] tr').length >= 2")
    browser.wait("a latency", f"/[0-9] m?s/.test({shown('latency')})")
    browser.wait("the connection's round trip", f"/^live/.test({shown('connection')})")
    browser.screenshot("dashboard")
    assert browser.complaints == []


def test_the_reference_lists_every_request_and_tries_one(platform: Any, browser: Browser) -> None:
    """Swagger UI reads the API's own description, loads nothing from another host, and its requests are answered."""
    browser.open(f"{platform.api_url}/docs")
    requests = "document.querySelectorAll('.opblock').length"
    browser.wait("the requests", f"{requests} > 20")
    described = """(async () => {
        const {paths} = await (await fetch('/openapi.json')).json();
        return Object.values(paths).flatMap(Object.keys).length;
    })()"""
    assert browser.run(requests) == browser.run(described)
    hosts = "[...new Set(performance.getEntriesByType('resource').map(({name}) => new URL(name).host))]"
    assert browser.run(f"{hosts}.every(host => host === location.host)")
    path = "[data-path='/api/v1/market/symbols']"
    browser.run(f"document.querySelector(`.opblock:has({json.dumps(path)[1:-1]}) .opblock-summary-control`).click()")
    browser.wait("its button", "!!document.querySelector('.opblock.is-open .execute')")
    browser.run("document.querySelector('.opblock.is-open .execute').click()")
    browser.wait("the answer", "/BTC-USD/.test(document.querySelector('.live-responses-table')?.innerText ?? '')")
    browser.screenshot("reference")
    assert browser.complaints == []


def test_the_ladder_is_sorted_and_its_prices_are_the_digits_of_the_api(platform: Any, page: Browser) -> None:
    """Asks fall towards the spread and bids from there; every price is written as the API writes it."""
    prices = [row[0] for row in page.run(LEVELS)]
    assert [float(price) for price in prices] == sorted(map(float, prices), reverse=True)
    script = f"""(async () => {{
        const book = await (await fetch('/api/v1/market/BTC-USD/orderbook?depth=1000')).json();
        const known = new Set([...book.data.bids, ...book.data.asks].map(([price]) => price));
        return {LEVELS}.every(([price]) => known.has(price) || !Number.isFinite(Number(price)));
    }})()"""
    # The answer and the page are moments apart: a level may have gone in between, but not in every look.
    page.wait("the ladder's prices to be the API's", script)


def test_choosing_an_interval_and_a_symbol_shows_them(page: Browser) -> None:
    """Keys and clicks lead to the same view, and the address names it."""
    page.press("2")
    page.wait("the five-minute candles", "location.search.includes('interval=5m')")
    page.wait("their legend", f"/O\\s*[0-9]/.test({shown('legend')})")
    page.run("document.getElementById('picker').click()")
    page.run("[...document.querySelectorAll('#picker-options li')].find(li => /ETH-USD/.test(li.textContent)).click()")
    page.wait("the other symbol", "location.search.includes('ETH-USD') && document.title.startsWith('ETH-USD')")
    page.wait("its valid book", BOOK_IS_VALID)
    assert page.run("Number(document.querySelector('.bids .price').textContent) < 20000")


def test_the_venues_and_metrics_are_those_of_the_api(page: Browser) -> None:
    """The best bid and offer with each venue's validity, and spread and depths of the book, as the API gives them."""
    page.wait("the best prices", f"/bid\\s*[0-9.]+\\s*coinbase/.test({shown('consolidated')})")
    page.wait("the venue, which is valid", "document.querySelector('#venues .state')?.dataset.valid === 'true'")
    page.press("m")
    page.wait("the metrics", f"/spread\\s*[0-9.]+/.test({shown('metrics')})")
    script = """(async () => {
        const shown = name => [...document.querySelectorAll('#metrics-facts .fact')]
            .find(fact => fact.querySelector('dt').textContent === name)?.querySelector('dd').textContent;
        const {data} = await (await fetch('/api/v1/market/BTC-USD/metrics?limit=20')).json();
        return data.some(({spread, mid}) => spread === shown('spread') && mid === shown('mid'));
    })()"""
    page.wait("the metrics to be the API's", script)
    assert page.run("document.querySelectorAll('#metrics-depths tr').length") >= 1


def test_derivative_data_and_liquidations_are_shown(platform: Any, page: Browser) -> None:
    """Funding in percent, the basis to the index, and forced trades; a market without them says so."""
    page.press("d")
    page.wait("the empty state", f"/No derivative data/.test({shown('derivatives')})")
    now = time.time_ns()
    closed = Liquidation(ts_event=now, side="sell", price="64000.10", size="2.5")
    event = Derivative(
        venue="coinbase", symbol="BTC-USD", ts_event=now, ts_recv=now, line="coinbase/0", mark_price="64010.00",
        index_price="64000.00", funding_rate="0.00010000", funding_interval=28_800, liquidations=(closed,),
    )  # fmt: skip
    registry = Registry(platform.env["TICKSTREAM_REGISTRY_URL"])
    producer = Producer(producer_config(platform.kafka, "test"))
    topic = DERIVATIVES.physical(platform.env["TICKSTREAM_TOPIC_PREFIX"])
    producer.produce(topic, registry.codec().encode(event), event.key)
    assert producer.flush(30) == 0
    registry.close()
    page.wait("the funding rate", f"/funding\\s*0.01 %\\s*each 8 h/.test({shown('derivatives')})")
    assert page.run(f"/\\+1\\.56 bp to index/.test({shown('derivatives')})")
    assert page.run("document.querySelector('#liquidations .trade .price').textContent") == "64000.10"


class Cable:
    """A way to the API that can be cut, and mended."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._cut = False
        self._threads: list[threading.Thread] = []
        self._accepting = self._start(self._accept)

    @property
    def url(self) -> str:
        """The API's address at this end."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """End every connection and take no new one."""
        self._cut = True
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._cut = False

    def close(self) -> None:
        """End for good, with every socket closed."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for each in [self._listener, *self._open]:
            each.close()

    def _start(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)
        return thread

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._cut:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    self._start(self._pass_on, *ends)

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def cable(platform: Any) -> Iterator[Cable]:
    """A cable to the platform's API."""
    laid = Cable(httpx.URL(platform.api_url).port or 80)
    yield laid
    laid.close()


def test_a_page_that_is_cut_off_says_so_and_recovers(cable: Cable, page: Browser) -> None:
    """An old book is never shown as a good one: it greys out, says why, and heals by itself."""
    page.open(f"{cable.url}/?symbol=BTC-USD")
    page.wait("a valid book through the cable", f"location.origin === '{cable.url}' && {BOOK_IS_VALID}")
    cable.cut()
    page.wait("the ladder to be invalid", "document.getElementById('ladder').dataset.valid === 'false'")
    page.wait("the reason", "!document.querySelector('[data-testid=book-banner]').hidden")
    page.wait("the connection's state", f"/connecting/.test({shown('connection')})")
    page.screenshot("dashboard-offline")
    cable.mend()
    page.wait("a valid book again", BOOK_IS_VALID)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1024, 768), (1366, 768), (1920, 1080)])
def test_nothing_is_cut_off_at_usual_sizes(page: Browser, width: int, height: int) -> None:
    """The page never scrolls sideways, and no price or size loses a digit."""
    page.open(page.run("location.href"), width, height)
    page.wait("a valid book", BOOK_IS_VALID)
    page.wait("trades", "document.querySelectorAll('[data-testid=tape] li').length > 5")
    cut = page.run(
        """[...document.querySelectorAll('.level span, .trade span, #venues .number, .best b')]
            .filter(cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent)"""
    )
    page.screenshot(f"dashboard-{width}")
    assert cut == []
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    wide = "[...document.querySelectorAll('.scroll')].filter(body => body.scrollWidth > body.clientWidth).length"
    assert page.run(wide) == 0


def test_a_candle_is_explained(platform: Any, wait_for: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    """The trades that made a closed candle are counted, and the verdict is that of the API."""
    # Last in this file, and without a page meanwhile: it takes whole minutes since the platform started.
    wait_for("a closed candle", lambda: any(
        candle["valid"] and candle["state"] != "open"
        for candle in platform.get("/api/v1/market/BTC-USD/candles")["data"]
    ), 150)  # fmt: skip
    page: Browser = request.getfixturevalue("page")
    page.press("e")
    page.wait("the verdict", f"/equal to its trades/i.test({shown('explain')})")
    assert page.run(f"/counted\\s*[1-9][0-9]*/i.test({shown('explain')})")
    page.screenshot("dashboard-explain")
    assert page.complaints == []
