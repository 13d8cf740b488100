"""params.yaml and the environment, checked and typed.

No side effects; of ours it imports the layout of MLOPS_HOME and the words of a suggestion alone. A mistake in
params.yaml raises `ParamsError`, which names the key, its line, what was expected, and the nearest known key.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import re
import reprlib
import zoneinfo
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from include.home import DEFAULT, Home
from include.text import did_you_mean

Task = Literal["regression", "binary", "multiclass"]
ColumnType = Literal["float", "int", "string", "bool", "timestamp", "date"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]

DATE_FORMATS = ("iso", "day_first", "month_first", "epoch_s", "epoch_ms", "epoch_us")

METRICS: dict[str, Literal["minimize", "maximize"]] = {
    "mae": "minimize",
    "rmse": "minimize",
    "mse": "minimize",
    "r2": "maximize",
    "accuracy": "maximize",
    "precision": "maximize",
    "recall": "maximize",
    "f1": "maximize",
    "roc_auc": "maximize",
    "log_loss": "minimize",
}
DEFAULT_METRIC: dict[str, str] = {"regression": "mae", "binary": "roc_auc", "multiclass": "log_loss"}
TASK_METRICS: dict[str, frozenset[str]] = {
    "regression": frozenset({"mae", "rmse", "mse", "r2"}),
    "binary": frozenset({"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"}),
    "multiclass": frozenset({"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"}),
}


class ParamsError(ValueError):
    """params.yaml is wrong; the message has one line per mistake, each with file, line, key and remedy.

    Args:
        message: The lines.
        keys: What each line is about, as a path of keys; empty where it is about the file as a whole.
    """

    def __init__(self, message: str, keys: Iterable[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------------------------------------- sources


class Incident(_Strict):
    """Something that goes wrong in the generated trips between two days, both included."""

    kind: Literal["changed_column", "poisoned_day", "shift"]
    """`changed_column`: columns are renamed, dropped and of another type; `poisoned_day`: distances and amounts in
    other units, a column without values; `shift`: another traffic, which an old model misses."""
    start: dt.date
    """The first day."""
    end: dt.date | None = None
    """The last day. Default: without end."""


class SourceBase(_Strict):
    """What every source declares, whatever its type."""

    description: str = ""
    """What the source is; a note for who reads the file."""
    owner: str = "data-engineering"
    """Who answers for the source: the owner of its DAGs in Airflow."""
    time_column: str | None = None
    """The column that dates a row. With it: one partition a day; without: a single one named `all`."""
    timezone: str = "UTC"
    """The IANA name of the zone whose days the partitions are, and of times that carry no zone of their own. Times are
    stored in UTC; in the hour that clocks turned back give twice, a time without a zone is the first."""
    start: dt.date | None = None
    """The first day there is data for: the default of the form, and where a catch-up begins."""
    schedule: str | None = None
    """Cron in UTC. Default with a time column: every night at 02:00, for a zone west of UTC two hours after its day has
    ended; without: once, and then by hand."""
    catchup: bool = False
    """Whether the scheduler ingests the days since `start` that it missed, one run each."""
    derive: dict[str, str] = Field(default_factory=dict)
    """Columns computed by formula when a partition is extracted, before it is validated."""
    suite: str | None = None
    """The Great Expectations suite in great_expectations/expectations/; default: the source's own name."""
    quarantine_share: float = Field(default=0.05, ge=0, le=1)
    """The share of rows that may break row-level expectations before the whole partition is refused."""

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            hint = did_you_mean(value, zoneinfo.available_timezones())
            raise ValueError(f"{value!r} is no IANA time zone, such as Europe/Berlin{hint}") from error
        return value

    @property
    def cron(self) -> str | None:
        """The schedule in force."""
        if self.schedule or not self.time_column:
            return self.schedule
        zone = zoneinfo.ZoneInfo(self.timezone)
        offsets = [dt.datetime(2026, month, 1, tzinfo=zone).utcoffset() or dt.timedelta() for month in (1, 7)]
        west = max(0.0, -min(offsets).total_seconds() / 3600)
        return f"0 {2 + math.ceil(west)} * * *"


