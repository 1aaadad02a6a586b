"""Runs the pipeline on Faust."""

from __future__ import annotations

from stream_apps.engines.worker import Worker


async def run(worker: Worker) -> None:
    """Run the engine until the process is asked to stop."""
    raise RuntimeError(worker)
