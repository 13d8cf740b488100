"""The schema of one version of a model: compiled once from its manifest, it makes columns of bodies or refuses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from include.inference import errors
from include.inference.errors import Refused
from include.inference.schema.checked import Checked
from include.inference.schema.checker import Checker
from include.inference.schema.decoder import Decoder, check_length
from include.inference.schema.input_writer import InputWriter
from include.inference.schema.layout import Columns, Layout, Row

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
BATCH_TYPES = frozenset({JSON, ARROW, PARQUET})
"""The content types of a batch; a single row is always JSON."""


class Tables(Protocol):
    """What reads tables: include/serving/http/table_process.py."""

    def read(self, schema: Schema, body: bytes, content_type: str) -> tuple[Columns, int]:
        """See `Schema.table`."""


class Schema:
    """What one version of a model takes.

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
        self._layout = layout = Layout.of(inputs, entity, extra=extra_field == "ignore")
        self._names, self._known = layout.names, layout.known
        self._decoder, self._checker = Decoder(layout), Checker(layout)
        # bound once: a request calls them as its own
        self.row = self._decoder.row
        self.entity_of = self._decoder.entity_of
        self.entities = self._decoder.entities
        self.inputs_json = InputWriter(layout).inputs_json
        self._check = self._checker.check

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Schema:
        """The schema of a version; policies that an older manifest does not name are the defaults."""
        return cls(
            manifest["inputs"],
            int(manifest["max_batch"]),
            extra_field=manifest.get("extra_field", "error"),
            entity=manifest.get("entity"),
        )

    def columns(self, rows: Sequence[Row], *, batch: bool) -> Checked:
        """Rows → columns, with the values checked: whole, finite, in range, of a known category.

        Args:
            rows: from `row`, at least one; those of several requests may be answered together.
            batch: whether they are one request's; then paths are `rows[3].trip_distance`, else `trip_distance`.

        Raises:
            Refused: with the path of the first value that is wrong.
        """
        return self._of_rows(rows, "rows" if batch else "row", judged=True)

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
            return self._checker.check_table(found, count)
        message = f"send a batch as Content-Type: {', '.join(sorted(BATCH_TYPES))}"
        raise Refused(415, "unsupported_media_type", message)

    def one(self, body: bytes) -> Columns:
        """The columns of one of our own golden rows: as `unlimited`."""
        return self._of_rows([self.row(body)], "row", judged=False).columns

    def unlimited(self, body: bytes) -> Columns:
        """The columns of our own golden rows: without the limit on their number, and whatever the policies say."""
        return self._of_json(body, None, judged=False).columns

    def _of_json(self, body: bytes, limit: int | None, *, judged: bool) -> Checked:
        rows, by_column, count = self._decoder.batch(body, limit)
        if rows is None:
            return self._check(by_column, count, "columns", judged=judged)
        return self._of_rows(rows, "rows", judged=judged, body=body)

    def _of_rows(self, rows: Sequence[Row], form: str, *, judged: bool, body: bytes | None = None) -> Checked:
        if len(rows) == 1:
            by_column: list[Sequence[Any]] = list(zip(msgspec.structs.astuple(rows[0]), strict=True))
        else:
            by_column = list(zip(*map(msgspec.structs.astuple, rows), strict=True))
        if body is not None:
            self._decoder.check_batch_duplicates(body, by_column, len(rows))
        checked = self._check(by_column, len(rows), form, judged=judged)
        checked.rows = rows
        for name in checked.trimmed:  # they are kept so, too: monitoring compares what the model saw
            attribute = f"f{self._names.index(name)}"
            for row, text in zip(rows, checked.columns[name].tolist(), strict=True):
                setattr(row, attribute, text)
        return checked

    # --------------------------------------------------------------------------------------------- tables

    def table(self, body: bytes, content_type: str) -> tuple[Columns, int]:
        """The columns of a table that this version knows, not yet checked, and the number of its rows.

        Raises:
            Refused: see `columnar.read`; also for names, and for no rows.
        """
        from include.inference import columnar  # and with it pyarrow, which no process that answers ever needs

        kinds = {
            name: self._known.inputs[name].kind if name in self._known.inputs else "entity"
            for name in self._layout.attributes.values()
        }
        found, count = columnar.read(body, content_type, kinds, self.max_batch, self._check_names)
        check_length(count, self.max_batch, "columns")
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
