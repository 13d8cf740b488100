"""What `make demo` ends with: each champion's answer to a real row, what was quarantined, where everything is."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from include import database, settings, storage
from include.deployment import ledger
from include.inference.served_form import MANIFEST
from include.ingestion import partitions
from include.stack import postgres
from include.stack.airflow_api import Run
from include.stack.demo.history import DemoError
from include.stack.machine import Stack
from include.stack.progress import Progress


@dataclass(frozen=True)
class Answer:
    """What the service said to a real row."""

    champion: ledger.Champion
    manifest: dict[str, Any]
    row: dict[str, Any]
    prediction: Any


def _predict(stack: Stack, engine: sa.Engine, model: str) -> Answer:
    """A prediction of the served champion for a row of its golden ones.

    Raises:
        DemoError: the service does not serve the champion, or does not answer.
    """
    champion = ledger.champion(engine, model)
    if champion is None:
        raise DemoError(f"{model} has no champion")
    golden = json.loads(storage.read_bytes(storage.join(champion.url, "golden.json")))
    manifest = json.loads(storage.read_bytes(storage.join(champion.url, MANIFEST)))
    headers = {"Authorization": f"Bearer {stack.credentials().serving_key}"}
    url = f"{stack.address('serving')}/models/{model}/predict"
    deadline, last = time.monotonic() + 60, ""
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(url, json=golden["rows"][0], headers=headers, timeout=10, verify=stack.trusted)
            last = f"{answer.status_code}: {answer.text[:300]}"
            if answer.status_code == 200 and answer.json()["version"] == champion.version:
                return Answer(champion, manifest, golden["rows"][0], answer.json()["prediction"])
        except httpx.HTTPError as error:
            last = str(error)
        time.sleep(0.5)
    raise DemoError(f"{model}: the service does not answer with version {champion.version}; it said {last}")


def predict_each(stack: Stack, engine: sa.Engine, params: settings.Params, failed: dict[str, str]) -> dict[str, Answer]:
    """The served champions' answers; a model that gives none is added to those that failed."""
    answers: dict[str, Answer] = {}
    for model in params.models:
        try:
            if model not in failed or ledger.champion(engine, model) is not None:
                answers[model] = _predict(stack, engine, model)
        except (DemoError, storage.StorageError) as error:
            failed[model] = str(error)
    return answers


def show(
    stack: Stack,
    params: settings.Params,
    engine: sa.Engine,
    runs: Sequence[Run],
    answers: Mapping[str, Answer],
    seconds: float,
    progress: Progress,
) -> None:
    """Print what ran, who is champion, what was quarantined, and where to go on from here."""
    line = progress.line
    line()
    if runs:
        line(f"What ran, in {seconds:.0f} s")
        for run in runs:
            line(f"  {run.dag:<30} {run.seconds or 0:6.1f} s  {run.state}")
        line()
    line("Champions")
    for model, answer in answers.items():
        line(f"  {model} version {answer.champion.version}: {_standing(engine, answer)}")
        line(f"    asked about a real row it answers {_short(answer.prediction)}")
    refused = [text for source in params.sources for text in _quarantine(stack, source)]
    if refused:
        line()
        line("Quarantined, and why")
        for text in refused:
            line(f"  {text}")
    model = next((name for name in answers if name == params.default_model), next(iter(answers)))
    line()
    line("Ask it yourself")
    line(f"  {curl(stack, model, answers[model].row)}")
    line()
    line("Addresses")
    line(f"  Airflow  {stack.address('airflow')}   user admin, password: {command(stack)} key airflow")
    line(f"  MLflow   {stack.address('mlflow')}   user admin, password: {command(stack)} key mlflow")
    line(f"  service  {stack.address('serving')}/docs   key: {command(stack)} key serving")
    line(f"  all passwords and keys: {stack.credentials_file}")
    line()
    line(
        "Next: edit params.yaml (README: a model from your own CSV), `make check`, `make demo`; `make down` stops all."
    )


def _standing(engine: sa.Engine, answer: Answer) -> str:
    metric = str(answer.manifest["metric"])
    value = answer.manifest["metrics"].get(metric)
    query = (
        sa.select(database.verdicts.c.numbers)
        .join(database.ledger, database.ledger.c.verdict_id == database.verdicts.c.id)
        .where(database.ledger.c.id == answer.champion.ledger_id)
    )
    with engine.connect() as connection:
        numbers = connection.execute(query).scalar_one_or_none() or {}
    against = next(
        (f"{name} {_short(numbers[name])}" for name in ("baseline", "champion") if _is_number(numbers.get(name))), ""
    )
    others = ", ".join(
        f"{name} {_short(number)}"
        for name, number in answer.manifest["metrics"].items()
        if name != metric and _is_number(number)
    )
    return (
        f"{answer.manifest['estimator']}, {metric} {_short(value)}"
        + (f" against {against}" if against else "")
        + (f" ({others})" if others else "")
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _quarantine(stack: Stack, source: str) -> list[str]:
    """What was put aside of a source: days that were refused, and rows with their reasons."""
    keys = stack.credentials()
    url = postgres.url("platform", keys.platform_database_password, stack.ports["postgres"])
    reports = partitions.reports(url, source)
    reasons: Counter[str] = Counter()
    for report in reports:
        found = report["report"].get("reasons") if isinstance(report["report"], dict) else None
        for reason, count in (found or {}).items():
            reasons[str(reason)] += int(count)
    lines = []
    rows = sum(report["quarantined_rows"] for report in reports)
    if rows:
        total = rows + sum(report["rows"] for report in reports)
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(6))
        lines.append(f"{source}: {rows:,} of {total:,} rows" + (f" ({why})" if why else ""))
    for report in reports:
        if report["status"] == "quarantined":
            lines.append(f"{source} {report['key']}: the whole partition; {str(report['report'])[:200]}")
    return lines


def command(stack: Stack) -> str:
    """How to call `mlops` for this stack from the checkout's folder."""
    program = Path(sys.executable).parent / "mlops"
    shown = program.relative_to(stack.root) if program.is_relative_to(stack.root) else program
    home = "" if stack.home == stack.root / "var" else f"MLOPS_HOME={shlex.quote(str(stack.home))} "
    return home + shlex.quote(str(shown))


def curl(stack: Stack, model: str, row: Mapping[str, Any]) -> str:
    """A line that asks the service for a prediction when it is pasted into a shell."""
    trusted = f"--cacert {shlex.quote(stack.certificate)} " if stack.certificate else ""
    return (
        f"curl -s {trusted}{stack.address('serving')}/models/{model}/predict"
        f' -H "Authorization: Bearer $({command(stack)} key serving)" -H "Content-Type: application/json"'
        f" -d {shlex.quote(json.dumps(row))}"
    )
