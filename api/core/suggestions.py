"""What somebody may have meant by a symbol that nobody trades."""

from __future__ import annotations

from collections.abc import Iterable

from rapidfuzz import process
from rapidfuzz.distance import Indel

_LENGTH_MAX = 50
_SIMILARITY_MIN = 0.6


def suggestions(symbol: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known symbols that are most like a symbol, the best first.

    Of 20,000 symbols this takes some 4 ms, where `difflib.get_close_matches` took 75 ms of every client's time.
    """
    wanted = symbol[:_LENGTH_MAX].upper()
    found = process.extract(
        wanted, known, scorer=Indel.normalized_similarity, limit=count, score_cutoff=_SIMILARITY_MIN
    )
    return [name for name, _, _ in found]
