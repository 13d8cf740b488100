"""Parquet: the columns with their own types."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.parquet as papq

from include.ingestion.formats.raw import one_line
from include.ingestion.values import Unreadable


def read(file: str, content: bytes) -> pa.Table:
    """The columns of a whole file.

    Raises:
        Unreadable: it is truncated, damaged, or has a column that Arrow cannot read.
    """
    try:
        parquet = papq.ParquetFile(pa.BufferReader(content))
        return without_index(parquet.read())
    except (pa.ArrowInvalid, OSError) as error:
        raise Unreadable(f"{file}: not a whole parquet file ({one_line(error)}); fetch it again") from error
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise Unreadable(f"{file}: a column cannot be read ({one_line(error)})") from error


def without_index(table: pa.Table) -> pa.Table:
    """Without what pandas notes in the file to be a nameless index, no column."""
    written = (table.schema.metadata or {}).get(b"pandas")
    index = json.loads(written).get("index_columns", []) if written else []
    nameless = [name for name in index if isinstance(name, str) and re.fullmatch(r"__index_level_\d+__", name)]
    return table.drop_columns([name for name in nameless if name in table.column_names])
