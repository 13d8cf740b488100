"""The types in which the partitions of one run are judged: those of the source, as its earlier partitions left them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import sqlalchemy as sa

from include import schema_record, schemas
from include.ingestion import partitions
from include.schemas import United
from include.settings import ColumnType, Source


class RunSchema:
    """Unites one partition after the other with the types so far; only an accepted partition changes them.

    Attributes:
        before: column → type, as recorded when the run began.
    """

    def __init__(self, engine: sa.Engine, name: str, source: Source, keys: Sequence[str], data_url: str) -> None:
        self._engine, self._name, self._keys, self._data_url = engine, name, frozenset(keys), data_url
        self._fixed = partitions.declared(source)
        learned = schema_record.known_without(engine, name, data_url, keys, self._fixed)
        self._known: dict[str, ColumnType] = {**learned, **self._fixed}
        self._largest: dict[str, int] = {}
        with engine.connect() as connection:
            self.before = schema_record.recorded(connection, name)

    def unite(self, table: pa.Table) -> United:
        """The table in the types so far, or wider ones; what does not fit is in `conflicts`."""
        return schemas.unite(table, self._known, fixed=self._fixed, largest=self._beyond)

    def accept(self, united: United) -> None:
        """Let an accepted partition decide."""
        self._known |= united.types
        for name, kind in united.types.items():
            if kind == "int":
                self._largest[name] = max(self._largest.get(name, 0), schemas.largest(united.table[name]))

    def _beyond(self, column: str) -> int:
        published = schema_record.largest_published(self._engine, self._name, self._data_url, column, self._keys)
        return max(published, self._largest.get(column, 0))


def refusal(united: United) -> str | None:
    """Why a partition whose values do not fit is refused, with the remedy."""
    if not united.conflicts:
        return None
    found = "; ".join(f"column {name}: {reason}" for name, reason in united.conflicts.items())
    first = next(iter(united.conflicts))
    return (
        f"{found}. Correct the data; or declare the type under the source's `types` ({first}: string takes everything)"
        " and ingest the published partitions again with `replace`"
    )
