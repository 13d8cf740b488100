"""The nightly check of one model: what has changed since its champion was trained, and whether to train again.

    status              means
    ok, warn, critical  compared; the worst finding
    insufficient_data   too few new rows to compare: nothing is known, which is not "no drift"
    no_champion         there is nothing to compare with yet

Whatever prevents the comparison (the champion's files are corrupt, a partition was changed, the database is down)
raises: the task is red. Result and request are stored together, under the model's lock; then the report is drawn.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from include import database, storage
from include.deployment import ledger
from include.inference import served_form
from include.inference.predictor import Predictor
from include.inference.served_form import ServedForm
from include.ingestion.partitions import Partition
from include.monitoring import collection, drift, drift_measures, measures, performance, report, requests
from include.monitoring.decision import Decision, Finding, by_weight, decide, worst
from include.settings import Model

Status = Literal["ok", "warn", "critical", "insufficient_data", "no_champion"]

REFERENCE_PARTITIONS = 6


class ReportFailed(RuntimeError):
    """The check was made, stored and acted upon, but its report could not be drawn."""


@dataclass(frozen=True)
class Check:
    """What a check found, and what followed."""

    model: str
    version: int | None
    status: Status
    requested: bool
    """Whether this check requests retraining."""
    reason: str
    """One line for an operator: why it requests retraining, or why not."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    window: list[str] = field(default_factory=list)
    """The partitions that were compared."""
    rows: int = 0
    report_url: str | None = None
    report_problem: str | None = None
    """Why the report could not be drawn or logged, if so; see `require_report`."""

    def require_report(self) -> None:
        """Nothing, when the report was drawn and logged.

        Raises:
            ReportFailed: it was not.
        """
        if self.report_problem:
            raise ReportFailed(f"{self.model}: compared ({self.status}), but the report failed: {self.report_problem}")


@dataclass(frozen=True)
class _Compared:
    window: collection.Window
    findings: list[Finding]
    profile: dict[str, Any]


def check(
    model: str,
    entry: Model,
    *,
    time_column: str | None,
    database_url: str,
    data_url: str,
    mlflow_url: str,
    now: dt.datetime,
    run_key: str | None = None,
) -> Check:
    """Compare the newest partitions with the champion's training set; store the result, and a request if one is due.

    The report is drawn last. When that fails, the check stands and its request goes on its way; `report_problem`
    has the reason, and `require_report` raises it, to be called after the request was sent.

    Args:
        model: The registered model.
        entry: Its entry in params.yaml.
        time_column: The column that dates its rows, if any.
        database_url: The platform's database.
        data_url: Where partitions, served forms and reports lie.
        mlflow_url: The report becomes an artifact of the champion's run there.
        now: The time, with its zone.
        run_key: The Airflow run: a retried task replaces its own result, and finds the request it made. None: a check
            of its own.

    Raises:
        BadServedForm: the champion's files are missing or corrupt.
        MissingColumn: the partitions lack what the champion needs.
        ChangedFile: a partition is not the one that was validated.
    """
    with database.connected(database_url) as engine:
        champion = ledger.champion(engine, model)
        if champion is None:
            return Check(model, None, "no_champion", False, "no champion yet: there is nothing to compare with")
        with tempfile.TemporaryDirectory(prefix="mlops-monitor-") as folder:
            form = served_form.verify(storage.download(champion.url, Path(folder) / "form"), champion.content_hash)
            chosen, published = collection.newest(database_url, entry.source, entry.monitoring.window)
            learned = _learned_from(engine, model, str(form.manifest["feature_version"]))
            trained = [p for p in published if learned.get(p.key) == p.sha256]
            compared = _compare(form, chosen, entry, time_column, data_url)
            unseen = len(published) - len(trained)
            checked, result_id = _conclude(engine, model, champion.version, entry, compared, unseen, now, run_key)
            if checked.status == "insufficient_data":
                return checked
            drawing = _Drawing(form, trained, entry, data_url, mlflow_url, _folder(run_key, now), Path(folder))
            checked = _with_report(engine, result_id, checked, compared, drawing)
            _note_report(engine, result_id, checked.report_url)
            return checked


@dataclass(frozen=True)
class _Drawing:
    """What a report is drawn from, and where it goes."""

    form: ServedForm
    trained: list[Partition]
    """The partitions that the champion learned from and that are still as they were."""
    entry: Model
    data_url: str
    mlflow_url: str
    name: str
    """Of the report's folder."""
    scratch: Path


