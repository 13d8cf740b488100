"""What the declared transforms of one model learned, made ready to apply to any rows.

What was learned is plain data (JSON), `Fitted`:

    {"columns": [{"column", "encoding", "names", …}], "pca": [{"name", "columns", "names", …}]}

`encoding` is a transform of the stage ENCODE, `number` for numbers that stay numbers, or `code` (see codes.py). `names`
are the columns of the matrix. Under `unknown` stands a column's own policy for unknown categories, before the model's.
All other keys are what the transforms learned, as their `LEARNS` name them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from include.features import codes, transforms
from include.features.categories import UnknownCategory
from include.features.codes import Fitted, replaced_columns
from include.features.columns import Columns, Values
from include.features.definition import FeatureError
from include.features.transforms import BEFORE_ENCODING, NUMBER, Apply, Learned, Stage
from include.text import did_you_mean

BATCH_ROWS = 1_000
"""Rows that are transformed at once: so many of a usual table stay in the processor's cache. It is no power of two, as
all columns of such a batch compete for the same lines of the cache: its transposition would take ten times as long."""


@dataclass(frozen=True)
class _Step:
    """A transform, ready for some of the columns that stand side by side."""

    places: list[int]
    """Which of them."""
    at: slice | list[int] | None
    """The same as an index; None: all."""
    apply: Apply

    def chosen(self, columns: Values) -> Values:
        """Its columns."""
        if self.at is None:
            return columns
        return [columns[place] for place in self.places] if isinstance(columns, list) else columns[self.at]

    def replace(self, columns: Values, unknown: str) -> Values:
        """The columns, its own transformed; numbers are overwritten."""
        changed = self.apply(self.chosen(columns), unknown)
        if self.at is None:
            return changed
        if not isinstance(columns, list):
            columns[self.at] = changed
            return columns
        found = dict(zip(self.places, changed, strict=True))
        return [found.get(place, column) for place, column in enumerate(columns)]


@dataclass(frozen=True)
class _Group:
    """Columns of one kind that are encoded and scaled together."""

    texts: bool
    chosen: Callable[[Values], Values]
    """Its columns, of all of the kind."""
    steps: list[_Step]
    """The first may give more columns or fewer than it takes, where it takes all of the group."""
    result: slice | list[int]
    """Where the columns that they become stand in the matrix, before projections."""

    def on(self, values: Values, unknown: str) -> Values:
        """What they become, (k, rows)."""
        part = self.chosen(values)
        for step in self.steps:
            part = step.replace(part, unknown)
        return part


class Pipeline:
    """What was learned, ready to apply.

    All columns of one transform are transformed together: a row costs a few calls of NumPy, not some for each column.

    Attributes:
        names: of the matrix's columns.
        origins: for each of them the feature column that it is made of; a principal component is its own.
        coded: for each of them whether it holds codes of categories, which have no order.

    Raises:
        FeatureError: `fitted` has a part that no transform here knows.
    """

    def __init__(self, fitted: Fitted, kinds: Mapping[str, str]) -> None:
        _refuse_unknown_parts(fitted)
        entries: list[Learned] = fitted["columns"]
        starts = [0, *itertools.accumulate(len(entry["names"]) for entry in entries)]
        self._width = starts[-1]
        self._places = [range(start, end) for start, end in itertools.pairwise(starts)]
        numbers = [place for place, entry in enumerate(entries) if kinds[entry["column"]] != "string"]
        texts = [place for place, entry in enumerate(entries) if kinds[entry["column"]] == "string"]
        self._numbers, self._texts = [[entries[place]["column"] for place in own] for own in (numbers, texts)]
        self._before, self._before_texts = [_before_encoding([entries[i] for i in own]) for own in (numbers, texts)]
        self._groups = [*self._group(entries, numbers, texts=False), *self._group(entries, texts, texts=True)]
        self._projections: list[tuple[list[int], Callable[[np.ndarray], np.ndarray]]] = []
        replaced = replaced_columns(fitted)
        retained = [place for place, entry in enumerate(entries) if entry["column"] not in replaced]
        self._retained = np.array(self._columns_of(retained), dtype=np.intp)
        self.names = [name for place in retained for name in entries[place]["names"]]
        self.origins = [entries[place]["column"] for place in retained for _ in entries[place]["names"]]
        self.coded = [
            entries[place]["encoding"] == codes.ENCODING for place in retained for _ in entries[place]["names"]
        ]
        for name in transforms.at(Stage.PROJECT):
            for made in fitted.get(name, ()):
                self._project(name, made, entries)

    def _group(self, entries: Sequence[Learned], own: Sequence[int], *, texts: bool) -> Iterator[_Group]:
        """The groups of the columns of one kind, whose entries stand at the places `own`."""
        for members in _together([entries[place] for place in own], texts=texts):
            places = [own[member] for member in members]
            learned = [entries[place] for place in places]
            chosen = _step(members, len(own), _unchanged).chosen
            result = _index(self._columns_of(places))
            yield _Group(texts, chosen, [*_encodings(learned), *_scalings(learned)], result)

    def _project(self, name: str, made: Learned, entries: Sequence[Learned]) -> None:
        """Add a projection: the columns that it takes, and those that it makes."""
        taken = [place for place, entry in enumerate(entries) if entry["column"] in made["columns"]]
        self._projections.append((self._columns_of(taken), transforms.projection(name).ready(made)))
        self.names += made["names"]
        self.origins += made["names"]
        self.coded += [False] * len(made["names"])

    def _columns_of(self, places: Iterable[int]) -> list[int]:
        """Where the columns of some entries stand in the matrix, before projections."""
        return [column for place in places for column in self._places[place]]

    def transform(self, columns: Columns, rows: int, unknown: str) -> np.ndarray:
        """The matrix (rows, k) in float64.

        Raises:
            UnknownCategory: there is one, and `unknown` or the column's own policy is `error`.
        """
        if rows <= BATCH_ROWS:
            return self.projected(self._batch(columns, rows, unknown)).T
        X = np.empty((rows, len(self.names)))
        for start in range(0, rows, BATCH_ROWS):
            batch = slice(start, min(start + BATCH_ROWS, rows))
            part = {name: columns[name][batch] for name in (*self._numbers, *self._texts)}
            try:
                if self._projections:
                    X[batch] = self.projected(self._batch(part, batch.stop - start, unknown)).T
                else:
                    self._batch(part, batch.stop - start, unknown, X[batch].T)
            except UnknownCategory as error:
                raise UnknownCategory(error.column, start + error.row, error.value) from None
        return X

    def _batch(self, columns: Columns, rows: int, unknown: str, into: np.ndarray | None = None) -> np.ndarray:
        """The matrix's columns before projections, (k, rows); a new array, or `into`."""
        numbers: Values = _NO_COLUMNS
        if self._numbers:
            numbers = _stacked(list(map(columns.__getitem__, self._numbers)), rows)
            for step in self._before:
                numbers = step.replace(numbers, unknown)
        texts: Values = [columns[name] for name in self._texts]
        for step in self._before_texts:
            texts = step.replace(texts, unknown)
        if into is None and len(self._groups) == 1:
            return np.asarray(self._groups[0].on(texts or numbers, unknown))
        joined = np.empty((self._width, rows)) if into is None else into
        for group in self._groups:
            joined[group.result] = group.on(texts if group.texts else numbers, unknown)
        return joined

    def projected(self, joined: np.ndarray) -> np.ndarray:
        """The matrix's columns, (k, rows), of those before projections."""
        if not self._projections:
            return joined
        made = [project(joined[taken]) for taken, project in self._projections]
        return np.concatenate([joined[self._retained], *made])


