"""Passwords and keys do not reach logs, errors and readiness."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import SettingsError, Unavailable
from runtime.redaction import redacted
from runtime.registry import Registry
from runtime.settings import CommonSettings, load

SECRET = "hunter2-S3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://user:{SECRET}@host:1/x does not respond", "http://***@host:1/x does not respond"),
        (f"http://{SECRET}@host", "http://***@host"),
        (f"postgresql://u:p@{SECRET}@host/db", "postgresql://***@host/db"),
        (f"host=a password={SECRET} user=b", "host=a password=*** user=b"),
        (f"host=a password='{SECRET} {SECRET}' user=b", "host=a password=*** user=b"),
        (f'{{"sasl.password": "{SECRET}", "a": 1}}', '{"sasl.password": ***, "a": 1}'),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"?api_key={SECRET}&x=1", "?api_key=***&x=1"),
        ("tsk_abc_0123456789abcdef refused", "*** refused"),
        ("password authentication failed", "password authentication failed"),
        ("see http://host/path?mail=a@b", "see http://host/path?mail=a@b"),
    ],
)
def test_secrets_are_masked_and_the_rest_stays(text: str, shown: str) -> None:
    """The reader still sees what is wrong and where."""
    assert redacted(text) == shown


@given(
    user=st.from_regex(r"[a-z0-9]{0,8}", fullmatch=True),
    password=st.from_regex(r"[A-Za-z0-9:@!$&*+,;=%._~-]{1,20}", fullmatch=True),
)
def test_no_password_of_a_url_is_shown(user: str, password: str) -> None:
    """Whatever is allowed in one."""
    assert redacted(f"cannot reach https://{user}:{password}@h/x now") == "cannot reach https://***@h/x now"


def test_a_registry_that_is_away_is_reported_without_its_password() -> None:
    """Its address may have one."""
    registry = Registry(f"http://user:{SECRET}@127.0.0.1:9/apis", timeout_s=2)
    with pytest.raises(Unavailable) as failed:
        registry.lookup("Trades")
    registry.close()
    assert "http://***@127.0.0.1:9/apis" in str(failed.value)
    assert SECRET not in str(failed.value)


def test_a_wrong_setting_is_reported_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is shown, as it is what is wrong."""
    monkeypatch.setenv("TICKSTREAM_PARTITIONS", f"http://user:{SECRET}@host")
    with pytest.raises(SettingsError) as failed:
        load(CommonSettings)
    assert SECRET not in str(failed.value)
    assert "http://***@host" in str(failed.value)


_LOGGING = f"""
import logging, structlog
from runtime import log
log.configure("test")
url = "http://user:{SECRET}@host"
try:
    raise ValueError(url)
except ValueError as error:
    structlog.get_logger().exception("failed " + url, error=error, nested=[{{"url": url, "password": "{SECRET}"}}])
    logging.getLogger("library").warning("failed %s", url, exc_info=error)
"""


def test_no_line_of_a_log_has_a_password() -> None:
    """Neither ours nor a library's: not in the text, the fields, nested values or the traceback."""
    done = subprocess.run([sys.executable, "-c", _LOGGING], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 2
    assert SECRET not in done.stderr
    assert lines[0]["nested"] == [{"url": "http://***@host", "password": "***"}]
    assert "ValueError: http://***@host" in lines[0]["exception"]
    assert lines[1]["level"] == logging.getLevelName(logging.WARNING).lower()