def _with_report(engine: sa.Engine, result_id: int, checked: Check, compared: _Compared, drawing: _Drawing) -> Check:
    """The check with its report, an earlier equal one or a new one; or with the reason why there is none."""
    url = storage.join(drawing.data_url, "reports", checked.model, drawing.name)
    try:
        if (before := report.drawn_before(engine, result_id)) is not None:
            return replace(checked, report_url=before)
        files = _draw(checked, compared, drawing)
        checked = replace(checked, report_url=report.publish(files, url))
        _log(files, drawing)
    except Exception as error:  # noqa: BLE001  (whatever broke it: what was found stands, and this is reported)
        return replace(checked, report_problem=f"{type(error).__name__}: {error}")
    return checked


def _folder(run_key: str | None, now: dt.datetime) -> str:
    """A name of its own for each run's report, the same again for a retry."""
    if run_key is None:
        return f"{now:%Y-%m-%dT%H%M%S.%fZ}"
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', run_key)[:80]}-{hashlib.sha256(run_key.encode()).hexdigest()[:6]}"


def _draw(checked: Check, compared: _Compared, drawing: _Drawing) -> report.Files:
    form, trained, entry, data_url = drawing.form, drawing.trained, drawing.entry, drawing.data_url
    step = max(1, -(-len(trained) // REFERENCE_PARTITIONS))
    reference = None
    if trained:
        before = collection.collect(data_url, trained[-1::-step][::-1], collection.feature_set(form), entry.target)
        reference = report.sample({**before.inputs, **before.features})
    span = " to ".join(dict.fromkeys((checked.window[0], checked.window[-1])))
    return report.build(
        compared.findings,
        title=f"{checked.model}: {span} ({checked.rows:,} rows) against version {checked.version}'s training set",
        profile=compared.profile["columns"],
        reference=reference,
        current=report.sample({**compared.window.inputs, **compared.window.features}),
        measure=drift_measures.load(entry.monitoring.drift.measure),
        thresholds=drift_measures.thresholds(entry.monitoring),
        facts={
            "model": checked.model,
            "version": checked.version,
            "window": checked.window,
            "rows": checked.rows,
            "status": checked.status,
            "requested": checked.requested,
            "reason": checked.reason,
        },
    )


def _log(files: report.Files, drawing: _Drawing) -> None:
    """Make the report's findings and picture artifacts of the champion's run; its page, which is large, is not."""
    from include.training import tracking

    folder = drawing.scratch / "report"
    folder.mkdir()
    for file, content in files.contents.items():
        if file != report.PAGE:
            (folder / file).write_bytes(content)
    tracking.check(drawing.mlflow_url)
    run_id = drawing.form.manifest["run_id"]
    tracking.attach(run_id, folder, f"monitoring/{drawing.name}", mlflow_url=drawing.mlflow_url)


def _learned_from(engine: sa.Engine, model: str, feature_version: str) -> dict[str, str]:
    """Partition key → SHA-256 of what the champion's features were built from."""
    table = database.feature_versions
    with engine.connect() as connection:
        inputs = connection.execute(
            sa.select(table.c.inputs).where(table.c.model == model, table.c.version == feature_version)
        ).scalar()
    return dict(inputs or {})


def _compare(
    form: ServedForm, chosen: Sequence[Partition], entry: Model, time_column: str | None, data_url: str
) -> _Compared:
    rules = entry.monitoring
    features = collection.feature_set(form)
    window = collection.collect(data_url, chosen, features, entry.target)
    profile = form.json("profile.json")
    if window.rows < rules.minimum_rows:
        return _Compared(window, [], profile)
    columns = {**window.inputs, **window.features}
    warn, critical = drift_measures.thresholds(rules)
    calendar = drift.calendar_columns(features, window.inputs, time_column)
    findings = drift.find(
        profile["columns"], columns, by=rules.drift.measure, warn=warn, critical=critical, calendar=calendar
    )
    return _Compared(window, [*findings, *_answers(form, window, profile, entry)], profile)


def _answers(form: ServedForm, window: collection.Window, profile: dict[str, Any], entry: Model) -> list[Finding]:
    predictor = Predictor.load(form)
    prediction = collection.predict(predictor, window.inputs)
    refused = int(np.isnan(prediction).reshape(len(prediction), -1).any(axis=1).sum())
    findings = _predictions(form, profile, prediction, entry)
    if refused:
        share = refused / len(prediction)
        message = f"{refused} rows ({share:.1%}) that the champion cannot answer"
        findings.append(Finding("data", "predictions", "warn", message, share, 0.0, rows=len(prediction)))
    if window.target is None:
        message = f"{profile['metric']['name']}: not measured, the source brings no {entry.target!r}"
        return [*findings, Finding("performance", profile["metric"]["name"], "ok", message)]
    rules = entry.monitoring
    measured = performance.measure(
        window.target,
        prediction,
        task=form.manifest["task"],
        metric=profile["metric"]["name"],
        then=float(profile["metric"]["value"]),
        classes=form.manifest["classes"],
        minimum_rows=rules.minimum_rows,
        warn=rules.performance_warn,
        critical=rules.performance_critical,
    )
    return [*findings, measured]


def _predictions(form: ServedForm, profile: dict[str, Any], prediction: np.ndarray, entry: Model) -> list[Finding]:
    """The drift of what the champion answers: it follows from the inputs', so it warns and never requests."""
    answers = prediction if form.manifest["classes"] is None else prediction[:, -1]
    known = {"prediction": answers[np.isfinite(answers)]}
    rules = entry.monitoring
    warn, _ = drift_measures.thresholds(rules)
    described = {"prediction": profile["prediction"]}
    return drift.find(described, known, by=rules.drift.measure, warn=warn, critical=math.inf)


def _conclude(
    engine: sa.Engine,
    model: str,
    version: int,
    entry: Model,
    compared: _Compared,
    unseen: int,
    now: dt.datetime,
    run_key: str | None,
) -> tuple[Check, int]:
    """Decide, and store the result together with the request: of many checks at once, one makes it."""
    window, rules = compared.window, entry.monitoring
    with engine.begin() as connection:
        database.lock_in_transaction(connection, f"retraining:{model}")
        if window.rows < rules.minimum_rows:
            reason = (
                f"insufficient data: {window.rows} rows < {rules.minimum_rows} in the newest"
                f" {len(window.keys)} partitions; drift is unknown"
            )
            checked = Check(model, version, "insufficient_data", False, reason, [], window.keys, window.rows)
        else:
            earlier_request, last_request = _requests(connection, model, run_key, now)
            decision = decide(
                compared.findings, last_request=last_request, now=now, cooldown=rules.cooldown, unseen=unseen
            )
            if earlier_request is not None:
                decision = Decision(True, earlier_request)
            elif decision.request:
                _request(connection, model, version, decision.reason, compared, now, run_key)
            findings = [f.as_json() for f in by_weight(compared.findings)]
            status = worst(compared.findings)
            checked = Check(
                model, version, status, decision.request, decision.reason, findings, window.keys, window.rows
            )
        return checked, _store(connection, checked, now, run_key)


def _requests(
    connection: sa.Connection, model: str, run_key: str | None, now: dt.datetime
) -> tuple[str | None, dt.datetime | None]:
    """The reason of the request that this very run made, if any; and when the last one was made that was not lost."""
    table = database.retraining_requests
    rows = connection.execute(
        sa.select(table.c.run_key, table.c.reason, table.c.created_at, requests.counts(now).label("counts"))
        .where(table.c.model == model)
        .order_by(table.c.created_at.desc())
        .limit(20)
    ).all()
    own = next((row.reason for row in rows if run_key is not None and row.run_key == run_key), None)
    return own, next((row.created_at for row in rows if row.counts), None)


def _request(
    connection: sa.Connection,
    model: str,
    version: int,
    reason: str,
    compared: _Compared,
    now: dt.datetime,
    run_key: str | None,
) -> None:
    critical = [f.as_json() for f in compared.findings if f.level == "critical"]
    evidence = {"version": version, "window": compared.window.keys, "findings": critical}
    connection.execute(
        sa.insert(database.retraining_requests).values(
            model=model, reason=reason, evidence=evidence, created_at=now, run_key=run_key
        )
    )


def _store(connection: sa.Connection, checked: Check, now: dt.datetime, run_key: str | None) -> int:
    table = database.monitor_results
    values = {
        "version": checked.version,
        "window": checked.window,
        "status": checked.status,
        "findings": [f for f in checked.findings if f["level"] != "ok" or f["kind"] == "performance"],
        "reason": checked.reason,
        "report_url": None,
        "created_at": now,
    }
    query = postgresql.insert(table).values(model=checked.model, run_key=run_key, **values)
    upsert = query.on_conflict_do_update(index_elements=["model", "run_key"], set_=values)
    result_id = int(connection.execute(upsert.returning(table.c.id)).scalar_one())
    measures.replace(connection, result_id, checked.model, int(checked.version or 0), now, checked.findings)
    return result_id


def _note_report(engine: sa.Engine, result_id: int, report_url: str | None) -> None:
    table = database.monitor_results
    with engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.id == result_id).values(report_url=report_url))
