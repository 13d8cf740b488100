"""Checks decoded values: whole, finite, in range, of a known category; and makes columns of them.

One array holds all numbers of all rows, which is compared with the bounds at once. Only what is refused or unusual is
examined again, value by value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np

from include.inference import errors
from include.inference.errors import Refused
from include.inference.json_path import EARLIEST, LARGEST_NUMBER, LATEST, LONGEST_ENTITY, NAT, NUMERIC, Field, path
from include.inference.schema.checked import MOST_WARNINGS, Checked, Notes, Warning
from include.inference.schema.layout import Bounds, Columns, Layout
from include.text import trim

MOST_SUGGESTIONS = 4
"""Different texts of a field, in one body, for which one is sought that may have been meant."""
_NUMBERS, _TICKS, _TIMES = np.dtype(np.float64), np.dtype(np.int64), np.dtype("datetime64[us]")
_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)


class Checker:
    """Checks values by the policies of a layout, which is copied into attributes: a check reads each of them once."""

    def __init__(self, layout: Layout) -> None:
        self._fields, self._names, self._numeric = layout.fields, layout.names, layout.numeric
        self._whole = sum(field.kind == "int" for field in layout.fields)
        self._texts, self._entity, self._entity_at = layout.texts, layout.entity, layout.entity_at
        self._others = list(enumerate(layout.fields))[self._numeric :]
        self._closed = [field for field in layout.fields if field.categories is not None]
        self._known_texts = [f for f in layout.fields if f.known is not None and f.name != layout.entity]
        self._trimmed = [field for field in layout.fields if field.trimmed]
        bounds = Bounds.of(layout.fields[: self._numeric])
        self._low, self._high, self._erring, self._clipping = bounds.low, bounds.high, bounds.erring, bounds.clipping
        self._errs, self._clips = bool(self._erring.any()), bool(self._clipping.any())

    def check(self, by_column: Sequence[Sequence[Any]], count: int, form: str, *, judged: bool) -> Checked:
        """Columns of decoded values, checked.

        Args:
            by_column: in the layout's order; beyond the inputs there may be an entity.
            count: of rows.
            form: how the body was written, see `Checked`.
            judged: whether the policies count; else any number of any category is taken.

        Raises:
            Refused: with the path of the first value that is wrong.
        """
        numbers = self._numbers(by_column[: self._numeric], count, form)
        others = {}
        for n, field in self._others:
            others[field.name] = _array(field, by_column[n], form)
        checked = self._judge(numbers, others, count, form, judged=judged)
        if self._entity_at is not None:
            checked.entities = list(map(entity_text, by_column[self._entity_at]))
        return checked

    def check_table(self, found: Columns, count: int) -> Checked:
        """The same of a table's columns, of which some may be missing."""
        for field in self._fields:
            values = found.setdefault(field.name, _nothing(field, count))
            if field.required and (absent := _absent(values)).any():
                raise errors.null(field, path("columns", field.name, int(absent.argmax())))
        for n in self._texts:
            refuse_null_character(found[self._names[n]].tolist(), self._names[n], "columns")
        numbers = np.array([found[name] for name in self._names[: self._numeric]]).reshape(self._numeric, count)
        others = {name: found[name] for name in self._names[self._numeric :]}
        checked = self._judge(numbers, others, count, "columns", judged=True)
        if self._entity is not None:
            subjects = found.get(self._entity, np.full(count, None)).tolist()
            checked.entities = _checked_entities(list(map(entity_text, subjects)), self._entity)
        return checked

    def _numbers(self, by_column: Sequence[Sequence[Any]], count: int, form: str) -> np.ndarray:
        """All numbers of all rows, (columns, rows); NaN is missing."""
        try:
            if count == 1:  # half the time of the general way
                return np.array([value for (value,) in by_column], dtype=_NUMBERS)[:, None]
            return np.array(by_column, dtype=_NUMBERS).reshape(self._numeric, count)
        except OverflowError:  # JSON knows whole numbers of any length
            for row in range(count):
                for name, values in zip(self._names, by_column, strict=False):
                    if isinstance(values[row], int) and abs(values[row]) > LARGEST_NUMBER:
                        raise errors.not_finite(path(form, name, row)) from None
            raise

    def _judge(self, numbers: np.ndarray, others: Columns, count: int, form: str, *, judged: bool) -> Checked:
        """Compare all values with the bounds and texts with the categories that training saw."""
        received, noted = numbers, Notes(form, count)
        if self._numeric:
            outside = (numbers < self._low) | (numbers > self._high)
            if np.count_nonzero(outside):
                numbers = self._weigh(numbers, outside, noted, judged=judged)
        if self._whole:
            whole = received[: self._whole]
            if np.count_nonzero(np.floor(whole) != whole):
                self._refuse_broken(whole, form)
        columns = dict(zip(self._names, numbers, strict=False))
        columns.update(others)
        if judged:
            for field in self._trimmed:
                if (texts := _trimmed(columns[field.name], field)) is not columns[field.name]:
                    columns[field.name] = texts
                    noted.trimmed.append(field.name)
            for field in self._closed:
                _check_categories(field, columns[field.name], form)
            for field in self._known_texts:
                _note_new_categories(field, columns[field.name], noted)
        logged = columns if received is numbers else {**columns, **dict(zip(self._names, received, strict=False))}
        return Checked(columns, count, noted.by_row(), None, form, None, logged, noted.unusual or None, noted.trimmed)

    def _weigh(self, numbers: np.ndarray, outside: np.ndarray, noted: Notes, *, judged: bool) -> np.ndarray:
        """What is done with numbers outside of what training saw, by the policy of their fields."""
        refused = (numbers < -LARGEST_NUMBER) | (numbers > LARGEST_NUMBER)
        if judged and self._errs:
            refused |= outside & self._erring
        if np.count_nonzero(refused):
            row, column = np.argwhere(refused.T)[0].tolist()
            raise self._out_of_range(column, row, float(numbers[column, row]), noted.form)
        if not judged:
            return numbers
        warned = outside
        if self._clips:
            warned = outside & ~self._clipping
            numbers = np.where(self._clipping, np.clip(numbers, self._low, self._high), numbers)
        if np.count_nonzero(warned):
            self._note_numbers(numbers, warned, noted)
        return numbers

    def _out_of_range(self, column: int, row: int, value: float, form: str) -> Refused:
        field, where = self._fields[column], path(form, self._names[column], row)
        if np.isinf(value):
            return errors.not_finite(where)
        if abs(value) > LARGEST_NUMBER:
            limits = f"±{LARGEST_NUMBER:.2g}; {value:g} cannot be computed with"
            return Refused(422, "out_of_range", f"{where} must lie between {limits}", where)
        message = f"{where} must lie between {_seen(field, ' and ')}, as in training; it is {value:.15g}"
        return Refused(422, "out_of_range", message, where)

    def _note_numbers(self, numbers: np.ndarray, warned: np.ndarray, noted: Notes) -> None:
        """Note the numbers outside of what training saw, row by row, as far as one answer can hold."""
        for column in np.flatnonzero(warned.any(axis=1)).tolist():
            noted.count("out_of_range", self._names[column], int(np.count_nonzero(warned[column])))
        rows = np.flatnonzero(warned.any(axis=0))[: MOST_WARNINGS + 1]
        for place, column in np.argwhere(warned[:, rows].T)[: MOST_WARNINGS + 1].tolist():
            row = int(rows[place])
            field, where = self._fields[column], path(noted.form, self._names[column], row)
            message = f"{where} is {numbers[column, row]:.15g}; training saw {_seen(field, ' to ')}"
            noted.add(row, Warning("out_of_range", where, message))

    def _refuse_broken(self, whole: np.ndarray, form: str) -> None:
        broken = np.argwhere(((whole != np.floor(whole)) & ~np.isnan(whole)).T)
        for row, column in broken[:1].tolist():
            where = path(form, self._names[column], row)
            message = f"{where} must be a whole number, not {whole[column, row]:.15g}"
            raise Refused(422, "wrong_type", message, where)


