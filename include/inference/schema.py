"""A request's body → columns, or a refusal that names the field: what a client sends is checked here, nowhere else.

The hot path is one msgspec decode into a type made from the model's own inputs, and one array for all numbers of all
rows, which is compared with the bounds at once. Only what is refused or unusual is looked at again, value by value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from include.inference import errors
from include.inference.duplicate_keys import duplicate, quotes, refuse_duplicates
from include.inference.errors import Refused
from include.inference.json_path import (
    DECODED,
    EARLIEST,
    LARGEST_NUMBER,
    LATEST,
    LONGEST_ENTITY,
    NAT,
    NUMERIC,
    ORDER,
    Field,
    Fields,
    path,
)
from include.text import trim

__all__ = ["ARROW", "BATCH_TYPES", "JSON", "PARQUET", "Checked", "Columns", "Refused", "Row", "Schema", "Warning"]

Columns = dict[str, np.ndarray]
Row = Any
"""An instance of the type that a Schema makes of its inputs: a msgspec.Struct."""
Logged = Literal["all", "none"] | tuple[str, ...]

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
BATCH_TYPES = frozenset({JSON, ARROW, PARQUET})
"""The content types of a batch; a single row is always JSON."""

MOST_WARNINGS = 1_000
"""Warnings that one answer holds: a batch in other units than the model's would be answered with nothing else."""
MOST_SUGGESTIONS = 4
"""Different texts of a field, in one body, for which one is sought that may have been meant."""
_Entity = Annotated[str, msgspec.Meta(max_length=LONGEST_ENTITY)]
_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_PIECE = 1 << 16
_NUMBERS, _TICKS, _TIMES = np.dtype(np.float64), np.dtype(np.int64), np.dtype("datetime64[us]")
_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)
_encoder = msgspec.json.Encoder()


class _Lists(msgspec.Struct):
    columns: dict[str, msgspec.Raw]


_decode_columns = msgspec.json.Decoder(_Lists).decode


class Warning(msgspec.Struct, frozen=True, gc=False):
    """Something unusual in a row that was predicted nevertheless."""

    code: str
    field: str
    message: str

    def told(self) -> dict[str, str]:
        """As the answer holds it."""
        return {"code": self.code, "field": self.field, "message": self.message}


@dataclass(slots=True)
class Checked:
    """What a body became: columns that the model can be asked about, one entry a row."""

    columns: Columns
    count: int
    warnings: list[Sequence[Warning]] | None
    """For each row; None when there is none at all."""
    entities: list[str | None] | None
    """What each row is about; None where the model declares no entity."""
    form: str
    """`row`, `rows`, `columns` or `inputs`: how the body was written."""
    rows: Sequence[Row] | None
    """The decoded rows, where the body had rows."""
    received: Columns
    """The columns before numbers were clipped."""
    unusual: dict[tuple[str, str], int] | None = None
    """(A warning's code, the field) → how many values; None when there is none at all."""
    trimmed: Sequence[str] = ()
    """Fields of which texts were trimmed."""

    def path(self, row: int, column: str | None = None) -> str | None:
        """Where a row, or its value in a column, stands in the body: `rows[3].vendor`; None: it is the body."""
        if column is None:
            return None if self.form == "row" else f"{self.form}[{row}]"
        return path(self.form, column, row)


