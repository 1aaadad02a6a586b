"""QuickFIX/J as a FIX venue in a process of its own, to prove our FIX against an engine that is not ours."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.local.components import java, quickfixj_folder
from infra.local.folders import Folders

SOURCE = Path(__file__).with_name("Acceptor.java")
VERSIONS = ("FIX.4.4", "FIXT.1.1")
STOP_S = 5.0

# A short life: a quick start is worth more than quick code.
_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m")


def build(folders: Folders) -> list[str]:
    """Return the command that runs the acceptor, compiled once for each change of its source.

    Raises CalledProcessError with what the compiler says.
    """
    jars = quickfixj_folder(folders)
    path = os.pathsep.join(str(jar) for jar in sorted(jars.glob("*.jar")) if not jar.name.startswith("ecj-"))
    (compiler,) = jars.glob("ecj-*.jar")
    classes = jars / f"classes-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not classes.exists():
        draft = classes.with_name(f"{classes.name}.{os.getpid()}")
        arguments = ("-source", "21", "-target", "21", "-nowarn", "-cp", path, "-d", str(draft), str(SOURCE))
        subprocess.run([str(java()), *_OPTIONS, "-jar", str(compiler), *arguments], check=True)
        with suppress(OSError):  # another process was quicker
            draft.rename(classes)
    return [str(java()), *_OPTIONS, "-cp", os.pathsep.join((str(classes), path)), "Main"]


class QuickFix:
    """The process: a port and everything said so far, for each BeginString."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ports: dict[str, int] = {}
        self.said: dict[str, list[str]] = {version: [] for version in VERSIONS}

    def tell(self, version: str, command: str) -> None:
        """Give a session a command; see Acceptor.java for what there is."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"{version} {command}\n")
            self._process.stdin.flush()

    def listen(self) -> None:
        """Keep what it says until it ends."""
        for line in self._process.stdout or ():
            version, _, text = line.rstrip("\n").partition(" ")
            if text.startswith("PORT "):
                self.ports[version] = int(text[5:])
            self.said[version].append(text)


@contextmanager
def run(folders: Folders) -> Iterator[QuickFix]:
    """Run it until the context ends; its ports are there once it has said them."""
    with subprocess.Popen(
        build(folders), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="latin-1"
    ) as process:
        engine = QuickFix(process)
        listening = threading.Thread(target=engine.listen, daemon=True)
        listening.start()
        try:
            yield engine
        finally:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            if process.returncode is None:
                process.kill()
            listening.join()
