"""What a request must carry, and what the service does with what is unusual in it; golden rows that show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from include.features.columns import ColumnType, is_missing, select
from include.features.feature_set import FeatureSet, UnknownCategory
from include.settings import FieldPolicy, Serving
from include.text import trim

GOLDEN_ROWS = 20
MOST_CATEGORIES = 10_000
"""Texts of a column that the model uses as categories, up to which the service knows which of them are new."""
MANY_CATEGORIES = 50


def allow_unknown(fitted: dict[str, Any], serving: Serving) -> None:
    """Note with what was learned which columns take an unknown category although the model does not."""
    for column in fitted["columns"]:
        policy = serving.fields.get(column["column"])
        if policy is not None and policy.unknown_category == "other" and "categories" in column:
            column["unknown"] = "other"


def categories_of(fitted: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns that are categories as they are, not by their bins, with those that were learned."""
    return {
        column["column"]: [value for value in column["categories"] if value is not None]
        for column in fitted["columns"]
        if "categories" in column and "edges" not in column
    }


def describe_inputs(
    raw: Mapping[str, np.ndarray],
    types: Mapping[str, ColumnType],
    *,
    serving: Serving | None = None,
    learned: Mapping[str, list[Any]] | None = None,
    unknown_category: str = "other",
) -> list[dict[str, Any]]:
    """What a request must carry, and what is done with what is unusual in it.

    Args:
        raw: the rows that training has seen.
        types: the inputs.
        serving: the model's policies; a field's own come before them. None: the defaults.
        learned: column → its categories, where it is used as one.
        unknown_category: the model's policy for these.
    """
    serving, learned = serving or Serving(), learned or {}
    return [
        _described(name, kind, raw[name], serving, learned.get(name), unknown_category) for name, kind in types.items()
    ]


def _described(
    name: str,
    kind: ColumnType,
    values: np.ndarray,
    serving: Serving,
    learned: list[Any] | None,
    unknown_category: str,
) -> dict[str, Any]:
    """One input; `learned` are its categories, None where it is not used as one."""
    policy = serving.fields.get(name, FieldPolicy())
    missing = is_missing(values)
    present = values[~missing]
    missed = policy.missing or serving.missing
    if missed == "auto":
        missed = "impute" if missing.any() else "error"
    unknown = policy.unknown_category or (unknown_category if learned is not None else None)
    bounded = kind in ("float", "int", "timestamp", "date") and len(present) > 0
    return {
        "name": name,
        "type": kind,
        "required": missed == "error",
        "missing": missed,
        "unknown_category": unknown or ("other" if kind == "string" else None),
        "out_of_range": (policy.out_of_range or serving.out_of_range) if kind in ("float", "int") else None,
        "unit": serving.units.get(name),
        "example": _json_value(present[len(present) // 2], kind) if len(present) else None,
        "categories": _listed(present, kind, learned, closed=unknown == "error"),
        "trimmed": kind == "string" and all(trim(text) == text for text in set(present.tolist())),
        "minimum": _json_value(present.min(), kind) if bounded else None,
        "maximum": _json_value(present.max(), kind) if bounded else None,
    }


def _listed(present: np.ndarray, kind: ColumnType, learned: list[Any] | None, *, closed: bool) -> list[Any] | None:
    """The categories of an input that a service knows: all where it takes no other, else those of a text if few."""
    if closed:
        known = learned or sorted(set(present.tolist()))
        return known if kind == "string" else [_json_value(value, kind) for value in known]
    if kind != "string":
        return None
    categories = sorted(set(present.tolist()))
    most = MANY_CATEGORIES if learned is None else MOST_CATEGORIES
    return categories if len(categories) <= most else None


def golden_rows(
    raw: Mapping[str, np.ndarray], feature_set: FeatureSet, fitted: dict[str, Any], inputs: list[dict[str, Any]]
) -> list[int]:
    """About twenty held-out rows that together show what is unusual: missing values, rare categories, extremes.

    Those that are answered without a warning come first. What the service would refuse, or clip, shows nothing.
    """
    rows = len(next(iter(raw.values())))
    taken = np.all([accepted(raw[entry["name"]], entry) for entry in inputs], axis=0)
    ordinary = np.linspace(0, rows - 1, GOLDEN_ROWS).astype(int).tolist()
    chosen: list[int] = []
    for row in dict.fromkeys([*_unusual(raw)[: GOLDEN_ROWS // 2], *ordinary]):
        if len(chosen) < GOLDEN_ROWS and taken[row] and answerable(raw, feature_set, fitted, np.array([row])).all():
            chosen.append(row)
    warned = np.any([_outside(raw[entry["name"]], entry) for entry in inputs], axis=0)
    return sorted(chosen, key=lambda row: bool(warned[row]))


def _unusual(raw: Mapping[str, np.ndarray]) -> list[int]:
    """Of each column the first row without a value, and the rows with its rarest text, or its extremes."""
    found: list[int] = []
    for values in raw.values():
        missing = is_missing(values)
        if missing.any():
            found.append(int(np.flatnonzero(missing)[0]))
        present = np.flatnonzero(~missing)
        if not len(present):
            continue
        if values.dtype.kind == "O":
            _, first, counts = np.unique(values[present].astype(str), return_index=True, return_counts=True)
            found.append(int(present[first[counts.argmin()]]))
        else:
            found += [int(present[values[present].argmax()]), int(present[values[present].argmin()])]
    return list(dict.fromkeys(found))


def accepted(values: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Which values of an input the service takes as they are, by the policies of its description."""
    missing = is_missing(values)
    taken = ~missing if entry["missing"] == "error" else np.ones(len(values), dtype=bool)
    if entry["out_of_range"] in ("error", "clip"):
        taken &= ~_outside(values, entry)
    if entry["unknown_category"] == "error":
        known = set(entry["categories"])
        taken &= missing | np.array([value in known for value in values.tolist()], dtype=bool)
    return taken


def _outside(values: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Which numbers are beyond what training saw."""
    if entry["out_of_range"] is None or entry["minimum"] is None:
        return np.zeros(len(values), dtype=bool)
    return np.asarray((values < entry["minimum"]) | (values > entry["maximum"]))


def answerable(
    raw: Mapping[str, np.ndarray], feature_set: FeatureSet, fitted: dict[str, Any], rows: np.ndarray
) -> np.ndarray:
    """Which rows the service would answer: under `unknown_category: error` none with a category that is new."""
    if feature_set.unknown_category == "other":
        return np.ones(len(rows), dtype=bool)
    found = np.ones(len(rows), dtype=bool)
    for i, row in enumerate(rows):
        try:
            feature_set.transform(fitted, feature_set.compute(select(raw, np.array([row]))))
        except UnknownCategory:
            found[i] = False
    return found


def as_rows(raw: Mapping[str, np.ndarray], types: Mapping[str, ColumnType], rows: list[int]) -> list[dict[str, Any]]:
    """Rows as a client sends them in JSON."""
    return [{name: _json_value(raw[name][row], kind) for name, kind in types.items()} for row in rows]


def _json_value(value: Any, kind: ColumnType) -> Any:
    if value is None or value != value:
        return None
    if kind in ("timestamp", "date"):
        moment = value.astype("datetime64[us]").item()
        return moment.date().isoformat() if kind == "date" else moment.isoformat()
    if kind == "string":
        return str(value)
    if kind == "bool":
        return bool(value)
    return int(value) if kind == "int" and value == int(value) else float(value)
