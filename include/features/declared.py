"""What params.yaml can declare instead of Python: encodings that learn from the training part and apply as plain NumPy.

Learned values are plain data (JSON). Each feature column goes, in this order, through

    impute            a missing value becomes the mean, median, most frequent value, or a constant
    bin               a number becomes the index of its bin; edges are quantiles of the training part, or given
    ordinal           a category becomes its place in an order; unknown and missing are -1
    one_hot           a category becomes one 0/1 column for each category seen; unknown ones are all zero
    target_encoding   a category becomes the smoothed mean of the target where it occurs; unknown: the overall mean
    standard_scaler   (x - mean) / standard deviation, in float64
    pca               numbers become their first principal components, which replace them

Categories are text or numbers. A missing value is a category of its own where the training part had one, else
it counts as unknown.

Smoothing. The mean of category c with n_c rows is `(n_c * mean_c + m * mean) / (n_c + m)`, the shrinkage of D.
Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes" (SIGKDD Explorations 3(1),
2001), equations 3 to 5, with m the ratio of the variance within categories to the variance between them, both
estimated by one-way analysis of variance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

MAXIMUM_ONE_HOT = 30
"""Categories up to which an undeclared text column becomes one_hot; above, target_encoding."""
DECLARED_ONE_HOT = 500
"""Categories above which even a declared one_hot is refused: each is a column."""
FOLDS = 5
FEW_ROWS = 1_024
"""Up to here a call costs more than what it computes: fewer calls are made, at the price of a copy."""
_TABLED_ONE_HOT = 64
_SMOOTHING = (1.0, 1_000.0)

Fitted = dict[str, Any]


class UnknownCategory(ValueError):
    """A category that training did not see, where params.yaml says `unknown_category: error`.

    Attributes:
        column: the feature column.
        row: the first row that has one.
    """

    def __init__(self, column: str, row: int, value: object) -> None:
        super().__init__(f"row {row}, column {column!r}: training did not see the category {value!r}")
        self.column, self.row, self.value = column, row, value


class FitError(ValueError):
    """What is declared cannot be learned from these rows; the message names the column and the remedy."""


# ------------------------------------------------------------------------------------------------ categories


def is_missing(values: np.ndarray) -> np.ndarray:
    """Which values are missing: None in text, NaN in numbers."""
    if values.dtype.kind == "O":
        return np.asarray(values == None, dtype=bool)  # noqa: E711  (elementwise)
    return np.asarray(np.isnan(values))


class _Places(dict[Any, int]):
    """Category → place; whatever else is asked for is `unknown`."""

    def __init__(self, known: Mapping[Any, int], unknown: int = -1) -> None:
        super().__init__(known)
        self._unknown = unknown

    def __missing__(self, value: Any) -> int:
        return self._unknown


class Categories:
    """A fitted list of categories that finds the place of each value: -1 unknown, -2 missing and not among them."""

    __slots__ = ("_keys", "_numeric", "_order", "find", "missing", "texts", "values")

    def __init__(self, values: Sequence[float | str | None]) -> None:
        self.values = list(values)
        self.missing = self.values.index(None) if None in self.values else -2
        present = [(v, i) for i, v in enumerate(self.values) if v is not None]
        self.find = _Places({**dict(present), None: self.missing}).__getitem__
        """The place of one value; NaN is not found."""
        self._numeric = bool(present) and not isinstance(present[0][0], str)
        self.texts = bool(present) and not self._numeric
        if self._numeric:
            keys = np.array([v for v, _ in present], dtype=np.float64)
            order = np.argsort(keys, kind="stable")
            self._keys, self._order = keys[order], np.array([i for _, i in present], dtype=np.int64)[order]

    def places(self, values: np.ndarray) -> np.ndarray:
        """The place of each value, as int64."""
        count = len(values)
        if values.dtype.kind == "O":
            return np.fromiter(map(self.find, values), dtype=np.int64, count=count)
        missing_rows = np.isnan(values)
        if not self._numeric:
            return np.where(missing_rows, self.missing, -1)
        if count <= FEW_ROWS:
            places = np.fromiter(map(self.find, values.tolist()), dtype=np.int64, count=count)
        else:
            slots = np.searchsorted(self._keys, values)
            slots[slots == len(self._keys)] = 0
            places = np.where(self._keys[slots] == values, self._order[slots], -1)
        places[missing_rows] = self.missing
        return places

    def place(self, values: np.ndarray, column: str, unknown: str) -> int:
        """As `checked`, of a row that is alone."""
        value = values.item()
        found = self.missing if value != value and values.dtype.kind != "O" else self.find(value)
        if found == -1 and unknown == "error":
            raise UnknownCategory(column, 0, value)
        return found

    def checked(self, values: np.ndarray, column: str, unknown: str) -> np.ndarray:
        """`places`, refusing an unknown category where the policy says so.

        Raises:
            UnknownCategory: `unknown` is "error" and a value is none of the categories.
        """
        places = self.places(values)
        if unknown == "error" and (places == -1).any():
            row = int(np.argmax(places == -1))
            raise UnknownCategory(column, row, values[row])
        return places


def categories_of(values: np.ndarray) -> list[float | str | None]:
    """The distinct values in order, a missing one last."""
    if values.dtype.kind == "O":
        found = set(values.tolist())
        return [*sorted(v for v in found if v is not None), *([None] if None in found else [])]
    missing = np.isnan(values)
    present: list[float | str | None] = np.unique(values[~missing]).tolist()
    return [*present, *([None] if missing.any() else [])]


_UNNAMEABLE = str.maketrans({"[": "(", "]": ")", "<": "lt "})  # XGBoost refuses these in a feature's name


def label(value: float | str | None) -> str:
    """A category as part of a column's name."""
    if value is None:
        return "missing"
    return value.translate(_UNNAMEABLE) if isinstance(value, str) else f"{value:.15g}"


