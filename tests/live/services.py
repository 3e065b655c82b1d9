"""Real servers for the live tests: each on ports of its own, in a folder of its own.

Each is a context manager that yields a small client. `Missing` says what a machine lacks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.live.process import LIMIT, Program, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

ENVIRONMENT = dict(os.environ)
"""As the tests were started: a test of its own sees no variable that starts with TASKOBS_."""
REQUIRED = ENVIRONMENT.get("TASKOBS_REQUIRE_SERVICES") == "1"
"""Whether a missing server is a failure."""
HOST = "127.0.0.1"
PORTS = range(10_000, 32_000)
"""Ports that Linux gives to no connection unless asked: those begin at 32768."""
GIVEN: set[int] = set()
"""Ports that a test of this process has, or had."""
DATABASES = 4096
"""Redis databases: each test takes the next one."""
CACHE = Path(ENVIRONMENT.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskobs-ci"
"""Where ``.ci/services`` puts what it builds."""


class Missing(Exception):  # noqa: N818  # it is no error: the test is skipped
    """A server's program is not on this machine; the message says how to install it."""


class NotAllowed(Missing):
    """This machine, such as an unprivileged container, forbids what a server needs.

    Nothing that could be installed would change that, so the test is skipped in any case.
    """


def free_port() -> int:
    """Give a port of the loopback that nobody uses, and that nobody else will be given.

    A port that the system chooses may be the near end of somebody's next connection, before the
    server that it is meant for listens, or after a test took it for one that refuses. Processes
    that share the tests choose from ports of their own.
    """
    worker = int(ENVIRONMENT.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = PORTS[worker :: int(ENVIRONMENT.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    while True:
        port = secrets.choice(mine)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in GIVEN:
                GIVEN.add(port)
                return port


def find_program(name: str, *, variable: str, paths: tuple[Path, ...] = (), install: str) -> str:
    """Find a program by its variable, in ``paths``, or on the PATH; raises `Missing`."""
    named = ENVIRONMENT.get(variable)
    for path in (Path(named),) if named else paths:
        if os.access(path, os.X_OK):
            return str(path)
    found = None if named else shutil.which(name)
    if found is None:
        msg = f"{name} is not on this machine: {install} (or set {variable})"
        raise Missing(msg)
    return found


def neighbours() -> Path:
    """Find the programs of the environment in which other observers are; raises `Missing`."""
    named = ENVIRONMENT.get("TASKOBS_NEIGHBOURS")
    programs = (Path(named) if named else CACHE / "neighbours") / "bin"
    if not os.access(programs / "ddtrace-run", os.X_OK):
        install = "run .ci/services neighbours (or set TASKOBS_NEIGHBOURS)"
        raise Missing(f"the libraries of docs/with-others.md are not on this machine: {install}")
    return programs


def fetch(
    url: str, *, headers: Mapping[str, str] | None = None, body: object = None, method: str = "GET"
) -> Any:  # JSON of somebody else's making
    """Ask a server on the loopback and read its JSON; None for an empty answer."""
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=sent, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text else None


def fetch_text(url: str) -> str:
    """Ask a server on the loopback and read its text."""
    with urllib.request.urlopen(url, timeout=LIMIT) as answer:  # noqa: S310
        text: bytes = answer.read()
    return text.decode()


def answers(url: str) -> bool:
    """Whether a server answers this URL with success."""
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310
            return True
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port of the loopback."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def plain_environment() -> dict[str, str]:
    """This process's environment without coverage: servers are not ours to measure."""
    return {k: v for k, v in ENVIRONMENT.items() if not k.startswith("COVERAGE_")}


@dataclass
class Redis:
    """A running Redis server."""

    port: int
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def url(self) -> str:
        """Give the URL of a database that nobody has used."""
        return f"redis://{HOST}:{self.port}/{next(self._numbers) % DATABASES}"


@contextlib.contextmanager
def redis(folder: Path, port: int | None = None) -> Generator[Redis]:
    """Run a Redis server that keeps nothing on disk, on ``port`` or any that is free."""
    program = find_program(
        "redis-server", variable="TASKOBS_REDIS", install="apt-get install redis-server"
    )
    port = port or free_port()
    command = [program, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]
    command += ["--databases", str(DATABASES), "--dir", str(folder)]
    with Program(
        command, log=folder / "redis.log", env=plain_environment(), lasting=True
    ) as server:
        server.wait_ready(lambda: listens(port))
        yield Redis(port)


@dataclass
class Sentinel:
    """A Redis master with a replica, and the sentinel that watches them."""

    port: int
    client: str
    """The program ``redis-cli``."""

    def ask(self, *words: str) -> str:
        """Give the sentinel a command."""
        return self._ask(self.port, *words, check=True)

    def _ask(self, port: int, *words: str, check: bool) -> str:
        command = [self.client, "-h", HOST, "-p", str(port), *words]
        done = subprocess.run(command, check=check, capture_output=True, text=True, timeout=LIMIT)
        return done.stdout

    def master_port(self) -> int:
        """Give the port of the server that is the master now."""
        return int(self.ask("sentinel", "get-master-addr-by-name", "shop").split()[1])

    def fail_over(self) -> None:
        """Have the replica become the master, and wait until the old master is a replica."""
        before = self.master_port()
        # It takes no replica of which it has not heard for some seconds, on a busy machine for one.
        told = partial(self.ask, "sentinel", "failover", "shop")
        assert wait_until(lambda: "NOGOODSLAVE" not in told(), timeout=LIMIT)
        assert wait_until(lambda: self.master_port() != before, timeout=LIMIT)
        # Until the old master knows, it takes what it is sent over the connections that it has.
        # It closes all of them then, that of this question too.
        assert wait_until(
            lambda: self._ask(before, "role", check=False).startswith("slave"), timeout=LIMIT
        )


SENTINEL_CONFIG = """
port {port}
bind {host}
dir {folder}
sentinel monitor shop {host} {master} 1
sentinel down-after-milliseconds shop 60000
sentinel failover-timeout shop 10000
"""


@contextlib.contextmanager
def sentinel(folder: Path) -> Generator[Sentinel]:
    """Run a Redis master, its replica and one sentinel."""
    install = "apt-get install redis-server"
    program = find_program("redis-server", variable="TASKOBS_REDIS", install=install)
    client = find_program("redis-cli", variable="TASKOBS_REDIS_CLI", install=install)
    port = free_port()
    config = folder / "sentinel.conf"
    with contextlib.ExitStack() as stack:
        for name in ("master", "replica"):
            (folder / name).mkdir()
        master = stack.enter_context(redis(folder / "master"))
        replica = stack.enter_context(redis(folder / "replica"))
        follow = [client, "-h", HOST, "-p", str(replica.port), "replicaof", HOST]
        subprocess.run([*follow, str(master.port)], check=True, capture_output=True, timeout=LIMIT)
        config.write_text(
            SENTINEL_CONFIG.format(port=port, host=HOST, folder=folder, master=master.port)
        )
        command = [program, str(config), "--sentinel"]
        log, env = folder / "sentinel.log", plain_environment()
        server = stack.enter_context(Program(command, log=log, env=env, lasting=True))
        server.wait_ready(lambda: listens(port))
        found = Sentinel(port, client)
        # A failover needs a replica that the sentinel knows and that is in sync.
        in_sync = "master-link-status\nok"
        assert wait_until(
            lambda: in_sync in found.ask("sentinel", "replicas", "shop"), timeout=LIMIT
        )
        yield found


@contextlib.contextmanager
def memcached() -> Generator[int]:
    """Run memcached; gives its port."""
    program = find_program(
        "memcached", variable="TASKOBS_MEMCACHED", install="apt-get install memcached"
    )
    port = free_port()
    command = [program, "-l", HOST, "-p", str(port), "-U", "0", "-m", "16", "-u", "nobody"]
    with Program(command, log=Path(os.devnull), env=plain_environment(), lasting=True) as server:
        server.wait_ready(lambda: listens(port))
        yield port


@contextlib.contextmanager
def sqs(folder: Path) -> Generator[int]:
    """Run a server that speaks the protocol of Amazon SQS; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with Program(command, log=folder / "sqs.log", env=plain_environment(), lasting=True) as server:
        server.wait_ready(lambda: listens(port))
        yield port


@dataclass
class RabbitMQ:
    """A running RabbitMQ server, with its management API."""

    port: int
    management: str
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def api(self, path: str, *, method: str = "GET", body: object = None) -> Any:
        """Ask the management API, ``/api`` left out."""
        login = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {login}"}
        return fetch(f"{self.management}/api{path}", headers=headers, body=body, method=method)

    def url(self) -> str:
        """Make a new virtual host and give its URL."""
        vhost = f"test-{next(self._numbers)}"
        self.api(f"/vhosts/{vhost}", method="PUT")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api(f"/permissions/{vhost}/guest", method="PUT", body=everything)
        return f"amqp://guest:guest@{HOST}:{self.port}/{vhost}"


def _rabbit_environment(folder: Path, ports: Mapping[str, int]) -> dict[str, str]:
    config, plugins = folder / "rabbitmq.conf", folder / "enabled_plugins"
    config.write_text(
        f"listeners.tcp.local = {HOST}:{ports['amqp']}\n"
        f"management.tcp.ip = {HOST}\n"
        f"management.tcp.port = {ports['management']}\n"
    )
    plugins.write_text("[rabbitmq_management].\n")
    return {
        **plain_environment(),
        "HOME": str(folder),  # the Erlang cookie is written there
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_DIST_PORT": str(ports["dist"]),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_NODENAME": f"taskobs-{ports['amqp']}@localhost",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
    }


@contextlib.contextmanager
def rabbitmq(folder: Path) -> Generator[RabbitMQ]:
    """Run a RabbitMQ server with a port mapper (epmd) of its own, as whoever runs the tests."""
    install = "apt-get install rabbitmq-server"
    # Debian's program on the PATH changes the user; the one behind it runs as anybody.
    paths = (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),)
    program = find_program(
        "rabbitmq-server", variable="TASKOBS_RABBITMQ", paths=paths, install=install
    )
    mapper = find_program("epmd", variable="TASKOBS_EPMD", install=install)
    ports = {name: free_port() for name in ("amqp", "management", "dist", "epmd")}
    env = _rabbit_environment(folder, ports)
    epmd = [mapper, "-port", str(ports["epmd"]), "-address", HOST]
    management = f"http://{HOST}:{ports['management']}"
    with (
        Program(epmd, log=folder / "epmd.log", env=env, lasting=True) as names,
        Program(
            [program], log=folder / "rabbitmq.log", env=env, cwd=folder, lasting=True
        ) as server,
    ):
        names.wait_ready(lambda: listens(ports["epmd"]))
        server.wait_ready(
            lambda: answers(f"{management}/") and listens(ports["amqp"]),
            timeout=2 * LIMIT,  # Erlang is the slowest of all to start
        )
        yield RabbitMQ(ports["amqp"], management)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Give the series that a query returns now; raises for one that is malformed."""
        found = fetch(f"{self.url}/api/v1/query?{urlencode({'query': expression})}")
        series: list[dict[str, Any]] = found["data"]["result"]
        return series

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """Give the exemplars of the series of a query that came in the last minutes."""
        now = time.time()
        asked = {"query": expression, "start": now - 300, "end": now}
        series = fetch(f"{self.url}/api/v1/query_exemplars?{urlencode(asked)}")["data"]
        return [exemplar for one in series for exemplar in one["exemplars"]]

    def rules(self) -> list[dict[str, Any]]:
        """Give all rules, with what became of their last evaluation."""
        groups = fetch(f"{self.url}/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


PROMETHEUS_CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: {rules}
scrape_configs:
  - job_name: taskobs
    static_configs: [{{targets: {targets}}}]
"""


@contextlib.contextmanager
def prometheus(
    folder: Path, targets: Sequence[str], rules: Sequence[Path] = ()
) -> Generator[Prometheus]:
    """Run a Prometheus that scrapes ``targets`` (``host:port``) each second."""
    program = find_program(
        "prometheus", variable="TASKOBS_PROMETHEUS", install="apt-get install prometheus"
    )
    port = free_port()
    config = folder / "prometheus.yml"
    files = json.dumps([str(path) for path in rules])
    config.write_text(PROMETHEUS_CONFIG.format(rules=files, targets=json.dumps([*targets])))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={HOST}:{port}", "--enable-feature=exemplar-storage"]
    with Program(command, log=folder / "prometheus.log", env=plain_environment()) as server:
        server.wait_ready(lambda: answers(f"http://{HOST}:{port}/-/ready"))
        yield Prometheus(f"http://{HOST}:{port}")


@dataclass(frozen=True)
class Jaeger:
    """A running Jaeger: takes OTLP, answers its query API."""

    endpoint: str
    """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT`` (http/protobuf)."""
    grpc_endpoint: str
    query: str

    def ask(self, path: str, **parameters: str) -> Any:
        """Ask the query API, ``/api`` left out; gives its ``data``."""
        answer = fetch(f"{self.query}/api{path}?{urlencode(parameters)}")
        return answer["data"]

    def trace(self, trace_id: str, *, spans: int = 1, timeout: float = LIMIT) -> dict[str, Any]:
        """Wait until a trace has ``spans`` spans, and give it; raises AssertionError."""
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            try:
                found[:] = self.ask(f"/traces/{trace_id}")
            except urllib.error.HTTPError:  # 404 until the first span is there
                return False
            return bool(found) and len(found[0]["spans"]) >= spans

        assert wait_until(arrived, timeout=timeout), (trace_id, found)
        return found[0]


JAEGER_CONFIG = """
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}
  telemetry:
    metrics: {level: none}
extensions:
  jaeger_query:
    storage: {traces: memory}
    grpc: {endpoint: "HOST:QUERY_GRPC"}
    http: {endpoint: "HOST:QUERY"}
  jaeger_storage:
    backends: {memory: {memory: {max_traces: 10000}}}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "HOST:GRPC"}
      http: {endpoint: "HOST:HTTP"}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
"""


@contextlib.contextmanager
def jaeger(folder: Path) -> Generator[Jaeger]:
    """Run Jaeger 2 with its storage in memory."""
    program = find_program(
        "jaeger",
        variable="TASKOBS_JAEGER",
        paths=(CACHE / "jaeger",),
        install="run .ci/services jaeger",
    )
    ports = {name: str(free_port()) for name in ("QUERY_GRPC", "QUERY", "GRPC", "HTTP")}
    text = JAEGER_CONFIG.replace("HOST:", f"{HOST}:")
    for name, port in ports.items():
        text = text.replace(f':{name}"', f':{port}"')
    config = folder / "jaeger.yaml"
    config.write_text(text)
    query = f"http://{HOST}:{ports['QUERY']}"
    command = [program, "--config", f"file:{config}"]
    with Program(
        command, log=folder / "jaeger.log", env=plain_environment(), lasting=True
    ) as server:
        server.wait_ready(lambda: answers(f"{query}/api/services"))
        yield Jaeger(f"http://{HOST}:{ports['HTTP']}", f"http://{HOST}:{ports['GRPC']}", query)


def collector() -> str:
    """Find the OpenTelemetry Collector of docs/how-to/collector.md; raises `Missing`."""
    return find_program(
        "otelcol",
        variable="TASKOBS_COLLECTOR",
        paths=(CACHE / "otelcol",),
        install="run .ci/services collector",
    )


@dataclass(frozen=True)
class BugsinkProject:
    """One project of a running Bugsink."""

    dsn: str
    number: int
    server: Bugsink

    def events(self, number: int = 1, *, timeout: float = LIMIT) -> list[dict[str, Any]]:
        """Wait for ``number`` events and give all, in full, as Sentry's JSON, oldest first."""
        assert wait_until(lambda: len(self._listed()) >= number, timeout=timeout, tick=0.2), (
            f"{len(self._listed())} of {number} events came"
        )
        listed = sorted(self._listed(), key=lambda event: event["ingested_at"])
        found = [self.server.api(f"/events/{event['id']}/")["data"] for event in listed]
        return [json.loads(data) if isinstance(data, str) else data for data in found]

    def _listed(self) -> list[dict[str, Any]]:
        issues = self.server.api(f"/issues/?project={self.number}")["results"]
        return [
            event
            for issue in issues
            for event in self.server.api(f"/events/?issue={issue['id']}")["results"]
        ]


@dataclass(frozen=True)
class Bugsink:
    """A running Bugsink: takes what Sentry takes."""

    url: str
    token: str
    team: str
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def api(self, path: str, *, method: str = "GET", body: object = None) -> Any:
        """Ask the REST API, ``/api/canonical/0`` left out."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return fetch(f"{self.url}/api/canonical/0{path}", headers=headers, body=body, method=method)

    def project(self) -> BugsinkProject:
        """Make a new project, so that tests don't see each other's events."""
        name = f"test {next(self._numbers)}"
        self.api("/projects/", method="POST", body={"team": self.team, "name": name})
        listed = self.api("/projects/")["results"]
        number = next(project["id"] for project in listed if project["name"] == name)
        return BugsinkProject(self.api(f"/projects/{number}/")["dsn"], number, self)


BUGSINK_SETTINGS = """
from bugsink.settings.default import *
SECRET_KEY = "a test's own, and nobody else's: 0123456789abcdefghijklmnopqrstuvwxyz"
DATABASES["default"]["NAME"] = "db.sqlite3"
DATABASES["snappea"]["NAME"] = "snappea.sqlite3"
SNAPPEA = {"TASK_ALWAYS_EAGER": True}  # no second process
TIME_ZONE = "UTC"
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
BUGSINK = {"BASE_URL": "@URL@", "SINGLE_USER": True, "SINGLE_TEAM": True, "PHONEHOME": False}
"""
BUGSINK_SETUP = """
from bsmain.models import AuthToken
from teams.models import Team
team = Team.objects.create(name="tests")
print("made", AuthToken.create_full_access().token, team.pk)
"""


def _bugsink_setup(manage: str, folder: Path, env: Mapping[str, str]) -> tuple[str, str]:
    """Make the database, a token and a team; gives the last two."""
    migrate, shell = [manage, "migrate", "-v", "0"], [manage, "shell", "-c", BUGSINK_SETUP]
    subprocess.run(migrate, cwd=folder, env=dict(env), check=True, capture_output=True)
    made = subprocess.run(
        shell, cwd=folder, env=dict(env), check=True, capture_output=True, text=True
    )
    line = next(line for line in made.stdout.splitlines() if line.startswith("made "))
    _, token, team = line.split()
    return token, team


@contextlib.contextmanager
def bugsink(folder: Path) -> Generator[Bugsink]:
    """Run Bugsink on a new SQLite database; it lives in a virtual environment of its own."""
    manage = find_program(
        "bugsink-manage",
        variable="TASKOBS_BUGSINK",
        paths=(CACHE / "bugsink/bin/bugsink-manage",),
        install="run .ci/services bugsink",
    )
    port = free_port()
    url = f"http://{HOST}:{port}"
    (folder / "bugsink_conf.py").write_text(BUGSINK_SETTINGS.replace("@URL@", url))
    env = {
        **plain_environment(),
        "HOME": str(folder),  # gunicorn puts a control socket there
        "PYTHONPATH": str(folder),
        "DJANGO_SETTINGS_MODULE": "bugsink_conf",
    }
    token, team = _bugsink_setup(manage, folder, env)
    gunicorn = str(Path(manage).parent / "gunicorn")
    command = [gunicorn, "--bind", f"{HOST}:{port}", "--workers", "1", "--threads", "4"]
    command.append("bugsink.wsgi")
    with Program(command, log=folder / "bugsink.log", env=env, cwd=folder, lasting=True) as server:
        server.wait_ready(lambda: answers(f"{url}/health/ready"))
        yield Bugsink(url, token, team)
