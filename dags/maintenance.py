"""One DAG for the platform: the prediction log is kept in order, and no longer than is declared.

**Makes** the partitions of the next week, ahead of the predictions that go into them; deletes predictions that are
older than their model's `serving.log.keep_days` in params.yaml, whole days at a time (a day of which no model keeps
anything is dropped; from others the rows of those models go that keep less); and vacuums the days that have ended, so
that counting them stays fast. Labels are kept: they are what later versions are judged by. Models that params.yaml no
longer names keep their predictions for as long as the default says.

It deletes drift reports that are older than their model's `monitoring.report_days`; the newest, and all figures, stay.
It deletes alerts that were acknowledged and are older than `keep.alert_days`, and the logs and the scratch that runs
left behind and that are older than `keep.run_days`. (docs/operations.md lists all that is stored, and who deletes it.)

It announces again what no DAG took up: partitions without features, a requested training that never began, a version
that was not judged. (Airflow drops an asset's event for a DAG that is paused when it comes.)

**Runs** nightly, soon after midnight (UTC), and by hand, with a form: `dry_run` only says what would be deleted. A run
that did not happen does no harm: the service makes the partitions that it needs, and the next night deletes what this
one did not. `mlops predictions <model>` counts what is there.

**When a task fails**

- `make_partitions`: PostgreSQL is away, or its schema is not this program's. Nothing is lost: predictions wait on the
  service's own disk. Clear it.
- `delete_old`: somebody reads the day that is to go, and did not end (see pg_stat_activity), or PostgreSQL is away.
  What was deleted stays deleted. Clear it, or let the next night do it.
- `delete_reports`: PostgreSQL or the data's storage is away. Clear it, or let the next night do it.
- `delete_alerts`: PostgreSQL is away. Clear it, or let the next night do it.
- `delete_what_runs_left`: the disk or its rights are at fault; the message names the file. Mend it and clear the task.
- `catch_up`: PostgreSQL is away. Clear it, or let the next night do it.
- `settle`: PostgreSQL is away. Its own autovacuum comes later in any case.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, task

from include import settings
from include.orchestration import alerts, assets, dag_defaults, runs

PARAMS = dag_defaults.params_of(__file__)


def maintenance(models: dict[str, settings.Model], days: settings.Lifetimes) -> None:
    """The DAG of the nights."""
    keep_days = {name: model.serving.log.keep_days for name, model in models.items()}
    with DAG(
        dag_id="maintenance",
        dag_display_name="Maintenance",
        description="Partitions ahead, and nothing kept for longer than is declared",
        doc_md=dag_defaults.manual(__doc__),
        schedule=CronTriggerTimetable("20 0 * * *", timezone="UTC"),
        start_date=dag_defaults.EPOCH,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=dag_defaults.MAINTENANCE_TIMEOUT,
        params=dag_defaults.maintenance_form(),
        tags={dag_defaults.Tag.MAINTENANCE},
        default_args=dag_defaults.default_args("ml-engineering"),
        on_failure_callback=alerts.run_failed,
    ) as dag:

        @task
        def make_partitions(*, dag_run: Any = None) -> dict[str, Any]:
            from include import database
            from include.monitoring import predictions

            engine, today = database.connect(settings.environment().database_url), runs.today(dag_run)
            made = predictions.make_partitions(engine, today)
            return runs.result({"made": made}, f"{runs.span(made)} made")

        @task
        def delete_old(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from include import database
            from include.monitoring import predictions

            engine, today = database.connect(settings.environment().database_url), runs.today(dag_run)
            how = {"default": settings.Logged().keep_days, "dry_run": params["dry_run"]}
            done = predictions.retain(engine, keep_days, today, **how)
            return runs.result(done, ("would delete, " if params["dry_run"] else "deleted, ") + done.summary)

        @task
        def settle(*, dag_run: Any = None) -> dict[str, Any]:
            from include import database
            from include.monitoring import predictions

            engine, today = database.connect(settings.environment().database_url), runs.today(dag_run)
            days = predictions.settle(engine, today)
            return runs.result({"days": days}, f"{runs.span(days)} vacuumed")

        @task
        def delete_reports(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from include import database
            from include.monitoring import report

            env, today = settings.environment(), runs.today(dag_run)
            days = {name: model.monitoring.report_days for name, model in models.items()}
            how = {"default": settings.Monitoring().report_days, "dry_run": params["dry_run"]}
            gone = report.retain(database.connect(env.database_url), days, today, **how)
            return runs.result(
                {"reports": gone}, f"{len(gone)} drift reports {'would be ' if params['dry_run'] else ''}deleted"
            )

        @task
        def delete_alerts(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from include import database
            from include.alerting import table

            env, dry_run = settings.environment(), params["dry_run"]
            engine = database.connect(env.database_url)
            count = table.retain(engine, env.home, days.alert_days, dag_run.run_after, dry_run=dry_run)
            return runs.result({"alerts": count}, f"{count} alerts {'would be ' if dry_run else ''}deleted")

        @task
        def delete_what_runs_left(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from include.monitoring import lifetimes

            env, how = settings.environment(), {"now": dag_run.run_after.timestamp(), "dry_run": params["dry_run"]}
            gone = lifetimes.delete_what_runs_left(env.home, env.data_url, days.run_days, **how)
            return runs.result(gone, ("would delete " if params["dry_run"] else "deleted ") + gone.summary)

        @task(outlets=[assets.CAUGHT_UP])
        def catch_up(*, params: Any = None, outlet_events: Any = None) -> dict[str, Any]:
            from include.monitoring import catch_up as late

            env = settings.environment()
            found = late.behind(models, database_url=env.database_url)
            return runs.caught_up(found, outlet_events[assets.CAUGHT_UP], dry_run=params["dry_run"])

        make_partitions() >> delete_old() >> settle()
        delete_reports()
        delete_alerts()
        delete_what_runs_left()
        catch_up()
        dag_defaults.document_tasks(dag)


declared = dag_defaults.read_params(PARAMS)
maintenance(declared.models, declared.keep)
