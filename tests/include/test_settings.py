from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest

from include import settings
from include.settings import Choices, Lines, ParamsError, Range, load_params, parse_params

ROOT = Path(__file__).resolve().parents[2]

TEXT = """\
sources:
  trips:
    type: sample
    dataset: taxi_trips
{source}
models:
  m:
    source: trips
    target: y
    task: regression
{model}
"""
SOURCE_LINE, MODEL_LINE = 5, 11


def params(source="", model=""):
    return parse_params(TEXT.format(source=source, model=model))


def mistakes(source="", model=""):
    with pytest.raises(ParamsError) as error:
        params(source, model)
    return str(error.value).splitlines()


def test_the_shipped_file_is_right():
    shipped = load_params(ROOT / "params.yaml")
    assert set(shipped.models) >= {"trip_duration", "tumour"}
    assert shipped.time_column("trip_duration") == "pickup_datetime"
    assert shipped.default_model == "trip_duration"


def test_a_model_of_four_lines_has_sensible_defaults():
    model = params().models["m"]
    assert (model.metric_name, model.direction) == ("mae", "minimize")
    assert (model.split.train, model.split.validation, model.split.test) == (0.7, 0.15, 0.15)
    assert set(model.estimators) == {"linear", "random_forest", "xgboost"}
    assert model.gate.baseline_margin == 0.10
    assert (model.monitoring.drift.measure, model.monitoring.drift_thresholds) == ("psi", (None, None))


@pytest.mark.parametrize(
    ("task", "metric", "direction"),
    [("regression", "mae", "minimize"), ("binary", "roc_auc", "maximize"), ("multiclass", "log_loss", "minimize")],
)
def test_each_task_has_a_metric_of_its_own(task, metric, direction):
    model = parse_params(TEXT.format(source="", model="").replace("regression", task)).models["m"]
    assert (model.metric_name, model.direction) == (metric, direction)


def test_generated_trips_are_dated_without_saying_so():
    source = params().sources["trips"]
    assert source.time_column == "pickup_datetime"
    assert source.cron == "0 2 * * *"


def test_a_source_without_time_has_no_schedule():
    assert parse_params("sources: {a: {type: files, path: x.csv}}").sources["a"].cron is None


def test_a_model_may_date_its_rows_by_another_column():
    assert params(model="    time_column: dropoff_datetime").time_column("m") == "dropoff_datetime"


def test_incidents_are_dates():
    incident = params(source="    incidents: [{kind: shift, start: 2018-03-01}]").sources["trips"].incidents[0]
    assert (incident.start, incident.end) == (dt.date(2018, 3, 1), None)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[3, 10, int]", Range(low=3, high=10, scale="int")),
        ("[3, 10]", Range(low=3, high=10, scale="int")),
        ("[0.001, 0.1, log]", Range(low=0.001, high=0.1, scale="log")),
        ("[0.5, 1.0]", Range(low=0.5, high=1.0, scale="float")),
        ("[10, 1000, log_int]", Range(low=10, high=1000, scale="log_int")),
        ("{choices: [gbtree, dart]}", Choices(choices=("gbtree", "dart"))),
        ("reg:absoluteerror", "reg:absoluteerror"),
        ("300", 300),
        ("null", None),
    ],
)
def test_a_dimension_of_a_search_space_is_a_range_choices_or_one_value(written, read):
    space = params(model=f"    estimators: {{xgboost: {{p: {written}}}}}").models["m"].estimators["xgboost"]
    assert space["p"] == read


def test_estimators_may_be_a_list_of_names():
    assert params(model="    estimators: [linear, xgboost]").models["m"].estimators == {"linear": {}, "xgboost": {}}


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("{psi_warn: 0.15, psi_critical: 0.3}", ("psi", (0.15, 0.3))),
        ("{drift: {warn: 0.15}, psi_critical: 0.3}", ("psi", (0.15, 0.3))),
        ("{drift: {measure: jensen_shannon, critical: 0.3}}", ("jensen_shannon", (None, 0.3))),
    ],
)
def test_thresholds_of_drift_have_an_earlier_and_a_present_name(declared, expected):
    monitoring = params(model=f"    monitoring: {declared}").models["m"].monitoring
    assert (monitoring.drift.measure, monitoring.drift_thresholds) == expected


