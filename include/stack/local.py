"""The stack of one machine: up, down, status.

`up` starts each part when what it needs is ready, reports a part that dies, and may be called at any time: it starts
what is missing and leaves alone what lives, whether or not a supervisor is left that watches over it. One part's
failure stops no other: what is ready goes on serving, and the next `up` tries again what is not.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import importlib.metadata
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import certifi
import psutil

from include import settings, storage
from include.home import Home
from include.serving import api_keys as serving_keys
from include.serving.process.command import STOP_SECONDS, CannotStart, certificate, serve_command
from include.stack import credentials, environment, part, ports, postgres, processes, supervisor
from include.stack.progress import Progress

AIRFLOW_PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
FORKSERVER = "airflow"
"""The process that Airflow's parts are forked from (include/stack/forkserver.py)."""
FORKS = (FORKSERVER,) if sys.platform == "linux" else ()
PARTS = (*FORKS, "postgres", "mlflow", "prediction", "rollouts", *AIRFLOW_PARTS)
ALERT_URLS = "MLOPS_ALERT_URLS"
"""A secret that only the part that delivers alerts is given: tasks neither need nor see it."""
MINIMUM_FREE_BYTES = 2 * 1024**3
STILL_SECONDS = 120.0
"""A part that lives, is not ready, and for so long neither wrote to its log nor used the processor, is given up."""
PROGRESS_CPU_SECONDS = 0.5
"""CPU time that counts as progress: on a busy machine a start takes minutes, a part that hangs uses next to none."""
SLOW_ANSWER_SECONDS = 10.0
LOCK_SECONDS = 10.0


MLFLOW_SERVER = (
    "import os, runpy, sys, uvicorn; from mlflow import server; from mlflow.cli import cli;"
    " server._exec_cmd = lambda command, *, extra_env, **_: (os.environ.update(extra_env),"
    " sys.__setattr__('argv', command[2:]), runpy.run_module(command[2], run_name='__main__', alter_sys=True));"
    " cli(prog_name='mlflow')"
)
"""`mlflow server` becomes the server that it would start, `python -m uvicorn ...`: else 150 MB wait for it to end, all
is imported twice, and an orphan may be left. uvicorn is imported first, since MLflow's Flask app looks for it.

Should MLflow start it in another way one day, the line has no effect.
"""
FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""For processes with many threads that allocate little: glibc gives each thread a heap of its own otherwise."""


class StackError(RuntimeError):
    """The stack cannot be started, used or stopped; the message is one line, or ends with a log's last lines."""


@dataclass(frozen=True)
class Stack:
    """A machine's stack: where its state lies, which ports it has, and the mark that its processes carry."""

    root: Path
    home: Path
    stack_id: str
    ports: dict[str, int]
    certificate: str | None = None
    """The service's certificate: with one it speaks TLS."""

    @property
    def paths(self) -> Home:
        """Its files and folders."""
        return Home(self.home)

    @property
    def run(self) -> Path:
        """Sockets, locks and the supervisor's configuration."""
        return self.paths.run

    @property
    def logs(self) -> Path:
        """A log for each part."""
        return self.paths.logs

    @property
    def credentials_file(self) -> Path:
        """Passwords and keys."""
        return self.paths.credentials

    def credentials(self) -> credentials.Credentials:
        """Passwords and keys, read now."""
        return credentials.read(self.credentials_file)

    def address(self, part: str) -> str:
        """Where a part answers: `airflow`, `mlflow` or `serving`."""
        scheme = "https" if part == "serving" and self.certificate else "http"
        return f"{scheme}://{ports.HOST}:{self.ports[part]}"

    @property
    def trusted(self) -> ssl.SSLContext | bool:
        """What a client of ours trusts: the service's certificate, beside those that everybody trusts."""
        return ssl.create_default_context(cafile=str(self.paths.trusted)) if self.certificate else True


@dataclass(frozen=True)
class PartStatus:
    """A line of `mlops status`."""

    part: str
    state: str
    pid: int | None
    address: str
    uptime: float
    supervised: bool = True
    """Whether it would be started again; the part itself may answer without."""