class _Noted:
    """What is unusual in a body, for each row and in numbers."""

    def __init__(self, form: str, rows: int) -> None:
        self.form, self._rows = form, rows
        self.unusual: dict[tuple[str, str], int] = {}
        self.trimmed: list[str] = []
        """Fields of which texts were trimmed."""
        self._warnings: dict[int, list[Warning]] = {}
        self._last: list[Warning] = []
        self._shown = 0

    def count(self, code: str, field: str, values: int) -> None:
        """So many values of a field are unusual in this way."""
        self.unusual[code, field] = values

    @property
    def is_full(self) -> bool:
        """Whether the answer holds no more warnings."""
        return self._shown > MOST_WARNINGS

    def add(self, row: int, warning: Warning) -> None:
        """Tell of one; of those that the answer does not hold the first stands for all of them."""
        if not self.is_full:
            self._shown += 1
            self._last = self._warnings.setdefault(row, [])
            self._last.append(warning)

    def by_row(self) -> list[Sequence[Warning]] | None:
        """The warnings of each row; None when there is none at all."""
        if not self._warnings:
            return None
        if self.is_full:
            last, more = self._last[-1], sum(self.unusual.values()) - MOST_WARNINGS
            message = f"from {last.field} on {more} more values are outside of what training saw"
            self._last[-1] = Warning(last.code, last.field, message)
        return [self._warnings.get(row, ()) for row in range(self._rows)]


class Tables(Protocol):
    """Who reads tables: include/serving/http/table_process.py."""

    def read(self, schema: Schema, body: bytes, content_type: str) -> tuple[Columns, int]:
        """See `Schema.table`."""