# ------------------------------------------------------------------------------------------------ impute, bin


def fit_impute(values: np.ndarray, how: float | str, column: str) -> float | str:
    """What replaces a missing value of the column."""
    text = values.dtype.kind == "O"
    if how == "most_frequent":
        present = values[~is_missing(values)]
        if not len(present):
            raise FitError(f"impute.{column}: the training part has no value; exclude the column, or give a constant")
        found, counts = np.unique(present.astype(str) if text else present, return_counts=True)
        best = found[int(np.argmax(counts))]
        return str(best) if text else float(best)
    if text:
        if how in ("mean", "median") or not isinstance(how, str):
            raise FitError(f"impute.{column}: {how!r} needs numbers, the column is text; use most_frequent or a text")
        return how
    if how in ("mean", "median"):
        present = values[~np.isnan(values)]
        if not len(present):
            raise FitError(f"impute.{column}: the training part has no value; exclude the column, or give a constant")
        return float(np.mean(present) if how == "mean" else np.median(present))
    if isinstance(how, str):
        raise FitError(f"impute.{column}: expected mean, median, most_frequent or a number, not {how!r}")
    return float(how)


def impute(values: np.ndarray, fill: float | str) -> np.ndarray:
    """The values with missing ones replaced."""
    missing = is_missing(values)
    if not missing.any():
        return values
    filled = values.copy()
    filled[missing] = fill
    return filled


def fit_bin(values: np.ndarray, bins: int | Sequence[float], column: str) -> list[float]:
    """The inner edges of the bins: given, or quantiles of the training part."""
    if not isinstance(bins, int):
        edges = [float(edge) for edge in bins]
        if edges != sorted(set(edges)) or not edges:
            raise FitError(f"bin.{column}: edges must rise, not {edges}")
        return edges
    if bins < 2:
        raise FitError(f"bin.{column}: at least 2 bins, not {bins}")
    present = values[~np.isnan(values)]
    if not len(present):
        raise FitError(f"bin.{column}: the training part has no value; exclude the column, or give the edges")
    return [float(e) for e in np.unique(np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1]))]


