"""The same servers by Docker (`STACK=docker`), from `infra/compose.yaml`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from infra.local.errors import StackError
from infra.local.folders import PROJECT, Folders
from infra.local.passwords import Passwords, passwords
from infra.local.process import Answers, KafkaAnswers, PostgresAnswers, Process, RedisAnswers
from infra.local.servers import python_module
from infra.local.settings import Ports, StackSettings
from infra.local.table import Endpoints, endpoints
from runtime.settings import PREFIX

COMPOSE = PROJECT / "infra/compose.yaml"


def command(*arguments: str) -> tuple[str, ...]:
    """Return the command line of docker compose over our file."""
    return ("docker", "compose", "--file", str(COMPOSE), "--project-name", "tickstream", *arguments)


def variables(ports: Ports, secret: Passwords) -> dict[str, str]:
    """Return what `compose.yaml` takes from its environment."""
    numbers = {f"{PREFIX}{name.upper()}_PORT": str(port) for name, port in vars(ports).items()}
    return numbers | {
        "POSTGRES_PASSWORD": secret.superuser,
        "REDIS_PASSWORD": secret.redis,
        "REGISTRY_PASSWORD": secret.registry,
    }


def start(
    settings: StackSettings, folders: Folders, ports: Ports, report: Callable[[str], None]
) -> tuple[list[Process], Endpoints]:
    """Create the containers; return one row for each, and the servers' addresses."""
    if shutil.which("docker") is None:
        raise StackError("STACK=docker needs Docker, which is not installed; without STACK everything runs without it.")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        raise StackError("the Docker engine does not answer (`docker info` says why); without STACK none is needed.")
    secret = passwords(folders)
    where = endpoints(settings, ports, secret)
    environment = variables(ports, secret)
    report("docker: fetching images and creating the containers of infra/compose.yaml")
    if subprocess.run(command("create"), env={**os.environ, **environment}, check=False).returncode != 0:
        raise StackError("docker compose could not create the containers (above: why).")
    admin = f"postgresql://postgres:{secret.superuser}@127.0.0.1:{ports.database}/postgres"
    passwords_of = {f"PASSWORD_{name}": value for name, value in vars(secret).items()}
    # `up` in the foreground ends its container on SIGTERM, so the supervisor holds it like any process.
    rows = [
        _container("kafka", KafkaAnswers(where.kafka_brokers), environment),
        _container("database", PostgresAnswers(admin), environment),
        Process(
            name="database-roles",
            command=python_module("infra.local.roles"),
            environment={"ADMIN_URL": admin, **passwords_of},
            after=("database",),
            once=True,
        ),
        _container("redis", RedisAnswers(where.redis_url), environment),
        _container("registry", Answers(f"{where.registry_url}/subjects"), environment, "database-roles"),
        _container(
            "kafka-ui", Answers(f"http://127.0.0.1:{ports.kafka_ui}/actuator/health"), environment, "kafka", "registry"
        ),
    ]
    return rows, where


def _container(
    name: str, check: Answers | KafkaAnswers | PostgresAnswers | RedisAnswers, environment: dict[str, str], *after: str
) -> Process:
    return Process(
        name=name,
        command=command("up", "--no-deps", "--no-log-prefix", "--abort-on-container-exit", name),
        environment=environment,
        check=check,
        after=after,
        stop_seconds_max=30,
    )
