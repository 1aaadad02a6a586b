"""The supervisor, with small processes of its own: order, restarts, failures, stopping and cleaning up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local import stack
from infra.local import state as written
from infra.local.errors import StackError
from infra.local.folders import Folders
from infra.local.port_check import require_free
from infra.local.process import Listens, Process
from infra.local.settings import StackSettings, free_port
from infra.local.state import Identity, Row
from infra.local.supervisor import LOG_BYTES_MAX, Supervisor, bound_log
from runtime.settings import load

SLEEP = (sys.executable, "-c", "import signal; signal.pause()")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile 1: signal.pause()",
)


def ignores_sigterm(pid: int) -> bool:
    """Return whether a process has come so far that it ignores SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Return the folders of a stack of this test only."""
    made = Folders(stack=tmp_path / "stack", home=tmp_path / "home")
    made.make()
    return made


@contextmanager
def supervising(folders: Folders, *table: Process) -> Iterator[tuple[Supervisor, list[str]]]:
    """Run a table; yield the supervisor and its report."""
    lines: list[str] = []
    supervisor = Supervisor(table, folders, {}, lines.append)
    supervisor.start()
    try:
        yield supervisor, lines
    finally:
        supervisor.stop()


def row(supervisor: Supervisor, name: str) -> Row:
    """Return a process's row."""
    return next(one for one in supervisor.rows() if one.name == name)


def pid(supervisor: Supervisor, name: str) -> int:
    """Return the id of a running process."""
    identity = row(supervisor, name).identity
    assert identity is not None
    return identity.pid


def step(name: str, folder: Path, *after: str) -> Process:
    """Return a step that writes its name into a file that all steps share."""
    return Process(name=name, command=("sh", "-c", f"echo {name} >> {folder}/order"), after=after, once=True)


def test_steps_run_after_what_they_need(folders: Folders, tmp_path: Path) -> None:
    """Each process waits until everything that it names in `after` is ready or done."""
    table = (
        step("third", tmp_path, "second"),
        step("second", tmp_path, "first"),
        step("first", tmp_path),
        Process(name="server", command=SLEEP, after=("third",)),
    )
    with supervising(folders, *table) as (supervisor, _):
        supervisor.wait_ready()
        assert (tmp_path / "order").read_text().split() == ["first", "second", "third"]
        assert row(supervisor, "server").state == "ready"


def test_killed_process_is_started_again_and_counted(folders: Folders, eventually: Callable[..., Any]) -> None:
    """A process that dies comes back under another id, without its neighbours noticing."""
    with supervising(folders, Process("a", SLEEP), Process("b", SLEEP)) as (supervisor, lines):
        supervisor.wait_ready()
        first, neighbour = pid(supervisor, "a"), pid(supervisor, "b")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: row(supervisor, "a").restarts == 1 and row(supervisor, "a").state == "ready")
        assert pid(supervisor, "a") != first
        assert pid(supervisor, "b") == neighbour
        assert "a: was ended by signal 9; starting it again in 0.5 s" in lines


def test_process_is_ready_only_when_its_check_passes(folders: Folders, eventually: Callable[..., Any]) -> None:
    """A process that runs but does not listen is `starting`, and what needs it waits."""
    port = free_port()
    gate = folders.stack / "open"
    code = (
        "import os, signal, socket\n"
        f"while not os.path.exists({str(gate)!r}): signal.sigtimedwait((), 0.02)\n"
        f"s = socket.create_server(('127.0.0.1', {port})); signal.pause()"
    )
    table = (
        Process("server", (sys.executable, "-c", code), check=Listens(port)),
        Process("client", SLEEP, after=("server",)),
    )
    with supervising(folders, *table) as (supervisor, _):
        eventually(lambda: row(supervisor, "server").state == "starting")
        assert row(supervisor, "client").state == "waiting"
        gate.touch()
        supervisor.wait_ready()
        assert row(supervisor, "client").state == "ready"


def test_failing_step_ends_the_start_with_its_log(folders: Folders) -> None:
    """A step that fails every time is a clear error that shows the end of what it printed."""
    failing = Process("migrations", ("sh", "-c", "echo no such table >&2; exit 3"), once=True, tries=2)
    with supervising(folders, failing, Process("api", SLEEP, after=("migrations",))) as (supervisor, _):
        with pytest.raises(StackError, match=r"(?s)migrations ended with status 3 2 times in a row.*no such table"):
            supervisor.wait_ready()
        assert row(supervisor, "api").identity is None


def test_missing_program_is_a_clear_error(folders: Folders) -> None:
    """A command that does not exist names itself and the process."""
    with (
        supervising(folders, Process("ghost", ("/no/such/program",))) as (supervisor, _),
        pytest.raises(StackError, match=r"ghost could not be started: .*/no/such/program"),
    ):
        supervisor.wait_ready()


