"""What one HTTP connection may send, hold and delay, from raw bytes before the real server."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

MEBIBYTE = 1024 * 1024
GROWTH_BYTES_MAX = 24 * MEBIBYTE
LIMIT_S = 20.0
SLOW_CLIENTS = 1_000
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
QUICK = {"TICKSTREAM_API_HEAD_S": "1", "TICKSTREAM_API_BODY_S": "1", "TICKSTREAM_API_IDLE_S": "1",
         "TICKSTREAM_API_SEND_S": "1"}  # fmt: skip


@contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    """Open a connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as one:
        yield one


def read_to_end(one: socket.socket) -> bytes:
    """Return all that the server sends until it ends the connection."""
    received = b""
    try:
        while data := one.recv(65_536):
            received += data
    except ConnectionError:
        pass
    return received


def status(received: bytes) -> int:
    """Return the status of the first response."""
    return int(received.split(b" ", 2)[1])


def rss(stage: Any) -> int:
    """Return the memory of the API's process, bytes."""
    size: int = psutil.Process(stage.process.pid).memory_info().rss
    return size


def flood(one: socket.socket, data: bytes, size: int) -> int:
    """Send these bytes again and again until so many were sent or the server ends it; return how many were."""
    sent = 0
    try:
        while sent < size:
            one.sendall(data)
            sent += len(data)
    except (ConnectionError, TimeoutError):
        pass
    return sent


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        pytest.param(HEAD + b"x: " + b"a" * 15_000 + b"\r\n\r\n", 200, id="head within the limit"),
        pytest.param(HEAD + b"x: " + b"a" * 25_000 + b"\r\n\r\n", 431, id="large field"),
        pytest.param(HEAD + b"".join(b"x%d: a\r\n" % at for at in range(90)) + b"\r\n", 200, id="many fields"),
        pytest.param(HEAD + b"".join(b"x%d: a\r\n" % at for at in range(101)) + b"\r\n", 431, id="too many fields"),
        pytest.param(b"GET /" + b"a" * 25_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, id="long path"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(HEAD + b"Host: localhost\r\n\r\n", 400, id="two Hosts"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n", 400, id="no host in Host"),
        pytest.param(b"GET /healthz HTTP/1.0\r\n\r\n", 200, id="HTTP/1.0"),
        pytest.param(b"GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200, id="absolute target"),
        pytest.param(b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 421, id="foreign target"),
        pytest.param(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="CONNECT"),
        pytest.param(HEAD + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 200, id="another upgrade"),
        pytest.param(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, id="two lengths"),
        pytest.param(HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="length and chunks"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS to a plain port"),
        pytest.param(HEAD + b"a b: c\r\n\r\n", 400, id="space in a name"),
    ],
)
def test_a_request_is_answered_or_refused_with_its_status(shared: Any, request_: bytes, wanted: int) -> None:
    """A refusal is a problem."""
    with connection(shared.port) as one:
        one.sendall(request_)
        received = b""
        while b"\r\n\r\n" not in received:
            received += one.recv(65_536)
    assert status(received) == wanted
    if wanted != 200:
        assert b"application/problem+json" in received


@pytest.mark.parametrize(
    ("start", "data"),
    [
        pytest.param(HEAD, b"x: y\r\n" * 10_000, id="fields"),
        pytest.param(HEAD + b"x: ", b"y" * 60_000, id="one field"),
        pytest.param(b"GET /", b"y" * 60_000, id="path"),
        pytest.param(b"", b"\r\n" * 30_000, id="empty lines"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 10_000, id="trailers"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"y" * 60_000, id="chunk extension"),
        pytest.param(HEAD + b"Content-Length: 1000000000\r\n\r\n", b"y" * 60_000, id="body"),
        pytest.param(b"", (HEAD + b"\r\n") * 2_000, id="requests whose answers are not read"),
    ],
)
def test_a_connection_that_floods_costs_little_memory(shared: Any, start: bytes, data: bytes) -> None:
    """300 MB are sent in vain, the connection is ended, and others are served meanwhile."""
    before = rss(shared)
    with connection(shared.port) as one:
        one.settimeout(3)
        one.sendall(start)
        sent = flood(one, data, 300 * MEBIBYTE)
        assert sent < 20 * MEBIBYTE
        assert shared.client.get("/healthz").status_code == 200
        assert rss(shared) - before < GROWTH_BYTES_MAX
    assert rss(shared) - before < GROWTH_BYTES_MAX


def test_requests_in_one_piece_are_answered_in_order(shared: Any) -> None:
    """Each once, though they are parsed only as the responses before them are sent."""
    count = 500
    with connection(shared.port) as one:
        one.sendall(b"".join(b"GET /missing/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % at for at in range(count)))
        received = b""
        while received.count(b"HTTP/1.1 404") < count or not received.endswith(b"}"):
            received += one.recv(65_536)
    found = [int(part.partition(b'"')[0]) for part in received.split(b'"instance":"/missing/')[1:]]
    assert found == list(range(count))


def test_clients_that_leave_early_are_no_errors_in_the_log(stage: Any, wait_for: Any) -> None:
    """Also when several requests were under way."""
    stage.start()
    before = stage.metric("process_cpu_seconds_total")
    for _ in range(50):
        with connection(stage.port) as one:
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for("the requests", lambda: stage.metric("process_cpu_seconds_total") > before)
    assert stage.client.get("/healthz").status_code == 200
    assert '"level":"error"' not in stage.log.read_text()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"\r\n", b"", id="an empty line"),
        pytest.param(b"GET / HT", b"HTTP/1.1 408", id="part of a line"),
        pytest.param(HEAD, b"HTTP/1.1 408", id="part of a head"),
        pytest.param(HEAD + b"Content-Length: 5\r\n\r\nab", b"HTTP/1.1 200", id="part of a body"),
        pytest.param(HEAD + b"\r\n", b"HTTP/1.1 200", id="idle after a response"),
    ],
)
def test_whatever_does_not_go_on_is_ended(stage: Any, sent: bytes, answered: bytes) -> None:
    """Each state of a connection has a deadline."""
    stage.start(**QUICK)
    with connection(stage.port) as one:
        one.sendall(sent)
        assert read_to_end(one).startswith(answered)


def test_a_thousand_slow_senders_are_closed_while_others_are_served(stage: Any) -> None:
    """Each sends a byte of a header now and then, which does not extend its deadline; the memory stays."""
    stage.start(TICKSTREAM_API_HEAD_S="4")
    before = rss(stage)
    with ExitStack() as stack:
        slow = [stack.enter_context(connection(stage.port)) for _ in range(SLOW_CLIENTS)]
        for one in slow:
            one.sendall(HEAD + b"x: ")
        open_ = set(slow)
        deadline = time.monotonic() + LIMIT_S
        while open_:
            assert time.monotonic() < deadline, f"{len(open_)} are still open"
            assert stage.client.get("/healthz").status_code == 200
            for one in list(open_):
                try:
                    one.sendall(b"y")
                except ConnectionError:
                    open_.discard(one)
        assert rss(stage) - before < 64 * MEBIBYTE


def test_clients_that_never_read_are_closed_and_cost_little(stage: Any, wait_for: Any) -> None:
    """Each asks for large answers and reads nothing."""
    stage.start(TICKSTREAM_API_SEND_S="1")
    before = rss(stage)
    with ExitStack() as stack:
        for _ in range(200):
            one = stack.enter_context(connection(stage.port))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        process = psutil.Process(stage.process.pid)
        # What is left are the connections of the test itself and those to Kafka, the registry and the database.
        wait_for("the connections to be closed", lambda: _connections(process, stage.port) <= 3)
        assert rss(stage) - before < 128 * MEBIBYTE
    assert stage.client.get("/healthz").status_code == 200


def _connections(process: psutil.Process, port: int) -> int:
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp")
    )


