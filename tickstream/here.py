"""Settings of commands that work on a platform: the environment's, else those of the embedded stack that runs here."""

from __future__ import annotations

import os
from typing import Any

from infra.local import stack
from infra.local import state as written
from infra.local.settings import StackSettings
from runtime.settings import PREFIX, Settings, load

_DATABASE = "database_url"


def load_here(cls: type[Settings], **overrides: Any) -> Settings:
    """Return settings with the addresses of the embedded stack, where it runs, for those that nobody gave.

    Raises SettingsError that names each variable at fault and what it takes.
    """
    return load(cls, **(_addresses(cls) | overrides))


def _addresses(cls: type[Settings]) -> dict[str, str]:
    known = written.load(stack.folders_of(load(StackSettings)))
    if known is None or known.supervisor is None or not known.supervisor.alive():
        return {}
    # Empty means not given, as in all settings.
    given = {name.removeprefix(PREFIX).lower() for name, text in os.environ.items() if name.startswith(PREFIX) and text}
    if _DATABASE in given:  # another database than ours, whatever the role
        given |= {name for name in known.endpoints if name.endswith(_DATABASE)}
    if "history_url" in given:  # nor is it said here whose history another address serves
        given.add("history_venue")
    return {name: known.endpoints[name] for name in cls.model_fields if name in known.endpoints and name not in given}