def test_a_transform_is_a_key_of_the_features_and_stands_as_it_is_written():
    features = params(model="    features: {ordinal: [size], columns: [size]}").models["m"].features
    assert features.transforms == {"ordinal": ["size"]}
    assert features.model_dump(mode="json")["ordinal"] == ["size"]
    assert set(settings.transform_names()) >= {"bin", "impute", "one_hot", "ordinal", "pca"}


@pytest.mark.parametrize(
    ("model", "line", "key", "message"),
    [
        ("    targt: x", 11, "targt", "unknown key; did you mean 'target'?"),
        ("    tuning: {trails: 3}", 11, "tuning.trails", "unknown key; did you mean 'trials'?"),
        ("    features:\n      one_hots: [a]", 12, "features.one_hots", "unknown key; did you mean 'one_hot'?"),
        ("    gate: {baseline_margn: 1}", 11, "gate.baseline_margn", "unknown key; did you mean 'baseline_margin'?"),
        ("    split: {tran: 0.5}", 11, "split.tran", "unknown key; did you mean 'train'?"),
        ("    serving: {defalt: true}", 11, "serving.defalt", "unknown key; did you mean 'default'?"),
        ("    monitoring:\n      psi_warm: 1", 12, "monitoring.psi_warm", "unknown key; did you mean 'psi_warn'?"),
        (
            "    monitoring:\n      drift: {measure: jensen_shanon}",
            12,
            "monitoring.drift.measure",
            "no file include/monitoring/drift_measures/jensen_shanon.py; did you mean 'jensen_shannon'?",
        ),
        (
            "    monitoring:\n      drift: {warn: 0.3, critical: 0.2}",
            12,
            "monitoring.drift.warn",
            "0.3 must not be above",
        ),
        ("    monitoring: {drift: {warn: 0.3}, psi_warn: 0.3}", 11, "monitoring.psi_warn", "drift.warn says the same"),
        (
            "    monitoring: {drift: {measure: jensen_shannon}, psi_critical: 0.3}",
            11,
            "monitoring.psi_critical",
            "the measure is jensen_shannon, not psi; write drift.critical",
        ),
        ("    features: {zzz: 1}", 11, "features.zzz", "unknown key; there are definition, columns, include"),
        ("    serving: {zzz: 1}", 11, "serving.zzz", "unknown key; there are default, max_batch"),
        ("    tuning:\n      trials: 0", 12, "tuning.trials", "must be greater than or equal to 1, not 0"),
        ("    tuning:\n      trials: many", 12, "tuning.trials", "expected a whole number, not 'many'"),
        ("    tuning:\n      trials: 2.5", 12, "tuning.trials", "expected a whole number, not 2.5"),
        ("    tuning:\n      pruning: perhaps", 12, "tuning.pruning", "expected true or false, not 'perhaps'"),
        ("    tuning:", 11, "tuning", "expected a mapping, but nothing is given"),
        ("    tuning: 7", 11, "tuning", "expected a mapping, not 7"),
        (
            "    features:\n      date_parts:\n        t: [day, hours]",
            13,
            "features.date_parts.t.1",
            "expected hour, weekday, day, month, year, minute or dayofyear, not 'hours'; did you mean 'hour'?",
        ),
        (
            "    estimators:\n      linear: {}\n      xgbost: {}",
            13,
            "estimators.xgbost",
            "no file include/training/estimators/xgbost.py; did you mean 'xgboost'?",
        ),
        (
            "    estimators:\n      xgboost:\n        max_depth: [9, 3]",
            13,
            "estimators.xgboost.max_depth",
            "low 9 must be",
        ),
        (
            "    estimators:\n      xgboost: {eta: [0, 1, log]}",
            12,
            "estimators.xgboost.eta",
            "a log range must start above 0",
        ),
        ("    estimators: {xgboost: {eta: [3]}}", 11, "estimators.xgboost.eta", "write [low, high], [low, high, log"),
        ("    estimators: {}", 11, "estimators", "name at least one of dummy, linear"),
        ("    estimators: {linear: 3}", 11, "estimators.linear", "expected a mapping, not 3"),
        ("    metric: roc_auc", 11, "metric", "'roc_auc' is not a metric of regression; choose from"),
        (
            "    serving:\n      rollout: {success: rate}",
            12,
            "serving.rollout.success",
            "a regression has no share of right answers; say error",
        ),
        ("    serving: {rollout: {steps: [5, 1]}}", 11, "serving.rollout.steps", "must grow, not [5.0, 1.0]"),
        ("    split: {train: 0.5}", 11, "split", "train + validation + test must be 1, not 0.8"),
    ],
)
def test_a_mistake_in_a_model_names_line_key_and_remedy(model, line, key, message):
    (mistake,) = mistakes(model=model)
    assert mistake.startswith(f"params.yaml:{line}: models.m.{key}: {message}")


