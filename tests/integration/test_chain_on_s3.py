"""The same chain with everything on S3: source, partitions, DVC's remote, MLflow's artifacts, served form."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from include import storage
from include.features import versions
from include.ingestion import suites
from tests.conftest import mlflow_server
from tests.integration.chain import Platform
from tests.s3 import S3Server, s3_server  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARAMS = """
sources:
  customers: {{type: files, path: "s3://test/input/customers.csv.gz", endpoint_url: "{endpoint}"}}
models:
  churn:
    source: customers
    target: churned
    task: binary
    estimators: [linear]
    tuning: {{trials: 1}}
"""


@pytest.fixture
def mlflow_on_s3(s3_server: S3Server, tmp_path: Path) -> Iterator[str]:  # noqa: F811
    environment = {**s3_server.environment, "MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint_url}
    with mlflow_server(tmp_path, "s3://test/mlflow", environment) as url:
        yield url


def write_customers(path: Path, rows: int = 800) -> None:
    chance = random.Random(4)
    lines = ["age,plan,fee,churned"]
    for _ in range(rows):
        age, plan = chance.randint(18, 80), chance.choice(["basic", "plus"])
        fee = "" if chance.random() < 0.1 else f"{chance.gauss(20, 5):.2f}"
        leaves = chance.random() < (0.8 if plan == "basic" and age < 40 else 0.2)
        lines.append(f"{age},{plan},{fee},{'yes' if leaves else 'no'}")
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def test_a_model_goes_from_s3_to_a_champion_on_s3_and_its_training_data_comes_back(
    s3_server: S3Server,  # noqa: F811
    mlflow_on_s3: str,
    database_url: str,
    optuna_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    local = tmp_path / "customers.csv.gz"
    write_customers(local)
    client.upload_file(str(local), "test", "input/customers.csv.gz")
    (tmp_path / "params.yaml").write_text(PARAMS.format(endpoint=s3_server.endpoint_url))
    (tmp_path / "suites").mkdir()
    proposed = suites.propose_suite("customers", csv.read_csv(local))
    (tmp_path / "suites" / "customers.json").write_text(json.dumps(proposed))
    platform = Platform(
        params_path=tmp_path / "params.yaml",
        home=tmp_path / "var",
        data_url="s3://test/data",
        remote_url="s3://test/dvc",
        database_url=database_url,
        optuna_url=optuna_url,
        mlflow_url=mlflow_on_s3,
        suites=tmp_path / "suites",
    )

    assert platform.ingest("customers").rejected == {}
    built = platform.build("churn")
    candidate = platform.train("churn")
    champion = platform.deploy(candidate)

    assert champion.url.startswith("s3://test/data/served/churn/")
    assert storage.list_files("s3://test/data/validated/customers") == ["all.parquet"]
    assert "manifest.json" in storage.list_files(champion.url)
    assert client.list_objects_v2(Bucket="test", Prefix="dvc/")["KeyCount"] > 0
    assert client.list_objects_v2(Bucket="test", Prefix="mlflow/")["KeyCount"] > 0
    back = versions.restore(
        "churn",
        built.version,
        tmp_path / "back",
        database_url=database_url,
        remote_url="s3://test/dvc",
        home=tmp_path / "another_machine",
    )
    assert pq.read_table(back / "all.parquet").num_rows == built.rows
