"""Starts the sink, which works until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys
import threading


def main() -> int:
    """Run the sink; return the exit status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # The imports take up to a second, in which a signal may arrive.
    from sink.process import run  # noqa: PLC0415

    return run(stop)


if __name__ == "__main__":
    sys.exit(main())
