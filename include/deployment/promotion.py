"""A verdict carried out, in steps that can be killed and run again: package, promote, let the aliases follow, verify.

Each takes plain values, as a task of `deploy_<model>` has them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include import database, storage
from include.deployment import ledger, packaging, verification
from include.serving.predictor import GOLDEN


def package(
    model: str, version: int, *, mlflow_url: str, data_url: str, bento_home: Path, root: Path
) -> packaging.Packaged:
    """Publish a registered version's served form and build its Bento; see `packaging.package`."""
    from include.training import tracking

    with tempfile.TemporaryDirectory(prefix="mlops-package-") as folder:
        form = tracking.download(model, version, Path(folder), mlflow_url=mlflow_url)
        return packaging.package(
            form, model=model, version=version, data_url=data_url, bento_home=bento_home, root=root
        )


def promote(verdict: Mapping[str, Any], packaged: Mapping[str, Any], *, database_url: str, actor: str) -> ledger.Entry:
    """Make the judged version champion, if the champion is still who it was judged against; see `ledger.promote`."""
    if packaged["content_hash"] != verdict["content_hash"]:
        raise ledger.NotProven(
            f"{verdict['model']} version {verdict['version']} was packed with other content"
            f" ({packaged['content_hash'][:12]}…) than was judged ({verdict['content_hash'][:12]}…);"
            " run the deployment again from the gate on"
        )
    engine = database.connect(database_url)
    try:
        return ledger.promote(
            engine,
            model=verdict["model"],
            to_version=verdict["version"],
            expected_from=verdict["champion_version"],
            content_hash=verdict["content_hash"],
            url=packaged["url"],
            bento=packaged["bento"],
            verdict_id=verdict["id"],
            actor=actor,
            reason="; ".join(verdict["reasons"]),
        )
    finally:
        engine.dispose()


def follow(model: str, *, database_url: str, mlflow_url: str) -> dict[str, int | None]:
    """Let MLflow's aliases say what the ledger says; see `ledger.project_aliases`."""
    engine = database.connect(database_url)
    try:
        return ledger.project_aliases(engine, model, mlflow_url=mlflow_url)
    finally:
        engine.dispose()


def verify(promoted: Mapping[str, Any], *, serving_url: str, serving_key: str, timeout: float) -> verification.Verified:
    """Have the running service answer the golden rows with the promoted version; see `verification.verify`."""
    golden = json.loads(storage.read_bytes(storage.join(promoted["url"], GOLDEN)))
    return verification.verify(
        promoted["model"],
        promoted["to_version"],
        serving_url=serving_url,
        serving_key=serving_key,
        golden=golden,
        timeout=timeout,
    )