_NO_COLUMNS = np.empty((0, 0))


def _stacked(columns: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """A new array (columns, rows). Numbers cost less than arrays of one."""
    if rows == 1:
        return np.fromiter(map(np.ndarray.item, columns), np.float64, len(columns)).reshape(-1, 1)
    return np.concatenate(columns).reshape(-1, rows)


def _before_encoding(learned: Sequence[Learned]) -> list[_Step]:
    """What is done with columns of one kind before they are encoded, in order."""
    found = []
    for name in transforms.at(*BEFORE_ENCODING):
        transform = transforms.load(name)
        places = [place for place, entry in enumerate(learned) if transform.LEARNS[0] in entry]
        if places:
            found.append(_step(places, len(learned), transform.ready([learned[place] for place in places])))
    return found


def _unchanged(values: Values, unknown: str) -> Values:
    return values


def _together(learned: Sequence[Learned], *, texts: bool) -> Iterator[list[int]]:
    """Which columns of one kind are encoded together: numbers that become one each, else those of one encoding."""
    groups: dict[str, list[int]] = {}
    for place, entry in enumerate(learned):
        alone = not texts and len(entry["names"]) == 1
        groups.setdefault(NUMBER if alone else entry["encoding"], []).append(place)
    yield from groups.values()


def _encodings(learned: Sequence[Learned]) -> list[_Step]:
    """The encodings of the columns of a group."""
    found = []
    for encoding in dict.fromkeys(entry["encoding"] for entry in learned):
        if encoding != NUMBER:
            places = [place for place, entry in enumerate(learned) if entry["encoding"] == encoding]
            ready = codes.ready if encoding == codes.ENCODING else transforms.load(encoding).ready
            found.append(_step(places, len(learned), ready([learned[place] for place in places])))
    return found


def _scalings(learned: Sequence[Learned]) -> list[_Step]:
    """What is done with the encoded columns of a group, in order."""
    found = []
    for name in transforms.at(Stage.SCALE):
        transform = transforms.load(name)
        scaled = [transform.LEARNS[0] in entry for entry in learned for _ in entry["names"]]
        if any(scaled):
            ready = transform.ready([entry for entry in learned if transform.LEARNS[0] in entry])
            found.append(_step(np.flatnonzero(scaled).tolist(), len(scaled), ready))
    return found


def _step(places: list[int], count: int, apply: Apply) -> _Step:
    """A transform of some of `count` columns."""
    return _Step(places, None if places == list(range(count)) else _index(places), apply)


def _index(places: list[int]) -> slice | list[int]:
    """An index of some columns; a slice where they stand side by side, which copies nothing."""
    together = places == list(range(places[0], places[-1] + 1))
    return slice(places[0], places[-1] + 1) if together else places


_KEYS = ("column", "encoding", "names", "unknown")


def _refuse_unknown_parts(fitted: Fitted) -> None:
    """Refuse what another program learned by a transform that is not here: left out, the numbers would be wrong."""
    known = {*_KEYS, *itertools.chain(*(transforms.load(name).LEARNS for name in transforms.names()))}
    parts = {"columns", *transforms.at(Stage.PROJECT)}
    encodings = {NUMBER, codes.ENCODING, *transforms.at(Stage.ENCODE)}
    for entry in fitted["columns"]:
        where = f"the learned features: column {entry['column']!r}"
        for key in entry.keys() - known:
            raise FeatureError(
                f"{where} has {key!r}, which no file of include/features/transforms/ learns{did_you_mean(key, known)}"
            )
        if entry["encoding"] not in encodings:
            hint = did_you_mean(entry["encoding"], encodings)
            raise FeatureError(f"{where} is encoded as {entry['encoding']!r}, which is unknown{hint}")
    for part in fitted.keys() - parts:
        raise FeatureError(f"the learned features have the part {part!r}, which is unknown{did_you_mean(part, parts)}")