@pytest.mark.parametrize(
    ("source", "line", "key", "message"),
    [
        ("    row_per_day: 3", 5, "row_per_day", "unknown key; did you mean 'rows_per_day'?"),
        ("    time_colum: t", 5, "time_colum", "unknown key; did you mean 'time_column'?"),
        ("    rows_per_day: 0", 5, "rows_per_day", "must be greater than or equal to 1, not 0"),
        ("    start: soon", 5, "start", "expected a day as YYYY-MM-DD, not 'soon'"),
        (
            "    incidents:\n      - {kind: shift, start: 2018-01-01}\n      - kind: shif\n        start: 2018-01-01",
            7,
            "incidents.1.kind",
            "expected changed_column, poisoned_day or shift, not 'shif'; did you mean 'shift'?",
        ),
        (
            "    incidents:\n      - kind: shift\n        start: 2018-01-01\n        ende: 2018-01-02",
            8,
            "incidents.0.ende",
            "unknown key; did you mean 'end'?",
        ),
    ],
)
def test_a_mistake_in_a_source_names_line_key_and_remedy(source, line, key, message):
    (mistake,) = mistakes(source=source)
    assert mistake == f"params.yaml:{line}: sources.trips.{key}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: {}", "params.yaml:1: source: unknown key; did you mean 'sources'?"),
        ("sources: {}", "params.yaml:1: sources: needs at least 1, but has 0"),
        (
            "sources:\n  a: {type: filez}",
            "params.yaml:2: sources.a.type: expected sample or files, not 'filez'; did you",
        ),
        ("sources:\n  a: {path: x}", "params.yaml:2: sources.a.type: expected sample or files"),
        ("sources:\n  a: 3", "params.yaml:2: sources.a: expected a mapping, not 3"),
        ("sources:\n  a: {type: files, pth: x}", "params.yaml:2: sources.a.pth: unknown key; did you mean 'path'?"),
        ("sources:\n  A-b: {type: files, path: x}", "params.yaml:2: sources.A-b: 'A-b' must be lower-case"),
        ("sources:\n  a: {type: sample, dataset: taxi}", "params.yaml:2: sources.a.dataset: expected taxi_trips or"),
        ("", "params.yaml:1: expected a mapping with `sources` and `models`"),
        ("- 1", "params.yaml:1: expected a mapping with `sources` and `models`"),
        ("sources:\n  a: [", "params.yaml:2: not valid YAML"),
        ("sources:\n\ta: 1", "params.yaml:2: not valid YAML"),
        ("sources: \x07", "params.yaml:1: not valid YAML"),
        (
            "sources:\n  a: {type: files, path: x}\n  a: {type: files, path: y}",
            "params.yaml:3: sources.a: the key 'a'",
        ),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_says_where(text, message):
    with pytest.raises(ParamsError) as error:
        parse_params(text)
    assert message in str(error.value)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    found = mistakes(source="    row_per_day: 3", model="    metrik: mae\n    tuning: {trails: 3}")
    assert [line.split(": ")[1] for line in found] == [
        "sources.trips.row_per_day",
        "models.m.metrik",
        "models.m.tuning.trails",
    ]


