"""One DAG per model: the newest partitions beside what the champion was trained on; asks for retraining, or not.

**Makes** a result in the database, a report (opened from the task and from the ML platform page), and, where
a finding is critical, the asset `retraining(model)` with its reason, on which `train_<model>` runs. A
cooldown keeps it from asking every time.

**Runs** nightly (`monitoring.schedule` in params.yaml), whenever `features_<model>` has built a new version,
and by hand, with a form: how many of the newest partitions to look at.

**When a task fails**

- `check`: params.yaml names something that is not there. The message has the key, the line and the remedy.
  Nothing was run.
- `compare`: the check could not be made: a partition lacks a column, a file was changed, the champion's
  served form cannot be read, the report crashed. The message says which. Red means "not known", never "no
  drift".
- `request_retraining`: Airflow itself could not record the request. Clear it: a run asks once.
- `report`: it was compared, and what was due was asked for, but the report could not be drawn. The message says why.

A model without a champion is not compared, and the tasks say so.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from include import settings
from include.orchestration import alerts, assets, dag_defaults, runs

PARAMS = dag_defaults.params_of(__file__)


def monitor(model: str, entry: settings.Model, time_column: str | None) -> None:
    """The DAG of one model's nightly check."""
    nightly = CronTriggerTimetable(entry.monitoring.schedule, timezone="UTC")
    with DAG(
        dag_id=f"monitor_{model}",
        dag_display_name=f"Monitor {model}",
        description=f"Whether the world is still as {model}'s champion has learned it",
        doc_md=dag_defaults.manual(__doc__, entry.description, model=model, source=entry.source),
        schedule=AssetOrTimeSchedule(timetable=nightly, assets=[assets.features(model)]),
        start_date=dag_defaults.EPOCH,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=dag_defaults.MONITOR_TIMEOUT,
        params=dag_defaults.monitor_form(entry),
        tags={dag_defaults.Tag.MONITORING, f"model:{model}"},
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
        def compare(*, run_id: Any = None, params: Any = None) -> dict[str, Any]:
            from include.monitoring import check as nightly

            env, now = settings.environment(), dt.datetime.now(dt.UTC)
            where = {"database_url": env.database_url, "data_url": env.data_url, "mlflow_url": env.mlflow_url}
            seen = dag_defaults.with_window(entry, params["window"])
            found = nightly.check(model, seen, time_column=time_column, **where, now=now, run_key=run_id)
            return runs.compared(found, env.data_url)

        @task(outlets=[assets.retraining(model)])
        def request_retraining(compared: dict[str, Any], *, outlet_events: Any = None) -> dict[str, Any]:
            found, why = compared["requested"], compared["reason"]
            return runs.training_request(found, why, outlet_events, model, champion=compared["version"])

        @task
        def report(compared: dict[str, Any]) -> dict[str, Any]:
            return runs.drawn(compared)

        compared = runs.link(compare(), report="Drift report")
        check() >> compared
        request_retraining(compared) >> runs.link(report(compared), report="Drift report")
        dag_defaults.document_tasks(dag)


params = dag_defaults.read_params(PARAMS)
for model_name, model_entry in dag_defaults.models(params):
    monitor(model_name, model_entry, params.time_column(model_name))