def _array(field: Field, values: Sequence[Any], form: str) -> np.ndarray:
    """The column of decoded strings, timestamps or dates. (NumPy itself takes eight times as long for times.)"""
    if field.kind == "string":
        return np.array(values, dtype=object)
    if field.kind == "date":
        ticks = [NAT if day is None else (day.toordinal() - _EPOCH_DAY) * 86_400_000_000 for day in values]
        return np.array(ticks, dtype=_TICKS).view(_TIMES)
    try:
        return np.array([(time - _EPOCH) // _MICROSECOND for time in values], dtype=_TICKS).view(_TIMES)
    except TypeError:  # one is missing, or has a zone
        return _zoned(values, field.name, form)


def _zoned(values: Sequence[dt.datetime | None], name: str, form: str) -> np.ndarray:
    """Times with and without a zone, in UTC; with one they may lie in a year that UTC does not have."""
    ticks = [
        NAT if time is None else (time - (_EPOCH if time.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND
        for time in values
    ]
    for row, tick in enumerate(ticks):
        if tick != NAT and not EARLIEST <= tick <= LATEST:
            raise errors.no_such_year(path(form, name, row))
    return np.array(ticks, dtype=_TICKS).view(_TIMES)


def _trimmed(values: np.ndarray, field: Field) -> np.ndarray:
    """Texts without white space around them. (What training saw has none.)"""
    sent = values.tolist()
    known = field.known or field.categories
    if known is not None and known.issuperset(sent):
        return values
    texts = [text if text is None else trim(text) for text in sent]
    return values if texts == sent else np.array([*texts, None], dtype=object)[:-1]


def _note_new_categories(field: Field, values: np.ndarray, noted: Notes) -> None:
    """Note the texts that training did not see."""
    known, sent = field.known, values.tolist()
    assert known is not None  # noqa: S101  else it is not among the known ones
    if known.issuperset(sent):
        return
    new = [(row, text) for row, text in enumerate(sent) if text not in known]
    noted.count("unknown_category", field.name, len(new))
    meant: dict[str, str | None] = {}
    for row, text in new:
        if noted.is_full:
            return
        if text not in meant and len(meant) < MOST_SUGGESTIONS:
            meant[text] = errors.suggestion(text, known)
        where = path(noted.form, field.name, row)
        noted.add(row, Warning("unknown_category", where, errors.new_category(text, where, meant.get(text))))


def _check_categories(field: Field, values: np.ndarray, form: str) -> None:
    assert field.categories is not None  # noqa: S101  else it is not among the closed ones
    sent = values.tolist()
    if field.categories.issuperset(sent):
        return
    for row, value in enumerate(sent):
        if value is not None and value == value and value not in field.categories:
            raise errors.unknown_category(field, value, path(form, field.name, row))


def refuse_null_character(values: Sequence[Any], name: str, form: str) -> None:
    """Refuse texts that PostgreSQL cannot hold."""
    for row, value in enumerate(values):
        if isinstance(value, str) and "\0" in value:
            raise errors.null_character(path(form, name, row))


def entity_text(value: str | float | None) -> str | None:
    """7 and 7.0 are one entity; NaN is none."""
    if value is None or isinstance(value, str):
        return value
    if value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _checked_entities(entities: list[str | None], name: str) -> list[str | None]:
    for row, entity in enumerate(entities):
        if entity is not None and len(entity) > LONGEST_ENTITY:
            where = path("columns", name, row)
            raise Refused(422, "too_long", f"{where} has more than {LONGEST_ENTITY} characters", where)
    refuse_null_character(entities, name, "columns")
    return entities


def _seen(field: Field, between: str) -> str:
    unit = f" {field.unit}" if field.unit else ""
    return f"{field.minimum:.15g}{between}{field.maximum:.15g}{unit}"


def _nothing(field: Field, count: int) -> np.ndarray:
    """A column of missing values."""
    if field.kind in NUMERIC:
        return np.full(count, np.nan)
    return np.full(count, None) if field.kind == "string" else np.full(count, "NaT", dtype="datetime64[us]")


def _absent(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "O":
        return np.asarray(values == None, dtype=bool)  # noqa: E711  (elementwise)
    return np.asarray(np.isnat(values) if values.dtype.kind == "M" else np.isnan(values))
