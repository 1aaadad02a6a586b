"""What a comparison with the venue's own data found: how much was compared, how much is equal, and examples."""

from __future__ import annotations

from typing import NamedTuple

EXAMPLES_MAX = 3


class Score(NamedTuple):
    """`what` was compared, how many items, how many are equal, and a few examples of those that are not.

    `reason` is why nothing was compared, where that is not simply because there was nothing.
    """

    what: str
    compared: int
    equal: int
    examples: tuple[str, ...] = ()
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """The equal share; None when nothing could be compared."""
        return self.equal / self.compared if self.compared else None

    def __str__(self) -> str:
        if self.reason:
            return f"{self.what} not compared: {self.reason}"
        text = f"{self.what} {self.equal} of {self.compared} equal"
        return f"{text} ({'; '.join(self.examples)})" if self.examples else text
