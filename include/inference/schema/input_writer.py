"""Writes the inputs of rows as JSON for the prediction log, as far as they may be logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np

from include.inference.schema.checked import Checked
from include.inference.schema.layout import Layout, Logged, Row

_encoder = msgspec.json.Encoder()


class InputWriter:
    """Writes inputs; what of them is logged decides about a writer that is made once."""

    def __init__(self, layout: Layout) -> None:
        self._known, self._names = layout.known, layout.names
        self._all_names = list(layout.attributes.values())
        self._writers: dict[Logged, Callable[[Sequence[Row]], list[bytes]]] = {}

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
        if names == self._all_names:
            self._writers[logged] = _encoded
            return _encoded
        holder = _holder(names)
        places = [self._names.index(name) for name in names]
        pick: Callable[[Any], Any] = itemgetter(*places) if len(places) > 1 else lambda row: [row[n] for n in places]
        values = msgspec.structs.astuple

        def write(rows: Sequence[Row]) -> list[bytes]:
            return _encoded([holder(*pick(values(row))) for row in rows])

        self._writers[logged] = write
        return write

    def _columns_json(self, given: Checked, logged: Logged) -> list[bytes]:
        names = self._logged_names(logged)
        if not names:
            return [b"{}"] * given.count
        holder = _holder(names)
        values = [_as_json(given.received[name], self._known.inputs[name].kind) for name in names]
        return _encoded([holder(*row) for row in zip(*values, strict=True)])


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
