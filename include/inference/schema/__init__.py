"""A request's body → columns, or a refusal that names the field: what a client sends is checked here, nowhere else.

    layout         the manifest's inputs in the order of columns, compiled once
    decoder        a body → rows or lists, by types that msgspec makes of the layout
    checker        values → columns, checked against bounds and categories; what is unusual → checked.Notes
    input_writer   rows → what the prediction log keeps of them
    schema         these together: what one version takes

The hot path is one msgspec decode a row, and one array for all numbers of all rows.
"""

from include.inference.errors import Refused
from include.inference.schema.checked import MOST_WARNINGS, Checked, Warning
from include.inference.schema.layout import Columns, Logged, Row
from include.inference.schema.schema import ARROW, BATCH_TYPES, JSON, PARQUET, Schema, Tables

__all__ = [
    "ARROW",
    "BATCH_TYPES",
    "JSON",
    "MOST_WARNINGS",
    "PARQUET",
    "Checked",
    "Columns",
    "Logged",
    "Refused",
    "Row",
    "Schema",
    "Tables",
    "Warning",
]
