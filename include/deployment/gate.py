"""PROMOTE, HOLD or REJECT: whether a candidate may become champion, with reasons and numbers.

`decide` is the rule, a pure function of the evidence; `judge` gathers the evidence and stores the verdict.

A first candidate must beat the baseline, a later one the champion, both by a declared relative margin, on the
candidate's held-out rows, which it was not trained on. Where the champion was trained on some of them, those are left
out of the comparison for both. What cannot be compared is not promoted:

    REJECT   worse than what it should beat, or its evidence is not valid (it was trained on its held-out rows)
    HOLD     no better, or not by the margin; too few labelled rows; the champion cannot be read: nothing is proven
    PROMOTE  better by the margin

How much better, by metric:

    smaller is better (mae, rmse, mse, log_loss)                    (reference - value) / |reference|
    larger is better, at most 1 (accuracy, f1, roc_auc, r2, …)      the share of the remaining error that is gone:
                                                                    ((1 - reference) - (1 - value)) / (1 - reference)

so that ten per cent better than a baseline's ROC AUC of 0.50 is 0.55, and than an accuracy of 0.90 it is 0.91.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import sqlalchemy as sa

from include import database, storage
from include.deployment import decisions, ledger
from include.inference import served_form
from include.settings import METRICS, Gate, Model

if TYPE_CHECKING:
    from include.inference.served_form import ServedForm

Outcome = Literal["PROMOTE", "HOLD", "REJECT"]


@dataclass(frozen=True)
class Evidence:
    """What a verdict is based on."""

    metric: str
    against: str
    """What it is compared with, in words: `the baseline`, `champion version 3`."""
    rows: int
    """Held-out rows."""
    labelled: int
    """Those of them that are compared: with a label, and unseen by both."""
    candidate: float | None = None
    reference: float | None = None
    invalid: tuple[str, ...] = ()
    """Why the candidate's own evidence does not count."""
    incomparable: tuple[str, ...] = ()
    """Why there is nothing to compare it with."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More numbers to keep with the verdict."""


