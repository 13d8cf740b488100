"""The compiler: declared or defined, features become one thing, and mistakes are found before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.features.columns import ColumnType
from include.features.compiler import compile_features
from include.features.feature_set import FeatureError, FeatureSet
from include.settings import ROOT, Features
from tests.include.features.compiling import compiled


def define(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "include" / "features" / "definitions"
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(text)
    return tmp_path


def test_by_default_all_columns_but_target_time_and_entity_are_features() -> None:
    made = compiled(exclude=["since"])
    assert made.inputs == {"age": "float", "city": "string", "member": "bool"}
    assert made.kinds == {"age": "number", "city": "string", "member": "number"}


def test_a_timestamp_that_nothing_uses_is_no_input_and_named_with_what_makes_it_one() -> None:
    made = compiled()
    assert "since" not in made.inputs
    assert made.left_out == {
        "since": "a timestamp that nothing uses; `features.date_parts: {since: [hour, weekday]}` makes features of it"
    }
    assert compiled(date_parts={"since": ["month"]}).left_out == {}


def test_a_column_beyond_the_known_ones_is_an_input_only_where_the_entry_names_it() -> None:
    known = ["age", "member", "since", "seen", "paid", "id"]
    made = compiled(known=known, exclude=["since"])
    assert list(made.inputs) == ["age", "member"]
    assert made.left_out == {"city": "came after the inputs were decided; `features.include: [city]` makes it one"}
    for how in ({"include": ["city"]}, {"one_hot": ["city"]}, {"derived": {"b": "city == 'b'"}}):
        made = compiled(known=known, exclude=["since"], **how)
        assert "city" in made.inputs
        assert made.left_out == {}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ('he said "hi"', "a quotation mark"),
        ("back\\slash", "a backslash"),
        ("two\nlines", "a line break"),
        ("two\rlines", "a line break"),
        ("a\ttab", "a tab"),
        ("nul\0", "the control character U\\+0000"),
        ("\x7f", "the control character U\\+007F"),
        ("", "has no name"),
        ("  ", "a name of blanks only"),
    ],
)
def test_a_column_that_no_request_could_carry_is_refused_before_anything_is_built(name: str, why: str) -> None:
    source: dict[str, ColumnType] = {"age": "float", name: "float", "paid": "float"}
    given: dict[str, Any] = {"entity": None, "time_column": None, "root": ROOT}

    def compile_with(target: str = "paid", **features: Any) -> FeatureSet:
        return compile_features(Features.model_validate(features), source_columns=source, target=target, **given)

    with pytest.raises(FeatureError, match=f"{why}.*`rename: .*features.exclude"):
        compile_with()
    with pytest.raises(FeatureError, match=f"^target: .*{why}"):
        compile_with(target=name)
    assert list(compile_with(exclude=[name]).inputs) == ["age"]


def test_a_column_that_is_gone_may_stay_excluded_but_a_misspelt_one_may_not() -> None:
    assert "gone" not in compiled(exclude=["since", "gone"]).inputs
    with pytest.raises(FeatureError, match="did you mean 'since'"):
        compiled(exclude=["sinse"])


def test_a_definition_and_declared_steps_work_together(tmp_path: Path) -> None:
    root = define(
        tmp_path,
        "import numpy as np\nINPUTS = {'age': 'float'}\n"
        "def features(columns):\n    return {'log_age': np.log1p(columns['age'])}\n",
    )
    made = compiled(
        root, definition="own", columns=["member"], derived={"twice": "log_age * 2 + age"}, one_hot=["city"]
    )
    assert list(made.kinds) == ["log_age", "member", "twice", "city"]
    computed = made.compute({"age": np.array([0.0]), "member": np.array([1.0]), "city": np.array(["x"], dtype=object)})
    assert computed["twice"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"columns": ["aeg"]}, "features.columns: .*'aeg'; did you mean 'age'"),
        ({"columns": ["paid"]}, "'paid' is the target"),
        ({"exclude": ["cty"]}, "features.exclude: .*did you mean 'city'"),
        ({"derived": {"x": "paid * 2"}, "columns": ["age"]}, "features.derived.x: 'paid' is the target"),
        ({"derived": {"x": "agee * 2"}, "columns": ["age"]}, "features.derived.x: .*did you mean 'age'"),
        ({"derived": {"x": "city * 2"}, "columns": ["age"]}, "features.derived.x: .*takes numbers, not text"),
        ({"derived": {"age": "age * 2"}, "columns": ["age"]}, "features.derived.age: there is a column of this name"),
        ({"derived": {"x": "since"}, "columns": ["age"]}, "gives a timestamp"),
        ({"include": ["since"]}, "timestamp 'since' is used by nothing; declare `date_parts"),
        ({"columns": ["since"]}, "timestamp 'since' is used by nothing"),
        (
            {"columns": ["age"], "date_parts": {"city": ["hour"]}},
            "features.date_parts.city: 'city' is string, not a timestamp",
        ),
        ({"columns": ["age"], "one_hot": ["cityy"]}, "features.one_hot: .*did you mean 'city'"),
        ({"columns": ["age"], "impute": {"agee": "mean"}}, "features.impute.agee: .*did you mean 'age'"),
        ({"columns": ["age"], "one_hot": ["since"]}, "declare `date_parts"),
        ({"columns": ["age"], "one_hot": ["city"], "exclude": ["city"]}, "'city' is listed in features.exclude"),
        ({"columns": ["age", "city"], "standard_scaler": ["city"]}, "'city' is text"),
        ({"columns": ["age", "city"], "bin": {"city": 3}}, "'city' is text"),
        (
            {"columns": ["city"], "one_hot": ["city"], "ordinal": ["city"]},
            "in features.ordinal already|in features.one_hot already",
        ),
        (
            {"columns": ["age"], "pca": {"p": {"columns": ["age", "city"], "components": 1}}},
            "features.pca.p: 'city' is text",
        ),
        (
            {"columns": ["age"], "pca": {"p": {"columns": ["age", "member"], "components": 3}}},
            "3 components of 2 columns",
        ),
        ({"columns": []}, "no column is left"),
        ({"definition": "trip_duratoin"}, "did you mean 'trip_duration'"),
        ({"definition": "trip_duration"}, "INPUTS: the source has no column"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_the_remedy(features: dict[str, Any], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        compiled(**features)


def test_the_target_cannot_be_an_input_not_even_by_the_sources_own_formulas() -> None:
    with pytest.raises(FeatureError, match="target: the source has no column 'pait'; did you mean 'paid'"):
        compiled(target="pait")
    with pytest.raises(FeatureError, match="derived from the target"):
        compiled(columns=["age"], derive={"age": "paid * 2"})
    with pytest.raises(FeatureError, match="would compute the answer"):
        compiled(columns=["age", "member"], derive={"paid": "age * member"})
    compiled(columns=["age"], derive={"paid": "age * member"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nINPUTS = {'age': 'float'}\ndef features(c): return c\n", "own.py:1: imports 'os'"),
        ("from ..formulas import Formula\n", "own.py:1: imports"),
        ("from pandas import DataFrame\n", "a definition may import"),
        (
            "INPUTS = {'age': 'float'}\ndef features(c): return {'x': open('/etc/passwd')}\n",
            "own.py:2: 'open' is not allowed",
        ),
        ("INPUTS = {'age': 'float'}\ndef features(c): return {'x': c.__class__}\n", "__class__ is not allowed"),
        ("INPUTS = {'age': 'float'\n", "not valid Python"),
        ("INPUTS = {'age': 'flot'}\ndef features(c): return c\n", "did you mean 'float'"),
        ("def features(c): return c\n", "needs INPUTS"),
        ("INPUTS = {'paid': 'float'}\ndef features(c): return c\n", "'paid' is the target"),
        ("INPUTS = {'city': 'float'}\ndef features(c): return c\n", "is float, but the source's column is string"),
        ("INPUTS = {'age': 'float'}\ndef features(c): return {}\n", "returns no column"),
        (
            "INPUTS = {'age': 'float'}\ndef features(c): return {'x': c['agee']}\n",
            "features\\(\\) failed with KeyError: 'agee'",
        ),
        ("INPUTS = {'age': 'float'}\ndef features(c): return {'x': c['age'][:1]}\n", "has shape \\(1,\\)"),
        ("INPUTS = {'age': 'float'}\ndef features(c): return {'age': c['age'] * 2}\n", "a name of its own"),
        ("INPUTS = {'since': 'timestamp'}\ndef features(c): return {'x': c['since']}\n", "return numbers or text"),
        ("INPUTS = {'age': 'float'}\n1 / 0\ndef features(c): return c\n", "ZeroDivisionError"),
    ],
)
def test_a_faulty_definition_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        compiled(define(tmp_path, text), definition="own")
