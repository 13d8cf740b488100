"""Formulas: what they compute, and what they refuse."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from include.formulas import Formula, FormulaError

COLUMNS = {
    "a": np.array([1.0, 2.0, np.nan]),
    "b": np.array([0.0, 4.0, 3.0]),
    "t": np.array(["2024-02-29T10:30:15", "NaT", "2024-12-31T23:59:59"], dtype="datetime64[us]"),
    "u": np.array(["2024-02-29T12:00:15", "2024-01-01", "2024-12-31T23:59:59"], dtype="datetime64[us]"),
    "s": np.array(["Y", None, "N"], dtype=object),
}
NAN = np.nan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * 2", [1, 10, NAN]),
        ("-a ** 2", [-1, -4, NAN]),
        ("b // 3 + b % 3", [0, 2, 1]),
        ("a / b", [NAN, 0.5, NAN]),
        ("1 / b", [NAN, 0.25, 1 / 3]),
        ("1 / (1 / b)", [NAN, 4, 3]),
        ("log(b)", [NAN, np.log(4), np.log(3)]),
        ("sqrt(a - 2)", [NAN, 0, NAN]),
        ("exp(b * 1000)", [1, NAN, NAN]),
        ("0 <= b < 4", [1, 0, 1]),
        ("a > 1", [0, 1, 0]),
        ("a != 1", [0, 1, 0]),
        ("not a > 1", [1, 0, 1]),
        ("a > 1 and b > 1 or b == 3", [0, 1, 1]),
        ("where(isnull(a), -1, a)", [1, 2, -1]),
        ("clip(b, 1, 3)", [1, 3, 3]),
        ("maximum(a, b) - minimum(a, b)", [1, 2, NAN]),
        ("round(b / 3)", [0, 1, 1]),
        ("s == 'Y'", [1, 0, 0]),
        ("s != 'Y'", [0, 0, 1]),
        ("hour(t)", [10, NAN, 23]),
        ("minute(t)", [30, NAN, 59]),
        ("weekday(t)", [3, NAN, 1]),
        ("day(t)", [29, NAN, 31]),
        ("month(t)", [2, NAN, 12]),
        ("year(t)", [2024, NAN, 2024]),
        ("dayofyear(t)", [60, NAN, 366]),
        ("minutes(u - t)", [90, NAN, 0]),
        ("hours(u - t)", [1.5, NAN, 0]),
        ("seconds(t - u)", [-5400, NAN, 0]),
        ("t < u", [1, 0, 0]),
    ],
)
def test_a_formula_computes_what_it_says(text: str, expected: list[float]) -> None:
    result = Formula(text).evaluate(COLUMNS)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-15)


def test_one_row_gives_the_bits_it_gives_among_many() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=1001) * 50, rng.normal(size=1001)
    formula = Formula("log1p(abs(x)) * exp(y) / (x - y) + x ** 2 % 7")
    whole = formula.evaluate({"x": x, "y": y})
    alone = [formula.evaluate({"x": x[i : i + 1], "y": y[i : i + 1]})[0] for i in range(len(x))]
    assert np.array_equal(whole, alone, equal_nan=True)


def test_it_knows_its_columns() -> None:
    assert Formula("where(a > 1, log(b), true)").columns == {"a", "b"}


def test_text_may_be_chosen() -> None:
    assert Formula("where(a > 1, 'long', 'short')").evaluate(COLUMNS).tolist() == ["short", "long", "short"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b", "'a.b' is not allowed"),
        ("__import__('os').system('true')", "write function"),
        ("eval('1')", "no function 'eval'"),
        ("lgo(a)", "did you mean 'log'"),
        ("(lambda: a)()", "write function"),
        ("[x for x in a]", "not allowed"),
        ("a[0]", "not allowed"),
        ("a if b else 1", "not allowed"),
        ("a & b", "write `and` for &"),
        ("~a", "write `not`"),
        ("a is None", "isnull"),
        ("a +", "cannot be read"),
        ("f'{a}'", "not allowed"),
        ("a + b'x'", "neither a number nor text"),
        ("clip(a)", "takes 3 values, not 1"),
        ("log(x=a)", "write function"),
        ("1 + 1", "names no column"),
        ("a" + " + a" * 400, "characters"),
        ("-" * 60 + "a", "nested"),
        ("", "cannot be read"),
    ],
)
def test_what_is_no_formula_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(FormulaError, match=message.replace("(", r"\(")):
        Formula(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aa + 1", "no column 'aa'; did you mean 'a'"),
        ("u - t", "needs a unit"),
        ("t + 1", "takes numbers, not a timestamp"),
        ("hour(a)", "takes a timestamp"),
        ("minutes(a)", "difference of two timestamps"),
        ("s < 'Y'", "== and !="),
        ("s + 1", "takes numbers, not text"),
        ("a == 'x'", "compares a number with text"),
        ("where(a > 1, a, s)", "of one type"),
    ],
)
def test_a_formula_that_does_not_fit_its_columns_says_why(text: str, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        Formula(text).evaluate(COLUMNS)


def test_the_module_imports_numpy_the_standard_library_and_the_one_hint_at_names_alone() -> None:
    import include.formulas

    tree = ast.parse(Path(include.formulas.__file__).read_text())
    imported = {
        n.names[0].name if isinstance(n, ast.Import) else n.module
        for n in ast.walk(tree)
        if isinstance(n, ast.Import | ast.ImportFrom)
    }
    assert imported <= {"__future__", "ast", "collections.abc", "typing", "numpy", "include.text"}


PARTS = {
    "y": np.array([2024.0, 2024.0, 2023.0, np.nan, 2024.0]),
    "m": np.array([2.0, 2.0, 2.0, 1.0, 13.0]),
    "d": np.array([29.0, 30.0, 29.0, 1.0, 1.0]),
    "h": np.array([23.0, 0.0, 0.0, 0.0, 0.0]),
}


def test_a_timestamp_is_made_of_its_parts_and_missing_where_the_calendar_has_none() -> None:
    found = Formula("timestamp(y, m, d, h)").evaluate(PARTS)
    assert found.dtype == "M8[us]"
    assert [str(t) for t in found] == ["2024-02-29T23:00:00.000000", "NaT", "NaT", "NaT", "NaT"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timestamp(y, m, d)", "2024-02-29T00:00:00.000000"),
        ("timestamp(y, m, d, h, 5)", "2024-02-29T23:05:00.000000"),
        ("timestamp(y, m, d, h, 5, 1.25)", "2024-02-29T23:05:01.250000"),
        ("timestamp(y, m, d, h + 1)", "NaT"),
        ("timestamp(y, m, d + 0.5)", "NaT"),
        ("timestamp(y - 3000, m, d)", "NaT"),
        ("timestamp(y * 1e300, m, d)", "NaT"),
    ],
)
def test_a_timestamp_takes_hour_minute_and_second_or_leaves_them_out(text: str, expected: str) -> None:
    assert str(Formula(text).evaluate(PARTS)[0]) == expected


def test_what_is_made_of_parts_is_a_timestamp_for_every_other_function() -> None:
    assert Formula("hour(timestamp(y, m, d, h))").evaluate(PARTS)[0] == 23
    assert Formula("hours(timestamp(y, m, d, h) - timestamp(y, m, d))").evaluate(PARTS)[0] == 23


def test_a_timestamp_of_text_or_of_too_few_parts_is_refused() -> None:
    with pytest.raises(FormulaError, match=r"timestamp\(\) takes numbers, not text"):
        Formula("timestamp(s, 1, 1)").evaluate(COLUMNS)
    with pytest.raises(FormulaError, match="takes 3 to 6 values, not 2"):
        Formula("timestamp(a, 1)")


@pytest.mark.parametrize("text", ["a + " + "9" * 400, "a + -" + "1" * 310, "clip(a, 0, " + "9" * 900 + ")"])
def test_a_number_beyond_all_floats_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(FormulaError, match=r"at character \d+: a number of \d+ digits is too large"):
        Formula(text)