def test_more_connections_than_allowed_are_closed_at_once(stage: Any) -> None:
    """And there is room again once one has gone."""
    stage.start(TICKSTREAM_API_CONNECTIONS_MAX="3")
    stage.client.close()
    with ExitStack() as stack:
        first = [stack.enter_context(connection(stage.port)) for _ in range(3)]
        for one in first:
            one.sendall(HEAD + b"\r\n")
            assert one.recv(65_536).startswith(b"HTTP/1.1 200")
        with connection(stage.port) as one:
            assert read_to_end(one) == b""
    stage.client = httpx.Client(base_url=f"http://127.0.0.1:{stage.port}")
    assert stage.client.get("/healthz").status_code == 200


def test_other_hosts_are_refused_unless_they_are_configured(stage: Any) -> None:
    """A name of a foreign page that resolves to this machine is answered by 421, over REST and WebSocket."""
    stage.start(TICKSTREAM_API_HOSTS="api.example.com, other.example.com")
    for host, wanted in (
        ("localhost", 200), ("LOCALHOST.:1234", 200), ("[::1]:80", 200), ("127.0.0.1", 200), ("api.example.com", 200),
        ("other.example.com:8080", 200), ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.2", 421),
        ("", 400), ("localhost@evil", 400),
    ):  # fmt: skip
        answer = stage.client.get("/healthz", headers={"Host": host})
        assert answer.status_code == wanted, host
        assert answer.headers["x-content-type-options"] == "nosniff"
        if wanted == 421:
            assert "TICKSTREAM_API_HOSTS" in answer.json()["detail"]
        upgrade = upgraded(stage, Host=host)
        assert upgrade.status_code == (101 if wanted == 200 else wanted), host


