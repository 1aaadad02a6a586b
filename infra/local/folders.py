"""Where the embedded stack keeps its files: everything is inside the project's `.local/`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HOME = PROJECT / ".local"


@dataclass(frozen=True)
class Folders:
    """One stack's folder (`stack`), the downloads that all stacks share (`home`), and where its prices come from.

    Each source has data of its own, and so has each simulated venue: simulated prices never mix with real ones under
    the same name, and no symbols remain of a venue that is not simulated any more.
    """

    stack: Path = HOME
    home: Path = HOME
    source: str = "sim"

    @property
    def components(self) -> Path:
        """Unpacked components: Kafka's jars, the registry."""
        return self.home / "components"

    @property
    def cache(self) -> Path:
        """Downloads as they came."""
        return self.home / "cache"

    @property
    def debian(self) -> Path:
        """The Debian root folder that holds TimescaleDB and Redis, and their data under `/srv`."""
        return self.home / "debian"

    @property
    def kafka_ui(self) -> Path:
        """The Kafka UI's own Python environment: its dependencies exclude newer ones of ours."""
        return self.home / "kafka-ui"

    @property
    def name(self) -> str:
        """What identifies this stack's data inside the shared Debian root."""
        if self.stack == self.home:
            return "platform"
        return "stack-" + hashlib.sha256(str(self.stack.resolve()).encode()).hexdigest()[:12]

    @property
    def rooted_home(self) -> str:
        """Folder of this stack's TimescaleDB and Redis as they see it inside the Debian root, all sources."""
        return f"/srv/tickstream/{self.name}"

    @property
    def rooted_data(self) -> str:
        """Data folder of TimescaleDB and Redis as they see it inside the Debian root."""
        return f"{self.rooted_home}/{self.source}"

    @property
    def data(self) -> Path:
        """Data of what runs outside the Debian root."""
        return self.stack / "data" / self.source

    @property
    def log(self) -> Path:
        """One log per process."""
        return self.stack / "log"

    @property
    def run(self) -> Path:
        """Lock, state and generated configuration."""
        return self.stack / "run"

    @property
    def passwords(self) -> Path:
        """Passwords made for this stack; readable by its owner only."""
        return self.stack / "secrets"

    def make(self) -> None:
        """Create the folders of this stack."""
        for folder in (self.data, self.log, self.run, self.cache, self.components):
            folder.mkdir(parents=True, exist_ok=True)
        self.run.chmod(0o700)
