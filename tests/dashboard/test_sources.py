"""The dashboard's and the TypeScript client's sources: strict types, unit tests, and what the built page may load."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "api" / "dashboard"
STATIC = ROOT / "api" / "static"


@pytest.mark.parametrize("script", ["check", "test"])
def test_the_sources_pass_their_own_checks(script: str) -> None:
    """Strict TypeScript, and the tests of book, sequence, candles and tape."""
    done = subprocess.run(
        ["npm", "run", "--silent", script], cwd=DASHBOARD, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_built_page_loads_only_its_own_files() -> None:
    """No CDN, no inline script or style: the page works offline and under `default-src 'self'`."""
    page = (STATIC / "index.html").read_text()
    loaded = re.findall(r'<(?:script|link|img)\b[^>]*?(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 3
    assert all(address.startswith("/static/assets/") for address in loaded)
    assert all((STATIC / address.removeprefix("/static/")).is_file() for address in loaded)
    assert "<style" not in page
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son[a-z]+=", page)
    styles = "".join(file.read_text() for file in STATIC.glob("assets/*.css"))
    addresses = [address.strip("'\"") for address in re.findall(r"url\(([^)]+)\)", styles)]
    # An image within the file itself is loaded from nowhere.
    assert all(address.startswith(("/static/assets/", "data:image/")) for address in addresses)


@pytest.mark.parametrize("folder", ["api/dashboard", "clients/typescript"])
def test_lock_files_pin_every_package_and_name_no_registry(folder: str) -> None:
    """Whoever builds uses his own registry, and gets the same bytes."""
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    locked = {name: package for name, package in packages.items() if name}
    assert locked
    assert all("integrity" in package and "resolved" not in package for package in locked.values())