@dataclass(frozen=True)
class Decision:
    """What follows from the evidence."""

    verdict: Outcome
    reasons: list[str]
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A stored decision about one version and its content."""

    id: int
    model: str
    version: int
    verdict: Outcome
    champion_version: int | None
    """The champion that it was compared with; None: the baseline."""
    content_hash: str
    reasons: list[str]
    numbers: dict[str, Any]


class NotReady(RuntimeError):
    """The candidate itself cannot be read, so there is nothing to judge."""


def improvement(metric: str, value: float, reference: float) -> float:
    """By which share `value` is better than `reference`, negative when worse; formulas above."""
    if METRICS[metric] == "minimize":
        gained, scale = reference - value, abs(reference)
    else:
        gained, scale = value - reference, 1 - reference
    if gained == 0:
        return 0.0
    return gained / scale if scale > 0 else math.copysign(math.inf, gained)


def decide(evidence: Evidence, gate: Gate, *, first: bool) -> Decision:
    """The verdict that follows from the evidence.

    Args:
        evidence: what was measured.
        gate: the model's thresholds.
        first: whether there is no champion yet, so that the baseline is the reference.
    """
    margin = gate.baseline_margin if first else gate.champion_margin
    numbers: dict[str, Any] = {
        "metric": evidence.metric,
        "candidate": _finite(evidence.candidate),
        "baseline" if first else "champion": _finite(evidence.reference),
        "rows": evidence.rows,
        "labelled": evidence.labelled,
        "margin": margin,
        **evidence.extra,
    }
    if evidence.invalid:
        return Decision("REJECT", list(evidence.invalid), numbers)
    if evidence.labelled < gate.minimum_rows:
        coverage = evidence.labelled / evidence.rows if evidence.rows else 0.0
        reason = (
            f"{evidence.labelled} labelled held-out rows < {gate.minimum_rows} (coverage {coverage:.0%} of"
            f" {evidence.rows}): too few to tell; train on more rows, or declare a `split` with a larger `test`"
        )
        return Decision("HOLD", [reason, *evidence.incomparable], numbers)
    if evidence.incomparable:
        return Decision("HOLD", list(evidence.incomparable), numbers)
    value, reference = evidence.candidate, evidence.reference
    if value is None or not math.isfinite(value):
        return Decision("REJECT", [f"the candidate's {evidence.metric} is not a number"], numbers)
    if reference is None or not math.isfinite(reference):
        return Decision("HOLD", [f"the {evidence.metric} of {evidence.against} is not a number"], numbers)
    better = improvement(evidence.metric, value, reference)
    numbers["improvement"] = _finite(better)
    return Decision(*_compared(better, margin, f"{_number(value)} against {_number(reference)}", evidence), numbers)


def _compared(better: float, margin: float, values: str, evidence: Evidence) -> tuple[Outcome, list[str]]:
    measured = f"{evidence.metric} {values} of {evidence.against} on the same {evidence.labelled} rows"
    # Of a score that ends at 1, the share of the remaining error: 0.9994 against 0.5 is not twice as good.
    of_what = "" if METRICS[evidence.metric] == "minimize" else " of the gap to 1"
    if better < 0:
        return "REJECT", [f"worse by {-better:.1%}{of_what}: {measured}"]
    if better == 0:
        return "HOLD", [f"not better: {measured}"]
    if better < margin:
        return "HOLD", [f"better by {better:.1%}{of_what}, but {margin:.0%} is required: {measured}"]
    return "PROMOTE", [f"better by {better:.1%}{of_what}: {measured}"]


def warned(decision: Decision, suspects: list[str]) -> Decision:
    """The decision with the columns that may make its numbers too good: a verdict that is read should name them."""
    if not suspects:
        return decision
    reasons = [*decision.reasons, *(f"suspect: {text}" for text in suspects)]
    return Decision(decision.verdict, reasons, {**decision.numbers, "suspects": len(suspects)})


def suspected(form: ServedForm) -> list[str]:
    """The suspects that training found among a version's inputs; none for one of an older program."""
    found = form.json("profile.json").get("suspects", [])
    return [f"{each['column']!r} {each['text']}" for each in found]


@dataclass(frozen=True)
class Exhibit:
    """A version on local disk: its served form, and the evidence that was registered with it."""

    form: ServedForm
    evidence: Path
    """holdout.parquet, holdout_rows.npy and training_rows.npy: see `training.tracking.evidence`."""


def judge(
    model: str,
    version: int,
    *,
    entry: Model,
    database_url: str,
    mlflow_url: str,
    again: decisions.Decision | None = None,
) -> Verdict:
    """Compare a registered version with the champion, or the baseline, and store the verdict.

    Judged again on the same evidence, it returns the verdict that is stored already. It never changes the champion.

    Args:
        model: The registered model.
        version: The candidate.
        entry: The model's entry in params.yaml: its metric and gate.
        database_url: The platform's database.
        mlflow_url: Where the candidate is registered.
        again: A person's decision to promote it although a person took it back.

    Raises:
        NotReady: the candidate's files are missing, partial or changed.
        ConnectionError: MLflow cannot be reached: not judged, which is never "passed".
    """
    from include.training import tracking

    tracking.check(mlflow_url)
    with database.connected(database_url) as engine:
        with tempfile.TemporaryDirectory(prefix="mlops-gate-") as folder:
            work = Path(folder)
            candidate = _candidate(model, version, work / "candidate", mlflow_url, database_url)
            current = ledger.champion(engine, model)
            if current and (current.version, current.content_hash) == (version, candidate.form.content_hash):
                return _standing(engine, current)
            if current is None:
                evidence = first_evidence(candidate, entry)
            else:
                evidence = _against(candidate, current, entry, work / "champion", mlflow_url, database_url)
            found = warned(decide(evidence, entry.gate, first=current is None), suspected(candidate.form))
            decision = _by_persons(engine, model, version, again, found)
        verdict = _store(
            engine, model, version, candidate.form.content_hash, current.version if current else None, decision
        )
        reasons = "; ".join(verdict.reasons)
        tracking.show_verdict(model, version, verdict=verdict.verdict, summary=reasons, mlflow_url=mlflow_url)
        return verdict


