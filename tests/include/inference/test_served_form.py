from __future__ import annotations

import json

import pytest

from include.inference import served_form
from include.inference.served_form import BadServedForm, seal, verify


@pytest.fixture
def form(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x01")
    (tmp_path / "golden.json").write_text('{"rows": [{"x": 1}]}')
    return seal(tmp_path, {"model": "m", "metrics": {"mae": 3.5}})


def test_a_sealed_form_is_verified_by_its_content_hash(form):
    found = verify(form.directory, form.content_hash)
    assert found == form
    assert found.manifest["model"] == "m"
    assert set(found.manifest["files"]) == {"golden.json", "model.onnx"}
    assert found.json("golden.json") == {"rows": [{"x": 1}]}


def test_the_same_content_has_the_same_hash_wherever_it_lies(form, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("model.onnx", "golden.json"):
        (other / name).write_bytes((form.directory / name).read_bytes())
    assert seal(other, {"metrics": {"mae": 3.5}, "model": "m"}).content_hash == form.content_hash


def test_other_content_has_another_hash(form):
    (form.directory / "golden.json").write_text("{}")
    assert seal(form.directory, {"model": "m", "metrics": {"mae": 3.5}}).content_hash != form.content_hash


@pytest.mark.parametrize("damage", [b"", b"\x08", b"\x08\x02", b"\x08\x01\x00"])
def test_a_truncated_or_changed_file_is_refused_by_name(form, damage):
    """Promise 31."""
    (form.directory / "model.onnx").write_bytes(damage)
    with pytest.raises(BadServedForm, match=r"model.onnx is corrupt"):
        verify(form.directory)


def test_a_missing_file_is_refused_by_name(form):
    (form.directory / "golden.json").unlink()
    with pytest.raises(BadServedForm, match=r"golden.json is missing"):
        verify(form.directory)


def test_a_file_that_nobody_sealed_is_refused(form):
    """Promise 32: nothing can be slipped in beside the model."""
    (form.directory / "model.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(BadServedForm, match=r"unknown file model.pkl"):
        verify(form.directory)


def test_a_form_sealed_with_other_content_is_not_the_recorded_one(form):
    with pytest.raises(BadServedForm, match="is not the recorded"):
        verify(form.directory, "0" * 64)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', "not json", "\x00"])
def test_a_manifest_that_cannot_be_read_is_refused(form, text):
    (form.directory / served_form.MANIFEST).write_text(text)
    with pytest.raises(BadServedForm, match=r"no readable manifest.json"):
        verify(form.directory)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(BadServedForm, match=r"no readable manifest.json"):
        verify(tmp_path)


def test_a_format_of_the_future_is_refused(form):
    manifest = json.loads((form.directory / served_form.MANIFEST).read_text())
    (form.directory / served_form.MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(BadServedForm, match="format 99; this program knows 1"):
        verify(form.directory)


def test_a_manifest_cannot_name_a_file_outside_of_its_folder(form):
    manifest = json.loads((form.directory / served_form.MANIFEST).read_text())
    manifest["files"]["../outside"] = "0" * 64
    (form.directory.parent / "outside").write_text("secret")
    (form.directory / served_form.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BadServedForm):
        verify(form.directory)


def test_a_metric_that_is_not_a_number_cannot_be_sealed(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal(tmp_path, {"metrics": {"mae": float("nan")}})
