"""One test stack for all test runs of this clone at a time: the first starts it, the last one stops it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local import stack, table
from infra.local import state as written
from infra.local.passwords import passwords
from infra.local.settings import StackSettings
from infra.local.table import Endpoints
from runtime.settings import load


@contextmanager
def shared_infrastructure(
    folder: Path, port_base: int, *, keep: bool, report: Callable[[str], None]
) -> Iterator[Endpoints]:
    """Yield the servers, starting them when no other run has; stop them after the last user unless kept.

    Every user holds a shared lock on `users.lock`, which the kernel lets go even when a user is killed, and an
    exclusive one on `change.lock` while it starts or stops.
    """
    settings = load(StackSettings, folder=folder, port_base=port_base)
    folders = stack.folders_of(settings)
    folders.stack.mkdir(parents=True, exist_ok=True)
    if not table.needs_components(settings):
        yield table.endpoints(settings, settings.ports(), passwords(folders))
        return
    with (folders.stack / "users.lock").open("a") as users, (folders.stack / "change.lock").open("a") as change:
        fcntl.flock(change, fcntl.LOCK_EX)
        known = written.load(folders)
        is_up = known and known.ready and known.supervisor and known.supervisor.alive()
        if known and is_up and stack.is_of_this_version(known):
            where = stack.endpoints_of(known)
        else:
            stack.down(folders, report)
            stack.erase(folders)
            where = stack.start_detached(settings, services=False, report=report)
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(change, fcntl.LOCK_UN)
        try:
            yield where
        finally:
            fcntl.flock(change, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_UN)
            if not keep and _last(folders.stack / "users.lock"):
                stack.down(folders, report)
                stack.erase(folders)


def _last(path: Path) -> bool:
    with path.open("a") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
