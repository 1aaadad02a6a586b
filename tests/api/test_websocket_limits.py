"""What one WebSocket client may cost, and what RFC 6455 and RFC 7692 ask of a server, from raw bytes."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api.raw_socket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    RawSocket,
    frame,
)

DEFLATE = "permessage-deflate"
MEBIBYTE = 1024 * 1024
# What a process may grow by while it is attacked: buffers of the kernel's size, and what the allocator keeps.
GROWTH_BYTES_MAX = 24 * MEBIBYTE
REQUEST = b'{"op": "ping", "id": 7}'


def compressed(text: bytes) -> bytes:
    """Return a message's payload as a client compresses it."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def rss(stage: Any) -> int:
    """Return the memory of the API's process, bytes."""
    size: int = psutil.Process(stage.process.pid).memory_info().rss
    return size


def answers(port: int) -> None:
    """Check that another client is served."""
    with RawSocket(port) as other:
        other.send(frame(FIN | TEXT, REQUEST))
        assert json.loads(other.receive()[1]) == {"type": "pong", "id": 7}


def close(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return frame(FIN | CLOSE, code.to_bytes(2, "big") + reason)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([frame(FIN | TEXT, b"x" * 70_000)], 1009, id="large frame"),
        pytest.param([frame(TEXT, b"x" * 40_000), frame(FIN, b"x" * 40_000)], 1009, id="large message in parts"),
        pytest.param([frame(FIN | BINARY, b"x")], 1003, id="binary"),
        pytest.param([frame(FIN | TEXT, b"\xff\xfe")], 1007, id="not UTF-8"),
        pytest.param([frame(TEXT, b'"\xe2\x82'), frame(FIN, b'"')], 1007, id="not UTF-8 in parts"),
        pytest.param([frame(FIN | TEXT, REQUEST, masked=False)], 1002, id="not masked"),
        pytest.param([frame(FIN | RSV1 | TEXT, REQUEST)], 1002, id="RSV1 without compression"),
        pytest.param([frame(FIN | RSV2 | TEXT, REQUEST)], 1002, id="RSV2"),
        pytest.param([frame(FIN | RSV3 | PING)], 1002, id="RSV3 of a ping"),
        pytest.param([frame(FIN | CONTINUATION, REQUEST)], 1002, id="continuation of nothing"),
        pytest.param([frame(TEXT, b"{"), frame(FIN | TEXT, REQUEST)], 1002, id="message within a message"),
        pytest.param([frame(PING, b"x")], 1002, id="ping in parts"),
        pytest.param([frame(FIN | PING, b"x" * 126)], 1002, id="large ping"),
        pytest.param([frame(FIN | 0x3)], 1002, id="unknown opcode"),
        pytest.param([frame(FIN | 0xB)], 1002, id="unknown control opcode"),
        pytest.param([bytes((FIN | TEXT, 0xFE, 0, 5)) + bytes(9)], 1002, id="length in too many bytes"),
        pytest.param([bytes((FIN | TEXT, 0xFF)) + b"\xff" * 8 + bytes(4)], 1002, id="length of 64 bits"),
        pytest.param([close(1000)], 1000, id="close"),
        pytest.param([close(4321, b"mine")], 4321, id="close with a code of the application"),
        pytest.param([frame(FIN | CLOSE)], 1000, id="close without a code"),
        pytest.param([frame(FIN | CLOSE, b"\x03")], 1002, id="close with half a code"),
        pytest.param([close(1005)], 1002, id="close with 1005"),
        pytest.param([close(1006)], 1002, id="close with 1006"),
        pytest.param([close(999)], 1002, id="close with 999"),
        pytest.param([close(2000)], 1002, id="close with 2000"),
        pytest.param([close(5000)], 1002, id="close with 5000"),
        pytest.param([close(1000, b"\xff")], 1007, id="close with a reason that is not UTF-8"),
        pytest.param([close(1000), frame(FIN | TEXT, REQUEST)], 1000, id="a message after the close frame"),
    ],
)
def test_a_frame_against_the_rules_ends_the_connection_with_its_code(
    shared: Any, frames: list[bytes], code: int
) -> None:
    """Whether it comes in one piece or byte by byte; other clients are served."""
    with RawSocket(shared.port) as client:
        client.send(*frames)
        assert client.close_code() == code
    with RawSocket(shared.port) as client:
        client.trickle(b"".join(frames), 300)
        assert client.close_code() == code
    answers(shared.port)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([frame(FIN | RSV1 | TEXT, compressed(b" " * 10_000_000))], 1009, id="bomb"),
        pytest.param([frame(FIN | RSV1 | TEXT, b"\xff" * 20)], 1007, id="damaged"),
        pytest.param([frame(FIN | RSV1 | PING)], 1002, id="compressed ping"),
        pytest.param([frame(RSV1 | TEXT, compressed(b" ")), frame(FIN | RSV1)], 1002, id="RSV1 of a continuation"),
    ],
)
def test_a_compressed_message_against_the_rules_ends_the_connection(
    shared: Any, frames: list[bytes], code: int
) -> None:
    """The inflated size has the same limit, and never more than that is inflated."""
    before = rss(shared)
    with RawSocket(shared.port, DEFLATE) as client:
        client.send(*frames)
        assert client.close_code() == code
    assert rss(shared) - before < GROWTH_BYTES_MAX
    answers(shared.port)