def upgraded(stage: Any, **headers: str) -> httpx.Response:
    """Return the answer to a WebSocket's handshake."""
    with httpx.Client() as client:
        answer: httpx.Response = client.get(
            f"http://127.0.0.1:{stage.port}/ws",
            headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                     "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} | headers,
        )  # fmt: skip
        return answer


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ("http://127.0.0.1:{port}", 101),
        ("http://127.0.0.1:1", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
    ],
)
def test_foreign_pages_may_not_open_a_websocket(shared: Any, origin: str, wanted: int) -> None:
    """Pages of the API's own host may; programs that are no browser send no Origin."""
    answer = upgraded(shared, Origin=origin.format(port=shared.port))
    assert answer.status_code == wanted
    if wanted == 403:
        assert answer.headers["content-type"] == "application/problem+json"
        assert "TICKSTREAM_API_ORIGINS" in answer.json()["detail"]
    plain = shared.client.get("/healthz", headers={"Origin": origin.format(port=shared.port)})
    assert not [name for name in plain.headers if name.startswith("access-control")]


def test_pages_of_configured_origins_may_use_the_api(stage: Any) -> None:
    """CORS for REST, and the WebSocket; other origins still may not."""
    stage.start(TICKSTREAM_API_ORIGINS="https://app.example.com")
    for origin, is_allowed in (("https://app.example.com", True), ("https://evil.example", False)):
        answer = stage.client.get("/healthz", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == (origin if is_allowed else None)
        assert upgraded(stage, Origin=origin).status_code == (101 if is_allowed else 403)
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET"}
    assert stage.client.options("/api/v1/status", headers=asked).status_code == 200


def test_answers_have_the_security_headers(shared: Any) -> None:
    """Also those that no route made."""
    for path in ("/healthz", "/missing", "/docs"):
        headers = shared.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "strict-transport-security" not in headers


def test_forwarded_headers_are_used_from_trusted_proxies_only(stage: Any) -> None:
    """The scheme of a trusted proxy shows in the headers that only https has."""
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    stage.start()
    assert "strict-transport-security" not in stage.client.get("/healthz", headers=forwarded).headers
    stage.kill()
    stage.start(TICKSTREAM_API_TRUSTED_PROXIES="127.0.0.0/8", TICKSTREAM_API_ANONYMOUS="1")
    assert "strict-transport-security" in stage.client.get("/healthz", headers=forwarded).headers


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    where = tmp_path / "certificate.pem", tmp_path / "key.pem"
    where[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    where[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return where


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"TICKSTREAM_API_TLS_KEY": "{key}"}, "TICKSTREAM_API_TLS_CERTIFICATE"),
        ({"TICKSTREAM_API_TLS_CERTIFICATE": "/missing"}, "/missing"),
        ({"TICKSTREAM_API_TLS_CERTIFICATE": "{certificate}", "TICKSTREAM_API_WORKERS": "2"}, "workers"),
    ],
)
def test_tls_that_cannot_work_is_refused_at_the_start(
    certificate: tuple[Path, Path], settings: dict[str, str], message: str
) -> None:
    """With the reason, and without the values of other settings."""
    given = {name: text.format(certificate=certificate[0], key=certificate[1]) for name, text in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        env=os.environ | given | {"TICKSTREAM_DATABASE_URL": "postgresql://owner:hunter2@127.0.0.1/x"},
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_with_a_certificate_only_tls_1_3_is_accepted(stage: Any, certificate: tuple[Path, Path]) -> None:
    """REST and WebSocket over TLS 1.3 with HSTS; TLS 1.2 and plain requests are refused; silent ones are closed."""
    trusted = ssl.create_default_context(cafile=str(certificate[0]))
    stage.client = httpx.Client(base_url=f"https://localhost:{stage.port}", verify=trusted, timeout=LIMIT_S)
    stage.start(TICKSTREAM_API_TLS_CERTIFICATE=str(certificate[0]), TICKSTREAM_API_TLS_KEY=str(certificate[1]), **QUICK)
    assert "max-age=" in stage.client.get("/healthz").headers["strict-transport-security"]
    with connect(f"wss://localhost:{stage.port}/ws", ssl=trusted, proxy=None) as client:
        client.send(json.dumps({"op": "ping", "id": 1}))
        assert json.loads(client.recv(LIMIT_S)) == {"type": "pong", "id": 1}
        client.send("x" * 70_000)
        with pytest.raises(Exception, match="1009"):
            client.recv(LIMIT_S)
    with pytest.raises(InvalidStatus, match="403"):
        connect(
            f"wss://localhost:{stage.port}/ws", ssl=trusted, proxy=None, origin=Origin("https://evil.example")
        ).__enter__()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(certificate[0]))
        context.minimum_version = context.maximum_version = version
        with connection(stage.port) as plain:
            if version is ssl.TLSVersion.TLSv1_2:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(plain, server_hostname="localhost")
            else:
                with context.wrap_socket(plain, server_hostname="localhost") as secure:
                    assert secure.version() == "TLSv1.3"
                    secure.sendall(HEAD + b"x: " + b"a" * 25_000 + b"\r\n\r\n")
                    assert status(read_to_end(secure)) == 431
    with connection(stage.port) as silent:
        assert read_to_end(silent) == b""
    with connection(stage.port) as plain:
        plain.sendall(HEAD + b"\r\n")
        assert not read_to_end(plain).startswith(b"HTTP")
