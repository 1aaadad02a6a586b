"""`python -m infra.local.clean [--downloads]`: stops this clone's stacks and removes their data, logs and passwords."""

from __future__ import annotations

import sys

from infra.local import components, stack
from infra.local.folders import HOME, Folders
from marketdata.errors import TickstreamError


def main() -> int:
    """Clean the platform's stack and that of the tests."""
    try:
        for folders in (Folders(), Folders(stack=HOME / "test")):
            if folders.stack.exists():
                stack.down(folders, print)
                stack.erase(folders)
        if "--downloads" in sys.argv:
            components.remove_debian(Folders())
    except TickstreamError as error:
        print(f"clean: {error}", file=sys.stderr)  # noqa: T201 - for people
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
