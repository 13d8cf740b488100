"""What `prepare` would find in some rows of a source, before anything is ingested: for `mlops check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from include.features.columns import ColumnError, Columns, from_arrow, is_missing, select, types_of
from include.features.feature_file import LARGEST
from include.features.feature_set import FeatureError, FeatureSet, FitError
from include.formulas import FormulaError
from include.settings import Model
from include.training import evaluation
from include.training.preparation import split, suspects
from include.training.preparation import target as targets
from include.training.preparation.rows import fingerprints

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Prospect:
    """One thing that would stop a training, or spoil it."""

    certain: bool
    """Whether the training would stop; else it is a warning."""
    key: str
    """The key below the model to blame."""
    text: str


def foresee(
    model: str, entry: Model, feature_set: FeatureSet, table: pa.Table, *, time_column: str | None, whole: bool
) -> list[Prospect]:
    """What a training on these rows would stop at or warn of, by the code that would.

    Args:
        model: the model's name.
        entry: its entry in params.yaml.
        feature_set: its features, compiled.
        table: rows of its source, with the derived columns.
        time_column: the column that dates a row, if any.
        whole: whether these are all rows that there are; of a part, what depends on their number is only a warning.
    """
    import pyarrow as pa

    types = types_of(table.schema)
    try:
        target = targets.read(table, entry, types)
        known = targets.present(model, entry, target)
        classes = targets.classes(model, entry, target[known])
    except (targets.Untrainable, ColumnError) as error:
        return [Prospect(whole, "target", str(error).removeprefix(f"{model}: "))]
    target, table = target[known], table.filter(pa.array(known))
    found = [Prospect(False, "target", text) for text in targets.doubts(entry, target)]
    apart = [column for column in (time_column, entry.entity) if column in types]
    try:
        columns = from_arrow(table, {**{column: types[column] for column in apart}, **feature_set.inputs})
    except ColumnError as error:
        return [*found, Prospect(False, "features", str(error))]
    raw = {name: columns[name] for name in feature_set.inputs}
    try:
        with np.errstate(all="ignore"):
            computed = feature_set.compute(raw)
    except (FeatureError, FormulaError) as error:
        return [*found, Prospect(whole, "features", str(error))]
    unusable = [*_infinite(raw, computed), *_empty(computed)]
    found += [Prospect(whole, "features", text) for text in unusable]
    times = columns.get(time_column or "")
    found += [
        Prospect(False, "features", f"suspect: {each}")
        for each in suspects.find(
            raw, target, task=entry.task, types=feature_set.inputs, times=times, time_column=time_column
        )
        if each.column not in feature_set.kinds or not is_missing(raw[each.column]).all()  # named above
    ]
    if whole and not unusable:
        entity = columns.get(entry.entity or "")
        found += _by_split(model, entry, feature_set, raw, computed, target, classes, times, entity)
    elif times is None and entry.entity is None:
        found += [Prospect(False, "split", text) for text in [suspects.order(target, entry.task)] if text]
    return found


def _infinite(raw: Columns, computed: Columns) -> list[str]:
    """Numbers for which no features are built: infinite inputs, and features beyond 32 bits."""
    found = []
    with np.errstate(invalid="ignore"):
        for name, values in raw.items():
            limit = LARGEST if name in computed else np.finfo(np.float64).max
            if values.dtype.kind == "f" and (beyond := int((np.abs(values) > limit).sum())):
                found.append(
                    f"the column {name!r} is infinite, or too large for 32 bits, in {beyond} of {len(values)} rows, and"
                    f" no features are built of those; {targets.INFINITE_REMEDY}"
                )
        for name, values in computed.items():
            if name not in raw and values.dtype.kind == "f" and (beyond := int((np.abs(values) > LARGEST).sum())):
                found.append(
                    f"the feature {name!r} is infinite, or too large for 32 bits, in {beyond} of {len(values)} rows;"
                    " guard the division or logarithm that makes it, or bound it, as in clip(x, 0, 1e6)"
                )
    return found


def _empty(computed: Columns) -> list[str]:
    return [
        f"the feature {name!r} has no value in any of {len(values)} rows; leave it out with `features.exclude`, or"
        " correct what makes it"
        for name, values in computed.items()
        if is_missing(values).all()
    ]


def _by_split(
    model: str,
    entry: Model,
    feature_set: FeatureSet,
    raw: Columns,
    computed: Columns,
    target: np.ndarray,
    classes: list[object] | None,
    times: np.ndarray | None,
    entity: np.ndarray | None,
) -> list[Prospect]:
    y = evaluation.encode(target, classes)
    rule = split.rule_for(entry, len(y), classes)
    try:
        part = split.assign_parts(
            rule,
            len(y),
            times=times,
            y=y if classes else None,
            groups=fingerprints({**raw, entry.target: target}),
            entity=entity,
            seed=entry.tuning.seed,
        )
        split.check_parts(model, part, y, classes)
        train = part == "train"
        feature_set.fit(select(computed, train), y[train], task=entry.task, seed=entry.tuning.seed)
    except targets.Untrainable as error:
        return [Prospect(True, "split", str(error).removeprefix(f"{model}: "))]
    except FitError as error:
        return [Prospect(True, "features", str(error))]
    return [Prospect(False, "split", text) for text in split.warnings_of(entry, rule, part, target, times)]
