"""`python -m infra.chaos`: faults of every process under load, then every value compared with the exchange's record."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from typing import NoReturn

import httpx
import orjson

from infra.chaos.run import Options, run
from infra.chaos.schedule import schedule
from marketdata.errors import TickstreamError
from runtime.kafka import LOG

# Beside the time of the faults and of settling: a start, the comparison and the stop, on a slow machine.
OTHER_SECONDS_MAX = 1_200.0
VIOLATED, UNUSABLE, INTERRUPTED = 1, 2, 130

EXAMPLES = """\
examples:
  python -m infra.chaos --seed 7                        two workers, 60 s of faults
  python -m infra.chaos --engine direct --seconds 300   the other engine, longer
  python -m infra.chaos --seed 7 --schedule             print what seed 7 does, and do nothing
  make chaos ENGINE=direct SEED=7 SECONDS=120           the same by make

The result is one JSON line on standard output: figures, `violations` by kind with `examples`, and `ok`. Progress goes
to standard error. The logs of all processes and of the schedule (chaos.log) stay in .local/chaos/PORT_BASE/log until
the next run. Exit status: 0 nothing is violated, 1 something is, 2 the run was not possible, 130 interrupted.

It starts a platform of its own, in a folder and on ports of its own, and removes its data at the end; what else runs on
this machine is left alone.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit status."""
    options, only_schedule = _parse(arguments)
    if only_schedule:
        for fault in schedule(options.seed, options.seconds, options.workers):
            print(f"{fault.at_s:8.2f} s  {fault.text()}")
        return 0
    # The clients' own comments on servers that are away would hide what matters.
    LOG.setLevel(logging.CRITICAL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    limit_s = options.seconds + 2 * options.settle_s + OTHER_SECONDS_MAX
    limit = threading.Timer(limit_s, os.kill, (os.getpid(), signal.SIGTERM))
    limit.daemon = True
    limit.start()
    try:
        result = run(options, report)
    except (TickstreamError, httpx.HTTPError) as error:
        report(f"chaos: {error}")
        return UNUSABLE
    except KeyboardInterrupt:
        report("interrupted; everything that was started is stopped")
        return INTERRUPTED
    finally:
        limit.cancel()
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
    sys.stdout.flush()
    return 0 if result["ok"] else VIOLATED


def report(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


def _interrupted(*_: object) -> NoReturn:
    # Once is enough: a second signal would interrupt the stopping.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parse(arguments: list[str] | None) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(
        prog="python -m infra.chaos",
        description="Start a platform, load it from the simulated exchange, kill, freeze and stop its processes at "
        "random, and compare all that it published and stored with the exchange's own record.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", choices=("faust", "direct"), default="faust", help="stream engine (default: faust)")
    parser.add_argument("--seed", type=int, help="seed of the schedule (default: the time; the result names it)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults happen (default: 60)")
    parser.add_argument("--workers", type=int, default=2, help="stream workers (default: 2)")
    parser.add_argument("--rate", type=float, default=200.0, help="orders a second at the exchange (default: 200)")
    parser.add_argument("--settle-s", type=float, default=180.0, help="seconds to be whole again (default: 180)")
    parser.add_argument("--port-base", type=int, default=28_800, help="first of the ports to use (default: 28800)")
    parser.add_argument("--keep", action="store_true", help="after a violation keep the data in .local/chaos/PORT_BASE")
    parser.add_argument("--schedule", action="store_true", help="print the schedule of the seed and do nothing")
    given = parser.parse_args(arguments)
    if not 5 <= given.seconds <= 86_400:
        parser.error("--seconds is between 5 and 86400")
    if not 1 <= given.workers <= 16:
        parser.error("--workers is between 1 and 16")
    if not 1 <= given.rate <= 20_000:
        parser.error("--rate is between 1 and 20000")
    seed = time.time_ns() // 1_000_000_000 if given.seed is None else given.seed
    options = Options(
        engine=given.engine,
        seed=seed,
        seconds=given.seconds,
        workers=given.workers,
        rate=given.rate,
        port_base=given.port_base,
        settle_s=given.settle_s,
        keep=given.keep,
    )
    return options, given.schedule


if __name__ == "__main__":
    sys.exit(main())
