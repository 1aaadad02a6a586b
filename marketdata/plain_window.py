"""A rolling median in plain Python: the last values in a ring, and the same values sorted."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any


class Window:
    """The last `size` values. Sorted values are found by bisection and moved by one memory copy."""

    __slots__ = ("_oldest", "_ordered", "_size", "_values")

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: list[float] = []
        self._ordered: list[float] = []
        self._oldest = 0

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def push(self, value: float) -> None:
        """Add a value (not NaN), and remove the oldest one when there are more than `size`."""
        values, ordered = self._values, self._ordered
        if len(values) < self._size:
            values.append(value)
        else:
            at = self._oldest
            del ordered[bisect_left(ordered, values[at])]
            values[at] = value
            self._oldest = at + 1 if at + 1 < self._size else 0
        insort(ordered, value)

    def median(self) -> float:
        """Return the median; only for a window that is not empty."""
        ordered = self._ordered
        middle = len(ordered) // 2
        if len(ordered) % 2:
            return ordered[middle]
        return (ordered[middle - 1] + ordered[middle]) / 2

    def pack(self) -> list[Any]:
        """Return the size, and the values, oldest first."""
        return [self._size, self._values[self._oldest :] + self._values[: self._oldest]]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Window:
        """Return the window that `pack` encoded. Raises ValueError for anything else."""
        size, values = packed
        if len(values) > size:
            raise ValueError(f"{len(values)} values in a window of {size}")
        window = cls(size)
        window._values, window._ordered = list(values), sorted(values)
        return window
