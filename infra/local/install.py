"""`python -m infra.local.install`: fetches the components of the embedded stack, printing how far it is."""

from __future__ import annotations

import sys

from infra.local.components import install
from infra.local.folders import Folders
from infra.local.settings import StackSettings
from infra.local.table import needs_components
from infra.local.training import train
from marketdata.errors import TickstreamError
from runtime.settings import load


def _report(line: str) -> None:
    print(f"setup: {line}", flush=True)  # noqa: T201 - progress for people


def main() -> int:
    """Install what is missing; 0 when all is there."""
    try:
        if needs_components(load(StackSettings)):
            install(Folders(), _report)
            train(Folders(), _report)
    except TickstreamError as error:
        print(f"setup: {error}", file=sys.stderr)  # noqa: T201 - for people
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
