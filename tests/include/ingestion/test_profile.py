"""A guess about a column's nature is told: what is nearly numbers or dates, and what keeps it from being so."""

from __future__ import annotations

import pyarrow as pa
import pytest

from include.ingestion.profile import nearly_typed, percent


def _found(values: list[object]) -> str:
    return " ".join(each.message for each in nearly_typed(pa.table({"x": values})))


def test_numbers_with_blanks_are_named_with_their_share() -> None:
    """Telco's TotalCharges, the specimen."""
    (found,) = nearly_typed(pa.table({"TotalCharges": ["29.85"] * 7032 + [" "] * 11}))
    assert found.message.startswith(
        "TotalCharges: 99.8 % numbers, 11 are blank; declare `types: {TotalCharges: float}`"
    )
    assert (found.kind, found.share) == ("numbers", 7032 / 7043)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["1.5"] * 9 + ["-"], "90 % numbers, 1 is '-' or the like"),
        (["1"] * 9 + ["n.a."], "90 % numbers, 1 is 'n.a.' or the like"),
        (["1"] * 9 + [None], "90 % numbers, 1 is blank"),
        (["1"] * 19 + ["Total of all shops"], "95 % numbers, 1 is text ('Total of all shops')"),
        (["12,50", "3,75"] * 9, "100 % numbers, 18 with a decimal comma ('12,50')"),
        (["1,020.50", "3"] * 9, "9 with a comma between thousands ('1,020.50')"),
        (["1.020,50", "3,1"] * 9, "18 with a decimal comma"),
        (["1 020", "3"] * 9, "9 with a space between thousands ('1 020')"),
        (["$12.50", "$3"] * 9, "18 with a currency or percent sign ('$12.50')"),
        (["12 %", "3 %"] * 9, "18 with a currency or percent sign"),
        (["1e5", "-.5", "+3."] * 9, "100 % numbers"),
        (["20 Jan 2020"] * 9, "100 % dates ('20 Jan 2020'); declare `types: {x: date}` and `date_format: %d %b %Y`"),
        (["20.01.2020"] * 9, "`date_format: %d.%m.%Y`"),
        (["20/01/2020", "01/02/2020"] * 9, "`date_format: %d/%m/%Y`"),
        (["01/20/2020", "01/02/2020"] * 9, "`date_format: %m/%d/%Y`"),
        (["05/01/2020", "01/02/2020"] * 9, "no row says whether day or month comes first"),
        (["2020-01-31"] * 9 + ["?"], "90 % dates ('2020-01-31'), 1 is '?'"),
        ([20200131, 20200201, 20200202], "whole numbers that are dates (20200131)"),
    ],
)
def test_what_is_nearly_something_else(values: list[object], sentence: str) -> None:
    assert sentence in _found(values)


@pytest.mark.parametrize(
    "values",
    [
        ["00007", "00012", "123"] * 9,
        ["basic", "pro"] * 9,
        ["1", "two", "three", "four"] * 9,
        ["", None] * 9,
        [20200131, 20201301, 20200202],
        [1, 2, 3],
        [1.5, 2.5],
    ],
)
def test_what_is_what_it_seems(values: list[object]) -> None:
    assert _found(values) == ""


def test_a_declared_column_is_no_guess() -> None:
    assert nearly_typed(pa.table({"x": ["1", " "] * 9}), declared={"x"}) == []


def test_only_all_of_it_is_a_hundred_percent() -> None:
    assert [percent(share) for share in (1, 0.99999, 0.998, 0.5, 0)] == ["100 %", "99.9 %", "99.8 %", "50 %", "0 %"]
