"""The garbage collector's settings for a service that makes thousands of short-lived values a second."""

from __future__ import annotations

import gc

# Values that survive before the youngest are searched for cycles. Python's own 700 is a search every few messages,
# and took a tenth of the producer's time; reference counts free nearly all of ours.
YOUNG_MAX = 500_000


def freeze() -> None:
    """Leave what exists now out of every later search, and search more rarely; call it once, when all is set up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 20, 20)
