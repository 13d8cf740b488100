"""Text as data: what counts as the same value, at the source and in a request, and which name a wrong one meant."""

from __future__ import annotations

from collections.abc import Iterable


def trim(text: str) -> str:
    """The text without Unicode white space at its beginning and its end: what `pyarrow.compute.utf8_trim_whitespace`
    does to a column. White space inside of it stays.
    """
    return text.strip()


def nearest(word: str, known: Iterable[object], *, cutoff: float = 0.6) -> str | None:
    """The known name whose letters are most like a word's; None where none is.

    Args:
        word: What was written.
        known: The names there are.
        cutoff: How alike the two must be, from 0 to 1, as difflib measures it.
    """
    import difflib  # most programs never need it

    return next(iter(difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=cutoff)), None)


def suggest(name: str | None) -> str:
    """The end of an error message: `; did you mean 'trials'?`, or nothing for None."""
    return f"; did you mean {name!r}?" if name is not None else ""


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """`; did you mean 'trials'?` for a word that is near to a known one or begins it, else nothing."""
    names = [str(name) for name in known]
    longer = [name for name in names if name.lower().startswith(word.lower())] if len(word) > 2 else []
    return suggest(nearest(word, names) or nearest(word.lower(), longer, cutoff=0.1))
