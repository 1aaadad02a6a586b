"""The contents of recordings: connections, which of them fits a client, and REST responses; pure.

A recording may contain several connections (`conn` of its `recv` lines), and several files may be played as one. A
client gets the connection that fits best:

1. Only connections that are not being played to a client, or all of them if each is.
2. Among these, the one that shares most words with the client's request (its URL and its first message). The words of a
   connection are those of the subscriptions recorded under its name and of its first frames.
3. Among equals, the first in the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from marketdata.errors import CodecError
from runtime.recordings import DAMAGED, Recorded, answers

# The maximum number of damaged lines that are reported.
NAMED_MAX = 20

# How many frames of a connection, and how much of each, are searched for words.
WORDS_FRAMES_MAX = 200
WORDS_BYTES_MAX = 2_000

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-/]{2,}")


@dataclass(eq=False)
class RecordedConnection:
    """One connection of a recording: its name, its number of received frames, and its identifying words."""

    name: str | None
    file: int = 0
    frames: int = 0
    words: set[str] = field(default_factory=set)

    def add(self, frame: str) -> None:
        """Count a frame, and collect the words of the first ones."""
        self.frames += 1
        if self.frames <= WORDS_FRAMES_MAX:
            self.words |= _words(frame[:WORDS_BYTES_MAX])


class Answers:
    """Recorded REST bodies by path and query; those of one URL are returned in order, the last one repeatedly."""

    def __init__(self) -> None:
        self._bodies: dict[str, list[str]] = {}
        self._given: dict[str, int] = {}

    def add(self, address: str | None, body: str) -> None:
        """Add a body of a URL; some recorders store the venue's name instead."""
        self._bodies.setdefault(_key(address or ""), []).append(body)

    def __len__(self) -> int:
        """Return the number of bodies."""
        return sum(map(len, self._bodies.values()))

    def paths(self) -> list[str]:
        """Return the available paths."""
        return sorted(self._bodies)

    def given(self, address: str | None) -> int:
        """Return how often a recorded URL was requested since `rewind`."""
        return self._given.get(_key(address or ""), 0)

    def rewind(self) -> None:
        """Start again with the first body of each URL."""
        self._given.clear()

    def answer(self, address: str) -> str | None:
        """Return the next body for a path with its query, None when none is recorded.

        A URL that was not recorded gets the bodies of one with the same path and symbol.
        """
        key: str | None = _key(address)
        if key not in self._bodies:
            key = next((known for known in self._bodies if answers(address, known)), None)
        if key is None:
            return None
        bodies = self._bodies[key]
        place = self._given.get(key, 0)
        self._given[key] = place + 1
        return bodies[min(place, len(bodies) - 1)]


def _key(address: str) -> str:
    parts = urlsplit(address)
    query = "&".join(f"{name}={value}" for name, value in sorted(parse_qsl(parts.query)))
    return f"{parts.path}?{query}" if query else parts.path


@dataclass
class Contents:
    """The connections in the order of their first frame, file by file, the REST answers, and the first frame's time.

    `damaged` describes the first unreadable lines.
    """

    connections: list[RecordedConnection]
    answers: Answers
    began: int
    damaged: list[str] = field(default_factory=list)

    def fitting(self, asked: str, busy: Collection[RecordedConnection]) -> RecordedConnection:
        """Return the connection that fits a client's request; `busy` are those being played."""
        wanted = _words(asked)
        free = [one for one in self.connections if one not in busy] or self.connections
        return max(free, key=lambda one: len(wanted & one.words))


def survey(*files: Iterable[Recorded]) -> Contents:
    """Read all recordings once, and return their contents.

    Raises CodecError if there is no received frame.
    """
    connections: list[RecordedConnection] = []
    answers = Answers()
    began: list[int] = []
    damaged: list[str] = []
    for number, lines in enumerate(files):
        found: dict[str | None, RecordedConnection] = {}
        sent: dict[str | None, list[str]] = {}
        for line in lines:
            if line.t == "recv":
                connection = found.get(line.conn)
                if connection is None:
                    connection = found[line.conn] = RecordedConnection(line.conn, number)
                    began.append(line.ts_recv)
                connection.add(line.data)
            elif line.t == "http":
                answers.add(line.conn, line.data)
            elif line.t == DAMAGED:
                damaged += [line.data] if len(damaged) < NAMED_MAX else []
            elif line.t == "send":
                sent.setdefault(line.conn, []).append(line.data)
        for name, connection in found.items():
            connection.words |= _words(" ".join(sent.get(name, ())))
        connections += found.values()
    if not connections:
        raise CodecError("the recording contains no received frame: there is nothing to play")
    return Contents(connections, answers, min(began), damaged)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
