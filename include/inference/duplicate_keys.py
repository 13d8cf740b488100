"""Names that an object of JSON has twice: parsers disagree on which of them counts, so none does.

JSON itself only advises against them, and the decoder on the hot path takes the last one. Whether there are any is seen
from a number, without parsing again: each name and each text has two quotation marks, and a name that was given twice
leaves more of them than its row accounts for. Only where the numbers differ is the body parsed once more, to say where.
"""

from __future__ import annotations

import json
from typing import Any

from include.inference.errors import Refused, cut

TOO_DEEP = "the JSON is nested too deeply"


class _Twice(Exception):
    """A name that is given twice, in which object of those that end before it."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.name, self.number = name, number


def quotes(text: bytes) -> int:
    """The quotation marks of a JSON text, those that are escaped in its strings among them."""
    return text.count(b'"')


def duplicate(path: str | None = None) -> Refused:
    """The refusal of a name that is given twice; None: of a body that is too large to be parsed once more."""
    if path is None:
        return Refused(422, "duplicate_field", "a field is given twice; which of them counts is open: send it once")
    text = f"{path} is given twice; which of them counts is open: send it once"
    return Refused(422, "duplicate_field", text, path)


def refuse_duplicates(text: bytes, within: str | None = None) -> None:
    """Refuse a JSON text with a name that is twice in an object.

    Args:
        text: the body.
        within: the name of the list whose objects are numbered in paths, such as `rows`.

    Raises:
        Refused: 422 with the path; 400 where the text is no JSON after all.
    """
    ended = 0

    def check(pairs: list[tuple[str, Any]]) -> None:
        nonlocal ended
        names = {name for name, _ in pairs}
        if len(names) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise _Twice(name, ended)
                seen.add(name)
        ended += 1  # and what it held is let go of at once

    try:
        json.loads(text, object_pairs_hook=check, parse_int=float)
    except _Twice as twice:
        path = cut(twice.name)
        if within is not None and path != within:
            path = f"{within}[{twice.number}].{path}"
        raise duplicate(path) from None
    except RecursionError:
        raise Refused(400, "too_deep", TOO_DEEP) from None
    except ValueError as error:
        raise Refused(400, "malformed_json", f"the body is not JSON: {cut(str(error), 200)}") from None
