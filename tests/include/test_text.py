"""Text is trimmed alike in a request and in a column."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from include.text import trim


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
