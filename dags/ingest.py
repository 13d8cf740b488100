"""One DAG per source: a source's days become validated partitions.

**Makes** `validated/<source>/<day>.parquet`, one atomic file per day (of the source's `timezone`, by default
UTC), or a single one named `all` where the source has no time column; and the asset `validated(source)`, on which
`features_<model>` is scheduled.

**Runs** as the source's `schedule` in params.yaml says (02:00 UTC, for the day before), or once. By hand for
any range, from the form: `from`, `to`, `replace`. Many days with one run each, the first and the last day included:
`airflow backfill create --dag-id ingest_<source> --from-date 2018-01-01 --to-date 2018-01-31`. New, it is
paused until somebody unpauses it, here or by `make demo`, which asks for the history too. A rerun writes the same
bytes. Two runs of one source at once do not mix: each has its own staging folder, and publishing is serialised
by a lock in PostgreSQL.

**When a task fails**

- `check`: params.yaml names something that is not there. The message has the key, the line and the remedy.
  Nothing was run.
- `extract`: the source could not be read, after four tries. What was published before is untouched. Clear the
  task when the source is back.
- `validate`: a day was refused (a wrong column, too many bad rows, ten times the rows), or could not be
  validated at all. The reason is in the message and in the data docs, the rows are in `quarantine/<source>/`.
  The good days of the run are published all the same. Correct the source or the suite, then trigger a new run
  for the refused days.
- `publish`: clear it; it is idempotent.
- `outcome`: red when any task before it is, so that the run is red too.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, TriggerRule, task

from include import settings
from include.orchestration import alerts, assets, dag_defaults, ending, runs
from include.orchestration.timetable import DayTimetable

PARAMS = dag_defaults.params_of(__file__)


def ingest(name: str, source: settings.Source) -> None:
    """The DAG of one source."""
    with DAG(
        dag_id=f"ingest_{name}",
        dag_display_name=f"Ingest {name}",
        description=source.description or f"Days of {name}, extracted, validated, published",
        doc_md=dag_defaults.manual(__doc__, source.description, source=name),
        schedule=DayTimetable(source.cron, timezone="UTC") if source.cron else "@once",
        start_date=dag_defaults.midnight(source.start) or dag_defaults.EPOCH,
        catchup=source.catchup and source.start is not None,
        max_active_runs=1,
        is_paused_upon_creation=True,  # whoever unpauses it chooses the history first: `make demo` does both
        dagrun_timeout=dag_defaults.INGEST_TIMEOUT,
        params=dag_defaults.ingest_form(source),
        tags={dag_defaults.Tag.INGESTION, f"source:{name}"},
        default_args=dag_defaults.default_args(source.owner),
        on_failure_callback=alerts.run_failed,
    ) as dag:

        @task
        def check() -> dict[str, Any]:
            from include import preflight

            env = settings.environment()
            return runs.checked(preflight.check(PARAMS, suites=env.suites), f"sources.{name}")

        @task
        def extract(*, dag_run: Any = None, params: Any = None) -> dict[str, Any]:
            from include.ingestion import partitions

            env, keys = settings.environment(), partitions.keys_between(source, *runs.days(dag_run, params))
            where = {"data_url": env.data_url, "database_url": env.database_url, "run_id": dag_run.run_id}
            done = partitions.extract(name, source, keys, **where, replace=runs.replaces(dag_run, params))
            return runs.result(
                done, f"{sum(done.rows.values()):,} rows of {runs.span(done.keys)}; {len(done.skipped)} kept"
            )

        @task
        def validate(extracted: dict[str, Any], *, dag_run: Any = None, ti: Any = None) -> dict[str, Any]:
            from include.ingestion import validation

            env, today = settings.environment(), runs.today(dag_run, source.timezone)
            where = {"data_url": env.data_url, "database_url": env.database_url, "run_id": dag_run.run_id}
            suite = env.suites / f"{source.suite or name}.json"
            done = validation.validate(name, source, extracted["keys"], **where, suite_path=suite, today=today)
            return runs.validated(done, ti, env.data_url)

        @task(outlets=[assets.validated(name)], trigger_rule=TriggerRule.ALL_DONE)
        def publish(
            validated: dict[str, Any] | None, *, dag_run: Any = None, outlet_events: Any = None
        ) -> dict[str, Any]:
            from include.ingestion import partitions

            if not validated or not validated["accepted"]:
                return runs.unpublished(validated)
            env, keys = settings.environment(), validated["accepted"]
            where = {"data_url": env.data_url, "database_url": env.database_url, "run_id": dag_run.run_id}
            done = partitions.publish(name, keys, **where)
            answer = runs.result(
                done, f"{done.rows:,} rows of {runs.span(keys)} published; {name} is at version {done.version}"
            )
            return runs.emit(outlet_events, assets.validated(name), answer)

        @task(trigger_rule=TriggerRule.ALL_DONE, retries=0, on_failure_callback=ending.failed_again)
        def outcome(*, ti: Any = None) -> dict[str, Any]:
            return runs.outcome(ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id])

        checked = check()
        extracted = extract()
        validated = runs.link(validate(extracted), docs="Data docs", even_when_red=True)
        published = publish(validated)
        checked >> extracted
        [checked, extracted, validated, published] >> outcome()
        dag_defaults.document_tasks(dag)


for source_name, source_entry in dag_defaults.sources(dag_defaults.read_params(PARAMS)):
    ingest(source_name, source_entry)
