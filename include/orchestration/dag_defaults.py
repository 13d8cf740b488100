"""What all DAGs have in common: owners, tags, retries by cause, run time-outs, the fields of the forms."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import ExceptionRetryPolicy, Param, RetryAction, RetryRule, get_parsing_context

from include import configuration, settings, strategies
from include.configuration import PARAMS
from include.orchestration import before, ending, versions


class Tag(enum.StrEnum):
    """What a DAG's list in the UI can be filtered by, beside `source:<name>` and `model:<name>`."""

    INGESTION = "ingestion"
    FEATURES = "features"
    TRAINING = "training"
    DEPLOYMENT = "deployment"
    MONITORING = "monitoring"
    MAINTENANCE = "maintenance"


ADDRESSES = ("MLOPS_AIRFLOW_URL", "MLOPS_MLFLOW_URL", "MLOPS_SERVING_URL")

EPOCH = dt.datetime(2009, 1, 1, tzinfo=dt.UTC)
"""A start before any data: a logical date before a DAG's start would never run. It schedules nothing by itself."""


class NamedRule(RetryRule):  # type: ignore[misc]
    """A rule about exceptions by their names, which are looked up when a task has failed.

    Airflow's own looks them up when the DAG is parsed, too; here that would import pandas and half of the platform.
    """

    def __post_init__(self) -> None:
        """Look nothing up yet."""


RETRY_BY_CAUSE = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[ConnectionError, TimeoutError],
            action=RetryAction.RETRY,
            reason="network: the other side may be back in a moment",
        ),
        RetryRule(
            exception=[
                ValueError,
                TypeError,
                LookupError,
                ArithmeticError,
                AssertionError,
                EOFError,
                AttributeError,
                NameError,
                ImportError,
            ],
            action=RetryAction.FAIL,
            reason="data, settings or program: a retry would meet the same rows and end in the same way",
        ),
        RetryRule(
            exception=[FileNotFoundError, PermissionError],
            action=RetryAction.FAIL,
            reason="a file is missing or closed to us: somebody has to look",
        ),
        NamedRule(
            exception=[
                "include.storage.ChangedFile",
                "include.ingestion.sources.UnreadablePartitions",
                "include.ingestion.partitions.NotExtracted",
                "include.ingestion.partitions.NotAccepted",
                "include.training.tuning.StudyFailed",
                "include.deployment.gate.NotReady",
                "include.deployment.ledger.Superseded",
                "include.deployment.admission.Underway",
            ],
            action=RetryAction.FAIL,
            reason="decided: trying again would find the same",
        ),
    ],
    default=RetryAction.DEFAULT,
)
"""Data errors fail at once; the network, and what nobody foresaw, is tried again, later each time."""

RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay": dt.timedelta(seconds=10),
    "retry_exponential_backoff": 3.0,
    "max_retry_delay": dt.timedelta(minutes=5),
    "retry_policy": RETRY_BY_CAUSE,
}
"""10 s, 30 s and 90 s later: two minutes in all, which a restart of any part of the stack fits into."""

INGEST_TIMEOUT = dt.timedelta(hours=2)
FEATURES_TIMEOUT = dt.timedelta(hours=2)
MONITOR_TIMEOUT = dt.timedelta(hours=1)
DEPLOY_TIMEOUT = dt.timedelta(minutes=30)
ROLLBACK_TIMEOUT = dt.timedelta(minutes=10)
MAINTENANCE_TIMEOUT = dt.timedelta(hours=2)
APPROVAL_TIMEOUT = dt.timedelta(days=2)
"""How long an operator may think before a promotion that nobody approved counts as refused."""
SERVED_WITHIN = 60.0
"""Seconds in which the service takes up a new champion, or the deployment is red."""


def midnight(day: dt.date | None) -> dt.datetime | None:
    """The moment a day begins, in UTC."""
    return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC) if day else None


def train_timeout(model: settings.Model) -> dt.timedelta:
    """The longest study that the form allows, and an hour for all around it."""
    return dt.timedelta(seconds=_longest_study(model), hours=1)


def deploy_timeout(model: settings.Model) -> dt.timedelta:
    """Longer where a person has to approve."""
    return DEPLOY_TIMEOUT + (APPROVAL_TIMEOUT if model.gate.approval else dt.timedelta())


def default_args(owner: str) -> dict[str, Any]:
    """The arguments of every task."""
    return {
        "owner": owner,
        "pre_execute": before.task,
        "show_return_value_in_logs": False,
        "post_execute": ending.summarised,
        "on_success_callback": ending.succeeded,
        "on_failure_callback": ending.failed,
        "on_retry_callback": ending.tried_again,
        **RETRIES,
    }


def first_training_patience(model: settings.Model) -> dt.timedelta:
    """How long a model's first training may take before its absence means that it failed."""
    return train_timeout(model) + deploy_timeout(model)


def params_of(dag_file: str) -> Path:
    """The params.yaml that belongs to a DAG file: that of the version a run is pinned to, else the one in force."""
    pinned = Path(dag_file).with_name(PARAMS)
    return pinned if pinned.is_file() else settings.environment().params


