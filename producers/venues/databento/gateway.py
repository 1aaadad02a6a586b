"""What goes over a line to Databento's live gateway: frames from bytes, our messages, where to go on after a loss.

Theory of operation. DOCS is Databento's "API reference - Live (Raw)"; the texts that it does not spell out are those of
its own Python client.

1. The gateway greets (`lsg_version=..`) and challenges (`cram=..`), each a line of text. We answer with the SHA-256 of
   `challenge|key` in hexadecimal, a dash, and the last five characters of the key, by which the gateway finds the key.
   It says `success=1|session_id=..`, or `success=0|error=..`.
2. We subscribe, a line for each schema and 500 symbols, and send `start_session`. From then on it sends DBN: metadata,
   then records. We send nothing more.
3. DOCS, "Recovering after a disconnection": keep the last `ts_event` of each schema and instrument, and how many
   records had it; subscribe again with `start`, the lowest of these times; drop what was seen before. Records come
   late by less than `LATE_NS`, so that an instrument which has been quiet for hours does not request hours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator

import msgspec

from marketdata import dbn
from marketdata.clock import SECOND_NS
from producers.venues.kit.venue import FrameError

# Those with a gateway (DOCS, "Venues and datasets").
DATASETS = (
    "GLBX.MDP3", "XNAS.ITCH", "XNAS.BASIC", "XBOS.ITCH", "XPSX.ITCH", "XNYS.PILLAR", "XASE.PILLAR", "XCHI.PILLAR",
    "XCIS.PILLAR", "ARCX.PILLAR", "BATS.PITCH", "BATY.PITCH", "EDGA.PITCH", "EDGX.PITCH", "IEXG.TOPS", "MEMX.MEMOIR",
    "EPRL.DOM", "EQUS.MINI", "EQUS.PLUS", "EQUS.ALL", "DBEQ.BASIC", "OPRA.PILLAR", "IFEU.IMPACT", "IFUS.IMPACT",
    "IFLL.IMPACT", "NDEX.IMPACT", "XEUR.EOBI", "XEEE.EOBI",
)  # fmt: skip
PORT = 13_000
BUCKET_LENGTH = 5
# A replay's last record, a message of the gateway's, says so; a venue's own never does.
END_REASON = "end of recording"
_END = (320 // dbn.WORD, dbn.SYSTEM)
SYMBOLS_AT_ONCE = 500
LINE_BYTES_MAX = 64 * 1024
LATE_NS = 60 * SECOND_NS

_AUTH = re.compile(rb"auth=[^|\n]*")

# What the schemas bring: books, and trades, of which at most one, or every trade would come twice.
WITH_BOOKS = frozenset({"mbo", "mbp-10"})
WITH_TRADES = frozenset({"mbo", "mbp-1", "mbp-10", "tbbo", "trades", "cmbp-1", "tcbbo"})
# Sampled quotes: the next one says all.
WITHOUT_PAST = frozenset({"bbo-1s", "bbo-1m", "cbbo-1s", "cbbo-1m"})
KINDS = {
    "mbo": dbn.MBO,
    "mbp-1": dbn.MBP_1,
    "mbp-10": dbn.MBP_10,
    "tbbo": dbn.MBP_1,
    "trades": dbn.TRADE,
    "cmbp-1": dbn.CMBP_1,
    "tcbbo": dbn.TCBBO,
    "bbo-1s": dbn.BBO_1S,
    "bbo-1m": dbn.BBO_1M,
    "cbbo-1s": dbn.CBBO_1S,
    "cbbo-1m": dbn.CBBO_1M,
    "status": dbn.STATUS,
    "definition": dbn.DEFINITION,
    "ohlcv-1s": dbn.OHLCV_1S,
    "ohlcv-1m": dbn.OHLCV_1M,
    "ohlcv-1h": dbn.OHLCV_1H,
    "ohlcv-1d": dbn.OHLCV_1D,
}


# A replay contains one schema, which the metadata name.
REPLAYED = tuple(schema for schema in KINDS if schema != "tbbo")


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask the gateway for."""

    dataset: str = "GLBX.MDP3"
    schemas: tuple[str, ...] = ("mbo", "status", "definition")
    stype_in: str = "raw_symbol"
    heartbeat_s: int = 10

    def refusal(self) -> str | None:
        """Return why this cannot be requested, or None."""
        unknown = [schema for schema in self.schemas if schema not in KINDS]
        if unknown or not self.schemas:
            return f"{', '.join(unknown) or 'nothing'}: the schemas are {', '.join(KINDS)}"
        doubled = [schema for schema in self.schemas if schema in WITH_TRADES]
        if len(doubled) > 1:
            return f"{' and '.join(doubled)} bring the same trades: choose one of them"
        return None


class Login:
    """What to request, and the key, by which the feed answers the gateway's challenge; nothing of it may be stored."""

    def __init__(self, key: str, session: Session) -> None:
        self.session = session
        self._key = key

    def __call__(self, ts: int) -> str:  # noqa: ARG002 - it is the same at any time
        """Return the key."""
        return self._key

    def redact(self, frame: bytes) -> bytes:
        """Return a frame of ours as it may be stored: without what was made of the key."""
        if self._key:
            frame = frame.replace(self._key.encode(), b"<key>")
        return _AUTH.sub(b"auth=<answer>", frame)


