"""What can go wrong with the embedded stack, said so that a person knows what to do next."""

from __future__ import annotations

from marketdata.errors import TickstreamError


class StackError(TickstreamError):
    """The stack cannot do what was asked; the message says what happened and what to do."""
