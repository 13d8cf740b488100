from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from include import preflight
from include.settings import ParamsError

ROOT = Path(__file__).resolve().parents[2]

CSV = "age,plan,fee,joined,churned\n31,basic,9.5,2024-01-01,yes\n54,max,39.0,2024-01-02,no\n"

SUITE = """{"expectations": [
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "age"}, "severity": "warning"}]}"""

TEXT = """\
sources:
  customers:
    type: files
    path: {path}
    derive:
      fee_per_year: fee / age
models:
  churn:
    source: customers
    target: churned
    task: binary
{model}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "customers.csv").write_text(CSV)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "customers.json").write_text(SUITE)
    return tmp_path


def check(folder, model="", change=lambda text: text):
    path = folder / "params.yaml"
    path.write_text(change(TEXT.format(path=folder / "customers.csv", model=model)))
    return [str(finding) for finding in preflight.check(path, suites=folder / "suites")]


def test_the_shipped_file_is_right():
    assert preflight.check(ROOT / "params.yaml") == []


def test_a_file_without_mistakes_has_no_findings(folder):
    assert check(folder, "    features: {one_hot: [plan], exclude: [joined]}") == []
    policies = "serving: {fields: {age: {out_of_range: clip}}, units: {churned: '', fee: EUR}, log: {inputs: [fee]}}"
    assert check(folder, f"    features: {{exclude: [joined]}}\n    {policies}") == []
    assert preflight.require(folder / "params.yaml", suites=folder / "suites").models["churn"].target == "churned"


@pytest.mark.parametrize(
    ("model", "line", "key", "message"),
    [
        ("    tuning: {trails: 3}", 12, "tuning.trails", "unknown key; did you mean 'trials'?"),
        ("    entity: custmer", 12, "entity", "the source 'customers' has no column 'custmer'; it has age, plan"),
        ("    time_column: age", 12, "time_column", "'age' is int, not a timestamp or date; set its type"),
        (
            "    features:\n      one_hot: [plam]",
            13,
            "features.one_hot",
            "there is no column 'plam'; did you mean 'plan'?",
        ),
        (
            "    features:\n     pca:\n      c:\n       columns: [age, fee]\n       components: 2\n       colum: 1",
            17,
            "features.pca.c.colum",
            "unknown key; did you mean 'columns'?",
        ),
        (
            "    features:\n      standard_scaler: som",
            13,
            "features.standard_scaler",
            "expected a list or all, not 'som'",
        ),
        ("    features: {bin: {age: x}}", 12, "features.bin.age", "expected a whole number or a list, not 'x'"),
        ("    features: {impute: {age: [1]}}", 12, "features.impute.age", "expected a number or text, not [1]"),
        (
            "    features:\n      derived:\n        x: fee / agee",
            14,
            "features.derived.x",
            "'fee / agee': there is no column",
        ),
        ("    features:\n      derived:\n        x: fee /", 14, "features.derived.x", "'fee /':"),
        ("    features: {exclude: [joned]}", 12, "features.exclude", "the source has no column 'joned'; did you mean"),
        ("    features: {columns: [churned]}", 12, "features.columns", "'churned' is the target"),
        (
            "    features: {definition: nothing}",
            12,
            "features.definition",
            "there is no file include/features/definitions",
        ),
        (
            "    features: {exclude: [joined]}\n    serving:\n      fields:\n        agee: {out_of_range: clip}",
            15,
            "serving.fields.agee",
            "the model has no input 'agee'; did you mean 'age'?",
        ),
        (
            "    features: {exclude: [joined]}\n    serving:\n      fields:\n        plan: {out_of_range: clip}",
            15,
            "serving.fields.plan.out_of_range",
            "'plan' is string, which has no range",
        ),
        (
            "    features: {date_parts: {joined: [month]}}\n    serving: {fields: {joined: {unknown_category: error}}}",
            13,
            "serving.fields.joined.unknown_category",
            "'joined' is date, which has no categories",
        ),
        (
            "    features: {exclude: [joined]}\n    serving:\n      units: {fees: EUR}",
            14,
            "serving.units.fees",
            "the model has no input 'fees'; did you mean 'fee'?",
        ),
        (
            "    features: {columns: [age]}\n    serving:\n      log: {inputs: [\n        age,\n        plan]}",
            16,
            "serving.log.inputs.1",
            "the model has no input 'plan'; there are age",
        ),
        (
            "    features: {columns: [age]}\n    estimators:\n      xgboost:\n        max_dept: 3",
            15,
            "estimators.xgboost.max_dept",
            "unknown parameter for binary; did you mean 'max_depth'?",
        ),
    ],
)
def test_a_mistake_in_a_model_is_found_with_its_line_and_remedy(folder, model, line, key, message):
    (found,) = [f for f in check(folder, model) if f"churn.{key}" in f]
    assert found.startswith(f"params.yaml:{line}: models.churn.{key}: {message}")


@pytest.mark.parametrize(
    ("old", "new", "line", "finding"),
    [
        (
            "target: churned",
            "target: churn",
            10,
            "models.churn.target: the source 'customers' has no column 'churn'; did",
        ),
        (
            "task: binary",
            "task: regression",
            10,
            "models.churn.target: a regression predicts a number, but 'churned' is",
        ),
        ("target: churned", "target: joined", 10, "models.churn.target: binary predicts a class, but 'joined' is a"),
        (
            "fee / age",
            "fee / agee",
            6,
            "sources.customers.derive.fee_per_year: the source has no column 'agee'; did you",
        ),
        ("fee / age", "__import__('os')", 6, "sources.customers.derive.fee_per_year: "),
        ("customers.csv", "custommers.csv", 4, "sources.customers.path: "),
        (
            "    derive:",
            "    time_column: day\n    derive:",
            5,
            "sources.customers.time_column: the source has no column",
        ),
        ("    derive:", "    suite: custmers\n    derive:", 5, "sources.customers.suite: there is no suite"),
    ],
)
def test_a_mistake_that_needs_the_source_is_found_before_anything_runs(folder, old, new, line, finding):
    found = check(folder, "    features: {columns: [age, plan]}", lambda text: text.replace(old, new))
    assert any(f.startswith(f"params.yaml:{line}: {finding}") for f in found), found


def test_a_source_without_a_suite_is_told_how_to_get_one(folder):
    (folder / "suites" / "customers.json").unlink()
    (found,) = check(folder, "    features: {columns: [age]}")
    assert "`mlops suite customers` proposes one" in found


def test_a_suite_that_is_not_json_is_found(folder):
    (folder / "suites" / "customers.json").write_text("{")
    (found,) = check(folder, "    features: {columns: [age]}")
    assert "customers.json: not valid JSON" in found


def test_what_is_wrong_with_a_source_is_said_once_and_not_again_of_each_model(folder):
    (folder / "customers.csv").unlink()
    (found,) = check(folder)
    assert "sources.customers.path" in found


def test_requiring_a_wrong_file_raises_every_line(folder):
    check(folder, "    entity: x\n    estimators: {linear: {foo: 1}}")
    with pytest.raises(ParamsError) as error:
        preflight.require(folder / "params.yaml", suites=folder / "suites")
    assert len(str(error.value).splitlines()) == 2


def test_a_file_that_is_not_there_is_a_finding(tmp_path):
    (found,) = preflight.check(tmp_path / "params.yaml")
    assert "cannot be read" in str(found)


def test_checking_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from include import preflight\n"
        "preflight.check('params.yaml')\n"
        "heavy = {'pandas', 'sklearn', 'mlflow', 'dvc', 'xgboost', 'great_expectations', 'optuna', 'airflow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("entry", "finding"),
    [
        (
            {"kwargs": {"column": "agee"}},
            "expectation 1 (expect_column_values_to_not_be_null): the source has no column",
        ),
        ({"severity": "urgent"}, "severity is one of critical, warning, info, not 'urgent'"),
        (None, "with at least one expectation"),
    ],
)
def test_a_mistake_in_a_suite_is_found_before_anything_runs(folder, entry, finding):
    [first] = json.loads(SUITE)["expectations"]
    suite = {"expectations": [{**first, **entry}] if entry else []}
    (folder / "suites" / "customers.json").write_text(json.dumps(suite))
    (found,) = check(folder, "    features: {columns: [age]}")
    assert "sources.customers.suite: " in found
    assert finding in found


def examine(folder, table, model="task: binary", features="{}", suite=SUITE):
    """What `mlops check` finds in a table with the columns `x` and `y`, and others."""
    names = list(table)
    lines = [",".join(names), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    (folder / "customers.csv").write_text("\n".join(lines) + "\n")
    (folder / "suites" / "customers.json").write_text(suite.replace('"age"', '"y"'))
    path = folder / "params.yaml"
    path.write_text(
        f"sources: {{customers: {{type: files, path: {folder / 'customers.csv'}}}}}\n"
        f"models: {{churn: {{source: customers, target: y, {model}, features: {features}}}}}\n"
    )
    return [str(finding) for finding in preflight.examine(path, suites=folder / "suites")]


def numbers(rows, seed=0):
    return [f"{x:.6f}" for x in np.random.default_rng(seed).normal(size=rows)]


def flags(rows, seed=1):
    return np.random.default_rng(seed).choice(["yes", "no"], rows).tolist()


def test_a_table_without_mistakes_is_found_right(folder):
    assert examine(folder, {"x": numbers(400), "y": flags(400)}) == []


@pytest.mark.parametrize(
    ("target", "model", "finding"),
    [
        (["yes"] * 100, "task: binary", "the target y has one class only, 'yes', in 100 rows"),
        (["yes", "no"] * 50 + ["Yes"] * 3, "task: binary", "is 'yes' but for blanks or capitals"),
        (["yes", "no"] * 50 + ["?"], "task: binary", "if '?' means that it is not known, declare it in the source's"),
        (["yes", "no", "maybe"] * 40, "task: binary", "set task: multiclass"),
        (numbers(1300), "task: multiclass", "numbers with fractions such as"),
        (
            list(range(100)),
            "task: multiclass",
            "100 classes in 100 rows, fewer than 3 rows each; choose task: regression",
        ),
        ([7] * 100, "task: regression", "the target y is 7 in all 100 rows"),
        (["inf", *numbers(99)], "task: regression", "the target y is infinite in 1 of 100 rows"),
        ([""] * 100, "task: regression", "none of 100 rows has a target (y)"),
        (numbers(10), "task: regression", "the train part has 7 of 10 rows, at least 20 are needed"),
        (["yes"] * 96 + ["no"] * 4, "task: binary", "part has one class only, 'yes'"),
    ],
)
def test_a_target_that_training_would_refuse_is_refused_by_the_check(folder, target, model, finding):
    """By the code that `prepare` runs, on the same rows."""
    found = [f for f in examine(folder, {"x": numbers(len(target)), "y": target}, model) if "warning: " not in f]
    assert len(found) == 1, found
    assert finding in found[0]


def test_a_file_with_a_header_only_is_found(folder):
    found = examine(folder, {"x": [], "y": []}, features="{columns: [x]}", model="task: regression")
    assert any("sources.customers.path: the newest file has a header and no rows" in f for f in found), found


def test_an_exclude_that_leaves_nothing_out_is_a_warning_with_the_nearest_name(folder):
    text = TEXT.format(path=folder / "customers*.csv", model="")

    def warnings(excluded):
        path = folder / "params.yaml"
        path.write_text(text.replace("    derive:", f"    exclude: {excluded}\n    derive:"))
        found = preflight.examine(path, suites=folder / "suites")
        return [str(finding) for finding in found if finding.key == "sources.customers.exclude"]

    (folder / "customers_2.csv").write_text(CSV.replace("age,", "note,age,").replace("\n", "\nx,", 2))
    (misspelt,) = warnings("[plam, joined]")
    assert misspelt.endswith("warning: sources.customers.exclude: no file has a column 'plam'; did you mean 'plan'?")
    assert warnings("[note]") == []  # only the newest file has it
    assert warnings("[joined]") == []


def test_suspects_small_tables_and_ordered_rows_are_warnings(folder):
    def warnings(table, model="task: binary"):
        found = examine(folder, table, model)
        assert all("warning: models.churn." in f for f in found), found
        return "\n".join(found)

    y = flags(400)
    found = warnings({"x": numbers(400), "id": range(400), "copy": [f"{v}!" for v in y], "flat": [3] * 400, "y": y})
    assert "features: suspect: 'id' has 400 distinct values in 400 rows, as an ID has" in found
    assert "suspect: 'copy' alone explains the target (ROC AUC 1.000)" in found
    assert "suspect: 'flat' is 3.0 in all rows" in found
    assert "'x'" not in found
    assert "split: 16 of 100 rows are held out, and the gate needs 50" in warnings({"x": numbers(100), "y": flags(100)})
    assert "only 200 rows: 26% of them are held out, not 15%" in warnings({"x": numbers(200), "y": flags(200)})
    walk = [f"{v:.6f}" for v in np.cumsum(np.random.default_rng(3).normal(size=400))]
    assert "split: neighbouring rows are alike" in warnings({"x": numbers(400), "y": walk}, "task: regression")
    late = [f"2024-01-{day:02d}" for day in range(1, 11)] * 40
    assert "'t' is no input: a timestamp that nothing uses" in warnings({"x": numbers(400), "t": late, "y": y})


@pytest.mark.parametrize(
    ("columns", "features", "finding"),
    [
        ({"x": ["inf", *numbers(399)]}, "{}", "the column 'x' is infinite, or too large for 32 bits, in 1 of 400 rows"),
        ({"x": [*numbers(398), "1e39", "-1e39"]}, "{}", "'x' is infinite, or too large for 32 bits, in 2 of 400 rows"),
        ({"x": numbers(400)}, "{derived: {z: x * 1e300}}", "the feature 'z' is infinite, or too large for 32 bits"),
        ({"x": numbers(400), "e": [""] * 400}, "{}", "the feature 'e' has no value in any of 400 rows; leave it out"),
        ({"x": numbers(400), "e": [f"c{n}" for n in range(800)]}, "{one_hot: [e]}", "one_hot: 'e' has"),
        (
            {"x": ["", *numbers(399)], "z": numbers(400)},
            "{pca: {p: {columns: [x, z], components: 1}}}",
            "pca.p: 'x' has",
        ),
    ],
)
def test_what_the_features_would_refuse_is_refused_by_the_check(folder, columns, features, finding):
    rows = max(map(len, columns.values()))
    table = {name: (values * 2)[:rows] for name, values in columns.items()}
    found = [f for f in examine(folder, {**table, "y": flags(rows)}, features=features) if "warning: " not in f]
    assert len(found) == 1, found
    assert finding in found[0]


def test_rare_classes_are_a_warning_with_their_rows(folder):
    target = [*["a", "b", "c"] * 130, "d", "d", "e"]
    found = examine(folder, {"x": numbers(len(target)), "y": target}, "task: multiclass")
    assert any("2 of 5 classes of y have fewer than 7 rows" in f and "'d' (2), 'e' (1)" in f for f in found), found


def test_numbers_with_a_blank_or_a_mark_are_a_warning_with_the_share(folder):
    found = examine(folder, {"x": [*numbers(398), "-", " "], "y": flags(400)}, features="{one_hot: [x], columns: [x]}")
    assert any("warning: sources.customers: " in f and "99.5 % numbers" in f for f in found), found


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("rename: {nosuch: z}", "sources.customers.rename: "),
        ("types: {nosuch: int}", "sources.customers.types: "),
        ("encoding: nosuch", "sources.customers.encoding: 'nosuch' is not known"),
    ],
)
def test_a_setting_of_a_source_that_does_not_fit_the_file_is_found_at_its_key(folder, source, finding):
    (found,) = check(
        folder, "    features: {columns: [age]}", lambda text: text.replace("    derive", f"    {source}\n    derive")
    )
    assert finding in found
    assert "'nosuch'" in found


def test_a_column_that_is_there_twice_or_has_no_name_is_found(folder):
    for header, finding in (("x,x", "the column 'x' is there twice"), (",x", "the column '' has no name")):
        rows = "".join(f"{n},{v},{f}\n" for n, (v, f) in enumerate(zip(numbers(400), flags(400), strict=True)))
        path = folder / "customers.csv"
        examine(folder, {"x": numbers(4), "y": flags(4)})
        path.write_text(f"{header},y\n{rows}")
        found = [str(f) for f in preflight.examine(folder / "params.yaml", suites=folder / "suites")]
        assert any(finding in f and "warning" not in f for f in found), found


def test_an_expectation_that_great_expectations_does_not_know_is_found(folder):
    suite = SUITE.replace("to_not_be_null", "to_not_be_nul")
    (found,) = examine(folder, {"x": numbers(400), "y": flags(400)}, suite=suite)
    assert "did you mean 'expect_column_values_to_not_be_null'?" in found


@pytest.mark.parametrize(
    "text",
    ["this is no python\n", "raise RuntimeError('no')\n", "import nothing_of_this_name\n", "1 / 0\n", "\x00", ""],
)
def test_a_definition_that_cannot_be_read_concerns_its_own_model_only(folder, text):
    definitions = folder / "include" / "features" / "definitions"
    definitions.mkdir(parents=True)
    (definitions / "bad.py").write_text(text)
    entry = "{source: customers, target: churned, task: binary, features: {%s}}"
    models = f"models:\n  one: {entry % 'definition: bad'}\n  two: {entry % 'exclude: [joined]'}\n"
    path = folder / "params.yaml"
    path.write_text(TEXT.format(path=folder / "customers.csv", model="").partition("models:")[0] + models)
    found = preflight.check(path, root=folder, suites=folder / "suites")
    assert {finding.key.split(".")[1] for finding in found} == {"one"}
