"""The metadata of the pipeline's committed offsets: where recovery starts, and which checkpoints it needs.

To restore a state, read the commit first and then the checkpoints.
"""

from __future__ import annotations

import msgspec

# The pipeline's consumer group, without the prefix of the settings.
PIPELINE_GROUP = "tickstream-pipeline"

# Tolerated clock difference between two machines when checkpoints are looked up by time.
CLOCK_SLACK_MS = 60_000


class Mark(msgspec.Struct, frozen=True, kw_only=True, rename={"topic_id": "topic", "replay_from": "replay"}):
    """The metadata of one input partition's committed offset.

    Each key's last checkpoint was written at `checkpoints_since_ms` (UTC milliseconds) or later, and reflects all
    records of the key before offset `replay_from`. Offsets are those of the topic with the id `topic_id`.
    """

    topic_id: str
    replay_from: int
    checkpoints_since_ms: int

    def text(self) -> str:
        """Return the metadata of the commit."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def parse(cls, text: str | None) -> Mark | None:
        """Return the mark in a commit's metadata, None where there is none."""
        try:
            return msgspec.json.decode(text or "", type=cls)
        except msgspec.DecodeError:
            return None
