"""Waiting for what a test wants to see, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
import psycopg

# Long, for a machine that has much else to do; a test ends as soon as it has seen what it waits for.
WAIT_S = 120.0
# Between two looks, short at first.
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.01, 0.1

Found = TypeVar("Found")


def wait_for(what: str, look: Callable[[], Found | None], limit_s: float = WAIT_S) -> Found:
    """Return what `look` finds, asking until it finds something; fails with `what` after the limit.

    What does not answer yet, or not yet as it should, is asked again.
    """
    deadline = time.monotonic() + limit_s
    pause_s = _PAUSE_S_MIN
    last: BaseException | None = None
    while time.monotonic() < deadline:
        try:
            found, last = look(), None
        except (httpx.HTTPError, psycopg.Error, AssertionError, KeyError) as error:
            found, last = None, error
        if found:
            return found
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)
    raise AssertionError(f"waited {limit_s:.0f} s in vain for: {what} (last: {last!r})")
