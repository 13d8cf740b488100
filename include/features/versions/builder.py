"""Builds a feature version: compile, lay out a workspace, let DVC run the stage, push, record."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from include import database, schema_record, schemas, storage
from include.features import columns as cols
from include.features import known_columns, stage
from include.features.compiler import compile_model
from include.features.feature_set import FeatureError, FeatureSet
from include.features.fingerprint import fingerprint
from include.features.versions.dvc_repository import DvcRepository, open_repository, version_of
from include.features.versions.record import FeatureVersionError, RecordedVersion, newest, published, record
from include.features.versions.workspace import open_workspace
from include.home import Home
from include.settings import ROOT, ColumnType, Model, Params, load_params


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
    with database.connected(database_url) as engine, database.advisory_lock(engine, f"features:{model}"):
        with engine.connect() as connection:
            partitions = published(connection, entry)
        if not partitions:
            raise FeatureVersionError(
                f"source {entry.source!r} has no published partition; run the DAG ingest_{entry.source} first"
            )
        types = _source_types(engine, params, model, data_url)
        feature_set, known = _compile(engine, params, model, data_url, partitions, types)
        with open_workspace(home, model) as workspace:
            _prepare_workspace(workspace, params, model, feature_set, partitions, types, data_url)
            previous, pending = _previous_locks(engine, model, home), Home(home).dvc_pending(model)
            links = "reflink,hardlink,copy"
            with open_repository(workspace, model, remote_url, home, links=links) as repository:
                repository.resume(previous)
                _reproduce(repository, workspace)
                lock = repository.lock
                storage.write_bytes(str(pending), lock.encode())
                repository.push()
            outcome, version = _outcome(workspace, model), version_of(lock, model)
            made = RecordedVersion(model, version, lock, partitions, outcome["rows"])
            record(engine, made, entry.source, known)
            pending.unlink(missing_ok=True)
    seconds = round(time.monotonic() - started, 3)
    return FeatureVersion(
        model=model,
        version=version,
        partitions=list(partitions),
        left_out=feature_set.left_out,
        seconds=seconds,
        **outcome,
    )


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
    last = next(reversed(partitions))
    types = _types(entry, data_url, last, partitions[last])
    types |= {name: kind for name, kind in source_types.items() if name in types}

    def shared() -> list[str]:
        others = [_types(entry, data_url, key, sha256) for key, sha256 in partitions.items() if key != last]
        return [column for column in types if all(column in other for other in others)]

    try:
        known = None
        if known_columns.takes_all(entry):
            known = known_columns.decide(engine, model, entry, types, shared)
            known_columns.require(known, types, source, entry, last)
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


def _prepare_workspace(
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


def _reproduce(repository: DvcRepository, workspace: Path) -> None:
    """Run the stage where DVC finds that it must run.

    Raises:
        Exception: what the stage itself reported, else FeatureVersionError.
    """
    environment = {
        **stage.ENVIRONMENT,
        "PATH": f"{workspace / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    try:
        repository.reproduce(environment)
    except FeatureVersionError as error:
        if (reported := _reported(workspace)) is None:
            raise
        raise reported from error


def _reported(workspace: Path) -> Exception | None:
    """The error that the stage itself wrote down, if it did."""
    try:
        result = json.loads((workspace / stage.RESULT).read_bytes())
    except (OSError, ValueError):
        return None
    return _REPORTED.get(result.get("kind"), FeatureVersionError)(str(result.get("error")))


_REPORTED: dict[str, type[Exception]] = {
    "ChangedFile": storage.ChangedFile,
    "StorageError": storage.StorageError,
    "FeatureError": FeatureError,
}


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


def _previous_locks(engine: sa.Engine, model: str, home: Path) -> list[str]:
    """Where to go on from: a run that computed but could not push or record, then the newest version."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        found.append(Home(home).dvc_pending(model).read_text(encoding="utf-8"))
    known = newest(engine, model)
    return [*found, *([known.dvc_lock] if known else [])]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