def test_messages_in_parts_and_control_frames_between_them_are_read(shared: Any) -> None:
    """Plain and compressed; a ping within a message is answered before the message."""
    with RawSocket(shared.port, DEFLATE) as client:
        client.send(frame(TEXT, REQUEST[:5]), frame(FIN | PING, b"between"))
        assert client.receive() == (PONG, b"between")
        client.send(frame(CONTINUATION), frame(FIN, REQUEST[5:]))
        assert json.loads(client.receive()[1])["id"] == 7
        packed = compressed(REQUEST)
        client.send(frame(RSV1 | TEXT, packed[:3]), frame(FIN, packed[3:]), frame(FIN | PONG, b"unasked"))
        assert json.loads(client.receive()[1])["id"] == 7


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(CONTINUATION, b"x" * 60_000), id="parts of a message without end"),
        pytest.param(frame(FIN | PING, b"x" * 125) * 500, id="pings"),
        pytest.param(frame(CONTINUATION) * 10_000, id="empty parts"),
        pytest.param(frame(FIN | 0x3, b"x" * 125) * 500, id="unknown frames"),
        pytest.param(frame(FIN | TEXT, b"x" * 65_000, length=1 << 40) * 2, id="a frame of a tebibyte"),
        pytest.param(frame(FIN | TEXT, b"\xff" * 60_000), id="text that is not UTF-8"),
    ],
)
def test_a_socket_that_floods_and_never_reads_costs_little_memory(shared: Any, flood: bytes) -> None:
    """300 MB were sent in vain: the memory stays, the connection is ended soon, and others are served meanwhile."""
    before = rss(shared)
    with RawSocket(shared.port, DEFLATE) as client:
        client.send(frame(TEXT, b"["))
        sent = client.flood(flood, 300 * MEBIBYTE)
        assert sent < 20 * MEBIBYTE
        answers(shared.port)
        client.wait_closed()
    assert rss(shared) - before < GROWTH_BYTES_MAX


def test_of_many_pings_the_last_one_is_answered(shared: Any) -> None:
    """The answers are fewer than the pings, and the last ping has its answer."""
    with RawSocket(shared.port) as client:
        pings = [f"{number}".encode() for number in range(1_000)]
        client.send(*(frame(FIN | PING, each) for each in pings))
        received: list[bytes] = []
        while not received or received[-1] != pings[-1]:
            opcode, payload = client.receive()
            assert opcode == PONG
            received.append(payload)
        assert len(received) < 100
        assert received == sorted(received, key=int)


def test_a_silent_client_is_pinged_and_one_that_does_not_answer_is_disconnected(stage: Any) -> None:
    """A half-open connection is noticed after twice the time of a ping; a client that answers stays."""
    stage.start(TICKSTREAM_WS_PING_S="0.3")
    with RawSocket(stage.port) as silent, RawSocket(stage.port) as answering:
        for _ in range(4):
            opcode, payload = answering.receive()
            assert opcode == PING
            answering.send(frame(FIN | PONG, payload))
        assert silent.receive()[0] == PING
        assert silent.close_code() == 1001
        answering.send(frame(FIN | TEXT, REQUEST))
        while (answer := answering.receive())[0] == PING:
            pass
        assert json.loads(answer[1])["id"] == 7


def test_an_id_that_no_answer_can_contain_is_refused(shared: Any) -> None:
    """A number of more than 64 bits is a bad request, and the connection goes on."""
    with RawSocket(shared.port) as client:
        client.send(frame(FIN | TEXT, b'{"op": "ping", "id": 1%s}' % (b"0" * 30)))
        answer = json.loads(client.receive()[1])
        assert (answer["type"], answer["code"]) == ("error", "bad_request")
        client.send(frame(FIN | TEXT, b'{"op": "ping", "id": 9223372036854775807}'))
        assert json.loads(client.receive()[1]) == {"type": "pong", "id": 2**63 - 1}


def test_mistakes_of_clients_are_no_errors_in_the_log(stage: Any) -> None:
    """A client cannot fill the log; a failure of ours would be in it."""
    stage.start()
    for wrong in (frame(FIN | 0x3), frame(FIN | TEXT, b"\xff"), frame(FIN | TEXT, b"[" * 60_000)):
        with RawSocket(stage.port) as client:
            client.send(wrong)
            client.receive()
    log = Path(stage.log).read_text()
    assert '"level":"error"' not in log
    assert "Traceback" not in log
