"""The TypeScript client, built and run by Node against the real API."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.clients import market_data

ROOT = Path(__file__).parents[2]
SYMBOL = "TYPED-USD"
SCRIPT = """
import { MarketDataClient } from "./client/index.js";
const [url, symbol, start] = process.argv.slice(2);
const client = new MarketDataClient({ url });
const market = { venue: "coinbase", symbol };
const first = (subscribe) => new Promise((resolve, reject) => {
  const stop = subscribe({
    message: (message) => { stop(); resolve(message); },
    refused: (code, text) => reject(new Error(`${code}: ${text}`)),
  });
});
const found = {
  bars: await client.candles(market, { recipe: "five_seconds" }),
  revisions: await client.candleRevisions(market, { interval: "5s" }),
  explanation: await client.explainCandle(market, { interval: "1m", start }),
  metrics: await client.metrics(market, { limit: 1 }),
  derivatives: await client.derivatives(market),
  consolidated: await client.consolidated(symbol, { kind: "spot" }),
  live: {
    bar: await first((handlers) => client.subscribe("candles", market, handlers, { recipe: "five_seconds" })),
    metrics: await first((handlers) => client.subscribe("metrics", market, handlers)),
    derivative: await first((handlers) => client.subscribe("derivatives", market, handlers)),
    consolidated: await first((handlers) => client.subscribeConsolidated(symbol, handlers)),
  },
};
client.close();
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built client and a script that uses it."""
    made = tmp_path_factory.mktemp("typescript")
    compiler = ROOT / "api" / "dashboard" / "node_modules" / ".bin" / "tsc"
    project = ROOT / "clients" / "typescript" / "tsconfig.build.json"
    built = subprocess.run(
        [str(compiler), "--project", str(project), "--outDir", str(made / "client")],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout
    (made / "package.json").write_text('{"type": "module"}')
    (made / "read.js").write_text(SCRIPT)
    package = made / "node_modules" / "@tickstream" / "client"
    package.mkdir(parents=True)
    shutil.copytree(made / "client", package / "dist")
    shutil.copy(ROOT / "clients" / "typescript" / "package.json", package)
    return made


@pytest.fixture(scope="module")
def market(platform: Any) -> str:
    """A symbol with everything that the client can read."""
    market_data.publish(platform, SYMBOL)
    return SYMBOL


def node(folder: Path, *args: str) -> str:
    """Return what a script prints."""
    done = subprocess.run(
        ["node", "--experimental-websocket", *args], cwd=folder, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_the_readme_runs(platform: Any, folder: Path, market: str) -> None:
    """As it is written, with the built package: it prints an explanation, prices, metrics and a book, and ends."""
    readme = ROOT / "clients" / "typescript" / "README.md"
    (code,) = market_data.examples(readme, "ts", platform.url, market)
    (folder / "example.js").write_text(code)
    printed = node(folder, "example.js")
    assert "equal 2" in printed
    assert "[ '99.50', '1' ] [ '101.00', '2' ]" in printed


def test_the_typescript_client_reads_and_follows_what_the_api_has(platform: Any, folder: Path, market: str) -> None:
    """Bars by recipe, an explanation, metrics, derivative data and consolidated prices: over REST and live alike."""
    start = datetime.fromtimestamp(market_data.START / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = json.loads(node(folder, "read.js", platform.url, market, start))
    live = found["live"]
    assert found["bars"]["data"] == found["revisions"]["data"]
    assert [{name: one[name] for name in live["bar"]["data"]} for one in found["bars"]["data"]] == [live["bar"]["data"]]
    assert found["bars"]["data"][0]["recipe"] == "five_seconds"
    explanation = found["explanation"]
    assert (explanation["verdict"], explanation["counted"]["count"]) == ("equal", 2)
    assert explanation["left_out"]["by_reason"] == {"excluded": 1}
    assert live["metrics"]["data"].items() <= found["metrics"]["data"][0].items()
    latest = found["derivatives"]["latest"]
    assert latest == {name: live["derivative"]["data"][name] for name in latest}
    assert [each["price"] for each in live["derivative"]["data"]["liquidations"]] == ["98.00"]
    assert live["consolidated"]["data"]["bid"] == found["consolidated"]["data"]["bid"]
    assert found["consolidated"]["data"]["bid"] == {"price": "100.00", "size": "1", "venues": ["kraken"]}
