"""Start the stack.

`up` starts each part when what it needs is ready, reports a part that dies, and may be called at any time: it starts
what is missing and leaves alone what lives, whether or not a supervisor is left that watches over it. One part's
failure stops no other: what is ready goes on serving, and the next `up` tries again what is not.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import certifi

from include import storage
from include.home import Home
from include.serving import api_keys as serving_keys
from include.serving.process.command import CannotStart, certificate
from include.stack import credentials, environment, machine, migrations, parts, ports, postgres, readiness, shutdown
from include.stack.machine import Stack, StackError
from include.stack.progress import Progress
from include.stack.supervision import processes, supervisor


def up(
    root: Path,
    home: Path,
    *,
    inherited: Mapping[str, str],
    progress: Progress,
    minimum_free: int = machine.MINIMUM_FREE_BYTES,
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
    machine.prepare(home, minimum_free)
    with machine.alone(home):
        stack, control = _find(root, home, inherited, progress)
        living = processes.living_parts(stack.stack_id, stack.paths.postgres)
        fresh = control is None and not living
        try:
            if control is None:
                if living:
                    names = ", ".join(name for name in machine.PARTS if name in living)
                    progress.line(f"  nothing supervised {names}: adopted as they run")
                control = _start_supervisor(stack, inherited)
            _register_serving_keys(stack)
            started = _bring_up(stack, control, inherited, progress)
        except BaseException:
            if fresh and not postgres.answers(stack.ports["postgres"], stack.credentials().postgres_password):
                shutdown.stop(stack, control)
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
    explicit, paths = ports.explicit(inherited), Home(home)
    known = machine.load(root, home) if paths.stack_file.exists() else None
    if known is not None:
        if known.credentials_file.exists():  # an older version of the platform needed fewer
            credentials.read_or_create(known.credentials_file)
        control = machine.control(known)
        if control is None:
            _end_what_cannot_be_adopted(known)
        if control is not None or processes.living_parts(known.stack_id, paths.postgres):
            for part, port in explicit.items():
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
    choice = ports.choose(explicit, known.ports if known else {})
    for notice in choice.notices:
        progress.line(f"  {notice}")
    own = _certificate(paths, inherited)
    stack = Stack(root, home, known.stack_id if known else uuid.uuid4().hex, choice.ports, own)
    credentials.read_or_create(stack.credentials_file)
    machine.save(stack)
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


def _register_serving_keys(stack: Stack) -> None:
    """Let the prediction service know the stack's own keys; one that runs reads them within a second."""
    serving_keys.ensure(stack.paths.serving_keys, stack.credentials().serving_keys(), now=dt.datetime.now(dt.UTC))


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


def _start_supervisor(stack: Stack, inherited: Mapping[str, str]) -> supervisor.Control:
    keys = stack.credentials()
    storage.write_private(stack.paths.airflow_passwords, environment.simple_auth_passwords(keys.airflow_admin_password))
    storage.write_private(stack.paths.airflow_secrets, parts.airflow_secrets(stack))
    mlflow_url = postgres.url("mlflow", keys.mlflow_database_password, stack.ports["postgres"])
    storage.write_private(stack.paths.mlflow_auth, environment.mlflow_auth_config(mlflow_url))
    socket = supervisor.socket_path(stack.run)
    stack.paths.meant_to_run.touch(mode=0o600)
    text = supervisor.configuration(
        parts.programs(stack, inherited),
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
        environment=parts.base_environment(stack, inherited),
    )


def _bring_up(stack: Stack, control: supervisor.Control, inherited: Mapping[str, str], progress: Progress) -> set[str]:
    """Start the parts that do not run, in the order of readiness; returns which these were."""
    running = {name for name, state in control.states().items() if not state.dead}
    if running.issuperset(machine.PARTS):
        readiness.wait(stack, control, dict.fromkeys(machine.PARTS, time.time()), {}, progress, quiet=True)
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

    if machine.FORKSERVER in control.states():  # a supervisor of before has none
        start(machine.FORKSERVER)
    postgres.prepare(stack.paths.postgres, keys.postgres_password)
    start("postgres")
    readiness.wait(
        stack, control, {"postgres": started_at["postgres"]} if "postgres" in started_at else {}, {}, progress
    )
    started_at.pop("postgres", None)
    roles = (*postgres.DATABASES, postgres.SERVICE_ROLE)
    passwords = {name: str(getattr(keys, f"{name}_database_password")) for name in roles}
    migrated = postgres.ensure_databases(port, keys.postgres_password, passwords)
    jobs = migrations.start(stack, inherited, migrated)
    start(*({"mlflow"} - jobs.keys()))
    migrations.migrate_platform(stack, migrated)
    start("prediction", "rollouts")
    if "airflow" not in jobs:
        start(*machine.AIRFLOW_PARTS)
    followers = {"mlflow": ("mlflow",), "airflow": machine.AIRFLOW_PARTS}

    def finished(job: str) -> None:
        postgres.mark_migrated(port, keys.postgres_password, job, migrations.version(job))
        start(*followers[job])

    readiness.wait(stack, control, started_at, jobs, progress, finished=finished)
    if not migrated["mlflow"]:  # the server made its own tables
        postgres.mark_migrated(port, keys.postgres_password, "mlflow", migrations.version("mlflow"))
    return started
