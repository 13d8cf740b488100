"""Following the champions: swaps, and everything that must not swap."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from include import database, storage
from include.deployment import withdrawal
from include.inference import served_form
from include.serving.control.reconciler import Reconciler
from include.serving.metrics.prometheus import Metrics
from include.serving.versions import disk_cache as followed
from include.serving.versions.disk_cache import fetch
from include.serving.versions.version import Champion
from tests.conftest import administering
from tests.include.serving.crafted import Crafted, champion_of, constant_graph, craft, promote
from tests.waiting import until

UNREACHABLE = "postgresql+psycopg2://postgres@127.0.0.1:9/none"


def models_of(database_url: str, copies: Path, registry: CollectorRegistry | None = None) -> Reconciler:
    return Reconciler(
        Metrics(registry or CollectorRegistry()),
        database_url=database_url,
        copies=copies,
        default="trips",
        poll_seconds=0.05,
    )


@contextmanager
def running(models: Reconciler) -> Iterator[Reconciler]:
    models.start()
    try:
        yield models
    finally:
        models.stop()


def version_of(models: Reconciler) -> int | None:
    loaded = models.get("trips")
    return loaded.version if loaded else None


def test_it_follows_the_champion_by_itself(database_url: str, tmp_path: Path) -> None:
    first, second = craft(tmp_path / "1"), craft(tmp_path / "2", scale=2)
    with running(models_of(database_url, tmp_path / "copies")) as models:
        until(lambda: "no champion was promoted yet" in (models.not_ready or ""))
        promote(database_url, champion_of(first, 1))
        until(lambda: version_of(models) == 1)
        assert models.status == "ok"
        promote(database_url, champion_of(second, 2))
        until(lambda: version_of(models) == 2)
        [entry] = models.describe()
        assert (entry["version"], entry["content_hash"], entry["refused"]) == (2, second.form.content_hash, None)


def test_a_rollback_to_the_same_content_needs_no_download(database_url: str, tmp_path: Path) -> None:
    crafted = craft(tmp_path / "1")
    with running(models_of(database_url, tmp_path / "copies")) as models:
        promote(database_url, champion_of(crafted, 1))
        until(lambda: version_of(models) == 1)
        promote(database_url, champion_of(crafted, 3, url=str(tmp_path / "nowhere")))
        until(lambda: version_of(models) == 3)
        assert models.status == "ok"


def test_a_retired_model_answers_no_more_and_neither_after_a_start_without_a_database(
    database_url: str, tmp_path: Path
) -> None:
    engine = database.connect(database_url)
    with running(models_of(database_url, tmp_path / "copies")) as models:
        promote(database_url, champion_of(craft(tmp_path / "1"), 1))
        until(lambda: version_of(models) == 1)
        withdrawal.retire(engine, "trips", actor="ann", reason="the shop was closed")
        until(lambda: version_of(models) is None)
        assert models.describe() == []
        assert models.not_ready == "every model was retired; `mlops rollback` brings one back"
    with running(models_of(UNREACHABLE, tmp_path / "copies")) as without:
        assert version_of(without) is None
    with running(models_of(database_url, tmp_path / "copies")) as again:
        withdrawal.withdraw(engine, "trips", 1, actor="ann", reason="it is open again")
        until(lambda: version_of(again) == 1)
        with engine.begin() as connection:  # a database that was set back has no row, and nobody retired anything
            connection.execute(sa.delete(database.champions))
        until(lambda: not again._state.desired.champions)
        assert version_of(again) == 1
    engine.dispose()


def damage_truncated(crafted: Crafted) -> str:
    file = crafted.form.directory / "model.onnx"
    file.write_bytes(file.read_bytes()[:-10])
    return crafted.form.content_hash


def damage_corrupt(crafted: Crafted) -> str:
    file = crafted.form.directory / "preprocessing.json"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return crafted.form.content_hash


def damage_other_hash(crafted: Crafted) -> str:
    return "0" * 64


def damage_missing(crafted: Crafted) -> str:
    (crafted.form.directory / "golden.json").unlink()
    return crafted.form.content_hash


@pytest.mark.parametrize("damage", [damage_truncated, damage_corrupt, damage_other_hash, damage_missing])
def test_a_damaged_form_is_refused_and_the_old_model_goes_on(
    database_url: str, tmp_path: Path, damage: Callable[[Crafted], str]
) -> None:
    """Promises 31 and I4: it is said in /models, in the metrics and in the health."""
    registry = CollectorRegistry()
    with running(models_of(database_url, tmp_path / "copies", registry)) as models:
        promote(database_url, champion_of(craft(tmp_path / "1"), 1))
        until(lambda: version_of(models) == 1)
        bad = craft(tmp_path / "2", scale=2)
        champion = champion_of(bad, 2)
        promote(database_url, Champion(**{**champion.__dict__, "content_hash": damage(bad)}))
        until(lambda: models.describe()[0]["refused"])
        assert version_of(models) == 1
        assert models.describe()[0]["refused"]["version"] == 2
        assert models.status == "degraded"
        assert any("version 2 was not swapped in" in problem for problem in models.problems())
        assert registry.get_sample_value("mlops_serving_model_behind", {"model": "trips"}) == 1
        assert registry.get_sample_value("mlops_serving_refused_versions_total", {"model": "trips"}) >= 1
        promote(database_url, champion_of(craft(tmp_path / "3", scale=3), 3))
        until(lambda: version_of(models) == 3)
        assert models.status == "ok"
        assert registry.get_sample_value("mlops_serving_model_behind", {"model": "trips"}) == 0


@pytest.mark.parametrize("value", [float("nan"), 4.0])
def test_a_model_that_does_not_reproduce_its_golden_rows_is_refused(
    database_url: str, tmp_path: Path, value: float
) -> None:
    """Promise 33."""
    right = craft(tmp_path / "1")
    with running(models_of(database_url, tmp_path / "copies")) as models:
        promote(database_url, champion_of(right, 1))
        until(lambda: version_of(models) == 1)
        bad = craft(tmp_path / "2", graph=constant_graph(right.weights.shape[0], value))
        promote(database_url, champion_of(bad, 2))
        until(lambda: models.describe()[0]["refused"])
        assert "golden" in models.describe()[0]["refused"]["reason"]
        assert version_of(models) == 1


def test_a_refused_version_is_tried_again_and_taken_once_it_is_whole(database_url: str, tmp_path: Path) -> None:
    """I4 and I5: a form that was published in halves needs no new promotion."""
    crafted = craft(tmp_path / "1")
    file = crafted.form.directory / "model.onnx"
    whole = file.read_bytes()
    with running(models_of(database_url, tmp_path / "copies")) as models:
        file.unlink()
        promote(database_url, champion_of(crafted, 1))
        until(lambda: models.describe() and models.describe()[0]["refused"])
        assert "model.onnx: there is no such file" in models.describe()[0]["refused"]["reason"]
        assert "no champion could be loaded" in str(models.not_ready)
        file.write_bytes(whole)
        until(lambda: version_of(models) == 1)
        assert models.status == "ok"


def test_the_database_may_go_and_come_back_while_it_answers(
    database_url: str, postgres_url: str, template_database: str, tmp_path: Path
) -> None:
    """Promise 30 and I4, in mid-flight: connections are cut and the database is gone, and then there again."""
    import sqlalchemy as sa

    name = sa.make_url(database_url).database
    first, second = craft(tmp_path / "1"), craft(tmp_path / "2", scale=2)
    with running(models_of(database_url, tmp_path / "copies")) as models, administering(postgres_url) as execute:
        promote(database_url, champion_of(first, 1))
        until(lambda: version_of(models) == 1)
        execute(f"drop database {name} with (force)")
        until(lambda: models.status == "degraded")
        assert version_of(models) == 1
        execute(f"create database {name} template {template_database}")
        until(lambda: models.status == "ok")
        assert version_of(models) == 1
        promote(database_url, champion_of(second, 2))
        until(lambda: version_of(models) == 2)


def test_a_form_of_another_model_is_refused(database_url: str, tmp_path: Path) -> None:
    with running(models_of(database_url, tmp_path / "copies")) as models:
        champion = champion_of(craft(tmp_path / "1", model="other"), 1)
        promote(database_url, Champion(**{**champion.__dict__, "model": "trips"}))
        until(lambda: models.describe() and models.describe()[0]["refused"])
        assert "form of other" in models.describe()[0]["refused"]["reason"]
        assert models.status == "unavailable"


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_beside_the_form_is_neither_fetched_nor_read(database_url: str, tmp_path: Path) -> None:
    """Promise 32."""
    marker = tmp_path / "ran"
    crafted = craft(tmp_path / "1")
    (crafted.form.directory / "model.pkl").write_bytes(pickle.dumps(_Payload(marker)))
    with running(models_of(database_url, tmp_path / "copies")) as models:
        promote(database_url, champion_of(crafted, 1))
        until(lambda: version_of(models) == 1)
    copy = tmp_path / "copies" / "trips" / crafted.form.content_hash
    assert "model.pkl" not in {p.name for p in copy.iterdir()}
    assert not marker.exists()


def test_it_starts_from_the_last_good_copy_while_everything_behind_it_is_down(
    database_url: str, tmp_path: Path
) -> None:
    """Promise 30: database and object store are gone."""
    crafted = craft(tmp_path / "1")
    with running(models_of(database_url, tmp_path / "copies")) as models:
        promote(database_url, champion_of(crafted, 1))
        until(lambda: version_of(models) == 1)
    storage.delete(str(crafted.form.directory))
    with running(models_of(UNREACHABLE, tmp_path / "copies")) as again:
        assert version_of(again) == 1
        until(lambda: "refused" in " ".join(again.problems()))
        assert again.status == "degraded"
        assert again.not_ready is None
        assert again.describe()[0]["origin"] == "last good copy"


def test_with_the_database_down_and_no_copy_it_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    """Promise 30."""
    with running(models_of(UNREACHABLE, tmp_path / "copies")) as models:
        until(lambda: models.problems())
        assert models.status == "unavailable"
        assert models.not_ready == "the ledger in PostgreSQL cannot be read, and there is no last good copy of a model"


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"model": "trips"}]', '[{"model": 1, "wrong": 2}]'])
def test_a_damaged_list_of_copies_does_not_keep_it_from_starting(tmp_path: Path, text: str) -> None:
    (tmp_path / "champions.json").write_text(text)
    with running(models_of(UNREACHABLE, tmp_path)) as models:
        assert models.status == "unavailable"


def test_a_damaged_copy_is_fetched_again(database_url: str, tmp_path: Path) -> None:
    """Promise 31, on the local disk: the wrong bytes never answer."""
    crafted = craft(tmp_path / "1")
    promote(database_url, champion_of(crafted, 1))
    with running(models_of(database_url, tmp_path / "copies")) as models:
        until(lambda: version_of(models) == 1)
    copy = tmp_path / "copies" / "trips" / crafted.form.content_hash / "model.onnx"
    copy.write_bytes(b"x")
    with running(models_of(database_url, tmp_path / "copies")) as again:
        until(lambda: version_of(again) == 1)
        assert again.describe()[0]["origin"] == "ledger"
    assert copy.read_bytes() == (crafted.form.directory / "model.onnx").read_bytes()


def test_only_the_newest_copies_are_kept(database_url: str, tmp_path: Path) -> None:
    with running(models_of(database_url, tmp_path / "copies")) as models:
        for version in range(1, 5):
            promote(database_url, champion_of(craft(tmp_path / str(version), scale=version), version))
            until(lambda: version_of(models) == version)
    kept = [p.name for p in (tmp_path / "copies" / "trips").iterdir()]
    assert len(kept) == followed.MAXIMUM_COPIES


def test_a_manifest_that_names_a_file_outside_is_refused(tmp_path: Path) -> None:
    import hashlib

    raw = json.dumps({"format": 1, "files": {"../escaped": "0" * 64}}).encode()
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "manifest.json").write_bytes(raw)
    with pytest.raises(served_form.BadServedForm, match="outside its folder"):
        fetch(str(tmp_path / "evil"), tmp_path / "copy" / "x", hashlib.sha256(raw).hexdigest())
    assert not (tmp_path / "copy").exists()


def test_without_a_ledger_the_bundled_model_answers(tmp_path: Path) -> None:
    crafted = craft(tmp_path / "1")
    followed.write_bundle(tmp_path / "served", crafted.form, champion_of(crafted, 7))
    models = Reconciler(Metrics(CollectorRegistry()), bundled=tmp_path / "served")
    with running(models):
        assert version_of(models) == 7
        assert (models.status, models.default) == ("ok", "trips")
