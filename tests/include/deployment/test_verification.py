"""Asking a running service whether it answers with a version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from include.deployment import verification
from include.deployment.verification import NotServed, verify
from include.serving.control.reconciler import Reconciler
from include.serving.metrics.prometheus import Metrics
from include.serving.versions.disk_cache import write_bundle
from include.serving.versions.loader import Loaded
from tests.conftest import free_port
from tests.include.serving.crafted import champion_of, craft
from tests.include.serving.http.test_application import around
from tests.waiting import until


@contextmanager
def serving(folder: Path | None) -> Iterator[tuple[str, Reconciler]]:
    metrics = Metrics(CollectorRegistry())
    models = Reconciler(metrics, bundled=folder)
    models.start()
    port = free_port()
    config = uvicorn.Config(around(models, metrics), port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, unless=lambda: not thread.is_alive())
    yield f"http://127.0.0.1:{port}", models
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_a_served_version_answers_its_golden_rows(tmp_path: Path, task: str) -> None:
    crafted = craft(tmp_path / "form", task=task)
    write_bundle(tmp_path / "served", crafted.form, champion_of(crafted, 7))
    with serving(tmp_path / "served") as (url, _):
        golden = crafted.form.json("golden.json")
        verified = verify("trips", 7, serving_url=url, serving_key="secret", golden=golden, timeout=1)
        assert verified.rows == 12


def test_another_version_is_reported_with_what_the_service_says(tmp_path: Path) -> None:
    crafted = craft(tmp_path / "form")
    write_bundle(tmp_path / "served", crafted.form, champion_of(crafted, 7))
    with (
        serving(tmp_path / "served") as (url, _),
        pytest.raises(NotServed, match="version 8 is not served: version 7 of it"),
    ):
        verify("trips", 8, serving_url=url, serving_key="secret", golden={}, timeout=0.3)


def test_it_waits_for_the_version(tmp_path: Path) -> None:
    crafted = craft(tmp_path / "form")
    champion = champion_of(crafted, 7)
    write_bundle(tmp_path / "served", crafted.form, champion)
    with serving(tmp_path / "served") as (url, models):
        loaded = models.get("trips")
        assert loaded
        newer = Loaded(replace(loaded.served, version=8), loaded.loaded_model, "ledger")
        threading.Timer(0.6, lambda: models._routes.combine({"trips": newer}, [])).start()
        golden = crafted.form.json("golden.json")
        verified = verify("trips", 8, serving_url=url, serving_key="secret", golden=golden, timeout=10)
        assert verified.seconds >= 0.5


def test_other_answers_than_the_golden_ones_are_an_error(tmp_path: Path) -> None:
    crafted = craft(tmp_path / "form")
    write_bundle(tmp_path / "served", crafted.form, champion_of(crafted, 7))
    golden = crafted.form.json("golden.json")
    golden["expected"][4] *= 1.001
    with serving(tmp_path / "served") as (url, _), pytest.raises(NotServed, match="golden row 4"):
        verify("trips", 7, serving_url=url, serving_key="secret", golden=golden, timeout=1)


def test_a_wrong_key_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(None) as (url, _):
        monkeypatch.setattr(verification, "POLL_SECONDS", -1)  # a pause is an error
        with pytest.raises(NotServed, match="refuses our key"):
            verify("trips", 7, serving_url=url, serving_key="other", golden={}, timeout=30)


def test_a_service_that_is_not_there_or_holds_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotServed, match="cannot be reached"):
        verify("trips", 7, serving_url=f"http://127.0.0.1:{free_port()}", serving_key="x", golden={}, timeout=0.3)
    with serving(None) as (url, _), pytest.raises(NotServed, match="no model is packed"):
        verify("trips", 7, serving_url=url, serving_key="secret", golden={}, timeout=0.3)
