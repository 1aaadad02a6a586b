"""Resolves the Java components' dependencies once and writes `components.lock`: each file with its SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from infra.local.components import ECJ, KAFKA, LOCK, QUICKFIXJ, REGISTRY, SLF4J, context
from infra.local.folders import Folders


def pin(cache: Path) -> str:
    """Return the lock file's text; needs the network, run by whoever changes a version."""
    maven = context(cache)
    files = []
    for component, coordinates in (("kafka", (KAFKA, SLF4J)), ("quickfixj", (*QUICKFIXJ, ECJ))):
        wanted = [maven.create_dependency(coordinate) for coordinate in coordinates]
        for dependency in wanted:
            dependency.scope = "compile"
        given, transitive = maven.resolver.resolve(wanted)
        files += [(component, item.artifact) for item in (*given, *transitive) if item.scope in {"compile", "runtime"}]
    group, name, packaging, classifier, version = REGISTRY.split(":")
    files.append(
        (
            "registry",
            maven.project(group, name).at_version(version).artifact(classifier=classifier, packaging=packaging),
        )
    )
    lines = []
    for component, artifact in files:
        digest = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
        coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.packaging}:{artifact.classifier}"
        lines.append(f"{component} {coordinate}:{artifact.version} {digest}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    LOCK.write_text(pin(Folders().cache / "maven"))
