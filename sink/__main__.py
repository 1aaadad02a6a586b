"""Starts the sink, which runs until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys
import threading


def main() -> int:
    """Run the sink; return the exit status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Imported here, because the imports take up to a second, during which a signal may arrive.
    from sink.process import run  # noqa: PLC0415

    return run(stop)


if __name__ == "__main__":
    sys.exit(main())
