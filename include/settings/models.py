"""The settings of a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from include import strategies
from include.home import ROOT
from include.settings.search_space import DEFAULT_ESTIMATORS, Dimension, Tuning, dimension_of, estimator_names
from include.settings.serving import Serving
from include.settings.types import DEFAULT_METRIC, METRICS, TASK_METRICS, Name, Strict, Task
from include.text import did_you_mean


def transform_names() -> list[str]:
    """The transforms there are: one file each in include/features/transforms/."""
    return sorted(file.stem for file in (ROOT / "include" / "features" / "transforms").glob("[a-z]*.py"))


def _transform(key: str) -> str:
    if key not in transform_names():
        known = [*Features.model_fields, *transform_names()]
        raise ValueError("unknown key" + (did_you_mean(key, known) or f"; there are {', '.join(known)}"))
    return key


class Features(Strict):
    """What goes into a model: declared here, or computed by include/features/definitions/<definition>.py, or both.

    Every file of include/features/transforms/ is a key too; the file says what can be declared for it, and checks it.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, AfterValidator(_transform)], Any]

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
    unknown_category: Literal["other", "error"] = "other"
    """What the service does with a category that training did not see."""

    @model_validator(mode="after")
    def _include_adds_to_all(self) -> Features:
        if self.include and self.columns is not None:
            raise ValueError(f"include: list {', '.join(self.include)} under `columns`, which names all inputs already")
        if both := [column for column in self.include if column in self.exclude]:
            raise ValueError(f"include: {both[0]!r} is listed under `exclude` too; choose one")
        return self

    @property
    def transforms(self) -> dict[str, Any]:
        """Transform → its declaration, as it stands in the file."""
        return dict(self.__pydantic_extra__ or {})


class Split(Strict):
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


class Gate(Strict):
    """What a candidate must reach. Margins are relative: 0.10 is ten per cent better."""

    baseline_margin: float = Field(default=0.10, ge=0)
    """How much better than its baseline a first version must be."""
    champion_margin: float = Field(default=0.0, ge=0)
    """How much better than the champion a later version must be; a tie is never enough."""
    minimum_rows: int = Field(default=50, ge=1)
    """Held-out rows below which no verdict can be given."""
    approval: bool = False
    """Whether an operator must approve the promotion in the Airflow UI."""


class Drift(Strict):
    """How the nightly check measures that a column's distribution has moved since training."""

    measure: str = "psi"
    """Its name. There is a file for each in include/monitoring/drift_measures/, which says how it is computed."""
    warn: float | None = Field(default=None, gt=0)
    """The value of a column beyond which it has drifted. Default: the measure's own, at most `critical`."""
    critical: float | None = Field(default=None, gt=0)
    """The value of a column beyond which retraining is requested. Default: the measure's own, at least `warn`."""

    @field_validator("measure")
    @classmethod
    def _is_a_file(cls, measure: str) -> str:
        """Of what is declared: a Bento, whose settings are all defaults, has no measures of drift."""
        if measure not in drift_measure_names():
            hint = did_you_mean(measure, drift_measure_names())
            raise ValueError(f"no file include/monitoring/drift_measures/{measure}.py{hint}")
        return measure

    @model_validator(mode="after")
    def _warning_below_request(self) -> Drift:
        if self.warn is not None and self.critical is not None and self.warn > self.critical:
            raise ValueError(f"warn: {self.warn:g} must not be above critical, {self.critical:g}")
        return self


def drift_measure_names() -> list[str]:
    """The measures of drift that there are: one file each in include/monitoring/drift_measures/."""
    folder = ROOT / "include" / "monitoring" / "drift_measures"
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


class Monitoring(Strict):
    """When the nightly check warns, and when it asks for retraining."""

    schedule: str = "30 3 * * *"
    """Cron in UTC. The check also runs after each new version of the features."""
    window: int = Field(default=1, ge=1)
    """How many of the newest partitions are compared with the champion's training set."""
    minimum_rows: int = Field(default=100, ge=1)
    """Rows of the window below which the check says "insufficient data"."""
    drift: Drift = Drift()
    psi_warn: float | None = Field(default=None, gt=0)
    """`drift.warn` by its earlier name, for `drift.measure: psi`."""
    psi_critical: float | None = Field(default=None, gt=0)
    """`drift.critical` by its earlier name, for `drift.measure: psi`."""
    performance_warn: float = Field(default=0.05, gt=0)
    """How much worse than at training the metric may be, relative, before it is a warning."""
    performance_critical: float = Field(default=0.10, gt=0)
    """The same, before retraining is requested."""
    cooldown: float = Field(default=20, ge=0)
    """Hours after a request for retraining in which no other is made."""
    report_days: int = Field(default=30, ge=1)
    """Days after which a drift report is deleted; the newest, and the figures of all, are kept."""

    @model_validator(mode="after")
    def _warning_below_request(self) -> Monitoring:
        for name in ("psi", "performance"):
            warn, critical = getattr(self, f"{name}_warn"), getattr(self, f"{name}_critical")
            if warn is not None and critical is not None and warn > critical:
                raise ValueError(f"{name}_warn: {warn:g} must not be above {name}_critical, {critical:g}")
        return self

    @model_validator(mode="after")
    def _one_spelling_of_a_threshold(self) -> Monitoring:
        for name in ("warn", "critical"):
            if getattr(self, f"psi_{name}") is None:
                continue
            if self.drift.measure != "psi":
                raise ValueError(f"psi_{name}: the measure is {self.drift.measure}, not psi; write drift.{name}")
            if getattr(self.drift, name) is not None:
                raise ValueError(f"psi_{name}: drift.{name} says the same; keep one of them")
        return self

    @property
    def drift_thresholds(self) -> tuple[float | None, float | None]:
        """The declared values of the measure beyond which it warns and requests; None: the measure's own."""
        drift = self.drift
        return (
            self.psi_warn if drift.warn is None else drift.warn,
            self.psi_critical if drift.critical is None else drift.critical,
        )


class Model(Strict):
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
            else {k: dimension_of(f"{name}.{k}", v) for k, v in (space or {}).items()}
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
        for strategy in strategies.every():
            try:
                strategy.check(self.serving.rollout, self.task)
            except ValueError as error:
                raise ValueError(f"serving.rollout.{error}") from None
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