class SampleSource(SourceBase):
    """Bundled data: scikit-learn's breast cancer table, or *generated* taxi trips."""

    type: Literal["sample"]
    """Bundled data."""
    dataset: Literal["taxi_trips", "breast_cancer"]
    """`taxi_trips`: generated, a day at a time; `breast_cancer`: one table without time."""
    rows_per_day: int = Field(default=2000, ge=1, le=1_000_000)
    """Generated trips a day."""
    seed: int = 2018
    """The same seed generates the same trips."""
    incidents: tuple[Incident, ...] = ()
    """What goes wrong in the generated trips, for practice and tests."""

    @model_validator(mode="before")
    @classmethod
    def _trips_are_dated(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("dataset") == "taxi_trips":
            return {"time_column": "pickup_datetime", **data}
        return data


class FilesSource(SourceBase):
    """Files on local disk or any fsspec URL, S3 included.

    `path` may hold `*` globs and the date parts `{yyyy}`, `{mm}`, `{dd}`, which name the period that a file covers.
    """

    type: Literal["files"]
    """Files of yours."""
    path: str = Field(min_length=1)
    """A path or an fsspec URL, with `*` globs and the date parts `{yyyy}`, `{mm}`, `{dd}` of a file's period."""
    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    """`auto`: by the file's name and content."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Name in the file → name here; every other setting uses the name here."""
    types: dict[str, ColumnType] = Field(default_factory=dict)
    """Column → its type, where what its values suggest is wrong."""
    exclude: tuple[str, ...] = ()
    """Columns that are not read."""
    columns: tuple[str, ...] | None = None
    """The names of the columns of a CSV file that has no header line."""
    skip_lines: int = Field(default=0, ge=0)
    """Lines of a CSV file that stand before its header line and are not read."""
    delimiter: str | None = None
    """What separates the fields of a CSV file. Default: a comma; a tab in a file named .tsv."""
    encoding: str = "utf-8"
    """The encoding of CSV and JSON files, as Python names it."""
    trim: bool = True
    """Whether white space at the beginning and end of text is removed, of column names too."""
    null_values: tuple[str, ...] = ()
    """Texts that stand for a missing value, in every column. Always missing: an empty field; and, in columns that are
    not text, NA, N/A, NaN, null, None and the like."""
    decimal: Literal[".", ","] = "."
    """What separates the whole part of a number in text."""
    thousands: str = ""
    """What groups the digits of a number in text by three."""
    affixes: tuple[str, ...] = ()
    """What may stand before or after a number in text, and is removed: `$`, `%`, `km`."""
    date_format: str | dict[str, str] = ""
    """How dates and times in text (or, as epochs, in numbers) are written, for all columns or by column: `day_first`,
    `month_first`, `epoch_s`, `epoch_ms`, `epoch_us`, or a format such as `%d %b %Y`. Default: ISO 8601; an order of day
    and month that the file leaves open is refused."""
    endpoint_url: str | None = None
    """An S3-compatible server's address, for s3:// paths; credentials come from the environment."""

    @field_validator("null_values", "affixes", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        for item in value:
            if item is None or isinstance(item, bool | dt.date):
                raise ValueError(f"YAML reads this item as {item!r}, not as text; write it in quotes")
        return tuple(str(item) for item in value)

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value in ("\\t", "tab"):
            return "\t"
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f"one character, such as ';' or '\\t', not {value!r}")
        return value

    @field_validator("date_format")
    @classmethod
    def _date_formats(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for given in value.values() if isinstance(value, dict) else [value] if value else []:
            if given not in DATE_FORMATS and "%" not in given:
                raise ValueError(f"{' or '.join(DATE_FORMATS)}, or a format such as %d.%m.%Y, not {given!r}")
        return value

    @model_validator(mode="after")
    def _separators_differ(self) -> FilesSource:
        if len(self.thousands) > 1 or self.thousands.isalnum():
            raise ValueError(f"thousands: one character such as ',', '.' or ' ', not {self.thousands!r}")
        if self.thousands == self.decimal:
            raise ValueError(f"thousands: is {self.thousands!r}, like decimal; they must differ")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns: a name is there twice")
        for key, named in (("types", self.types), ("time_column", [self.time_column])):
            if both := set(self.exclude) & {name for name in named if name}:
                raise ValueError(f"exclude: {sorted(both)[0]!r} is named in {key} too")
        return self

    def date_format_of(self, column: str) -> str:
        """How dates are written in a column; empty where nothing is declared."""
        return self.date_format.get(column, "") if isinstance(self.date_format, dict) else self.date_format


Source = Annotated[SampleSource | FilesSource, Field(discriminator="type")]

# ---------------------------------------------------------------------------------------------- models


class Features(_Strict):
    """What goes into a model: declared here, or computed by include/features/definitions/<definition>.py, or both."""

    definition: Name | None = None
    """The name of a file in include/features/definitions/, without `.py`."""
    columns: tuple[str, ...] | None = None
    """Input columns. Default: all of the source's, without target, time, entity (or what the definition names). They
    are decided with the first feature version: a column that the source gets later is one once `include` names it."""
    include: tuple[str, ...] = ()
    """More input columns, where `columns` is not given."""
    exclude: tuple[str, ...] = ()
    """Columns that are no inputs."""
    derived: dict[str, str] = Field(default_factory=dict)
    """Feature → the formula that computes it from other columns."""
    date_parts: dict[str, tuple[Literal["hour", "weekday", "day", "month", "year", "minute", "dayofyear"], ...]] = (
        Field(default_factory=dict)
    )
    """Timestamp → the parts of it that become features."""
    impute: dict[str, float | str] = Field(default_factory=dict)
    """column → `mean`, `median`, `most_frequent`, or a constant."""
    bin: dict[str, int | tuple[float, ...]] = Field(default_factory=dict)
    """column → a number of quantile bins learned from the training part, or the edges themselves."""
    standard_scaler: tuple[str, ...] | Literal["all"] = ()
    """Features that are scaled to mean 0 and standard deviation 1 of the training part; `all`: every numeric one."""
    one_hot: tuple[str, ...] = ()
    """Columns that become one 0/1 feature for each category."""
    ordinal: dict[str, tuple[str, ...] | None] = Field(default_factory=dict)
    """column → its categories in order; null: sorted, as found in the training part."""
    target_encoding: tuple[str, ...] = ()
    """Columns whose categories become the smoothed mean of the target."""
    pca: dict[str, PCA] = Field(default_factory=dict)
    """name of the component columns → the columns they are made of."""
    unknown_category: Literal["other", "error"] = "other"
    """What the service does with a category that training did not see."""

    @model_validator(mode="after")
    def _include_adds_to_all(self) -> Features:
        if self.include and self.columns is not None:
            raise ValueError(f"include: list {', '.join(self.include)} under `columns`, which names all inputs already")
        if both := [column for column in self.include if column in self.exclude]:
            raise ValueError(f"include: {both[0]!r} is listed under `exclude` too; choose one")
        return self

    @field_validator("ordinal", mode="before")
    @classmethod
    def _ordinal_list(cls, value: Any) -> Any:
        return dict.fromkeys(value) if isinstance(value, list | tuple) else value


class PCA(_Strict):
    """Principal components of some numeric columns."""

    columns: tuple[str, ...] = Field(min_length=2)
    """The numeric columns that the components replace."""
    components: int = Field(ge=1)
    """How many of the first components."""


class Split(_Strict):
    """Shares of the rows: by time where there is a time column, else stratified (binary, multiclass) or random."""

    train: float = Field(default=0.7, gt=0, lt=1)
    """The share that the model learns from."""
    validation: float = Field(default=0.15, gt=0, lt=1)
    """The share that the study judges its trials by."""
    test: float = Field(default=0.15, gt=0, lt=1)
    """The share that the gate judges the version by."""
    by: Literal["auto", "time", "stratified", "random"] = "auto"
    """`auto`: by time where there is a time column, else stratified for classes, else random."""

    @model_validator(mode="after")
    def _sum_is_one(self) -> Split:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, not {self.train + self.validation + self.test:g}")
        return self


class Range(_Strict):
    """A dimension of a search space: `[low, high]`, `[low, high, log]` or `[low, high, int]`."""

    low: float
    high: float
    scale: Literal["float", "log", "int", "log_int"] = "float"


class Choices(_Strict):
    """A dimension of a search space with named values: `{choices: [a, b]}`."""

    choices: tuple[float | int | str | bool | None, ...] = Field(min_length=1)


Dimension = Range | Choices | bool | int | float | str | None
"""A range or choices to search, or a scalar that is fixed."""


def _dimension(name: str, value: Any) -> Dimension:
    if isinstance(value, Range | Choices) or value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict) and set(value) == {"choices"}:
        return Choices(choices=tuple(value["choices"]))
    if isinstance(value, list | tuple) and len(value) in (2, 3):
        low, high, *scale = value
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
        kind = scale[0] if scale else ("int" if isinstance(low, int) and isinstance(high, int) else "float")
        if numbers and kind in ("float", "log", "int", "log_int"):
            if not low < high:
                raise ValueError(f"{name}: low {low} must be below high {high}")
            if kind.startswith("log") and low <= 0:
                raise ValueError(f"{name}: a log range must start above 0, not at {low}")
            return Range(low=low, high=high, scale=kind)
    raise ValueError(
        f"{name}: write [low, high], [low, high, log | int | log_int], {{choices: [...]}} or one fixed value,"
        f" not {value!r}"
    )


DEFAULT_ESTIMATORS: dict[str, dict[str, Any]] = {"linear": {}, "random_forest": {}, "xgboost": {}}


def estimator_names() -> list[str]:
    """The estimators there are: one file each in include/training/estimators/."""
    folder = Path(__file__).parent / "training" / "estimators"
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


class Tuning(_Strict):
    """The study: how many trials, for how long, by how many Airflow tasks."""

    trials: int = Field(default=30, ge=1, le=10_000)
    """How many points of the search space are tried, over all estimators."""
    time_budget: int = Field(default=600, ge=5)
    """Seconds, for the whole study."""
    workers: int = Field(default=2, ge=1, le=32)
    """How many Airflow tasks share the study."""
    pruning: bool = True
    """Whether a trial that will not become the best is stopped early."""
    seed: int = 7
    """Of the search, the split and the estimators."""


class Gate(_Strict):
    """What a candidate must reach. Margins are relative: 0.10 is ten per cent better."""

    baseline_margin: float = Field(default=0.10, ge=0)
    """How much better than its baseline a first version must be."""
    champion_margin: float = Field(default=0.0, ge=0)
    """How much better than the champion a later version must be; a tie is never enough."""
    minimum_rows: int = Field(default=50, ge=1)
    """Held-out rows below which no verdict can be given."""
    approval: bool = False
    """Whether an operator must approve the promotion in the Airflow UI."""


Missing = Literal["auto", "error", "impute"]
OutOfRange = Literal["warn", "error", "clip"]


class FieldPolicy(_Strict):
    """What the service does with one field of a request, where it differs from the model's own policies."""

    missing: Missing | None = None
    """As `missing` of the model. Default: the model's."""
    unknown_category: Literal["other", "error"] | None = None
    """As `features.unknown_category`. Default: the model's."""
    out_of_range: OutOfRange | None = None
    """As `out_of_range` of the model. Default: the model's."""


class Logged(_Strict):
    """What of a prediction is kept in the prediction log, and how long."""

    inputs: Literal["all", "none"] | tuple[str, ...] = "all"
    """Which input columns are written down; the others appear nowhere."""
    keep_days: int = Field(default=90, ge=1)
    """Days after which predictions are deleted, a whole day at a time."""


class Rollout(_Strict):
    """How a promoted version reaches its users, and what makes it go back by itself."""

    strategy: Literal["direct", "canary", "ab", "shadow"] = "direct"
    """`direct`: the champion at once. The others start that rollout when the gate says PROMOTE."""
    steps: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(default=(1, 5, 25, 100), min_length=1)
    """A canary's shares of the traffic, in per cent; after the last one has baked, it becomes champion."""
    bake_minutes: float = Field(default=10, ge=0)
    """How long each step must go well before the next."""
    minimum_requests: int = Field(default=100, ge=1)
    """Requests of the arm in the window, below which nothing is concluded from it and no step is taken."""
    window_seconds: float = Field(default=60, ge=1)
    """The window over which error rate, p99 and drift are taken."""
    maximum_error_rate: float = Field(default=0.05, gt=0, le=1)
    """The share of the arm's requests that may fail by no fault of the client's, before the rollout is taken back."""
    maximum_p99_ms: float = Field(default=500, gt=0)
    """Milliseconds within which 99 of 100 of the arm's answers must come, before the rollout is taken back."""
    maximum_drift: float = Field(default=0.3, gt=0)
    """PSI of the arm's predictions against the champion's over the same window."""
    share: float = Field(default=50, gt=0, lt=100)
    """An A/B test's share for the new version, in per cent."""
    days: float = Field(default=14, gt=0)
    """An A/B test's longest duration."""
    success: Literal["error", "rate"] | None = None
    """An A/B test's success metric, from feedback: `error` (mean absolute error, or log loss; smaller is better) or
    `rate` (share of right answers; larger is better). Default: by the task."""
    significance: float = Field(default=0.05, gt=0, lt=0.5)
    """How often an A/B test may call two equal versions different."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """How often an A/B test finds a real effect of the smallest size."""
    smallest_effect: float = Field(default=0.02, gt=0)
    """The relative effect that the A/B test must be able to see; it decides how many labels are enough."""

    @model_validator(mode="after")
    def _steps_grow(self) -> Rollout:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps: must grow, not {list(self.steps)}")
        return self


class Serving(_Strict):
    """How the service answers for this model. The policies travel with each version, in its manifest."""

    default: bool = False
    """Whether `/predict` without a model's name means this one."""
    max_batch: int = Field(default=10_000, ge=1)
    """Rows in one request."""
    missing: Missing = "auto"
    """A field that is absent or null. `auto`: refused where training never missed it, else imputed."""
    out_of_range: OutOfRange = "warn"
    """A number outside of what training saw. `warn`: predicted, with a warning in the answer."""
    extra_field: Literal["error", "ignore"] = "error"
    """A field that the model does not know."""
    fields: dict[str, FieldPolicy] = Field(default_factory=dict)
    """Field → the policies in which it differs."""
    units: dict[str, str] = Field(default_factory=dict)
    """Field → its unit (miles, EUR), for the OpenAPI page; the target's too."""
    log: Logged = Logged()
    rollout: Rollout = Rollout()


class Service(_Strict):
    """The prediction service as a whole: workers, limits, and the local part of the prediction log."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes that answer."""
    pin_workers: bool = False
    """Each worker on a core of its own (Linux). For a machine that is theirs alone: elsewhere one may wait for whoever
    computes on its core while another core is free."""
    fsync: Literal["always", "interval", "never"] = "always"
    """When an acknowledged prediction is safe from a power cut: before its answer leaves; within a second; when the
    system likes. Whatever is chosen, it outlives a kill -9 of the service."""
    spool_megabytes: int = Field(default=2048, ge=16)
    """What the local log may hold while PostgreSQL is away."""
    when_full: Literal["count", "refuse"] = "count"
    """A full local log: answer, count and alert; or refuse with 503, where no answer may go unrecorded."""
    max_body_megabytes: float = Field(default=10, gt=0)
    """A larger body is refused with 413."""
    body_seconds: float = Field(default=10, gt=0)
    """How long a body may take to arrive."""
    request_seconds: float = Field(default=30, gt=0)
    """How long an answer may take once the body is there."""
    max_concurrency: int = Field(default=256, ge=1)
    """Requests in a worker at once; what comes beyond is told to come again (503 with Retry-After)."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Quota of a key in a worker, unless the key has one of its own; beyond it 429 with Retry-After."""
    memory_megabytes: int = Field(default=1024, ge=64)
    """Budget for loaded models: versions beyond it are not loaded, and that is said."""
    drain_seconds: float = Field(default=1.0, ge=0, le=5)
    """After SIGTERM: how long readiness says 503 while requests are still taken. What follows may take 9 s more: the
    requests in flight, the last predictions; and after 15 s the stack kills what has not ended."""
    path_prefix: str = Field(default="", pattern=r"^((/[A-Za-z0-9._~-]+)+)?$")
    """`/ml`: a path of a proxy's, below which the service is found, too; its links carry it. A proxy that strips its
    own may say it by X-Forwarded-Prefix instead."""
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s?#]+)$")], ...] = ()
    """Origins, such as `https://app.example.org`, whose pages may call the service from a browser (CORS); `*`: all.
    Default: none."""
    access_log: Literal["all", "errors", "off"] = "all"
    """A line for each request, without anything that was sent; or for those with a status from 400 on; or none."""


class Monitoring(_Strict):
    """When the nightly check warns, and when it asks for retraining."""

    schedule: str = "30 3 * * *"
    """Cron in UTC. The check also runs after each new version of the features."""
    window: int = Field(default=1, ge=1)
    """How many of the newest partitions are compared with the champion's training set."""
    minimum_rows: int = Field(default=100, ge=1)
    """Rows of the window below which the check says "insufficient data"."""
    psi_warn: float = Field(default=0.1, gt=0)
    """PSI of a column beyond which it has drifted."""
    psi_critical: float = Field(default=0.2, gt=0)
    """PSI of a column beyond which retraining is requested."""
    performance_warn: float = Field(default=0.05, gt=0)
    """How much worse than at training the metric may be, relative, before it is a warning."""
    performance_critical: float = Field(default=0.10, gt=0)
    """The same, before retraining is requested."""
    cooldown: float = Field(default=20, ge=0)
    """Hours after a request for retraining in which no other is made."""
    report_days: int = Field(default=30, ge=1)
    """Days after which a drift report is deleted; the newest, and the figures of all, are kept."""

    @model_validator(mode="after")
    def _warns_before_it_asks(self) -> Monitoring:
        for name in ("psi", "performance"):
            warn, critical = getattr(self, f"{name}_warn"), getattr(self, f"{name}_critical")
            if warn > critical:
                raise ValueError(f"{name}_warn: {warn:g} must not be above {name}_critical, {critical:g}")
        return self


class Model(_Strict):
    """A prediction task: a registered model, as in MLflow."""

    source: str
    """The name of a source."""
    target: str
    """The column that is predicted."""
    task: Task
    """What is predicted: a number, one of two classes, one of several."""
    description: str = ""
    """What the model is for, as MLflow shows it."""
    owner: str = "ml-engineering"
    """Who answers for the model: the owner of its DAGs in Airflow."""
    entity: str | None = None
    """The column that names what a row is about. Rows of one entity lie on one side of a split, labels and `mlops
    forget` find predictions by it, and an entity stays on its arm of a rollout."""
    time_column: str | None = None
    """Default: the source's."""
    window: int | None = Field(default=None, ge=1)
    """Train on the newest N partitions; default: on all."""
    features: Features = Features()
    split: Split = Split()
    estimators: dict[str, dict[str, Dimension]] = Field(
        default_factory=lambda: dict(DEFAULT_ESTIMATORS), validate_default=True
    )
    """A list of names, or estimator → parameter → what is searched: `[low, high]`, `[low, high, log | int | log_int]`,
    `{choices: [...]}`, or one fixed value. There is a file for each in include/training/estimators/."""
    tuning: Tuning = Tuning()
    metric: str | None = None
    """What study, gate and nightly check judge by. Default: mae, roc_auc (binary) or log_loss (multiclass)."""
    gate: Gate = Gate()
    serving: Serving = Serving()
    monitoring: Monitoring = Monitoring()

    @field_validator("estimators", mode="before")
    @classmethod
    def _search_spaces(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            value = {name: {} for name in value}
        if not isinstance(value, dict):
            return value
        return {
            name: space
            if not isinstance(space, dict | None)
            else {k: _dimension(f"{name}.{k}", v) for k, v in (space or {}).items()}
            for name, space in value.items()
        }

    @model_validator(mode="after")
    def _metric_fits(self) -> Model:
        if not self.estimators:
            raise ValueError("estimators: name at least one of " + ", ".join(estimator_names()))
        for estimator in self.estimators:
            if estimator not in estimator_names():
                hint = did_you_mean(estimator, estimator_names())
                raise ValueError(f"estimators.{estimator}: no file include/training/estimators/{estimator}.py{hint}")
        if self.task == "regression" and self.serving.rollout.success == "rate":
            raise ValueError("serving.rollout.success: a regression has no share of right answers; say error")
        if self.metric_name not in TASK_METRICS[self.task]:
            raise ValueError(
                f"metric: {self.metric!r} is not a metric of {self.task}; choose from {sorted(TASK_METRICS[self.task])}"
            )
        return self

    @property
    def metric_name(self) -> str:
        """The metric in force: the declared one or the task's default."""
        return self.metric or DEFAULT_METRIC[self.task]

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Whether the metric is better small or large."""
        return METRICS[self.metric_name]


Features.model_rebuild()
Model.model_rebuild()


class Keep(_Strict):
    """For how long what only grows is kept; what belongs to a model is declared with it."""

    alert_days: int = Field(default=90, ge=1, le=3650)
    """Alerts that were acknowledged; one that nobody has acknowledged stays."""
    run_days: int = Field(default=90, ge=7, le=3650)
    """What runs in Airflow leave: their logs and their scratch."""


class Params(_Strict):
    """All of params.yaml."""

    sources: dict[Name, Source] = Field(min_length=1)
    models: dict[Name, Model] = Field(default_factory=dict)
    service: Service = Service()
    keep: Keep = Keep()

    @model_validator(mode="after")
    def _models_name_sources(self) -> Params:
        for name, model in self.models.items():
            if model.source not in self.sources:
                hint = did_you_mean(model.source, self.sources)
                raise ValueError(f"models.{name}.source: no source is named {model.source!r}{hint}")
        defaults = [name for name, model in self.models.items() if model.serving.default]
        if len(defaults) > 1:
            raise ValueError(
                f"models.{defaults[1]}.serving.default: only one model can be the default; {defaults[0]!r} is already"
            )
        return self

    def time_column(self, model: str) -> str | None:
        """The column that dates the rows of `model`, if any."""
        entry = self.models[model]
        return entry.time_column or self.sources[entry.source].time_column

    @property
    def default_model(self) -> str | None:
        """The model that `/predict` means: the declared one, else the first."""
        declared = [name for name, model in self.models.items() if model.serving.default]
        return declared[0] if declared else next(iter(self.models), None)


LARGEST_PARAMS = 1024 * 1024
"""Bytes; an entry of a model has some hundred."""


def load_params(path: Path | str) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: one line per mistake: `params.yaml:12: models.x.tuning.trails: unknown key; did you mean 'trials'?`
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # never more than that of whatever it is
            content = file.read(LARGEST_PARAMS + 1)
        if len(content) > LARGEST_PARAMS:
            raise ParamsError(f"{path}: is larger than {LARGEST_PARAMS // 1024} kB, so it is no params.yaml")
        text = content.decode("utf-8")
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); name another file with MLOPS_PARAMS") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return parse_params(text, name=path.name)


def parse_params(text: str, name: str = "params.yaml") -> Params:
    """Check the text of a params.yaml; see `load_params`."""
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506  (a SafeLoader that also refuses duplicate keys)
    except yaml.constructor.ConstructorError as error:  # the YAML is whole: what is wrong belongs to one entry
        mark = error.problem_mark
        line, key = (mark.line + 1, Lines(text).at(mark.line + 1)) if mark else (1, ())
        raise ParamsError(f"{name}:{line}: {'.'.join(key) or '(top)'}: {error.problem}", [key]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ParamsError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{name}:1: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ParamsError(f"{name}:1: expected a mapping with `sources` and `models`")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        found = _described(error, data, Lines(text))
        lines = [f"{name}:{line}: {'.'.join(path) or '(top)'}: {message}" for line, path, message in found]
        raise ParamsError("\n".join(lines), [path for _, path, _ in found]) from error


class Lines:
    """Where each key of a YAML text stands."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        self._noted: set[int] = set()
        self._note(yaml.compose(text, Loader=yaml.SafeLoader), ())

    def of(self, *key: str | int) -> int:
        """The line of a key, or of the nearest one above it that is in the text."""
        path = tuple(map(str, key))
        return next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)

    def at(self, line: int) -> tuple[str, ...]:
        """The entry, such as `models.trips`, that a line belongs to; empty when it belongs to none."""
        above = [(start, key) for key, start in self._lines.items() if len(key) <= 2 and start <= line]
        return max(above, key=lambda entry: (entry[0], len(entry[1])))[1] if above else ()

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._lines

    def _note(self, node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.CollectionNode):
            if (
                id(node) in self._noted
            ):  # what an alias stands for has its lines: it may stand in many places, or in itself
                return
            self._noted.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                self._lines[(*path, key.value)] = key.start_mark.line + 1
                self._note(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*path, str(index))] = value.start_mark.line + 1
                self._note(value, (*path, str(index)))


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; a user's lost setting deserves an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As it is written: `<<` adds keys to a node, also to one that is constructed afterwards."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return node

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> Any:
        """A day that no calendar has, such as 2026-02-30, stays text: the key that it stands at is then named."""
        try:
            return super().construct_yaml_timestamp(node)
        except ValueError:
            return node.value


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:timestamp", _UniqueKeyLoader.construct_yaml_timestamp)

