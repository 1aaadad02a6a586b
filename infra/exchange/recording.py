"""What a recording holds: its connections, which of them fits a client, and its REST answers; pure.

A recording may hold several connections (`conn` of its `recv` lines). A client is given the one that fits best:

1. Only connections that nobody is being played now, or all of them when each is.
2. Among these the one that shares most words with what the client asked for (its address and its first message). The
   words of a connection are those of the subscriptions recorded under its name and of the beginning of its own frames.
3. Among equals the first in the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from marketdata.errors import CodecError
from runtime.recordings import Recorded

# How far into a connection its words are looked for, and how much of each frame.
WORDS_FRAMES_MAX = 200
WORDS_BYTES_MAX = 2_000

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-/]{2,}")


@dataclass
class RecordedConnection:
    """One connection of a recording: its name, how many frames it received, and the words that it is known by."""

    name: str | None
    frames: int = 0
    subscribed: bool = False
    words: set[str] = field(default_factory=set)


class Answers:
    """Recorded REST bodies by path and query; those of one address are given in order, the last one again and again."""

    def __init__(self) -> None:
        self._bodies: dict[str, list[str]] = {}
        self._given: dict[str, int] = {}
        self._nameless: list[str] = []

    def add(self, address: str | None, body: str) -> None:
        """Take the next body of an address."""
        if address and "://" in address:
            self._bodies.setdefault(_key(address), []).append(body)
        else:
            self._nameless.append(body)

    def __len__(self) -> int:
        """Return the number of bodies."""
        return sum(map(len, self._bodies.values())) + len(self._nameless)

    def paths(self) -> list[str]:
        """Return what can be asked for."""
        return sorted(self._bodies)

    def answer(self, address: str) -> str | None:
        """Return the next body of a path with its query, None when none is recorded.

        Some recordings name the venue in place of an address; if all of a recording's do, any path gets their bodies.
        """
        key = _key(address)
        bodies = self._bodies.get(key)
        if bodies is None and not self._bodies:
            key, bodies = "", self._nameless
        if not bodies:
            return None
        place = self._given.get(key, 0)
        self._given[key] = place + 1
        return bodies[min(place, len(bodies) - 1)]


def _key(address: str) -> str:
    parts = urlsplit(address)
    query = "&".join(f"{name}={value}" for name, value in sorted(parse_qsl(parts.query)))
    return f"{parts.path}?{query}" if query else parts.path


@dataclass
class Contents:
    """A recording's connections in the order of their first frame, and its REST answers."""

    connections: list[RecordedConnection]
    answers: Answers

    def fitting(self, asked: str, busy: Collection[str | None]) -> RecordedConnection:
        """Return the connection that fits what a client asked for; `busy` are those being played now."""
        wanted = _words(asked)
        free = [one for one in self.connections if one.name not in busy] or self.connections
        return max(free, key=lambda one: len(wanted & one.words))


def survey(lines: Iterable[Recorded]) -> Contents:
    """Return what a recording holds, by reading all of it once.

    Raises CodecError when it holds no frame that was received.
    """
    connections: dict[str | None, RecordedConnection] = {}
    sent: dict[str | None, list[str]] = {}
    answers = Answers()
    for line in lines:
        if line.t == "recv":
            connection = connections.setdefault(line.conn, RecordedConnection(line.conn))
            connection.frames += 1
            if connection.frames <= WORDS_FRAMES_MAX:
                connection.words |= _words(line.data[:WORDS_BYTES_MAX])
        elif line.t == "http":
            answers.add(line.conn, line.data)
        else:
            sent.setdefault(line.conn, []).append(line.data)
    if not connections:
        raise CodecError("the recording holds no received frame: there is nothing to play")
    for connection in connections.values():
        # Where subscriptions are recorded by address, one connection's cannot be told from another's.
        connection.subscribed = bool(sent)
        for data in sent.get(connection.name, ()):
            connection.words |= _words(data)
    return Contents(list(connections.values()), answers)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
