"""Removes passwords and keys from texts that people and other programs read: logs, errors, readiness.

What to leave out of logs is listed in OWASP's "Logging Cheat Sheet"
(https://cheatsheetseries.owasp.org/cheatsheets/Logging_Cheat_Sheet.html, "Data to exclude").
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
_NAMES = r"[\w.\-]*(?:password|passwd|pwd|secret|token|api[_-]?key|private[_-]?key|authorization)"
_IS_SECRET = re.compile(_NAMES, re.IGNORECASE)
# Up to the last @ before the path: a password may have one itself.
_USER_INFO = re.compile(r"""([A-Za-z][A-Za-z0-9+.\-]*://)[^\s/?#"'<>]*@""")
_ASSIGNED = re.compile(
    rf"""({_NAMES}["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|(?:Bearer|Basic)\s+[^\s,;"']+|[^\s,;&"'{{}}()\[\]]+)""",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"\b(?:eyJ[\w\-]+\.[\w\-]+\.[\w\-]*|tsk_[A-Za-z0-9]+_[\w\-]+)")


def redacted(text: str) -> str:
    """Return a text without the user information of URLs, assigned passwords, keys and tokens."""
    text = _USER_INFO.sub(rf"\1{MASK}@", text)
    text = _ASSIGNED.sub(rf"\1{MASK}", text)
    return _TOKENS.sub(MASK, text)


def redacted_values(value: Any) -> Any:
    """Return a value of a log line with every text in it redacted, and values under a secret's name left out."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(key, str) and isinstance(each, str) and _IS_SECRET.fullmatch(key) else
            redacted_values(each)
            for key, each in value.items()
        }  # fmt: skip
    if isinstance(value, list | tuple):
        return [redacted_values(each) for each in value]
    if isinstance(value, BaseException):
        return redacted(str(value))
    return value
