"""Text is trimmed alike in a request and in a column; a wrong name is answered with the nearest."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.text import did_you_mean, nearest, suggest, trim


def test_white_space_of_every_kind_goes_and_what_is_inside_stays() -> None:
    assert trim(" \t\u00a0State-gov  x\u2003\r\n") == "State-gov  x"
    assert trim("\u3000") == ""


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.sampled_from(" \t\n\x0b\x1c\x85\u00a0\u2003\u2028\u200b\ufeffa\u00e9"), max_size=8), max_size=5)
)
def test_a_value_is_trimmed_as_a_column_is(values: list[str]) -> None:
    column = pc.utf8_trim_whitespace(pa.array(values, pa.string())).to_pylist()
    assert [trim(value) for value in values] == column


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("trails", ["trials", "window"], "; did you mean 'trials'?"),
        ("tri", ["trials", "window"], "; did you mean 'trials'?"),  # its beginning
        ("TRI", ["trials", "window"], "; did you mean 'trials'?"),
        ("tr", ["trials_of_a_study", "window"], ""),  # too short to be anything's beginning
        ("colour", ["trials", "window"], ""),
        ("13", [12, 113], "; did you mean '113'?"),  # names need not be text
        ("a", [], ""),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_that_exists(word: str, known: list[object], hint: str) -> None:
    assert did_you_mean(word, known) == hint


def test_how_near_a_name_must_be_is_the_callers_to_say() -> None:
    assert nearest("price", ["pride", "cost"], cutoff=0.9) is None
    assert nearest("price", ["zzz"], cutoff=0) == "zzz"
    assert (suggest(None), suggest("it's")) == ("", '; did you mean "it\'s"?')
