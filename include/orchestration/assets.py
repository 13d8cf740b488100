"""Every Asset, named once: the map of the flow.

    source
      ↓
    ingest_<source>    → validated(source)  → features_<model>
    features_<model>   → features(model)    → monitor_<model>
    features_<model>   → retraining(model)  → train_<model>
    monitor_<model>    → retraining(model)  → train_<model>
    train_<model>      → candidate(model)   → deploy_<model>
    deploy_<model>     → champion(model)    → the service, which follows the ledger

No DAG triggers another: each tells what it has made, and those that are scheduled on it run. The event's
`extra` carries what was made (a version, a run id, a reason), since a run that an asset starts has no logical
date. `features_<model>` asks for training only while there is no champion; afterwards `monitor_<model>` does,
with its reason.

In Airflow each success of a task emits the events of its assets. Here it emits those that the task has something to
say about (`runs.emit`), and no other (`ending`): `publish`, `verify`, `first_training` and `request_retraining` also
succeed when there was nothing to do, and start nothing then.

Airflow drops an event for a DAG that is paused when it arrives. It is made up for when the DAG is unpaused
(plugins/orchestration), and every night `maintenance` announces again what was not taken up: under the alias
`CAUGHT_UP`, any of validated, retraining and candidate.

Several events that arrive while the DAG behind an asset is at work start one run, not one each: thirty days
of backfill are not thirty trainings. Airflow tells that run of the first of them only, so every DAG works on
what is newest when it runs.
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

CAUGHT_UP = AssetAlias(name="caught_up", group="mlops")
"""What was made before and is announced again."""


def validated(source: str) -> Asset:
    """New partitions of `source` passed validation. Extra: `version`, `keys`, `rows`."""
    return Asset(name=f"validated.{source}", uri=f"mlops://validated/{source}", group="mlops")


def features(model: str) -> Asset:
    """A new version of the model's features was built and pushed whole. Extra: `version`, `rows`, `partitions`."""
    return Asset(name=f"features.{model}", uri=f"mlops://features/{model}", group="mlops")


def retraining(model: str) -> Asset:
    """Somebody asks for a training. Extra: `reason`, and the `features` version it was asked on."""
    return Asset(name=f"retraining.{model}", uri=f"mlops://retraining/{model}", group="mlops")


def candidate(model: str) -> Asset:
    """A version is registered, read back and hashed. Extra: `version`, `run_id`, `content_hash`, the metric."""
    return Asset(name=f"candidate.{model}", uri=f"mlops://candidate/{model}", group="mlops")


def champion(model: str) -> Asset:
    """The service reported the new version and answered its golden rows. Extra: `version`, `content_hash`."""
    return Asset(name=f"champion.{model}", uri=f"mlops://champion/{model}", group="mlops")
