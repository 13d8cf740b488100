"""One DAG per model: a study, the best of it fitted again, a registered version.

**Makes** a version in MLflow's registry, read back and hashed, with its served form; and the asset
`candidate(model)`, on which `deploy_<model>` is scheduled. It never changes the champion.

**Runs** when a training is asked for (`retraining(model)`: by `monitor_<model>` with its reason, or by
`features_<model>` for a first model), and by hand, with a form: trials, time budget, window, reason; the
defaults are params.yaml's. One run at a time.

**When a task fails**

- `check`: params.yaml names something that is not there. The message has the key, the line and the remedy.
  Nothing was run.
- `prepare`: there are no features yet (run `features_<model>`), or MLflow is away; nothing expensive has
  begun. Clear it when MLflow is back.
- `tune`: a worker was killed: it is tried again, finished trials are kept and the others run. When no trial
  gave a model, the message says what became of them.
- `fit`: the chosen model could not be exported exactly, or its metric is not a number. Nothing is registered.
- `register`: MLflow is away, or a file was not read back as it was written. Clear it: a run registers one
  version, however often.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from include import settings
from include.orchestration import alerts, assets, dag_defaults, runs

PARAMS = dag_defaults.params_of(__file__)


def train(model: str, entry: settings.Model, time_column: str | None) -> None:
    """The DAG of one model's training."""
    dag_id = f"train_{model}"
    with DAG(
        dag_id=dag_id,
        dag_display_name=f"Train {model}",
        description=f"A study, and the best of it as a registered version of {model}",
        doc_md=dag_defaults.manual(__doc__, entry.description, model=model, source=entry.source),
        schedule=[assets.retraining(model)],
        start_date=dag_defaults.EPOCH,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=dag_defaults.train_timeout(entry),
        params=dag_defaults.train_form(entry),
        tags={dag_defaults.Tag.TRAINING, f"model:{model}"},
        default_args=dag_defaults.default_args(entry.owner),
        on_failure_callback=alerts.run_failed,
    ) as dag:

        @task
        def check() -> dict[str, Any]:
            from include import preflight

            env = settings.environment()
            found = preflight.check(PARAMS, suites=env.suites)
            return runs.checked(found, f"models.{model}", f"sources.{entry.source}")

        @task
        def prepare(*, run_id: Any = None, params: Any = None, triggering_asset_events: Any = None) -> dict[str, Any]:
            from include.monitoring import requests
            from include.training import preparation

            env, form = (
                settings.environment(),
                runs.overrides(params, triggering_asset_events, assets.retraining(model)),
            )
            where = {"database_url": env.database_url, "optuna_url": env.optuna_url, "mlflow_url": env.mlflow_url}
            run = {"run_key": run_id, "origin_url": runs.origin(env.airflow_url, dag_id, run_id)}
            run |= {"work": runs.folder(env.home, dag_id, run_id)}
            requests.begin(model, env.database_url, run_key=run_id)
            return runs.prepared(
                preparation.prepare(
                    model,
                    entry,
                    overrides=form,
                    time_column=time_column,
                    feature_version=None,
                    remote_url=env.dvc_remote_url,
                    **where,
                    **run,
                    home=env.home,
                )
            )

        @task(map_index_template="worker {{ task.op_kwargs['worker'] + 1 }}", show_return_value_in_logs=False)
        def tune(prepared: dict[str, Any], worker: int) -> dict[str, Any]:
            from include.training import tuning

            env, threads = settings.environment(), settings.cores(entry.tuning.workers)
            done = tuning.tune(
                model,
                entry,
                prepared,
                worker=worker,
                threads=threads,
                optuna_url=env.optuna_url,
                database_url=env.database_url,
            )
            best = "none" if done.best is None else f"{done.best:.4g}"
            text = f"{done.ran} trials here, {done.finished} in all ({done.pruned} pruned); best {best}"
            return runs.result(done, text)

        @task
        def fit(prepared: dict[str, Any], tuned: list[dict[str, Any]]) -> dict[str, Any]:
            from include.training import fitting

            env, root = settings.environment(), settings.ROOT
            done = fitting.fit(model, entry, prepared, optuna_url=env.optuna_url, mlflow_url=env.mlflow_url, root=root)
            return runs.result(done, f"{done.estimator}: {done.metric} {done.value:.4g}, baseline {done.baseline:.4g}")

        @task(outlets=[assets.candidate(model)])
        def register(fitted: dict[str, Any], *, outlet_events: Any = None) -> dict[str, Any]:
            from include.training import tracking

            env = settings.environment()
            made = tracking.register(fitted, mlflow_url=env.mlflow_url, database_url=env.database_url)
            figures = f"{made.metric} {made.value:.4g}, baseline {made.baseline:.4g}"
            text = f"version {made.version}: {made.estimator}, {figures}"
            return runs.emit(outlet_events, assets.candidate(model), runs.result(made, text))

        checked, prepared = check(), runs.link(prepare(), run_url="MLflow run")
        checked >> prepared
        tuned = tune.partial(prepared=prepared).expand(worker=list(range(entry.tuning.workers)))
        fitted = runs.link(fit(prepared, tuned), run_url="MLflow run")
        runs.link(register(fitted), run_url="MLflow run")
        dag_defaults.document_tasks(dag)


params = dag_defaults.read_params(PARAMS)
for model_name, model_entry in dag_defaults.models(params):
    train(model_name, model_entry, params.time_column(model_name))
