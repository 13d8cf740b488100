"""Feature versions: built by DVC, pushed whole, recorded, and brought back to the byte. The only caller of DVC.

Each run works in a private workspace below <home>/dvc/work, with copies of dvc.yaml, the model's part of
params.yaml, what is to be read, and the last version's dvc.lock; only the cache is shared. So the user's
checkout is never touched, two models do not meet, and what a killed run leaves behind is no obstacle: a
workspace belongs to the process that holds a lock on its `owner.lock`, which the kernel frees with the process,
and the next run removes those without an owner. Builds of one model queue on a lock in PostgreSQL.

A version is DVC's md5 of the feature folder: the same partitions, features and code give the same version. It
is recorded in `feature_versions` only after the remote holds all of it; a run that failed before that is
resumed from <home>/dvc/pending.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import yaml
from sqlalchemy.dialects import postgresql

from include import database, schema_record, schemas, storage
from include.features import columns as cols
from include.features import known_columns, stage
from include.features.compiler import compile_model
from include.features.feature_set import FeatureError, FeatureSet
from include.features.fingerprint import fingerprint
from include.home import Home
from include.settings import ROOT, ColumnType, Model, Params, load_params

if TYPE_CHECKING:
    from dvc.repo import Repo

log = logging.getLogger(__name__)

REMOTE = "features"


class FeatureVersionError(RuntimeError):
    """A version cannot be built, pushed or brought back; the message says why and what to do."""


class NotEmpty(FileExistsError):
    """Something is already where a version should be restored to; it is never replaced."""


@dataclass(frozen=True)
class FeatureVersion:
    """What a build made.

    Attributes:
        model: whose features.
        version: DVC's md5 of the feature folder.
        rows: with a target.
        partitions: the keys, in order.
        computed: the keys that this build computed; empty when DVC found nothing changed.
        reused: how many partitions it did not have to compute.
        dropped: rows without a target, in all partitions.
        left_out: columns of the source that are no inputs although the model takes all, each with the reason.
        seconds: how long the build took.
    """

    model: str
    version: str
    rows: int
    partitions: list[str]
    computed: list[str]
    reused: int
    dropped: int
    left_out: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class RecordedVersion:
    """A version as `feature_versions` has it: `inputs` is partition key → SHA-256 of what was read."""

    model: str
    version: str
    dvc_lock: str
    inputs: dict[str, str] = field(repr=False)
    rows: int


# ------------------------------------------------------------------------------------------------ build


def build(
    model: str, *, params_path: Path, data_url: str, database_url: str, remote_url: str, home: Path
) -> FeatureVersion:
    """Bring the features of a model up to its source's published partitions, push and record them.

    A new partition costs its own work only; when nothing changed, DVC skips the stage and the version stays.

    Args:
        model: its name in params.yaml.
        params_path: that file.
        data_url: where the validated partitions lie.
        database_url: the platform's PostgreSQL.
        remote_url: DVC's remote, a folder or an s3:// URL.
        home: the platform's scratch space on this machine.

    Raises:
        FeatureError: the features do not fit the source's columns.
        storage.ChangedFile: a partition is not the one that validation recorded.
        FeatureVersionError: there is no data, its features are unusable, or the remote did not take all of it.
    """
    started = time.monotonic()
    params = load_params(params_path)
    if model not in params.models:
        raise FeatureVersionError(f"{params_path}: there is no model {model!r}; there are {', '.join(params.models)}")
    entry = params.models[model]
    engine = database.connect(database_url)
    try:
        with database.advisory_lock(engine, f"features:{model}"):
            with engine.connect() as connection:
                partitions = published(connection, entry)
            if not partitions:
                raise FeatureVersionError(
                    f"source {entry.source!r} has no published partition; run the DAG ingest_{entry.source} first"
                )
            types = _source_types(engine, params, model, data_url)
            feature_set, known = _compile(engine, params, model, data_url, partitions, types)
            with _workspace(home, model) as workspace:
                _lay_out(workspace, params, model, feature_set, partitions, types, data_url)
                previous = _previous_locks(engine, model, home)
                with _repo(workspace, remote_url, home, links="reflink,hardlink,copy") as repo:
                    _bring_previous(repo, workspace, model, previous)
                    _reproduce(repo, workspace, model)
                    lock = (workspace / "dvc.lock").read_text(encoding="utf-8")
                    storage.write_bytes(str(Home(home).dvc_pending(model)), lock.encode())
                    _push(repo, workspace, model, remote_url)
                outcome = _outcome(workspace, model)
                version = _version_of(lock, model)
                _record(engine, RecordedVersion(model, version, lock, partitions, outcome["rows"]), entry.source, known)
                Home(home).dvc_pending(model).unlink(missing_ok=True)
    finally:
        engine.dispose()
    seconds = round(time.monotonic() - started, 3)
    return FeatureVersion(
        model=model,
        version=version,
        partitions=list(partitions),
        left_out=feature_set.left_out,
        seconds=seconds,
        **outcome,
    )


def published(connection: sa.Connection, entry: Model) -> dict[str, str]:
    """The newest published partitions of the model's window, in order: key → SHA-256."""
    table = database.partitions
    query = (
        sa.select(table.c.key, table.c.sha256)
        .where(table.c.source == entry.source, table.c.status == "published")
        .order_by(table.c.key.desc())
        .limit(entry.window)
    )
    return dict(sorted(connection.execute(query).tuples().all()))


