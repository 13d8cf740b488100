"""Text as data: what counts as the same value, at the source and in a request."""

from __future__ import annotations


def trim(text: str) -> str:
    """The text without Unicode white space at its beginning and its end: what `pyarrow.compute.utf8_trim_whitespace`
    does to a column. White space inside of it stays.
    """
    return text.strip()
