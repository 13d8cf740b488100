"""Our service with everything on: started as the stack starts it, its model promoted through the ledger."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from benchmarks.serving.contenders import KEY
from benchmarks.serving.ledger import Ledger
from benchmarks.serving.model import CATEGORIES, DEPTH, NAME, NUMBERS, TARGET, TREES
from include.home import Home
from include.serving import api_keys
from include.stack.environment import serving_environment


def environment(root: Path, home: Path, ledger: Ledger, *, workers: int = 1, fsync: str = "always") -> dict[str, str]:
    """The variables of the service, as the stack sets them; its keys and its params.yaml are written into `home`.

    One worker has the core that the benchmark gives it; several share the cores that they get, each on its own.
    """
    home.mkdir(parents=True, exist_ok=True)
    known = {
        "serving": (KEY, ("predict",)),
        "feedback": ("f" * 43, ("feedback",)),
        "serving-admin": ("a" * 43, ("admin",)),
    }
    api_keys.ensure(Home(home).serving_keys, known, now=dt.datetime.now(dt.UTC))
    params = home / "params.yaml"
    params.write_text(_params(workers, fsync), encoding="utf-8")
    of_the_stack = serving_environment(
        root=root, home=home, database_url=ledger.url, serving_url="", data_url=str(home / "data")
    )
    return {**of_the_stack, "MLOPS_PARAMS": str(params)}


def _params(workers: int, fsync: str) -> str:
    return f"""\
sources:
  deliveries: {{type: files, path: deliveries.parquet}}
models:
  {NAME}:
    source: deliveries
    target: {TARGET}
    task: regression
    features: {{standard_scaler: [{", ".join(NUMBERS)}], one_hot: [{", ".join(CATEGORIES)}]}}
    estimators: {{xgboost: {{n_estimators: {TREES}, max_depth: {DEPTH}}}}}
    serving: {{default: true}}
service: {{workers: {workers}, pin_workers: {str(workers > 1).lower()}, fsync: {fsync}}}
"""
