"""One DAG per model: the way back, in seconds, with a reason.

**Makes** an entry in the ledger that brings an earlier champion back, and stops whatever is tried
beside it, in one transaction; then asks the service until every worker answers with that
version and with nothing else. MLflow's aliases follow within half a minute, by the controller: the way back does
not wait for MLflow.

**Runs** by hand only, with a form: to which version (empty: the champion before the present one), and why. With
the present champion's version, rollouts are stopped and nothing else changes. `mlops rollback <model>` does the
same from a shell, and does not need Airflow.

**When a task fails**

- `roll_back`: the ledger names no such earlier champion (nothing was changed; the message says what to do), or it
  was changed, and the service does not follow: the message says what the service said. Clearing the task goes
  back no further: a run goes back once. Of two runs that were started at once, the second changes nothing and says
  who was quicker: going back two versions takes somebody who has seen the first.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from include import settings
from include.orchestration import alerts, dag_defaults, runs

PARAMS = dag_defaults.params_of(__file__)


def rollback(model: str, entry: settings.Model, workers: int) -> None:
    """The DAG of one model's way back."""
    with DAG(
        dag_id=f"rollback_{model}",
        dag_display_name=f"Roll {model} back",
        description=f"Bring an earlier champion of {model} back, and stop what is tried beside it",
        doc_md=dag_defaults.manual(__doc__, entry.description, model=model, source=entry.source),
        schedule=None,
        is_paused_upon_creation=False,  # nothing starts it by itself, and whoever asks for it wants it now
        start_date=dag_defaults.EPOCH,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=dag_defaults.ROLLBACK_TIMEOUT,
        params=dag_defaults.rollback_form(model),
        tags={dag_defaults.Tag.DEPLOYMENT, f"model:{model}"},
        default_args=dag_defaults.default_args(entry.owner),
        on_failure_callback=alerts.run_failed,
    ) as dag:

        @task
        def roll_back(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from include.deployment import promotion

            env, who = settings.environment(), runs.actor(dag_run)
            how = {"actor": who, "reason": params["reason"], "once": True, "seen_at": dag_run.run_after}
            done = promotion.withdraw(model, params["version"], database_url=env.database_url, **how)
            back, within = runs.withdrawn(done, model), dag_defaults.SERVED_WITHIN
            where = {"serving_url": env.serving_url, "serving_key": env.serving_key}
            return runs.followed(promotion.see_withdrawn(back, **where, workers=workers, timeout=within), back)

        roll_back()
        dag_defaults.document_tasks(dag)


params = dag_defaults.read_params(PARAMS)
for model_name, model_entry in dag_defaults.models(params):
    rollback(model_name, model_entry, params.service.workers)
