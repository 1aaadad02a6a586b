"""What a comparison found: violations by kind, and the figures of the run."""

from __future__ import annotations

from collections import Counter
from typing import Any

EXAMPLES_MAX = 8


class Findings:
    """Violations, counted by kind with some examples of each, and figures by subject."""

    def __init__(self) -> None:
        self.violations: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.figures: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, detail: str) -> None:
        """Note a violation."""
        self.violations[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES_MAX:
            examples.append(detail)

    def set(self, subject: str, **figures: Any) -> None:
        """Note figures of a subject, such as trades or books."""
        self.figures.setdefault(subject, {}).update(figures)