def manual(doc: str | None, about: str = "", *, model: str = "", source: str = "") -> str:
    """A DAG file's docstring as the manual of one DAG: with its own names, and links to what belongs to it.

    Args:
        doc: The docstring; `<model>`, `(model)`, `<source>` and `(source)` stand for the names.
        about: What params.yaml says of the model or the source.
        model: The model, where the DAG is one model's.
        source: The source it takes its data from.
    """
    airflow, mlflow, serving = _addresses(*(os.environ.get(name) for name in ADDRESSES))
    steps = ["features", "train", "deploy", "monitor", "rollout", "rollback"] if model else []
    dags = [f"ingest_{source}"] * bool(source) + [f"{step}_{model}" for step in steps]
    links = [f"[{dag}]({airflow}/dags/{dag})" for dag in dags]
    links += [f"[ML platform]({airflow}/ml-platform/)"]
    if model:
        links += [f"[versions in MLflow]({mlflow}/#/models/{model})"]
        links += [f"[prediction service]({serving}/docs)"]
    text = doc or ""
    for word, name in (("model", model), ("source", source)):
        if name:
            text = text.replace(f"<{word}>", name).replace(f"({word})", f"({name})")
    return "\n\n".join(part for part in (about, " · ".join(links), text) if part)


@functools.cache
def _addresses(*_: str | None) -> tuple[str, str, str]:
    """The path below which Airflow answers, MLflow's address and the service's; read once, since each DAG asks."""
    env = settings.environment()
    return urlsplit(env.airflow_url).path.rstrip("/"), env.mlflow_url.rstrip("/"), env.serving_url.rstrip("/")


def document_tasks(dag: Any) -> None:
    """Give each task the lines of its DAG's manual that say what to do when it fails: they then stand on its page."""
    _, _, failures = (dag.doc_md or "").partition("**When a task fails**")
    for item in re.split(r"\n- ", failures)[1:]:
        named, _, advice = item.split("\n\n")[0].partition(":")
        for task_id in re.findall(r"`(\w+)`", named):
            if dag.has_task(task_id):
                _document(dag.get_task(task_id), f"**When it fails**: {advice.strip()}")


def _document(task: Any, text: str) -> None:
    if task.is_mapped:
        task.partial_kwargs["doc_md"] = text
    else:
        task.doc_md = text


def read_params(path: Path) -> settings.Params:
    """params.yaml, checked; when it is wrong, Airflow's import error is our message and nothing else.

    Raises:
        settings.ParamsError: one line per mistake.
    """
    try:
        return settings.load_params(path)
    except settings.ParamsError as error:
        raise settings.ParamsError(f"no DAG can be made from params.yaml:\n{error}") from None


def models(params: settings.Params) -> list[tuple[str, settings.Model]]:
    """The models whose DAGs a file makes: all of them; in a task, which loads the file for one DAG, that one's.

    Right after an edit the DAG processor makes those first that it concerns, and then all (dag_processor.py).
    """
    return [
        (name, entry)
        for name, entry in params.models.items()
        if _is_made(name, ("models", name), ("sources", entry.source))
    ]


def sources(params: settings.Params) -> list[tuple[str, settings.Source]]:
    """The sources whose DAGs a file makes; see `models`."""
    return [(name, entry) for name, entry in params.sources.items() if _is_made(name, ("sources", name))]


def _is_made(name: str, *entries: tuple[str, str]) -> bool:
    if dag := get_parsing_context().dag_id:
        return bool(dag.endswith(f"_{name}"))
    return configuration.edited is None or not configuration.edited.isdisjoint(entries)


# ---------------------------------------------------------------------------------------------- forms


def ingest_form(source: settings.SourceBase) -> dict[str, Param]:
    """`from`, `to` and `replace`; a source without a time column has only the last."""
    replace = _field(
        False,
        type="boolean",
        title="Replace",
        description="Extract and validate again what was already published. Otherwise published partitions are kept.",
    )
    if source.time_column is None:
        return {"replace": replace}
    first = source.start.isoformat() if source.start else None
    return {
        "from": _field(
            first,
            type=["null", "string"],
            format="date",
            title="From",
            description="First day (UTC) to ingest, included. Empty: yesterday.",
        ),
        "to": _field(
            None,
            type=["null", "string"],
            format="date",
            title="To",
            description="Last day (UTC) to ingest, included. Empty: yesterday.",
        ),
        "replace": replace,
    }


def train_form(model: settings.Model) -> dict[str, Param]:
    """An override of the study for one run; the defaults are params.yaml's."""
    tuning = model.tuning
    return {
        "trials": _field(
            tuning.trials,
            type="integer",
            minimum=1,
            maximum=max(1000, tuning.trials),
            title="Trials",
            description="How many trials the study ends with.",
        ),
        "time_budget": _field(
            tuning.time_budget,
            type="integer",
            minimum=5,
            maximum=_longest_study(model),
            title="Time budget (seconds)",
            description="No trial begins after this.",
        ),
        "window": _field(
            model.window,
            type=["null", "integer"],
            minimum=1,
            maximum=max(3660, model.window or 0),
            title="Window (partitions)",
            description="Train on the newest partitions only. Empty: as params.yaml says.",
        ),
        "reason": _reason("Why; it stands in MLflow and in the ledger.", "by hand"),
    }