_SOURCE_TYPES: dict[str, type[SourceBase]] = {"sample": SampleSource, "files": FilesSource}

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 2
_SHORT = _REPR.repr
"""What was given, for a message: anchors can make a few lines endless."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "date_type": "a day as YYYY-MM-DD",
    "date_parsing": "a day as YYYY-MM-DD",
    "date_from_datetime_parsing": "a day as YYYY-MM-DD",
    "date_from_datetime_inexact": "a day as YYYY-MM-DD",
}


def _described(error: ValidationError, data: Any, lines: Lines) -> list[tuple[int, tuple[str, ...], str]]:
    """Line, key and message of each mistake, in the order of the file; what a union's members expected is one."""
    found: dict[tuple[tuple[str, ...], str | None], tuple[list[str], str]] = {}
    for detail in error.errors():
        path = _real_path(detail["loc"], data)
        expected = _expected(detail)
        if expected:
            expectations, _ = found.setdefault((path, "expected"), ([], ""))
            expectations += [expected] if expected not in expectations else []
            found[path, "expected"] = (expectations, _but(detail))
        else:
            path, message = _located(path, _message(detail), lines)
            found[path, message] = ([], message)
    mistakes = []
    for (path, _), (expectations, message) in found.items():
        text = f"expected {' or '.join(expectations)}{message}" if expectations else message
        mistakes.append((lines.of(*path), path, text))
    return sorted(mistakes, key=lambda mistake: mistake[0])


