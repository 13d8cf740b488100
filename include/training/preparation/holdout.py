"""The held-out rows of a training, and the proof that its model was not trained on them.

holdout.parquet      raw inputs, target, time and entity of each held-out row
training_rows.npy    fingerprints of the rows that were trained on, sorted; holdout_rows.npy: of the held-out ones
split.json           how the rows were split, and the SHA-256 of the files above
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from include import storage
from include.settings import Split
from include.training import documents
from include.training.layouts import PARTS
from include.training.preparation.rows import Rows
from include.training.preparation.split import Division
from include.training.preparation.target import Untrainable

FILES = ("holdout.parquet", "training_rows.npy", "holdout_rows.npy")


def write(folder: Path, rows: Rows, division: Division, *, columns: list[str], feature_version: str) -> None:
    """Write the evidence of a split.

    Args:
        folder: where to.
        rows: of all parts.
        division: their parts.
        columns: of the stored table, that a gate or a monitor judges by.
        feature_version: of the rows.

    Raises:
        Untrainable: a held-out row equals one that is trained on.
    """
    import pyarrow as pa

    held_out, identity = division.held_out, division.identity
    shared = int(np.isin(identity[held_out], identity[~held_out]).sum())
    if shared:
        raise Untrainable(
            f"{shared} held-out rows are also trained on; nothing can be judged on them. This is a fault of the"
            f" split: report it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_table(str(folder / "holdout.parquet"), rows.table.select(columns).filter(pa.array(held_out)))
    np.save(folder / "training_rows.npy", np.sort(identity[~held_out]), allow_pickle=False)
    np.save(folder / "holdout_rows.npy", identity[held_out], allow_pickle=False)
    record = {
        "by": _method(division.rule, rows.times),
        "rows": {part: int((division.part == part).sum()) for part in PARTS},
        "bounds": _bounds(division.part, rows.times),
        "held_out_rows_that_were_trained_on": shared,
        "feature_version": feature_version,
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
    }
    documents.write(folder / "split.json", record)


def _method(rule: Split, times: np.ndarray | None) -> str:
    """How the rows were split, in a word."""
    if times is not None and rule.by in ("auto", "time"):
        return "time"
    return "stratified" if rule.by == "auto" else rule.by


def _bounds(part: np.ndarray, times: np.ndarray | None) -> dict[str, list[str]]:
    """The oldest and the newest row of each part."""
    if times is None:
        return {}
    return {name: [str(times[part == name].min()), str(times[part == name].max())] for name in PARTS}