def bin_index(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each value, the first 0; missing stays missing."""
    places = np.searchsorted(edges, values, side="right").astype(np.float64)
    missing = np.isnan(values)
    if missing.any():
        places[missing] = np.nan
    return places


# ------------------------------------------------------------------------------------------------ target encoding


def target_matrix(y: np.ndarray, task: str) -> tuple[np.ndarray, list[Any]]:
    """The target as numbers to average: (n, 1), or for multiclass a 0/1 column for each class but the first.

    Also returns the classes in order; empty for regression.
    """
    if task == "regression":
        return np.asarray(y, dtype=np.float64).reshape(-1, 1), []
    classes = np.unique(y)
    if task == "binary" and len(classes) > 2:
        raise FitError(f"the target of a binary model has {len(classes)} classes; say `task: multiclass`")
    indicators = [np.asarray(y == c, dtype=np.float64) for c in classes[1:]] or [np.zeros(len(y))]
    return np.stack(indicators, axis=1), classes.tolist()


def fit_target_encoding(places: np.ndarray, count: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed means of the target: (categories, k), and the overall mean (k,); `places` below 0 are left out."""
    known = places >= 0
    if not known.all():
        places, targets = places[known], targets[known]
    prior = targets.mean(axis=0) if len(targets) else np.zeros(targets.shape[1])
    sizes = np.bincount(places, minlength=count).astype(np.float64)
    means = np.empty((count, targets.shape[1]))
    for k in range(targets.shape[1]):
        y = targets[:, k]
        sums = np.bincount(places, weights=y, minlength=count)
        m = _smoothing(places, y, sizes, sums, prior[k])
        means[:, k] = (sums + m * prior[k]) / (sizes + m)
    return means, prior


def _smoothing(places: np.ndarray, y: np.ndarray, sizes: np.ndarray, sums: np.ndarray, prior: float) -> float:
    seen = sizes > 0
    groups, rows = int(seen.sum()), len(y)
    if groups < 2 or rows <= groups:
        return _SMOOTHING[1]
    means = np.divide(sums, sizes, out=np.zeros_like(sums), where=seen)
    within = float(((y - means[places]) ** 2).sum()) / (rows - groups)
    between_squares = float((sizes * (means - prior) ** 2)[seen].sum())
    effective = rows - float((sizes**2).sum()) / rows
    between = (between_squares - (groups - 1) * within) / effective
    if between <= 0:
        return _SMOOTHING[1]
    return float(np.clip(within / between, *_SMOOTHING))


def cross_fitted(places: np.ndarray, count: int, targets: np.ndarray, seed: int) -> np.ndarray:
    """The encoding of the training rows themselves, each by the other folds: a row never sees its own target."""
    rows = len(places)
    folds = min(FOLDS, rows)
    fold = np.random.default_rng(seed).permutation(rows) % max(folds, 1)
    encoded = np.empty((rows, targets.shape[1]))
    for number in range(folds):
        mine = fold == number
        if folds == 1:
            means, prior = fit_target_encoding(places, count, targets)
        else:
            means, prior = fit_target_encoding(places[~mine], count, targets[~mine])
        encoded[mine] = apply_target_encoding(places[mine], means, prior)
    return encoded


def apply_target_encoding(places: np.ndarray, means: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(n, k): the means of each row's category, the overall mean where it is unknown."""
    encoded: np.ndarray = means[places]
    unknown = places < 0
    if unknown.any():
        encoded[unknown] = prior
    return encoded


# ------------------------------------------------------------------------------------------------ scaling, PCA


def fit_scaler(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, missing values left out; a constant column keeps deviation 1."""
    present = values[~np.isnan(values)]
    if not len(present):
        return 0.0, 1.0
    deviation = float(np.std(present))
    return float(np.mean(present)), deviation if deviation > 0 and np.isfinite(deviation) else 1.0


def fit_pca(X: np.ndarray, components: int, name: str, columns: Sequence[str]) -> dict[str, Any]:
    """Means and the first right singular vectors of the centred columns; each vector's largest entry is positive."""
    if components > min(X.shape):
        shape = f"{X.shape[1]} columns and {X.shape[0]} rows"
        raise FitError(f"pca.{name}: {components} components of {shape}; ask for fewer")
    if np.isnan(X).any():
        column = columns[int(np.argmax(np.isnan(X).any(axis=0)))]
        raise FitError(f"pca.{name}: {column!r} has missing values; declare `impute: {{{column}: median}}`")
    mean = X.mean(axis=0)
    _, _, vectors = np.linalg.svd(X - mean, full_matrices=False)
    vectors = vectors[:components]
    largest = np.abs(vectors).argmax(axis=1)
    vectors = vectors * np.sign(vectors[np.arange(components), largest])[:, None]
    return {"mean": mean.tolist(), "vectors": vectors.tolist()}


def apply_pca(X: np.ndarray, mean: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n, components). Summed in one fixed order, so that a row alone gives the bits it gives among others."""
    centred = X - mean
    projected = np.zeros((len(X), len(vectors)))
    for column in range(X.shape[1]):
        projected += centred[:, column, None] * vectors[None, :, column]
    return projected


# ----------------------------------------------------------------------------------------- all steps of one model


class Steps:
    """The declared steps of one model: fit on the training part, transform any rows by what was learned.

    Args:
        declared: `impute`, `bin`, `ordinal`, `one_hot`, `target_encoding`, `standard_scaler`, `pca`, as in params.yaml.
        kinds: feature column → `number` or `string`, in the order of the output.
    """

    def __init__(self, declared: dict[str, Any], kinds: dict[str, str]) -> None:
        self.declared, self.kinds = declared, kinds

    def fit(self, columns: dict[str, np.ndarray], y: np.ndarray, *, task: str, seed: int) -> tuple[Fitted, np.ndarray]:
        """Learn from the training part; also its matrix, target encoding cross-fitted."""
        if not len(y):
            raise FitError("the training part has no rows")
        targets, classes = target_matrix(y, task)
        entries: list[dict[str, Any]] = []
        blocks: list[np.ndarray] = []
        for column, kind in self.kinds.items():
            entry, block = self._fit_column(column, kind, columns[column], targets, classes, seed)
            if block.shape[1]:
                entries.append(entry)
                blocks.append(block)
        pca = []
        for name, how in self.declared.get("pca", {}).items():
            taken = [i for i, entry in enumerate(entries) if entry["column"] in how["columns"]]
            names = [n for i in taken for n in entries[i]["names"]]
            learned = fit_pca(np.concatenate([blocks[i] for i in taken], axis=1), how["components"], name, names)
            made = [f"{name}_{i}" for i in range(how["components"])]
            pca.append({"name": name, "columns": list(how["columns"]), "names": made} | learned)
        _make_unique([entry["names"] for entry in [*entries, *pca]])
        fitted = {"columns": entries, "pca": pca}
        plan = Plan(fitted)
        return fitted, plan.arrange(blocks, len(y))

    def _fit_column(
        self, column: str, kind: str, values: np.ndarray, targets: np.ndarray, classes: list[Any], seed: int
    ) -> tuple[dict[str, Any], np.ndarray]:
        declared = self.declared
        entry: dict[str, Any] = {"column": column}
        if column in declared.get("impute", {}):
            entry["fill"] = fit_impute(values, declared["impute"][column], column)
            values = impute(values, entry["fill"])
        if column in declared.get("bin", {}):
            entry["edges"] = fit_bin(values, declared["bin"][column], column)
            values = bin_index(values, np.array(entry["edges"]))
        encoding = self.encoding(column, kind, values)
        entry["encoding"] = encoding
        if encoding == "number":
            block = values.reshape(-1, 1)
            entry["names"] = [column]
        else:
            given = declared.get("ordinal", {}).get(column) if encoding == "ordinal" else None
            entry["categories"] = _given(given, values, column) if given else categories_of(values)
            if encoding == "ordinal":
                entry["categories"] = [c for c in entry["categories"] if c is not None]
            if encoding == "one_hot" and len(entry["categories"]) > DECLARED_ONE_HOT:
                raise FitError(
                    f"one_hot: {column!r} has {len(entry['categories'])} categories in the training part,"
                    f" each a column; declare `target_encoding: [{column}]` instead"
                )
            known = Categories(entry["categories"])
            places = known.places(values)
            count = len(entry["categories"])
            if encoding == "target_encoding":
                means, prior = fit_target_encoding(places, count, targets)
                entry |= {"means": means.T.tolist(), "prior": prior.tolist()}
                suffixes = [""] if len(prior) == 1 else [f"_{c}" for c in classes[1:]]
                entry["names"] = [f"{column}_target{suffix}" for suffix in suffixes]
                block = cross_fitted(places, count, targets, seed)
            elif encoding == "ordinal":
                entry["names"] = [column]
                block = np.maximum(places, -1).astype(np.float64).reshape(-1, 1)
            else:
                entry["names"] = [f"{column}={label(c)}" for c in entry["categories"]]
                block = (places[:, None] == np.arange(count)).astype(np.float64)
        if self._scaled(column, encoding, "edges" in entry):
            scales = [fit_scaler(block[:, i]) for i in range(block.shape[1])]
            entry["scale"] = [list(scale) for scale in scales]
            block = np.stack([(block[:, i] - mean) / deviation for i, (mean, deviation) in enumerate(scales)], axis=1)
        return entry, block

    def encoding(self, column: str, kind: str, values: np.ndarray) -> str:
        """What becomes of a column: as declared, else `number`, `one_hot` or `target_encoding` by its kind."""
        for name in ("ordinal", "one_hot", "target_encoding"):
            if column in self.declared.get(name, ()):
                return name
        if kind == "number":
            return "number"
        distinct = set(itertools.islice(_distinct(values), MAXIMUM_ONE_HOT + 1))
        return "one_hot" if len(distinct) <= MAXIMUM_ONE_HOT else "target_encoding"

    def _scaled(self, column: str, encoding: str, binned: bool) -> bool:
        wanted = self.declared.get("standard_scaler", ())
        return (encoding == "number" and not binned) if wanted == "all" else column in wanted


def with_codes(fitted: Fitted, declared_one_hot: Sequence[str]) -> Fitted | None:
    """The same with one column of codes for each text that became one_hot by itself; None where there is none.

    A code is the place of the category; unknown and missing ones, where training had none missing, are NaN. It is for
    estimators that know categories: no order is meant.
    """
    entries = [
        {**entry, "encoding": "code", "names": [entry["column"]]}
        if entry["encoding"] == "one_hot" and "scale" not in entry and entry["column"] not in declared_one_hot
        else entry
        for entry in fitted["columns"]
    ]
    coded = {**fitted, "columns": entries}
    return coded if any(entry["encoding"] == "code" for entry in entries) else None


def codes_of(fitted: Fitted, coded: Fitted, X: np.ndarray) -> np.ndarray:
    """The matrix of `coded`, which `with_codes` made of `fitted`, from that of `fitted`.

    Made of the matrix and not of the rows: what is cross-fitted in that of the training rows stays so.
    """
    consumed = {column for pca in fitted["pca"] for column in pca["columns"]}
    blocks, at = [], 0
    for entry, new in zip(fitted["columns"], coded["columns"], strict=True):
        if entry["column"] in consumed:
            continue
        block = X[:, at : at + len(entry["names"])]
        at += len(entry["names"])
        if new["encoding"] == "code":
            block = np.where(block.any(axis=1), block.argmax(axis=1), np.nan)[:, None]
        blocks.append(block)
    return np.ascontiguousarray(np.concatenate([*blocks, X[:, at:]], axis=1))


def _make_unique(names: list[list[str]]) -> None:
    """Number the later of equal names: `a=1`, `a=1#2`."""
    seen: dict[str, int] = {}
    for group in names:
        for index, name in enumerate(group):
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                group[index] = f"{name}#{seen[name]}"


def _given(categories: Sequence[str], values: np.ndarray, column: str) -> list[float | str | None]:
    """Declared categories, which params.yaml writes as text, as values of the column."""
    if values.dtype.kind == "O":
        return list(categories)
    try:
        return [float(c) for c in categories]
    except ValueError as error:
        raise FitError(f"ordinal.{column}: the column holds numbers, its categories must be numbers too") from error


def _distinct(values: Iterable[Any]) -> Iterable[Any]:
    seen: set[Any] = set()
    for value in values:
        if value not in seen:
            seen.add(value)
            yield value


class Plan:
    """Learned values made ready to apply: the arrays and look-up tables of one `fitted`.

    Attributes:
        names: of the matrix's columns.
        origins: for each of them the feature column that it is made of; a principal component is its own.
        coded: for each of them whether it holds codes of categories, which have no order.
    """

    def __init__(self, fitted: Fitted) -> None:
        self.entries = [_Entry(entry) for entry in fitted["columns"]]
        self.pca = [(p, np.array(p["mean"]), np.array(p["vectors"])) for p in fitted["pca"]]
        self._consumed = {column for p, _, _ in self.pca for column in p["columns"]}
        kept = [entry for entry in self.entries if entry.column not in self._consumed]
        components = [n for p, _, _ in self.pca for n in p["names"]]
        self.names = [n for entry in kept for n in entry.names] + components
        self.origins = [entry.column for entry in kept for _ in entry.names] + components
        self.coded = [entry.encoding == "code" for entry in kept for _ in entry.names] + [False] * len(components)
        self.plain = not self.pca
        starts = itertools.accumulate((len(entry.names) for entry in self.entries), initial=0)
        placed = list(zip(self.entries, starts, strict=False))
        self._numbers = _Numbers([pair for pair in placed if pair[0].number])
        self._marks = _Marks([pair for pair in placed if pair[0].marked], len(self.names))
        self._others = [pair for pair in placed if not (pair[0].number or pair[0].marked)]

    def transform(self, columns: dict[str, np.ndarray], rows: int, unknown: str) -> np.ndarray:
        """The matrix (rows, k) in float64."""
        if self.plain and rows <= FEW_ROWS:
            return self._few(columns, rows, unknown) if rows != 1 else self._one(columns, unknown)
        if self.plain:
            X = np.empty((rows, len(self.names)))
            at = 0
            for entry in self.entries:
                at = entry.fill_in(X, at, columns[entry.column], unknown)
            return X
        blocks = []
        for entry in self.entries:
            block = np.empty((rows, len(entry.names)))
            entry.fill_in(block, 0, columns[entry.column], unknown)
            blocks.append(block)
        return self.arrange(blocks, rows)

    def _one(self, columns: dict[str, np.ndarray], unknown: str) -> np.ndarray:
        """The same bits for a row that is alone, in Python's floats: an array costs more than a number."""
        row = [0.0] * len(self.names)
        at = 0
        for entry in self.entries:
            at = entry.fill_row(row, at, columns[entry.column], unknown)
        return np.array(row, dtype=np.float64).reshape(1, -1)

    def _few(self, columns: dict[str, np.ndarray], rows: int, unknown: str) -> np.ndarray:
        """The same bits for a few rows: all numbers are written and scaled at once, and all texts marked."""
        X = np.zeros((rows, len(self.names) + 1))
        if self._numbers.columns:
            self._numbers.fill_in(X, columns, rows)
        if self._marks.entries:
            self._marks.fill_in(X, columns, rows, unknown)
        for entry, at in self._others:
            entry.fill_in(X, at, columns[entry.column], unknown)
        return X[:, :-1]

    def arrange(self, blocks: list[np.ndarray], rows: int) -> np.ndarray:
        """The columns' blocks side by side, those of a PCA replaced by their components at the end."""
        kept = [b for entry, b in zip(self.entries, blocks, strict=True) if entry.column not in self._consumed]
        for p, mean, vectors in self.pca:
            taken = [b for entry, b in zip(self.entries, blocks, strict=True) if entry.column in p["columns"]]
            kept.append(apply_pca(np.concatenate(taken, axis=1), mean, vectors))
        return np.ascontiguousarray(np.concatenate(kept, axis=1)) if kept else np.empty((rows, 0))


class _Numbers:
    """The columns that are numbers as they are, or only scaled."""

    def __init__(self, placed: list[tuple[_Entry, int]]) -> None:
        self.columns = [entry.column for entry, _ in placed]
        starts = [start for _, start in placed]
        together = starts == list(range(starts[0], starts[0] + len(starts))) if starts else True
        self._at = slice(starts[0], starts[-1] + 1) if starts and together else np.array(starts, dtype=np.intp)
        self._scaled = any(entry.scale for entry, _ in placed)
        scales = [entry.scale[0] if entry.scale else (0.0, 1.0) for entry, _ in placed]  # x - 0 and x / 1 are x's bits
        self._mean, self._deviation = (np.array([scale[i] for scale in scales]).reshape(-1, 1) for i in (0, 1))

    def fill_in(self, X: np.ndarray, columns: dict[str, np.ndarray], rows: int) -> None:
        """Write them into their columns of X."""
        values = np.concatenate([columns[name] for name in self.columns]).reshape(-1, rows)
        if self._scaled:
            values = (values - self._mean) / self._deviation
        X[:, self._at] = values.T


class _Marks:
    """The columns that are one_hot texts."""

    def __init__(self, placed: list[tuple[_Entry, int]], width: int) -> None:
        self.entries = [entry for entry, _ in placed]
        self._nowhere = width  # the matrix's column beyond the last: neither an unknown nor a missing text has a mark
        self._find = [entry.places_from(start, width).__getitem__ for entry, start in placed]
        self._rows = np.arange(FEW_ROWS)

    def fill_in(self, X: np.ndarray, columns: dict[str, np.ndarray], rows: int, unknown: str) -> None:
        """Mark them in X, which is 0 there, and has a column more than there are."""
        found: list[int] = []
        for entry, find in zip(self.entries, self._find, strict=True):
            found += map(find, columns[entry.column].tolist())
        if self._nowhere in found:
            for entry in self.entries:
                assert entry.categories is not None  # noqa: S101  it is one_hot
                entry.categories.checked(columns[entry.column], entry.column, entry.unknown or unknown)
        X[self._rows[:rows], np.array(found, dtype=np.intp).reshape(-1, rows)] = 1.0


class _Entry:
    """One column of a plan."""

    __slots__ = (
        "categories", "column", "edges", "encoding", "fill", "marked", "means", "names", "number", "prior", "scale",
        "table", "unknown",
    )  # fmt: skip

    def __init__(self, entry: dict[str, Any]) -> None:
        self.column: str = entry["column"]
        self.names: list[str] = entry["names"]
        self.encoding: str = entry["encoding"]
        self.fill = entry.get("fill")
        self.edges = np.array(entry["edges"]) if "edges" in entry else None
        self.scale = entry.get("scale")
        self.categories = Categories(entry["categories"]) if "categories" in entry else None
        self.unknown: str | None = entry.get("unknown")  # a field's own policy comes before the model's
        if self.encoding == "target_encoding":
            self.means = np.ascontiguousarray(np.array(entry["means"]).T)
            self.prior = np.array(entry["prior"])
        self.number = self.encoding == "number" and self.fill is None and self.edges is None
        texts = self.categories is not None and self.categories.texts
        self.marked = self.encoding == "one_hot" and texts and self.fill is None and self.scale is None
        width = len(self.names)
        # the last two rows are those of the places -1 and -2: neither an unknown nor a missing category has a mark
        self.table = np.eye(width + 2, width) if self.encoding == "one_hot" and width <= _TABLED_ONE_HOT else None

    def places_from(self, start: int, nowhere: int) -> _Places:
        """The matrix's column of each category, where this column's begin at `start`."""
        assert self.categories is not None  # noqa: S101  it is one_hot
        known = {value: start + place for place, value in enumerate(self.categories.values)}
        return _Places({None: nowhere} | known, nowhere)

    def fill_in(self, X: np.ndarray, at: int, values: np.ndarray, unknown: str) -> int:
        """Write this column's outputs into X from column `at`; the next free column."""
        if self.number and self.scale is None:
            X[:, at] = values
            return at + 1
        if self.fill is not None:
            values = impute(values, self.fill)
        if self.edges is not None:
            values = bin_index(values, self.edges)
        end = at + len(self.names)
        if self.categories is None:
            X[:, at] = values
        else:
            places = self.categories.checked(values, self.column, self.unknown or unknown)
            if self.encoding == "one_hot":
                self._mark(X, at, places)
            elif self.encoding == "ordinal":
                X[:, at] = np.maximum(places, -1)
            elif self.encoding == "code":
                X[:, at] = np.where(places < 0, np.nan, places)
            else:
                X[:, at:end] = apply_target_encoding(places, self.means, self.prior)
        if self.scale is not None:
            for index, (mean, deviation) in enumerate(self.scale, start=at):
                X[:, index] = (X[:, index] - mean) / deviation
        return end

    def _mark(self, X: np.ndarray, at: int, places: np.ndarray) -> None:
        end = at + len(self.names)
        if self.table is not None and len(places) <= FEW_ROWS:
            X[:, at:end] = self.table[places]
            return
        X[:, at:end] = 0.0
        known = np.flatnonzero(places >= 0)
        X[known, at + places[known]] = 1.0

    def fill_row(self, row: list[float], at: int, values: np.ndarray, unknown: str) -> int:
        """As `fill_in`, for a row that is alone and 0 where nothing was written yet."""
        if self.fill is not None:
            values = impute(values, self.fill)
        if self.edges is not None:
            values = bin_index(values, self.edges)
        if self.categories is None:
            row[at] = values.item()
        else:
            place = self.categories.place(values, self.column, self.unknown or unknown)
            if self.encoding == "one_hot":
                if place >= 0:
                    row[at + place] = 1.0
            elif self.encoding == "ordinal":
                row[at] = float(max(place, -1))
            elif self.encoding == "code":
                row[at] = float(place) if place >= 0 else math.nan
            else:
                row[at : at + len(self.names)] = (self.means[place] if place >= 0 else self.prior).tolist()
        if self.scale is not None:
            for index, (mean, deviation) in enumerate(self.scale, start=at):
                row[index] = (row[index] - mean) / deviation
        return at + len(self.names)
