"""The Avro schemas of `schemas/`, by record name."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from marketdata.topics import TOPICS

FOLDER = Path(__file__).resolve().parent.parent / "schemas"


def file_name(name: str) -> str:
    """Return the file of a record's schema: `BookUpdate` is in `book_update.avsc`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() + ".avsc"


@cache
def load(name: str) -> dict[str, Any]:
    """Return the schema of a record as plain JSON values; the files are part of the program, read once."""
    schema: dict[str, Any] = json.loads((FOLDER / file_name(name)).read_text())
    return schema


def subject(name: str) -> str:
    """Return the registry subject of a record: its full name, the same for every topic that uses it."""
    return f"tickstream.md.{name}"


def subjects(name: str) -> tuple[str, ...]:
    """Return every subject of a record: its own, then `<topic>-value` of each topic that has it.

    Tools such as Kafka Connect and ksqlDB look for the second kind. Keys are plain strings, without a schema.
    """
    return (subject(name), *(f"{topic.physical()}-value" for topic in TOPICS if topic.schema == name))
