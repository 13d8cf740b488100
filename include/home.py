"""The checkout, and MLOPS_HOME: every file and folder below it, each spelled here and nowhere else.

Standard library only: the service's launcher, which must start at once and stay small, imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, or the folder that `include` was packed into; other files move between folders, and ask here."""
DEFAULT = "var"
"""Below the checkout, where MLOPS_HOME does not say."""
IN_FORCE = "dags/in_force.json"
"""Below the platform's data, wherever that lies: the version of params.yaml and the DAG files that last loaded."""


def of(environment: Mapping[str, str], root: Path) -> Path:
    """The folder that MLOPS_HOME names, else `var` below the checkout at `root`; absolute."""
    return Path(environment.get("MLOPS_HOME") or root / DEFAULT).absolute()


@dataclass(frozen=True)
class Home:
    """The layout of MLOPS_HOME.

    Args:
        path: The folder itself.
    """

    path: Path

    # ------------------------------------------------------------------------------------------ the stack

    @property
    def stack_file(self) -> Path:
        """The stack's id and ports."""
        return self.path / "stack.json"

    @property
    def credentials(self) -> Path:
        """Passwords and keys; readable by the owner only."""
        return self.path / "credentials.env"

    @property
    def run(self) -> Path:
        """Sockets, locks and the supervisor's configuration."""
        return self.path / "run"

    @property
    def up_lock(self) -> Path:
        """Locked by the `mlops up` or `down` that is at work."""
        return self.run / "lock"

    @property
    def meant_to_run(self) -> Path:
        """There from `mlops up` to `mlops down`: meanwhile the guard replaces a supervisor that has died."""
        return self.run / "up"

    @property
    def trusted(self) -> Path:
        """The public certificates and the service's own, which no public authority need have signed."""
        return self.run / "trusted.pem"

    @property
    def mlflow_auth(self) -> Path:
        """The settings of MLflow's basic-auth app."""
        return self.run / "mlflow-auth.ini"

    @property
    def rollouts_beat(self) -> Path:
        """Touched by the rollout controller after each pass."""
        return self.run / "rollouts.beat"

    @property
    def versions(self) -> Path:
        """Each model's versions with their figures, for Airflow's forms; written by the rollout controller."""
        return self.run / "versions.json"

    @property
    def logs(self) -> Path:
        """A log for each part."""
        return self.path / "logs"

    def log(self, part: str) -> Path:
        """The log of one part of the stack."""
        return self.logs / f"{part}.log"

    @property
    def alerts(self) -> Path:
        """Alerts as lines of JSON."""
        return self.logs / "alerts.jsonl"

    @property
    def alert_channels(self) -> Path:
        """How far each channel has read `alerts`: <channel>.json, and <channel>.lock while it is served."""
        return self.logs / "alerts"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data directory."""
        return self.path / "postgres"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME."""
        return self.path / "airflow"

    @property
    def airflow_logs(self) -> Path:
        """What tasks, and the parsing of DAG files, wrote."""
        return self.airflow / "logs"

    @property
    def airflow_bundles(self) -> Path:
        """This machine's copies of the versions of the DAG files."""
        return self.airflow / "dag_bundles"

    @property
    def airflow_passwords(self) -> Path:
        """The users' passwords of Airflow's simple authentication."""
        return self.airflow / "passwords.json"

    @property
    def airflow_secrets(self) -> Path:
        """Airflow's airflow.cfg: its keys, and its database's address."""
        return self.airflow / "airflow.cfg"

    @property
    def mlflow(self) -> Path:
        """What MLflow's server stores outside PostgreSQL."""
        return self.path / "mlflow"

    @property
    def mlflow_artifacts(self) -> Path:
        """The artifacts of MLflow's runs."""
        return self.mlflow / "artifacts"

    @property
    def bentoml(self) -> Path:
        """BENTOML_HOME: the Bentos that were built."""
        return self.path / "bentoml"

    @property
    def folders_of_the_stack(self) -> tuple[Path, ...]:
        """What `mlops up` makes before anything starts."""
        return self.run, self.logs, self.airflow, self.mlflow, self.bentoml, self.data

    # ------------------------------------------------------------------------------------------ data and runs

    @property
    def data(self) -> Path:
        """Partitions, quarantine, reports and served forms, where MLOPS_DATA_URL does not name another place."""
        return self.path / "data"

    @property
    def dvc_remote(self) -> Path:
        """DVC's remote, where MLOPS_DVC_REMOTE_URL does not name another."""
        return self.path / "dvc" / "remote"

    @property
    def dvc_cache(self) -> Path:
        """DVC's cache, shared by all workspaces."""
        return self.path / "dvc" / "cache"

    @property
    def dvc_work(self) -> Path:
        """Private workspaces of DVC's runs."""
        return self.path / "dvc" / "work"

    def dvc_pending(self, model: str) -> Path:
        """The dvc.lock of a model's features that are not pushed yet."""
        return self.path / "dvc" / "pending" / f"{model}.lock"

    @property
    def all_runs(self) -> Path:
        """Scratch of all DAGs' runs."""
        return self.path / "runs"

    def runs(self, dag_id: str) -> Path:
        """Scratch of a DAG's runs, one folder each."""
        return self.all_runs / dag_id

    # ------------------------------------------------------------------------------------------ the service

    @property
    def serving(self) -> Path:
        """The service's own files, and its copies of served forms: <model>/<content hash>/."""
        return self.path / "serving"

    @property
    def serving_keys(self) -> Path:
        """The service's keys, as hashes."""
        return self.serving / "keys.json"

    @property
    def serving_bytecode(self) -> Path:
        """Python's compiled files, where the environment itself cannot be written."""
        return self.serving / "bytecode"

    def serving_run(self, port: int) -> Path:
        """Files of one start of the service: its workers' sockets and metrics."""
        return self.serving / "run" / str(port)

    @property
    def spool(self) -> Path:
        """The prediction log's local part, until PostgreSQL has it."""
        return self.path / "predictions"