# ------------------------------------------------------------------------------------------------ its state on disk


def load(root: Path, home: Path) -> Stack:
    """The stack whose state lies in `home`.

    Raises:
        StackError: none was ever started there.
    """
    file = Home(home).stack_file
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        known = {part: int(saved["ports"][part]) for part in ports.DEFAULTS}
        return Stack(root, home, str(saved["id"]), known, saved.get("certificate"))
    except FileNotFoundError as error:
        raise StackError(f"no stack was started in {home} yet: run `make up`, or set MLOPS_HOME") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{file} is damaged ({error}); delete it: `make up` writes it anew") from error


def _save(stack: Stack) -> None:
    saved = {"id": stack.stack_id, "ports": stack.ports, "certificate": stack.certificate}
    text = json.dumps(saved, indent=1)
    storage.write_bytes(str(stack.paths.stack_file), text.encode())


def _prepare_home(home: Path, minimum_free: int) -> None:
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(home).free
    if free < minimum_free:
        raise StackError(
            f"too little disk: {home} has {free / 1e9:.1f} GB free, {minimum_free / 1e9:.1f} GB are needed;"
            " free some, or set MLOPS_HOME to a larger disk"
        )
    for folder in Home(home).folders_of_the_stack:
        folder.mkdir(exist_ok=True, mode=0o700)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One `up` or `down` at a time on a home; the kernel frees the lock when its owner dies.

    It is waited for a little: the guard has it while it starts another supervisor.
    """
    with Home(home).up_lock.open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(file):
            if time.monotonic() > deadline:
                raise StackError(f"another `mlops up` or `down` is at work on {home}; wait until it has ended")
            time.sleep(0.1)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ the parts


def platform_variables(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment in which this stack's tasks run, and in which the command line talks to it."""
    keys, port = stack.credentials(), stack.ports["postgres"]
    variables = environment.platform_environment(
        root=stack.root,
        home=stack.home,
        database_url=postgres.url("platform", keys.platform_database_password, port),
        optuna_url=postgres.url("optuna", keys.optuna_database_password, port),
        mlflow_url=stack.address("mlflow"),
        mlflow_user="admin",
        mlflow_password=keys.mlflow_admin_password,
        serving_url=stack.address("serving"),
        serving_key=keys.serving_key,
        airflow_url=stack.address("airflow"),
        threads=settings.cores(shared_by=2),
    )
    passed_on = ("MLOPS_PARAMS", "MLOPS_DATA_URL", "MLOPS_DVC_REMOTE_URL", "MLOPS_S3_ENDPOINT_URL", "MLOPS_SUITES")
    if stack.certificate:
        variables["SSL_CERT_FILE"] = str(stack.paths.trusted)
    return {**variables, **{name: inherited[name] for name in passed_on if inherited.get(name)}}


