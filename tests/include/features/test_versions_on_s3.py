"""DVC's remote and the partitions on a real S3-compatible server."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from include import storage
from include.features import versions
from tests.s3 import S3Server, s3_server  # noqa: F401

from .conftest import Place, day, trips

pytestmark = pytest.mark.slow


@pytest.fixture
def on_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:  # noqa: F811
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


def test_a_version_is_pushed_to_s3_whole_and_comes_back_on_another_machine(
    place: Place, on_s3: S3Server, tmp_path: Path
) -> None:
    """Promise 11: what S3 lost is pushed again; what it refuses is not recorded."""
    base = f"s3://{on_s3.bucket}/{tmp_path.name}"
    given = {"data_url": f"{base}/data", "remote_url": f"{base}/dvc"}
    for number in range(3):
        key = day(number)
        storage.write_table(storage.join(given["data_url"], "validated", "rides", f"{key}.parquet"), trips(key))
    os.environ["AWS_SECRET_ACCESS_KEY"] = "wrong"  # restored by the fixture's monkeypatch
    with pytest.raises((versions.FeatureVersionError, OSError)):
        place.build(**{**given, "data_url": str(place.data)})
    assert versions.latest(place.database_url, "ride") is None

    os.environ["AWS_SECRET_ACCESS_KEY"] = on_s3.secret
    made = place.build(**given)
    assert (made.rows, made.computed) == (150, []), "the refused build had computed all, and was resumed"
    lost = next(n for n in storage.list_files(given["remote_url"]) if not n.endswith(".dir"))
    storage.delete(storage.join(given["remote_url"], lost))
    assert place.build(**given).version == made.version
    into = versions.restore(
        "ride",
        made.version,
        tmp_path / "back",
        database_url=place.database_url,
        remote_url=given["remote_url"],
        home=tmp_path / "elsewhere",
    )
    assert [pq.read_metadata(file).num_rows for file in sorted(into.glob("*.parquet"))] == [50, 50, 50]
