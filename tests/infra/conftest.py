"""What the tests of the embedded stack share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

Value = TypeVar("Value")


@pytest.fixture
def eventually() -> Callable[..., object]:
    """Wait until a condition gives something true, and return that; fail after a limit."""

    def wait(condition: Callable[[], Value], seconds_max: float = 30) -> Value:
        deadline = time.monotonic() + seconds_max
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {seconds_max} s: {condition}"
            threading.Event().wait(0.02)
        return value

    return wait
