"""What every format gives: columns under the names that a source has for them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

HEAD = 1 << 20
"""Bytes of a file's head: what is read of it to learn its columns."""


@dataclass(frozen=True)
class Raw:
    """A file's columns under the names that its source has for them.

    Attributes:
        table: as the format holds them; text of a CSV file is only text.
        first_row: the number of the first row, as a person counts in the file.
        is_text: whether the format knows no types.
    """

    table: pa.Table
    first_row: int
    is_text: bool


def block(data: bytes) -> int:
    """Bytes that Arrow reads at once: all of these."""
    return min(max(len(data), HEAD), 2**31 - 1)  # more is no number that Arrow takes


def one_line(error: Exception) -> str:
    """An error's message without line breaks, of at most 400 characters."""
    return " ".join(str(error).split())[:400]
