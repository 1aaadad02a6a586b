"""Sends random frames, requests and bytes to an API of its own, and reports what it did not survive well.

    python -m bench.fuzz_api [--seconds 600] [--seed 7] [--clients 8]

The API is started with the environment's settings on a free port. After each round it must be alive, answer /healthz
and a WebSocket's ping quickly, have written no error to its log, and its memory must not have grown by more than
`GROWTH_BYTES_MAX` since the first minute. Prints one JSON line; the exit status is 1 when something was found. The same
seed sends the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import psutil

GROWTH_BYTES_MAX = 96 * 1024 * 1024
ANSWER_S_MAX = 5.0
ROUND = 50  # connections of each thread between two checks
SETTLED_S = 60.0
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
REQUESTS = [
    UPGRADE,
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/v1/market/BTC-USD/candles?interval=1m&limit=5 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"GET /api/v1/market/symbols HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip, zstd\r\n\r\n",
    b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /static/../settings.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /docs HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nabcde",
    b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\na: b\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
MESSAGES = [
    {"op": "ping", "id": 1},
    {"op": "ping", "id": 10**30},
    {"op": "ping", "id": "\ud83d\ude00"},
    {"op": "subscribe", "id": 2, "channels": ["book", "ticker"], "symbols": ["BTC-USD"], "depth": 50},
    {"op": "subscribe", "id": 3, "channels": ["trades"], "symbols": ["BTC-USD"] * 200, "venue": "coinbase"},
    {"op": "subscribe", "channels": ["candles"], "symbols": ["BTC-USD"], "interval": "7m", "recipe": "x"},
    {"op": "subscribe", "channels": ["book"], "symbols": ["BTC-USD"], "since": "2026-01-01T00:00:00Z"},
    {"op": "subscribe", "channels": ["consolidated"], "symbols": ["BTC-USD"], "kind": "spot"},
    {"op": "unsubscribe", "channels": ["book"], "symbols": ["BTC-USD"], "depth": -(2**70)},
]
OPCODES = (0, 1, 2, 8, 9, 10)


class Fuzzer:
    """One thread's random client."""

    def __init__(self, port: int, seed: str) -> None:
        self._port = port
        self._random = random.Random(seed)
        self.connections = 0
        self.sent_bytes = 0

    def run(self, count: int) -> None:
        """Open so many connections, one after the other, and send something wrong over each."""
        for _ in range(count):
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=2) as one:
                    one.settimeout(0.05)
                    self._attack(one)
            except OSError:
                pass  # the API ends many of these, which is right
            self.connections += 1

    def _attack(self, one: socket.socket) -> None:
        chance = self._random.random()
        if chance < 0.5:
            self._send(one, UPGRADE)
            self._read(one)
            for _ in range(self._random.randint(1, 30)):
                self._send(one, self._frames())
        elif chance < 0.95:
            for _ in range(self._random.randint(1, 5)):
                self._send(one, self._mutated(self._random.choice(REQUESTS) * self._random.choice((1, 1, 1, 2, 40))))
                self._read(one)
        else:
            self._send(one, self._random.randbytes(self._random.randint(1, 5_000)))
        self._read(one)

    def _frames(self) -> bytes:
        made = b"".join(self._frame() for _ in range(self._random.choice((1, 1, 2, 5, 200))))
        return self._mutated(made) if self._random.random() < 0.2 else made

    def _frame(self) -> bytes:
        payload = self._payload()
        first = self._random.choice((0x80, 0x80, 0x80, 0, 0xC0, 0x40, self._random.randrange(256) & 0xF0))
        opcode = self._random.choice((1, 1, 1, *OPCODES, self._random.randrange(16)))
        if opcode > 7 and self._random.random() < 0.9:
            payload = payload[:125]
        if first & 0x40 and self._random.random() < 0.8:
            compressor = zlib.compressobj(wbits=-15)
            payload = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
            payload = payload.removesuffix(b"\x00\x00\xff\xff")
        mask = self._random.randbytes(4)
        length = len(payload) if self._random.random() < 0.98 else self._random.getrandbits(self._random.randrange(64))
        head = bytes((first | opcode,))
        if length < 126:
            head += bytes((0x80 | length,))
        elif length < 1 << 16:
            head += struct.pack("!BH", 0xFE, length)
        else:
            head += struct.pack("!BQ", 0xFF, length)
        stretched = (mask * (len(payload) // 4 + 1))[: len(payload)]
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
        return head + mask + masked.to_bytes(len(payload), "big")

    def _payload(self) -> bytes:
        chance = self._random.random()
        if chance < 0.6:
            text = json.dumps(self._random.choice(MESSAGES)).encode()
            return text if self._random.random() < 0.5 else self._mutated(text)
        if chance < 0.7:
            return self._random.choice((b"[", b'{"a":', b'"', b"0", b" ")) * self._random.randint(1, 60_000)
        if chance < 0.8:
            return (self._random.randint(0, 6_000)).to_bytes(2, "big") + b"reason"
        return self._random.randbytes(self._random.choice((0, 1, 2, 50, 125, 126, 5_000, 70_000)))

    def _mutated(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._random.randint(0, 4)):
            at = self._random.randrange(len(changed) + 1)
            chance = self._random.random()
            if chance < 0.3:
                changed[at:at] = self._random.randbytes(self._random.choice((1, 1, 3, 3_000)))
            elif chance < 0.5:
                del changed[at : at + self._random.choice((1, 1, 8, 500))]
            elif chance < 0.8 and at < len(changed):
                changed[at] = self._random.choice((0, 9, 10, 13, 32, 58, 127, 255, self._random.randrange(256)))
            else:
                changed[at:at] = changed[: self._random.choice((1, 20, 4_000))]
        return bytes(changed)

    def _send(self, one: socket.socket, data: bytes) -> None:
        step = len(data) if self._random.random() < 0.8 else self._random.randint(1, 50)
        for at in range(0, min(len(data), 40 * step), max(step, 1)):
            one.sendall(data[at : at + step])
        self.sent_bytes += len(data)

    def _read(self, one: socket.socket) -> None:
        if self._random.random() < 0.5:
            try:
                one.recv(65_536)
            except TimeoutError:
                return


class Target:
    """The API that is attacked."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._log = folder / "api.log"
        limits = {"TICKSTREAM_API_HEAD_S": "2", "TICKSTREAM_API_BODY_S": "2", "TICKSTREAM_API_IDLE_S": "2"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "api"],
                env=os.environ | limits | {"TICKSTREAM_API_PORT": str(self.port)},
                stdout=log,
                stderr=log,
                cwd=Path(__file__).resolve().parents[1],
            )
        deadline = time.monotonic() + 60
        while self._problem() and time.monotonic() < deadline:
            time.sleep(0.2)

    @property
    def memory_bytes(self) -> int:
        """The memory that the process uses."""
        size: int = psutil.Process(self._process.pid).memory_info().rss
        return size

    def problems(self) -> list[str]:
        """Return what is wrong with it."""
        if self._process.poll() is not None:
            return [f"the process ended with {self._process.returncode}", self._log.read_text()[-2_000:]]
        lines = self._log.read_text(errors="replace").splitlines()
        bad = [
            line for line in lines if '"level":"error"' in line or '"level":"critical"' in line or "Traceback" in line
        ]
        problem = self._problem()
        return [*([problem] if problem else []), *(line[-1_500:] for line in bad[:3])]

    def _problem(self) -> str | None:
        began = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=ANSWER_S_MAX) as answer:
                answer.read()
            with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_S_MAX) as one:
                one.sendall(UPGRADE + b"")
                received = one.recv(4_096)
                one.sendall(b"\x81\x8d\0\0\0\0" + b'{"op":"ping"}')
                while b"pong" not in received:
                    more = one.recv(4_096)
                    if not more:
                        return "a proper client was disconnected"
                    received += more
        except OSError as error:
            return f"no answer after {time.monotonic() - began:.1f} s: {error}"
        return None

    def end(self) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def fuzz(seconds: float, seed: int, clients: int, folder: Path) -> dict[str, Any]:
    """Attack an API for so long, and return what was found."""
    target = Target(folder)
    fuzzers = [Fuzzer(target.port, f"{seed}/{number}") for number in range(clients)]
    began = time.monotonic()
    first_bytes, found = 0, target.problems()
    while not found and time.monotonic() - began < seconds:
        threads = [threading.Thread(target=each.run, args=(ROUND,)) for each in fuzzers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = target.problems()
        if not found and not first_bytes and time.monotonic() - began > min(SETTLED_S, seconds / 3):
            first_bytes = target.memory_bytes
        if not found and first_bytes and target.memory_bytes - first_bytes > GROWTH_BYTES_MAX:
            found = [f"the memory grew from {first_bytes} to {target.memory_bytes} bytes"]
    last_bytes = 0 if found and "ended" in found[0] else target.memory_bytes
    target.end()
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "connections": sum(each.connections for each in fuzzers),
        "sent_mb": round(sum(each.sent_bytes for each in fuzzers) / 1e6),
        "memory_mib": [round(size / 2**20) for size in (first_bytes, last_bytes)],
        "found": found,
    }


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = fuzz(given.seconds, given.seed, given.clients, Path(folder))
    print(json.dumps(result))
    return bool(result["found"])


if __name__ == "__main__":
    sys.exit(main())
