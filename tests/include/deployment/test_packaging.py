"""Publishing a served form, and building a Bento that answers by itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from include.deployment import packaging
from include.deployment.packaging import PackagingError, package, pinned, publish
from include.deployment.verification import verify
from include.inference import served_form
from include.source_files import imported_modules
from tests.conftest import ROOT, free_port
from tests.include.serving.crafted import craft


def test_a_form_is_published_once_under_its_hash(tmp_path: Path) -> None:
    form = craft(tmp_path / "form").form
    url = publish(form, model="trips", data_url=str(tmp_path / "data"))
    assert url == f"{tmp_path}/data/served/trips/{form.content_hash}"
    served_form.verify(Path(url), form.content_hash)
    written = {p: p.stat().st_mtime_ns for p in Path(url).iterdir()}
    assert publish(form, model="trips", data_url=str(tmp_path / "data")) == url
    assert {p: p.stat().st_mtime_ns for p in Path(url).iterdir()} == written


def test_a_half_published_form_is_completed(tmp_path: Path) -> None:
    form = craft(tmp_path / "form").form
    url = Path(publish(form, model="trips", data_url=str(tmp_path / "data")))
    (url / "manifest.json").unlink()
    (url / "model.onnx").write_bytes(b"half")
    publish(form, model="trips", data_url=str(tmp_path / "data"))
    served_form.verify(url, form.content_hash)


def test_the_bento_gets_the_modules_that_the_service_imports_and_no_others() -> None:
    names = {p.relative_to(ROOT).as_posix() for p in imported_modules(ROOT / packaging.SERVICE, ROOT)}
    assert {"include/__init__.py", "include/serving/http/application.py", "include/features/feature_set.py"} <= names
    assert not {
        name for name in names if name.startswith(("include/training", "include/ingestion", "include/database"))
    }


@pytest.mark.parametrize("package", ["serving/http/endpoints", "features/transforms", "strategies"])
def test_the_bento_gets_all_files_of_a_package_that_finds_them_by_name(package: str) -> None:
    files = set((ROOT / "include" / package).glob("*.py"))
    assert len(files) > 3
    assert files <= set(imported_modules(ROOT / packaging.SERVICE, ROOT))


def test_requirements_are_pinned_whole_for_this_python(tmp_path: Path) -> None:
    pins = pinned(packaging.REQUIREMENTS, (ROOT / "requirements.txt").read_text())
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    assert {"bentoml", "numpy", "onnxruntime", "starlette", "protobuf"} <= set(names)
    assert {"httptools", "uvloop"} <= set(names), "uvicorn would fall back on what is slower"
    assert not {"pandas", "scikit-learn", "mlflow", "apache-airflow", "sqlalchemy"} & set(names)


def test_a_missing_requirement_is_named() -> None:
    with pytest.raises(PackagingError, match="numpy is needed to serve"):
        pinned(["numpy"], "bentoml==1.4.39 \\\n    --hash=sha256:00\n")


def test_a_failed_build_says_what_bentoml_said(tmp_path: Path) -> None:
    form = craft(tmp_path / "form").form
    root = tmp_path / "root"
    for name in (packaging.SERVICE, packaging.BENTOFILE, "requirements.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / packaging.SERVICE).write_text("raise RuntimeError('a broken service')\n")
    with pytest.raises(PackagingError, match="a broken service"):
        package(
            form, model="trips", version=3, data_url=str(tmp_path / "data"), bento_home=tmp_path / "bento", root=root
        )


@pytest.mark.slow
def test_a_bento_answers_its_golden_rows_by_itself(tmp_path: Path) -> None:
    """Built from a form, then served without a checkout, a database or the published form."""
    form = craft(tmp_path / "form", task="binary").form
    arguments: dict[str, Any] = {
        "model": "trips",
        "version": 3,
        "data_url": str(tmp_path / "data"),
        "bento_home": tmp_path / "bento",
    }
    packaged = package(form, root=ROOT, **arguments)
    assert packaged.bento == f"prediction-trips:3-{form.content_hash[:8]}"
    assert packaged.content_hash == form.content_hash
    bento = tmp_path / "bento" / "bentos" / "prediction-trips" / f"3-{form.content_hash[:8]}"
    before = hashlib.sha256((bento / "bento.yaml").read_bytes()).hexdigest()
    again = package(form, root=ROOT, **arguments)
    assert (again.bento, again.url) == (packaged.bento, packaged.url)
    assert hashlib.sha256((bento / "bento.yaml").read_bytes()).hexdigest() == before

    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "PYTHONPATH"))}
    environment |= {
        "BENTOML_HOME": str(tmp_path / "bento"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MLOPS_SERVING_KEY": "secret",
    }
    command = [sys.executable, "-m", "bentoml", "serve", packaged.bento, "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        golden = form.json("golden.json")
        verified = verify("trips", 3, serving_url=url, serving_key="secret", golden=golden, timeout=60)
        assert verified.rows == len(golden["rows"])
        [entry] = httpx.get(f"{url}/models", headers={"Authorization": "Bearer secret"}).json()["models"]
        assert (entry["origin"], entry["bento"]) == ("bento", packaged.bento)
        process.terminate()
        states = set()  # by BentoML's own supervisor, too, it drains before it ends
        with contextlib.suppress(httpx.TransportError):
            while process.poll() is None:
                states.add(httpx.get(f"{url}/readyz", timeout=2).status_code)
        assert states >= {503}
        assert process.wait(20) == 0, (tmp_path / "log").read_text()[-2000:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
