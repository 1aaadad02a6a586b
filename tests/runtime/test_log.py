"""The contents of every log line of a service."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, threading, structlog
from runtime import log
log.configure("shop")
def work():
    structlog.get_logger().info("ours", number=1)
    logging.getLogger("library").warning("theirs")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_each_line_names_its_service_whichever_thread_and_library_wrote_it() -> None:
    """Other threads have no access to the main thread's context, and libraries do not use structlog."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["service"], line["event"], line["level"]) for line in lines] == [
        ("shop", "ours", "info"),
        ("shop", "theirs", "warning"),
    ]
    assert done.stdout == ""