def airflow_variables(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of Airflow's processes and tasks; Airflow's own secrets are in its airflow.cfg."""
    return {
        **platform_variables(stack, inherited),
        "BENTOML_HOME": str(stack.paths.bentoml),
        **environment.airflow_environment(
            root=stack.root,
            airflow_home=stack.paths.airflow,
            host=ports.HOST,
            port=stack.ports["airflow"],
            base_url=stack.address("airflow"),
            passwords_file=stack.paths.airflow_passwords,
            executor="include.orchestration.executor.RestingExecutor",
            parallelism=max(4, 2 * settings.cores()),
        ),
    }


def airflow_secrets(stack: Stack) -> str:
    """The content of this stack's airflow.cfg."""
    keys, port = stack.credentials(), stack.ports["postgres"]
    return environment.airflow_secrets(
        database_url=postgres.url("airflow", keys.airflow_database_password, port),
        async_database_url=postgres.url("airflow", keys.airflow_database_password, port, "asyncpg"),
        jwt_secret=keys.airflow_jwt_secret,
        fernet_key=keys.airflow_fernet_key,
        api_secret_key=keys.airflow_api_secret_key,
    )


def programs(stack: Stack, inherited: Mapping[str, str]) -> list[supervisor.Program]:
    """What the supervisor runs, in the order in which it would stop them last to first."""
    keys, python = stack.credentials(), sys.executable
    user = postgres.account()
    platform, airflow = platform_variables(stack, inherited), airflow_variables(stack, inherited)
    mlflow = environment.mlflow_server_environment(
        root=stack.root,
        home=stack.home,
        database_url=postgres.url("mlflow", keys.mlflow_database_password, stack.ports["postgres"]),
        artifacts=str(stack.paths.mlflow_artifacts),
        port=stack.ports["mlflow"],
        auth_config=stack.paths.mlflow_auth,
        admin_password=keys.mlflow_admin_password,
        session_key=keys.mlflow_session_key,
    )
    serving = environment.serving_environment(
        root=stack.root,
        home=stack.home,
        data_url=platform.get("MLOPS_DATA_URL") or str(stack.paths.data),
        database_url=postgres.url(
            "platform", keys.serving_database_password, stack.ports["postgres"], user=postgres.SERVICE_ROLE
        ),
        serving_url=stack.address("serving"),
    )
    serving |= {name: platform[name] for name in ("MLOPS_PARAMS", "MLOPS_S3_ENDPOINT_URL") if name in platform}
    if files := certificate(inherited):
        serving |= {"MLOPS_SERVING_CERTIFICATE": str(files[0]), "MLOPS_SERVING_CERTIFICATE_KEY": str(files[1])}
    address = ("--host", ports.HOST, "--port")
    commands: dict[str, tuple[str, ...]] = {
        "api-server": ("api-server", *address, str(stack.ports["airflow"]), "--workers", "1"),
        "scheduler": ("scheduler", "--skip-serve-logs"),
        "dag-processor": ("dag-processor",),
        "triggerer": ("triggerer", "--skip-serve-logs"),
    }
    modules = {"dag-processor": "include.orchestration.dag_processor"}
    forkserver = _forkserver_socket(stack.run) if FORKS else None
    return [
        *(
            supervisor.Program(
                name,
                (python, "-m", "include.stack.forkserver", "--socket", str(forkserver), *environment.SHARED),
                airflow | FEW_ARENAS,  # of the forks; what they execute, such as tasks, has the environment of its part
            )
            for name in FORKS
        ),
        supervisor.Program(
            "postgres",
            postgres.command(stack.paths.postgres, stack.ports["postgres"]),
            {"LC_ALL": "C"},
            user=user.pw_name if user else None,
            data=stack.paths.postgres,
            stop_signal="INT",
            stop_group=False,
            stop_seconds=30,
        ),
        supervisor.Program(
            "mlflow",
            (
                *(python, "-c", MLFLOW_SERVER, "server", *address, str(stack.ports["mlflow"]), "--workers", "1"),
                *("--app-name", "basic-auth", "--uvicorn-opts", "--log-level warning"),
            ),
            mlflow | FEW_ARENAS,
            alone=True,
            stop_seconds=4,  # it holds no state, and waits for idle connections
        ),
        supervisor.Program(
            "prediction",
            tuple(serve_command(stack.ports["serving"], stack.root)),
            serving,
            stop_seconds=STOP_SECONDS,
        ),
        supervisor.Program(
            "rollouts",
            (python, "-m", "include.deployment.controller"),
            platform | {name: inherited[name] for name in (ALERT_URLS,) if inherited.get(name)},
            stop_seconds=4,
        ),
        *(
            supervisor.Program(
                name,
                (python, "-m", modules.get(name, "airflow"), *commands[name]),
                airflow if name == "scheduler" else airflow | FEW_ARENAS,  # its tasks train
                alone=name == "api-server",
                forkserver=forkserver,
                stop_seconds=4 if name == "api-server" else 10,
            )
            for name in AIRFLOW_PARTS
        ),
    ]


def _forkserver_socket(run: Path) -> Path:
    return supervisor.socket_path(run).with_name("airflow.sock")


def _base_environment(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """What supervisord, and through it every part, inherits: the user's own without what would mislead our parts."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("AIRFLOW__", "AIRFLOW_HOME", "MLFLOW_", "MLOPS_", "PYTHON", "BENTOML_", "PG"))
    }
    bin_folder = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": f"{bin_folder}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        processes.MARKER: stack.stack_id,
        "SPT_NOENV": "1",
    }


# ------------------------------------------------------------------------------------------------ up


def up(
    root: Path,
    home: Path,
    *,
    inherited: Mapping[str, str],
    progress: Progress,
    minimum_free: int = MINIMUM_FREE_BYTES,
) -> Stack:
    """Start what does not run yet, and return when every part is ready.

    Args:
        root: the checkout.
        home: where the state lies.
        inherited: the user's environment variables, where ports may be set.
        progress: where to say what happens.
        minimum_free: bytes that must be free on the disk.

    Raises:
        StackError: a part died or did not become ready. The others run on; only where PostgreSQL, which all need, does
            not start, what this call started is stopped again.
    """
    began = time.monotonic()
    _prepare_home(home, minimum_free)
    with _alone(home):
        stack, control = _find(root, home, inherited, progress)
        living = processes.living_parts(stack.stack_id, stack.paths.postgres)
        fresh = control is None and not living
        try:
            if control is None:
                if living:
                    names = ", ".join(name for name in PARTS if name in living)
                    progress.line(f"  nothing supervised {names}: adopted as they run")
                control = _start_supervisor(stack, inherited)
            _keep_serving_keys(stack)
            started = _bring_up(stack, control, inherited, progress)
        except BaseException:
            if fresh and not postgres.answers(stack.ports["postgres"], stack.credentials().postgres_password):
                _stop(stack, control)
            raise
    if started - living.keys():
        progress.line(f"  the stack is up: {time.monotonic() - began:.1f} s")
    else:
        progress.line("  the stack is already up")
    return stack


def _find(
    root: Path, home: Path, inherited: Mapping[str, str], progress: Progress
) -> tuple[Stack, supervisor.Control | None]:
    """The stack of this home, and its supervisor if one runs."""
    asked, paths = ports.explicit(inherited), Home(home)
    known = load(root, home) if paths.stack_file.exists() else None
    if known is not None:
        if known.credentials_file.exists():  # an older version of the platform needed fewer
            credentials.read_or_create(known.credentials_file)
        control = _control(known)
        if control is None:
            _end_what_cannot_be_adopted(known)
        if control is not None or processes.living_parts(known.stack_id, paths.postgres):
            for part, port in asked.items():
                if known.ports[part] != port:
                    raise StackError(
                        f"the stack runs with {part} on port {known.ports[part]}, not {port}: `make down` first"
                    )
            return known, control
    elif (paths.postgres / "PG_VERSION").exists() and not paths.credentials.exists():
        raise StackError(
            f"{paths.credentials} is gone, but {paths.postgres} holds data that only its passwords open:"
            " bring the file back, or delete the directory to start anew"
        )
    choice = ports.choose(asked, known.ports if known else {})
    for notice in choice.notices:
        progress.line(f"  {notice}")
    own = _certificate(paths, inherited)
    stack = Stack(root, home, known.stack_id if known else uuid.uuid4().hex, choice.ports, own)
    credentials.read_or_create(stack.credentials_file)
    _save(stack)
    return stack, None


def _end_what_cannot_be_adopted(stack: Stack) -> None:
    """End supervisors that do not answer, and what belongs to no part: a killed `up`'s migrations, an older program's.

    The descendants of a part whose first process is gone are left to its next start, which knows whether they may stay.
    """
    data = stack.paths.postgres
    servers = {process.pid for process in processes.postgres(data)}
    supervisor.kill(processes.marked(stack.stack_id))
    left = [p for p in processes.marked(stack.stack_id, without=processes.PART) if p.pid not in servers]
    processes.stop(left, seconds=5)


def _keep_serving_keys(stack: Stack) -> None:
    """Let the prediction service know the stack's own keys; one that runs reads them within a second."""
    serving_keys.keep(stack.paths.serving_keys, stack.credentials().serving_keys(), now=dt.datetime.now(dt.UTC))


def _certificate(paths: Home, inherited: Mapping[str, str]) -> str | None:
    """The service's certificate, if it is given one; it is laid beside the public ones, for our own clients."""
    try:
        files = certificate(inherited)
    except CannotStart as error:
        raise StackError(str(error)) from None
    if files is None:
        return None
    texts = (Path(certifi.where()).read_text(encoding="utf-8"), files[0].read_text(encoding="utf-8"))
    storage.write_bytes(str(paths.trusted), "\n".join(texts).encode())
    return str(files[0])


def _control(stack: Stack) -> supervisor.Control | None:
    if not stack.credentials_file.exists():
        return None
    return supervisor.connect(supervisor.socket_path(stack.run), stack.credentials().supervisor_password)


def _start_supervisor(stack: Stack, inherited: Mapping[str, str]) -> supervisor.Control:
    keys = stack.credentials()
    storage.write_private(stack.paths.airflow_passwords, environment.simple_auth_passwords(keys.airflow_admin_password))
    storage.write_private(stack.paths.airflow_secrets, airflow_secrets(stack))
    mlflow_url = postgres.url("mlflow", keys.mlflow_database_password, stack.ports["postgres"])
    storage.write_private(stack.paths.mlflow_auth, environment.mlflow_auth_config(mlflow_url))
    socket = supervisor.socket_path(stack.run)
    stack.paths.meant_to_run.touch(mode=0o600)
    text = supervisor.configuration(
        programs(stack, inherited),
        run=stack.run,
        logs=stack.logs,
        socket=socket,
        password=keys.supervisor_password,
        directory=stack.root,
    )
    return supervisor.start(
        text,
        run=stack.run,
        logs=stack.logs,
        socket=socket,
        password=keys.supervisor_password,
        environment=_base_environment(stack, inherited),
    )


def _bring_up(stack: Stack, control: supervisor.Control, inherited: Mapping[str, str], progress: Progress) -> set[str]:
    """Start the parts that do not run, in the order of readiness; returns which these were."""
    running = {name for name, state in control.states().items() if not state.dead}
    if running.issuperset(PARTS):
        _wait(stack, control, dict.fromkeys(PARTS, time.time()), {}, progress, quiet=True)
        return set()
    keys, port = stack.credentials(), stack.ports["postgres"]
    started_at: dict[str, float] = {}
    started: set[str] = set()

    def start(*names: str) -> None:
        for name in names:
            if name not in running:
                started.add(name)
                started_at[name] = time.time()
                control.start(name)

    if FORKSERVER in control.states():  # a supervisor of before has none
        start(FORKSERVER)
    postgres.prepare(stack.paths.postgres, keys.postgres_password)
    start("postgres")
    _wait(stack, control, {"postgres": started_at["postgres"]} if "postgres" in started_at else {}, {}, progress)
    started_at.pop("postgres", None)
    roles = (*postgres.DATABASES, postgres.SERVICE_ROLE)
    passwords = {name: str(getattr(keys, f"{name}_database_password")) for name in roles}
    migrated = postgres.ensure_databases(port, keys.postgres_password, passwords)
    jobs = _start_migrations(stack, inherited, migrated)
    start(*({"mlflow"} - jobs.keys()))
    _migrate_platform(stack, migrated)
    start("prediction", "rollouts")
    if "airflow" not in jobs:
        start(*AIRFLOW_PARTS)
    followers = {"mlflow": ("mlflow",), "airflow": AIRFLOW_PARTS}

    def finished(job: str) -> None:
        postgres.mark_migrated(port, keys.postgres_password, job, _version(job))
        start(*followers[job])

    _wait(stack, control, started_at, jobs, progress, finished=finished)
    if not migrated["mlflow"]:  # the server made its own tables
        postgres.mark_migrated(port, keys.postgres_password, "mlflow", _version("mlflow"))
    return started


def _version(database: str) -> str:
    """What a database's tables are brought to: the version of the package that owns them, or of our own schema."""
    if database == "platform":
        from include.database import SCHEMA_VERSION

        return SCHEMA_VERSION
    return importlib.metadata.version({"airflow": "apache-airflow-core", "mlflow": "mlflow"}[database])


def _start_migrations(
    stack: Stack, inherited: Mapping[str, str], migrated: Mapping[str, str]
) -> dict[str, subprocess.Popen[bytes]]:
    """Start the migrations that are due: Airflow's, and MLflow's unless it is new (the server makes its tables)."""
    commands: dict[str, list[str]] = {}
    variables = airflow_variables(stack, inherited)
    if migrated["airflow"] != _version("airflow"):
        commands["airflow"] = ["airflow", "db", "migrate"]
    if migrated["mlflow"] not in ("", _version("mlflow")):
        # Without the password, which PGPASSWORD brings: a command line can be read by everyone.
        commands["mlflow"] = [
            "mlflow",
            "db",
            "upgrade",
            f"postgresql://mlflow@{ports.HOST}:{stack.ports['postgres']}/mlflow",
        ]
        variables["PGPASSWORD"] = stack.credentials().mlflow_database_password
    jobs = {}
    for name, command in commands.items():
        file = stack.paths.log(f"{name}-migration")
        with file.open("wb") as log:
            whole: Sequence[str] = [sys.executable, "-m", *command]
            if name == "airflow" and FORKS:
                socket = _forkserver_socket(stack.run)
                whole = part.through(whole, name, file, directory=stack.root, forkserver=socket, job=True)
            jobs[name] = subprocess.Popen(
                whole,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=stack.root,
                env={**_base_environment(stack, inherited), **variables},
            )
    return jobs


def _migrate_platform(stack: Stack, migrated: Mapping[str, str]) -> None:
    from include import database

    keys = stack.credentials()
    engine = database.connect(postgres.url("platform", keys.platform_database_password, stack.ports["postgres"]))
    try:
        if migrated["platform"] != _version("platform"):
            database.migrate(engine)
        database.grant_service(engine, postgres.SERVICE_ROLE)
    finally:
        engine.dispose()
    postgres.mark_migrated(stack.ports["postgres"], keys.postgres_password, "platform", _version("platform"))


def _wait(
    stack: Stack,
    control: supervisor.Control,
    started_at: dict[str, float],
    jobs: dict[str, subprocess.Popen[bytes]],
    progress: Progress,
    *,
    finished: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
) -> None:
    """Return when every part in `started_at` is ready and every job has ended well.

    One that fails is no reason to give up the others: the error comes when each of them is ready, or has failed too.

    Raises:
        StackError: some have died, or live, are not ready, and do not get any further.
    """
    ready: set[str] = set()
    failed: dict[str, StackError] = {}
    pids: dict[str, int] = {}
    began, motion = time.time(), _Motion(stack)
    try:
        while jobs or started_at.keys() - ready - failed.keys():
            for name, job in list(jobs.items()):
                if job.poll() is None:
                    continue
                del jobs[name]
                if job.returncode:
                    failed[name] = _died(stack, f"{name}-migration")
                    continue
                progress.line(f"  {name + ' migrated':<18} {time.time() - began:5.1f} s")
                finished(name)
            states = control.states()
            open_parts = started_at.keys() - ready - failed.keys()
            health = _airflow_health(stack) if open_parts & set(AIRFLOW_PARTS) else {}
            for name in open_parts:
                state = states[name]
                if state.dead or pids.setdefault(name, state.pid) != state.pid:
                    failed[name] = _died(stack, name)
                elif _is_ready(stack, name, health, 0.0 if quiet else started_at[name]):
                    ready.add(name)
                    if not quiet:
                        progress.line(f"  {name + ' ready':<18} {time.time() - started_at[name]:5.1f} s")
                elif (still := motion.seconds_still(name)) > STILL_SECONDS:
                    failed[name] = _hangs(stack, name, still)
            waiting = [*(f"{name} migration" for name in jobs), *sorted(open_parts - ready - failed.keys())]
            if waiting:
                progress.waiting(f"  waiting for {', '.join(waiting)} · {time.time() - began:.0f} s")
                time.sleep(0.2)
    finally:
        for job in jobs.values():
            job.kill()
            job.wait()
    if failed:
        raise _all_of(failed, ready)


class _Motion:
    """How long a part that is awaited has neither written to its log nor used the processor."""

    EVERY = 2.0

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._seen: dict[str, tuple[float, int, float, float]] = {}

    def seconds_still(self, name: str) -> float:
        """Seconds since the part last moved; the first call is a movement."""
        now = time.monotonic()
        moved, size, cpu, measured = self._seen.get(name, (now, -1, -1.0, 0.0))
        if now - measured > self.EVERY:
            size_now, cpu_now = self._measure(name)
            if size_now != size or not cpu <= cpu_now < cpu + PROGRESS_CPU_SECONDS:
                moved, size, cpu = now, size_now, cpu_now
            self._seen[name] = (moved, size, cpu, now)
        return now - moved

    def _measure(self, name: str) -> tuple[int, float]:
        log = self._stack.paths.log(name)
        cpu = 0.0
        for process in processes.of_part(self._stack.stack_id, name):
            with contextlib.suppress(psutil.Error):
                cpu += sum(process.cpu_times()[:4])
        return log.stat().st_size if log.exists() else 0, cpu


def _hangs(stack: Stack, name: str, still: float) -> StackError:
    return StackError(
        f"{name} runs, but is not ready, and has done nothing for {still:.0f} s; its log ends with\n"
        f"{supervisor.last_lines(stack.paths.log(name), 5)}"
    )


def _all_of(failed: Mapping[str, StackError], ready: set[str]) -> StackError:
    words = "\n".join(str(error) for error in failed.values())
    rest = f"\nready, and left alone: {', '.join(name for name in PARTS if name in ready)}" if ready else ""
    return StackError(f"{words}{rest}")


def _died(stack: Stack, name: str) -> StackError:
    log = stack.paths.log(name)
    words = supervisor.last_lines(log, 8) or "(nothing in its log)"
    return StackError(f"{name} could not start; the last lines of {log}:\n{words}")


def _is_ready(stack: Stack, name: str, airflow_health: Mapping[str, Any], since: float) -> bool:
    if name == "postgres":
        return postgres.answers(stack.ports["postgres"], stack.credentials().postgres_password)
    if name == FORKSERVER:
        return part.forks(_forkserver_socket(stack.run))
    if name == "mlflow":
        return _answers(f"{stack.address('mlflow')}/health") and _listens(stack, name, "mlflow")
    if name == "prediction":
        return _answers(f"{stack.address('serving')}/livez", stack.trusted) and _listens(stack, name, "serving")
    if name == "rollouts":
        return _beats(stack.paths.rollouts_beat, since)
    if name == "api-server":
        return bool(airflow_health) and _listens(stack, name, "airflow")
    key = name.replace("-", "_")
    info = airflow_health.get(key) or {}
    beat = _timestamp(str(info[f"latest_{key}_heartbeat"])) if info.get(f"latest_{key}_heartbeat") else 0.0
    # One beat since its start shows that it started; the next may be late while it loads what its first tasks need.
    return 0.0 < since <= beat or (info.get("status") == "healthy" and beat >= since)


def _listens(stack: Stack, name: str, port: str) -> bool:
    """Whether the part itself holds its port: an orphan of its killed predecessor may answer for another moment."""
    root = processes.living_parts(stack.stack_id, stack.paths.postgres).get(name)
    if root is None:
        return False
    try:
        family = [root, *root.children(recursive=True)]
        sockets = [connection for process in family for connection in process.net_connections("inet")]
    except psutil.AccessDenied:  # the system does not show them: what answers has to do
        return True
    except psutil.NoSuchProcess:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == stack.ports[port] for one in sockets)


def _beats(file: Path, since: float) -> bool:
    """Whether the controller has looked at the rollouts since then, and lately."""
    try:
        return file.stat().st_mtime >= max(since, time.time() - 15)
    except OSError:
        return False


def _timestamp(text: str) -> float:
    import datetime as dt

    return dt.datetime.fromisoformat(text).timestamp()


def _answers(url: str, trusted: ssl.SSLContext | bool = True) -> bool:
    context = trusted if isinstance(trusted, ssl.SSLContext) else None
    try:
        with urllib.request.urlopen(url, timeout=SLOW_ANSWER_SECONDS, context=context) as answer:  # noqa: S310  (a URL of ours)
            return bool(answer.status == 200)
    except OSError:
        return False


def _airflow_health(stack: Stack) -> dict[str, Any]:
    url = f"{stack.address('airflow')}/api/v2/monitor/health"
    try:
        with urllib.request.urlopen(url, timeout=SLOW_ANSWER_SECONDS) as answer:  # noqa: S310  (a URL of ours)
            return dict(json.load(answer))
    except (OSError, ValueError):
        return {}


# ------------------------------------------------------------------------------------------------ down, status


def down(root: Path, home: Path) -> int:
    """Stop every part, and whatever a killed supervisor left behind; returns how many had to be swept up."""
    paths = Home(home)
    if not paths.stack_file.exists():
        return 0
    paths.run.mkdir(exist_ok=True, mode=0o700)
    with _alone(home):
        stack = load(root, home)
        return _stop(stack, _control(stack))


def _stop(stack: Stack, control: supervisor.Control | None) -> int:
    stack.paths.meant_to_run.unlink(missing_ok=True)  # before all else: the guard starts nothing again
    if control is not None:
        with contextlib.suppress(OSError):
            pid = control.pid()
            control.stop([name for name in PARTS if name != "postgres"])
            # What tasks started in sessions of their own must be gone before the database goes.
            processes.stop(
                [
                    p
                    for p in processes.marked(stack.stack_id)
                    if p.pid != pid
                    and not _is_postgres(p)
                    and processes.part_of(p) not in ("postgres", supervisor.GUARD)
                ],
                seconds=5,
            )
            control.stop(["postgres"])
            control.shutdown()
            _wait_for_end(pid)
    return _sweep(stack)


def _is_postgres(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "postgres" in process.name()
    return False


def _wait_for_end(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.wait_procs([psutil.Process(pid)], timeout=20)


def _sweep(stack: Stack) -> int:
    """End what still carries the stack's mark, the supervisor first so that nothing is restarted, the database last."""
    data = stack.paths.postgres
    servers = {process.pid for process in processes.postgres(data)}
    left = [process for process in processes.marked(stack.stack_id) if process.pid not in servers]
    supervisor.kill(left)
    count = processes.stop(left, seconds=5)
    servers_left = processes.postgres(data)
    count += processes.stop(servers_left, seconds=20, ask=signal.SIGINT)
    supervisor.socket_path(stack.run).unlink(missing_ok=True)
    return count


def status(root: Path, home: Path) -> list[PartStatus]:
    """Each part's state, in the order of `PARTS`; empty when nothing runs.

    What answers is ready, with or without a supervisor: then `supervised` is false.
    """
    stack = load(root, home)
    control = _control(stack)
    living = processes.living_parts(stack.stack_id, stack.paths.postgres)
    if control is None and not living:
        return []
    states, health = control.states() if control else {}, _airflow_health(stack)
    addresses = {
        "postgres": f"{ports.HOST}:{stack.ports['postgres']}",
        "mlflow": stack.address("mlflow"),
        "prediction": stack.address("serving"),
        "api-server": stack.address("airflow"),
    }
    lines = []
    for name in PARTS:
        state, process = states.get(name), living.get(name)
        alive = process is not None or (state is not None and not state.dead)
        uptime = _age(process) if process else state.uptime if state else 0.0
        if alive:
            ready = _is_ready(stack, name, health, 0.0)
            word = "ready" if ready else "starting" if uptime < STILL_SECONDS else "not ready"
        else:
            word = state.state.lower() if state else "dead"
        pid = process.pid if process else state.pid if state else 0
        lines.append(PartStatus(name, word, pid or None, addresses.get(name, ""), uptime, control is not None))
    return lines


def _age(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        return time.time() - float(process.create_time())
    return 0.0


def as_dicts(lines: list[PartStatus]) -> list[dict[str, Any]]:
    """For `mlops status --json`."""
    return [asdict(line) for line in lines]