class Schema:
    """What one version of a model takes: compiled once from its manifest.

    Args:
        inputs: `manifest["inputs"]`.
        max_batch: rows of a batch, at most.
        extra_field: `error` or `ignore`: what a field is that the model does not know.
        entity: a field that names what a row is about, whether or not it is an input.
    """

    def __init__(
        self, inputs: Sequence[dict[str, Any]], max_batch: int, *, extra_field: str = "error", entity: str | None = None
    ) -> None:
        self.inputs = {str(entry["name"]): entry for entry in inputs}
        self.max_batch, self.entity = max_batch, entity
        self.contract = msgspec.json.encode(
            {"inputs": inputs, "max_batch": max_batch, "extra_field": extra_field, "entity": entity}
        )
        """The part of the manifest that this is made of."""
        known = {str(entry["name"]): Field.of(entry) for entry in inputs}
        self._known = Fields(known, entity, extra=extra_field == "ignore")
        self._fields = sorted(known.values(), key=lambda field: ORDER.index(field.kind))
        self._names = [field.name for field in self._fields]
        self._numeric = sum(field.kind in NUMERIC for field in self._fields)
        self._whole = sum(field.kind == "int" for field in self._fields)
        self._texts = [n for n, field in enumerate(self._fields) if field.kind == "string"]
        self._others = list(enumerate(self._fields))[self._numeric :]
        self._closed = [field for field in self._fields if field.categories is not None]
        self._known_texts = [field for field in self._fields if field.known is not None and field.name != entity]
        self._trimmed = [field for field in self._fields if field.trimmed]
        self._set_bounds()
        self._make_decoders()
        self._writers: dict[Logged, Callable[[Sequence[Row]], list[bytes]]] = {}

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Schema:
        """The schema of a version; policies that an older manifest does not name are the defaults."""
        return cls(
            manifest["inputs"],
            int(manifest["max_batch"]),
            extra_field=manifest.get("extra_field", "error"),
            entity=manifest.get("entity"),
        )

    def _set_bounds(self) -> None:
        numbers = self._fields[: self._numeric]

        def column(values: Sequence[Any], dtype: type) -> np.ndarray:
            return np.array(values, dtype=dtype).reshape(-1, 1)

        self._low = column([-LARGEST_NUMBER if f.minimum is None else f.minimum for f in numbers], float)
        self._high = column([LARGEST_NUMBER if f.maximum is None else f.maximum for f in numbers], float)
        self._erring = column([f.out_of_range == "error" for f in numbers], bool)
        self._clipping = column([f.out_of_range == "clip" for f in numbers], bool)
        self._errs, self._clips = bool(self._erring.any()), bool(self._clipping.any())

    def _make_decoders(self) -> None:
        """Types with one attribute a field: `f0`, `f1` … in our order, as names in JSON need not be Python's."""
        names = {f"f{n}": name for n, name in enumerate(self._names)}
        apart = self.entity is not None and self.entity not in self._known.inputs
        self._entity_apart = apart
        self._entity_at = None if self.entity is None else len(self._names) if apart else self._names.index(self.entity)
        fields: list[Any] = []
        self._lists: list[Callable[[Any], list[Any]]] = []
        for n, field in enumerate(self._fields):
            kind = _Entity if field.name == self.entity and field.kind == "string" else DECODED[field.kind]
            fields.append((f"f{n}", kind) if field.required else (f"f{n}", kind | None, None))
            self._lists.append(msgspec.json.Decoder(list[kind if field.required else kind | None]).decode)  # type: ignore[misc]
        if apart:
            names[f"f{len(names)}"] = str(self.entity)
            fields.append((f"f{len(fields)}", _Entity | _Number | None, None))
            self._lists.append(msgspec.json.Decoder(list[_Entity | _Number | None]).decode)
        strict: dict[str, Any] = {"forbid_unknown_fields": not self._known.extra, "kw_only": True, "gc": False}
        row = msgspec.defstruct("Row", fields, rename=names, **strict)
        raw = [(attribute, msgspec.Raw | UnsetType, UNSET) for attribute in names]
        columns = msgspec.defstruct("Columns", raw, rename=names, **strict)
        batch = msgspec.defstruct(
            "Batch",
            [("rows", list[row] | UnsetType, UNSET), ("columns", columns | UnsetType, UNSET)],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
        )
        subject = [("subject", str | int | float | None, None)]
        self._optional = [n for n, field in enumerate(self._fields) if not field.required]
        if apart:
            self._optional.append(len(self._fields))
        self._presence = self._presence_decoder(names, batch=False)
        self._presences = self._presence_decoder(names, batch=True)
        self._textual = [n for n, f in enumerate(self._fields) if f.kind in ("string", "timestamp", "date")]
        self._quotes = 2 * (len(names) + len(self._textual))
        """Quotation marks of a row in which nothing is missing."""
        gaps = [f"f{n}" for n in self._optional]
        self._gaps = attrgetter(*gaps, *gaps[:1]) if gaps else None
        self._row_names = names
        self._decode_row = msgspec.json.Decoder(row).decode
        self._decode_batch: Callable[[bytes], Any] = msgspec.json.Decoder(batch).decode
        self._decode_subject: Callable[[bytes], Any] = msgspec.json.Decoder(
            msgspec.defstruct("Subject", subject, rename={"subject": self.entity or "subject"}, gc=False)
        ).decode

    def _presence_decoder(self, names: Mapping[str, str], *, batch: bool) -> Callable[[bytes], Any]:
        """Decodes which of the fields that may be left out rows have, whatever their values."""
        attributes = [f"f{n}" for n in self._optional]
        raw = [(attribute, msgspec.Raw | UnsetType, UNSET) for attribute in attributes]
        rename = {attribute: names[attribute] for attribute in attributes}
        row = msgspec.defstruct("Presence", raw, rename=rename, gc=False)
        kind = msgspec.defstruct("Presences", [("rows", list[row])]) if batch else row  # type: ignore[valid-type]
        return msgspec.json.Decoder(kind).decode

    # --------------------------------------------------------------------------------------------- one row

    def row(self, body: bytes) -> Row:
        """A body that is one row, `{"trip_distance": 2.1, …}`, checked for names and types only; see `columns`.

        Raises:
            Refused: with the path of the first field that is wrong, such as `trip_distance`.
        """
        try:
            row = self._decode_row(body)
        except (ValueError, RecursionError) as error:  # all that msgspec raises are ValueErrors
            raise errors.of_row(body, error, self._known) from None
        if b"\\" in body and b"\\u0000" in body:
            self._refuse_null_characters([row], "row")
        if (
            body.count(b'"') != self._quotes
            or self._entity_apart
            or (self._gaps is not None and None in self._gaps(row))
        ):
            self._check_duplicates(body, [(value,) for value in msgspec.structs.astuple(row)], 1)
        return row

    def entity_of(self, body: bytes) -> str | None:
        """What a row is about, before it is checked: None where it does not say, or where it is no row."""
        if self.entity is None:
            return None
        try:
            return _entity_text(self._decode_subject(body).subject)
        except (ValueError, RecursionError):
            return None

    def entities(self, rows: Sequence[Row]) -> list[str | None] | None:
        """What each row is about; None where the model declares no entity."""
        if self._entity_at is None:
            return None
        attribute = f"f{self._entity_at}"
        return [_entity_text(getattr(row, attribute)) for row in rows]

    def columns(self, rows: Sequence[Row], *, batch: bool) -> Checked:
        """Rows → columns, with the values checked: whole, finite, in range, of a known category.

        Args:
            rows: from `row`, at least one; those of several requests may be answered together.
            batch: whether they are one request's; then paths are `rows[3].trip_distance`, else `trip_distance`.

        Raises:
            Refused: with the path of the first value that is wrong.
        """
        return self._of_rows(rows, "rows" if batch else "row", judged=True)

    # --------------------------------------------------------------------------------------------- many rows

    def many(self, body: bytes, content_type: str = JSON, tables: Tables | None = None) -> Checked:
        """The columns of a batch.

        Args:
            body: `{"rows": [{…}, …]}` or `{"columns": {"trip_distance": [2.1, …], …}}`, or a table as an Arrow IPC
                stream or parquet.
            content_type: one of `BATCH_TYPES`.
            tables: what reads a table; None: this process does.

        Raises:
            Refused: with the path of what is wrong: `rows[3].trip_distance`, or `columns.trip_distance[3]`.
        """
        if content_type == JSON:
            return self._of_json(body, self.max_batch, judged=True)
        if content_type in BATCH_TYPES:
            found, count = self.table(body, content_type) if tables is None else tables.read(self, body, content_type)
            return self._of_table_columns(found, count)
        message = f"send a batch as Content-Type: {', '.join(sorted(BATCH_TYPES))}"
        raise Refused(415, "unsupported_media_type", message)

    def one(self, body: bytes) -> Columns:
        """The columns of one of our own golden rows: as `unlimited`."""
        return self._of_rows([self.row(body)], "row", judged=False).columns

    def unlimited(self, body: bytes) -> Columns:
        """The columns of our own golden rows: without the limit on their number, and whatever the policies say."""
        return self._of_json(body, None, judged=False).columns

    def _of_json(self, body: bytes, limit: int | None, *, judged: bool) -> Checked:
        if limit is not None and len(body) > 3 * limit:  # a row takes three bytes at least
            self._count_first(body, limit)
        try:
            batch = self._decode_batch(body)
        except (ValueError, RecursionError) as error:
            raise errors.of_batch(body, error, self._known) from None
        if batch.columns is not UNSET:
            if batch.rows is not UNSET:
                raise Refused(422, "ambiguous", "send rows or columns, not both", "columns")
            self._check_duplicate_columns(body)
            return self._of_lists(batch.columns, limit, judged=judged)
        if batch.rows is UNSET:
            raise errors.of_batch(body, ValueError("neither rows nor columns"), self._known)
        self._check_length(len(batch.rows), limit, "rows")
        if b"\\" in body and b"\\u0000" in body:
            self._refuse_null_characters(batch.rows, "rows")
        return self._of_rows(batch.rows, "rows", judged=judged, body=body)

    def _count_first(self, body: bytes, limit: int) -> None:
        """Refuse too many rows before there are any: a million empty ones are 3 MB to send and 100 MB to hold."""
        if body.count(b"{") - 1 > limit and (found := _rows_in(body)) > limit:
            raise self._too_many(found, "rows")

    def _check_length(self, rows: int, limit: int | None, field: str) -> None:
        if not rows:
            raise Refused(422, "empty_batch", "the batch has no rows; send at least one", field)
        if limit is not None and rows > limit:
            raise self._too_many(rows, field)

    def _too_many(self, rows: int, field: str) -> Refused:
        message = f"the batch has {rows} rows; this model takes {self.max_batch}: send several requests"
        return Refused(413, "too_many_rows", message, field)

    def _of_rows(self, rows: Sequence[Row], form: str, *, judged: bool, body: bytes | None = None) -> Checked:
        if len(rows) == 1:
            by_column: list[Sequence[Any]] = list(zip(msgspec.structs.astuple(rows[0]), strict=True))
        else:
            by_column = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
        if body is not None and (
            body.count(b'"') != 2 + len(rows) * self._quotes
            or self._entity_apart
            or any(None in by_column[n] for n in self._optional)
        ):
            self._check_duplicates(body, by_column, len(rows), "rows")
        checked = self._of_values(by_column, len(rows), form, judged=judged)
        checked.rows = rows
        for name in checked.trimmed:  # they are kept so, too: monitoring compares what the model saw
            attribute = f"f{self._names.index(name)}"
            for row, text in zip(rows, checked.columns[name].tolist(), strict=True):
                setattr(row, attribute, text)
        return checked

    def _check_duplicates(
        self, body: bytes, by_column: Sequence[Sequence[Any]], rows: int, within: str | None = None
    ) -> None:
        """Refuse fields that are given twice: a body with more names and texts than its rows have."""
        names, texts = rows * len(self._row_names) + (within is not None), rows * len(self._textual)
        texts -= sum(by_column[n].count(None) for n in self._textual if n in self._optional)
        if b"null" in body:  # else what is missing was left out
            found = [self._presence(body)] if within is None else self._presences(body).rows
            names -= sum(presence.count(UNSET) for presence in map(msgspec.structs.astuple, found))
        else:
            names -= sum(by_column[n].count(None) for n in self._optional)
        if self._entity_apart:
            texts += sum(isinstance(subject, str) for subject in by_column[-1])
        if quotes(body) != 2 * (names + texts):
            self._refuse_duplicates(body, within)

    def _refuse_duplicates(self, body: bytes, within: str | None) -> None:
        """Refuse what is given twice in a body that has more names than its fields account for."""
        if len(body) > errors.LOOKED_AT and not self._known.extra:  # there can be no other reason
            raise duplicate()
        refuse_duplicates(body, within)

    def _of_lists(self, columns: Any, limit: int | None, *, judged: bool) -> Checked:
        """The lists of `{"columns": …}`, each decoded by itself, all of one length."""
        lists: list[Sequence[Any] | None] = []
        count, first = 0, ""
        for attribute, name in self._row_names.items():
            raw = getattr(columns, attribute)
            values = None if raw is UNSET else self._list(len(lists), raw, limit)
            lists.append(values)
            if values is None:
                field = self._known.inputs.get(name)
                if field is not None and field.required:
                    raise errors.missing(field, f"columns.{name}")
            elif not first:
                count, first = len(values), name
            elif len(values) != count:
                message = f"columns.{name} has {len(values)} values and columns.{first} {count}; each row needs one"
                raise Refused(422, "wrong_length", message, f"columns.{name}")
        self._check_length(count, limit, "columns")
        return self._of_values([[None] * count if v is None else v for v in lists], count, "columns", judged=judged)

    def _check_duplicate_columns(self, body: bytes) -> None:
        """As `_check_duplicates`, of lists. Those that are ignored count, too; what is in them does not."""
        lists = _decode_columns(body).columns
        if quotes(body) != 2 + 2 * len(lists) + sum(quotes(bytes(raw)) for raw in lists.values()):
            if len(body) > errors.LOOKED_AT and not any('"' in name for name in lists):
                raise duplicate()
            refuse_duplicates(body)

    def _list(self, n: int, raw: msgspec.Raw, limit: int | None) -> list[Any]:
        text = bytes(raw)
        name = self._row_names[f"f{n}"]
        field = self._known.inputs.get(name) or Field(name, "entity", required=False)
        if limit is not None and text.count(b",") >= limit and (count := _commas_in(text)) >= limit:
            raise self._too_many(count + 1, f"columns.{name}")
        try:
            values = self._lists[n](text)
        except (ValueError, RecursionError) as error:
            raise errors.of_column(text, error, field) from None
        if b"\\u0000" in text:
            _refuse_null_character(values, name, "columns")
        return values

    # --------------------------------------------------------------------------------------------- values

    def _of_values(self, by_column: Sequence[Sequence[Any]], count: int, form: str, *, judged: bool) -> Checked:
        """Checked columns of decoded values, in our order; beyond the inputs there may be an entity."""
        numbers = self._numbers(by_column[: self._numeric], count, form)
        others = {}
        for n, field in self._others:
            others[field.name] = _array(field, by_column[n], form)
        checked = self._judge(numbers, others, count, form, judged=judged)
        if self._entity_at is not None:
            checked.entities = list(map(_entity_text, by_column[self._entity_at]))
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
        """Hold all values against the bounds, and texts against the categories that training saw."""
        received, noted = numbers, _Noted(form, count)
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
        kept = columns if received is numbers else {**columns, **dict(zip(self._names, received, strict=False))}
        return Checked(columns, count, noted.by_row(), None, form, None, kept, noted.unusual or None, noted.trimmed)

    def _weigh(self, numbers: np.ndarray, outside: np.ndarray, noted: _Noted, *, judged: bool) -> np.ndarray:
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

    def _note_numbers(self, numbers: np.ndarray, warned: np.ndarray, noted: _Noted) -> None:
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

    def _refuse_null_characters(self, rows: Sequence[Row], form: str) -> None:
        texts = [*self._texts, *([] if self._entity_at in (None, *self._texts) else [self._entity_at])]
        for n in texts:
            _refuse_null_character([getattr(row, f"f{n}") for row in rows], self._row_names[f"f{n}"], form)

    # --------------------------------------------------------------------------------------------- tables

    def table(self, body: bytes, content_type: str) -> tuple[Columns, int]:
        """The columns of a table that this version knows, not yet checked, and the number of its rows.

        Raises:
            Refused: see `columnar.read`; also for names, and for no rows.
        """
        from include.inference import columnar  # and with it pyarrow, which no process that answers ever needs

        kinds = {
            name: self._known.inputs[name].kind if name in self._known.inputs else "entity"
            for name in self._row_names.values()
        }
        found, count = columnar.read(body, content_type, kinds, self.max_batch, self._check_names)
        self._check_length(count, self.max_batch, "columns")
        return found, count

    def _check_names(self, names: Sequence[str]) -> None:
        """Refuse a table by its columns' names, before anything else of it is read."""
        for name in names:
            if not self._known.extra and not self._known.knows(name):
                raise errors.extra_field(name, f"columns.{name}", self._known)
        for field in self._known.inputs.values():
            if field.required and field.name not in names:
                sent = [name for name in names if not self._known.knows(name)]
                raise errors.missing(field, f"columns.{field.name}", sent)

    def _of_table_columns(self, found: Columns, count: int) -> Checked:
        for field in self._fields:
            values = found.setdefault(field.name, _nothing(field, count))
            if field.required and (absent := _absent(values)).any():
                raise errors.null(field, path("columns", field.name, int(absent.argmax())))
        for n in self._texts:
            _refuse_null_character(found[self._names[n]].tolist(), self._names[n], "columns")
        numbers = np.array([found[name] for name in self._names[: self._numeric]]).reshape(self._numeric, count)
        others = {name: found[name] for name in self._names[self._numeric :]}
        checked = self._judge(numbers, others, count, "columns", judged=True)
        if self.entity is not None:
            subjects = found.get(self.entity, np.full(count, None)).tolist()
            checked.entities = _checked_entities(list(map(_entity_text, subjects)), self.entity)
        return checked

    # --------------------------------------------------------------------------------------------- the log

    def inputs_json(self, given: Checked | Sequence[Row], logged: Logged) -> list[bytes]:
        """For each row the JSON object of its inputs as they were received, as far as they may be logged.

        Args:
            given: rows, or what a batch became.
            logged: `all`, `none`, or the names of inputs; names that this version does not know are passed over.
        """
        rows = given.rows if isinstance(given, Checked) else given
        if logged == "none":
            return [b"{}"] * (given.count if isinstance(given, Checked) else len(given))
        if rows is None:
            assert isinstance(given, Checked)  # noqa: S101  only a table has none
            return self._columns_json(given, logged)
        return (self._writers.get(logged) or self._writer(logged))(rows)

    def _logged_names(self, logged: Logged) -> list[str]:
        return [name for name in self._names if logged == "all" or name in logged]

    def _writer(self, logged: Logged) -> Callable[[Sequence[Row]], list[bytes]]:
        names = self._logged_names(logged)
        if names == list(self._row_names.values()):
            self._writers[logged] = _encoded
            return _encoded
        kept = _holder(names)
        places = [self._names.index(name) for name in names]
        pick: Callable[[Any], Any] = itemgetter(*places) if len(places) > 1 else lambda row: [row[n] for n in places]
        values = msgspec.structs.astuple

        def write(rows: Sequence[Row]) -> list[bytes]:
            return _encoded([kept(*pick(values(row))) for row in rows])

        self._writers[logged] = write
        return write

    def _columns_json(self, given: Checked, logged: Logged) -> list[bytes]:
        names = self._logged_names(logged)
        if not names:
            return [b"{}"] * given.count
        kept = _holder(names)
        values = [_as_json(given.received[name], self._known.inputs[name].kind) for name in names]
        return _encoded([kept(*row) for row in zip(*values, strict=True)])


