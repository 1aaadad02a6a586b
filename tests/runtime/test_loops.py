"""An asyncio loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from runtime.loops import LoopThread


async def _name() -> str:
    return threading.current_thread().name


async def _fail() -> None:
    raise ValueError("no")


def test_coroutines_run_in_the_thread_and_their_results_and_errors_come_back() -> None:
    """By waiting for each, or later."""
    loop = LoopThread("own")
    assert loop.run(_name()) == "own"
    assert loop.submit(_name()).result(5) == "own"
    with pytest.raises(ValueError, match="no"):
        loop.run(_fail())
    loop.close()


def test_closing_cancels_what_still_runs() -> None:
    """Nobody waits for ever, and the thread has ended."""
    loop = LoopThread("closed")
    waiting = loop.submit(asyncio.sleep(3_600))
    loop.close()
    with pytest.raises(CancelledError):
        waiting.result(5)
    assert "closed" not in {thread.name for thread in threading.enumerate()}
