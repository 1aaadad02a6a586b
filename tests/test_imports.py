"""The import rules: services apart, the vocabulary without I/O, feeds and operators pure."""

from __future__ import annotations

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_the_import_rules_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """import-linter finds every contract of pyproject.toml kept, and there are some."""
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS, capsys.readouterr().out
    assert "0 broken" in capsys.readouterr().out