def test_a_required_key_that_is_not_given_is_named():
    found = mistakes(model="  n:\n    source: trips")
    assert found == [
        "params.yaml:11: models.n.target: required, but not given",
        "params.yaml:11: models.n.task: required, but not given",
    ]


def test_a_model_of_an_unknown_source_is_told_the_nearest():
    (mistake,) = mistakes(model="  n:\n    source: trip\n    target: y\n    task: binary")
    assert mistake == "params.yaml:12: models.n.source: no source is named 'trip'; did you mean 'trips'?"


def test_only_one_model_can_be_the_default():
    default = "    serving: {default: true}"
    second = f"{default}\n  n:\n    source: trips\n    target: y\n    task: binary\n{default}"
    (mistake,) = mistakes(model=second)
    assert mistake == "params.yaml:16: models.n.serving.default: only one model can be the default; 'm' is already"


def test_a_file_that_is_not_there_says_how_to_name_another(tmp_path):
    with pytest.raises(ParamsError, match=r"cannot be read .No such file.*MLOPS_PARAMS"):
        load_params(tmp_path / "params.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"sources: \xff")
    with pytest.raises(ParamsError, match="is not UTF-8 text"):
        load_params(tmp_path / "params.yaml")


def test_the_line_of_a_key_that_is_not_there_is_its_nearest_parents():
    lines = Lines("a:\n  b:\n    - x\n    - c: 1\n")
    assert (lines.of("a", "b", 1, "c"), lines.of("a", "b", 0), lines.of("a", "z"), lines.of("q")) == (4, 3, 1, 1)


def test_the_environment_has_its_defaults_below_home(monkeypatch, tmp_path):
    for name in ("MLOPS_DATA_URL", "MLOPS_DVC_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    environment = settings.environment()
    assert environment.data_url == str(tmp_path / "data")
    assert environment.dvc_remote_url == str(tmp_path / "dvc" / "remote")


def test_the_environment_can_name_object_storage(monkeypatch):
    monkeypatch.setenv("MLOPS_DATA_URL", "s3://bucket/data")
    assert settings.environment().data_url == "s3://bucket/data"


def test_reading_settings_imports_of_ours_the_ground_only_and_nothing_heavy():
    code = (
        "import sys, include.settings as s; s.load_params('params.yaml');"
        "heavy = {'numpy', 'pandas', 'sqlalchemy', 'sklearn', 'mlflow', 'airflow', 'pyarrow'} & set(sys.modules);"
        "ours = {m for m in sys.modules if m.startswith('include.') and m[:17] != 'include.settings.'};"
        "ours -= {'include.settings', 'include.home', 'include.text'};"
        "ours = {m for m in ours if not m.startswith('include.strategies')};"
        "assert not heavy | ours, (heavy, ours)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_service_cannot_drain_for_longer_than_whoever_ends_it_waits():
    with pytest.raises(ParamsError, match=r"drain_seconds.*less than or equal to 5"):
        parse_params(TEXT.format(source="", model="") + "service: {drain_seconds: 6}\n")


@pytest.mark.parametrize(
    ("zone", "cron"),
    [
        ("UTC", "0 2 * * *"),
        ("Asia/Tokyo", "0 2 * * *"),
        ("America/New_York", "0 7 * * *"),
        ("America/St_Johns", "0 6 * * *"),
    ],
)
def test_a_source_is_ingested_at_night_once_the_day_of_its_zone_has_ended(zone, cron):
    source = settings.FilesSource(type="files", path="x.csv", time_column="at", timezone=zone)
    assert source.cron == cron


FILES = "sources:\n  s:\n    type: files\n    path: x.csv\n    {line}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "timezone: Europe/Berln",
            "s.timezone: 'Europe/Berln' is no IANA time zone.*did you mean 'Europe/Berlin'",
        ),
        (
            "null_values: [NA, null]",
            "sources.s.null_values: YAML reads this item as None, not as text; write it in",
        ),
        ("null_values: [no]", "YAML reads this item as False"),
        ("delimiter: ';;'", "sources.s.delimiter: one character"),
        ("date_format: dayfirst", "sources.s.date_format: .*day_first.*not 'dayfirst'"),
        ("date_format: {a: d/m/y}", "sources.s.date_format"),
        ("thousands: '.'", "sources.s.thousands: is '.', like decimal; they must differ"),
        ("thousands: '00'", "sources.s.thousands: one character"),
        ("columns: [a, a]", "sources.s.columns: a name is there twice"),
        ("{types: {a: int}, exclude: [a]}", ""),
    ],
)
def test_a_sources_settings_are_checked(line, message):
    text = FILES.format(line=line)
    if line.startswith("{"):
        text = "sources:\n  s: {type: files, path: x.csv, types: {a: int}, exclude: [a]}\n"
        message = "sources.s.exclude: 'a' is named in types too"
    with pytest.raises(settings.ParamsError, match=message):
        settings.parse_params(text)