def _outside_strings(body: bytes) -> Iterator[np.ndarray]:
    """JSON's bytes piece by piece, with a zero for each that stands in a string: to count without making anything."""
    data = np.frombuffer(body.replace(rb"\\", b"").replace(rb"\"", b""), dtype=np.uint8)
    quotes = 0
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        before = quotes + np.cumsum(piece == ord('"'))
        quotes = int(before[-1])
        yield np.where(before & 1, 0, piece)


def _rows_in(body: bytes) -> int:
    """How many objects stand on a body's third level, as rows do."""
    count, depth = 0, 0
    for piece in _outside_strings(body):
        braces = piece == ord("{")
        opening, closing = braces | (piece == ord("[")), (piece == ord("}")) | (piece == ord("]"))
        depths = depth + np.cumsum(opening.astype(np.int64) - closing)
        count, depth = count + int(np.count_nonzero(braces & (depths == 3))), int(depths[-1])
    return count


def _commas_in(text: bytes) -> int:
    return sum(int(np.count_nonzero(piece == ord(","))) for piece in _outside_strings(text))


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


def _note_new_categories(field: Field, values: np.ndarray, noted: _Noted) -> None:
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


def _refuse_null_character(values: Sequence[Any], name: str, form: str) -> None:
    for row, value in enumerate(values):
        if isinstance(value, str) and "\0" in value:
            raise errors.null_character(path(form, name, row))


def _entity_text(value: str | float | None) -> str | None:
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
    _refuse_null_character(entities, name, "columns")
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


def _holder(names: Sequence[str]) -> Callable[..., Any]:
    """A type that is written as an object of these names."""
    attributes = [f"f{n}" for n in range(len(names))]
    return msgspec.defstruct("Inputs", attributes, rename=dict(zip(attributes, names, strict=True)), gc=False)


def _encoded(objects: Sequence[Any]) -> list[bytes]:
    if len(objects) < 8:
        return [_encoder.encode(one) for one in objects]
    return _encoder.encode_lines(objects).split(b"\n")[:-1]  # a line holds no line break: JSON writes it as \n


def _as_json(values: np.ndarray, kind: str) -> list[Any]:
    """A column's values as JSON knows them; NaN is written as null."""
    if kind == "date":
        return list(values.astype("datetime64[D]").tolist())
    sent: list[Any] = values.tolist()
    if kind == "int":
        return [int(v) if v == v else None for v in sent]
    return [v != 0 if v == v else None for v in sent] if kind == "bool" else sent
