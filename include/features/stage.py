"""What dvc.yaml runs: validated partitions in, one parquet file of features for each out.

`python -m include.features.stage MODEL` works in the current folder, a private workspace that versions/ has
laid out:

    inputs/<model>/partitions.json   the partitions and the SHA-256 that validation recorded for each
    inputs/<model>/features.json     the compiled feature set, target, time and entity columns
    inputs/<model>/definition.py     the model's Python features, where it has some
    run.json                         where the validated partitions lie in this installation; not an input
    features/<model>/                the output: <key>.parquet, feature_set.json, index.json
    result.json                      what was computed, or why not; read by versions/

Only partitions whose content or features changed since index.json was written are computed; one that is no
longer listed is removed. Each file appears whole or not at all. A partition is read by its hash: what was
swapped after validation fails. Memory is bounded by the largest partition's compressed bytes and a few batches
of rows.

A feature file holds the raw inputs, time and entity columns, the target and the computed features. Rows without
a target are left out and counted.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from include import storage
from include.features.definition import FeatureError
from include.features.feature_file import build_partition
from include.features.plan import Plan, StageError, read_plan

ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}
"""For the process that runs the stage: glibc keeps the memory of a batch for the next one, a tenth of the CPU."""
OWNER_LOCK = "owner.lock"
RESULT = "result.json"
INDEX = "index.json"
FEATURE_SET = "feature_set.json"


def run(plan: Plan, output: Path, data_url: str) -> dict[str, Any]:
    """Bring `output` to the plan: compute what changed, keep what did not, remove what it no longer lists.

    Returns:
        `computed`, the keys; `reused`, how many; `rows`; `dropped`, the rows without a target.

    Raises:
        storage.ChangedFile: a partition is not the one that validation recorded.
        StageError: the features of a partition cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    known = _known(output, plan.fingerprint)
    index: dict[str, dict[str, Any]] = {}
    computed: list[str] = []
    for key, sha256 in plan.partitions.items():
        file = output / f"{key}.parquet"
        entry = known.get(key)
        if entry and entry["input"] == sha256 and file.is_file() and file.stat().st_size == entry["bytes"]:
            index[key] = entry
            continue
        content = storage.read_bytes(storage.join(data_url, "validated", plan.source, f"{key}.parquet"), sha256)
        index[key] = {"input": sha256, **build_partition(plan, key, content, file)}
        computed.append(key)
    _refuse_empty_features(plan, index)
    stored = {
        "spec": plan.feature_set.spec,
        "definition": plan.feature_set.definition,
        "target": plan.target,
        "types": plan.types,
    }
    storage.write_bytes(str(output / FEATURE_SET), _json(stored))
    storage.write_bytes(str(output / INDEX), _json({"fingerprint": plan.fingerprint, "partitions": index}))
    expected = {FEATURE_SET, INDEX, *(f"{key}.parquet" for key in index)}
    for file in output.iterdir():
        if file.name not in expected:
            file.unlink()
    return {
        "computed": computed,
        "reused": len(index) - len(computed),
        "rows": sum(entry["rows"] for entry in index.values()),
        "dropped": sum(entry["dropped"] for entry in index.values()),
    }


def _known(output: Path, fingerprint: str) -> dict[str, dict[str, Any]]:
    """What index.json says was computed before by the same features and code."""
    try:
        index = json.loads((output / INDEX).read_bytes())
        return dict(index["partitions"]) if index["fingerprint"] == fingerprint else {}
    except (OSError, ValueError, KeyError, TypeError):  # absent or broken: everything is computed
        return {}


def _refuse_empty_features(plan: Plan, index: dict[str, dict[str, Any]]) -> None:
    """A feature without a value in any partition cannot be learned from."""
    rows = sum(entry["rows"] for entry in index.values())
    for name in plan.feature_set.kinds:
        if index and not any(entry["filled"].get(name) for entry in index.values()):
            raise StageError(
                f"the feature {name!r} of {plan.model} has no value in any of {rows} rows of {len(index)} partitions;"
                f" leave it out with `exclude: [{name}]`, or correct what makes it"
            )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


# ------------------------------------------------------------------------------------------------ as a process


def end_with_owner(lock: Path) -> None:
    """End this process as soon as the owner of the workspace is dead, however it died.

    The owner holds an exclusive lock on the file, which the kernel frees with the process; a thread waits for
    just that. Without such a file there is no owner.
    """
    if not lock.exists():
        return

    def wait() -> None:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            os._exit(70)

    threading.Thread(target=wait, name="owner", daemon=True).start()


def main(arguments: list[str]) -> int:
    """Run the stage in the current folder; the exit status is 1 when result.json holds an error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m include.features.stage MODEL, in a workspace of include.features.versions\n")
        return 2
    workspace = Path.cwd()
    end_with_owner(workspace / OWNER_LOCK)
    (model,) = arguments
    try:
        location = json.loads((workspace / "run.json").read_bytes())
        plan = read_plan(workspace, model)
        result = run(plan, workspace / "features" / model, location["data_url"])
    except (StageError, FeatureError, storage.StorageError) as error:
        sys.stderr.write(f"{error}\n")
        storage.write_bytes(str(workspace / RESULT), _json({"error": str(error), "kind": type(error).__name__}))
        return 1
    storage.write_bytes(str(workspace / RESULT), _json(result))
    if sys.stdout.isatty():  # for who runs `dvc repro` by hand; a task says it in its own line
        sys.stdout.write(
            f"{model}: {len(result['computed'])} partitions computed, {result['reused']} unchanged,"
            f" {result['rows']} rows, {result['dropped']} without a target\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
