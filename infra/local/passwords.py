"""The passwords of one stack: made at random once, kept in a file that only its owner reads."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, fields

from infra.local.folders import Folders


@dataclass(frozen=True)
class Passwords:
    """One password per role; `superuser` is PostgreSQL's own and no service gets it."""

    superuser: str
    registry: str
    tickstream: str
    tickstream_sink: str
    tickstream_api: str
    tickstream_history: str
    tickstream_readonly: str
    redis: str


def passwords(folders: Folders) -> Passwords:
    """Return the stack's passwords, making those that are missing."""
    path = folders.passwords
    known = dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}
    names = [field.name for field in fields(Passwords)]
    if not set(names) <= set(known):
        known = {name: known.get(name) or secrets.token_urlsafe(24) for name in names}
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("".join(f"{name}={value}\n" for name, value in known.items()))
        draft.replace(path)
    return Passwords(**{name: known[name] for name in names})
