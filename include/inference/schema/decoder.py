"""Decodes bodies into types that msgspec makes of a version's own inputs; names and types are checked by that alone.

Only a body that is refused is examined again, field by field (include/inference/errors.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from include.inference import errors
from include.inference.duplicate_keys import duplicate, quotes, refuse_duplicates
from include.inference.errors import Refused
from include.inference.json_path import DECODED, LONGEST_ENTITY, Field
from include.inference.schema.checker import entity_text, refuse_null_character
from include.inference.schema.layout import Layout, Row

_Entity = Annotated[str, msgspec.Meta(max_length=LONGEST_ENTITY)]
_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_PIECE = 1 << 16


class _Lists(msgspec.Struct):
    columns: dict[str, msgspec.Raw]


_decode_columns = msgspec.json.Decoder(_Lists).decode


class Decoder:
    """Decodes rows and batches of a layout, whose parts are copied into attributes: a row reads each of them once."""

    def __init__(self, layout: Layout) -> None:
        self._known, self._fields, self._entity = layout.known, layout.fields, layout.entity
        self._entity_apart, self._entity_at = layout.entity_apart, layout.entity_at
        self._attributes, self._optional, self._texts = layout.attributes, layout.optional, layout.texts
        textual = ("string", "timestamp", "date")
        self._textual = [n for n, field in enumerate(layout.fields) if field.kind in textual]
        self._quotes = 2 * (len(self._attributes) + len(self._textual))
        """Quotation marks of a row in which nothing is missing."""
        gaps = [f"f{n}" for n in self._optional]
        self._gaps = attrgetter(*gaps, *gaps[:1]) if gaps else None
        types = [_decoded_type(field, layout.entity) for field in layout.fields]
        types += [_Entity | _Number | None] if layout.entity_apart else []
        self._lists = [msgspec.json.Decoder(list[kind]).decode for kind in types]  # type: ignore[valid-type]
        self._make_row_decoders(types)
        self._presence = self._presence_decoder(batch=False)
        self._presences = self._presence_decoder(batch=True)
        subject = msgspec.defstruct(
            "Subject",
            [("subject", str | int | float | None, None)],
            rename={"subject": layout.entity or "subject"},
            gc=False,
        )
        self._decode_subject: Callable[[bytes], Any] = msgspec.json.Decoder(subject).decode

    def _make_row_decoders(self, types: Sequence[Any]) -> None:
        names, optional = self._attributes, set(self._optional)
        fields = [(f"f{n}", kind, None) if n in optional else (f"f{n}", kind) for n, kind in enumerate(types)]
        strict: dict[str, Any] = {"forbid_unknown_fields": not self._known.extra, "kw_only": True, "gc": False}
        row = msgspec.defstruct("Row", fields, rename=names, **strict)
        raw = [(attribute, msgspec.Raw | UnsetType, UNSET) for attribute in names]
        columns = msgspec.defstruct("Columns", raw, rename=names, **strict)
        batch = msgspec.defstruct(
            "Batch",
            [("rows", list[row] | UnsetType, UNSET), ("columns", columns | UnsetType, UNSET)],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
        )
        self._decode_row = msgspec.json.Decoder(row).decode
        self._decode_batch: Callable[[bytes], Any] = msgspec.json.Decoder(batch).decode

    def _presence_decoder(self, *, batch: bool) -> Callable[[bytes], Any]:
        """Decodes which of the fields that may be left out rows have, whatever their values."""
        attributes = [f"f{n}" for n in self._optional]
        raw = [(attribute, msgspec.Raw | UnsetType, UNSET) for attribute in attributes]
        rename = {attribute: self._attributes[attribute] for attribute in attributes}
        row = msgspec.defstruct("Presence", raw, rename=rename, gc=False)
        kind = msgspec.defstruct("Presences", [("rows", list[row])]) if batch else row  # type: ignore[valid-type]
        return msgspec.json.Decoder(kind).decode

    # --------------------------------------------------------------------------------------------- one row

    def row(self, body: bytes) -> Row:
        """A body that is one row, `{"trip_distance": 2.1, …}`, checked for names and types only.

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
        if self._entity is None:
            return None
        try:
            return entity_text(self._decode_subject(body).subject)
        except (ValueError, RecursionError):
            return None

    def entities(self, rows: Sequence[Row]) -> list[str | None] | None:
        """What each row is about; None where the model declares no entity."""
        if self._entity_at is None:
            return None
        attribute = f"f{self._entity_at}"
        return [entity_text(getattr(row, attribute)) for row in rows]

    # --------------------------------------------------------------------------------------------- many rows

    def batch(self, body: bytes, limit: int | None) -> tuple[Sequence[Row] | None, Sequence[Sequence[Any]], int]:
        """The rows of `{"rows": …}`, or None and the lists of `{"columns": …}` in the layout's order; how many rows.

        Raises:
            Refused: with the path of what is wrong: `rows[3].trip_distance`, or `columns.trip_distance[3]`.
        """
        if limit is not None and len(body) > 3 * limit:  # a row takes three bytes at least
            _count_first(body, limit)
        try:
            batch = self._decode_batch(body)
        except (ValueError, RecursionError) as error:
            raise errors.of_batch(body, error, self._known) from None
        if batch.columns is not UNSET:
            if batch.rows is not UNSET:
                raise Refused(422, "ambiguous", "send rows or columns, not both", "columns")
            self._check_duplicate_columns(body)
            return None, *self._of_lists(batch.columns, limit)
        if batch.rows is UNSET:
            raise errors.of_batch(body, ValueError("neither rows nor columns"), self._known)
        check_length(len(batch.rows), limit, "rows")
        if b"\\" in body and b"\\u0000" in body:
            self._refuse_null_characters(batch.rows, "rows")
        return batch.rows, (), len(batch.rows)

    def check_batch_duplicates(self, body: bytes, by_column: Sequence[Sequence[Any]], rows: int) -> None:
        """Refuse fields that are given twice in one of the rows of a body."""
        if (
            body.count(b'"') != 2 + rows * self._quotes
            or self._entity_apart
            or any(None in by_column[n] for n in self._optional)
        ):
            self._check_duplicates(body, by_column, rows, "rows")

    def _of_lists(self, columns: Any, limit: int | None) -> tuple[Sequence[Sequence[Any]], int]:
        """The lists of `{"columns": …}`, each decoded by itself, all of one length."""
        lists: list[Sequence[Any] | None] = []
        count, first = 0, ""
        for attribute, name in self._attributes.items():
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
        check_length(count, limit, "columns")
        return [[None] * count if values is None else values for values in lists], count

    def _list(self, n: int, raw: msgspec.Raw, limit: int | None) -> list[Any]:
        text = bytes(raw)
        name = self._attributes[f"f{n}"]
        field = self._known.inputs.get(name) or Field(name, "entity", required=False)
        if limit is not None and text.count(b",") >= limit and (count := _commas_in(text)) >= limit:
            raise too_many_rows(count + 1, limit, f"columns.{name}")
        try:
            values = self._lists[n](text)
        except (ValueError, RecursionError) as error:
            raise errors.of_column(text, error, field) from None
        if b"\\u0000" in text:
            refuse_null_character(values, name, "columns")
        return values

    # --------------------------------------------------------------------------------------------- refusals

    def _check_duplicates(
        self, body: bytes, by_column: Sequence[Sequence[Any]], rows: int, within: str | None = None
    ) -> None:
        """Refuse fields that are given twice: a body with more names and texts than its rows have."""
        names, texts = rows * len(self._attributes) + (within is not None), rows * len(self._textual)
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

    def _check_duplicate_columns(self, body: bytes) -> None:
        """As `_check_duplicates`, of lists. Those that are ignored count, too; what is in them does not."""
        lists = _decode_columns(body).columns
        if quotes(body) != 2 + 2 * len(lists) + sum(quotes(bytes(raw)) for raw in lists.values()):
            if len(body) > errors.LOOKED_AT and not any('"' in name for name in lists):
                raise duplicate()
            refuse_duplicates(body)

    def _refuse_null_characters(self, rows: Sequence[Row], form: str) -> None:
        texts = [*self._texts, *([] if self._entity_at in (None, *self._texts) else [self._entity_at])]
        for n in texts:
            refuse_null_character([getattr(row, f"f{n}") for row in rows], self._attributes[f"f{n}"], form)


def _decoded_type(field: Field, entity: str | None) -> Any:
    kind = _Entity if field.name == entity and field.kind == "string" else DECODED[field.kind]
    return kind if field.required else kind | None


def check_length(rows: int, limit: int | None, field: str) -> None:
    """Refuse a batch without rows, or with more than the limit."""
    if not rows:
        raise Refused(422, "empty_batch", "the batch has no rows; send at least one", field)
    if limit is not None and rows > limit:
        raise too_many_rows(rows, limit, field)


def too_many_rows(rows: int, limit: int, field: str) -> Refused:
    """What a batch is refused with that has more rows than the limit."""
    message = f"the batch has {rows} rows; this model takes {limit}: send several requests"
    return Refused(413, "too_many_rows", message, field)


def _count_first(body: bytes, limit: int) -> None:
    """Refuse too many rows before there are any: a million empty ones are 3 MB to send and 100 MB to hold."""
    if body.count(b"{") - 1 > limit and (found := _rows_in(body)) > limit:
        raise too_many_rows(found, limit, "rows")


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