def _expected(detail: Any) -> str | None:
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "")
    return _EXPECTED.get(detail["type"])


def _but(detail: Any) -> str:
    given = detail["input"]
    choices = re.findall(r"'([^']*)'", str((detail.get("ctx") or {}).get("expected", "")))
    hint = did_you_mean(given, choices) if isinstance(given, str) else ""
    return ", but nothing is given" if given is None else f", not {_SHORT(given)}{hint}"


def _message(detail: Any) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx") or {}
    if kind == "extra_forbidden":
        word, known = str(detail["loc"][-1]), _siblings(detail["loc"])
        return "unknown key" + (did_you_mean(word, known) or f"; there are {', '.join(known)}")
    if kind == "missing":
        return "required, but not given"
    if kind == "string_pattern_mismatch":
        return f"{_SHORT(given)} must be lower-case letters, digits and _, beginning with a letter"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = given.get("type") if isinstance(given, dict) else None
        hint = did_you_mean(tag, _SOURCE_TYPES) if isinstance(tag, str) else ""
        return f"type: expected {' or '.join(_SOURCE_TYPES)}" + (
            f", not {_SHORT(tag)}{hint}" if tag is not None else ""
        )
    if kind in ("too_short", "string_too_short"):
        return f"needs at least {context['min_length']}, but has {context.get('actual_length', 0)}"
    if kind == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    return f"{str(detail['msg']).replace('Input should be', 'must be')}, not {_SHORT(given)}"


