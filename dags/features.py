"""One DAG per model: the validated partitions of its source become a version of its features.

**Makes** a feature version: DVC builds only the partitions that changed, and pushes them to the remote; and
the asset `features(model)` with that version, on which `monitor_<model>` is scheduled. While the model has no
champion and none is being trained, it asks for the first training, too (`retraining(model)`).

**Runs** when `ingest_<source>` has published partitions; by hand at any time, without a form. New, it is paused until
somebody unpauses it, here or by `make demo`: a day alone is no history to train a first champion on.

**When a task fails**

- `check`: params.yaml names something that is not there. The message has the key, the line and the remedy.
  Nothing was run.
- `build`: a partition changed after validation (ingest it again with `replace`), a feature's Python failed
  (its message names the column), or DVC's remote is away (it was tried four times). Nothing half-built is
  recorded; clear the task. No lock needs removing by hand.
- `first_training`: the platform's database could not be reached. Clear it.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from include import settings
from include.orchestration import alerts, assets, dag_defaults, runs

PARAMS = dag_defaults.params_of(__file__)


def features(model: str, entry: settings.Model) -> None:
    """The DAG of one model's features."""
    with DAG(
        dag_id=f"features_{model}",
        dag_display_name=f"Features of {model}",
        description=f"A new version of the features of {model}",
        doc_md=dag_defaults.manual(__doc__, entry.description, model=model, source=entry.source),
        schedule=[assets.validated(entry.source)],
        start_date=dag_defaults.EPOCH,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=True,  # one day alone must not train a first champion: its history comes first
        dagrun_timeout=dag_defaults.FEATURES_TIMEOUT,
        tags={dag_defaults.Tag.FEATURES, f"model:{model}", f"source:{entry.source}"},
        default_args=dag_defaults.default_args(entry.owner),
        on_failure_callback=alerts.run_failed,
    ) as dag:

        @task
        def check() -> dict[str, Any]:
            from include import preflight

            env = settings.environment()
            found = preflight.check(PARAMS, suites=env.suites)
            return runs.checked(found, f"models.{model}", f"sources.{entry.source}")

        @task(outlets=[assets.features(model)])
        def build(*, outlet_events: Any = None) -> dict[str, Any]:
            from include.features import versions

            env = settings.environment()
            where = {"data_url": env.data_url, "database_url": env.database_url, "remote_url": env.dvc_remote_url}
            made = versions.build(model, params_path=PARAMS, **where, home=env.home)
            work = f"{runs.span(made.computed)} built, {made.reused} reused"
            spare = "".join(f"; {column} is no input: {why}" for column, why in made.left_out.items())
            text = f"version {made.version[:12]}: {made.rows:,} rows; {work}{spare}"
            return runs.emit(outlet_events, assets.features(model), runs.result(made, text))

        @task(outlets=[assets.retraining(model)])
        def first_training(
            built: dict[str, Any], *, ti: Any = None, run_id: Any = None, outlet_events: Any = None
        ) -> dict[str, Any]:
            from include.monitoring import first_model

            url, patience = settings.environment().database_url, dag_defaults.first_training_patience(entry)
            at_work = runs.at_work(ti, f"train_{model}", f"deploy_{model}")
            training = first_model.request(model, url, run_key=run_id, patience=patience, at_work=at_work)
            needed, why = training.requested, training.reason
            return runs.training_request(needed, why, outlet_events, model, features=built["version"])

        checked, built = check(), build()
        checked >> built
        first_training(built)
        dag_defaults.document_tasks(dag)


for model_name, model_entry in dag_defaults.models(dag_defaults.read_params(PARAMS)):
    features(model_name, model_entry)