def test_stop_goes_in_reverse_and_leaves_nothing(folders: Folders, eventually: Callable[..., Any]) -> None:
    """Users stop before what they use; one that ignores SIGTERM is killed, with the children of all."""
    family = (
        "import subprocess, signal, sys; subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); "
    )
    table = (
        Process("database", (sys.executable, "-c", family + "signal.pause()")),
        Process("migrations", ("true",), after=("database",), once=True),
        Process("sink", STUBBORN, after=("migrations",), stop_seconds_max=0.3),
        Process("screen", SLEEP, after=("sink",)),
    )
    with supervising(folders, *table) as (supervisor, lines):
        supervisor.wait_ready()
        pids = [pid(supervisor, name) for name in ("database", "sink", "screen")]
        child = eventually(lambda: psutil.Process(pids[0]).children())[0]
        eventually(lambda: ignores_sigterm(pids[1]))
    assert [line.split(":")[0] for line in lines if "after" in line and "ready after" not in line] == [
        "screen",
        "sink",
        "database",
    ]
    assert any(line.startswith("sink: killed, it did not stop by itself") for line in lines)
    assert not any(psutil.pid_exists(one) and Identity.of(one) for one in (*pids, child.pid))
    assert {one.state for one in supervisor.rows()} == {"stopped", "done"}


def test_leftovers_of_a_killed_supervisor_are_stopped(folders: Folders, eventually: Callable[..., Any]) -> None:
    """`down` after kill -9 of the supervisor ends its processes, known by id and start time."""
    code = (
        "import sys; from pathlib import Path\n"
        "from infra.local.supervisor import Supervisor\n"
        "from infra.local.process import Process\n"
        "from infra.local.folders import Folders\n"
        f"s = Supervisor([Process('a', {SLEEP!r}), Process('b', {STUBBORN!r})], "
        f"Folders(stack=Path({str(folders.stack)!r})), {{}}, print)\n"
        "s.start(); s.wait_ready(); import signal; signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as supervisor:
        known = eventually(lambda: (state := written.load(folders)) and state.ready and state)
        supervisor.kill()
    leftovers = [one.identity for one in known.rows]
    assert all(one.alive() for one in leftovers)
    assert {one.state for one in stack.status(folders)} == {"left behind"}
    assert stack.down(folders)
    assert not any(one.alive() for one in leftovers)
    assert not stack.down(folders)


def test_process_that_took_over_a_recorded_id_is_left_alone(folders: Folders) -> None:
    """A stranger who now has the recorded id, but another start time, survives `down`."""
    with subprocess.Popen(SLEEP, start_new_session=True) as stranger:
        try:
            identity = Identity.of(stranger.pid)
            assert identity is not None
            earlier = Identity(identity.pid, identity.started - 100, identity.boot)
            rows = [Row("kafka", state="ready", identity=earlier)]
            written.save(folders, written.State(earlier, ready=True, failure="", rows=rows, endpoints={}))
            assert stack.down(folders)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_port_in_use_is_reported_with_its_user(folders: Folders) -> None:
    """The error names the port, our process, who has it, and the setting that moves ours."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError) as caught:
            require_free([Process("kafka", SLEEP, ports={"TICKSTREAM_KAFKA_PORT": port})])
    assert f"port {port} (kafka) is in use by process {os.getpid()} (" in str(caught.value)
    assert "TICKSTREAM_KAFKA_PORT" in str(caught.value)


def test_second_supervisor_of_a_folder_is_refused(folders: Folders) -> None:
    """One stack per folder: whoever comes second receives the error that it runs already."""
    settings = load(StackSettings, folder=folders.stack)
    lock = written.take_lock(folders)
    assert lock is not None
    with (
        lock,
        pytest.raises(StackError, match="runs already"),
        stack.running(settings, services=False, report=print),
    ):
        pass


def test_log_that_grows_too_large_is_moved_aside(folders: Folders) -> None:
    """A log keeps its newest part and one older file, and its writer goes on and needs no signal."""
    path = folders.log / "noisy.log"
    with path.open("ab") as log:
        log.write(b"x" * (LOG_BYTES_MAX + 1))
        log.flush()
        bound_log(path)
        log.write(b"next\n")
    assert path.read_bytes() == b"next\n"
    assert path.with_suffix(".log.1").stat().st_size == LOG_BYTES_MAX + 1


def test_followed_log_yields_what_is_written_later(folders: Folders) -> None:
    """`logs --follow` gives the last lines, then new ones, also after the log was moved aside."""
    path = folders.log / "api.log"
    path.write_text("one\ntwo\n")
    following = stack.logs(folders, "api", follow=True, lines=1)
    assert next(following) == "two"
    with path.open("a") as log:
        log.write("three\n")
    assert next(following) == "three"
    path.write_text("4\n")
    assert next(following) == "4"


def test_log_of_an_unknown_process_names_the_known_ones(folders: Folders) -> None:
    """A typing error in a process's name is answered with the names there are."""
    (folders.log / "api.log").touch()
    with pytest.raises(StackError, match="there is no log of 'apy'; there are: api"):
        list(stack.logs(folders, "apy", follow=False))


def test_ports_from_a_base_are_all_different() -> None:
    """One setting moves the whole stack, so that a second one can run beside."""
    ports = vars(load(StackSettings, port_base=30000).ports())
    assert sorted(ports.values()) == list(range(30000, 30000 + len(ports)))


def test_same_port_for_two_processes_is_refused() -> None:
    """Two settings that name one port are distinguished before anything starts."""
    with pytest.raises(StackError, match=r"TICKSTREAM_KAFKA_PORT, TICKSTREAM_DATABASE_PORT"):
        load(StackSettings, kafka_port=30000, database_port=30000).ports()
