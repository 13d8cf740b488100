"""The whole chain by its functions, as the DAGs call them, without Airflow."""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from include import settings
from include.database import connect
from include.deployment import gate, ledger, packaging
from include.features import versions
from include.inference.predictor import Predictor
from include.ingestion import partitions, validation
from include.training import fitting, preparation, tracking, tuning
from tests.conftest import ROOT


@dataclass(frozen=True)
class Platform:
    """Where a chain runs: its params.yaml, its state, its servers."""

    params_path: Path
    home: Path
    data_url: str
    remote_url: str
    database_url: str
    optuna_url: str
    mlflow_url: str
    suites: Path = ROOT / "great_expectations" / "expectations"

    @property
    def params(self) -> settings.Params:
        return settings.load_params(self.params_path)

    def ingest(self, name: str, start: dt.date | None = None, end: dt.date | None = None) -> validation.Validation:
        source, run_id = self.params.sources[name], f"test-{start}"
        keys = partitions.keys_between(source, start, end)
        extracted = partitions.extract(
            name, source, keys, data_url=self.data_url, run_id=run_id, database_url=self.database_url, replace=False
        )
        found = validation.validate(
            name,
            source,
            extracted.keys,
            data_url=self.data_url,
            run_id=run_id,
            suite_path=self.suites / f"{source.suite or name}.json",
            database_url=self.database_url,
            today=dt.datetime.now(dt.UTC).date(),
        )
        partitions.publish(name, found.accepted, data_url=self.data_url, run_id=run_id, database_url=self.database_url)
        return found

    def build(self, model: str) -> versions.FeatureVersion:
        return versions.build(
            model,
            params_path=self.params_path,
            data_url=self.data_url,
            database_url=self.database_url,
            remote_url=self.remote_url,
            home=self.home,
        )

    def train(self, model: str, run_key: str = "first") -> tracking.Candidate:
        entry = self.params.models[model]
        prepared = dataclasses.asdict(
            preparation.prepare(
                model,
                entry,
                run_key=run_key,
                work=str(self.home / "training" / run_key),
                time_column=self.params.time_column(model),
                overrides={},
                feature_version=None,
                database_url=self.database_url,
                remote_url=self.remote_url,
                home=self.home,
                optuna_url=self.optuna_url,
                mlflow_url=self.mlflow_url,
            )
        )
        tuning.tune(
            model, entry, prepared, worker=0, optuna_url=self.optuna_url, database_url=self.database_url, threads=2
        )
        fitted = fitting.fit(model, entry, prepared, optuna_url=self.optuna_url, mlflow_url=self.mlflow_url, root=ROOT)
        return tracking.register(dataclasses.asdict(fitted), mlflow_url=self.mlflow_url, database_url=self.database_url)

    @property
    def registry(self) -> dict[str, str]:
        """Where versions are registered."""
        return {"mlflow_url": self.mlflow_url, "database_url": self.database_url}

    def deploy(self, candidate: tracking.Candidate) -> ledger.Champion:
        """Judge, publish and promote; the Bento itself is built in the tests of packaging."""
        model, version = candidate.model, candidate.version
        verdict = gate.judge(
            model,
            version,
            entry=self.params.models[model],
            database_url=self.database_url,
            mlflow_url=self.mlflow_url,
        )
        assert verdict.verdict == "PROMOTE", verdict.reasons
        form = tracking.download(model, version, self.home / "served", **self.registry)
        url = packaging.publish(form, model=model, data_url=self.data_url)
        engine = connect(self.database_url)
        ledger.promote(
            engine,
            model=model,
            to_version=version,
            expected_from=verdict.champion_version,
            content_hash=form.content_hash,
            url=url,
            bento="(none)",
            verdict_id=verdict.id,
            actor="test",
            reason="; ".join(verdict.reasons),
        )
        champion = ledger.champion(engine, model)
        engine.dispose()
        assert champion
        return champion

    def predictor(self, candidate: tracking.Candidate, into: Path) -> Predictor:
        return Predictor.load(tracking.download(candidate.model, candidate.version, into, **self.registry))