def _by_persons(
    engine: sa.Engine, model: str, version: int, again: decisions.Decision | None, decision: Decision
) -> Decision:
    """The decision, or HOLD for what a person took back: better numbers do not overrule a person."""
    with engine.connect() as connection:
        refusal = decisions.refusal(connection, model, version, again)
    if decision.verdict != "PROMOTE" or refusal is None:
        return decision
    return Decision("HOLD", [refusal, *decision.reasons], decision.numbers)


def _candidate(model: str, version: int, into: Path, mlflow_url: str, database_url: str) -> Exhibit:
    from include.training import tracking

    where = {"mlflow_url": mlflow_url, "database_url": database_url}
    try:
        form = tracking.download(model, version, into / "form", **where)
        return Exhibit(form, tracking.evidence(model, version, into / "evidence", **where))
    except (tracking.NotRegistered, served_form.BadServedForm) as error:
        raise NotReady(f"{model} version {version} cannot be judged: {error}") from error


def _against(
    candidate: Exhibit, current: ledger.Champion, entry: Model, into: Path, mlflow_url: str, database_url: str
) -> Evidence:
    """The evidence against the champion; what is wrong with the champion's files is a reason, not an error."""
    from include.training import tracking

    against = f"champion version {current.version}"
    try:
        form = served_form.verify(storage.download(current.url, into / "form"), current.content_hash)
        where = {"mlflow_url": mlflow_url, "database_url": database_url}
        proof = tracking.evidence(current.model, current.version, into / "evidence", **where)
    except (served_form.BadServedForm, storage.StorageError, tracking.NotRegistered) as error:
        reason = f"{against} cannot be compared with, it stays: {error}"
        metric, rows = entry.metric_name, len(_rows(candidate.evidence, "holdout_rows"))
        return Evidence(metric, against, rows, rows, invalid=_invalid(candidate), incomparable=(reason,))
    return champion_evidence(candidate, Exhibit(form, proof), entry, against)


def first_evidence(candidate: Exhibit, entry: Model) -> Evidence:
    """A first candidate beside the baseline that was trained with it, on the held-out rows."""
    metric = entry.metric_name
    holdout, target, labelled = _held_out(candidate)
    value, problem = _score(candidate, holdout, target, labelled, metric)
    baseline = candidate.form.manifest["baseline"].get(metric)
    return Evidence(
        metric,
        "the baseline",
        rows=len(labelled),
        labelled=int(labelled.sum()),
        candidate=value,
        reference=None if baseline is None else float(baseline),
        invalid=_invalid(candidate),
        incomparable=(problem,) if problem else (),
    )


def champion_evidence(candidate: Exhibit, champion: Exhibit, entry: Model, against: str) -> Evidence:
    """Candidate and champion on the same rows: the candidate's held-out ones that the champion was not trained on."""
    metric = entry.metric_name
    holdout, target, labelled = _held_out(candidate)
    seen = np.isin(_rows(candidate.evidence, "holdout_rows"), _rows(champion.evidence, "training_rows"))
    compared = labelled & ~seen
    problems = []
    value, problem = _score(candidate, holdout, target, compared, metric)
    problems += [f"the candidate: {problem}"] if problem else []
    reference, problem = _score(champion, holdout, target, compared, metric)
    problems += [f"{against}: {problem}"] if problem else []
    baseline = candidate.form.manifest["baseline"].get(metric)
    return Evidence(
        metric,
        against,
        rows=len(labelled),
        labelled=int(compared.sum()),
        candidate=value,
        reference=reference,
        invalid=_invalid(candidate),
        incomparable=tuple(problems),
        extra={"baseline": baseline, "seen_by_champion": int((labelled & seen).sum())},
    )