def deploy_form(model: str) -> dict[str, Param]:
    """Which version to judge."""
    return {
        "version": _version(
            None,
            title="Version",
            about="The registered version to judge and promote. Empty: the newest.",
            offered=versions.offered(settings.environment().home, model),
        ),
        "again": Param(
            "",
            type="string",
            maxLength=200,
            title="Again, because",
            description="Only for a version that was rolled back, stopped or retired: why it shall be promoted again.",
        ),
    }


def rollback_form(model: str) -> dict[str, Param]:
    """How far back, and why."""
    return {
        "version": _version(
            None,
            title="To version",
            about="An earlier champion. Empty: the one before the present one. The present one: only stop what is tried"
            " beside it.",
            offered=versions.offered(settings.environment().home, model, champions=True),
        ),
        "reason": _reason("Why; it stands in the ledger and with each rollout that is stopped."),
    }


def maintenance_form() -> dict[str, Param]:
    """Whether to delete, or only to say what would be deleted."""
    return {
        "dry_run": _field(
            False,
            type="boolean",
            title="Dry run",
            description="Only say what would be deleted.",
        ),
    }


def rollout_form(model: str, entry: settings.Model) -> dict[str, Param]:
    """What to try, and how; the defaults are params.yaml's."""
    declared = entry.serving.rollout
    return {
        "version": _version(
            title="Version",
            about="The registered version to try.",
            offered=versions.offered(settings.environment().home, model),
        ),
        "kind": _field(
            strategies.PROPOSED if declared.strategy == strategies.DIRECT else declared.strategy,
            type="string",
            enum=list(strategies.names()),
            title="Kind",
            description=" ".join(strategy.about for strategy in strategies.every()),
        ),
        **{name: _setting(declared, name) for name in _rollout_fields()},
        "reason": _reason("Why; it stands with the rollout.", "by hand"),
    }


def with_rollout(model: settings.Model, form: Mapping[str, Any]) -> settings.Rollout:
    """The model's rollout settings with the form's, checked again."""
    changed = {name: form[name] for name in _rollout_fields()}
    return settings.Rollout.model_validate({**model.serving.rollout.model_dump(), **changed})


def _rollout_fields() -> list[str]:
    """The settings that the form offers: of all rollouts, and of each strategy."""
    return ["bake_minutes", *(name for strategy in strategies.every() for name in strategy.form)]


def _setting(declared: settings.Rollout, name: str) -> Param:
    """A setting as a field, with the type, the bounds and the words that it has in params.yaml."""
    schema = {**settings.Rollout.model_json_schema()["properties"][name]}
    default = declared.model_dump(mode="json")[name]
    return _field(default, **{key: value for key, value in schema.items() if key != "default"})


def monitor_form(model: settings.Model) -> dict[str, Param]:
    """How far back to look."""
    return {
        "window": _field(
            model.monitoring.window,
            type="integer",
            minimum=1,
            maximum=max(366, model.monitoring.window),
            title="Window (partitions)",
            description="How many of the newest partitions to compare with the champion's training set.",
        ),
    }


def _field(*default: Any, title: str, description: str, **schema: Any) -> Param:
    """A field whose description says what Airflow checks: the form refuses a value without a word of its bounds."""
    return Param(*default, title=title, description=f"{description} {_bounds(schema)}".strip(), **schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    """`From 1 to 1000.` for the bounds of a field's schema; nothing where there are none."""
    inner = schema.get("items", schema)
    low, above = inner.get("minimum"), inner.get("exclusiveMinimum")
    high, below = inner.get("maximum"), inner.get("exclusiveMaximum")
    words = [f"from {low:g}" if low is not None else f"above {above:g}" if above is not None else ""]
    words += [f"to {high:g}" if high is not None else f"below {below:g}" if below is not None else ""]
    if "maxLength" in schema:
        words += [f"at most {schema['maxLength']} characters"]
    text = " ".join(word for word in words if word)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _reason(description: str, *default: str) -> Param:
    return _field(*default, type="string", minLength=1, maxLength=200, title="Reason", description=description)


def _version(*default: None, title: str, about: str, offered: list[str]) -> Param:
    """A version, chosen from those that are known or typed in; without a default it must be named."""
    return Param(
        *default,
        type=["null"] * len(default) + ["string", "integer"],
        minimum=1,
        pattern=versions.PATTERN,
        examples=offered,
        title=title,
        description=f"{about} Choose one, or type its number.",
    )


def with_window(model: settings.Model, window: int) -> settings.Model:
    """The model's entry with another monitoring window, for one run."""
    return model.model_copy(update={"monitoring": model.monitoring.model_copy(update={"window": window})})


def _longest_study(model: settings.Model) -> int:
    return max(3600, 4 * model.tuning.time_budget)
