"""The headers of the pipeline's outputs, compiled where that could be built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata import compiled

if TYPE_CHECKING or compiled.headers is None:
    from marketdata.plain_headers import OutputHeaders
else:
    OutputHeaders = compiled.headers.OutputHeaders

__all__ = ["OutputHeaders"]