def _located(path: tuple[str, ...], message: str, lines: Lines) -> tuple[tuple[str, ...], str]:
    """A check over several keys begins its message with the one to blame, relative to its own place or to the top."""
    named = re.match(r"^([\w.-]+): (.*)", message, re.DOTALL)
    if named:
        inner = (*path, *named[1].split("."))
        if len(inner) > len(path) and (inner in lines or inner[: len(path) + 1] in lines or path):
            return inner, named[2]
    return path, message


def _real_path(loc: tuple[str | int, ...], data: Any) -> tuple[str, ...]:
    """Pydantic's location without the names of union members, which are not in the file."""
    path: list[str] = []
    for index, part in enumerate(loc):
        if part == "[key]":
            continue
        if isinstance(data, dict):
            if part in data:
                data = data[part]
            elif index == len(loc) - 1 and not _is_member(part):
                data = None
            else:
                continue
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        path.append(str(part))
    return tuple(path)


def _is_member(part: str | int) -> bool:
    """Whether this is pydantic's name for a member of a union, not a key."""
    return part in _SOURCE_TYPES or bool(re.search(r"[\[\]]", str(part)))


def _siblings(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that were allowed where `loc` was refused."""
    schema: type[BaseModel] = Params
    for part in loc[:-1]:
        if schema is SourceBase:
            schema = _SOURCE_TYPES.get(str(part), schema)
        elif part in schema.model_fields:
            inner = _models_in(schema.model_fields[str(part)].annotation)
            schema = SourceBase if set(inner) & set(_SOURCE_TYPES.values()) else next(iter(inner), schema)
    return list(schema.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]


# ---------------------------------------------------------------------------------------------- environment

ROOT = Path(__file__).resolve().parent.parent


class Environment(BaseSettings):
    """Where the platform runs: read from `MLOPS_*` variables, which the stack (or docker-compose) sets."""

    model_config = SettingsConfigDict(env_prefix="MLOPS_", extra="ignore", frozen=True)

    home: Path = ROOT / DEFAULT
    """Scratch and state of this machine."""
    params: Path = ROOT / "params.yaml"
    data_url: str = ""
    """Where partitions, quarantine, reports and served forms live: a directory or s3://. Default: <home>/data."""
    dvc_remote_url: str = ""
    """Default: <home>/dvc/remote."""
    database_url: str = ""
    """The platform's own PostgreSQL, `postgresql+psycopg2://…`."""
    optuna_url: str = ""
    """Optuna's PostgreSQL database."""
    mlflow_url: str = "http://127.0.0.1:5000"
    serving_url: str = "http://127.0.0.1:3000"
    serving_key: str = ""
    airflow_url: str = "http://127.0.0.1:8080"
    s3_endpoint_url: str | None = None
    suites: Path = ROOT / "great_expectations" / "expectations"

    @model_validator(mode="before")
    @classmethod
    def _defaults_below_home(cls, data: Any) -> Any:
        paths = Home(Path(data.get("home") or ROOT / DEFAULT).absolute())
        data["home"] = paths.path
        data.setdefault("data_url", str(paths.data))
        data.setdefault("dvc_remote_url", str(paths.dvc_remote))
        return data

    @property
    def paths(self) -> Home:
        """Files and folders below `home`."""
        return Home(self.home)


def environment() -> Environment:
    """The environment of this process, read now."""
    return Environment()


def cores(shared_by: int = 1) -> int:
    """How many cores each of some processes side by side may use: threads without a core of their own only wait."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // shared_by)