def test_texts_that_yaml_reads_as_numbers_stand_for_a_missing_value_too():
    params = settings.parse_params(FILES.format(line="null_values: ['?', -999, 9.5]"))
    source = params.sources["s"]
    assert isinstance(source, settings.FilesSource)
    assert source.null_values == ("?", "-999", "9.5")


def test_anchors_may_stand_for_entries_that_have_anchors_themselves():
    merged = (
        "    features: {<<: &f {standard_scaler: [a]}, columns: [a]}\n  n:\n    <<: &n {source: trips, target: y}\n"
        "    task: binary\n  o:\n    <<: *n\n    task: regression\n    features: {<<: *f, columns: [a, b]}"
    )
    models = params("", merged).models
    assert (models["n"].task, models["o"].task) == ("binary", "regression")
    assert models["o"].features.transforms == {"standard_scaler": ["a"]}
    again = (
        "    features: &f {columns: [a], <<: {columns: [b]}}\n"
        "  n: {source: trips, target: y, task: binary, features: {<<: *f}}"
    )
    assert params("", again).models["n"].features.columns == ("a",)


BOMB = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x, x]\n" + BOMB + "sources: *j\nmodels: *j\n", "sources: expected a mapping"),
        ("sources: &a\n  x: *a\n", "sources"),
        ("&a [*a]\n", "expected a mapping"),
        ("? [a, b]\n: 1\nsources: {}\n", "p.yaml:1"),
        ("sources: {a: 1, ? {b: c} : 2}\n", "p.yaml:1"),
        ("sources: " + "9" * 5000, "p.yaml:1"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("sources: !!python/object/apply:os.system ['true']\n", "p.yaml:1"),
        ("sources:\n  <<: 7\n", "p.yaml:2"),
        ("sources:\n\ttrips: 1\n", "p.yaml:2"),
        ("sources: {}\x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_no_params_is_refused_in_a_few_words(text, message):
    with pytest.raises(ParamsError) as error:
        parse_params(text, name="p.yaml")
    assert message in str(error.value)
    assert len(str(error.value)) < 3000


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_bytes(b"#" * (settings.LARGEST_PARAMS + 1))
    with pytest.raises(ParamsError, match="larger than 1024 kB"):
        load_params(file)
    with pytest.raises(ParamsError, match="larger than 1024 kB"):
        load_params("/dev/zero")