def address(dataset: str) -> str:
    """Return where a dataset's gateway is (DOCS, "Host and port")."""
    return f"tcp://{dataset.lower().replace('.', '-')}.lsg.databento.com:{PORT}"


def authentication(session: Session, challenge: str, key: str) -> bytes:
    """Return the answer to a challenge; it holds the end of the key, not the key."""
    digest = hashlib.sha256(f"{challenge}|{key}".encode()).hexdigest()
    fields = {
        "auth": f"{digest}-{key[-BUCKET_LENGTH:]}",
        "dataset": session.dataset,
        "encoding": "dbn",
        "ts_out": 0,
        "compression": "none",
        "heartbeat_interval_s": session.heartbeat_s,
        # To be notified instead of losing records silently.
        "slow_reader_behavior": "warn",
        "client": "tickstream",
    }
    return _line(fields)


def subscription(session: Session, schema: str, symbols: Collection[str], number: int, start: int | None) -> bytes:
    """Return the lines that subscribe one schema, from a time on, or from now; orders then come with a snapshot."""
    wanted = list(symbols)
    lines = []
    for at in range(0, len(wanted), SYMBOLS_AT_ONCE):
        fields: dict[str, object] = {
            "schema": schema,
            "stype_in": session.stype_in,
            "symbols": ",".join(wanted[at : at + SYMBOLS_AT_ONCE]),
        }
        if start is not None:
            fields["start"] = start
        fields["snapshot"] = int(schema == "mbo" and start is None)
        fields["id"] = number
        fields["is_last"] = int(at + SYMBOLS_AT_ONCE >= len(wanted))
        lines.append(_line(fields))
    return b"".join(lines)


START = b"start_session=0\n"


def _line(fields: dict[str, object]) -> bytes:
    return ("|".join(f"{name}={value}" for name, value in fields.items()) + "\n").encode()


def read_line(line: bytes) -> dict[str, str]:
    """Return the fields of a line of text."""
    text = line.decode("utf-8", "replace").strip()
    return {name: value for name, _, value in (part.partition("=") for part in text.split("|")) if name}


class Position:
    """How far the records of one schema and instrument were read: the last time, and how many records had it."""

    __slots__ = ("count", "left", "ts")

    def __init__(self) -> None:
        self.ts = -1
        self.count = 0
        # After a resumption: how many records of that last time are still to come again; None once they have.
        self.left: int | None = None

    def resume(self, start: int) -> None:
        """Expect the last records again, if they lie in what was requested."""
        self.left = self.count if self.ts >= start else None

    def take(self, ts: int) -> str:
        """Note a record; `new`, `old` for one that was read before, `lost` where those read before did not come."""
        if self.left is not None:
            if ts < self.ts:
                return "old"
            if ts == self.ts and self.left:
                self.left -= 1
                return "old"
            lost, self.left = self.left > 0, None
            if lost:
                return "lost"
        if ts > self.ts:
            self.ts, self.count = ts, 1
        elif ts == self.ts:
            self.count += 1
        return "new"


def start_of(positions: Collection[Position]) -> int | None:
    """Return from when on to ask again; None when nothing was read."""
    times = [position.ts for position in positions if position.ts >= 0]
    return max(min(times), max(times) - LATE_NS) if times else None


def _is_end(frame: bytes) -> bool:
    last = frame[-_END[0] * dbn.WORD :]
    return len(last) == _END[0] * dbn.WORD and (last[0], last[1]) == _END and END_REASON.encode() in last


class Splitter:
    """Cuts one connection's bytes into lines of text, the metadata, and batches of whole records."""

    def __init__(self) -> None:
        self._kept = b""
        self._next = "text"

    def split(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that are whole now.

        Raises FrameError for bytes that are none of this, and at the end of a replay.
        """
        data = self._kept + data if self._kept else data
        self._kept = b""
        while data:
            try:
                size = self._size(data)
            except ValueError as error:
                raise FrameError("bad_frame") from error
            if not size:
                self._kept = data
                return
            frame, data = data[:size], data[size:]
            if self._next == "text" and frame.startswith(b"success=1"):
                self._next = "metadata"
            elif self._next == "metadata":
                self._next = "records"
            elif self._next == "records" and _is_end(frame):
                yield frame
                raise FrameError(END_REASON)
            yield frame

    def _size(self, data: bytes) -> int:
        """Return how many of these bytes are the next frame; 0 when it is not whole yet."""
        if self._next == "records":
            return dbn.whole_records(data)
        if self._next == "metadata":
            size = dbn.metadata_size(data)
            return size if size is not None and size <= len(data) else 0
        end = data.find(b"\n") + 1
        if not end and len(data) > LINE_BYTES_MAX:
            raise ValueError("a line without an end")
        return end