def _source_types(engine: sa.Engine, params: Params, model: str, data_url: str) -> dict[str, ColumnType]:
    """The types of the source's columns, in which every partition is read."""
    name = params.models[model].source
    try:
        return schema_record.learned(engine, name, data_url, getattr(params.sources[name], "types", {}))
    except schemas.SchemaError as error:
        raise FeatureVersionError(str(error)) from error


def _compile(
    engine: sa.Engine,
    params: Params,
    model: str,
    data_url: str,
    partitions: dict[str, str],
    source_types: schemas.Types,
) -> tuple[FeatureSet, list[str] | None]:
    """The model's feature set, checked against the columns that its newest partition really has.

    Also the columns that a model of all columns takes, None for one that lists its own.
    """
    entry = params.models[model]
    source = params.sources[entry.source]
    newest = next(reversed(partitions))
    types = _types(entry, data_url, newest, partitions[newest])
    types |= {name: kind for name, kind in source_types.items() if name in types}

    def shared() -> list[str]:
        others = [_types(entry, data_url, key, sha256) for key, sha256 in partitions.items() if key != newest]
        return [column for column in types if all(column in other for other in others)]

    try:
        known = None
        if known_columns.takes_all(entry):
            known = known_columns.decide(engine, model, entry, types, shared)
            known_columns.require(known, types, source, entry, newest)
        named = None if known is None else known_columns.named(known, source)
        made = compile_model(params, model, types, root=ROOT, known=named)
    except FeatureError as error:
        raise FeatureError(f"models.{model}: {error}") from error
    return made, known


def _types(entry: Model, data_url: str, key: str, sha256: str) -> dict[str, cols.ColumnType]:
    """The columns of a published partition."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = storage.read_bytes(storage.join(data_url, "validated", entry.source, f"{key}.parquet"), sha256)
    return cols.types_of(pq.read_schema(pa.BufferReader(content)))


def _lay_out(
    workspace: Path,
    params: Params,
    model: str,
    feature_set: FeatureSet,
    partitions: dict[str, str],
    types: schemas.Types,
    data_url: str,
) -> None:
    """Write everything that the stage and DVC read."""
    entry = params.models[model]
    inputs = workspace / "inputs" / model
    inputs.mkdir(parents=True)
    read = {*feature_set.inputs, entry.target, params.time_column(model), entry.entity}
    described = {
        "spec": feature_set.spec,
        "target": entry.target,
        "time_column": params.time_column(model),
        "entity": entry.entity,
        "types": {name: kind for name, kind in sorted(types.items()) if name in read},
        "code": fingerprint(),
    }
    _write_json(inputs / "features.json", described)
    _write_json(inputs / "partitions.json", {"source": entry.source, "partitions": partitions})
    if feature_set.definition is not None:
        (inputs / "definition.py").write_text(feature_set.definition, encoding="utf-8")
    _write_json(workspace / "run.json", {"data_url": data_url})
    shutil.copyfile(ROOT / "dvc.yaml", workspace / "dvc.yaml")
    own = {"models": {model: {"features": entry.features.model_dump(mode="json")}}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(own, sort_keys=True), encoding="utf-8")
    python = workspace / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)


def _reproduce(repo: Repo, workspace: Path, model: str) -> None:
    """Let DVC decide whether the stage must run, and run it."""
    from dvc.exceptions import DvcException

    environment = {
        **stage.ENVIRONMENT,
        "PATH": f"{workspace / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    try:
        repo.reproduce(targets=[_target(workspace, model)], single_item=True, run_env=environment)
    except DvcException as error:
        raise _failure(workspace, model, error) from error


def _failure(workspace: Path, model: str, error: Exception) -> Exception:
    """The error that the stage itself reported, or DVC's."""
    try:
        reported = json.loads((workspace / stage.RESULT).read_bytes())
    except (OSError, ValueError):
        causes, cause = [str(error)], error.__cause__
        while cause is not None:
            causes.append(str(cause))
            cause = cause.__cause__
        return FeatureVersionError(
            f"the feature stage of {model} did not finish: {': '.join(causes)}; see the log above"
        )
    kinds: dict[str, type[Exception]] = {
        "ChangedFile": storage.ChangedFile,
        "StorageError": storage.StorageError,
        "FeatureError": FeatureError,
    }
    return kinds.get(reported.get("kind"), FeatureVersionError)(str(reported.get("error")))


