"""What both players of the feeds' benchmark are given, and what they give back; needs nothing but Python itself.

A player is a function that plays frames from a new start and states, after each frame, which books it published.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

LEVELS = 10  # how far two books are compared: as far as the shortest checksum, Kraken's, can tell
PASSES = 2
MEASURED_S = 1.0  # a short recording is over before the processor is at its pace


@dataclass
class Task:
    """The frames as (connection, UTC nanoseconds, text), the REST bodies as (address or symbol, text), and the names.

    `symbols` maps our symbols to the venue's names, `markets` a connection to its market, where a venue has several.
    `withheld` are places of frames, each left out once; `checked` switches optional checks on.
    """

    venue: str
    frames: list[tuple[str, int, str]]
    bodies: list[tuple[str, str]]
    symbols: dict[str, str] = field(default_factory=dict)
    markets: dict[str, str] = field(default_factory=dict)
    withheld: list[int] | None = None
    checked: bool = True


@dataclass
class Played:
    """What came of one pass. `books` are published books, of which `one_sided` have an empty side.

    `sides` is each trade's side by its id, `given_up` how often a frame ended in an exception.
    """

    events: int = 0
    books: int = 0
    one_sided: int = 0
    given_up: int = 0
    sides: dict[str, str] = field(default_factory=dict)


# Told each book that is published: the frame's place, the symbol, the best levels of both sides.
Watch = Callable[[int, str, Any], None]
# Plays a task's frames from a new start but the one that is withheld, if any.
Play = Callable[[Task, int | None, Watch | None], Played]


def measure(task: Task, play: Play) -> dict[str, Any]:
    """Return the seconds of processor time of the quickest pass, and what it published."""
    seconds: list[float] = []
    played = Played()
    while len(seconds) < PASSES or sum(seconds) < MEASURED_S:
        gc.collect()
        start = time.process_time()
        played = play(task, None, None)
        seconds.append(time.process_time() - start)
    best = min(seconds)
    return asdict(played) | {"seconds": best}


def changing(task: Task, play: Play) -> list[int]:
    """Return the places of the frames that change a book's best levels, after it was first published."""
    places: list[int] = []
    last: dict[str, Any] = {}

    def watch(place: int, symbol: str, levels: Any) -> None:
        if symbol in last and last[symbol] != levels and places[-1:] != [place]:
            places.append(place)
        last[symbol] = levels

    play(task, None, watch)
    return places


def withhold(task: Task, play: Play) -> list[int]:
    """Return, for each frame left out, how many books were published as good that were not the venue's by then."""
    truth: dict[str, list[tuple[int, Any]]] = {}
    play(task, None, lambda place, symbol, levels: truth.setdefault(symbol, []).append((place, levels)))
    wrong = []
    for withheld in task.withheld or ():
        count = 0

        def watch(place: int, symbol: str, levels: Any) -> None:
            nonlocal count
            count += not _is_right(truth.get(symbol, []), place, levels)

        play(task, withheld, watch)
        wrong.append(count)
    return wrong


def _is_right(books: list[tuple[int, Any]], place: int, levels: Any) -> bool:
    """Tell whether the undisturbed run published this book by this frame: the last before it, or one of its own."""
    at = bisect_right(books, place, key=itemgetter(0))
    while at:
        at -= 1
        if books[at][1] == levels:
            return True
        if books[at][0] < place:
            break
    return False


def serve(play: Play, arguments: Sequence[str]) -> None:
    """Do what the command line asks for (measure | changing | withhold, and the task's file), and print it as JSON."""
    what, path = arguments
    values = json.loads(Path(path).read_text())
    values["frames"] = [tuple(frame) for frame in values["frames"]]
    task = Task(**values)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    works: dict[str, Callable[[Task, Play], Any]] = {"measure": measure, "changing": changing, "withhold": withhold}
    json.dump(works[what](task, play), sys.stdout)
