"""One DAG per model: a candidate is judged, packed, promoted, and seen in service.

**Makes** a verdict (PROMOTE, HOLD or REJECT, with reasons and numbers); for PROMOTE a Bento, an entry in the
ledger, and, when the service itself has answered with the new version, the asset `champion(model)`. Where
`serving.rollout.strategy` names one, the version is first tried beside the champion: `promote`
starts that rollout, `verify` sees it loaded, and the controller (`mlops rollout <model>`) decides later.

**Runs** when `train_<model>` has registered a version (`candidate(model)`): the newest one is judged, also
where several came while this DAG was at work. By hand for any version, with the form, which offers those there are.
HOLD and REJECT end green: the gate did its work, and the tasks after it say that there was nothing to do, with the
reason. Where params.yaml asks for approval, a person answers in the UI; no answer within two days counts as no.

A version that a person took back (rolled back, its rollout stopped, its model retired) is held, whatever
its numbers are: to have it promoted again, name it in the form, with the reason in `again`. A decision counts for what
was decided before it: clearing an old run repeats none.

**When a task fails**

- `check`: params.yaml names something that is not there. The message has the key, the line and the remedy.
  Nothing was run.
- `gate`: the version's files are missing or changed, or MLflow is away. Not judged is never passed.
- `package`: `bentoml build` failed, its last words are in the message; or the disk is full. Clear it.
- `promote`: somebody else promoted in the meantime (*superseded*: the message says who and what). Run the DAG
  again with this version to have it judged against the new champion. It promotes nothing, and alerts, while another
  version answers a part of the requests: deploy this one again when that has ended.
- `aliases`: MLflow is away. The ledger is the truth; clear the task to let MLflow's aliases follow.
- `verify`: the service does not answer with the new version, or could not load what is tried. The message says
  what it said; the last good model goes on answering. Where a rollout was started it sees that one in service:
  the champion is who it was.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from include import settings
from include.orchestration import alerts, approval, assets, dag_defaults, runs

PARAMS = dag_defaults.params_of(__file__)


def deploy(model: str, entry: settings.Model, workers: int) -> None:
    """The DAG of one model's deployment."""
    with DAG(
        dag_id=f"deploy_{model}",
        dag_display_name=f"Deploy {model}",
        description=f"Judge a version of {model}, promote it, and see it in service",
        doc_md=dag_defaults.manual(__doc__, entry.description, model=model, source=entry.source),
        schedule=[assets.candidate(model)],
        start_date=dag_defaults.EPOCH,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=dag_defaults.deploy_timeout(entry),
        params=dag_defaults.deploy_form(model),
        tags={dag_defaults.Tag.DEPLOYMENT, f"model:{model}"},
        default_args=dag_defaults.default_args(entry.owner),
        on_failure_callback=alerts.run_failed,
    ) as dag:

        @task
        def check() -> dict[str, Any]:
            from include import preflight

            env = settings.environment()
            return runs.checked(preflight.check(PARAMS, suites=env.suites), f"models.{model}")

        @task
        def gate(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from include.deployment import decisions
            from include.deployment import gate as judgement
            from include.training import tracking

            env = settings.environment()
            where = {"database_url": env.database_url, "mlflow_url": env.mlflow_url}
            version = params["version"] or runs.newest(tracking.versions(model, **where), model)
            again = decisions.of(params["again"], dag_run.run_after)
            return runs.judged(judgement.judge(model, version, entry=entry, **where, again=again), env.mlflow_url)

        @task
        def package(verdict: dict[str, Any]) -> dict[str, Any]:
            from include.deployment import promotion

            if verdict["verdict"] != "PROMOTE":
                return runs.idle(verdict["summary"])
            env = settings.environment()
            where = {"mlflow_url": env.mlflow_url, "database_url": env.database_url, "data_url": env.data_url}
            made = promotion.package(
                model, verdict["version"], bento_home=env.paths.bentoml, root=settings.ROOT, **where
            )
            return runs.result(made, f"{made.bento}, in {made.seconds:.1f} s")

        @task
        def promote(
            verdict: dict[str, Any],
            packaged: dict[str, Any],
            approved: dict[str, Any] | None,
            *,
            params: Any = None,
            dag_run: Any = None,
        ) -> dict[str, Any]:
            from include.deployment import decisions, promotion

            if idle := runs.idle_after(packaged, approved):
                return idle
            database_url, decision = (
                settings.environment().database_url,
                decisions.of(params["again"], dag_run.run_after),
            )
            who = {"actor": runs.actor(dag_run), "run_key": f"{dag_run.dag_id} {dag_run.run_id}"}
            done = promotion.carry_out(
                verdict,
                packaged,
                settings=entry.serving.rollout,
                task=entry.task,
                decision=decision,
                database_url=database_url,
                **who,
            )
            return runs.carried_out(done, model)

        @task
        def aliases(promoted: dict[str, Any]) -> dict[str, Any]:
            from include.deployment import promotion

            if idle := runs.idle_after(promoted):
                return idle
            env = settings.environment()
            set_to = promotion.follow(model, database_url=env.database_url, mlflow_url=env.mlflow_url)
            return runs.result(set_to, f"MLflow's aliases: {set_to}")

        @task(outlets=[assets.champion(model)])
        def verify(promoted: dict[str, Any], *, outlet_events: Any = None) -> dict[str, Any]:
            from include.deployment import promotion

            if idle := runs.idle_after(promoted):
                return idle
            env, within = settings.environment(), dag_defaults.SERVED_WITHIN
            where = {"serving_url": env.serving_url, "serving_key": env.serving_key}
            if "kind" in promoted:
                return runs.tried(promotion.see_tried(promoted, **where, workers=workers, timeout=within), promoted)
            seen = promotion.verify(promoted, **where, timeout=within)
            return runs.emit(outlet_events, assets.champion(model), runs.verified(seen, promoted, env.serving_url))

        verdict = runs.link(gate(), version_url="MLflow version")
        packaged = package(verdict)
        approved = approval.approve(model, entry, verdict, packaged) if entry.gate.approval else None
        promoted = promote(verdict, packaged, approved)
        check() >> verdict
        aliases(promoted)
        runs.link(verify(promoted), service="Prediction service")
        dag_defaults.document_tasks(dag)


params = dag_defaults.read_params(PARAMS)
for model_name, model_entry in dag_defaults.models(params):
    deploy(model_name, model_entry, params.service.workers)