def _outcome(workspace: Path, model: str) -> dict[str, Any]:
    """What the stage did; without a result DVC skipped it, and all is as before."""
    index = json.loads((workspace / "features" / model / stage.INDEX).read_bytes())["partitions"]
    result = workspace / stage.RESULT
    computed = json.loads(result.read_bytes())["computed"] if result.exists() else []
    return {
        "rows": sum(entry["rows"] for entry in index.values()),
        "dropped": sum(entry["dropped"] for entry in index.values()),
        "computed": computed,
        "reused": len(index) - len(computed),
    }


# ------------------------------------------------------------------------------------------------ versions


def latest(database_url: str, model: str) -> RecordedVersion | None:
    """The newest recorded version of a model's features, if there is one."""
    engine = database.connect(database_url)
    try:
        return _latest(engine, model)
    finally:
        engine.dispose()


def recorded(database_url: str, model: str, version: str) -> RecordedVersion:
    """A recorded version.

    Raises:
        FeatureVersionError: there is none of that name.
    """
    engine = database.connect(database_url)
    table = database.feature_versions
    try:
        with engine.connect() as connection:
            query = sa.select(table).where(table.c.model == model, table.c.version == version)
            row = connection.execute(query).one_or_none()
            known = sa.select(table.c.version).where(table.c.model == model).order_by(table.c.sequence.desc()).limit(5)
            if row is None:
                newest = ", ".join(connection.execute(known).scalars()) or "none"
                raise FeatureVersionError(f"{model} has no feature version {version!r}; the newest are: {newest}")
            return _from_row(row)
    finally:
        engine.dispose()


def _latest(engine: sa.Engine, model: str) -> RecordedVersion | None:
    table = database.feature_versions
    query = sa.select(table).where(table.c.model == model).order_by(table.c.sequence.desc()).limit(1)
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return _from_row(row) if row else None


def _from_row(row: Any) -> RecordedVersion:
    return RecordedVersion(row.model, row.version, row.dvc_lock, dict(row.inputs), row.rows)


def _record(engine: sa.Engine, made: RecordedVersion, source: str, columns: list[str] | None) -> None:
    """Make a version the latest, with the columns that it took; one that is it already is left as it is."""
    table = database.feature_versions
    known = _latest(engine, made.model)
    values = {"dvc_lock": made.dvc_lock, "inputs": made.inputs, "rows": made.rows}
    statement = postgresql.insert(table).values(model=made.model, version=made.version, **values)
    again = {
        **values,
        "sequence": sa.func.nextval(sa.func.pg_get_serial_sequence(table.name, "sequence")),
        "created_at": sa.func.now(),
    }
    with engine.begin() as connection:
        known_columns.record(connection, made.model, source, columns)
        if known and known.version == made.version and known.inputs == made.inputs:
            return
        connection.execute(statement.on_conflict_do_update(index_elements=["model", "version"], set_=again))