def _invalid(candidate: Exhibit) -> tuple[str, ...]:
    leaked = np.isin(_rows(candidate.evidence, "holdout_rows"), _rows(candidate.evidence, "training_rows"))
    if not leaked.any():
        return ()
    share = f"{int(leaked.sum())} of {len(leaked)} held-out rows ({leaked.mean():.1%})"
    return (f"the holdout leaked into training: {share} were trained on, so its metrics prove nothing",)


def _rows(evidence: Path, name: str) -> np.ndarray:
    rows: np.ndarray = np.load(evidence / f"{name}.npy", allow_pickle=False)
    return rows


def _held_out(candidate: Exhibit) -> tuple[Any, np.ndarray, np.ndarray]:
    """The held-out rows as a table, their target, and which of them are labelled."""
    import pyarrow.parquet as pq

    from include.features.columns import from_arrow, is_missing, types_of

    table = pq.read_table(candidate.evidence / "holdout.parquet")
    name = candidate.form.manifest["target"]
    target = from_arrow(table, {name: types_of(table.schema)[name]})[name]
    return table, target, ~is_missing(target)


def _score(
    side: Exhibit, holdout: Any, target: np.ndarray, rows: np.ndarray, metric: str
) -> tuple[float | None, str | None]:
    """The metric of one side on some rows, through the very code that serves; or why there is none."""
    from include.features.columns import ColumnError, from_arrow
    from include.features.feature_set import UnknownCategory
    from include.inference.predictor import NotComputable, Predictor
    from include.training import evaluation

    if not rows.any():
        return None, None
    manifest = side.form.manifest
    try:
        predictor = Predictor.load(side.form)
        types = {entry["name"]: entry["type"] for entry in manifest["inputs"]}
        columns = from_arrow(holdout.filter(rows), types)
        y = evaluation.encode(target[rows], manifest["classes"])
        return evaluation.score(metric, manifest["task"], y, predictor.predict(columns)), None
    except ColumnError as error:
        return None, f"cannot answer the held-out rows: {error}"
    except (NotComputable, UnknownCategory, evaluation.Unscorable, served_form.BadServedForm) as error:
        return None, str(error)


def _standing(engine: sa.Engine, current: ledger.Champion) -> Verdict:
    """The verdict that made the champion what it is: judging the champion itself again gives no other."""
    verdicts, entries = database.verdicts, database.ledger
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(verdicts)
            .join(entries, entries.c.verdict_id == verdicts.c.id)
            .where(entries.c.id == current.ledger_id)
        ).one()
    return _verdict(row)


def _store(
    engine: sa.Engine, model: str, version: int, content_hash: str, champion_version: int | None, decision: Decision
) -> Verdict:
    """Add the verdict, unless the newest one about this version says the very same."""
    table = database.verdicts
    values = {
        "verdict": decision.verdict,
        "champion_version": champion_version,
        "content_hash": content_hash,
        "reasons": decision.reasons,
        "numbers": json.loads(json.dumps(decision.numbers)),
    }
    with engine.begin() as connection:
        database.lock_in_transaction(connection, f"verdict:{model}")
        newest = database.newest(connection, table, table.c.model == model, table.c.version == version)
        same = newest is not None and all(newest._mapping[name] == value for name, value in values.items())
        if newest is not None and same and not _is_spent(connection, newest.id):
            return _verdict(newest)
        row = connection.execute(sa.insert(table).values(model=model, version=version, **values).returning(table)).one()
        return _verdict(row)


def _is_spent(connection: sa.Connection, verdict_id: int) -> bool:
    """Whether a promotion has used this verdict: another one needs a new one, for example after a rollback."""
    table = database.ledger
    return bool(connection.execute(sa.select(sa.exists().where(table.c.verdict_id == verdict_id))).scalar_one())


def _verdict(row: Any) -> Verdict:
    fields = {name: value for name, value in row._mapping.items() if name != "created_at"}
    return Verdict(**fields)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _number(value: float) -> str:
    return f"{value:.4g}"
