"""One DAG per model: try a version beside the champion, in one of the ways that include/strategies/ has.

**Makes** a verdict on the version against the present champion, its Bento, and a rollout, which the service follows
within a second and the controller watches: back by itself beyond a limit, on by itself when all goes well, except
where its strategy leaves that to a person. It needs PROMOTE; a shadow, which answers no request, may run with HOLD.

**Runs** by hand only, with a form: the version, the kind, and what params.yaml's `serving.rollout` says, for one
rollout. (`serving.rollout.strategy` lets `deploy_<model>` start one by itself.) `mlops rollout <model>` shows it
and stops it.

**When a task fails**

- `gate`: the version's files are missing or changed, or MLflow is away. Not judged is never tried.
- `package`: `bentoml build` failed, its last words are in the message; or the disk is full. Clear it.
- `start`: another rollout that answers requests runs (the message says which), or the champion was changed meanwhile.
- `verify`: a worker of the service could not load the version; the message says why. The champion answers alone;
  the service tries again by itself, or stop the rollout.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from include import settings, strategies
from include.orchestration import alerts, dag_defaults, runs

PARAMS = dag_defaults.params_of(__file__)


def rollout(model: str, entry: settings.Model, workers: int) -> None:
    """The DAG of one model's rollouts."""
    with DAG(
        dag_id=f"rollout_{model}",
        dag_display_name=f"Try a version of {model}",
        description=f"Try a version of {model} beside the champion",
        doc_md=dag_defaults.manual(__doc__, entry.description, model=model, source=entry.source),
        schedule=None,
        is_paused_upon_creation=False,  # nothing starts it by itself, and whoever asks for it wants it now
        start_date=dag_defaults.EPOCH,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=dag_defaults.DEPLOY_TIMEOUT,
        params=dag_defaults.rollout_form(model, entry),
        tags={dag_defaults.Tag.DEPLOYMENT, f"model:{model}"},
        default_args=dag_defaults.default_args(entry.owner),
        on_failure_callback=alerts.run_failed,
    ) as dag:

        @task
        def gate(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from include.deployment import decisions
            from include.deployment import gate as judgement

            env = settings.environment()
            where = {"database_url": env.database_url, "mlflow_url": env.mlflow_url}
            again = decisions.of(params["reason"], dag_run.run_after)
            verdict = judgement.judge(model, params["version"], entry=entry, **where, again=again)
            return runs.judged(verdict, env.mlflow_url)

        @task
        def package(verdict: dict[str, Any], *, params: Any = None) -> dict[str, Any]:
            from include.deployment import promotion

            if verdict["verdict"] not in strategies.load(params["kind"]).verdicts:
                return runs.idle(verdict["summary"])
            env = settings.environment()
            where = {"mlflow_url": env.mlflow_url, "database_url": env.database_url, "data_url": env.data_url}
            made = promotion.package(
                model, verdict["version"], bento_home=env.paths.bentoml, root=settings.ROOT, **where
            )
            return runs.result(made, f"{made.bento}, in {made.seconds:.1f} s")

        @task
        def start(
            verdict: dict[str, Any], packaged: dict[str, Any], *, params: Any = None, dag_run: Any = None
        ) -> dict[str, Any]:
            from include.deployment import decisions, promotion

            if idle := runs.idle_after(packaged):
                return idle
            rules, decision = (
                dag_defaults.with_rollout(entry, params),
                decisions.of(params["reason"], dag_run.run_after),
            )
            who = {"actor": runs.actor(dag_run), "run_key": f"{dag_run.dag_id} {dag_run.run_id}"}
            who |= {"database_url": settings.environment().database_url, "reason": params["reason"]}
            begun = promotion.begin(
                verdict, packaged, kind=params["kind"], settings=rules, task=entry.task, decision=decision, **who
            )
            return runs.carried_out(begun, model)

        @task
        def verify(started: dict[str, Any]) -> dict[str, Any]:
            from include.deployment import promotion

            if idle := runs.idle_after(started):
                return idle
            env, within = settings.environment(), dag_defaults.SERVED_WITHIN
            where = {"serving_url": env.serving_url, "serving_key": env.serving_key}
            seen = promotion.see_tried(started, **where, workers=workers, timeout=within)
            return runs.result(seen, f"every worker has version {started['version']} as {started['arm']}")

        verdict = runs.link(gate(), version_url="MLflow version")
        verify(start(verdict, package(verdict)))
        dag_defaults.document_tasks(dag)


params = dag_defaults.read_params(PARAMS)
for model_name, model_entry in dag_defaults.models(params):
    rollout(model_name, model_entry, params.service.workers)