def restore(model: str, version: str, into: Path, *, database_url: str, remote_url: str, home: Path) -> Path:
    """Bring the exact data of a recorded version back: parquet files, feature_set.json and index.json.

    Every file is checked against the hash in the recorded dvc.lock; what the cache has lost or spoilt is
    fetched from the remote.

    Args:
        model: whose features.
        version: as recorded in `feature_versions` and with the MLflow run.
        into: the folder to make; an empty one may be there.
        database_url: the platform's PostgreSQL.
        remote_url: DVC's remote.
        home: the platform's scratch space on this machine.

    Returns:
        `into`.

    Raises:
        FeatureVersionError: the version is unknown, or neither cache nor remote has its bytes.
        NotEmpty: something is there already; nothing was changed.
    """
    _refuse_what_is_there(into)
    lock = recorded(database_url, model, version).dvc_lock
    with _workspace(home, f"restore-{model}") as workspace:
        shutil.copyfile(ROOT / "dvc.yaml", workspace / "dvc.yaml")
        (workspace / "params.yaml").write_text(yaml.safe_dump({"models": {model: {"features": {}}}}), encoding="utf-8")
        with _repo(workspace, remote_url, home, links="reflink,copy") as repo:
            _bring_back(repo, workspace, model, lock)
        into.parent.mkdir(parents=True, exist_ok=True)
        beside = into.resolve().with_name(f".{into.resolve().name}.{uuid.uuid4().hex}.tmp")
        shutil.move(workspace / "features" / model, beside)
        try:
            _refuse_what_is_there(into)
            if into.exists():  # it may be somebody's working directory: it is filled, not replaced
                for file in beside.iterdir():
                    file.rename(into / file.name)
            else:
                beside.rename(into)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return into


def _refuse_what_is_there(into: Path) -> None:
    if into.is_symlink():
        raise NotEmpty(f"{into} is a link: name a new folder; nothing was changed")
    if into.exists() and not into.is_dir():
        raise NotEmpty(f"{into} is a file: name a new folder; nothing was changed")
    if into.is_dir() and any(into.iterdir()):
        raise NotEmpty(f"{into.resolve()} is not empty: name a new or an empty folder; nothing was changed")


# ------------------------------------------------------------------------------------------------ DVC


@contextlib.contextmanager
def _repo(workspace: Path, remote_url: str, home: Path, *, links: str) -> Iterator[Repo]:
    """The workspace as a DVC repository, without git, on the shared cache."""
    from dvc.repo import Repo

    remote: dict[str, Any] = {"url": remote_url, "verify": True}
    if storage.is_local(remote_url):
        remote["url"] = str(storage.local_path(remote_url).absolute())
    elif endpoint := os.environ.get("MLOPS_S3_ENDPOINT_URL"):
        remote["endpointurl"] = endpoint
    own = workspace / ".dvc"
    sections = {
        "core": {
            "no_scm": True,
            "analytics": False,
            "check_update": False,
            "remote": REMOTE,
            "site_cache_dir": own / "site",
        },
        "cache": {"dir": Home(home.absolute()).dvc_cache, "type": links},
        f"'remote \"{REMOTE}\"'": remote,
    }
    lines = [
        f"[{name}]\n" + "".join(f"    {k} = {v}\n" for k, v in values.items()) for name, values in sections.items()
    ]
    (own / "tmp").mkdir(parents=True, exist_ok=True)
    (own / "config").write_text("".join(lines), encoding="utf-8")
    repo = Repo(str(workspace))
    try:
        yield repo
    finally:
        repo.close()


def _target(workspace: Path, model: str) -> str:
    return f"{workspace / 'dvc.yaml'}:features@{model}"


def _previous_locks(engine: sa.Engine, model: str, home: Path) -> list[str]:
    """Where to go on from: a run that computed but could not push or record, then the latest version."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        found.append(Home(home).dvc_pending(model).read_text(encoding="utf-8"))
    known = _latest(engine, model)
    return [*found, *([known.dvc_lock] if known else [])]


def _bring_previous(repo: Repo, workspace: Path, model: str, locks: list[str]) -> None:
    """The last files that can be had, so that only what changed is computed; with none, everything is."""
    for lock in locks:
        try:
            _bring_back(repo, workspace, model, lock)
        except FeatureVersionError as error:
            log.warning("%s; computing more of %s again", error, model)
            shutil.rmtree(workspace / "features", ignore_errors=True)
            (workspace / "dvc.lock").unlink(missing_ok=True)
            repo._reset()
        else:
            return


def _bring_back(repo: Repo, workspace: Path, model: str, lock: str) -> None:
    """Check the files of a dvc.lock out into the workspace, each with the bytes it had.

    Raises:
        FeatureVersionError: neither cache nor remote has them.
    """
    from dvc.exceptions import DvcException

    (workspace / "dvc.lock").write_text(lock, encoding="utf-8")
    repo._reset()
    target = _target(workspace, model)
    cache, oid = repo.cache.local, _oid_of(lock, model)
    folder = workspace / "features" / model

    def spoilt() -> list[str]:
        """The objects that are missing from the cache or not what their name says; they are removed from it."""
        listing = Path(cache.oid_to_path(oid))
        found = [] if _is_object(listing, oid) else [oid]
        if not found:
            members = {entry["md5"] for entry in json.loads(listing.read_bytes())}
            found = [member for member in sorted(members) if not _is_object(Path(cache.oid_to_path(member)), member)]
        for bad in found:
            path = Path(cache.oid_to_path(bad))
            if path.exists():
                log.warning("the cached object %s is corrupt: removed, to be fetched from the remote", path)
                path.unlink()
        return found

    try:
        for _ in range(3):  # the listing, then its members, then the proof
            if not spoilt():
                break
            repo.fetch(targets=[target])
        else:
            raise FeatureVersionError(f"the remote's copy of {model} features {oid} is corrupt")
        shutil.rmtree(folder, ignore_errors=True)
        repo.checkout(targets=[target], force=True)
    except (DvcException, OSError) as error:
        raise FeatureVersionError(f"features {oid} of {model} cannot be brought back: {error}") from error


def _is_object(path: Path, oid: str) -> bool:
    """Whether a cached object is there and has the bytes that its name says."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() == oid.removesuffix(".dir")
    except FileNotFoundError:
        return False


def _push(repo: Repo, workspace: Path, model: str, remote_url: str) -> None:
    """Push what the remote lacks of the version, its listing last, and see that it holds all.

    Raises:
        FeatureVersionError: it does not; running the build again resumes.
    """
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    oid = _oid_of((workspace / "dvc.lock").read_text(encoding="utf-8"), model)
    resume = "the version is not recorded; run the build again when the remote is back, it goes on from here"
    try:
        if storage.is_local(remote_url):
            storage.local_path(remote_url).mkdir(parents=True, exist_ok=True)
        cache, remote = repo.cache.local, repo.cloud.get_remote_odb(REMOTE)
        # Not repo.push(): where the remote has the folder's listing, that believes it to have all members too.
        transfer(cache, remote, [HashInfo("md5", oid)], shallow=False, cache_odb=cache)
        listing = json.loads(Path(cache.oid_to_path(oid)).read_bytes())
        wanted = {oid, *(entry["md5"] for entry in listing)}
        there = set(remote.oids_exist(sorted(wanted)))
    except (DvcException, OSError, ValueError) as error:
        raise FeatureVersionError(
            f"the features of {model} could not be pushed to {remote_url}: {error}; {resume}"
        ) from error
    if lacking := wanted - there:
        raise FeatureVersionError(
            f"{remote_url} lacks {len(lacking)} of {len(wanted)} objects of {model} after the push; {resume}"
        )


def _oid_of(lock: str, model: str) -> str:
    """The md5 of the feature folder in a dvc.lock, as DVC names the object: with `.dir`."""
    try:
        stages = yaml.safe_load(lock)["stages"]
        return str(stages[f"features@{model}"]["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise FeatureVersionError(f"the dvc.lock of {model} holds no feature folder: {error!r}") from error


def _version_of(lock: str, model: str) -> str:
    return _oid_of(lock, model).removesuffix(".dir")


# ------------------------------------------------------------------------------------------------ workspaces


@contextlib.contextmanager
def _workspace(home: Path, name: str) -> Iterator[Path]:
    """A private folder that belongs to this process; those of dead processes are removed."""
    work = Home(home.absolute()).dvc_work
    work.mkdir(parents=True, exist_ok=True)
    storage.ensure_space(work)
    workspace = work / f"{name}-{uuid.uuid4().hex[:12]}"
    with _locked(work / ".lock"):
        _sweep(work)
        workspace.mkdir()
        owner = (workspace / stage.OWNER_LOCK).open("wb")
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        owner.close()


def _sweep(work: Path) -> None:
    """Remove the workspaces whose owners are dead."""
    for workspace in work.iterdir():
        if not workspace.is_dir():
            continue
        try:
            with (workspace / stage.OWNER_LOCK).open("rb") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(workspace, ignore_errors=True)
        except FileNotFoundError:
            shutil.rmtree(workspace, ignore_errors=True)
        except BlockingIOError:  # alive, or its stage is just about to end
            continue


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
